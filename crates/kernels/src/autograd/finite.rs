use candle_core::{DType, Result, Tensor};

use super::gradients::{Form, VarGradient};
use crate::parallel::largest;
use crate::values::{Values, is_fast};

/// Whether no value of these gradients is NaN or infinite.
///
/// # Errors
/// When a gradient cannot be read.
pub fn all_finite<'a>(gradients: impl IntoIterator<Item = &'a VarGradient>) -> Result<bool> {
    match non_finite_flag(gradients)? {
        (false, _) => Ok(false),
        (true, None) => Ok(true),
        (true, Some(flag)) => Ok(flag.to_scalar::<f32>()? == 0.0),
    }
}

/// [`all_finite`] of the gradients on the CPU, and a scalar on the device of the others, which is 0 if these are finite
/// too. Reading the scalar waits for the device, so read it together with other values.
///
/// # Errors
/// When a gradient cannot be read.
pub fn non_finite_flag<'a>(
    gradients: impl IntoIterator<Item = &'a VarGradient>,
) -> Result<(bool, Option<Tensor>)> {
    let mut elsewhere: Option<Tensor> = None;
    for gradient in gradients {
        let tensor = match &gradient.0 {
            Form::Pending(pending) if pending.is_surely_finite() => continue,
            Form::Pending(_) => &gradient.values()?,
            Form::Values(tensor) => tensor,
        };
        if is_fast(&[tensor]) {
            let tensor = tensor.contiguous()?;
            if !largest(&Values::of(&tensor)?).is_finite() {
                return Ok((false, None));
            }
            continue;
        }
        #[cfg(feature = "cuda")]
        if crate::cuda::is_fast(&[tensor]) {
            let flag = match elsewhere.take() {
                Some(flag) => flag,
                None => Tensor::zeros((), DType::F32, tensor.device())?,
            };
            crate::cuda::optim::flag_non_finite(tensor, &flag)?;
            elsewhere = Some(flag);
            continue;
        }
        let sum = twin::all_finite(tensor)?;
        elsewhere = Some(match elsewhere {
            Some(others) => (others + sum)?,
            None => sum,
        });
    }
    Ok((true, elsewhere))
}

/// The first value in row-major order that is NaN or infinite; `None` for integers.
///
/// # Errors
/// When the tensor cannot be read.
pub fn first_non_finite(tensor: &Tensor) -> Result<Option<usize>> {
    match tensor.dtype() {
        dtype if !dtype.is_float() => Ok(None),
        // Not through f32, which turns a large f64 into infinity.
        DType::F64 => {
            let values = tensor.flatten_all()?.to_vec1::<f64>()?;
            Ok(values.iter().position(|x| !x.is_finite()))
        }
        _ => crate::with_values(tensor, |values| values.iter().position(|x| !x.is_finite())),
    }
}

pub(crate) mod twin {
    use super::*;

    /// 0 if all values are finite, otherwise NaN: NaN · 0 and ∞ · 0 are both NaN.
    pub fn all_finite(tensor: &Tensor) -> Result<Tensor> {
        (tensor.detach() * 0.0)?.sum_all()?.to_dtype(DType::F32)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parallel::CHUNK;
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

    #[test]
    fn the_flag_covers_the_gradients_that_are_not_read_at_once() {
        let vector =
            |values: [f64; 2], dtype| Tensor::new(&values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let [good, bad] = [[1.0, -2.0], [1.0, f64::INFINITY]].map(|values| vector(values, DType::F32));
        // f64 is checked with operations of candle, as on a GPU.
        let [wide, wide_bad] = [[1.0, 1e300], [f64::NAN, 0.0]].map(|values| vector(values, DType::F64));
        let found = |tensors: &[&Tensor]| {
            let gradients: Vec<VarGradient> = tensors.iter().map(|t| (*t).clone().into()).collect();
            let (finite, flag) = non_finite_flag(&gradients).unwrap();
            (finite, flag.map(|flag| flag.to_scalar::<f32>().unwrap() == 0.0))
        };
        assert_eq!(found(&[&good]), (true, None));
        assert_eq!(found(&[&good, &wide, &wide]), (true, Some(true)));
        assert_eq!(found(&[&wide, &wide_bad, &good]), (true, Some(false)), "a later flag does not hide it");
        assert_eq!(found(&[&wide_bad, &wide]), (true, Some(false)));
        assert_eq!(found(&[&wide, &bad]), (false, None), "nothing else need be read");
    }

    #[test]
    fn a_double_beyond_the_range_of_a_float_is_finite_and_integers_are() {
        let wide = Tensor::new(&[1.0, 1e300, f64::INFINITY], &Device::Cpu).unwrap();
        assert_eq!(first_non_finite(&wide).unwrap(), Some(2));
        assert!(finite(&[wide.narrow(0, 0, 2).unwrap()]));
        assert_eq!(first_non_finite(&Tensor::new(&[u32::MAX], &Device::Cpu).unwrap()).unwrap(), None);
    }
}
