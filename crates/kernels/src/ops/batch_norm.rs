use std::mem::MaybeUninit;

use candle_core::{Device, Result, Shape, Tensor};
use rayon::prelude::*;

use super::activate::{activate, apply_to, scale};
use crate::activation::Activation;
use crate::autograd::{Backward, Gradient, Op, Scattered, apply, by_candle, off_the_record};
use crate::error::argument;
use crate::parallel::{DisjointSlices, filled, for_chunks};
use crate::values::{is_fast, of_contiguous};

mod channels;

use channels::{ChannelSums, NormShape};

/// Mean and variance of every channel.
#[derive(Clone, Debug)]
pub struct Moments {
    /// `(C)`.
    pub mean: Tensor,
    /// `(C)`. For a batch, the biased variance: the sum of squared deviations divided by their number.
    pub variance: Tensor,
}

/// Batch normalisation (Ioffe & Szegedy 2015) with the moments of the batch, as PyTorch in training:
/// `f((xs − mean) / √(variance + eps) · weight + bias)` for each channel, over all other axes. Also returns the moments,
/// which hold no graph. Sums run in f64.
///
/// If the slope of `f` [shows in its value](Activation::slope_shows_in_value), as ReLU's does, `f` is applied while the
/// values are written. [`Activation::Identity`] leaves them unchanged.
///
/// # Shapes
/// `xs`: `(N, C, ..)`, `weight` and `bias`: `(C)`; the result has the shape of `xs`.
///
/// # Errors
/// When the shapes do not match, or a channel has fewer than two values and so no variance.
pub fn batch_norm(
    xs: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    f: Activation,
) -> Result<(Tensor, Moments)> {
    let s = NormShape::new(xs, &[weight, bias])?;
    if s.n * s.s < 2 {
        return argument(format!(
            "batch_norm: expected more than one value per channel in training, found shape {:?}: use larger batches",
            xs.dims()
        ));
    }
    if !f.slope_shows_in_value() {
        let (ys, moments) = batch_norm(xs, weight, bias, eps, Activation::Identity)?;
        return Ok((activate(&ys, f)?, moments));
    }
    if !is_fast(&[xs, weight, bias]) {
        let (ys, moments) = twin::batch_norm(xs, weight, bias, eps)?;
        return Ok((by_candle(activate(&ys, f))?, moments));
    }
    let xs = xs.contiguous()?;
    // Off the record, because waiting threads may get other work.
    let moments = off_the_record(|| of_contiguous(&xs, |xs| s.moments(xs)));
    let of = |value: &dyn Fn(&(f64, f64)) -> f64| moments.iter().map(|m| value(m) as f32).collect::<Vec<_>>();
    let (mean, variance) = (of(&|m| m.0), of(&|m| m.1));
    let inv_std = of(&|m| (m.1 + eps).sqrt().recip());
    let tensor = |values: &[f32]| Tensor::from_slice(values, s.c, &Device::Cpu);
    let moments = Moments { mean: tensor(&mean)?, variance: tensor(&variance)? };
    let op = BatchNorm { s, shape: xs.shape().clone(), mean, inv_std, f, of_batch: true };
    Ok((apply(op, &[&xs, weight, bias])?, moments))
}

/// [`batch_norm`] with given moments, as PyTorch in evaluation with the running ones. They are constants without a
/// gradient.
///
/// # Shapes
/// As [`batch_norm`]; `moments`: `(C)` each.
///
/// # Errors
/// When the shapes do not match.
pub fn batch_norm_with(
    xs: &Tensor,
    moments: &Moments,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    f: Activation,
) -> Result<Tensor> {
    let Moments { mean, variance } = moments;
    let s = NormShape::new(xs, &[weight, bias, mean, variance])?;
    if !f.slope_shows_in_value() {
        return activate(&batch_norm_with(xs, moments, weight, bias, eps, Activation::Identity)?, f);
    }
    if !is_fast(&[xs, weight, bias, mean, variance]) {
        return by_candle(activate(&twin::batch_norm_with(xs, moments, weight, bias, eps)?, f));
    }
    let inv_std = |variance: &f32| (f64::from(*variance) + eps).sqrt().recip() as f32;
    let inv_std = variance.to_vec1()?.iter().map(inv_std).collect();
    let (shape, mean) = (xs.shape().clone(), mean.to_vec1()?);
    apply(BatchNorm { s, shape, mean, inv_std, f, of_batch: false }, &[xs, weight, bias])
}

