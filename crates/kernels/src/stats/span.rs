//! Sums over one span of values, which stays in the first-level cache.
//!
//! Loops over floating-point sums and masks name their vectors, as the compiler vectorises only the simplest loops.
//! Counts are the same on every CPU. Sums are the same to rounding: they have as many lanes as the CPU's vectors.

use pulp::{Simd, bytemuck};

use super::bins::Bins;
use crate::sparse::compact::compress;

/// Values with `|y|` up to this are near zero.
pub const NEAR_ZERO: f32 = 0.01;

/// Values of a span at most: few enough for the first-level cache, and enough for a map of 26×26.
pub(super) const CHUNK: usize = 704;

/// Sums of up to [`CHUNK`] finite values.
pub(super) struct Span {
    pub zeros: u64,
    pub negatives: u64,
    pub near_zeros: u64,
    /// Sum of the negative values.
    pub below: f64,
    /// Sums of the first four powers; those above [`Spans::powers`] are 0.
    pub powers: [f64; 4],
    pub min: f32,
    pub max: f32,
}

/// Measures one span after the other.
pub(super) struct Spans {
    /// How many powers are summed: 1, 2 or 4.
    pub powers: usize,
    /// Counts of the values that are not 0; `None` without a histogram.
    pub bins: Option<Bins>,
    /// Room for a span without zeros and background, and for the vector that the last value is stored with.
    pub kept: [f32; CHUNK + PADDING],
}

/// The compacted values are padded to a multiple of this with zeros: two vectors of 16 lanes, the most a CPU has.
pub(super) const PADDING: usize = 32;

/// What [`Spans::compact`] counts.
struct Compacted {
    not_zero: usize,
    kept: usize,
    min: f32,
    max: f32,
}

impl Spans {
    /// Measures 1 to [`CHUNK`] values; `None` if one is not finite.
    ///
    /// Values equal to 0 or to `background` (0 where there is none) are only counted: after ReLU most values are 0, and in a
    /// feature map most values may be what the convolution gives for the background of the image.
    #[inline(always)]
    pub fn measure<S: Simd>(&mut self, simd: S, ys: &[f32], background: f32) -> Option<Span> {
        if !background.is_finite() {
            return None;
        }
        // Two calls, so that the loop without a background is compiled by itself.
        let Compacted { not_zero, kept, min, max } = match background {
            0.0 => self.compact(simd, ys, None),
            _ => self.compact(simd, ys, Some(simd.splat_f32s(background))),
        };
        let (mut powers, near_zeros) = match self.powers {
            1 => self.sums::<1, S>(simd, kept),
            2 => self.sums::<2, S>(simd, kept),
            _ => self.sums::<4, S>(simd, kept),
        };
        // A value that is not finite in f32 makes every sum non-finite, and sums of finite values do not overflow f64.
        if !powers[0].is_finite() {
            return None;
        }
        let (zeros, backgrounds) = ((ys.len() - not_zero) as u64, not_zero - kept);
        if let Some(bins) = &mut self.bins {
            bins.add_many(background, backgrounds);
        }
        let kept = &self.kept[..kept.next_multiple_of(PADDING)];
        let (mut negatives, mut below) = if min < 0.0 { negatives(simd, kept) } else { (0, 0.0) };
        let mut near_zeros = near_zeros + zeros;
        let (backgrounds, n) = (backgrounds as u64, backgrounds as f64);
        if background < 0.0 {
            negatives += backgrounds;
            below += n * f64::from(background);
        }
        if background.abs() <= NEAR_ZERO {
            near_zeros += backgrounds;
        }
        let mut power = n;
        for sum in &mut powers {
            power *= f64::from(background);
            *sum += power;
        }
        Some(Span { zeros, negatives, near_zeros, below, powers, min, max })
    }

