//! The pass over finite values as loops that become vector code.
//!
//! Every loop runs over a piece that lies in the first-level cache, so the values are read from memory once.

use taper_kernels::{Activation, derivatives, simd};
use taper_report::{Histogram, MAGNITUDES};

use super::Batch;
use crate::Parts;
use crate::moments::{CHUNK, Moments, Wide};
use crate::tally::{FLAT, NEAR_ZERO, Tally};

impl Batch<'_> {
    /// The tally of a block whose `ys` are all finite.
    pub fn fast(self, parts: Parts) -> Tally {
        let mut tally = Tally::new(self.units);
        tally.samples = (self.ys.len() / self.sample()) as u64;
        tally.values = self.ys.len() as u64;
        let mut bins = parts.histogram.then(Bins::new);
        simd(
            #[inline(always)]
            || {
                if self.positions == 1 {
                    for ys in self.ys.chunks(CHUNK) {
                        let (zeros, _) = count_signs(&mut tally, ys);
                        if zeros == ys.len() as u64 {
                            add_zeros(&mut tally, parts, zeros);
                        } else {
                            let wide = Wide::of(ys);
                            add_values(&mut tally, parts, ys, &wide, wide.sum(), bins.as_mut());
                        }
                    }
                    self.rows(&mut tally, parts);
                } else {
                    self.planes(&mut tally, parts, bins.as_mut());
                }
                self.slopes(&mut tally);
            },
        );
        if let Some(bins) = bins {
            bins.pour(&mut tally.histogram, tally.zeros);
        }
        let observations = tally.samples * self.positions as u64;
        tally.units.iter_mut().for_each(|unit| unit.observations = observations);
        tally
    }

    /// `(N, units)`: a row has one value of every unit.
    #[inline(always)]
    fn rows(&self, tally: &mut Tally, parts: Parts) {
        let mut fired = vec![0_u32; self.units];
        let (mut sum, mut sum_abs, mut sum_squares) =
            (vec![0.0_f64; self.units], vec![0.0_f64; self.units], vec![0.0_f64; self.units]);
        for row in self.ys.chunks_exact(self.units) {
            for (fired, &y) in fired.iter_mut().zip(row) {
                *fired += u32::from(y > 0.0);
            }
            for (sum, &y) in sum.iter_mut().zip(row) {
                *sum += y as f64;
            }
            for (sum, &y) in sum_abs.iter_mut().zip(row) {
                *sum += y.abs() as f64;
            }
            if parts.samples {
                for (sum, &y) in sum_squares.iter_mut().zip(row) {
                    *sum += y as f64 * y as f64;
                }
                let (mut active, mut row_abs, mut row_squares) = (0, 0.0, 0.0);
                for ys in row.chunks(CHUNK) {
                    let wide = Wide::of(ys);
                    active += ys.len() as u64 - count_zeros(ys);
                    row_abs += wide.sum_abs();
                    row_squares += wide.sum_squares();
                }
                tally.per_sample.add(self.units as u64, active, row_abs, row_squares);
            }
        }
        for (i, unit) in tally.units.iter_mut().enumerate() {
            unit.fired = u64::from(fired[i]);
            (unit.sum, unit.sum_abs, unit.sum_squares) = (sum[i], sum_abs[i], sum_squares[i]);
        }
    }

    /// `(N, units, positions)`: a plane has all values of one unit in one sample.
    #[inline(always)]
    fn planes(&self, tally: &mut Tally, parts: Parts, mut bins: Option<&mut Bins>) {
        for sample in self.ys.chunks_exact(self.sample()) {
            let (mut active, mut sample_abs, mut sample_squares) = (0, 0.0, 0.0);
            for (u, plane) in sample.chunks_exact(self.positions).enumerate() {
                for ys in plane.chunks(CHUNK) {
                    let (zeros, negatives) = count_signs(tally, ys);
                    let n = ys.len() as u64;
                    if zeros == n {
                        add_zeros(tally, parts, n);
                        continue;
                    }
                    let wide = Wide::of(ys);
                    let sum = wide.sum();
                    let sum_abs = if negatives == 0 { sum } else { wide.sum_abs() };
                    let sum_squares = if parts.samples { wide.sum_squares() } else { 0.0 };
                    add_values(tally, parts, ys, &wide, sum, bins.as_deref_mut());
                    let unit = &mut tally.units[u];
                    unit.fired += n - zeros - negatives;
                    unit.sum += sum;
                    unit.sum_abs += sum_abs;
                    unit.sum_squares += sum_squares;
                    active += n - zeros;
                    sample_abs += sum_abs;
                    sample_squares += sum_squares;
                }
            }
            if parts.samples {
                tally.per_sample.add(self.sample() as u64, active, sample_abs, sample_squares);
            }
        }
    }

    /// What depends on f': values where it is flat, and observations that pass a gradient.
    #[inline(always)]
    fn slopes(&self, tally: &mut Tally) {
        if self.activation == Activation::Relu {
            // f' is 1 where the unit fires and 0, hence flat, elsewhere: no need to read `xs`.
            tally.flat_low = tally.values - tally.positives;
            tally.units.iter_mut().for_each(|unit| unit.passed = unit.fired);
            return;
        }
        let mut slopes = [0.0_f32; CHUNK];
        let run = if self.positions == 1 { self.units } else { self.positions };
        for (row, xs) in self.xs.chunks_exact(run).enumerate() {
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
                if self.positions == 1 {
                    for (unit, slope) in tally.units[i * CHUNK..].iter_mut().zip(&*slopes) {
                        unit.passed += u64::from(*slope != 0.0);
                    }
                } else {
                    let mut passed = 0_u32;
                    for slope in &*slopes {
                        passed += u32::from(*slope != 0.0);
                    }
                    tally.units[row % self.units].passed += u64::from(passed);
                }
            }
        }
    }
}

