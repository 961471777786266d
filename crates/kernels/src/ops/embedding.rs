use candle_core::{DType, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::autograd::{Backward, Gradient, Op, apply, by_candle};
use crate::error::argument;
use crate::parallel::CHUNK;
use crate::values::is_fast;

/// The rows of `weight` with the indices `ids`, as PyTorch's `F.embedding`. The gradients of a repeated row are added
/// in the order of `ids`.
///
/// # Shapes
/// `ids`: any, as u32, each below `V`; `weight`: `(V, F)`; the result is `(.., F)`.
///
/// # Errors
/// When an id is not below `V`. Ids on a GPU are copied back for this check, which waits for the GPU.
pub fn embedding(ids: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (rows, width) = weight.dims2()?;
    if ids.dtype() != DType::U32 {
        return argument(format!("embedding: expected ids of type u32, found {:?}", ids.dtype()));
    }
    let known = ids.flatten_all()?.to_vec1::<u32>()?;
    if let Some(id) = known.iter().find(|id| **id as usize >= rows) {
        return argument(format!("embedding: expected ids below {rows}, found {id}"));
    }
    if !is_fast(&[weight]) || width == 0 {
        return by_candle(twin::embedding(&ids.to_device(weight.device())?, weight));
    }
    let shape = [ids.dims(), &[width]].concat().into();
    apply(Embedding { ids: known, rows, width, shape }, &[weight])
}

struct Embedding {
    /// Each is below `rows`.
    ids: Vec<u32>,
    rows: usize,
    width: usize,
    shape: Shape,
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let rows = self.ids.iter().flat_map(|id| &inputs[0][*id as usize * self.width..][..self.width]);
        rows.copied().collect()
    }

    fn backward(&self, Backward { grad_ys, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let (&Self { rows, width, .. }, grads) = (self, grad_ys.into_dense());
        let mut sums = vec![0.0; rows * width];
        // Every thread has some rows and searches their ids, so the order of a sum does not depend on the threads.
        let some = (CHUNK / width).max(1);
        sums.par_chunks_mut(some * width).enumerate().for_each(|(k, sums)| {
            for (id, grads) in self.ids.iter().zip(grads.chunks_exact(width)) {
                if let Some(row) = (*id as usize).checked_sub(k * some)
                    && row * width < sums.len()
                {
                    let row = &mut sums[row * width..][..width];
                    row.iter_mut().zip(grads).for_each(|(sum, grad)| *sum += grad);
                }
            }
        });
        vec![Some(Gradient::Dense(sums))]
    }
}

pub(crate) mod twin {
    use super::*;

    /// See [`crate::embedding`].
    pub fn embedding(ids: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let rows = weight.index_select(&ids.flatten_all()?, 0)?;
        rows.reshape([ids.dims(), &[weight.dim(1)?]].concat())
    }
}
