use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};
use taper_hooks::{Pass, Units};
use taper_kernels::{Conv2dGeometry, Error, conv2d, conv2d_act};

use crate::{Act, Init};

/// A 2-d convolution (cross-correlation, as usual in this field).
///
/// Stride and padding are the same in both directions; use `Tensor::pad_with_zeros` for other paddings. There is no
/// dilation and there are no groups: `candle_nn::Conv2d` has them, but computes its gradients in a scalar loop.
#[derive(Clone, Debug)]
pub struct Conv2d {
    /// `(O, C, kH, kW)`.
    pub weight: Tensor,
    /// `(O)`.
    pub bias: Option<Tensor>,
    /// Stride and padding.
    pub geometry: Conv2dGeometry,
}

/// Options of a [`Conv2d`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// (rows, columns) of a kernel, in pixels; at least 1.
    pub kernel: (usize, usize),
    /// Stride and padding.
    pub geometry: Conv2dGeometry,
    /// The initialisation of weights and bias.
    pub init: Init,
    /// Whether there is a bias. It has no effect before batch normalisation.
    pub bias: bool,
}

impl Default for Conv2dConfig {
    /// Kernels of 3×3 at every pixel, without padding, for ReLU.
    fn default() -> Self {
        Self { kernel: (3, 3), geometry: Conv2dGeometry::default(), init: Init::He, bias: true }
    }
}

impl Conv2d {
    /// From `inputs` to `outputs` channels; parameters `weight` and, if there is one, `bias` under `vb`'s prefix.
    ///
    /// # Errors
    /// When a number is 0.
    pub fn new(inputs: usize, outputs: usize, config: Conv2dConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let Conv2dConfig { kernel: (h, w), geometry, init, bias } = config;
        if inputs == 0 || outputs == 0 || h == 0 || w == 0 {
            let message = format!(
                "layer '{}': expected channels and kernel of at least 1, found {inputs}→{outputs}, kernel {h}×{w}",
                vb.prefix()
            );
            return Err(Error::Argument(message).into());
        }
        let (fan_in, fan_out) = (inputs * h * w, outputs * h * w);
        Ok(Self {
            weight: vb.get_with_hints((outputs, inputs, h, w), "weight", init.weight(fan_in, fan_out))?,
            bias: bias.then(|| vb.get_with_hints(outputs, "bias", init.bias(fan_in))).transpose()?,
            geometry,
        })
    }

    /// The convolution of a batch: see [`taper_kernels::conv2d`].
    ///
    /// # Shapes
    /// `xs`: `(N, C, H, W)`; the result is `(N, O, H', W')`.
    ///
    /// # Errors
    /// When `xs` has another number of channels, or is smaller than the kernels.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        conv2d(xs, &self.weight, self.bias.as_ref(), self.geometry)
    }

    /// [`Act::forward`] of [`Conv2d::forward`], with the same bits, in less time and memory: see
    /// [`taper_kernels::conv2d_act`].
    ///
    /// # Errors
    /// Errors of both.
    pub fn forward_act(&self, pass: &mut Pass<'_>, xs: &Tensor, act: &Act) -> Result<Tensor> {
        act.fused(pass, Units::Second, |f| conv2d_act(xs, &self.weight, self.bias.as_ref(), self.geometry, f))
    }
}

impl Module for Conv2d {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward(xs)
    }
}
