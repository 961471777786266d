//! The pass over finite values in vector code.
//!
//! Rows or planes are measured span by span, while they lie in the first-level cache, so the values are read from
//! memory once.

use pulp::{Simd, WithSimd, bytemuck};
use taper_kernels::{Activation, derivatives};

use super::Batch;
use super::span::{Spans, background_of, count, widen};
use crate::Parts;
use crate::moments::CHUNK;
use crate::tally::{FLAT, PerSample, Tally, Units, add};

impl Batch<'_> {
    /// Adds a block to its tally; or nothing, and is `false`, if one of `ys` is not finite.
    pub fn fast(self, parts: Parts, tally: &mut Tally) -> bool {
        pulp::Arch::new().dispatch(Fast { block: self, parts, tally }).is_some()
    }
}

/// The pass over a block, for any instruction set.
pub(super) struct Fast<'a> {
    pub block: Batch<'a>,
    pub parts: Parts,
    pub tally: &'a mut Tally,
}

/// What is added up over a block, beside its units and [`Spans`].
#[derive(Default)]
struct Whole {
    zeros: u64,
    negatives: u64,
    near_zeros: u64,
    flat_low: u64,
    flat_high: u64,
    per_sample: PerSample,
}

/// What single samples add up to, side by side.
pub(super) struct Samples {
    /// Values other than zero.
    pub active: Vec<u64>,
    pub sum_abs: Vec<f64>,
    pub sum_squares: Vec<f64>,
}

impl Samples {
    fn new(samples: usize) -> Self {
        let room = || Vec::with_capacity(samples);
        Self { active: Vec::with_capacity(samples), sum_abs: room(), sum_squares: room() }
    }
}

impl WithSimd for Fast<'_> {
    type Output = Option<()>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<()> {
        let Self { block, parts, tally } = self;
        let (mut whole, mut spans) = (Whole::default(), Spans::start(parts));
        let mut fired = vec![0; block.units];
        // Planes may yet turn out not to be finite when some have been added up; rows are added to the tally's units when all
        // are known to be.
        let mut of_planes = Units::new(if block.in_rows() { 0 } else { block.units });
        block.samples(simd, parts, (&mut of_planes, &mut fired), &mut whole, &mut spans)?;
        if block.in_rows() {
            block.columns(simd, parts, (&mut tally.units, &mut fired), whole.negatives > 0);
        } else {
            tally.units.add(&of_planes);
        }
        add(&mut tally.units.fired, &fired);
        block.slopes(&mut tally.units.passed, &fired, &mut whole);
        let (samples, values) = ((block.ys.len() / block.sample()) as u64, block.ys.len() as u64);
        tally.samples += samples;
        tally.values += values;
        tally.zeros += whole.zeros;
        tally.negatives += whole.negatives;
        tally.positives += values - whole.zeros - whole.negatives;
        tally.near_zeros += whole.near_zeros;
        tally.flat_low += whole.flat_low;
        tally.flat_high += whole.flat_high;
        if parts.moments {
            tally.moments.merge(&spans.moments(simd, block.ys));
        }
        spans.end(values - whole.zeros, &mut tally.histogram);
        if parts.histogram {
            tally.histogram.zeros += whole.zeros;
        }
        tally.per_sample.merge(&whole.per_sample);
        Some(())
    }
}

