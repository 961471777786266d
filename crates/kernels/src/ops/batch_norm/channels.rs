//! Loops over the values of each channel, and sums over them.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::error::argument;
use crate::parallel::CHUNK;
use crate::simd::simd;

/// `n` samples of `c` channels of `s` values.
#[derive(Clone, Copy)]
pub(super) struct NormShape {
    pub n: usize,
    pub c: usize,
    pub s: usize,
}

impl NormShape {
    pub fn new(xs: &Tensor, per_channel: &[&Tensor]) -> Result<Self> {
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

    pub fn sample(&self) -> usize {
        self.c * self.s
    }

    /// Values for one task: whole samples, whose number depends on the shape only.
    pub fn group(&self) -> usize {
        (CHUNK / self.sample().max(1)).max(1) * self.sample()
    }

    /// Two sums per channel, added group by group in order: `add(offset, values, sums of the group)`.
    pub fn sums(&self, xs: &[f32], add: impl Fn(usize, &[f32], &mut ChannelSums) + Sync) -> ChannelSums {
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
    pub fn moments(&self, xs: &[f32]) -> Vec<(f64, f64)> {
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
    pub fn add(
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
    pub fn for_each<T>(
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
pub(super) struct ChannelSums {
    pub first: Vec<f64>,
    pub second: Vec<f64>,
}

impl ChannelSums {
    pub fn new(channels: usize) -> Self {
        Self { first: vec![0.0; channels], second: vec![0.0; channels] }
    }
}
