//! What a run of values adds up to.
//!
//! Loops over floating-point sums and masks name their vectors, for the compiler finds them in the simplest loops
//! only; what is left to it here is of that kind. Counts are the same on every CPU. Sums are so to rounding, as they
//! have as many lanes as the CPU's vectors.

use pulp::Simd;
use taper_report::Histogram;

use super::bins::Bins;
use crate::Parts;
use crate::moments::{CHUNK, Moments};
use crate::tally::NEAR_ZERO;

/// What up to [`CHUNK`] finite values add up to.
pub(super) struct Span {
    pub zeros: u64,
    pub negatives: u64,
    pub near_zeros: u64,
    /// Of the values, of their magnitudes, and, if `Parts::samples`, of their squares.
    pub sum: f64,
    pub sum_abs: f64,
    pub sum_squares: f64,
    /// Empty unless wanted.
    pub moments: Moments,
}

/// Where spans are measured: room for one, and the histogram of all so far.
pub(super) struct Spans {
    parts: Parts,
    /// The vectors that hold more than zeros and the span's background, which stands for both: these two are
    /// only counted.
    others: [f32; CHUNK + PADDING],
    /// The same in f64, or what is made of them.
    wide: [f64; CHUNK + PADDING],
    bins: Bins,
}

/// `others` are padded to a multiple of this with the background: no CPU has more lanes.
const PADDING: usize = 32;

impl Spans {
    #[inline(always)]
    pub fn new(parts: Parts) -> Self {
        let bins = Bins::new(parts.histogram);
        Self { parts, others: [0.0; CHUNK + PADDING], wide: [0.0; CHUNK + PADDING], bins }
    }

    /// Adds all that was counted to a histogram.
    pub fn pour(&self, histogram: &mut Histogram) {
        self.bins.pour(histogram);
    }

    /// Measures 1 to [`CHUNK`] values; `None` if one is not finite.
    ///
    /// Behind ReLU most values are zero, and most values of a feature map may be what the background of the image
    /// gives: so vectors of these two are only counted. Powers are summed up about the background. As one of the
    /// values it is at most √n standard deviations from their mean, so the central moments that follow from the
    /// powers lose few of f64's digits.
    #[inline(always)]
    pub fn measure<S: Simd>(&mut self, simd: S, ys: &[f32]) -> Option<Span> {
        let (background, parts) = (background_of(ys), self.parts);
        if !background.is_finite() {
            return None;
        }
        let (zeros, backgrounds, others) = set_apart(simd, ys, background, &mut self.others);
        let (others, wide) = (&self.others[..others], &mut self.wide[..others]);
        let shift = f64::from(background);
        for (wide, y) in wide.iter_mut().zip(others) {
            *wide = f64::from(*y) - shift;
        }
        let powers = match parts {
            Parts { moments: true, .. } => power_sums::<4, S>(simd, wide),
            Parts { samples: true, .. } => power_sums::<2, S>(simd, wide),
            _ => power_sums::<1, S>(simd, wide),
        };
        // What is not finite in f32 stays so in every sum, and nothing finite overflows f64 here.
        if !powers[0].is_finite() {
            return None;
        }
        if parts.histogram {
            self.bins.add(others, background, backgrounds);
        }
        let (near_zeros, mut min, mut max) = near_and_extremes(simd, others, background);
        if zeros > 0 {
            (min, max) = (min.min(0.0), max.max(0.0));
        }
        let (mut negatives, mut below) =
            if min < 0.0 { negatives(simd, others, background, wide) } else { (0, 0.0) };
        if background < 0.0 {
            negatives += backgrounds;
            below -= backgrounds as f64 * shift;
        }
        let not_zero = (ys.len() as u64 - zeros) as f64;
        let sum = powers[0] + not_zero * shift;
        let moments = if parts.moments {
            Moments::about(shift, with_zeros(powers, zeros, shift), ys.len() as u64, (min, max))
        } else {
            Moments::default()
        };
        Some(Span {
            zeros,
            negatives,
            near_zeros: near_zeros + zeros + if background.abs() <= NEAR_ZERO { backgrounds } else { 0 },
            sum,
            sum_abs: sum + 2.0 * below,
            sum_squares: if parts.samples {
                powers[1] + 2.0 * shift * powers[0] + not_zero * shift * shift
            } else {
                0.0
            },
            moments,
        })
    }
}

/// The value at one of the ends, as the background has the corners of a feature map; the smaller one, which is less
/// likely to lie far away from all others.
#[inline(always)]
fn background_of(ys: &[f32]) -> f32 {
    let (first, last) = (ys[0], ys[ys.len() - 1]);
    if last.abs() < first.abs() { last } else { first }
}

