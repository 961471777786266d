use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};
use taper_hooks::{Pass, Units};
use taper_kernels::{Conv2dGeometry, Error, conv2d, conv2d_act};

use crate::{Act, Init};

/// A 2-d convolution (cross-correlation, as everywhere in this field) with square kernels and a bias.
#[derive(Clone, Debug)]
pub struct Conv2d {
    /// `(O, C, k, k)`.
    pub weight: Tensor,
    /// `(O)`.
    pub bias: Tensor,
    /// Stride and padding.
    pub geometry: Conv2dGeometry,
}

impl Conv2d {
    /// From `inputs` to `outputs` channels; parameters `weight` and `bias` under `vb`'s prefix.
    ///
    /// # Errors
    /// When a number is 0.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        geometry: Conv2dGeometry,
        init: Init,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        if inputs == 0 || outputs == 0 || kernel == 0 {
            let message = format!(
                "layer '{}': expected channels and kernel of at least 1, found {inputs}→{outputs}, kernel {kernel}",
                vb.prefix()
            );
            return Err(Error::Argument(message).into());
        }
        let (fan_in, fan_out) = (inputs * kernel * kernel, outputs * kernel * kernel);
        Ok(Self {
            weight: vb.get_with_hints(
                (outputs, inputs, kernel, kernel),
                "weight",
                init.weight(fan_in, fan_out),
            )?,
            bias: vb.get_with_hints(outputs, "bias", init.bias(fan_in))?,
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
        conv2d(xs, &self.weight, Some(&self.bias), self.geometry)
    }

    /// [`Act::forward`] of [`Conv2d::forward`], to the bit, in less time and memory: see
    /// [`taper_kernels::conv2d_act`].
    ///
    /// # Errors
    /// Those of both.
    pub fn forward_act(&self, pass: &mut Pass<'_>, xs: &Tensor, act: &Act) -> Result<Tensor> {
        act.fused(pass, Units::Second, |f| conv2d_act(xs, &self.weight, Some(&self.bias), self.geometry, f))
    }
}

impl Module for Conv2d {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward(xs)
    }
}
