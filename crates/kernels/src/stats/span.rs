//! Sums over one span of values, which stays in the first-level cache.
//!
//! Loops over floating-point sums and masks name their vectors, because the compiler vectorises only the simplest
//! loops. Counts are the same on every CPU. Sums are equal up to rounding, because they have as many lanes as the CPU's
//! vectors.

use pulp::{Simd, bytemuck};

use super::bins::Bins;
use crate::sparse::compact::{compress, differs};

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

/// Measures spans, one after the other.
///
/// 4K aliasing: a load that matches a pending store modulo 4096 stalls. Most values are between 2^-6 and 2^3 in
/// magnitude, so their counts start at a page, and `kept` follows 512 bytes later.
#[repr(C, align(4096))]
pub(super) struct Spans {
    /// Counts of the non-zero values, if `histogram`.
    pub bins: Bins,
    _gap: [f32; 128],
    /// A span without zeros and background, with room for the vector store of the last value.
    kept: [f32; CHUNK + PADDING],
    /// How many powers are summed: 1, 2 or 4.
    powers: usize,
    histogram: bool,
}

/// The compacted values are zero-padded to a multiple of this: two vectors of 16 lanes, the longest that a CPU has.
pub(super) const PADDING: usize = 32;

/// The counts of [`Spans::compact`].
struct Compacted {
    not_zero: usize,
    kept: usize,
    min: f32,
    max: f32,
}

impl Spans {
    /// For sums of `powers` powers: 1, 2 or 4.
    #[inline(always)]
    pub fn new(powers: usize, histogram: bool) -> Self {
        Self { bins: Bins::new(), _gap: [0.0; 128], kept: [0.0; CHUNK + PADDING], powers, histogram }
    }

    /// Measures 1 to [`CHUNK`] values; `None` if one is not finite.
    ///
    /// Values equal to 0 or to `background` (0 if there is none) are only counted: after ReLU most values are 0, and in
    /// a feature map most values may be the response to the background of the image.
    #[inline(always)]
    pub fn measure<S: Simd>(&mut self, simd: S, ys: &[f32], background: f32) -> Option<Span> {
        if !background.is_finite() {
            return None;
        }
        // Two calls, so the loop without a background is compiled separately.
        let Compacted { not_zero, kept, min, max } = match background {
            0.0 => self.compact(simd, ys, None),
            _ => self.compact(simd, ys, Some(simd.splat_f32s(background))),
        };
        let sums = match (self.powers, min < 0.0) {
            (1, _) => self.sums::<1, true, S>(simd, kept),
            (2, _) => self.sums::<2, true, S>(simd, kept),
            (_, true) => self.sums::<4, true, S>(simd, kept),
            (_, false) => self.sums::<4, false, S>(simd, kept),
        };
        let ((mut powers, mut below), [mut near_zeros, mut negatives]) = sums;
        // A value that is not finite in f32 makes every sum non-finite, and sums of finite values do not overflow f64.
        if !powers[0].is_finite() {
            return None;
        }
        let (zeros, backgrounds) = ((ys.len() - not_zero) as u64, not_zero - kept);
        if self.histogram {
            self.bins.add_many(background, backgrounds);
        }
        near_zeros += zeros;
        let (backgrounds, n) = (backgrounds as u64, backgrounds as f64);
        if background < 0.0 {
            negatives += backgrounds;
            below += n * f64::from(background);
        }
        if background.abs() <= NEAR_ZERO {
            near_zeros += backgrounds;
        }
        let mut power = n;
        for sum in powers.iter_mut().take(self.powers) {
            power *= f64::from(background);
            *sum += power;
        }
        Some(Span { zeros, negatives, near_zeros, below, powers, min, max })
    }

    /// Writes all values except zeros and the background to `kept`.
    #[inline(always)]
    fn compact<S: Simd>(&mut self, simd: S, ys: &[f32], background: Option<S::f32s>) -> Compacted {
        let first = simd.splat_f32s(ys[0]);
        let mut lanes = Lanes { not_zero: 0, kept: 0, min: first, max: first };
        let (vectors, rest) = S::as_simd_f32s(ys);
        for vector in vectors {
            prefetch(vector);
            lanes.compact(simd, *vector, background, &mut self.kept);
            lanes.extend(simd, *vector);
        }
        if !rest.is_empty() {
            let mut filled = [0.0; PADDING];
            filled[..rest.len()].copy_from_slice(rest);
            lanes.compact(simd, S::as_simd_f32s(&filled).0[0], background, &mut self.kept);
            filled[rest.len()..].fill(ys[0]);
            lanes.extend(simd, S::as_simd_f32s(&filled).0[0]);
        }
        let (min, max) = (simd.reduce_min_f32s(lanes.min), simd.reduce_max_f32s(lanes.max));
        Compacted { not_zero: lanes.not_zero, kept: lanes.kept, min, max }
    }

