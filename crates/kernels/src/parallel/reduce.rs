use rayon::prelude::*;

use super::fill::CHUNK;
use crate::simd::simd;

/// The largest magnitude; infinite or NaN if one value is, 0 for no values.
///
/// Without the sign, the bits of a non-finite number are larger than those of every finite number.
pub(crate) fn largest(values: &[f32]) -> f32 {
    let largest = |values: &[f32]| {
        simd(
            #[inline(always)]
            || values.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7fff_ffff)),
        )
    };
    f32::from_bits(match values.len() > CHUNK {
        true => values.par_chunks(CHUNK).map(largest).reduce(|| 0, u32::max),
        false => largest(values),
    })
}
