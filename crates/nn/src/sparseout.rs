use candle_core::{Result, Tensor};
use taper_hooks::{Mode, Pass};
use taper_kernels::{Error, dropout};

/// Sparseout (Khan & Stavness 2019): noise that penalises activations by `Σ |y|^q`, as dropout does for q = 2.
///
/// In train mode, with `r` 1 with probability `1 − rate` and otherwise 0, drawn for each value as dropout draws it:
///
/// ```text
/// ỹ = y + |y|^(q/2) · (r / (1 − rate) − 1)
/// ```
///
/// Its mean is `y` and its variance `|y|^q · rate / (1 − rate)`. With q = 2 and `y ≥ 0` it is inverted dropout; q < 2 makes
/// activations sparser, q > 2 denser. A value of 0 stays 0 and has the gradient of `y` alone. In evaluation mode it does nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sparseout {
    rate: f64,
    q: f64,
}

impl Sparseout {
    /// # Errors
    /// When `rate` is outside `[0, 1)`, or `q` is not above 0.
    pub fn new(rate: f64, q: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::Argument(format!("sparseout: expected a rate in [0, 1), found {rate}")).into());
        }
        if !(q.is_finite() && q > 0.0) {
            return Err(Error::Argument(format!("sparseout: expected q above 0, found {q}")).into());
        }
        Ok(Self { rate, q })
    }

    /// Put it behind an activation function, in the place of dropout.
    ///
    /// # Shapes
    /// Any; the result has the shape of `ys`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn forward(&self, pass: &mut Pass<'_>, ys: &Tensor) -> Result<Tensor> {
        if pass.mode() == Mode::Eval || self.rate == 0.0 {
            return Ok(ys.clone());
        }
        let noise = (dropout(&ys.detach().ones_like()?, self.rate, pass.draw()?)?.detach() - 1.0)?;
        // The slope of |y|^(q/2) at 0 is infinite for q < 2: zeros are left out of the power.
        let size = ys.abs()?;
        let zero = size.detach().eq(0.0)?;
        let size = zero.where_cond(&size.ones_like()?, &size)?.powf(self.q / 2.0)?;
        let noise = zero.where_cond(&noise.zeros_like()?, &noise)?;
        ys + size * noise
    }
}
