//! The pass over finite values in vector code.
//!
//! Rows or planes are measured span by span, while they lie in the first-level cache, so the values are read from
//! memory once.

use pulp::{Simd, WithSimd};
use taper_kernels::{Activation, derivatives};

use super::Batch;
use super::span::{Span, Spans, widen};
use crate::Parts;
use crate::moments::CHUNK;
use crate::tally::{FLAT, PerSample, Tally};

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

/// What is added up for every unit of a block.
struct Units {
    fired: Vec<u32>,
    passed: Vec<u32>,
    sum: Vec<f64>,
    sum_abs: Vec<f64>,
    sum_squares: Vec<f64>,
}

impl Units {
    /// Nothing, for so many units.
    fn new(units: usize) -> Self {
        let (none, nothing) = (|| vec![0; units], || vec![0.0; units]);
        Self { fired: none(), passed: none(), sum: nothing(), sum_abs: nothing(), sum_squares: nothing() }
    }
}

impl WithSimd for Fast<'_> {
    type Output = Option<()>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<()> {
        let Self { block, parts, tally } = self;
        let (mut whole, mut units, mut spans) =
            (Whole::default(), Units::new(block.units), Spans::new(parts));
        block.samples(simd, parts, &mut units, &mut whole, &mut spans)?;
        if block.positions == 1 {
            block.columns(simd, parts, &mut units, whole.negatives > 0);
        }
        block.slopes(&mut units, &mut whole);
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
        if parts.histogram {
            spans.pour(&mut tally.histogram);
            tally.histogram.zeros += whole.zeros;
        }
        let observations = samples * block.positions as u64;
        for (i, unit) in tally.units.iter_mut().enumerate() {
            unit.observations += observations;
            unit.fired += u64::from(units.fired[i]);
            unit.passed += u64::from(units.passed[i]);
            unit.sum += units.sum[i];
            unit.sum_abs += units.sum_abs[i];
            unit.sum_squares += units.sum_squares[i];
        }
        tally.per_sample.merge(&whole.per_sample);
        Some(())
    }
}

