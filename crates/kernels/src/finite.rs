use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::cpu::{CHUNK, Values, is_fast, simd};

/// Whether no value of these tensors is NaN or infinite, in one pass.
///
/// # Errors
/// When a tensor cannot be read.
pub fn all_finite<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<bool> {
    // What is elsewhere is summed up there, and asked for once: reading each would be a wait for each.
    let mut elsewhere: Option<Tensor> = None;
    for tensor in tensors {
        if is_fast(&[tensor]) {
            let tensor = tensor.contiguous()?;
            let values = Values::of(&tensor)?;
            let finite = match values.len() > CHUNK {
                true => values.par_chunks(CHUNK).all(finite),
                false => finite(&values),
            };
            if !finite {
                return Ok(false);
            }
        } else {
            let sum = twin::all_finite(tensor)?;
            elsewhere = Some(match elsewhere {
                Some(others) => (others + sum)?,
                None => sum,
            });
        }
    }
    elsewhere.map_or(Ok(true), |sum| Ok(sum.to_scalar::<f32>()? == 0.0))
}

/// The first value in row-major order that is NaN or infinite.
///
/// # Errors
/// When the tensor cannot be read.
pub fn first_non_finite(tensor: &Tensor) -> Result<Option<usize>> {
    crate::with_values(tensor, |values| values.iter().position(|x| !x.is_finite()))
}

/// A number that is not finite has an exponent of all ones: its bits, without the sign, are the largest.
fn finite(values: &[f32]) -> bool {
    let largest = simd(
        #[inline(always)]
        || values.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7fff_ffff)),
    );
    largest < f32::INFINITY.to_bits()
}

pub(crate) mod twin {
    use super::*;

    /// 0 if all values are finite, otherwise NaN: both NaN and infinity are so times 0.
    pub fn all_finite(tensor: &Tensor) -> Result<Tensor> {
        (tensor.detach() * 0.0)?.sum_all()?.to_dtype(DType::F32)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;

    #[test]
    fn one_value_among_many_is_found_wherever_it_is() {
        let n = 3 * CHUNK + 7;
        for fault in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 1, CHUNK - 1, CHUNK, n - 1] {
                let mut values = vec![f32::MAX; n];
                values[at] = fault;
                let tensor = Tensor::new(&values[..], &Device::Cpu).unwrap();
                let good = Tensor::new(&[f32::MIN, -0.0, 1e-45], &Device::Cpu).unwrap();
                assert!(!all_finite([&good, &tensor]).unwrap(), "{fault} at {at}");
                assert!(!all_finite([&good, &tensor.to_dtype(DType::F64).unwrap()]).unwrap());
                assert_eq!(first_non_finite(&tensor).unwrap(), Some(at));
                assert!(all_finite([&good, &good.to_dtype(DType::F64).unwrap()]).unwrap());
            }
        }
        assert!(all_finite([]).unwrap());
        let row = Tensor::new(&[[1.0_f32, 2.0], [f32::NAN, 4.0]], &Device::Cpu).unwrap();
        assert!(!all_finite([&row.t().unwrap()]).unwrap(), "not contiguous");
        assert!(all_finite([&row.narrow(0, 0, 1).unwrap()]).unwrap(), "only the part that it is");
    }
}
