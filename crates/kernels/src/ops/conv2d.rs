use candle_core::{Result, Shape, Tensor};

use super::activate::activate;
use crate::activation::Activation;
use crate::autograd::{Backward, Gradient, Op, Scattered, apply, by_candle};
use crate::error::argument;
use crate::simd::lanes;
use crate::sparse::Choice;
use crate::values::{is_fast, of_contiguous};

mod dense;
mod direct;
mod layout;
mod maps;
mod shape;
mod sparse;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use maps::{ConvGradients, Maps, Wanted};
pub use shape::Conv2dGeometry;
use shape::ConvShape;

/// 2-d cross-correlation as PyTorch's `F.conv2d`. No gradient is computed for an `xs` that needs none.
///
/// # Shapes
/// `xs`: `(N, C, H, W)`, `weight`: `(O, C, kH, kW)`, `bias`: `(O)`; the result is `(N, O, H', W')` with
/// `H' = (H + 2·padding − kH) / stride + 1`, rounded down.
///
/// # Errors
/// When the shapes do not match, the kernels do not fit the padded image, or the stride is 0.
pub fn conv2d(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Conv2dGeometry,
) -> Result<Tensor> {
    conv2d_act(xs, weight, bias, geometry, Activation::Identity)
}

/// [`activate`] of [`conv2d`], with the same bits. If the function's slope [shows in its
/// value](Activation::slope_shows_in_value), as ReLU's does, the convolution applies it while it writes, and the
/// pre-activations are never in memory.
///
/// # Shapes
/// As [`conv2d`].
///
/// # Errors
/// As [`conv2d`] and [`activate`].
pub fn conv2d_act(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Conv2dGeometry,
    f: Activation,
) -> Result<Tensor> {
    if !f.slope_shows_in_value() {
        return activate(&conv2d(xs, weight, bias, geometry)?, f);
    }
    let shape = ConvShape::new(xs.dims4()?, weight.dims4()?, geometry)?;
    if let Some(bias) = bias
        && bias.dims() != [shape.o]
    {
        return argument(format!(
            "conv2d: expected a bias of {} values, found shape {:?}",
            shape.o,
            bias.dims()
        ));
    }
    if !(is_fast(&[xs, weight]) && bias.is_none_or(|b| is_fast(&[b]))) {
        #[cfg(feature = "cuda")]
        if crate::cuda::is_fast(&[xs, weight]) && bias.is_none_or(|b| crate::cuda::is_fast(&[b])) {
            return by_candle(crate::cuda::layers::conv2d_act(xs, weight, bias, shape.on_cuda(), f));
        }
        return by_candle(activate(&twin::conv2d(xs, weight, bias, geometry)?, f));
    }
    match bias {
        Some(bias) => apply(Conv2d { shape, f }, &[xs, weight, bias]),
        None => apply(Conv2d { shape, f }, &[xs, weight]),
    }
}

struct Conv2d {
    shape: ConvShape,
    /// Applied to the result; its slope shows in its value.
    f: Activation,
}

/// Above this share of non-zero values dense products are faster than sums. Measured with 32 to 64 channels and 3×3
/// kernels, on AVX2.
const DENSE: f64 = 0.7;

impl ConvShape {
    #[cfg(feature = "cuda")]
    fn on_cuda(&self) -> crate::cuda::layers::Conv {
        let Conv2dGeometry { stride, padding } = self.geometry;
        let ((kh, kw), out) = (self.kernel, self.out);
        let sizes = [self.c, self.h, self.w, kh, kw, stride, padding, out.0, out.1];
        crate::cuda::layers::Conv { n: self.n, o: self.o, sizes }
    }

    /// `f` of the convolution of `xs`, `(N, C, H, W)`: `(N, O, H', W')`.
    fn forward(&self, xs: &[f32], weight: &[f32], bias: Option<&[f32]>, f: Activation) -> Vec<f32> {
        // With few inputs, computing an output takes less time than moving it to its place, which a matrix product does
        // in vectors.
        match self.c < lanes() {
            true => dense::forward(self, xs, weight, bias, f),
            false => direct::forward(self, xs, weight, bias, f),
        }
    }