impl Batch<'_> {
    /// Values that lie side by side: a row of `(N, units)`, which has one of every unit, or a plane of
    /// `(N, units, positions)`, which has all of one unit in one sample.
    fn run(&self) -> usize {
        if self.positions == 1 { self.units } else { self.positions }
    }

    /// What samples add up to, and the units of planes.
    #[inline(always)]
    fn samples<S: Simd>(
        &self,
        simd: S,
        parts: Parts,
        units: &mut Units,
        whole: &mut Whole,
        spans: &mut Spans,
    ) -> Option<()> {
        for sample in self.ys.chunks_exact(self.sample()) {
            let (mut active, mut sum_abs, mut sum_squares) = (0, 0.0, 0.0);
            for (u, run) in sample.chunks_exact(self.run()).enumerate() {
                for ys in run.chunks(CHUNK) {
                    let span = spans.measure(simd, ys)?;
                    whole.add(&span);
                    active += ys.len() as u64 - span.zeros;
                    sum_abs += span.sum_abs;
                    sum_squares += span.sum_squares;
                    if self.positions > 1 {
                        units.fired[u] += (ys.len() as u64 - span.zeros - span.negatives) as u32;
                        units.sum[u] += span.sum;
                        units.sum_abs[u] += span.sum_abs;
                        if parts.samples {
                            units.sum_squares[u] += span.sum_squares;
                        }
                    }
                }
            }
            if parts.samples {
                whole.per_sample.add(self.sample() as u64, active, sum_abs, sum_squares);
            }
        }
        Some(())
    }

    /// What every unit of `(N, units)` adds up to.
    #[inline(always)]
    fn columns<S: Simd>(&self, simd: S, parts: Parts, units: &mut Units, has_negatives: bool) {
        let Units { fired, sum, sum_abs, sum_squares, .. } = units;
        let nothing = vec![0.0; self.units];
        // Four rows at once: a unit's sums are loaded and stored once for all of them.
        for rows in self.ys.chunks(4 * self.units) {
            let row = |i: usize| rows.get(i * self.units..(i + 1) * self.units).unwrap_or(&nothing);
            let rows = [row(0), row(1), row(2), row(3)];
            add_squares_too(simd, rows, sum, sum_squares);
            add_columns(fired, rows, |y| u32::from(y > 0.0));
            if has_negatives {
                add_columns(sum_abs, rows, |y| f64::from(y.abs()));
            }
        }
        if !has_negatives {
            sum_abs.copy_from_slice(sum);
        }
        if !parts.samples {
            sum_squares.fill(0.0);
        }
    }

    /// What depends on f': values where it is flat, and observations that pass a gradient.
    #[inline(always)]
    fn slopes(&self, units: &mut Units, whole: &mut Whole) {
        let Units { fired, passed, .. } = units;
        if self.activation == Activation::Relu {
            // f' is 1 where the unit fires and 0, hence flat, elsewhere: no need to read `xs`.
            whole.flat_low = whole.zeros + whole.negatives;
            passed.copy_from_slice(fired);
            return;
        }
        let mut slopes = [0.0_f32; CHUNK];
        for (row, xs) in self.xs.chunks_exact(self.run()).enumerate() {
            for (i, xs) in xs.chunks(CHUNK).enumerate() {
                let slopes = &mut slopes[..xs.len()];
                derivatives(self.activation, xs, slopes);
                let (mut low, mut high) = (0_u32, 0_u32);
                for (slope, &x) in slopes.iter().zip(xs) {
                    let flat = slope.abs() < FLAT;
                    low += u32::from(flat & (x <= 0.0));
                    high += u32::from(flat & (x > 0.0));
                }
                whole.flat_low += u64::from(low);
                whole.flat_high += u64::from(high);
                if self.positions == 1 {
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
    }
}

/// Adds `of` every value to its column's sum.
#[inline(always)]
fn add_columns<T: Copy + std::ops::Add<Output = T>>(
    sums: &mut [T],
    rows: [&[f32]; 4],
    of: impl Fn(f32) -> T,
) {
    let [a, b, c, d] = rows;
    for ((((sum, &a), &b), &c), &d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *sum = *sum + ((of(a) + of(b)) + (of(c) + of(d)));
    }
}

/// Adds every value and its square to its column's sums.
#[inline(always)]
fn add_squares_too<S: Simd>(simd: S, rows: [&[f32]; 4], sums: &mut [f64], squares: &mut [f64]) {
    let whole = sums.len() / S::F64_LANES * S::F64_LANES;
    let [a, b, c, d] = rows.map(|row| row.chunks_exact(S::F64_LANES));
    let (vectors, sums) = S::as_mut_simd_f64s(sums);
    let (vectors_of_squares, squares) = S::as_mut_simd_f64s(squares);
    let vectors = vectors.iter_mut().zip(vectors_of_squares);
    for (((((sum, square), a), b), c), d) in vectors.zip(a).zip(b).zip(c).zip(d) {
        let (a, b, c, d) = (widen(simd, a), widen(simd, b), widen(simd, c), widen(simd, d));
        *sum = simd.add_f64s(*sum, simd.add_f64s(simd.add_f64s(a, b), simd.add_f64s(c, d)));
        let (ab, cd) = (simd.mul_f64s(a, a), simd.mul_add_e_f64s(c, c, *square));
        *square = simd.add_f64s(simd.mul_add_e_f64s(b, b, ab), simd.mul_add_e_f64s(d, d, cd));
    }
    for row in rows {
        for ((sum, square), &y) in sums.iter_mut().zip(&mut *squares).zip(&row[whole..]) {
            let y = f64::from(y);
            *sum += y;
            *square += y * y;
        }
    }
}

impl Whole {
    #[inline(always)]
    fn add(&mut self, span: &Span) {
        self.zeros += span.zeros;
        self.negatives += span.negatives;
        self.near_zeros += span.near_zeros;
    }
}
