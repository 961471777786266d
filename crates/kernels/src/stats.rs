//! Sums, counts and histogram of a block of values, in one pass of vector code.
//!
//! Spans of up to 704 values are measured while they are in the first-level cache, so values are read from memory once. Sums
//! per unit of rows are added in a second pass over the block.

mod bins;
pub mod device;
mod slopes;
mod span;
mod units;

use pulp::{Arch, Simd, WithSimd};

pub use bins::Histogram;
pub use slopes::{FLAT, Slopes};
pub use span::NEAR_ZERO;
pub use units::UnitSums;

use span::{CHUNK, PADDING, PowerSums, Spans, background_of};

/// Values of some samples, row-major.
///
/// # Shapes
/// `xs` and `ys`: `(samples, positions, units)` if `units_last`, else `(samples, units, positions)`.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    /// The activation function; `None` if there is no f'.
    pub slopes: Option<&'a Slopes>,
    /// Units of a sample.
    pub units: usize,
    /// Values of each unit in a sample.
    pub positions: usize,
    /// Whether units are the last axis.
    pub units_last: bool,
    /// Inputs of the activation function. They are not read for ReLU.
    pub xs: &'a [f32],
    /// The measured values.
    pub ys: &'a [f32],
}

/// The sums of a block.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Values equal to 0.
    pub zeros: u64,
    /// Values below 0.
    pub negatives: u64,
    /// Values up to [`NEAR_ZERO`] in magnitude.
    pub near_zeros: u64,
    /// Values with `|f'(x)| < FLAT` and `x <= 0`.
    pub flat_low: u64,
    /// Values with `|f'(x)| < FLAT` and `x > 0`.
    pub flat_high: u64,
    /// Sums of the first four powers of the values. Without `moments` the third and fourth are 0.
    pub powers: [f64; 4],
    /// The smallest value.
    pub min: f32,
    /// The largest value.
    pub max: f32,
    /// The sums of each sample.
    pub samples: Vec<Sample>,
}

/// The sums of a sample.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Values other than 0.
    pub active: u64,
    /// Sum of the magnitudes.
    pub sum_abs: f64,
    /// Sum of the squares; 0 if neither moments nor sums of squares are wanted.
    pub sum_squares: f64,
}

/// Measures a block of finite values. Adds to the sums of its units and, if given, to the histogram.
///
/// Returns `None`, and adds nothing, if one of `ys` is not finite.
///
/// # Panics
/// When the block has no units or positions, or the slices of `units` or of the histogram are shorter than they must be.
pub fn measure(
    block: Block<'_>,
    units: UnitSums<'_>,
    histogram: Option<Histogram<'_>>,
    moments: bool,
) -> Option<Totals> {
    Arch::new().dispatch(Measure { block, units, histogram, moments })
}

/// Sums of the first four powers of the deviations of `ys` from `shift`.
pub fn powers(ys: &[f32], shift: f64) -> [f64; 4] {
    Arch::new().dispatch(Powers { ys, shift })
}

struct Measure<'a> {
    block: Block<'a>,
    units: UnitSums<'a>,
    histogram: Option<Histogram<'a>>,
    moments: bool,
}

impl WithSimd for Measure<'_> {
    type Output = Option<Totals>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<Totals> {
        let Self { block, mut units, histogram, moments } = self;
        let (in_rows, size) = (block.in_rows(), block.sample());
        let powers = if moments { 4 } else { 1 + usize::from(units.sum_squares.is_some()) };
        let mut spans = Spans::new(powers, histogram.is_some());
        let mut totals = Totals::none(block.ys.len() / size);
        // Sums of this block only, because a later value may not be finite.
        let mut fired = vec![0; block.units];
        let mut planes = vec![[0.0; 3]; if in_rows { 0 } else { block.units }];
        for sample in block.ys.chunks_exact(size) {
            let mut sums = Sample { active: size as u64, ..Default::default() };
            for (u, run) in sample.chunks_exact(block.run()).enumerate() {
                for ys in run.chunks(CHUNK) {
                    let background = if in_rows { 0.0 } else { background_of(ys) };
                    let span = spans.measure(simd, ys, background)?;
                    sums.active -= span.zeros;
                    sums.sum_abs += span.powers[0] - 2.0 * span.below;
                    sums.sum_squares += span.powers[1];
                    if !in_rows {
                        fired[u] += ys.len() as u64 - span.zeros - span.negatives;
                        let own = [span.powers[0], span.below, span.powers[1]];
                        planes[u].iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
                    }
                    totals.add(&span);
                }
            }
            totals.samples.push(sums);
        }
        if in_rows {
            units.add_rows(simd, block.ys, &mut fired, totals.negatives > 0);
        } else {
            units.add_planes(&planes);
        }
        units.fired.iter_mut().zip(&fired).for_each(|(sum, n)| *sum += n);
        block.add_slopes(simd, &mut totals, &fired, units.passed);
        if let Some(histogram) = histogram {
            spans.bins.add_to(histogram);
        }
        Some(totals)
    }
}

