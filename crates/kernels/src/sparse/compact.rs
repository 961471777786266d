//! Stream compaction: moves the values to keep to the front of a vector.

use pulp::{Simd, bytemuck};

/// Compacts one vector: moves the lanes that are neither 0 nor equal to the background to the front, in their order.
/// NaN is kept. Returns the vector, whose other lanes are unspecified, how many lanes are kept, and how many are not 0.
///
/// AVX-512 has an instruction for this, AVX2 takes the permutation from a table; other instruction sets go lane by lane.
// `Option::map` may be compiled without vector instructions, and hand vectors over in memory.
#[allow(clippy::manual_map)]
#[inline(always)]
pub(crate) fn compress<S: Simd>(
    simd: S,
    ys: S::f32s,
    background: Option<S::f32s>,
) -> (S::f32s, usize, usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use bytemuck::cast;
        // Known when this is compiled for `S`, so only one way is left.
        let simd: &dyn std::any::Any = &simd;
        if let Some(v4) = simd.downcast_ref::<pulp::x86::V4>() {
            let background = if let Some(background) = background { Some(cast(background)) } else { None };
            let (kept, n, not_zero) = x86::avx512(*v4, cast(ys), background);
            return (cast(kept), n, not_zero);
        }
        if let Some(v3) = simd.downcast_ref::<pulp::x86::V3>() {
            let background = if let Some(background) = background { Some(cast(background)) } else { None };
            let (kept, n, not_zero) = x86::avx2(*v3, cast(ys), background);
            return (cast(kept), n, not_zero);
        }
    }
    lane_by_lane(simd, ys, background)
}

#[inline(always)]
fn lane_by_lane<S: Simd>(_: S, mut ys: S::f32s, background: Option<S::f32s>) -> (S::f32s, usize, usize) {
    let background = background.map_or(0.0, |background| bytemuck::cast_slice::<_, f32>(&[background])[0]);
    let (mut kept, mut not_zero) = (0, 0);
    let lanes: &mut [f32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut ys));
    for i in 0..lanes.len() {
        let y = lanes[i];
        // Without a branch, as zeros are hard to predict. `kept` is at most `i`.
        lanes[kept] = y;
        not_zero += usize::from(y != 0.0);
        kept += usize::from((y != 0.0) & (y != background));
    }
    (ys, kept, not_zero)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m128i, __m256, __m512, _CMP_NEQ_UQ};

    use pulp::bytemuck::cast;
    use pulp::x86::{V3, V4};

    #[inline(always)]
    pub fn avx512(simd: V4, ys: __m512, background: Option<__m512>) -> (__m512, usize, usize) {
        let f = simd.avx512f;
        let not_zero = f._mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(ys, f._mm512_setzero_ps());
        let keep = match background {
            Some(background) => f._mm512_mask_cmp_ps_mask::<_CMP_NEQ_UQ>(not_zero, ys, background),
            None => not_zero,
        };
        let kept = f._mm512_maskz_compress_ps(keep, ys);
        (kept, keep.count_ones() as usize, not_zero.count_ones() as usize)
    }

    /// For every mask of eight lanes the indices of its lanes, the lowest first.
    static INDICES: [[u8; 8]; 256] = {
        let mut indices = [[0; 8]; 256];
        let mut mask = 0;
        while mask < 256 {
            let (mut lane, mut n) = (0, 0);
            while lane < 8 {
                if mask >> lane & 1 == 1 {
                    indices[mask][n] = lane as u8;
                    n += 1;
                }
                lane += 1;
            }
            mask += 1;
        }
        indices
    };

    #[inline(always)]
    pub fn avx2(simd: V3, ys: __m256, background: Option<__m256>) -> (__m256, usize, usize) {
        let (avx, avx2) = (simd.avx, simd.avx2);
        let not_zero = avx._mm256_cmp_ps::<_CMP_NEQ_UQ>(ys, avx._mm256_setzero_ps());
        let keep = match background {
            Some(background) => avx._mm256_and_ps(not_zero, avx._mm256_cmp_ps::<_CMP_NEQ_UQ>(ys, background)),
            None => not_zero,
        };
        let (not_zero, keep) = (avx._mm256_movemask_ps(not_zero), avx._mm256_movemask_ps(keep));
        let indices: __m128i = cast([INDICES[keep as usize % 256], [0; 8]]);
        let kept = avx2._mm256_permutevar8x32_ps(ys, avx2._mm256_cvtepu8_epi32(indices));
        (kept, keep.count_ones() as usize, not_zero.count_ones() as usize)
    }
}

#[cfg(test)]
mod tests {
    use pulp::{WithSimd, bytemuck::cast_slice};

    use super::*;

    /// Every vector of the values, compacted: the bits of what is kept, and how many lanes are not 0.
    struct Vectors<'a>(&'a [f32], Option<f32>);

    impl WithSimd for Vectors<'_> {
        type Output = Vec<(Vec<u32>, usize)>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let vectors = S::as_simd_f32s(self.0).0.iter();
            let background = self.1.map(|background| simd.splat_f32s(background));
            vectors
                .map(|ys| {
                    let (kept, n, not_zero) = compress(simd, *ys, background);
                    (cast_slice::<_, f32>(&[kept])[..n].iter().map(|y| y.to_bits()).collect(), not_zero)
                })
                .collect()
        }
    }

    #[test]
    fn every_instruction_set_keeps_what_is_neither_zero_nor_background_in_its_order() {
        let kinds = [0.0, 0.5, -0.0, -1.5, 1e-45, f32::MAX, f32::NEG_INFINITY, f32::NAN, 2.0];
        // Every mask of eight lanes, and many of sixteen.
        for mask in 0..4096_usize {
            let ys: Vec<f32> = (0..16)
                .map(|i| if mask >> (i % 12) & 1 == 0 { 0.0 } else { kinds[(mask + i) % 9] })
                .collect();
            for background in [None, Some(0.5), Some(-1.5)] {
                let is_kept = |y: f32| y != 0.0 && background != Some(y);
                let expected = |lanes: usize| -> Vec<(Vec<u32>, usize)> {
                    let of = |ys: &[f32]| {
                        let kept = ys.iter().filter(|y| is_kept(**y)).map(|y| y.to_bits()).collect();
                        (kept, ys.iter().filter(|y| **y != 0.0).count())
                    };
                    ys.chunks(lanes).map(of).collect()
                };
                let vectors = || Vectors(&ys, background);
                assert_eq!(vectors().with_simd(pulp::Scalar), expected(1));
                #[cfg(target_arch = "x86_64")]
                {
                    if let Some(v4) = pulp::x86::V4::try_new() {
                        assert_eq!(Simd::vectorize(v4, vectors()), expected(16), "{ys:?}");
                    }
                    if let Some(v3) = pulp::x86::V3::try_new() {
                        assert_eq!(Simd::vectorize(v3, vectors()), expected(8), "{ys:?}");
                    }
                }
            }
        }
    }
}
