use candle_core::{Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};
use taper_kernels::{Error, layer_norm, rms_norm};

/// Layer normalisation over the last axis, with a weight and a bias for every feature (Ba et al. 2016).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `(F)`.
    pub weight: Tensor,
    /// `(F)`.
    pub bias: Tensor,
    /// Added to the variance; 1e-5 by default, as in PyTorch.
    pub eps: f64,
}

impl LayerNorm {
    /// For `features`; parameters `weight`, initially 1, and `bias`, initially 0, under `vb`'s prefix.
    ///
    /// # Errors
    /// When there are no features.
    pub fn new(features: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight: parameter(features, "weight", 1.0, &vb)?,
            bias: parameter(features, "bias", 0.0, &vb)?,
            eps: 1e-5,
        })
    }

    /// `(xs − mean) / √(variance + eps) · weight + bias`: see [`taper_kernels::layer_norm`].
    ///
    /// # Shapes
    /// `xs`: `(.., F)`; the result has the same shape.
    ///
    /// # Errors
    /// When `xs` has another number of features.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        layer_norm(xs, &self.weight, &self.bias, self.eps)
    }
}

impl Module for LayerNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward(xs)
    }
}

/// RMS normalisation over the last axis, with a weight for every feature (Zhang & Sennrich 2019).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `(F)`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// For `features`; the parameter `weight`, initially 1, under `vb`'s prefix.
    ///
    /// # Errors
    /// When there are no features.
    pub fn new(features: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self { weight: parameter(features, "weight", 1.0, &vb)?, eps })
    }

    /// `xs / √(mean of xs² + eps) · weight`: see [`taper_kernels::rms_norm`].
    ///
    /// # Shapes
    /// `xs`: `(.., F)`; the result has the same shape.
    ///
    /// # Errors
    /// When `xs` has another number of features.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        rms_norm(xs, &self.weight, self.eps)
    }
}

impl Module for RmsNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward(xs)
    }
}

fn parameter(features: usize, name: &str, start: f64, vb: &VarBuilder<'_>) -> Result<Tensor> {
    if features == 0 {
        let message = format!("layer '{}': expected at least one feature, found 0", vb.prefix());
        return Err(Error::Argument(message).into());
    }
    vb.get_with_hints(features, name, Init::Const(start))
}
