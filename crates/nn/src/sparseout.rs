use candle_core::{Result, Tensor};
use taper_hooks::{Mode, Pass};
use taper_kernels::{Error, dropout};

/// Sparseout (Khan & Stavness 2019): multiplies activations by random factors whose variance depends on `q`. Dropout is
/// the case q = 2; q < 2 makes activations sparser, q > 2 denser.
///
/// In train mode, with `r` = 1 with probability `1 − rate`, otherwise 0:
///
/// ```text
/// ỹ = y · (1 + |y|^(q/2 − 1) · (r / (1 − rate) − 1))
/// ```
///
/// The mean is `y` and the variance `|y|^q · rate / (1 − rate)`, so the noise acts as a penalty on `Σ |y|^q`. In evaluation
/// mode it is the identity.
///
/// The formula and its gradient, in which the factor is a constant, are those of the authors' program
/// (`najeebkhan/sparseout`). It adds 10⁻¹² to `|y|`; here the factor of a value of 0 is 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sparseout {
    rate: f64,
    q: f64,
}

impl Sparseout {
    /// Noise with the dropout rate `rate` and the exponent `q`.
    ///
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

    /// Adds the noise. Use it after an activation function, in place of dropout. The noise is a function of the pass's
    /// seed, its step, and the sample's row in the batch.
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
        let size = ys.detach().abs()?;
        let ones = size.ones_like()?;
        let noise = (dropout(&ones, self.rate, pass.draw()?)?.detach() - 1.0)?;
        let factor = (&ones + size.powf(self.q / 2.0 - 1.0)? * noise)?;
        // For q < 2 the power of 0 is infinite.
        ys * size.eq(0.0)?.where_cond(&ones, &factor)?
    }
}
