//! Cross-entropy and the count of correct predictions on a CUDA device.

use candle_core::{CudaDevice, CudaStorage, DType, Result, Shape, Tensor};

use super::layers::{at, run};
use super::{Arg, Input, address, unwritten, unwritten_storage, whole};
use crate::autograd::{Node, apply_in_graph};

struct CrossEntropy(Tensor);

/// See [`crate::cross_entropy`]: `targets` are on the device, and below the number of classes.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    apply_in_graph(CrossEntropy(targets.contiguous()?), &[logits])
}

impl Node for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn on_cuda(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let (n, classes) = inputs[0].1.shape().dims2()?;
        let losses = unwritten(n, DType::F64, self.0.device())?;
        let loss = unwritten_storage(1, device)?;
        let args = [
            at(inputs[0])?,
            address::<u32>(&self.0)?,
            address::<f64>(&losses)?,
            Arg::U32(n),
            Arg::U32(classes),
        ];
        // SAFETY: there is a target below `classes` and a loss for each of `n` rows.
        unsafe {
            run(device, "row_losses", (n.div_ceil(8), 256), &args)?;
            let args = [address::<f64>(&losses)?, whole(&loss, 1)?, Arg::U32(n)];
            run(device, "mean_loss", (1, 256), &args)?;
        }
        Ok((loss, ().into()))
    }

    fn backward(&self, inputs: &[&Tensor], _: &Tensor, grad_ys: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (n, classes) = inputs[0].dims2()?;
        let grads = unwritten((n, classes), DType::F32, inputs[0].device())?;
        let args = [
            address::<f32>(inputs[0])?,
            address::<u32>(&self.0)?,
            address::<f32>(grad_ys)?,
            address::<f32>(&grads)?,
            Arg::U32(n),
            Arg::U32(classes),
        ];
        // SAFETY: as in the forward pass.
        unsafe { run(grads.device().as_cuda_device()?, "loss_back", (n.div_ceil(8), 256), &args)? };
        Ok(vec![Some(grads)])
    }
}

/// How many rows of logits have their first largest value at the target: a scalar.
pub fn count_correct(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (logits, targets) = (logits.detach().contiguous()?, targets.contiguous()?);
    let (n, classes) = logits.dims2()?;
    let hits = unwritten((), DType::F32, logits.device())?;
    let args = [
        address::<f32>(&logits)?,
        address::<u32>(&targets)?,
        address::<f32>(&hits)?,
        Arg::U32(n),
        Arg::U32(classes),
    ];
    // SAFETY: there is a target for each of `n` rows.
    unsafe { run(logits.device().as_cuda_device()?, "count_hits", (1, 1024), &args)? };
    Ok(hits)
}
