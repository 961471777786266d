use rayon::prelude::*;

use super::fill::CHUNK;
use crate::simd::simd;

/// The largest magnitude; infinite or NaN if one value is. 0 of none.
///
/// The bits of a number that is not finite, without the sign, are larger than those of all finite numbers.
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
