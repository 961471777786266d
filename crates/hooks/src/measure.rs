//! One pass over a batch's values: a vectorised kernel for finite values, and its plain twin, which reads
//! like the definitions, takes any values, and is what the kernel is tested against.

use rayon::prelude::*;
use taper_kernels::{Activation, derivatives, simd};
use taper_report::{Histogram, MAGNITUDES};

use crate::Parts;
use crate::moments::{Moments, sums};
use crate::tally::{FLAT, NEAR_ZERO, PerSample, Tally, Unit, sparseness};

/// Values that one task measures: they stay in a core's cache through all parts of the pass.
const BLOCK: usize = 32 * 1024;
/// Values in one inner loop.
const CHUNK: usize = 1024;

/// A batch at one site: `(N, units, positions)` in row-major order.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub activation: Activation,
    pub units: usize,
    pub positions: usize,
    pub xs: &'a [f32],
    pub ys: &'a [f32],
}

impl Batch<'_> {
    fn sample(&self) -> usize {
        self.units * self.positions
    }

    /// The tally of this batch. Blocks of samples are measured on all threads and merged in order; where they
    /// are cut depends on the shape alone.
    pub fn tally(self, parts: Parts) -> Tally {
        let mut tally = Tally::new(self.units);
        if self.ys.is_empty() {
            return tally;
        }
        let size = (BLOCK / self.sample()).max(1) * self.sample();
        let blocks: Vec<Tally> = self
            .ys
            .par_chunks(size)
            .zip(self.xs.par_chunks(size))
            .map(|(ys, xs)| {
                let block = Self { xs, ys, ..self };
                let finite = simd(
                    #[inline(always)]
                    || ys.iter().filter(|y| !y.is_finite()).count() == 0,
                );
                if finite { block.fast(parts) } else { block.plain(parts) }
            })
            .collect();
        blocks.iter().for_each(|block| tally.merge(block));
        tally
    }

    /// The definitions, value by value.
    pub fn plain(self, parts: Parts) -> Tally {
        let mut tally = Tally::new(self.units);
        let mut finite = Vec::new();
        for (xs, ys) in self.xs.chunks_exact(self.sample()).zip(self.ys.chunks_exact(self.sample())) {
            let (mut counted, mut active, mut sum_abs, mut sum_squares) = (0, 0, 0.0, 0.0);
            for (i, (&x, &y)) in xs.iter().zip(ys).enumerate() {
                tally.values += 1;
                tally.nan += u64::from(y.is_nan());
                tally.infinite += u64::from(y.is_infinite());
                if !y.is_finite() {
                    continue;
                }
                let slope = self.activation.derivative(x);
                tally.zeros += u64::from(y == 0.0);
                tally.negatives += u64::from(y < 0.0);
                tally.positives += u64::from(y > 0.0);
                tally.near_zeros += u64::from(y.abs() <= NEAR_ZERO);
                tally.flat_low += u64::from(slope.abs() < FLAT && x <= 0.0);
                tally.flat_high += u64::from(slope.abs() < FLAT && x > 0.0);
                let unit = &mut tally.units[i / self.positions];
                unit.observations += 1;
                unit.fired += u64::from(y > 0.0);
                unit.passed += u64::from(slope != 0.0);
                let y64 = y as f64;
                unit.sum += y64;
                unit.sum_abs += y64.abs();
                unit.sum_squares += y64 * y64;
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
            tally.per_sample.add(counted, active, sum_abs, sum_squares);
        }
        if parts.moments {
            tally.moments = Moments::of(&finite);
        }
        tally
    }

    /// The same for values that are all finite.
    fn fast(self, parts: Parts) -> Tally {
        let mut tally = Tally::new(self.units);
        tally.samples = (self.ys.len() / self.sample()) as u64;
        tally.values = self.ys.len() as u64;
        simd(
            #[inline(always)]
            || self.count(&mut tally),
        );
        if parts.moments {
            self.ys.chunks(CHUNK).for_each(|chunk| tally.moments.merge(&Moments::of(chunk)));
        }
        if parts.histogram {
            simd(
                #[inline(always)]
                || histogram(self.ys, &mut tally.histogram, tally.zeros),
            );
        }
        simd(
            #[inline(always)]
            || if self.positions == 1 { self.rows(&mut tally) } else { self.planes(&mut tally) },
        );
        let observations = tally.samples * self.positions as u64;
        tally.units.iter_mut().for_each(|unit| unit.observations = observations);
        tally
    }

    #[inline(always)]
    fn count(&self, tally: &mut Tally) {
        for ys in self.ys.chunks(CHUNK) {
            let (mut zeros, mut negatives, mut near) = (0_u32, 0_u32, 0_u32);
            for &y in ys {
                zeros += u32::from(y == 0.0);
                negatives += u32::from(y < 0.0);
                near += u32::from(y.abs() <= NEAR_ZERO);
            }
            tally.zeros += u64::from(zeros);
            tally.negatives += u64::from(negatives);
            tally.near_zeros += u64::from(near);
        }
        tally.positives = tally.values - tally.zeros - tally.negatives;
    }

    /// Calls `visit(slopes, xs)` with `f'` of up to [`CHUNK`] values at a time, and counts those that are flat.
    #[inline(always)]
    fn for_slopes(&self, xs: &[f32], tally: &mut Tally, mut visit: impl FnMut(&mut Tally, usize, &[f32])) {
        let mut slopes = [0.0_f32; CHUNK];
        for (i, xs) in xs.chunks(CHUNK).enumerate() {
            let slopes = &mut slopes[..xs.len()];
            derivatives(self.activation, xs, slopes);
            let (mut low, mut high) = (0_u32, 0_u32);
            for (slope, &x) in slopes.iter().zip(xs) {
                let flat = slope.abs() < FLAT;
                low += u32::from(flat & (x <= 0.0));
                high += u32::from(flat & (x > 0.0));
            }
            tally.flat_low += u64::from(low);
            tally.flat_high += u64::from(high);
            visit(tally, i * CHUNK, slopes);
        }
    }

    /// `(N, units)`: a row has one value of every unit.
    #[inline(always)]
    fn rows(&self, tally: &mut Tally) {
        for (xs, ys) in self.xs.chunks_exact(self.units).zip(self.ys.chunks_exact(self.units)) {
            for (unit, &y) in tally.units.iter_mut().zip(ys) {
                let y64 = y as f64;
                unit.fired += u64::from(y > 0.0);
                unit.sum += y64;
                unit.sum_abs += y64.abs();
                unit.sum_squares += y64 * y64;
            }
            self.for_slopes(xs, tally, |tally, start, slopes| {
                for (unit, slope) in tally.units[start..].iter_mut().zip(slopes) {
                    unit.passed += u64::from(*slope != 0.0);
                }
            });
            let (active, sum_abs, sum_squares) = magnitudes(ys);
            tally.per_sample.add(self.units as u64, active, sum_abs, sum_squares);
        }
    }

    /// `(N, units, positions)`: a plane has all values of one unit in one sample.
    #[inline(always)]
    fn planes(&self, tally: &mut Tally) {
        for (xs, ys) in self.xs.chunks_exact(self.sample()).zip(self.ys.chunks_exact(self.sample())) {
            let (mut sample_active, mut sample_abs, mut sample_squares) = (0, 0.0, 0.0);
            let planes = xs.chunks_exact(self.positions).zip(ys.chunks_exact(self.positions));
            for (u, (xs, ys)) in planes.enumerate() {
                let mut fired = 0_u32;
                for &y in ys {
                    fired += u32::from(y > 0.0);
                }
                let [sum] = sums(ys, |y| [y]);
                let (active, sum_abs, sum_squares) = magnitudes(ys);
                let unit: &mut Unit = &mut tally.units[u];
                unit.fired += u64::from(fired);
                unit.sum += sum;
                unit.sum_abs += sum_abs;
                unit.sum_squares += sum_squares;
                sample_active += active;
                sample_abs += sum_abs;
                sample_squares += sum_squares;
                if self.activation == Activation::Relu {
                    // f' is 1 where the unit fires and 0, hence flat, elsewhere: no need to read `xs`.
                    tally.units[u].passed += u64::from(fired);
                    tally.flat_low += (ys.len() as u64) - u64::from(fired);
                } else {
                    self.for_slopes(xs, tally, |tally, _, slopes| {
                        let mut passed = 0_u32;
                        for slope in slopes {
                            passed += u32::from(*slope != 0.0);
                        }
                        tally.units[u].passed += u64::from(passed);
                    });
                }
            }
            tally.per_sample.add(self.sample() as u64, sample_active, sample_abs, sample_squares);
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
        self.counted += 1;
        self.active += active;
        self.min_active = self.min_active.min(active);
        self.max_active = self.max_active.max(active);
        self.all_zero += u64::from(active == 0);
        if let Some((population, hoyer)) = sparseness(counted, sum_abs, sum_squares) {
            self.scored += 1;
            self.population += population;
            self.hoyer += hoyer;
        }
    }
}

/// How many values are not zero, and the sums of magnitudes and of squares.
#[inline(always)]
fn magnitudes(ys: &[f32]) -> (u64, f64, f64) {
    let mut active = 0_u32;
    for &y in ys {
        active += u32::from(y != 0.0);
    }
    let [sum_abs, sum_squares] = sums(ys, |y| [y.abs(), y * y]);
    (u64::from(active), sum_abs, sum_squares)
}

/// Counts finite values; `zeros` of them are known to be zero.
///
/// Four tables take turns: when many values fall into one bin, as zeros do, each count would otherwise wait
/// for the one before.
#[inline(always)]
fn histogram(ys: &[f32], histogram: &mut Histogram, zeros: u64) {
    const SIGN: usize = 512;
    let mut tables = [[0_u32; 2 * SIGN]; 4];
    let mut bins = [0_u16; CHUNK];
    let mut negative_zeros = 0_u32;
    for ys in ys.chunks(CHUNK) {
        for (bin, &y) in bins.iter_mut().zip(ys) {
            *bin = (Histogram::magnitude(y) | (y.to_bits() >> 31 << 9) as usize) as u16;
            negative_zeros += u32::from(y.to_bits() == 1 << 31);
        }
        for quad in bins[..ys.len()].chunks(4) {
            for (table, &bin) in tables.iter_mut().zip(quad) {
                table[bin as usize % (2 * SIGN)] += 1;
            }
        }
    }
    let count = |bin: usize| tables.iter().map(|t| u64::from(t[bin])).sum::<u64>();
    for bin in 0..MAGNITUDES {
        histogram.positive[bin] += count(bin);
        histogram.negative[bin] += count(SIGN + bin);
    }
    // Zeros fell into the bins of the smallest magnitudes.
    histogram.positive[0] -= zeros - u64::from(negative_zeros);
    histogram.negative[0] -= u64::from(negative_zeros);
    histogram.zeros += zeros;
}

#[cfg(test)]
mod tests;
