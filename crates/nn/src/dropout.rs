use candle_core::{Result, Tensor};
use candle_nn::Module;
use taper_hooks::{Mode, Pass};
use taper_kernels::{Activation, Error, alpha_dropout, dropout};

/// Drops random activations in train mode, and does nothing in evaluation mode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    rate: f64,
    alpha: bool,
}

impl Dropout {
    /// Inverted dropout (Srivastava et al. 2014) at `rate`, the probability of being dropped; 0 is the identity.
    ///
    /// # Errors
    /// When `rate` is outside `[0, 1)`.
    pub fn new(rate: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::Argument(format!("dropout: expected a rate in [0, 1), found {rate}")).into());
        }
        Ok(Self { rate, alpha: false })
    }

    /// The kind that suits `activation`: alpha-dropout after SELU, which keeps mean 0 and variance 1 (Klambauer et al.
    /// 2017), inverted dropout elsewhere.
    ///
    /// # Errors
    /// As [`Dropout::new`].
    pub fn matching(activation: Activation, rate: f64) -> Result<Self> {
        Ok(Self { alpha: activation == Activation::Selu, ..Self::new(rate)? })
    }

    /// Drops values in train mode; the mask is a function of the pass's seed, its step, and the sample's row in the
    /// batch. Returns `xs` in evaluation mode.
    ///
    /// # Shapes
    /// Any; the result has the shape of `xs`.
    pub fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        match pass.mode() {
            Mode::Train if self.rate > 0.0 => {
                let draw = pass.draw()?;
                if self.alpha { alpha_dropout(xs, self.rate, draw) } else { dropout(xs, self.rate, draw) }
            }
            _ => Ok(xs.clone()),
        }
    }
}

impl Module for Dropout {
    /// Within [`Pass::scope`] as [`Dropout::forward`]; elsewhere the identity.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Pass::current(|pass| pass.map_or_else(|| Ok(xs.clone()), |pass| self.forward(pass, xs)))
    }
}
