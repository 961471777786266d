use taper_hooks::Pass;

use crate::awake::awake;
use crate::{Result, Step};

/// A training step: computes the loss and the metrics of a batch `B`. Every closure `Fn(&mut Pass<'_>, &B) -> Result<Step>` is one.
///
/// In a closure, write the types of both arguments: `|pass: &mut Pass<'_>, batch: &Batch| { .. }`.
pub trait StepFn<B> {
    /// Calls `op` with the step, on the thread on which the step may run.
    fn run<R: Send>(&self, op: impl FnOnce(&AnyStep<'_, B>) -> R + Send) -> R;
}

/// A step as the loops see it.
pub type AnyStep<'a, B> = dyn Fn(&mut Pass<'_>, &B) -> Result<Step> + 'a;

impl<B, F: Fn(&mut Pass<'_>, &B) -> Result<Step> + Sync> StepFn<B> for F {
    /// On a thread of rayon's pool, where handing work to the other threads costs least.
    fn run<R: Send>(&self, op: impl FnOnce(&AnyStep<'_, B>) -> R + Send) -> R {
        awake(|| Pass::outside(|| op(self)))
    }
}

/// A step that runs on the thread that calls: for a model that is not `Sync`, as candle's `Sequential`.
///
/// Kernels use all threads all the same, but each time they hand work over it takes some microseconds longer.
///
/// ```
/// # use candle_core::{Device, Module, Tensor};
/// # use taper_nn::{Act, Activation, Params, Pass};
/// # use taper_train::{Here, Optimizer, OptimizerConfig, Rule, Step, mse, train_epoch};
/// let params = Params::new(1, &Device::Cpu);
/// let vb = params.builder();
/// let net = candle_nn::seq()
///     .add(candle_nn::linear(2, 8, vb.pp("fc1"))?)
///     .add(Act::new(Activation::Tanh, vb.pp("fc1"))?)
///     .add(candle_nn::linear(8, 1, vb.pp("fc2"))?);
/// let step = |pass: &mut Pass<'_>, (xs, ys): &(Tensor, Tensor)| {
///     Ok(Step::new(mse(&pass.scope(|| net.forward(xs))?, ys)?, xs.dim(0)?))
/// };
/// let cpu = &Device::Cpu;
/// let (xs, ys) = (Tensor::randn(0_f32, 1.0, (64, 2), cpu)?, Tensor::ones((64, 1), candle_core::DType::F32, cpu)?);
/// let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1))?;
/// let batches = (0..50).map(|_| Ok::<_, candle_core::Error>((xs.clone(), ys.clone())));
/// let report = train_epoch(&Here(step), &mut optimizer, batches, &mut (), 1)?;
/// assert!(report.score.loss < 0.5);
/// # Ok::<(), taper_train::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Here<F>(pub F);

impl<B, F: Fn(&mut Pass<'_>, &B) -> Result<Step>> StepFn<B> for Here<F> {
    fn run<R: Send>(&self, op: impl FnOnce(&AnyStep<'_, B>) -> R + Send) -> R {
        Pass::outside(|| op(&self.0))
    }
}
