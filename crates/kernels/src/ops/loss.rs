//! More losses: squared errors, logits of independent labels, and classes with probabilities as targets.

use candle_core::{DType, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cross_entropy::{log_sum_exp, softmax};
use crate::autograd::{Backward, Gradient, Op, apply, by_candle};
use crate::error::argument;
use crate::parallel::{CHUNK, for_chunks};
use crate::values::{Values, is_fast};

/// Mean of `(xs − targets)²` over all values.
///
/// # Shapes
/// `xs` and `targets`: the same shape; the result is a scalar.
///
/// # Errors
/// When the shapes differ or have no values.
pub fn mse(xs: &Tensor, targets: &Tensor) -> Result<Tensor> {
    same_shapes("mse", xs, targets)?;
    match constants(xs, targets)? {
        Some(targets) => apply(PointwiseLoss { loss: Pointwise::Squared, targets }, &[xs]),
        None => by_candle(twin::mse(xs, &targets.to_dtype(xs.dtype())?)),
    }
}

/// Mean over all values of the binary cross-entropy of `sigmoid(logits)`, in nats: `(1 − t)·x + (1 + (p − 1)·t)·ln(1 +
/// e^−x)` with `p = positive_weight`, as PyTorch's `binary_cross_entropy_with_logits`. Finite for every finite logit.
///
/// # Shapes
/// `logits` and `targets`: the same shape, with targets in `[0, 1]`; the result is a scalar.
///
/// # Errors
/// When the shapes differ or have no values, a target is outside `[0, 1]`, or `positive_weight` is negative or not
/// finite.
pub fn binary_cross_entropy(logits: &Tensor, targets: &Tensor, positive_weight: f64) -> Result<Tensor> {
    same_shapes("binary_cross_entropy", logits, targets)?;
    if !(positive_weight.is_finite() && positive_weight >= 0.0) {
        return argument(format!(
            "binary_cross_entropy: expected a positive weight of at least 0, found {positive_weight}"
        ));
    }
    if targets.device().is_cpu() {
        let outside = |ts: &[f32]| ts.iter().copied().find(|t| !(0.0..=1.0).contains(t));
        if let Some(found) = crate::with_values(targets, outside)? {
            return argument(format!("binary_cross_entropy: expected targets in [0, 1], found {found}"));
        }
    }
    match constants(logits, targets)? {
        Some(targets) => {
            apply(PointwiseLoss { loss: Pointwise::Binary { positive_weight }, targets }, &[logits])
        }
        None => {
            by_candle(twin::binary_cross_entropy(logits, &targets.to_dtype(logits.dtype())?, positive_weight))
        }
    }
}

/// Mean over the batch of `−Σ targets · ln softmax(logits)`, in nats: cross-entropy with a weight for every class of
/// every sample, for label smoothing and class weights.
///
/// # Shapes
/// `logits` and `targets`: `(N, K)`; the result is a scalar.
///
/// # Errors
/// When the shapes differ or have no values.
pub fn soft_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (_, classes) = logits.dims2()?;
    same_shapes("soft_cross_entropy", logits, targets)?;
    match constants(logits, targets)? {
        Some(targets) => apply(SoftCrossEntropy { classes, targets }, &[logits]),
        None => by_candle(twin::soft_cross_entropy(logits, &targets.to_dtype(logits.dtype())?)),
    }
}

fn same_shapes(name: &str, xs: &Tensor, targets: &Tensor) -> Result<()> {
    if xs.dims() != targets.dims() {
        return argument(format!(
            "{name}: expected targets of shape {:?} as the outputs have, found {:?}",
            xs.dims(),
            targets.dims()
        ));
    }
    if xs.elem_count() == 0 {
        return argument(format!("{name}: expected at least one value, found shape {:?}", xs.dims()));
    }
    Ok(())
}

/// The values of the targets, if they are constants and the kernel can compute the loss. `None` on a GPU, for another dtype,
/// or if the targets need a gradient: then the twin computes it.
fn constants(xs: &Tensor, targets: &Tensor) -> Result<Option<Vec<f32>>> {
    if !is_fast(&[xs]) || !targets.device().is_cpu() || targets.track_op() {
        return Ok(None);
    }
    let targets = targets.to_dtype(DType::F32)?.contiguous()?;
    Ok(Some(Values::of(&targets)?.to_vec()))
}

/// A loss that is the mean of a function of each value and its target.
#[derive(Clone, Copy)]
enum Pointwise {
    Squared,
    Binary { positive_weight: f64 },
}

