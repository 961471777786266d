use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use crate::cpu::{Matrix, add_rows, is_fast, matmul, values, with_values};
use crate::error::argument;

/// `xs · weightᵀ + bias`, as PyTorch's `F.linear`. No gradient is computed for an `xs` that needs none.
///
/// # Shapes
/// `xs`: `(.., I)`, `weight`: `(O, I)`, `bias`: `(O)`; the result is `(.., O)`.
///
/// # Errors
/// When the shapes do not belong together.
pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (o, i) = weight.dims2()?;
    if xs.dims().last() != Some(&i) {
        return argument(format!("linear: expected inputs of {i} features, found shape {:?}", xs.dims()));
    }
    if let Some(bias) = bias
        && bias.dims() != [o]
    {
        return argument(format!("linear: expected a bias of {o} values, found shape {:?}", bias.dims()));
    }
    let fast = is_fast(&[xs, weight]) && bias.is_none_or(|b| is_fast(&[b]));
    if !fast {
        return twin::linear(xs, weight, bias);
    }
    let (xs, weight) = (xs.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => xs.apply_op3(&weight, &bias.contiguous()?, Linear),
        None => xs.apply_op2(&weight, Linear),
    }
}

struct Linear;

/// How many inputs there are: the product of all dimensions but the last.
fn rows(dims: &[usize]) -> usize {
    dims[..dims.len() - 1].iter().product()
}

impl Linear {
    fn forward(
        xs: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (o, i) = weight.1.shape().dims2()?;
        let n = rows(xs.1.dims());
        let mut ys = match bias {
            Some(bias) => bias.repeat(n),
            None => vec![0.0; n * o],
        };
        let (xs_values, weight) = (values(xs.0, xs.1)?, values(weight.0, weight.1)?);
        let (xs_matrix, weight) = (Matrix::new(xs_values, i), Matrix::new(weight, i).transposed());
        matmul((n, o, i), &mut ys, bias.is_some(), xs_matrix, weight, true);
        let mut shape = xs.1.dims().to_vec();
        shape.pop();
        shape.push(o);
        Ok((CpuStorage::F32(ys), shape.into()))
    }

    /// Gradients of `xs` and `weight`, each if it needs one, and of the bias.
    fn backward(
        xs: &Tensor,
        weight: &Tensor,
        grad_ys: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Tensor)> {
        let (o, i) = weight.dims2()?;
        let n = rows(xs.dims());
        let device = xs.device();
        with_values(grad_ys, |grad_ys| {
            let rows = Matrix::new(grad_ys, o);
            let grad_xs = if xs.track_op() {
                let mut grad = vec![0.0; n * i];
                with_values(weight, |w| matmul((n, i, o), &mut grad, false, rows, Matrix::new(w, i), true))?;
                Some(Tensor::from_vec(grad, xs.shape(), device)?)
            } else {
                None
            };
            let grad_weight = if weight.track_op() {
                let (mut grad, rows) = (vec![0.0; o * i], rows.transposed());
                with_values(xs, |xs| matmul((o, i, n), &mut grad, false, rows, Matrix::new(xs, i), true))?;
                Some(Tensor::from_vec(grad, (o, i), device)?)
            } else {
                None
            };
            let mut grad_bias = vec![0.0; o];
            add_rows(&mut grad_bias, grad_ys);
            Ok((grad_xs, grad_weight, Tensor::from_vec(grad_bias, o, device)?))
        })?
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::forward((xs, xs_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _ys: &Tensor,
        grad_ys: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (grad_xs, grad_weight, _) = Self::backward(xs, weight, grad_ys)?;
        Ok((grad_xs, grad_weight))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::forward((xs, xs_layout), (weight, weight_layout), Some(values(bias, bias_layout)?))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _ys: &Tensor,
        grad_ys: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (grad_xs, grad_weight, grad_bias) = Self::backward(xs, weight, grad_ys)?;
        Ok((grad_xs, grad_weight, Some(grad_bias)))
    }
}

pub(crate) mod twin {
    use super::*;

    /// See [`crate::linear`].
    pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let i = weight.dim(1)?;
        let ys = xs.reshape(((), i))?.matmul(&weight.t()?)?;
        let ys = match bias {
            Some(bias) => ys.broadcast_add(bias)?,
            None => ys,
        };
        let mut shape = xs.dims().to_vec();
        shape.pop();
        shape.push(weight.dim(0)?);
        ys.reshape(shape)
    }
}
