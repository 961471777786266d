use std::fmt;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use taper_hooks::Pass;
use taper_kernels::Activation;

use crate::action::add;
use crate::l1::penalised;
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
    /// λ of an [L1 penalty](crate::l1()) on the activations of every hidden layer, at least 0.
    pub l1: f64,
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
            l1: 0.0,
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

/// The model with its sizes: `mlp 784-512-256-10`, or `linear 784-10` without a hidden layer.
impl fmt::Display for MlpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inputs, widths, classes, .. } = self;
        let kind = if widths.is_empty() { "linear" } else { "mlp" };
        write!(f, "{kind} {inputs}-{}{classes}", sizes(widths))
    }
}

/// `512-256-`
pub(crate) fn sizes(of: &[usize]) -> String {
    of.iter().map(|n| format!("{n}-")).collect()
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
    /// When a width is 0, the dropout rate is outside `[0, 1)`, or `l1` is negative or not finite.
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
            let linear = Linear::new(inputs, width, init, vb.clone())?;
            hidden.push((linear, penalised(Act::new(config.activation, vb)?, config.l1)?));
            inputs = width;
        }
        let out = Linear::new(inputs, config.classes, out_init, vb.pp(format!("fc{}", hidden.len() + 1)))?;
        Ok(Self { hidden, dropout: Dropout::matching(config.activation, config.dropout)?, out, links })
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
        add(self.acts(), site, action)?;
        Ok(self)
    }

    /// The activations of the hidden layers.
    pub(crate) fn acts(&mut self) -> impl Iterator<Item = &mut Act> {
        self.hidden.iter_mut().map(|(_, act)| act)
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

    fn links(&self) -> &[Link] {
        &self.links
    }
}