impl Pointwise {
    #[inline(always)]
    fn value(self, x: f32, t: f32) -> f64 {
        let (x, t) = (f64::from(x), f64::from(t));
        match self {
            Self::Squared => (x - t) * (x - t),
            // ln(1 + e^−x), without overflow
            Self::Binary { positive_weight: p } => {
                (1.0 - t) * x + (1.0 + (p - 1.0) * t) * ((-x.abs()).exp().ln_1p() + (-x).max(0.0))
            }
        }
    }

    #[inline(always)]
    fn slope(self, x: f32, t: f32) -> f64 {
        let (x, t) = (f64::from(x), f64::from(t));
        match self {
            Self::Squared => 2.0 * (x - t),
            Self::Binary { positive_weight: p } => (1.0 - t) - (1.0 + (p - 1.0) * t) / (1.0 + x.exp()),
        }
    }
}

struct PointwiseLoss {
    loss: Pointwise,
    targets: Vec<f32>,
}

impl Op for PointwiseLoss {
    fn name(&self) -> &'static str {
        match self.loss {
            Pointwise::Squared => "mse",
            Pointwise::Binary { .. } => "binary_cross_entropy",
        }
    }

    fn shape(&self) -> Shape {
        ().into()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let sum = |(xs, targets): (&[f32], &[f32])| -> f64 {
            xs.iter().zip(targets).map(|(x, t)| self.loss.value(*x, *t)).sum()
        };
        // Summed chunk by chunk, in a fixed order.
        let sums: Vec<f64> =
            inputs[0].par_chunks(CHUNK).zip(self.targets.par_chunks(CHUNK)).map(sum).collect();
        vec![(sums.iter().sum::<f64>() / self.targets.len() as f64) as f32]
    }

    fn backward(&self, Backward { inputs, grad_ys, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let scale = f64::from(grad_ys.into_dense()[0]) / self.targets.len() as f64;
        let mut grad = inputs[0].to_vec();
        for_chunks(&mut grad, |start, grad| {
            for (x, t) in grad.iter_mut().zip(&self.targets[start..]) {
                *x = (self.loss.slope(*x, *t) * scale) as f32;
            }
        });
        vec![Some(Gradient::Dense(grad))]
    }
}

struct SoftCrossEntropy {
    classes: usize,
    targets: Vec<f32>,
}

impl Op for SoftCrossEntropy {
    fn name(&self) -> &'static str {
        "soft_cross_entropy"
    }

    fn shape(&self) -> Shape {
        ().into()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let rows = inputs[0].par_chunks_exact(self.classes).zip(self.targets.par_chunks_exact(self.classes));
        let loss = |(row, targets): (&[f32], &[f32])| -> f64 {
            let log_sum = log_sum_exp(row);
            row.iter().zip(targets).map(|(x, t)| f64::from(*t) * (log_sum - f64::from(*x))).sum()
        };
        let losses: Vec<f64> = rows.map(loss).collect();
        vec![(losses.iter().sum::<f64>() / losses.len() as f64) as f32]
    }

    fn backward(&self, Backward { inputs, grad_ys, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let samples = self.targets.len() / self.classes;
        let scale = f64::from(grad_ys.into_dense()[0]) / samples as f64;
        let mut grad = inputs[0].to_vec();
        let rows = grad.par_chunks_exact_mut(self.classes).zip(self.targets.par_chunks_exact(self.classes));
        rows.for_each_init(
            || vec![0.0; self.classes],
            |shares, (row, targets)| {
                softmax(row, shares);
                let total: f64 = targets.iter().map(|t| f64::from(*t)).sum();
                for ((grad, share), target) in row.iter_mut().zip(&*shares).zip(targets) {
                    *grad = ((share * total - f64::from(*target)) * scale) as f32;
                }
            },
        );
        vec![Some(Gradient::Dense(grad))]
    }
}

pub(crate) mod twin {
    use super::*;
    use crate::Activation;
    use crate::ops::activate::twin::activate;

    /// See [`crate::mse`].
    pub fn mse(xs: &Tensor, targets: &Tensor) -> Result<Tensor> {
        (xs - targets)?.sqr()?.mean_all()
    }

    /// See [`crate::binary_cross_entropy`].
    pub fn binary_cross_entropy(logits: &Tensor, targets: &Tensor, positive_weight: f64) -> Result<Tensor> {
        let weight = targets.affine(positive_weight - 1.0, 1.0)?;
        let softplus = activate(&logits.neg()?, Activation::Softplus)?;
        ((targets.affine(-1.0, 1.0)? * logits)? + (weight * softplus)?)?.mean_all()
    }

    /// See [`crate::soft_cross_entropy`].
    pub fn soft_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let log_sum = logits.log_sum_exp(1)?.unsqueeze(1)?;
        (targets * log_sum.broadcast_sub(logits)?)?.sum(1)?.mean_all()
    }
}
