use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};

use crate::cpu::{is_fast, values, with_values};
use crate::error::argument;

/// Mean over the batch of `−ln softmax(logits)[target]`, in nats.
///
/// # Shapes
/// `logits`: `(N, K)`, `targets`: `(N)` class indices as u32; the result is a scalar.
///
/// # Errors
/// When the batch is empty or a target is not below `K`.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (n, classes) = logits.dims2()?;
    if targets.dims() != [n] || targets.dtype() != DType::U32 {
        return argument(format!(
            "cross_entropy: expected {n} targets of type u32, found {:?} of shape {:?}",
            targets.dtype(),
            targets.dims()
        ));
    }
    if n == 0 || classes == 0 {
        return argument(format!(
            "cross_entropy: expected at least one sample and class, found {n}×{classes}"
        ));
    }
    // Where the targets are on the CPU they are looked at before any operation: candle's own say less.
    if targets.device().is_cpu()
        && let Some(target) = targets.to_vec1::<u32>()?.into_iter().find(|t| *t as usize >= classes)
    {
        return argument(format!("cross_entropy: expected targets below {classes}, found {target}"));
    }
    if !is_fast(&[logits]) || !targets.device().is_cpu() {
        return twin::cross_entropy(logits, targets);
    }
    logits.contiguous()?.apply_op2(&targets.contiguous()?, CrossEntropy)
}

struct CrossEntropy;

/// `ln Σ e^x` in f64; with an infinite or undefined logit it is not finite, as it should be.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max =
        logits.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max || x.is_nan() { x } else { max }) as f64;
    max + logits.iter().map(|&x| (x as f64 - max).exp()).sum::<f64>().ln()
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, classes) = logits_layout.shape().dims2()?;
        let logits = values(logits, logits_layout)?;
        let targets = &targets.as_slice::<u32>()?[targets_layout.start_offset()..][..n];
        let mut loss = 0.0;
        for (row, &target) in logits.chunks_exact(classes).zip(targets) {
            loss += log_sum_exp(row) - row[target as usize] as f64;
        }
        Ok((CpuStorage::F32(vec![(loss / n as f64) as f32]), ().into()))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _loss: &Tensor,
        grad_loss: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, classes) = logits.dims2()?;
        let scale = grad_loss.to_scalar::<f32>()? as f64 / n as f64;
        let targets = targets.to_vec1::<u32>()?;
        let grad = with_values(logits, |logits| {
            let mut grad = Vec::with_capacity(logits.len());
            for (row, target) in logits.chunks_exact(classes).zip(targets) {
                let norm = log_sum_exp(row);
                grad.extend(row.iter().enumerate().map(|(class, &x)| {
                    let hit = f64::from(class == target as usize);
                    (((x as f64 - norm).exp() - hit) * scale) as f32
                }));
            }
            grad
        })?;
        Ok((Some(Tensor::from_vec(grad, (n, classes), logits.device())?), None))
    }
}

pub(crate) mod twin {
    use super::*;

    /// See [`crate::cross_entropy`].
    pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let hit = logits.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?;
        (logits.log_sum_exp(1)? - hit)?.mean_all()
    }
}
