use candle_core::Tensor;
use taper_kernels::mse;
use taper_nn::Params;

use crate::{Error, Result};

/// L2 Init (Kumar, Marklund & Van Roy 2023): the penalty `λ · Σ (θ − θ₀)²` on the distance of all parameters to their initial
/// values θ₀. Parameters that the loss does not need drift back to values from which they can learn.
///
/// Add it to the loss in a training step: `pass.add_to_loss(&l2_init.penalty()?)?`. θ₀ are the values at the time of
/// [`L2Init::new`]: call it after the model and before [`Session::open`](crate::Session::open), which restores the weights of
/// a resumed run.
#[derive(Debug)]
pub struct L2Init {
    lambda: f64,
    /// Each parameter and its initial value.
    start: Vec<(Tensor, Tensor)>,
}

impl L2Init {
    /// The penalty with the current values of all parameters as θ₀.
    ///
    /// # Errors
    /// When λ is negative or not finite.
    pub fn new(params: &Params, lambda: f64) -> Result<Self> {
        if !(lambda.is_finite() && lambda >= 0.0) {
            return Err(Error::Config(format!("l2 init: expected λ of at least 0, found {lambda}")));
        }
        let start = |(_, var): (String, candle_core::Var)| {
            Ok((var.as_tensor().clone(), var.as_detached_tensor().copy()?))
        };
        Ok(Self { lambda, start: params.vars().into_iter().map(start).collect::<Result<_>>()? })
    }

    /// `λ · Σ (θ − θ₀)²`, a scalar with a gradient.
    ///
    /// # Errors
    /// When there are no parameters.
    pub fn penalty(&self) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for (now, start) in &self.start {
            let term = (mse(now, start)? * now.elem_count() as f64)?;
            sum = Some(sum.map_or(Ok(term.clone()), |sum| sum + &term)?);
        }
        let none = || Error::Config("l2 init: expected a model with parameters, found none".into());
        Ok((sum.ok_or_else(none)? * self.lambda)?)
    }
}
