use candle_core::{DType, Tensor};
use rayon::prelude::*;
use taper_kernels::{Gradients, with_values};

use super::{Optimizer, Parameter};
use crate::Result;

/// The gradients as one list of numbers, for sums over shards and processes.
impl Optimizer {
    /// Concatenates the gradients of all trained parameters, with zeros for a parameter without a gradient, and the change of
    /// each buffer since it had the values `buffers`, times `samples`. Also returns which parameters have a gradient.
    pub(crate) fn flatten(
        &self,
        gradients: &Gradients,
        buffers: &[Tensor],
        samples: u64,
    ) -> Result<(Vec<f32>, Vec<bool>)> {
        let all = self.parameters.iter().map(|own| &own.var).chain(&self.buffers);
        let mut values = Vec::with_capacity(all.map(|var| var.elem_count()).sum());
        let mut reached = Vec::new();
        for Parameter { var, .. } in &self.parameters {
            let gradient = gradients.get(var);
            reached.push(gradient.is_some());
            match gradient {
                Some(gradient) => with_values(&gradient.values()?, |of| {
                    values.par_extend(of.par_iter().with_min_len(1 << 14).copied());
                })?,
                None => values.resize(values.len() + var.elem_count(), 0.0),
            }
        }
        for (now, before) in self.buffers.iter().zip(buffers) {
            let change = ((now.as_detached_tensor() - before)?.to_dtype(DType::F32)? * samples as f64)?;
            with_values(&change, |of| values.extend_from_slice(of))?;
        }
        Ok((values, reached))
    }

    /// The inverse of [`Optimizer::flatten`], divided by `samples`: mean gradients, and the new values of the buffers.
    pub(crate) fn unflatten(
        &self,
        values: &[f32],
        reached: &[bool],
        buffers: &[Tensor],
        samples: u64,
    ) -> Result<(Gradients, Vec<Tensor>)> {
        let (mut rest, mut gradients, mut after) = (values, Gradients::default(), Vec::new());
        let mut mean = |like: &Tensor| -> Result<Tensor> {
            let (of, behind) = rest.split_at(like.elem_count());
            rest = behind;
            let mean: Vec<f32> = of.par_iter().with_min_len(1 << 14).map(|x| x / samples as f32).collect();
            Ok(Tensor::from_vec(mean, like.shape(), like.device())?)
        };
        for (Parameter { var, .. }, reached) in self.parameters.iter().zip(reached) {
            let gradient = mean(var)?;
            if *reached {
                gradients.add(var, gradient)?;
            }
        }
        for before in buffers {
            after.push((before + mean(before)?.to_dtype(before.dtype())?)?);
        }
        Ok((gradients, after))
    }
}
