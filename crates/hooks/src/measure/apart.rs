use pulp::Simd;

use super::span::PADDING;
use crate::moments::CHUNK;

/// Where values move together: room for a span, for the whole vector that its last one may be stored with, and for
/// zeros behind them.
pub(super) type Others = [f32; CHUNK + PADDING];

/// What there is in a span.
#[derive(Debug, PartialEq)]
pub(super) struct Apart {
    pub zeros: usize,
    /// Values equal to the background, unless it is zero.
    pub backgrounds: usize,
    /// All others. NaN is one of them.
    pub others: usize,
    /// Of all values, if none is NaN.
    pub min: f32,
    pub max: f32,
}

/// Counts zeros and values equal to the background, and writes all others to `others`, one behind the other in their
/// order. Where the background is 0 it takes less time.
#[inline(always)]
pub(super) fn set_apart<S: Simd>(simd: S, ys: &[f32], background: f32, others: &mut Others) -> Apart {
    #[cfg(target_arch = "x86_64")]
    {
        let simd: &dyn std::any::Any = &simd;
        if let Some(v4) = simd.downcast_ref::<pulp::x86::V4>() {
            return x86::by_vectors(*v4, ys, background, others);
        }
        if let Some(v3) = simd.downcast_ref::<pulp::x86::V3>() {
            return x86::by_vectors(*v3, ys, background, others);
        }
    }
    let _ = simd;
    one_by_one(ys, background, others)
}

