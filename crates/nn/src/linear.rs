use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};
use taper_hooks::{Pass, Units};
use taper_kernels::{Error, linear, linear_act};

use crate::{Act, Init};

/// A fully connected layer: `xs · weightᵀ + bias`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `(O, I)`.
    pub weight: Tensor,
    /// `(O)`.
    pub bias: Option<Tensor>,
}

/// Options of a [`Linear`]. An [`Init`] converts to one with a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearConfig {
    /// The initialisation of weights and bias.
    pub init: Init,
    /// Whether there is a bias.
    pub bias: bool,
}

impl Default for LinearConfig {
    fn default() -> Self {
        Init::He.into()
    }
}

impl From<Init> for LinearConfig {
    fn from(init: Init) -> Self {
        Self { init, bias: true }
    }
}

impl Linear {
    /// A layer from `inputs` to `outputs` features; parameters `weight` and, if there is one, `bias` under `vb`'s prefix.
    ///
    /// # Errors
    /// When either number is 0.
    pub fn new(
        inputs: usize,
        outputs: usize,
        config: impl Into<LinearConfig>,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let LinearConfig { init, bias } = config.into();
        if inputs == 0 || outputs == 0 {
            let message =
                format!("layer '{}': expected widths of at least 1, found {inputs}→{outputs}", vb.prefix());
            return Err(Error::Argument(message).into());
        }
        Ok(Self {
            weight: vb.get_with_hints((outputs, inputs), "weight", init.weight(inputs, outputs))?,
            bias: bias.then(|| vb.get_with_hints(outputs, "bias", init.bias(inputs))).transpose()?,
        })
    }

    /// `xs · weightᵀ + bias`: see [`taper_kernels::linear`].
    ///
    /// # Shapes
    /// `xs`: `(.., I)`; the result is `(.., O)`.
    ///
    /// # Errors
    /// When `xs` has another number of features.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        linear(xs, &self.weight, self.bias.as_ref())
    }

    /// [`Act::forward`] of [`Linear::forward`], with the same bits, in less time and memory: see
    /// [`taper_kernels::linear_act`].
    ///
    /// # Errors
    /// Errors of both.
    pub fn forward_act(&self, pass: &mut Pass<'_>, xs: &Tensor, act: &Act) -> Result<Tensor> {
        act.fused(pass, Units::Last, |f| linear_act(xs, &self.weight, self.bias.as_ref(), f))
    }
}

impl Module for Linear {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward(xs)
    }
}