/// Counts zeros and negatives, which it returns, and what follows from them.
#[inline(always)]
fn count_signs(tally: &mut Tally, ys: &[f32]) -> (u64, u64) {
    let (mut negatives, mut near) = (0_u32, 0_u32);
    for &y in ys {
        negatives += u32::from(y < 0.0);
    }
    for &y in ys {
        near += u32::from(y.abs() <= NEAR_ZERO);
    }
    let (zeros, negatives) = (count_zeros(ys), u64::from(negatives));
    tally.zeros += zeros;
    tally.negatives += negatives;
    tally.positives += ys.len() as u64 - zeros - negatives;
    tally.near_zeros += u64::from(near);
    (zeros, negatives)
}

#[inline(always)]
fn count_zeros(ys: &[f32]) -> u64 {
    let mut zeros = 0_u32;
    for &y in ys {
        zeros += u32::from(y == 0.0);
    }
    u64::from(zeros)
}

/// Where everything is zero there is little to add.
#[inline(always)]
fn add_zeros(tally: &mut Tally, parts: Parts, count: u64) {
    if parts.moments {
        tally.moments.merge(&Moments::zeros(count));
    }
}

#[inline(always)]
fn add_values(tally: &mut Tally, parts: Parts, ys: &[f32], wide: &Wide, sum: f64, bins: Option<&mut Bins>) {
    if parts.moments {
        tally.moments.merge(&Moments::of_chunk(ys, wide, sum));
    }
    if let Some(bins) = bins {
        bins.add(ys);
    }
}

/// A histogram that is being counted.
///
/// Four tables take turns: when many values fall into one bin, each count would otherwise wait for the one
/// before.
struct Bins([[u32; Self::SIZE]; 4]);

impl Bins {
    const SIZE: usize = 1024;
    /// Added to the bin of a negative value.
    const SIGN: usize = 512;
    /// Where zeros go; they are counted elsewhere.
    const ZERO: u16 = 1023;

    fn new() -> Self {
        Self([[0; Self::SIZE]; 4])
    }

    #[inline(always)]
    fn add(&mut self, ys: &[f32]) {
        let mut bins = [0_u16; CHUNK];
        for (own, &y) in bins.iter_mut().zip(ys) {
            *own = bin(y);
        }
        for bins in bins[..ys.len()].chunks(8) {
            // Behind ReLU, most runs of eight are zero throughout.
            if bins != [Self::ZERO; 8] {
                for (i, &own) in bins.iter().enumerate() {
                    self.0[i % 4][own as usize % Self::SIZE] += 1;
                }
            }
        }
    }

    /// Adds the counts to a histogram, with `zeros` counted before.
    fn pour(&self, histogram: &mut Histogram, zeros: u64) {
        let count = |bin: usize| self.0.iter().map(|table| u64::from(table[bin])).sum::<u64>();
        for bin in 0..MAGNITUDES {
            histogram.positive[bin] += count(bin);
            histogram.negative[bin] += count(Self::SIGN + bin);
        }
        histogram.zeros += zeros;
    }
}

#[inline(always)]
fn bin(y: f32) -> u16 {
    let bin = (Histogram::magnitude(y) as u32 | y.to_bits() >> 31 << 9) as u16;
    if y == 0.0 { Bins::ZERO } else { bin }
}