struct BatchNorm {
    s: NormShape,
    shape: Shape,
    /// `(C)`.
    mean: Vec<f32>,
    /// `1 / √(variance + eps)`, `(C)`.
    inv_std: Vec<f32>,
    /// Applied to the result; its slope shows in its value.
    f: Activation,
    /// Whether the moments are those of the batch, so that gradients go through them too.
    of_batch: bool,
}

impl BatchNorm {
    /// `weight / √(variance + eps)`, `(C)`.
    fn factors(&self, weight: &[f32]) -> Vec<f32> {
        weight.iter().zip(&self.inv_std).map(|(weight, inv_std)| weight * inv_std).collect()
    }

    /// `Σ g` and `Σ g · (x − mean)` of every channel, with the gradient g, which is multiplied by f' in place.
    fn dense_sums(&self, xs: &[f32], ys: &[f32], grads: &mut [f32]) -> ChannelSums {
        let grads = DisjointSlices::of(grads);
        self.s.sums(xs, |start, xs, sums| {
            // SAFETY: no value is in two groups, and all are initialised.
            let grads = unsafe { grads.part(start..start + xs.len()) };
            if self.f != Activation::Identity {
                scale(self.f, &ys[start..], grads);
            }
            self.s.add(
                (xs, grads),
                &self.mean,
                sums,
                #[inline(always)]
                |x, g| [g, g * x],
            );
        })
    }

    /// The same sums for a sparse gradient.
    fn scattered_sums(&self, xs: &[f32], scattered: &mut Scattered) -> ChannelSums {
        let Scattered { values, ys, positions, windows, plane } = scattered;
        if let Some(ys) = ys.take()
            && self.f != Activation::Identity
        {
            of_contiguous(&ys, |ys| for_chunks(values, |start, grads| scale(self.f, &ys[start..], grads)));
        }
        self.s.sums(xs, |start, xs, sums| {
            let first = start / *plane * *windows;
            let own = values[first..].chunks_exact(*windows).zip(positions[first..].chunks_exact(*windows));
            for (i, (xs, (values, positions))) in xs.chunks_exact(*plane).zip(own).enumerate() {
                let mean = f64::from(self.mean[i % self.s.c]);
                // Four sums at a time, because each waits for the one before.
                let mut own = [[0.0; 4]; 2];
                for (i, (value, position)) in values.iter().zip(positions).enumerate() {
                    let g = f64::from(*value);
                    own[0][i % 4] += g;
                    own[1][i % 4] += g * (f64::from(xs[*position as usize]) - mean);
                }
                sums.first[i % self.s.c] += own[0].iter().sum::<f64>();
                sums.second[i % self.s.c] += own[1].iter().sum::<f64>();
            }
        })
    }

