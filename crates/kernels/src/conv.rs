use std::ops::Range;

use candle_core::{Result, Shape, Tensor};

use crate::activate::activate;
use crate::activation::Activation;
use crate::cpu::{is_fast, of_contiguous};
use crate::error::argument;
use crate::gradient::Gradient;
use crate::kernel::{Kernel, apply};

mod backward;
mod forward;
mod sparse;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use backward::{Gradients, Wanted};

/// Stride and zero padding of a convolution, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dGeometry {
    /// Step between neighbouring outputs, in pixels; at least 1.
    pub stride: usize,
    /// Zeros added on each side, in pixels.
    pub padding: usize,
}

impl Default for Conv2dGeometry {
    fn default() -> Self {
        Self { stride: 1, padding: 0 }
    }
}

/// 2-d cross-correlation as PyTorch's `F.conv2d`. No gradient is computed for an `xs` that needs none.
///
/// # Shapes
/// `xs`: `(N, C, H, W)`, `weight`: `(O, C, kH, kW)`, `bias`: `(O)`; the result is `(N, O, H', W')` with
/// `H' = (H + 2·padding − kH) / stride + 1`, rounded down.
///
/// # Errors
/// When the shapes do not belong together, the kernels do not fit the padded image, or the stride is 0.
pub fn conv2d(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Conv2dGeometry,
) -> Result<Tensor> {
    conv2d_act(xs, weight, bias, geometry, Activation::Identity)
}

/// [`activate`] of [`conv2d`]. To the bit the same; where the function's slope [shows in its
/// value](Activation::slope_shows_in_value), as ReLU's does, it is applied where the convolution writes, and the
/// pre-activations are neither written to memory nor kept for the way back.
///
/// # Shapes
/// As [`conv2d`].
///
/// # Errors
/// Those of both.
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
        return activate(&twin::conv2d(xs, weight, bias, geometry)?, f);
    }
    match bias {
        Some(bias) => apply(Conv2d { shape, f }, &[xs, weight, bias]),
        None => apply(Conv2d { shape, f }, &[xs, weight]),
    }
}

/// All sizes of one convolution. One image's columns form a matrix of `k` rows (a row per input channel and
/// kernel position) and `p` columns (one per output position), so that the convolution is a matrix product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvShape {
    n: usize,
    c: usize,
    h: usize,
    w: usize,
    o: usize,
    kernel: (usize, usize),
    out: (usize, usize),
    geometry: Conv2dGeometry,
    k: usize,
    p: usize,
}

impl ConvShape {
    fn new(
        (n, c, h, w): (usize, usize, usize, usize),
        (o, wc, kh, kw): (usize, usize, usize, usize),
        geometry: Conv2dGeometry,
    ) -> Result<Self> {
        let Conv2dGeometry { stride, padding } = geometry;
        if wc != c {
            return argument(format!("conv2d: expected inputs of {wc} channels, found {c}"));
        }
        let padded = |side: usize| padding.checked_mul(2).and_then(|both| side.checked_add(both));
        let (Some(full_h), Some(full_w)) = (padded(h), padded(w)) else {
            return argument(format!("conv2d: a padding of {padding} is too large"));
        };
        if stride == 0 || kh == 0 || kw == 0 || full_h < kh || full_w < kw {
            return argument(format!(
                "conv2d: a kernel of {kh}×{kw} with stride {stride} does not fit an input of {full_h}×{full_w} \
                 (padding included)"
            ));
        }
        let out = ((full_h - kh) / stride + 1, (full_w - kw) / stride + 1);
        Ok(Self { n, c, h, w, o, kernel: (kh, kw), out, geometry, k: c * kh * kw, p: out.0 * out.1 })
    }

    fn input(&self) -> usize {
        self.c * self.h * self.w
    }

    fn output(&self) -> usize {
        self.o * self.p
    }