/// Counts zeros and other values equal to the background, and keeps the vectors that hold anything else, in which
/// zeros become the background. Returns the two counts and how many values were kept.
#[inline(always)]
fn set_apart<S: Simd>(simd: S, ys: &[f32], background: f32, kept: &mut [f32]) -> (u64, u64, usize) {
    let (vectors, rest) = S::as_simd_f32s(ys);
    let none = simd.splat_u32s(0);
    let mut apart = Apart { background: simd.splat_f32s(background), zeros: none, same: none, kept: 0 };
    let (room, _) = S::as_mut_simd_f32s(kept);
    for &ys in vectors {
        apart.add(simd, ys, room);
    }
    if !rest.is_empty() {
        apart.add(simd, simd.partial_load_f32s(rest), room);
    }
    // The last vector was filled up with zeros.
    let padding = if rest.is_empty() { 0 } else { (S::F32_LANES - rest.len()) as u64 };
    let (zeros, same) = (total(simd, apart.zeros), total(simd, apart.same));
    let n = apart.kept * S::F32_LANES;
    kept[n..n.next_multiple_of(PADDING)].fill(background);
    (zeros - padding, same - zeros, n.next_multiple_of(PADDING))
}

/// Counts in lanes, and how many vectors were kept.
struct Apart<S: Simd> {
    background: S::f32s,
    zeros: S::u32s,
    same: S::u32s,
    kept: usize,
}

impl<S: Simd> Apart<S> {
    #[inline(always)]
    fn add(&mut self, simd: S, ys: S::f32s, room: &mut [S::f32s]) {
        let is_zero = simd.equal_f32s(ys, simd.splat_f32s(0.0));
        let ys = simd.select_f32s(is_zero, self.background, ys);
        let is_background = simd.equal_f32s(ys, self.background);
        self.zeros = count(simd, self.zeros, is_zero);
        self.same = count(simd, self.same, is_background);
        // No branch: where zeros begin and end is hard to foretell.
        room[self.kept] = ys;
        self.kept += usize::from(simd.first_true_m32s(simd.not_m32s(is_background)) < S::F32_LANES);
    }
}

/// Sums of the first `K` powers of `ds`, whose number is a multiple of [`PADDING`]; of the others zero.
#[inline(always)]
fn power_sums<const K: usize, S: Simd>(simd: S, ds: &[f64]) -> [f64; 4] {
    let zero = simd.splat_f64s(0.0);
    // Two sums of each power, so that an addition need not wait for the one before.
    let mut sums = [[zero; 4]; 2];
    for pair in S::as_simd_f64s(ds).0.as_chunks::<2>().0 {
        for (sums, &d) in sums.iter_mut().zip(pair) {
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
    let mut powers = [0.0; 4];
    for (i, power) in powers.iter_mut().enumerate().take(K) {
        *power = simd.reduce_sum_f64s(simd.add_f64s(sums[0][i], sums[1][i]));
    }
    powers
}

/// Adds the powers of so many zeros.
#[inline(always)]
fn with_zeros(mut powers: [f64; 4], zeros: u64, shift: f64) -> [f64; 4] {
    let mut power = zeros as f64;
    for sum in &mut powers {
        power *= -shift;
        *sum += power;
    }
    powers
}

/// How many values other than `background` are near zero, and the smallest and largest value.
#[inline(always)]
fn near_and_extremes<S: Simd>(simd: S, ys: &[f32], background: f32) -> (u64, f32, f32) {
    let (bound, all) = (simd.splat_f32s(NEAR_ZERO), simd.splat_f32s(background));
    let (mut near, mut min, mut max) = (simd.splat_u32s(0), all, all);
    for &ys in S::as_simd_f32s(ys).0 {
        let is_near = simd.less_than_or_equal_f32s(simd.abs_f32s(ys), bound);
        let is_background = simd.equal_f32s(ys, all);
        near = count(simd, near, simd.and_m32s(is_near, simd.not_m32s(is_background)));
        (min, max) = (simd.min_f32s(min, ys), simd.max_f32s(max, ys));
    }
    (total(simd, near), simd.reduce_min_f32s(min), simd.reduce_max_f32s(max))
}

/// How many values other than `background` are negative, and the sum of their magnitudes; `wide` is overwritten.
#[inline(always)]
fn negatives<S: Simd>(simd: S, ys: &[f32], background: f32, wide: &mut [f64]) -> (u64, f64) {
    let mut count = 0_u32;
    for (wide, &y) in wide.iter_mut().zip(ys) {
        let negative = (y < 0.0) & (y != background);
        count += u32::from(negative);
        *wide = f64::from(if negative { -y } else { 0.0 });
    }
    (u64::from(count), power_sums::<1, S>(simd, wide)[0])
}

/// Adds 1 in the lanes where `mask` is set.
#[inline(always)]
fn count<S: Simd>(simd: S, counts: S::u32s, mask: S::m32s) -> S::u32s {
    simd.add_u32s(counts, simd.select_u32s(mask, simd.splat_u32s(1), simd.splat_u32s(0)))
}

/// The sum of a vector's lanes.
#[inline(always)]
fn total<S: Simd>(_: S, counts: S::u32s) -> u64 {
    let mut lanes = [0; PADDING];
    S::as_mut_simd_u32s(&mut lanes).0[0] = counts;
    u64::from(lanes[..S::U32_LANES].iter().sum::<u32>())
}
