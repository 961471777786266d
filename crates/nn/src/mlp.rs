use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use taper_hooks::Pass;
use taper_kernels::Activation;

use crate::link::unknown_site;
use crate::{Act, Dropout, Init, Layer, Layers, Linear, Link, Model};

/// Sizes and choices of an [`Mlp`].
#[derive(Clone, Debug, PartialEq)]
pub struct MlpConfig {
    /// Input features: pixels × channels of an image.
    pub inputs: usize,
    /// Units of every hidden layer; none makes softmax regression.
    pub widths: Vec<usize>,
    /// Logits.
    pub classes: usize,
    /// The activation after every hidden layer.
    pub activation: Activation,
    /// The initialisation of the weights; `None` chooses by the activation.
    pub init: Option<Init>,
    /// Dropout rate after every hidden layer, in `[0, 1)`.
    pub dropout: f64,
}

impl Default for MlpConfig {
    /// For MNIST: 784-512-256-10 with ReLU, without dropout.
    fn default() -> Self {
        Self {
            inputs: 784,
            widths: vec![512, 256],
            classes: 10,
            activation: Activation::Relu,
            init: None,
            dropout: 0.0,
        }
    }
}

impl MlpConfig {
    /// The network as text without dropout, which evaluation leaves out: `linear, relu, linear, relu, linear`.
    pub fn layers(&self) -> Layers {
        let hidden = [Layer::Linear, Layer::Act(self.activation)].repeat(self.widths.len());
        Layers(hidden.into_iter().chain([Layer::Linear]).collect())
    }
}

/// A multi-layer perceptron: `fc1`, activation, dropout, `fc2`, and so on, up to the logits.
///
/// # Shapes
/// Images `(N, C, H, W)` with `C·H·W = inputs`, or any tensor that flattens to `(N, inputs)`; the result is `(N,
/// classes)`.
#[derive(Clone, Debug)]
pub struct Mlp {
    hidden: Vec<(Linear, Act)>,
    dropout: Dropout,
    out: Linear,
    links: Vec<Link>,
}

impl Mlp {
    /// A network with parameters `fc1.weight`, `fc1.bias`, `fc2.weight`, … under `vb`'s prefix, and a site `fc1`,
    /// `fc2`, … after every hidden layer.
    ///
    /// # Errors
    /// When a width is 0 or the dropout rate is outside `[0, 1)`.
    pub fn new(config: &MlpConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let init = config.init.unwrap_or(Init::of(config.activation));
        // No activation follows the logits, so their layer keeps the scale.
        let out_init = config.init.unwrap_or(Init::LeCun);
        let mut inputs = config.inputs;
        let (mut hidden, mut links) = (Vec::new(), Vec::new());
        let name = |i: usize| vb.pp(format!("fc{}", i + 1)).prefix();
        for (i, &width) in config.widths.iter().enumerate() {
            let vb = vb.pp(format!("fc{}", i + 1));
            links.push(Link::new(&name(i), width, init, &name(i + 1)));
            hidden.push((Linear::new(inputs, width, init, vb.clone())?, Act::new(config.activation, vb)?));
            inputs = width;
        }
        let out = Linear::new(inputs, config.classes, out_init, vb.pp(format!("fc{}", hidden.len() + 1)))?;
        Ok(Self { hidden, dropout: Dropout::matching(config.activation, config.dropout)?, out, links })
    }

    /// The units of every hidden layer, with their incoming and outgoing weights.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// [`Act::then`] at the site of a hidden layer.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn then(
        mut self,
        site: &str,
        action: impl Fn(&mut Pass<'_>, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Self> {
        match self.hidden.iter_mut().find(|(_, act)| act.site().name() == site) {
            Some((_, act)) => *act = act.clone().then(action),
            None => return unknown_site(site, &self.links),
        }
        Ok(self)
    }
}

impl Model for Mlp {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.flatten_from(1)?;
        for (linear, act) in &self.hidden {
            xs = linear.forward_act(pass, &xs, act)?;
            xs = self.dropout.forward(pass, &xs)?;
        }
        self.out.forward(&xs)
    }
}