    /// The method of the backward pass. Sums run over vectors of channels, so few channels would leave them mostly
    /// empty.
    fn choose(&self, grad_ys: Maps<'_>) -> Choice {
        if self.c < lanes() {
            return Choice::FewChannels;
        }
        match grad_ys.density(self) {
            density if density > DENSE => Choice::Dense { density, limit: DENSE },
            density => Choice::Sparse { density, background: 0.0 },
        }
    }

    /// The gradients of all inputs from the gradient of the result `ys`, which is sparse after ReLU and max-pooling.
    fn backward(
        &self,
        xs: &[f32],
        weight: &[f32],
        (f, ys): (Activation, &[f32]),
        grad_ys: Gradient,
        wanted: Wanted,
    ) -> ConvGradients {
        let run = |maps: Maps<'_>| {
            let choice = self.choose(maps).log(format_args!("conv2d {}→{} backward", self.c, self.o));
            match choice {
                Choice::Sparse { .. } => sparse::backward(self, xs, weight, maps, wanted),
                _ => dense::backward(self, xs, weight, maps, wanted),
            }
        };
        match grad_ys {
            // Unless pooling had other maps, as those of a reshaped result, or had no outputs of `f`.
            Gradient::Scattered(Scattered { values, ys: Some(ys), positions, windows, plane })
                if plane == self.p =>
            {
                let positions = Some(&positions[..]);
                of_contiguous(&ys, |ys| run(Maps { f, values: &values, ys, size: windows, positions }))
            }
            Gradient::Scattered(Scattered { values, ys: None, positions, windows, plane })
                if plane == self.p && f == Activation::Identity =>
            {
                let positions = Some(&positions[..]);
                run(Maps { f, values: &values, ys: &[], size: windows, positions })
            }
            grad_ys => run(Maps { f, values: &grad_ys.into_dense(), ys, size: self.p, positions: None }),
        }
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn shape(&self) -> Shape {
        let s = self.shape;
        (s.n, s.o, s.out.0, s.out.1).into()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        self.shape.forward(inputs[0], inputs[1], inputs.get(2).copied(), self.f)
    }

    fn backward(&self, Backward { inputs, ys, grad_ys, wanted }: Backward<'_>) -> Vec<Option<Gradient>> {
        let wanted = Wanted { xs: wanted[0], weight: wanted[1] };
        let ConvGradients { xs, weight, bias } =
            of_contiguous(ys, |ys| self.shape.backward(inputs[0], inputs[1], (self.f, ys), grad_ys, wanted));
        let gradients = [xs, weight, Some(bias)];
        gradients.into_iter().take(inputs.len()).map(|g| g.map(Gradient::Dense)).collect()
    }
}

pub(crate) mod twin {
    use super::*;

    /// See [`crate::conv2d`].
    pub fn conv2d(
        xs: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        geometry: Conv2dGeometry,
    ) -> Result<Tensor> {
        let s = ConvShape::new(xs.dims4()?, weight.dims4()?, geometry)?;
        // candle's gradient needs windows that end at the edge, so rows and columns that no window reaches are cut off
        // first.
        let reach = |out: usize, kernel: usize| (out - 1) * geometry.stride + kernel;
        let xs = xs.pad_with_zeros(2, geometry.padding, geometry.padding)?;
        let xs = xs.pad_with_zeros(3, geometry.padding, geometry.padding)?;
        let xs = xs.narrow(2, 0, reach(s.out.0, s.kernel.0))?.narrow(3, 0, reach(s.out.1, s.kernel.1))?;
        let ys = xs.conv2d(weight, 0, geometry.stride, 1, 1)?;
        match bias {
            Some(bias) => ys.broadcast_add(&bias.reshape((1, (), 1, 1))?),
            None => Ok(ys),
        }
    }
}