    /// The gradient of the input, `factor · g + slope · (x − mean) + shift`: with `x̂ = (x − mean) / √(variance + eps)` and n
    /// values per channel, `factor · (g − Σg / n − x̂ · Σ(g · x̂) / n)`.
    fn grad_xs(&self, xs: &[f32], factor: &[f32], sums: &ChannelSums, grads: Gradient) -> Vec<f32> {
        let s = self.s;
        let (mut slope, mut shift) = (vec![0.0; s.c], vec![0.0; s.c]);
        if self.of_batch {
            for c in 0..s.c {
                let per_value = -f64::from(factor[c]) / (s.n * s.s) as f64;
                slope[c] = (per_value * f64::from(self.inv_std[c]).powi(2) * sums.second[c]) as f32;
                shift[c] = (per_value * sums.first[c]) as f32;
            }
        }
        let coefficients = [&self.mean[..], factor, &slope, &shift];
        let scattered = match grads {
            Gradient::Scattered(scattered) => scattered,
            grads => {
                let mut grads = grads.into_dense();
                let group = |(g, grads): (usize, &mut [f32])| {
                    let xs = &xs[g * s.group()..][..grads.len()];
                    s.for_each(
                        xs,
                        grads,
                        coefficients,
                        #[inline(always)]
                        |x, g, [mean, factor, slope, shift]| *g = factor * *g + (slope * (x - mean) + shift),
                    );
                };
                grads.par_chunks_mut(s.group().max(1)).enumerate().for_each(group);
                return grads;
            }
        };
        let Scattered { values, positions, windows, .. } = scattered;
        let write = |start: usize, grads: &mut [MaybeUninit<f32>]| {
            s.for_each(
                &xs[start..][..grads.len()],
                grads,
                coefficients,
                #[inline(always)]
                |x, g, [mean, _, slope, shift]| {
                    g.write(slope * (x - mean) + shift);
                },
            );
            let first = start / s.s * windows;
            let own = values[first..].chunks_exact(windows).zip(positions[first..].chunks_exact(windows));
            for (i, (grads, (values, positions))) in grads.chunks_exact_mut(s.s).zip(own).enumerate() {
                let factor = factor[i % s.c];
                for (value, position) in values.iter().zip(positions) {
                    let grad = &mut grads[*position as usize];
                    // SAFETY: `for_each` writes all values of whole samples.
                    grad.write(unsafe { grad.assume_init() } + factor * value);
                }
            }
        };
        // SAFETY: the chunks are whole samples, and all their values are written.
        unsafe { filled(xs.len(), s.group(), write) }
    }
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let (s, xs, factor, bias) = (self.s, inputs[0], self.factors(inputs[1]), inputs[2]);
        assert_eq!(xs.len(), s.n * s.sample(), "values of batch_norm");
        let write = |start: usize, ys: &mut [MaybeUninit<f32>]| {
            let xs = &xs[start..][..ys.len()];
            s.for_each(
                xs,
                ys,
                [&self.mean, &factor, bias, bias],
                #[inline(always)]
                |x, y, [mean, factor, bias, _]| {
                    y.write((x - mean) * factor + bias);
                },
            );
            // SAFETY: `for_each` writes all values of whole samples.
            apply_to(self.f, unsafe { ys.assume_init_mut() });
        };
        // SAFETY: the chunks are whole samples, and all their values are written.
        unsafe { filled(xs.len(), s.group(), write) }
    }

    fn backward(&self, Backward { inputs, ys, grad_ys, wanted }: Backward<'_>) -> Vec<Option<Gradient>> {
        let (xs, factor) = (inputs[0], self.factors(inputs[1]));
        let (sums, grads) = match grad_ys {
            // Unless pooling had other maps, as those of a reshaped result, or had no outputs of `f`.
            Gradient::Scattered(mut scattered)
                if scattered.plane == self.s.s
                    && (scattered.ys.is_some() || self.f == Activation::Identity) =>
            {
                (self.scattered_sums(xs, &mut scattered), Gradient::Scattered(scattered))
            }
            grads => {
                let mut grads = grads.into_dense();
                (of_contiguous(ys, |ys| self.dense_sums(xs, ys, &mut grads)), Gradient::Dense(grads))
            }
        };
        let grad_weight =
            sums.second.iter().zip(&self.inv_std).map(|(dot, std)| (dot * f64::from(*std)) as f32);
        let grad_weight = Gradient::Dense(grad_weight.collect());
        let grad_bias = Gradient::Dense(sums.first.iter().map(|sum| *sum as f32).collect());
        let grad_xs = wanted[0].then(|| Gradient::Dense(self.grad_xs(xs, &factor, &sums, grads)));
        vec![grad_xs, Some(grad_weight), Some(grad_bias)]
    }
}

pub(crate) mod twin {
    use super::*;

    /// See [`crate::batch_norm`], without an activation function.
    pub fn batch_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<(Tensor, Moments)> {
        let (n, c) = (xs.dim(0)?, xs.dim(1)?);
        let planes = xs.reshape((n, c, ()))?;
        let mean = planes.mean_keepdim((0, 2))?;
        let variance = planes.broadcast_sub(&mean)?.sqr()?.mean_keepdim((0, 2))?;
        let moments = Moments { mean: mean.flatten_all()?, variance: variance.flatten_all()? };
        let ys = batch_norm_with(xs, &moments, weight, bias, eps)?;
        Ok((ys, Moments { mean: moments.mean.detach(), variance: moments.variance.detach() }))
    }

    /// See [`crate::batch_norm_with`], without an activation function.
    pub fn batch_norm_with(
        xs: &Tensor,
        moments: &Moments,
        weight: &Tensor,
        bias: &Tensor,
        eps: f64,
    ) -> Result<Tensor> {
        let (n, c) = (xs.dim(0)?, xs.dim(1)?);
        let per_channel = |values: &Tensor| values.to_dtype(xs.dtype())?.reshape((1, c, 1));
        let std = (per_channel(&moments.variance)? + eps)?.sqrt()?;
        let centred = xs.reshape((n, c, ()))?.broadcast_sub(&per_channel(&moments.mean)?)?;
        let normal = centred.broadcast_div(&std)?;
        let ys = normal.broadcast_mul(&per_channel(weight)?)?.broadcast_add(&per_channel(bias)?)?;
        ys.reshape(xs.shape())
    }
}
