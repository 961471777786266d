use candle_core::{Result, Tensor};
use taper_hooks::{Mode, Pass};
use taper_kernels::Error;

use crate::Act;

/// An L1 penalty on the activations of a site (Glorot, Bordes & Bengio 2011), for [`Act::then`](crate::Act::then),
/// [`Mlp::then`](crate::Mlp::then) or [`Cnn::then`](crate::Cnn::then):
///
/// ```text
/// λ/N · Σₙ Σⱼ |yₙⱼ|
/// ```
///
/// is added to the loss in training: a sum over all values of a sample (units and positions), and a mean over the `N`
/// samples of the batch, like the loss. The values do not change. [`MlpConfig::l1`](crate::MlpConfig::l1) and
/// [`CnnConfig::l1`](crate::CnnConfig::l1) add it to all hidden layers.
///
/// ```
/// # use candle_core::{DType, Device, Tensor};
/// use taper_nn::{Mlp, MlpConfig, Model, Params, Pass, l1};
///
/// let config = MlpConfig { inputs: 4, widths: vec![8], ..Default::default() };
/// let net = Mlp::new(&config, Params::new(1, &Device::Cpu).builder())?.then("fc1", l1(1e-4)?)?;
/// # let mut nobody = ();
/// # let mut pass = Pass::train(&mut nobody, 1, 0);
/// # net.forward(&mut pass, &Tensor::ones((2, 4), DType::F32, &Device::Cpu)?)?;
/// # assert!(pass.added_loss().is_some());
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When λ is negative or not finite.
pub fn l1(
    lambda: f64,
) -> Result<impl Fn(&mut Pass<'_>, &Tensor) -> Result<Tensor> + Clone + Send + Sync + 'static> {
    if !(lambda.is_finite() && lambda >= 0.0) {
        return Err(Error::Argument(format!("l1: expected λ of at least 0, found {lambda}")).into());
    }
    Ok(move |pass: &mut Pass<'_>, ys: &Tensor| {
        if pass.mode() == Mode::Train {
            let samples = ys.dims().first().copied().unwrap_or(1).max(1);
            pass.add_to_loss(&(ys.abs()?.sum_all()? * (lambda / samples as f64))?)?;
        }
        Ok(ys.clone())
    })
}

/// `act` with an L1 penalty, unless λ is 0.
pub(crate) fn penalised(act: Act, lambda: f64) -> Result<Act> {
    Ok(if lambda == 0.0 { act } else { act.then(l1(lambda)?) })
}
