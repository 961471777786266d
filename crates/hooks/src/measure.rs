//! One pass over a batch's values: here the plain way, which reads like the definitions and takes any values;
//! in `fast` the vectorised one for finite values, which is tested against it.

mod apart;
mod bins;
mod fast;
mod span;

use rayon::prelude::*;
use taper_kernels::Activation;

use self::fast::Samples;

use crate::Parts;
use crate::moments::Moments;
use crate::tally::{FLAT, NEAR_ZERO, PerSample, Tally, scores, sparseness};

/// Values that make a block at least, so that the work outweighs sharing it.
const BLOCK: usize = 16 * 1024;
/// Blocks of a batch at most, as each has a tally; they are shared out among the threads.
const BLOCKS: usize = 32;
/// Observations of a unit in a block at least: with fewer, more would be read and written of its sums than of its
/// values.
const OBSERVATIONS: usize = 64;

/// A batch at one site, in row-major order: `(N, positions, units)` where the units are `last`, else
/// `(N, units, positions)`.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    /// `None` where there is no f'.
    pub activation: Option<Activation>,
    pub units: usize,
    pub last: bool,
    pub positions: usize,
    pub xs: &'a [f32],
    pub ys: &'a [f32],
}

impl Batch<'_> {
    fn sample(&self) -> usize {
        self.units * self.positions
    }

    /// Adds this batch to its site's tallies, of which every block of samples has its own. Blocks are measured on all
    /// threads; where they are cut depends on the shape alone.
    pub fn add_to(self, tallies: &mut Vec<Tally>, parts: Parts) {
        if self.ys.is_empty() {
            return;
        }
        let least = OBSERVATIONS.div_ceil(self.positions);
        let samples = self.ys.len() / self.sample();
        let size = samples.div_ceil(BLOCKS).max(BLOCK / self.sample()).max(least) * self.sample();
        if tallies.len() * size < self.ys.len() {
            tallies.resize_with(self.ys.len().div_ceil(size), || Tally::new(self.units));
        }
        let add = |((tally, ys), xs): ((&mut Tally, _), _)| {
            let block = Self { xs, ys, ..self };
            if !block.fast(parts, tally) {
                block.plain(parts, tally);
            }
        };
        let blocks = tallies.iter_mut().zip(self.ys.chunks(size)).zip(self.xs.chunks(size));
        if blocks.len() == 1 || rayon::current_num_threads() == 1 {
            // Waking a thread costs as much as thousands of values.
            blocks.for_each(add);
        } else {
            blocks.collect::<Vec<_>>().into_par_iter().for_each(add);
        }
    }

    /// The definitions, value by value.
    fn plain(self, parts: Parts, tally: &mut Tally) {
        let mut finite = Vec::new();
        for (xs, ys) in self.xs.chunks_exact(self.sample()).zip(self.ys.chunks_exact(self.sample())) {
            let (mut counted, mut active, mut sum_abs, mut sum_squares) = (0, 0, 0.0, 0.0);
            for (i, (&x, &y)) in xs.iter().zip(ys).enumerate() {
                let unit = if self.last { i % self.units } else { i / self.positions };
                let units = &mut tally.units;
                tally.values += 1;
                tally.nan += u64::from(y.is_nan());
                tally.infinite += u64::from(y.is_infinite());
                if !y.is_finite() {
                    units.faulty[unit] += 1;
                    continue;
                }
                tally.zeros += u64::from(y == 0.0);
                tally.negatives += u64::from(y < 0.0);
                tally.positives += u64::from(y > 0.0);
                tally.near_zeros += u64::from(y.abs() <= NEAR_ZERO);
                units.fired[unit] += u64::from(y > 0.0);
                if let Some(f) = self.activation {
                    let slope = f.derivative(x);
                    tally.flat_low += u64::from(slope.abs() < FLAT && x <= 0.0);
                    tally.flat_high += u64::from(slope.abs() < FLAT && x > 0.0);
                    units.passed[unit] += u64::from(slope != 0.0);
                }
                let y64 = y as f64;
                units.sum[unit] += y64;
                units.below[unit] += y64.min(0.0);
                if parts.samples {
                    units.sum_squares[unit] += y64 * y64;
                }
                counted += 1;
                active += u64::from(y != 0.0);
                sum_abs += y64.abs();
                sum_squares += y64 * y64;
                if parts.histogram {
                    tally.histogram.add(y);
                }
                finite.push(y);
            }
            tally.samples += 1;
            if parts.samples {
                tally.per_sample.add(counted, active, sum_abs, sum_squares);
            }
        }
        if parts.moments {
            tally.moments.merge(&Moments::of(&finite));
        }
    }
}

impl PerSample {
    /// Adds one sample with `counted` finite values, of which `active` are not zero.
    #[inline(always)]
    fn add(&mut self, counted: u64, active: u64, sum_abs: f64, sum_squares: f64) {
        if counted == 0 {
            return;
        }
        self.count(active);
        if let Some((population, hoyer)) = sparseness(counted, sum_abs, sum_squares) {
            self.scored += 1;
            self.population += population;
            self.hoyer += hoyer;
        }
    }

    /// Counts a sample of which so many values are not zero.
    #[inline(always)]
    fn count(&mut self, active: u64) {
        self.counted += 1;
        self.active += active;
        self.min_active = self.min_active.min(active);
        self.max_active = self.max_active.max(active);
        self.all_zero += u64::from(active == 0);
    }

    /// Adds samples with `n` finite values each: the roots of all are drawn side by side.
    #[inline(always)]
    fn add_all(&mut self, n: u64, samples: Samples) {
        let Samples { active, mut sum_abs, mut sum_squares } = samples;
        active.into_iter().for_each(|active| self.count(active));
        if n < 2 {
            return;
        }
        let mut scored = 0;
        for (sum_abs, sum_squares) in sum_abs.iter_mut().zip(&mut sum_squares) {
            let is_scored = *sum_squares > 0.0;
            let (population, hoyer) = scores(n as f64, *sum_abs, *sum_squares);
            scored += u64::from(is_scored);
            *sum_abs = if is_scored { population } else { 0.0 };
            *sum_squares = if is_scored { hoyer } else { 0.0 };
        }
        self.scored += scored;
        self.population += sum_abs.iter().sum::<f64>();
        self.hoyer += sum_squares.iter().sum::<f64>();
    }
}

#[cfg(test)]
mod tests;
