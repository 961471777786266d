//! What a run of values adds up to.
//!
//! Loops over floating-point sums and masks name their vectors, for the compiler finds them in the simplest loops
//! only; what is left to it here is of that kind. Counts are the same on every CPU. Sums are so to rounding, as they
//! have as many lanes as the CPU's vectors.

use std::cell::Cell;

use pulp::{Simd, bytemuck};
use taper_report::Histogram;

use super::apart::{Others, set_apart};
use super::bins::Bins;
use crate::Parts;
use crate::moments::{CHUNK, Moments};
use crate::tally::NEAR_ZERO;

/// What up to [`CHUNK`] finite values add up to.
pub(super) struct Span {
    pub zeros: u64,
    pub negatives: u64,
    pub near_zeros: u64,
    /// Of the values, of the negative ones, and, if `Parts::samples`, of all squares.
    pub sum: f64,
    pub below: f64,
    pub sum_squares: f64,
}

/// Where spans are measured: room for one, and what all so far add up to.
///
/// A CPU takes a load for one of a value that is still being stored where both addresses are the same modulo 4096, and
/// waits. Bins that are counted up between loads of values must therefore lie elsewhere within their page: those of
/// magnitudes from 2^-6 to 2^3 are around the start of one and 512 bytes behind it, and the others between.
///
/// Each thread keeps its own for its next block, with all bins at 0: there are 8,192 counts, and a block may have 16,384
/// values.
#[repr(C, align(4096))]
pub(super) struct Spans {
    bins: Bins,
    between: [f32; 32],
    /// What is neither zero nor the span's background: these two are only counted.
    others: Others,
    parts: Parts,
    /// Sums of powers of all values.
    powers: [f64; 4],
    min: f32,
    max: f32,
}

/// Others are padded to a multiple of this with zeros: two vectors, and no CPU has more lanes.
pub(super) const PADDING: usize = 32;

thread_local! {
    static KEPT: Cell<Option<Box<Spans>>> = const { Cell::new(None) };
}

impl Spans {
    /// Nothing is measured yet.
    #[inline(always)]
    pub fn start(parts: Parts) -> Box<Self> {
        let mut spans = KEPT.take().unwrap_or_else(|| {
            Box::new(Self {
                bins: Bins::new(),
                between: [0.0; 32],
                others: [0.0; CHUNK + PADDING],
                parts,
                powers: [0.0; 4],
                min: 0.0,
                max: 0.0,
            })
        });
        (spans.parts, spans.powers) = (parts, [0.0; 4]);
        (spans.min, spans.max) = (f32::INFINITY, f32::NEG_INFINITY);
        spans
    }

    /// Adds all that was counted, of so many values that are not zero, to a histogram.
    #[inline(always)]
    pub fn end(mut self: Box<Self>, values: u64, histogram: &mut Histogram) {
        if self.parts.histogram {
            self.bins.pour(values, histogram);
        }
        KEPT.set(Some(self));
    }

    /// Of all values so far, which are these.
    ///
    /// From their powers about zero, to which most values behind ReLU add nothing. Values that keep together far from
    /// zero are read once more, for powers about their mean.
    #[inline(always)]
    pub fn moments<S: Simd>(&self, simd: S, ys: &[f32]) -> Moments {
        let (n, extremes) = (ys.len() as u64, (self.min, self.max));
        let moments = Moments::about(0.0, self.powers, n, extremes);
        if moments.keeps_digits(self.powers[1]) {
            return moments;
        }
        let mut powers = [0.0; 4];
        for ys in ys.chunks(CHUNK) {
            let (vectors, rest) = ys.as_chunks();
            let mut sums = Sums::new(simd, moments.mean);
            for ys in vectors {
                sums.add::<4>(simd, ys);
            }
            add(&mut powers, sums.powers::<4>(simd));
            for &y in rest {
                let d = f64::from(y) - moments.mean;
                add(&mut powers, [d, d * d, d * d * d, d * d * d * d]);
            }
        }
        Moments::about(moments.mean, powers, n, extremes)
    }

    /// Measures 1 to [`CHUNK`] values; `None` if one is not finite.
    ///
    /// Behind ReLU most values are zero, and most values of a feature map may be what the background of the image
    /// gives: so these two are only counted. The background is 0 where
    /// there is none.
    #[inline(always)]
    pub fn measure<S: Simd>(&mut self, simd: S, ys: &[f32], background: f32) -> Option<Span> {
        let parts = self.parts;
        if !background.is_finite() {
            return None;
        }
        let apart = set_apart(simd, ys, background, &mut self.others);
        let (mut powers, near_zeros) = match parts {
            Parts { moments: true, .. } => self.sums::<4, S>(simd, apart.others),
            Parts { samples: true, .. } => self.sums::<2, S>(simd, apart.others),
            _ => self.sums::<1, S>(simd, apart.others),
        };
        // What is not finite in f32 stays so in every sum, and nothing finite overflows f64 here.
        if !powers[0].is_finite() {
            return None;
        }
        if parts.histogram {
            self.bins.add_many(background, apart.backgrounds);
        }
        let others = &self.others[..apart.others.next_multiple_of(PADDING)];
        let (mut negatives, mut below) = if apart.min < 0.0 { negatives(simd, others) } else { (0, 0.0) };
        let (zeros, backgrounds) = (apart.zeros as u64, apart.backgrounds as u64);
        if background < 0.0 {
            negatives += backgrounds;
            below += backgrounds as f64 * f64::from(background);
        }
        let mut power = backgrounds as f64;
        for sum in &mut powers {
            power *= f64::from(background);
            *sum += power;
        }
        add(&mut self.powers, powers);
        (self.min, self.max) = (self.min.min(apart.min), self.max.max(apart.max));
        Some(Span {
            zeros,
            negatives,
            near_zeros: near_zeros + zeros + if background.abs() <= NEAR_ZERO { backgrounds } else { 0 },
            sum: powers[0],
            below,
            sum_squares: powers[1],
        })
    }

