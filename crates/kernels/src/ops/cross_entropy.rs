use candle_core::{DType, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::autograd::{Backward, Gradient, Op, apply, by_candle};
use crate::error::argument;
use crate::values::is_fast;

/// Mean over the batch of `−ln softmax(logits)[target]`, in nats.
///
/// # Shapes
/// `logits`: `(N, K)`, `targets`: `(N)` class indices as u32; the result is a scalar.
///
/// Targets are checked, which waits for targets on a GPU. Targets on the CPU are checked there and then copied.
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
    // Checked before any operation: candle's messages say less, and an invalid index makes a GPU unusable.
    let known = targets.to_vec1::<u32>()?;
    if let Some(target) = known.iter().find(|t| **t as usize >= classes) {
        return argument(format!("cross_entropy: expected targets below {classes}, found {target}"));
    }
    if is_fast(&[logits]) {
        apply(CrossEntropy { classes, targets: known }, &[logits])
    } else {
        let targets = &targets.to_device(logits.device())?;
        #[cfg(feature = "cuda")]
        if crate::cuda::is_fast(&[logits]) {
            return by_candle(crate::cuda::loss::cross_entropy(logits, targets));
        }
        by_candle(twin::cross_entropy(logits, targets))
    }
}

/// The number of rows of logits whose first largest value is at the target; a row with NaN does not count. On a CUDA
/// device the result is a scalar on the device, and nothing waits for it.
///
/// # Shapes
/// `logits`: `(N, K)`, `targets`: `(N)` class indices as u32; the result is a scalar.
///
/// # Errors
/// When the shapes do not match.
pub fn count_correct(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (n, classes) = logits.dims2()?;
    if targets.dims() != [n] {
        return argument(format!("accuracy: expected {n} targets, found shape {:?}", targets.dims()));
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::is_fast(&[logits]) {
        return crate::cuda::loss::count_correct(logits, &targets.to_device(logits.device())?);
    }
    let targets = targets.to_vec1::<u32>()?;
    let hits = crate::with_values(logits, |logits| {
        let hit = |(row, &target): (&[f32], &u32)| {
            let Some(&own) = row.get(target as usize) else { return false };
            let (before, after) = row.split_at(target as usize);
            before.iter().all(|x| *x < own) && after.iter().all(|x| *x <= own)
        };
        logits.chunks_exact(classes.max(1)).zip(&targets).filter(|pair| hit(*pair)).count()
    })?;
    Tensor::new(hits as f32, &candle_core::Device::Cpu)
}

struct CrossEntropy {
    classes: usize,
    targets: Vec<u32>,
}

/// The smallest number of rows for one task.
const ROWS: usize = 32;

/// The largest value of a row; NaN if the row has a NaN.
fn max(logits: &[f32]) -> f64 {
    logits.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max || x.is_nan() { x } else { max }).into()
}

/// `ln Σ e^x` in f64; not finite if a logit is infinite or NaN.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = max(logits);
    max + logits.iter().map(|&x| (x as f64 - max).exp()).sum::<f64>().ln()
}

/// Writes `softmax(logits)` to `shares`, in f64.
pub(crate) fn softmax(logits: &[f32], shares: &mut [f64]) {
    let max = max(logits);
    shares.iter_mut().zip(logits).for_each(|(share, &x)| *share = (x as f64 - max).exp());
    let sum: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn shape(&self) -> Shape {
        ().into()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let rows = inputs[0].par_chunks_exact(self.classes).zip(&self.targets).with_min_len(ROWS);
        let losses: Vec<f64> =
            rows.map(|(row, &target)| log_sum_exp(row) - row[target as usize] as f64).collect();
        let loss: f64 = losses.iter().sum();
        vec![(loss / self.targets.len() as f64) as f32]
    }

    fn backward(&self, Backward { inputs, grad_ys, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let scale = grad_ys.into_dense()[0] as f64 / self.targets.len() as f64;
        let mut grad = inputs[0].to_vec();
        let rows = grad.par_chunks_exact_mut(self.classes).zip(&self.targets).with_min_len(ROWS);
        rows.for_each_init(
            || vec![0.0; self.classes],
            |shares, (row, &target)| {
                softmax(row, shares);
                for (class, (grad, share)) in row.iter_mut().zip(&*shares).enumerate() {
                    let hit = f64::from(class == target as usize);
                    *grad = ((share - hit) * scale) as f32;
                }
            },
        );
        vec![Some(Gradient::Dense(grad))]
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