    /// Writes all values that are neither 0 nor the background to `kept`.
    #[inline(always)]
    fn compact<S: Simd>(&mut self, simd: S, ys: &[f32], background: Option<S::f32s>) -> Compacted {
        let first = simd.splat_f32s(ys[0]);
        let (mut not_zero, mut kept, mut min, mut max) = (0, 0, first, first);
        let mut add = |ys: S::f32s| {
            let (compressed, n, n_not_zero) = compress(simd, ys, background);
            // Stores the full vector, which is faster than a part: the next one overwrites the rest.
            self.kept[kept..][..S::F32_LANES].copy_from_slice(bytemuck::cast_slice(&[compressed]));
            kept += n;
            not_zero += n_not_zero;
        };
        let mut extend = |ys: S::f32s| (min, max) = (simd.min_f32s(min, ys), simd.max_f32s(max, ys));
        let (vectors, rest) = S::as_simd_f32s(ys);
        for &vector in vectors {
            add(vector);
            extend(vector);
        }
        if !rest.is_empty() {
            let mut filled = [0.0; PADDING];
            filled[..rest.len()].copy_from_slice(rest);
            add(S::as_simd_f32s(&filled).0[0]);
            filled[rest.len()..].fill(ys[0]);
            extend(S::as_simd_f32s(&filled).0[0]);
        }
        Compacted { not_zero, kept, min: simd.reduce_min_f32s(min), max: simd.reduce_max_f32s(max) }
    }

    /// Sums of powers of the first `n` kept values, and how many of them are near zero. Counts them in the histogram too:
    /// in turn with the sums, as the CPU can do both at once.
    #[inline(always)]
    fn sums<const K: usize, S: Simd>(&mut self, simd: S, n: usize) -> ([f64; 4], u64) {
        self.kept[n..][..PADDING].fill(0.0);
        let mut sums = Sums::new(simd, 0.0);
        let (vectors, rest) = self.kept[..n].as_chunks();
        for ys in vectors {
            if let Some(bins) = &mut self.bins {
                bins.add(ys);
            }
            sums.add::<K>(simd, ys);
        }
        if let Some(bins) = &mut self.bins {
            bins.add(rest);
        }
        let padding = n.next_multiple_of(PADDING) - n;
        if padding > 0 {
            let (padded, _) = self.kept[n - rest.len()..].split_first_chunk().expect("there is room");
            sums.add::<K>(simd, padded);
        }
        (sums.powers::<K>(simd), total(simd, sums.near_zeros) - padding as u64)
    }
}

/// The value that most values of a feature map may have: that of one of its ends, as corners are background; the smaller
/// magnitude of both, which is more likely to be it.
#[inline(always)]
pub(super) fn background_of(ys: &[f32]) -> f32 {
    let (first, last) = (ys[0], ys[ys.len() - 1]);
    if last.abs() < first.abs() { last } else { first }
}

/// Sums of powers of deviations from a shift, and how many values are near zero, in lanes.
pub(super) struct Sums<S: Simd> {
    shift: S::f64s,
    /// Two sums of each power, so that an addition need not wait for the one before.
    powers: [[S::f64s; 4]; 2],
    near_zeros: S::u32s,
}

impl<S: Simd> Sums<S> {
    #[inline(always)]
    pub fn new(simd: S, shift: f64) -> Self {
        let zero = simd.splat_f64s(0.0);
        Self { shift: simd.splat_f64s(shift), powers: [[zero; 4]; 2], near_zeros: simd.splat_u32s(0) }
    }

    /// Adds values to the sums of the first `K` powers.
    #[inline(always)]
    pub fn add<const K: usize>(&mut self, simd: S, ys: &[f32; PADDING]) {
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

    /// The sums of the first `K` powers; the others are 0.
    #[inline(always)]
    pub fn powers<const K: usize>(&self, simd: S) -> [f64; 4] {
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
pub(super) fn total<S: Simd>(_: S, counts: S::u32s) -> u64 {
    let lanes: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&counts));
    u64::from(lanes.iter().sum::<u32>())
}
