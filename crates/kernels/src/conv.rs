use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::cpu::{Matrix, add_product, is_fast, sum, values, with_values};
use crate::error::argument;

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
        return twin::conv2d(xs, weight, bias, geometry);
    }
    let (xs, weight, op) = (xs.contiguous()?, weight.contiguous()?, Conv2d(shape));
    match bias {
        Some(bias) => xs.apply_op3(&weight, &bias.contiguous()?, op),
        None => xs.apply_op2(&weight, op),
    }
}

/// All sizes of one convolution. One image's columns form a matrix of `k` rows (a row per input channel and
/// kernel position) and `p` columns (one per output position), so that the convolution is a matrix product.
#[derive(Clone, Copy)]
struct ConvShape {
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
}

struct Conv2d(ConvShape);

impl Conv2d {
    fn forward(
        &self,
        xs: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let s = self.0;
        let (xs, weight) = (values(xs.0, xs.1)?, values(weight.0, weight.1)?);
        let mut ys = vec![0.0; s.n * s.output()];
        ys.par_chunks_mut((s.group() * s.output()).max(1)).enumerate().for_each(|(g, ys)| {
            let mut columns = vec![0.0; s.k * s.p];
            for (i, ys) in ys.chunks_exact_mut(s.output()).enumerate() {
                let image = (g * s.group() + i) * s.input();
                s.to_columns(&xs[image..image + s.input()], &mut columns);
                if let Some(bias) = bias {
                    ys.chunks_exact_mut(s.p).zip(bias).for_each(|(map, b)| map.fill(*b));
                }
                let (weight, columns) = (Matrix::new(weight, s.k), Matrix::new(&columns, s.p));
                add_product((s.o, s.p, s.k), ys, weight, columns, false);
            }
        });
        Ok((CpuStorage::F32(ys), (s.n, s.o, s.out.0, s.out.1).into()))
    }

    /// Gradients of `xs` and `weight`, each if it needs one, and of the bias.
    fn backward(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        grad_ys: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Tensor)> {
        let s = self.0;
        let device = xs.device();
        // Images without a pixel would form no groups, and then there would be no gradient for the bias.
        let wanted = xs.track_op() && s.input() > 0;
        let learns = weight.track_op();
        let mut grad_xs = vec![0.0; if wanted { s.n * s.input() } else { 0 }];
        let group_of_gradients =
            |xs: &[f32], weight: &[f32], grad_ys: &[f32], g: usize, mut grad_xs: Option<&mut [f32]>| {
                let mut columns = vec![0.0; s.k * s.p];
                let mut grad_columns = vec![0.0; if wanted { s.k * s.p } else { 0 }];
                let (mut grad_weight, mut grad_bias) = (vec![0.0; s.o * s.k], vec![0.0; s.o]);
                for n in g * s.group()..((g + 1) * s.group()).min(s.n) {
                    let image = &xs[n * s.input()..][..s.input()];
                    let grad_image = &grad_ys[n * s.output()..][..s.output()];
                    let maps = Matrix::new(grad_image, s.p);
                    if learns {
                        s.to_columns(image, &mut columns);
                        let columns = Matrix::new(&columns, s.p).transposed();
                        add_product((s.o, s.k, s.p), &mut grad_weight, maps, columns, false);
                    }
                    for (grad, map) in grad_bias.iter_mut().zip(grad_image.chunks_exact(s.p)) {
                        *grad += sum(map);
                    }
                    if let Some(grad_xs) = grad_xs.as_deref_mut() {
                        let weight = Matrix::new(weight, s.k).transposed();
                        grad_columns.fill(0.0);
                        add_product((s.k, s.p, s.o), &mut grad_columns, weight, maps, false);
                        let own = &mut grad_xs[(n - g * s.group()) * s.input()..][..s.input()];
                        s.add_columns(&grad_columns, own);
                    }
                }
                (grad_weight, grad_bias)
            };
        let groups: Vec<(Vec<f32>, Vec<f32>)> = with_values(xs, |xs| {
            with_values(weight, |weight| {
                with_values(grad_ys, |grad_ys| {
                    if wanted {
                        let size = (s.group() * s.input()).max(1);
                        let images = grad_xs.par_chunks_mut(size).enumerate();
                        images.map(|(g, own)| group_of_gradients(xs, weight, grad_ys, g, Some(own))).collect()
                    } else {
                        let groups = (0..s.n.div_ceil(s.group())).into_par_iter();
                        groups.map(|g| group_of_gradients(xs, weight, grad_ys, g, None)).collect()
                    }
                })
            })
        })???;
        // In order, so that the sum does not depend on which thread was first.
        let (mut grad_weight, mut grad_bias) = (vec![0.0; s.o * s.k], vec![0.0; s.o]);
        for (weight, bias) in &groups {
            grad_weight.iter_mut().zip(weight).for_each(|(sum, x)| *sum += *x);
            grad_bias.iter_mut().zip(bias).for_each(|(sum, x)| *sum += *x);
        }
        let grad_xs = if wanted { Some(Tensor::from_vec(grad_xs, xs.shape(), device)?) } else { None };
        let grad_weight =
            if learns { Some(Tensor::from_vec(grad_weight, weight.shape(), device)?) } else { None };
        Ok((grad_xs, grad_weight, Tensor::from_vec(grad_bias, s.o, device)?))
    }
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((xs, xs_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _ys: &Tensor,
        grad_ys: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (grad_xs, grad_weight, _) = self.backward(xs, weight, grad_ys)?;
        Ok((grad_xs, grad_weight))
    }
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((xs, xs_layout), (weight, weight_layout), Some(values(bias, bias_layout)?))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _ys: &Tensor,
        grad_ys: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (grad_xs, grad_weight, grad_bias) = self.backward(xs, weight, grad_ys)?;
        Ok((grad_xs, grad_weight, Some(grad_bias)))
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