impl Totals {
    fn none(samples: usize) -> Self {
        Self {
            zeros: 0,
            negatives: 0,
            near_zeros: 0,
            flat_low: 0,
            flat_high: 0,
            powers: [0.0; 4],
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            samples: Vec::with_capacity(samples),
        }
    }

    #[inline(always)]
    fn add(&mut self, span: &span::Span) {
        self.zeros += span.zeros;
        self.negatives += span.negatives;
        self.near_zeros += span.near_zeros;
        self.powers.iter_mut().zip(span.powers).for_each(|(sum, power)| *sum += power);
        (self.min, self.max) = (self.min.min(span.min), self.max.max(span.max));
    }
}

impl Block<'_> {
    /// Values of a sample.
    pub fn sample(&self) -> usize {
        self.units * self.positions
    }

    /// Whether adjacent values are a row of `(.., units)`, one value of each unit, or a plane of `(samples, units,
    /// positions)`, all values of one unit in a sample.
    fn in_rows(&self) -> bool {
        self.units_last || self.positions == 1
    }

    /// The length of a row or a plane.
    fn run(&self) -> usize {
        if self.in_rows() { self.units } else { self.positions }
    }

    /// Counts values where f' is flat, and adds observations with `f'(x) ≠ 0` to `passed`.
    #[inline(always)]
    fn add_slopes<S: Simd>(&self, simd: S, totals: &mut Totals, fired: &[u64], passed: &mut [u64]) {
        let Some(slopes) = self.slopes else { return };
        if slopes.activation() == crate::Activation::Relu {
            // f' is 1 where the unit fires, and 0 elsewhere, so `xs` is not read.
            totals.flat_low = totals.zeros + totals.negatives;
            return passed.iter_mut().zip(fired).for_each(|(sum, n)| *sum += n);
        }
        // All observations pass, minus those that are found not to.
        let observations = (self.ys.len() / self.units) as u64;
        passed.iter_mut().for_each(|n| *n += observations);
        let mut stopped = vec![0_u32; self.units];
        let mut add = |[low, high]: [u64; 2]| {
            totals.flat_low += low;
            totals.flat_high += high;
        };
        let runs = (CHUNK / self.run()).max(1);
        for (i, chunk) in self.xs.chunks(runs * self.run()).enumerate() {
            if let Some(flat) = slopes.look_up(simd, chunk) {
                add(flat);
                continue;
            }
            for (j, run) in chunk.chunks_exact(self.run()).enumerate() {
                for (k, xs) in run.chunks(CHUNK).enumerate() {
                    let own = &mut [0.0; CHUNK][..xs.len()];
                    add(slopes.evaluate(xs, own));
                    if self.in_rows() {
                        for (n, slope) in stopped[k * CHUNK..].iter_mut().zip(own) {
                            *n += u32::from(*slope == 0.0);
                        }
                    } else {
                        let zeros = own.iter().map(|slope| u32::from(*slope == 0.0)).sum::<u32>();
                        stopped[(i * runs + j) % self.units] += zeros;
                    }
                }
            }
        }
        passed.iter_mut().zip(stopped).for_each(|(n, stopped)| *n -= u64::from(stopped));
    }
}

struct Powers<'a> {
    ys: &'a [f32],
    shift: f64,
}

impl WithSimd for Powers<'_> {
    type Output = [f64; 4];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f64; 4] {
        let (vectors, rest) = self.ys.as_chunks::<PADDING>();
        let mut powers = [0.0; 4];
        for vectors in vectors.chunks(CHUNK / PADDING) {
            let mut sums = PowerSums::new(simd, self.shift);
            for ys in vectors {
                sums.add::<4, false>(simd, ys);
            }
            powers.iter_mut().zip(sums.powers::<4>(simd)).for_each(|(sum, power)| *sum += power);
        }
        for y in rest {
            let d = f64::from(*y) - self.shift;
            powers
                .iter_mut()
                .zip([d, d * d, d * d * d, d * d * d * d])
                .for_each(|(sum, power)| *sum += power);
        }
        powers
    }
}

#[cfg(test)]
mod tests;
