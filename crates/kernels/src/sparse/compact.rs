//! Stream compaction: moves the values to keep to the front of a vector.
//!
//! AVX-512 has an instruction for this, AVX2 takes the permutation from a table; other instruction sets go lane by lane.

use pulp::{Simd, bytemuck};

/// The lanes that differ from `value`, as a bit mask with the first lane lowest. NaN differs from everything.
#[inline(always)]
pub(crate) fn differs<S: Simd>(simd: S, ys: S::f32s, value: S::f32s) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use bytemuck::cast;
        // A constant for each `S`, so only one branch remains.
        let simd: &dyn std::any::Any = &simd;
        if let Some(v4) = simd.downcast_ref::<pulp::x86::V4>() {
            return x86::differs_avx512(*v4, cast(ys), cast(value));
        }
        if let Some(v3) = simd.downcast_ref::<pulp::x86::V3>() {
            return x86::differs_avx2(*v3, cast(ys), cast(value));
        }
    }
    let _ = simd;
    let (ys, value) = ([ys], [value]);
    let (ys, value): (&[f32], &[f32]) = (bytemuck::cast_slice(&ys), bytemuck::cast_slice(&value));
    let mut mask = 0;
    for (i, (y, value)) in ys.iter().zip(value).enumerate() {
        mask |= u32::from(y != value) << i;
    }
    mask
}

/// Moves the lanes whose bit is set to the front, in their order. The other lanes are unspecified.
#[inline(always)]
pub(crate) fn compress<S: Simd>(simd: S, ys: S::f32s, keep: u32) -> S::f32s {
    #[cfg(target_arch = "x86_64")]
    {
        use bytemuck::cast;
        let simd: &dyn std::any::Any = &simd;
        if let Some(v4) = simd.downcast_ref::<pulp::x86::V4>() {
            return cast(x86::compress_avx512(*v4, cast(ys), keep));
        }
        if let Some(v3) = simd.downcast_ref::<pulp::x86::V3>() {
            return cast(x86::compress_avx2(*v3, cast(ys), keep));
        }
    }
    let _ = simd;
    let (mut ys, mut kept) = (ys, 0);
    let lanes: &mut [f32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut ys));
    for i in 0..lanes.len() {
        // Without a branch, because zeros are hard to predict. `kept` is at most `i`.
        lanes[kept] = lanes[i];
        kept += (keep >> i & 1) as usize;
    }
    ys
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m128i, __m256, __m512, _CMP_NEQ_UQ};

    use pulp::bytemuck::cast;
    use pulp::x86::{V3, V4};

    #[inline(always)]
    pub fn differs_avx512(simd: V4, ys: __m512, value: __m512) -> u32 {
        u32::from(simd.avx512f._mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(ys, value))
    }

    #[inline(always)]
    pub fn differs_avx2(simd: V3, ys: __m256, value: __m256) -> u32 {
        simd.avx._mm256_movemask_ps(simd.avx._mm256_cmp_ps::<_CMP_NEQ_UQ>(ys, value)) as u32
    }

    #[inline(always)]
    pub fn compress_avx512(simd: V4, ys: __m512, keep: u32) -> __m512 {
        simd.avx512f._mm512_maskz_compress_ps(keep as u16, ys)
    }

    /// For every mask of eight lanes the indices of its set lanes, the lowest first.
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
    pub fn compress_avx2(simd: V3, ys: __m256, keep: u32) -> __m256 {
        let indices: __m128i = cast([INDICES[keep as usize % 256], [0; 8]]);
        simd.avx2._mm256_permutevar8x32_ps(ys, simd.avx2._mm256_cvtepu8_epi32(indices))
    }
}

#[cfg(test)]
mod tests {
    use pulp::{WithSimd, bytemuck::cast_slice};

    use super::*;

    /// Compacts every vector of the values: the bits of the kept lanes, and the number of non-zero lanes.
    struct Vectors<'a>(&'a [f32], Option<f32>);

    impl WithSimd for Vectors<'_> {
        type Output = Vec<(Vec<u32>, usize)>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let vectors = S::as_simd_f32s(self.0).0.iter();
            let background = simd.splat_f32s(self.1.unwrap_or(0.0));
            vectors
                .map(|ys| {
                    let not_zero = differs(simd, *ys, simd.splat_f32s(0.0));
                    let keep = not_zero & differs(simd, *ys, background);
                    let (kept, n) = (compress(simd, *ys, keep), keep.count_ones() as usize);
                    let kept = cast_slice::<_, f32>(&[kept])[..n].iter().map(|y| y.to_bits()).collect();
                    (kept, not_zero.count_ones() as usize)
                })
                .collect()
        }
    }

    #[test]
    fn every_instruction_set_keeps_nonzero_foreground_values_in_order() {
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