    /// Sums of powers of the first `n` others, and how many of them are near zero. Counts them in the histogram too:
    /// in turn with the sums, as the CPU can do both at once.
    #[inline(always)]
    fn sums<const K: usize, S: Simd>(&mut self, simd: S, n: usize) -> ([f64; 4], u64) {
        self.others[n..][..PADDING].fill(0.0);
        let (mut sums, histogram) = (Sums::new(simd, 0.0), self.parts.histogram);
        let (vectors, rest) = self.others[..n].as_chunks();
        for ys in vectors {
            if histogram {
                self.bins.add(ys);
            }
            sums.add::<K>(simd, ys);
        }
        if histogram {
            self.bins.add(rest);
        }
        let padding = n.next_multiple_of(PADDING) - n;
        if padding > 0 {
            let (padded, _) = self.others[n - rest.len()..].split_first_chunk().expect("there is room");
            sums.add::<K>(simd, padded);
        }
        (sums.powers::<K>(simd), total(simd, sums.near_zeros) - padding as u64)
    }
}

/// What most values of a feature map may be: that at one of the ends, as the background has the corners; the smaller
/// one, which is more likely to be it.
#[inline(always)]
pub(super) fn background_of(ys: &[f32]) -> f32 {
    let (first, last) = (ys[0], ys[ys.len() - 1]);
    if last.abs() < first.abs() { last } else { first }
}

#[inline(always)]
fn add(sums: &mut [f64; 4], powers: [f64; 4]) {
    for (sum, power) in sums.iter_mut().zip(powers) {
        *sum += power;
    }
}

/// Sums of powers of deviations from a shift, and how many values are near zero, in lanes.
struct Sums<S: Simd> {
    shift: S::f64s,
    /// Two of each power, so that an addition need not wait for the one before.
    powers: [[S::f64s; 4]; 2],
    near_zeros: S::u32s,
}

impl<S: Simd> Sums<S> {
    #[inline(always)]
    fn new(simd: S, shift: f64) -> Self {
        let zero = simd.splat_f64s(0.0);
        Self { shift: simd.splat_f64s(shift), powers: [[zero; 4]; 2], near_zeros: simd.splat_u32s(0) }
    }

    /// Adds values to the sums of the first `K` powers.
    #[inline(always)]
    fn add<const K: usize>(&mut self, simd: S, ys: &[f32; PADDING]) {
        let bound = simd.splat_f32s(NEAR_ZERO);
        for &ys in S::as_simd_f32s(ys).0 {
            self.near_zeros =
                count(simd, self.near_zeros, simd.less_than_or_equal_f32s(simd.abs_f32s(ys), bound));
        }
        for pair in ys.chunks_exact(2 * S::F64_LANES) {
            for (sums, ys) in self.powers.iter_mut().zip(pair.chunks_exact(S::F64_LANES)) {
                let d = simd.sub_f64s(widen(simd, ys), self.shift);
                sums[0] = simd.add_f64s(sums[0], d);
                if K > 1 {
                    let square = simd.mul_f64s(d, d);
                    sums[1] = simd.add_f64s(sums[1], square);
                    if K > 2 {
                        sums[2] = simd.mul_add_e_f64s(square, d, sums[2]);
                        sums[3] = simd.mul_add_e_f64s(square, square, sums[3]);
                    }
                }
            }
        }
    }

    /// The sums of the first `K` powers; of the others zero.
    #[inline(always)]
    fn powers<const K: usize>(&self, simd: S) -> [f64; 4] {
        let mut powers = [0.0; 4];
        for (i, power) in powers.iter_mut().enumerate().take(K) {
            *power = simd.reduce_sum_f64s(simd.add_f64s(self.powers[0][i], self.powers[1][i]));
        }
        powers
    }
}

/// A vector of values in f64.
#[inline(always)]
pub(super) fn widen<S: Simd>(simd: S, ys: &[f32]) -> S::f64s {
    let mut wide = simd.splat_f64s(0.0);
    let lanes: &mut [f64] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut wide));
    for (lane, y) in lanes.iter_mut().zip(ys) {
        *lane = f64::from(*y);
    }
    wide
}

/// How many values are negative, and their sum.
#[inline(always)]
fn negatives<S: Simd>(simd: S, ys: &[f32]) -> (u64, f64) {
    let (zero, mut negatives, mut sum) = (simd.splat_f32s(0.0), simd.splat_u32s(0), simd.splat_f64s(0.0));
    for &ys in S::as_simd_f32s(ys).0 {
        negatives = count(simd, negatives, simd.less_than_f32s(ys, zero));
        let below = simd.min_f32s(ys, zero);
        let below: &[f32] = bytemuck::cast_slice(std::slice::from_ref(&below));
        for below in below.chunks_exact(S::F64_LANES) {
            sum = simd.add_f64s(sum, widen(simd, below));
        }
    }
    (total(simd, negatives), simd.reduce_sum_f64s(sum))
}

/// Adds 1 in the lanes where `mask` is set.
#[inline(always)]
pub(super) fn count<S: Simd>(simd: S, counts: S::u32s, mask: S::m32s) -> S::u32s {
    simd.add_u32s(counts, simd.select_u32s(mask, simd.splat_u32s(1), simd.splat_u32s(0)))
}

/// The sum of a vector's lanes.
#[inline(always)]
fn total<S: Simd>(_: S, counts: S::u32s) -> u64 {
    let lanes: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&counts));
    u64::from(lanes.iter().sum::<u32>())
}
