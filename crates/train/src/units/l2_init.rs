use candle_core::Tensor;
use taper_nn::Params;

use crate::{Error, Result};

/// L2 Init (Kumar, Marklund & Van Roy 2023): a penalty `λ · Σ (θ − θ₀)²` that pulls parameters towards their initial values
/// instead of 0, so that units that are not needed return to where they could learn.
///
/// Its term belongs into the loss: `pass.add_to_loss(&l2_init.penalty()?)?` in a training step. It remembers the values that the
/// parameters have when it is made; make it with the model, in front of [`Session::open`](crate::Session::open), whose
/// checkpoint would be taken for the start.
#[derive(Debug)]
pub struct L2Init {
    lambda: f64,
    start: Vec<(Tensor, Tensor)>,
}

impl L2Init {
    /// Of all parameters, as they are now.
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
            let term = (now - start)?.sqr()?.sum_all()?;
            sum = Some(sum.map_or(Ok(term.clone()), |sum| sum + &term)?);
        }
        let none = || Error::Config("l2 init: expected a model with parameters, found none".into());
        Ok((sum.ok_or_else(none)? * self.lambda)?)
    }
}