impl Batch<'_> {
    /// Whether values that lie side by side are a row of `(.., units)`, which has one of every unit, and not a plane of
    /// `(N, units, positions)`, which has all of one unit in one sample.
    fn in_rows(&self) -> bool {
        self.last || self.positions == 1
    }

    /// The length of a row or a plane.
    fn run(&self) -> usize {
        if self.in_rows() { self.units } else { self.positions }
    }

    /// What samples add up to, and the units of planes.
    #[inline(always)]
    fn samples<S: Simd>(
        &self,
        simd: S,
        parts: Parts,
        (units, fired): (&mut Units, &mut [u64]),
        whole: &mut Whole,
        spans: &mut Spans,
    ) -> Option<()> {
        let (mut samples, in_rows) = (Samples::new(self.ys.len() / self.sample()), self.in_rows());
        for sample in self.ys.chunks_exact(self.sample()) {
            let (mut zeros, mut sum_abs, mut sum_squares) = (0, 0.0, 0.0);
            for (u, run) in sample.chunks_exact(self.run()).enumerate() {
                for ys in run.chunks(CHUNK) {
                    let background = if in_rows { 0.0 } else { background_of(ys) };
                    let span = spans.measure(simd, ys, background)?;
                    zeros += span.zeros;
                    whole.negatives += span.negatives;
                    whole.near_zeros += span.near_zeros;
                    sum_abs += span.sum - 2.0 * span.below;
                    sum_squares += span.sum_squares;
                    if !in_rows {
                        fired[u] += ys.len() as u64 - span.zeros - span.negatives;
                        units.sum[u] += span.sum;
                        units.below[u] += span.below;
                        if parts.samples {
                            units.sum_squares[u] += span.sum_squares;
                        }
                    }
                }
            }
            whole.zeros += zeros;
            samples.active.push(self.sample() as u64 - zeros);
            samples.sum_abs.push(sum_abs);
            samples.sum_squares.push(sum_squares);
        }
        if parts.samples {
            whole.per_sample.add_all(self.sample() as u64, samples);
        }
        Some(())
    }

    /// Adds what every unit of `(.., units)` adds up to: as many units at a time as a vector has lanes, so that their sums stay in
    /// registers.
    #[inline(always)]
    fn columns<S: Simd>(
        &self,
        simd: S,
        parts: Parts,
        (units, all_fired): (&mut Units, &mut [u64]),
        has_negatives: bool,
    ) {
        let together = self.units / S::F32_LANES * S::F32_LANES;
        for first in (0..together).step_by(S::F32_LANES) {
            let own = first..first + S::F32_LANES;
            let (zero, nothing) = (simd.splat_f32s(0.0), [simd.splat_f64s(0.0); 2]);
            let (mut fired, mut sums, mut below, mut squares) =
                (simd.splat_u32s(0), nothing, nothing, nothing);
            for row in self.ys.chunks_exact(self.units) {
                let ys = S::as_simd_f32s(&row[own.clone()]).0[0];
                fired = count(simd, fired, simd.less_than_f32s(zero, ys));
                let ys: &[f32] = bytemuck::cast_slice(std::slice::from_ref(&ys));
                for (half, ys) in ys.chunks_exact(S::F64_LANES).enumerate() {
                    let ys = widen(simd, ys);
                    sums[half] = simd.add_f64s(sums[half], ys);
                    squares[half] = simd.mul_add_e_f64s(ys, ys, squares[half]);
                    if has_negatives {
                        below[half] = simd.add_f64s(below[half], simd.min_f64s(ys, nothing[0]));
                    }
                }
            }
            let fired: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&fired));
            all_fired[own.clone()].iter_mut().zip(fired).for_each(|(unit, n)| *unit = u64::from(*n));
            let add = |units: &mut [f64], sums: [S::f64s; 2]| {
                let units = S::as_mut_simd_f64s(&mut units[own.clone()]).0;
                units.iter_mut().zip(sums).for_each(|(unit, sum)| *unit = simd.add_f64s(*unit, sum));
            };
            add(&mut units.sum, sums);
            if has_negatives {
                add(&mut units.below, below);
            }
            if parts.samples {
                add(&mut units.sum_squares, squares);
            }
        }
        for row in self.ys.chunks_exact(self.units) {
            for (u, y) in (together..).zip(&row[together..]) {
                let y64 = f64::from(*y);
                all_fired[u] += u64::from(*y > 0.0);
                units.sum[u] += y64;
                units.below[u] += y64.min(0.0);
                if parts.samples {
                    units.sum_squares[u] += y64 * y64;
                }
            }
        }
    }

    /// What depends on f': values where it is flat, and observations that pass a gradient.
    #[inline(always)]
    fn slopes(&self, all_passed: &mut [u64], fired: &[u64], whole: &mut Whole) {
        let Some(activation) = self.activation else { return };
        if activation == Activation::Relu {
            // f' is 1 where the unit fires and 0, hence flat, elsewhere: no need to read `xs`.
            whole.flat_low = whole.zeros + whole.negatives;
            return add(all_passed, fired);
        }
        let mut passed = vec![0_u32; self.units];
        let mut slopes = [0.0_f32; CHUNK];
        for (row, xs) in self.xs.chunks_exact(self.run()).enumerate() {
            for (i, xs) in xs.chunks(CHUNK).enumerate() {
                let slopes = &mut slopes[..xs.len()];
                derivatives(activation, xs, slopes);
                let (mut low, mut high) = (0_u32, 0_u32);
                for (slope, &x) in slopes.iter().zip(xs) {
                    let flat = slope.abs() < FLAT;
                    low += u32::from(flat & (x <= 0.0));
                    high += u32::from(flat & (x > 0.0));
                }
                whole.flat_low += u64::from(low);
                whole.flat_high += u64::from(high);
                if self.in_rows() {
                    for (passed, slope) in passed[i * CHUNK..].iter_mut().zip(&*slopes) {
                        *passed += u32::from(*slope != 0.0);
                    }
                } else {
                    let mut count = 0_u32;
                    for slope in &*slopes {
                        count += u32::from(*slope != 0.0);
                    }
                    passed[row % self.units] += count;
                }
            }
        }
        all_passed.iter_mut().zip(passed).for_each(|(unit, n)| *unit += u64::from(n));
    }
}
