use std::cell::OnceCell;

use taper_hooks::Pass;

use crate::spin::Spin;
use crate::{Result, Step};

/// A training step: computes the loss and the metrics of a batch `B`. Closures `Fn(&mut Pass<'_>, &B) -> Result<Step>`
/// implement it.
///
/// In a closure, write the types of both arguments: `|pass: &mut Pass<'_>, batch: &Batch| { .. }`.
pub trait StepFn<B> {
    /// Runs the loop `op` on a thread on which the step may be called.
    fn run<R: Send>(&self, op: impl FnOnce(&AnyStep<'_, B>) -> R + Send) -> R;
}

/// The function that [`StepFn::run`] passes to the training or evaluation loop.
pub type AnyStep<'a, B> = dyn Fn(&mut Pass<'_>, &B) -> Result<Step> + 'a;

impl<B, F: Fn(&mut Pass<'_>, &B) -> Result<Step> + Sync> StepFn<B> for F {
    /// Runs on a thread of rayon's pool, because parallel sections start fastest there. The pool's other threads spin from
    /// the first loss on the CPU until the end of the loop: they look for work instead of sleeping.
    fn run<R: Send>(&self, op: impl FnOnce(&AnyStep<'_, B>) -> R + Send) -> R {
        in_pool(|| {
            let spin = OnceCell::new();
            op(&|pass: &mut Pass<'_>, batch: &B| {
                let step = self(pass, batch)?;
                // With a GPU, spinning threads would only waste power.
                spin.get_or_init(|| step.loss.device().is_cpu().then(Spin::start));
                Ok(step)
            })
        })
    }
}

/// Runs `op` on a thread of rayon's pool.
fn in_pool<R: Send>(op: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| Pass::outside(op))
}

/// A step without spinning: idle threads sleep. Training is slower, but other programs can use the cores.
///
/// ```
/// # use taper_nn::{Mlp, MlpConfig, Params};
/// # use taper_report::Split;
/// # use taper_train::{NoSpin, classify, evaluate};
/// # let data = taper_data::digits()?;
/// # let params = Params::new(1, &candle_core::Device::Cpu);
/// # let net = Mlp::new(&MlpConfig { inputs: 64, widths: vec![32], ..Default::default() }, params.builder())?;
/// let test = evaluate(&NoSpin(classify(&net)), Split::Test, data.test.batches(360), &mut ())?;
/// assert_eq!(test.score, evaluate(&classify(&net), Split::Test, data.test.batches(360), &mut ())?.score);
/// # Ok::<(), taper_train::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NoSpin<F>(pub F);

impl<B, F: Fn(&mut Pass<'_>, &B) -> Result<Step> + Sync> StepFn<B> for NoSpin<F> {
    fn run<R: Send>(&self, op: impl FnOnce(&AnyStep<'_, B>) -> R + Send) -> R {
        in_pool(|| op(&self.0))
    }
}

/// A step that runs on the calling thread, for a model that is not `Sync`, such as candle's `Sequential`.
///
/// The kernels run on all threads of rayon's pool, but between parallel sections these threads sleep instead of spinning.
/// Waking them takes some microseconds each time.
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
