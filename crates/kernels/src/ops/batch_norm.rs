use std::mem::MaybeUninit;

use candle_core::{Device, Result, Shape, Tensor};
use rayon::prelude::*;

use super::activate::{activate, apply_to, scale};
use crate::activation::Activation;
use crate::autograd::{Backward, Gradient, Op, Scattered, apply, by_candle, off_the_record};
use crate::error::argument;
use crate::parallel::{CHUNK, DisjointSlices, filled, for_chunks};
use crate::simd::simd;
use crate::values::{is_fast, of_contiguous};

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

/// `n` samples of `c` channels of `s` values.
#[derive(Clone, Copy)]
struct NormShape {
    n: usize,
    c: usize,
    s: usize,
}

impl NormShape {
    fn new(xs: &Tensor, per_channel: &[&Tensor]) -> Result<Self> {
        let [n, c, rest @ ..] = xs.dims() else {
            return argument(format!("batch_norm: expected inputs (N, C, ..), found shape {:?}", xs.dims()));
        };
        if let Some(wrong) = per_channel.iter().find(|t| t.dims() != [*c]) {
            return argument(format!(
                "batch_norm: expected a value for each of {c} channels, found shape {:?}",
                wrong.dims()
            ));
        }
        Ok(Self { n: *n, c: *c, s: rest.iter().product() })
    }

    fn sample(&self) -> usize {
        self.c * self.s
    }

    /// Values for one task: whole samples, whose number depends on the shape only.
    fn group(&self) -> usize {
        (CHUNK / self.sample().max(1)).max(1) * self.sample()
    }

    /// Two sums per channel, added group by group in order: `add(offset, values, sums of the group)`.
    fn sums(&self, xs: &[f32], add: impl Fn(usize, &[f32], &mut ChannelSums) + Sync) -> ChannelSums {
        let group = self.group().max(1);
        let of_group = |(g, xs): (usize, &[f32])| {
            let mut own = ChannelSums::new(self.c);
            add(g * group, xs, &mut own);
            own
        };
        let groups: Vec<_> = match xs.len() > CHUNK {
            true => xs.par_chunks(group).enumerate().map(of_group).collect(),
            false => xs.chunks(group).enumerate().map(of_group).collect(),
        };
        groups.into_iter().fold(ChannelSums::new(self.c), |mut total, group| {
            let add = |to: &mut [f64], of: &[f64]| to.iter_mut().zip(of).for_each(|(to, of)| *to += of);
            add(&mut total.first, &group.first);
            add(&mut total.second, &group.second);
            total
        })
    }

    /// Mean and biased variance of every channel. Deviations are from a channel's first value, so a constant channel
    /// has variance 0, and a mean far from 0 costs no digits.
    fn moments(&self, xs: &[f32]) -> Vec<(f64, f64)> {
        let first: Vec<f32> = (0..self.c).map(|c| xs[c * self.s]).collect();
        let sums = self.sums(xs, |_, xs, sums| {
            self.add(
                (xs, xs),
                &first,
                sums,
                #[inline(always)]
                |x, _| [x, x * x],
            );
        });
        let n = (self.n * self.s) as f64;
        let moments = sums.first.iter().zip(&sums.second).zip(first).map(|((sum, squares), first)| {
            let mean = sum / n;
            let variance = squares / n - mean * mean;
            // Rounding must not make it negative; `f64::max` would turn NaN into 0.
            (f64::from(first) + mean, if variance < 0.0 { 0.0 } else { variance })
        });
        moments.collect()
    }

    /// Adds two terms of `(x − centre, g)` for every value of whole samples to the sums of its channel.
    #[inline(always)]
    fn add(
        &self,
        (xs, gs): (&[f32], &[f32]),
        centres: &[f32],
        sums: &mut ChannelSums,
        terms: impl Fn(f64, f64) -> [f64; 2],
    ) {
        simd(
            #[inline(always)]
            || {
                for (xs, gs) in xs.chunks_exact(self.sample()).zip(gs.chunks_exact(self.sample())) {
                    let channels = sums.first.iter_mut().zip(&mut sums.second).zip(centres);
                    if self.s == 1 {
                        for (((first, second), centre), (x, g)) in channels.zip(xs.iter().zip(gs)) {
                            let [a, b] = terms(f64::from(*x) - f64::from(*centre), f64::from(*g));
                            *first += a;
                            *second += b;
                        }
                        continue;
                    }
                    let planes = xs.chunks_exact(self.s).zip(gs.chunks_exact(self.s));
                    for (((first, second), centre), plane) in channels.zip(planes) {
                        let [a, b] = sum_plane(plane, f64::from(*centre), &terms);
                        *first += a;
                        *second += b;
                    }
                }
            },
        );
    }

    /// Calls `op(x, y, coefficients of the channel)` for every value of whole samples.
    #[inline(always)]
    fn for_each<T>(
        &self,
        xs: &[f32],
        ys: &mut [T],
        coefficients: [&[f32]; 4],
        op: impl Fn(f32, &mut T, [f32; 4]),
    ) {
        let [a, b, c, d] = coefficients.map(|values| &values[..self.c]);
        simd(
            #[inline(always)]
            || {
                for (xs, ys) in xs.chunks_exact(self.sample()).zip(ys.chunks_exact_mut(self.sample())) {
                    if self.s == 1 {
                        let channels = a.iter().zip(b).zip(c).zip(d);
                        for ((x, y), (((a, b), c), d)) in xs.iter().zip(ys).zip(channels) {
                            op(*x, y, [*a, *b, *c, *d]);
                        }
                        continue;
                    }
                    let planes = xs.chunks_exact(self.s).zip(ys.chunks_exact_mut(self.s));
                    for (i, (xs, ys)) in planes.enumerate() {
                        let own = [a[i], b[i], c[i], d[i]];
                        xs.iter().zip(ys).for_each(
                            #[inline(always)]
                            |(x, y)| op(*x, y, own),
                        );
                    }
                }
            },
        );
    }
}

/// The sums of two terms of `(x − centre, g)` over a plane.
#[inline(always)]
fn sum_plane((xs, gs): (&[f32], &[f32]), centre: f64, terms: impl Fn(f64, f64) -> [f64; 2]) -> [f64; 2] {
    const LANES: usize = 16;
    let mut sums = [[0.0_f64; LANES]; 2];
    let ((xs, last_xs), (gs, last_gs)) = (xs.as_chunks::<LANES>(), gs.as_chunks::<LANES>());
    for (xs, gs) in xs.iter().zip(gs) {
        for lane in 0..LANES {
            let [a, b] = terms(f64::from(xs[lane]) - centre, f64::from(gs[lane]));
            sums[0][lane] += a;
            sums[1][lane] += b;
        }
    }
    for (lane, (x, g)) in last_xs.iter().zip(last_gs).enumerate() {
        let [a, b] = terms(f64::from(*x) - centre, f64::from(*g));
        sums[0][lane] += a;
        sums[1][lane] += b;
    }
    sums.map(|lanes| lanes.iter().sum())
}

/// Two sums for each channel.
struct ChannelSums {
    first: Vec<f64>,
    second: Vec<f64>,
}

impl ChannelSums {
    fn new(channels: usize) -> Self {
        Self { first: vec![0.0; channels], second: vec![0.0; channels] }
    }
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