    /// Calls `visit(row of columns, range in it, first pixel of the image)` for every run of output positions
    /// whose input pixels lie inside the image; the pixels are `stride` apart.
    #[inline(always)]
    fn for_runs(&self, mut visit: impl FnMut(usize, Range<usize>, usize)) {
        let Conv2dGeometry { stride, padding } = self.geometry;
        let ((kh, kw), (out_h, out_w)) = (self.kernel, self.out);
        for c in 0..self.c {
            for dy in 0..kh {
                for dx in 0..kw {
                    let row = (c * kh + dy) * kw + dx;
                    // Output columns whose pixel `x * stride + dx - padding` is inside `0..w`.
                    let first = padding.saturating_sub(dx).div_ceil(stride);
                    let end = if self.w + padding > dx {
                        ((self.w + padding - dx - 1) / stride + 1).min(out_w)
                    } else {
                        0
                    };
                    if first >= end {
                        continue;
                    }
                    for y in 0..out_h {
                        let pixel_y = y * stride + dy;
                        if pixel_y < padding || pixel_y >= self.h + padding {
                            continue;
                        }
                        let pixel = (c * self.h + pixel_y - padding) * self.w + first * stride + dx - padding;
                        visit(row, y * out_w + first..y * out_w + end, pixel);
                    }
                }
            }
        }
    }

    /// Copies one image into its columns: `(k, p)`, zero where a position lies in the padding.
    fn to_columns(self, image: &[f32], columns: &mut [f32]) {
        let (p, stride) = (self.p, self.geometry.stride);
        if self.geometry.padding > 0 {
            columns.fill(0.0);
        }
        self.for_runs(|row, range, pixel| {
            let run = &mut columns[row * p + range.start..row * p + range.end];
            if stride == 1 {
                run.copy_from_slice(&image[pixel..pixel + range.len()]);
            } else {
                run.iter_mut().zip(image[pixel..].iter().step_by(stride)).for_each(|(to, from)| *to = *from);
            }
        });
    }

    /// Adds every column element to the pixel that it was copied from.
    fn add_columns(self, columns: &[f32], image: &mut [f32]) {
        let (p, stride) = (self.p, self.geometry.stride);
        self.for_runs(|row, range, pixel| {
            let run = &columns[row * p + range.start..row * p + range.end];
            if stride == 1 {
                image[pixel..pixel + range.len()].iter_mut().zip(run).for_each(|(to, from)| *to += *from);
            } else {
                image[pixel..].iter_mut().step_by(stride).zip(run).for_each(|(to, from)| *to += *from);
            }
        });
    }

    /// Images are worked on in this many at a time, each group by one thread: a number that does not depend
    /// on the thread count, because weight gradients are summed by group.
    fn group(&self) -> usize {
        self.n.div_ceil(16).max(1)
    }

    /// Height and width with padding on both sides.
    fn padded_size(&self) -> (usize, usize) {
        let both = 2 * self.geometry.padding;
        (self.h + both, self.w + both)
    }

    fn padded_input(&self) -> usize {
        let (h, w) = self.padded_size();
        if self.geometry.padding == 0 { 0 } else { self.c * h * w }
    }

    /// The image with its padding: itself if it has none, else copied into `padded`, which has zeros around it.
    fn pad<'a>(&self, image: &'a [f32], padded: &'a mut [f32]) -> &'a [f32] {
        let ((h, w), padding) = (self.padded_size(), self.geometry.padding);
        if padding == 0 {
            return image;
        }
        let maps = padded.chunks_exact_mut(h * w).zip(image.chunks_exact((self.h * self.w).max(1)));
        for (padded, map) in maps {
            let rows = padded[padding * w..].chunks_exact_mut(w).zip(map.chunks_exact(self.w.max(1)));
            rows.for_each(|(padded, row)| padded[padding..padding + self.w].copy_from_slice(row));
        }
        padded
    }

    /// For every output, the first of its inputs in a padded map.
    fn starts(&self) -> Vec<u32> {
        let (w, stride) = (self.padded_size().1, self.geometry.stride);
        let start = |p: usize| (p / self.out.1 * w + p % self.out.1) * stride;
        (0..self.p).map(|p| start(p) as u32).collect()
    }
}

struct Conv2d {
    shape: ConvShape,
    /// Applied to the result. Its slope shows in its value.
    f: Activation,
}

impl Kernel for Conv2d {
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

    fn backward(
        &self,
        inputs: &[&[f32]],
        ys: &Tensor,
        grad_ys: Gradient,
        wanted: &[bool],
    ) -> Vec<Option<Gradient>> {
        let wanted = Wanted { xs: wanted[0], weight: wanted[1] };
        let Gradients { xs, weight, bias } =
            of_contiguous(ys, |ys| self.shape.backward(inputs[0], inputs[1], (self.f, ys), &grad_ys, wanted));
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
        // candle's gradient wants windows that end at the edge, or leave as many rows as columns over: what no
        // window reaches is cut off first.
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
