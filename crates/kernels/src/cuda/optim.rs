//! Steps of the optimisers on a CUDA device: one launch for each parameter, in place.

use candle_core::{DType, Result, Tensor};

use super::{Arg, Floats, OPTIM, address, each, launch};
use crate::Rule;

/// Moves `parameter` and its slots by one step. All are contiguous, of one shape, and the slots those of the rule.
pub fn step(
    rule: &Rule,
    parameter: &Tensor,
    gradient: &Tensor,
    slots: &[Tensor],
    rate: f64,
    step: u64,
) -> Result<()> {
    let t = step.min(i32::MAX as u64) as i32;
    // The number of the rule, and: penalty, keep, a, new_a, b, new_b, root, eps; the rate is in front.
    let (number, rate, constants) = match *rule {
        Rule::Sgd { momentum: 0.0, weight_decay, .. } => {
            (0, rate, [weight_decay, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        }
        Rule::Sgd { momentum, nesterov, weight_decay } => {
            (if nesterov { 2 } else { 1 }, rate, [weight_decay, 1.0, momentum, 0.0, 0.0, 0.0, 0.0, 0.0])
        }
        Rule::Adam { beta1, beta2, eps, weight_decay, decoupled } => {
            let (penalty, keep) =
                if decoupled { (0.0, 1.0 - rate * weight_decay) } else { (weight_decay, 1.0) };
            let root = (1.0 - beta2.powi(t)).sqrt();
            (
                3,
                rate / (1.0 - beta1.powi(t)),
                [penalty, keep, beta1, 1.0 - beta1, beta2, 1.0 - beta2, root, eps],
            )
        }
        Rule::RmsProp { alpha, eps } => (4, rate, [0.0, 1.0, alpha, 1.0 - alpha, 0.0, 0.0, 0.0, eps]),
        Rule::Adadelta { rho, eps } => (5, rate, [0.0, 1.0, rho, 1.0 - rho, 0.0, 0.0, 0.0, eps]),
    };
    let mut all = [rate as f32; 9];
    all[1..].iter_mut().zip(constants).for_each(|(own, constant)| *own = constant as f32);
    let slot = |i: usize| slots.get(i).map_or(Ok(Arg::At(0)), address::<f32>);
    let (n, gradient) = (parameter.elem_count(), gradient.contiguous()?);
    let args = [
        address::<f32>(parameter)?,
        address::<f32>(&gradient)?,
        slot(0)?,
        slot(1)?,
        Arg::Size(n),
        Arg::I32(number),
        Arg::Floats(Floats(all)),
    ];
    // SAFETY: all have `n` values. Only the caller uses the slots, and reads of the parameter follow on the device's
    // stream.
    unsafe { launch(parameter.device().as_cuda_device()?, &OPTIM, "step", each(n), &args) }
}

/// Sets `flag`, a scalar, to 1 if a value is NaN or infinite.
pub fn flag_non_finite(xs: &Tensor, flag: &Tensor) -> Result<()> {
    let (xs, n) = (xs.contiguous()?, xs.elem_count());
    debug_assert_eq!(flag.dtype(), DType::F32);
    let args = [address::<f32>(&xs)?, Arg::Size(n), address::<f32>(flag)?];
    // SAFETY: `xs` has `n` values.
    unsafe { launch(xs.device().as_cuda_device()?, &OPTIM, "flag_non_finite", each(n), &args) }
}
