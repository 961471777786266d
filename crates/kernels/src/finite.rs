use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::cpu::{CHUNK, Values, is_fast, simd};
use crate::gradients::{Form, VarGradient};

/// Whether no value of these gradients is NaN or infinite.
///
/// # Errors
/// When a gradient cannot be read.
pub fn all_finite<'a>(gradients: impl IntoIterator<Item = &'a VarGradient>) -> Result<bool> {
    // What is elsewhere is summed up there, and asked for once: reading each would be a wait for each.
    let mut elsewhere: Option<Tensor> = None;
    for gradient in gradients {
        let tensor = match &gradient.0 {
            Form::Product(product) if product.is_surely_finite() => continue,
            Form::Product(_) => &gradient.values()?,
            Form::Values(tensor) => tensor,
        };
        if is_fast(&[tensor]) {
            let tensor = tensor.contiguous()?;
            if !largest(&Values::of(&tensor)?).is_finite() {
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

/// The largest magnitude; infinite or NaN if one value is. 0 of none.
///
/// A number that is not finite has an exponent of all ones: its bits, without the sign, are the largest.
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

    fn finite(tensors: &[Tensor]) -> bool {
        let gradients: Vec<VarGradient> = tensors.iter().cloned().map(Into::into).collect();
        all_finite(&gradients).unwrap()
    }

    #[test]
    fn one_value_among_many_is_found_wherever_it_is() {
        let n = 3 * CHUNK + 7;
        for fault in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 1, CHUNK - 1, CHUNK, n - 1] {
                let mut values = vec![f32::MAX; n];
                values[at] = fault;
                let tensor = Tensor::new(&values[..], &Device::Cpu).unwrap();
                let good = Tensor::new(&[f32::MIN, -0.0, 1e-45], &Device::Cpu).unwrap();
                let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
                assert!(!finite(&[good.clone(), tensor.clone()]), "{fault} at {at}");
                assert!(!finite(&[good.clone(), wide(&tensor)]));
                assert_eq!(first_non_finite(&tensor).unwrap(), Some(at));
                assert!(finite(&[good.clone(), wide(&good)]));
            }
        }
        assert!(finite(&[]));
        let row = Tensor::new(&[[1.0_f32, 2.0], [f32::NAN, 4.0]], &Device::Cpu).unwrap();
        assert!(!finite(&[row.t().unwrap()]), "not contiguous");
        assert!(finite(&[row.narrow(0, 0, 1).unwrap()]), "only the part that it is");
    }
}