#[inline(always)]
fn one_by_one(ys: &[f32], background: f32, others: &mut Others) -> Apart {
    let (mut zeros, mut kept, mut min, mut max) = (0, 0, ys[0], ys[0]);
    for &y in ys {
        zeros += usize::from(y == 0.0);
        // No branch: where zeros begin and end is hard to foretell.
        others[kept] = y;
        kept += usize::from((y != 0.0) & (y != background));
        min = if y < min { y } else { min };
        max = if y > max { y } else { max };
    }
    Apart { zeros, backgrounds: ys.len() - zeros - kept, others: kept, min, max }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m128i, __m256, __m512, _CMP_NEQ_UQ, _MM_HINT_T0, _mm_prefetch};

    use pulp::Simd;
    use pulp::bytemuck::{cast, cast_slice};
    use pulp::x86::{V3, V4};

    use super::{Apart, Others, PADDING};

    /// So many values ahead are asked for: the next plane or so comes from memory while this one is being added up.
    const AHEAD: usize = 1024;

    /// Vectors whose lanes can move together.
    pub trait Compress: Simd {
        /// Moves the lanes that are neither zero nor, if there is one, the background to the front. Also returns how
        /// many lanes are not zero, and how many have moved.
        fn compress(self, ys: Self::f32s, background: Option<Self::f32s>) -> (Self::f32s, u32, u32);
    }

    #[inline(always)]
    pub fn by_vectors<S: Compress>(simd: S, ys: &[f32], background: f32, others: &mut Others) -> Apart {
        // Two calls, so that the loop without a background is compiled by itself.
        match background {
            0.0 => against(simd, ys, None, others),
            _ => against(simd, ys, Some(simd.splat_f32s(background)), others),
        }
    }

    #[inline(always)]
    fn against<S: Compress>(simd: S, ys: &[f32], background: Option<S::f32s>, others: &mut Others) -> Apart {
        let first = simd.splat_f32s(ys[0]);
        let mut lanes = Lanes { background, not_zero: 0, others: 0, min: first, max: first };
        let (vectors, rest) = S::as_simd_f32s(ys);
        for vector in vectors {
            let ahead = std::ptr::from_ref(vector).cast::<f32>().wrapping_add(AHEAD);
            // SAFETY: nothing is read, so any address will do.
            #[allow(unsafe_code)]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            }
            lanes.add(simd, *vector, others);
            lanes.reach(simd, *vector);
        }
        if !rest.is_empty() {
            let mut filled = [0.0; PADDING];
            filled[..rest.len()].copy_from_slice(rest);
            lanes.add(simd, S::as_simd_f32s(&filled).0[0], others);
            filled[rest.len()..].fill(ys[0]);
            lanes.reach(simd, S::as_simd_f32s(&filled).0[0]);
        }
        let not_zero = lanes.not_zero as usize;
        Apart {
            zeros: ys.len() - not_zero,
            backgrounds: not_zero - lanes.others,
            others: lanes.others,
            min: simd.reduce_min_f32s(lanes.min),
            max: simd.reduce_max_f32s(lanes.max),
        }
    }

    struct Lanes<S: Simd> {
        background: Option<S::f32s>,
        not_zero: u32,
        others: usize,
        min: S::f32s,
        max: S::f32s,
    }

    impl<S: Compress> Lanes<S> {
        #[inline(always)]
        fn add(&mut self, simd: S, ys: S::f32s, others: &mut Others) {
            let (together, not_zero, moved) = simd.compress(ys, self.background);
            // The whole vector, which is faster than a part: the next one overwrites the rest.
            others[self.others..][..S::F32_LANES].copy_from_slice(cast_slice(&[together]));
            self.not_zero += not_zero;
            self.others += moved as usize;
        }

        #[inline(always)]
        fn reach(&mut self, simd: S, ys: S::f32s) {
            self.min = simd.min_f32s(self.min, ys);
            self.max = simd.max_f32s(self.max, ys);
        }
    }

    impl Compress for V4 {
        #[inline(always)]
        fn compress(self, ys: Self::f32s, background: Option<Self::f32s>) -> (Self::f32s, u32, u32) {
            let f = self.avx512f;
            let ys: __m512 = cast(ys);
            let not_zero = f._mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(ys, f._mm512_setzero_ps());
            let other = match background {
                Some(background) => f._mm512_mask_cmp_ps_mask::<_CMP_NEQ_UQ>(not_zero, ys, cast(background)),
                None => not_zero,
            };
            (cast(f._mm512_maskz_compress_ps(other, ys)), not_zero.count_ones(), other.count_ones())
        }
    }

    /// For every choice of eight lanes these lanes, the lowest first.
    static CHOSEN: [[u8; 8]; 256] = {
        let mut chosen = [[0; 8]; 256];
        let mut choice = 0;
        while choice < 256 {
            let (mut lane, mut n) = (0, 0);
            while lane < 8 {
                if choice >> lane & 1 == 1 {
                    chosen[choice][n] = lane as u8;
                    n += 1;
                }
                lane += 1;
            }
            choice += 1;
        }
        chosen
    };

    impl Compress for V3 {
        #[inline(always)]
        fn compress(self, ys: Self::f32s, background: Option<Self::f32s>) -> (Self::f32s, u32, u32) {
            let (avx, avx2) = (self.avx, self.avx2);
            let ys: __m256 = cast(ys);
            let not_zero = avx._mm256_cmp_ps::<_CMP_NEQ_UQ>(ys, avx._mm256_setzero_ps());
            let other = match background {
                Some(background) => {
                    avx._mm256_and_ps(not_zero, avx._mm256_cmp_ps::<_CMP_NEQ_UQ>(ys, cast(background)))
                }
                None => not_zero,
            };
            let (not_zero, other) = (avx._mm256_movemask_ps(not_zero), avx._mm256_movemask_ps(other));
            let chosen: __m128i = cast([CHOSEN[other as usize % 256], [0; 8]]);
            let together = avx2._mm256_permutevar8x32_ps(ys, avx2._mm256_cvtepu8_epi32(chosen));
            (cast(together), not_zero.count_ones(), other.count_ones())
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;
    use rand::RngExt;

    use super::*;

    struct SetApart<'a>(&'a [f32], f32);

    impl WithSimd for SetApart<'_> {
        type Output = (Apart, Vec<u32>);

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let mut others = [f32::NAN; CHUNK + PADDING];
            let apart = set_apart(simd, self.0, self.1, &mut others);
            let bits = others[..apart.others].iter().map(|y| y.to_bits()).collect();
            (apart, bits)
        }
    }

    #[test]
    fn every_instruction_set_sets_the_same_values_apart() {
        let mut rng = crate::rng(5);
        for n in (1..=70).chain([CHUNK - 1, CHUNK]) {
            for kinds in 1..=9 {
                let kinds = &[0.0, 0.5, -0.0, -1.5, 1e-45, f32::MAX, f32::INFINITY, -3.0, 2.0][..kinds];
                let ys: Vec<f32> = (0..n).map(|_| kinds[rng.random_range(0..kinds.len())]).collect();
                for background in [0.0, ys[0], ys[n - 1]] {
                    let set_apart = || SetApart(&ys, background);
                    let expected = set_apart().with_simd(pulp::Scalar);
                    assert_eq!(expected.0.zeros, ys.iter().filter(|y| **y == 0.0).count());
                    assert_eq!(pulp::Arch::new().dispatch(set_apart()), expected, "{ys:?}");
                    #[cfg(target_arch = "x86_64")]
                    if let Some(v3) = pulp::x86::V3::try_new() {
                        assert_eq!(Simd::vectorize(v3, set_apart()), expected, "{ys:?}");
                    }
                }
            }
        }
    }
}
