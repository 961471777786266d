use std::fmt;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use taper_hooks::Pass;
use taper_kernels::{Activation, Conv2dGeometry, Error, max_pool2d};

use crate::action::add;
use crate::l1::penalised;
use crate::mlp::sizes;
use crate::{Act, Conv2d, Conv2dConfig, Dropout, Init, Layer, Layers, Link, Mlp, MlpConfig, Model};

/// Sizes and choices of a [`Cnn`].
#[derive(Clone, Debug, PartialEq)]
pub struct CnnConfig {
    /// Channels, height and width of an image.
    pub input: (usize, usize, usize),
    /// Feature maps of every convolution.
    pub channels: Vec<usize>,
    /// Side of the kernels, in pixels; no padding.
    pub kernel: usize,
    /// Side of the pooling window after the last convolution, in pixels; 1 for no pooling.
    pub pool: usize,
    /// Units of every hidden fully connected layer.
    pub widths: Vec<usize>,
    /// Logits.
    pub classes: usize,
    /// The activation after every convolution and hidden layer.
    pub activation: Activation,
    /// The initialisation of the weights; `None` chooses by the activation.
    pub init: Option<Init>,
    /// Dropout rate after pooling and every hidden layer, in `[0, 1)`.
    pub dropout: f64,
    /// λ of an [L1 penalty](crate::l1()) on the activations of every convolution and hidden layer, at least 0.
    pub l1: f64,
}

impl Default for CnnConfig {
    /// For MNIST: two 3×3 convolutions to 32 and 64 maps, 2×2 max-pooling, 128 hidden units; ReLU, no dropout.
    fn default() -> Self {
        Self {
            input: (1, 28, 28),
            channels: vec![32, 64],
            kernel: 3,
            pool: 2,
            widths: vec![128],
            classes: 10,
            activation: Activation::Relu,
            init: None,
            dropout: 0.0,
            l1: 0.0,
        }
    }
}

impl CnnConfig {
    /// The network as text without dropout, which evaluation leaves out: `conv 3, relu, max_pool 2, linear, relu, linear`.
    pub fn layers(&self) -> Layers {
        let conv = Layer::Conv { kernel: (self.kernel, self.kernel), geometry: Conv2dGeometry::default() };
        let act = Layer::Act(self.activation);
        let mut layers = [conv, act].repeat(self.channels.len());
        if self.pool > 1 {
            layers.push(Layer::MaxPool { window: self.pool, stride: self.pool });
        }
        layers.extend([Layer::Linear, act].repeat(self.widths.len()));
        layers.push(Layer::Linear);
        Layers(layers)
    }
}

/// The model with its sizes: `cnn 32-64-pool-128-10`, where `pool` is 2×2; other kernels than 3×3 are written last.
impl fmt::Display for CnnConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, classes, .. } = self;
        let pool = if self.pool == 2 { String::new() } else { self.pool.to_string() };
        write!(f, "cnn {}pool{pool}-{}{classes}", sizes(&self.channels), sizes(&self.widths))?;
        if *kernel == 3 { Ok(()) } else { write!(f, ", kernels {kernel}×{kernel}") }
    }
}

/// A small convolutional network: `conv1`, activation, `conv2`, activation, max-pooling, dropout, and an
/// [`Mlp`] on top.
///
/// # Shapes
/// Images `(N, C, H, W)` with `(C, H, W) = input`; the result is `(N, classes)`.
#[derive(Clone, Debug)]
pub struct Cnn {
    convolutions: Vec<(Conv2d, Act)>,
    pool: usize,
    dropout: Dropout,
    top: Mlp,
    links: Vec<Link>,
}

impl Cnn {
    /// A network with parameters `conv1.weight`, …, `fc1.weight`, … under `vb`'s prefix and a site with the same name
    /// after every convolution and hidden layer.
    ///
    /// # Errors
    /// When a size is 0, the kernels or the pooling window do not fit the image, the dropout rate is outside
    /// `[0, 1)`, or `l1` is negative or not finite.
    pub fn new(config: &CnnConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let init = config.init.unwrap_or(Init::of(config.activation));
        let (mut maps, mut h, mut w) = config.input;
        let (mut convolutions, mut links) = (Vec::new(), Vec::<Link>::new());
        let name = |kind: &str, i: usize| vb.pp(format!("{kind}{}", i + 1)).prefix();
        for (i, &channels) in config.channels.iter().enumerate() {
            let kernel = config.kernel;
            // Checked before any weight is made: kernels that do not fit the image may not fit into memory either.
            if h < kernel || w < kernel {
                return too_small(format!(
                    "conv{}: kernels of {kernel}×{kernel} do not fit an input of {h}×{w}",
                    i + 1
                ));
            }
            let vb = vb.pp(format!("conv{}", i + 1));
            let conv = Conv2d::new(
                maps,
                channels,
                Conv2dConfig { kernel: (kernel, kernel), init, ..Default::default() },
                vb.clone(),
            )?;
            convolutions.push((conv, penalised(Act::new(config.activation, vb)?, config.l1)?));
            links.push(Link::new(&name("conv", i), channels, init, &name("conv", i + 1)));
            maps = channels;
            (h, w) = (h - kernel + 1, w - kernel + 1);
        }
        if config.pool == 0 {
            let message =
                "pooling: expected a window of at least 1×1, found 0×0: use 1 for no pooling".to_string();
            return Err(Error::Argument(message).into());
        }
        if h < config.pool || w < config.pool {
            return too_small(format!(
                "pooling: a window of {p}×{p} does not fit an input of {h}×{w}",
                p = config.pool
            ));
        }
        let top = MlpConfig {
            inputs: maps * (h / config.pool) * (w / config.pool),
            widths: config.widths.clone(),
            classes: config.classes,
            activation: config.activation,
            init: config.init,
            dropout: config.dropout,
            l1: config.l1,
        };
        if let Some(last) = links.last_mut() {
            let columns = (h / config.pool) * (w / config.pool);
            *last = Link { columns, ..Link::new(&last.site, maps, init, &name("fc", 0)) };
        }
        let top = Mlp::new(&top, vb)?;
        links.extend_from_slice(top.links());
        Ok(Self {
            convolutions,
            pool: config.pool,
            dropout: Dropout::matching(config.activation, config.dropout)?,
            top,
            links,
        })
    }

    /// [`Act::then`] at the site of a convolution or hidden layer.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn then(
        mut self,
        site: &str,
        action: impl Fn(&mut Pass<'_>, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Self> {
        let acts = self.convolutions.iter_mut().map(|(_, act)| act).chain(self.top.acts());
        add(acts, site, action)?;
        Ok(self)
    }
}

fn too_small<T>(message: String) -> Result<T> {
    Err(Error::Argument(message + ": use fewer or smaller ones").into())
}

impl Model for Cnn {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.clone();
        for (conv, act) in &self.convolutions {
            xs = conv.forward_act(pass, &xs, act)?;
        }
        let xs = max_pool2d(&xs, (self.pool, self.pool), (self.pool, self.pool))?;
        let xs = self.dropout.forward(pass, &xs)?;
        self.top.forward(pass, &xs)
    }

    fn links(&self) -> &[Link] {
        &self.links
    }
}