    /// Sums of powers and of the negative values of the first `n` kept values, and the numbers of near-zero and
    /// negative ones. Interleaves this with the histogram, because the CPU can do both at once.
    #[inline(always)]
    fn sums<const K: usize, const NEGATIVE: bool, S: Simd>(
        &mut self,
        simd: S,
        n: usize,
    ) -> (([f64; 4], f64), [u64; 2]) {
        self.kept[n..][..PADDING].fill(0.0);
        let mut sums = PowerSums::new(simd, 0.0);
        let (vectors, rest) = self.kept[..n].as_chunks();
        for ys in vectors {
            if self.histogram {
                self.bins.add(ys);
            }
            sums.add::<K, NEGATIVE>(simd, ys);
        }
        if self.histogram {
            self.bins.add(rest);
        }
        let padding = n.next_multiple_of(PADDING) - n;
        if padding > 0 {
            let (padded, _) = self.kept[n - rest.len()..].split_first_chunk().expect("there is room");
            sums.add::<K, NEGATIVE>(simd, padded);
        }
        let near_zeros = total(simd, sums.near_zeros) - padding as u64;
        (
            (sums.powers::<K>(simd), simd.reduce_sum_f64s(sums.below)),
            [near_zeros, total(simd, sums.negatives)],
        )
    }
}

/// How far ahead memory is prefetched, in bytes: the next maps are loaded while one is compacted.
const AHEAD: usize = 4096;

#[inline(always)]
fn prefetch<T>(vector: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction. It reads nothing, so any address is valid.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(vector).wrapping_byte_add(AHEAD).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = vector;
}

/// [`Compacted`] with extremes in lanes. Methods, not closures, because the compiler may compile closures without
/// vector instructions.
struct Lanes<S: Simd> {
    not_zero: usize,
    kept: usize,
    min: S::f32s,
    max: S::f32s,
}

impl<S: Simd> Lanes<S> {
    #[inline(always)]
    fn compact(&mut self, simd: S, ys: S::f32s, background: Option<S::f32s>, kept: &mut [f32]) {
        let not_zero = differs(simd, ys, simd.splat_f32s(0.0));
        let mut keep = not_zero;
        if let Some(background) = background {
            keep &= differs(simd, ys, background);
        }
        // Stores the full vector, which is faster than a partial store; the next store overwrites the rest.
        let compressed = [compress(simd, ys, keep)];
        kept[self.kept..][..S::F32_LANES].copy_from_slice(bytemuck::cast_slice(&compressed));
        self.kept += keep.count_ones() as usize;
        self.not_zero += not_zero.count_ones() as usize;
    }

    #[inline(always)]
    fn extend(&mut self, simd: S, ys: S::f32s) {
        self.min = simd.min_f32s(self.min, ys);
        self.max = simd.max_f32s(self.max, ys);
    }
}

/// The likely background of a feature map: the value of one of its ends, because corners are background; the one with
/// the smaller magnitude.
#[inline(always)]
pub(super) fn background_of(ys: &[f32]) -> f32 {
    let (first, last) = (ys[0], ys[ys.len() - 1]);
    if last.abs() < first.abs() { last } else { first }
}

/// Sums of powers of deviations from a shift, and the number of values near zero, in lanes.
pub(super) struct PowerSums<S: Simd> {
    shift: S::f64s,
    /// Two sums of each power, so consecutive additions are independent.
    powers: [[S::f64s; 4]; 2],
    /// Sum of negative deviations.
    below: S::f64s,
    near_zeros: S::u32s,
    negatives: S::u32s,
}

impl<S: Simd> PowerSums<S> {
    #[inline(always)]
    pub fn new(simd: S, shift: f64) -> Self {
        let zero = simd.splat_f64s(0.0);
        let none = simd.splat_u32s(0);
        Self {
            shift: simd.splat_f64s(shift),
            powers: [[zero; 4]; 2],
            below: zero,
            near_zeros: none,
            negatives: none,
        }
    }

    /// Adds values to the sums of the first `K` powers.
    #[inline(always)]
    pub fn add<const K: usize, const NEGATIVE: bool>(&mut self, simd: S, ys: &[f32; PADDING]) {
        let bound = simd.splat_f32s(NEAR_ZERO);
        for &ys in S::as_simd_f32s(ys).0 {
            self.near_zeros =
                count(simd, self.near_zeros, simd.less_than_or_equal_f32s(simd.abs_f32s(ys), bound));
            if NEGATIVE {
                self.negatives = count(simd, self.negatives, simd.less_than_f32s(ys, simd.splat_f32s(0.0)));
            }
        }
        for pair in ys.chunks_exact(2 * S::F64_LANES) {
            for (sums, ys) in self.powers.iter_mut().zip(pair.chunks_exact(S::F64_LANES)) {
                let d = simd.sub_f64s(widen(simd, ys), self.shift);
                sums[0] = simd.add_f64s(sums[0], d);
                if NEGATIVE {
                    self.below = simd.add_f64s(self.below, simd.min_f64s(d, simd.splat_f64s(0.0)));
                }
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
