use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::{Error, Result};

/// The learning rate over the steps of a run. Steps count from 0.
///
/// ```
/// use taper_train::Schedule;
///
/// let triangle = Schedule::custom("triangle", |step| 1.0 - (step as f64 / 500.0 - 1.0).abs().min(1.0));
/// assert_eq!([0, 250, 500, 1500].map(|step| triangle.factor(step)), [0.0, 0.5, 1.0, 0.0]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Constant.
    Constant,
    /// Multiplied by `factor` after every `every` steps.
    Step {
        /// Steps between changes; at least 1.
        every: u64,
        /// The factor of each change.
        factor: f64,
    },
    /// Linear from 0 over `warm_up` steps, then down to 0 at `steps` along half a cosine (Loshchilov & Hutter 2017).
    Cosine {
        /// Steps of the warm-up; 0 for none.
        warm_up: u64,
        /// Total number of steps.
        steps: u64,
    },
    /// Linear from 0 over `steps` steps, then constant.
    WarmUp {
        /// Steps of the warm-up.
        steps: u64,
    },
    /// A user-defined function: [`Schedule::custom`].
    Custom(CustomSchedule),
}

/// A named function from the step to a factor. Two are equal if their names and their values at the steps 0, 1, 10,
/// 100, … 10⁷ are equal; a resumed run compares its schedule in this way.
#[derive(Clone)]
pub struct CustomSchedule {
    name: String,
    factor: Arc<dyn Fn(u64) -> f64 + Send + Sync>,
}

impl CustomSchedule {
    fn options(&self) -> Value {
        let steps = [0].into_iter().chain((0..8).map(|power| 10_u64.pow(power)));
        // As text, because JSON has no NaN and no infinity.
        let factors: Vec<String> = steps.map(|step| format!("{step}: {:?}", (self.factor)(step))).collect();
        json!({ "name": self.name, "factors": factors })
    }
}

impl PartialEq for CustomSchedule {
    fn eq(&self, other: &Self) -> bool {
        self.options() == other.options()
    }
}

impl fmt::Debug for CustomSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CustomSchedule").field(&self.name).finish()
    }
}

impl Schedule {
    /// A pure function of the step, counted from 0, so a resumed run continues with the same factors. Its values must
    /// be finite and at least 0. `name` appears in checkpoints.
    pub fn custom(name: impl Into<String>, factor: impl Fn(u64) -> f64 + Send + Sync + 'static) -> Self {
        Self::Custom(CustomSchedule { name: name.into(), factor: Arc::new(factor) })
    }

    /// The form in which runs are compared.
    pub(crate) fn options(&self) -> Value {
        match self {
            Self::Constant => "constant".into(),
            Self::Step { every, factor } => json!({ "name": "step", "every": every, "factor": factor }),
            Self::Cosine { warm_up, steps } => {
                json!({ "name": "cosine", "warm_up": warm_up, "steps": steps })
            }
            Self::WarmUp { steps } => json!({ "name": "warmup", "steps": steps }),
            Self::Custom(custom) => custom.options(),
        }
    }

    /// The factor of the base learning rate at `step`, counted from 0; in `[0, 1]`, except for [`Schedule::Step`] with
    /// a factor above 1 and [`Schedule::Custom`].
    pub fn factor(&self, step: u64) -> f64 {
        // The first step has a factor above 0: (step + 1) / n.
        let up = |n: u64| if step < n { (step + 1) as f64 / n as f64 } else { 1.0 };
        match *self {
            Self::Constant => 1.0,
            Self::Custom(CustomSchedule { ref factor, .. }) => factor(step),
            Self::Step { every, factor } => factor.powf((step / every.max(1)) as f64),
            Self::WarmUp { steps } => up(steps),
            Self::Cosine { warm_up, .. } if step < warm_up => up(warm_up),
            Self::Cosine { warm_up, steps } => {
                let way = (step - warm_up) as f64 / steps.saturating_sub(warm_up).max(1) as f64;
                0.5 * (1.0 + (std::f64::consts::PI * way.min(1.0)).cos())
            }
        }
    }

    /// Parses a text with times in epochs: `constant`, `step:5` or `step:5:0.1`, `warmup:2`, `cosine`, or `cosine:2`
    /// with a warm-up.
    ///
    /// # Errors
    /// When the text is none of these.
    pub fn parse(text: &str, epochs: u32, steps_per_epoch: u64) -> Result<Self> {
        let wrong = || {
            Error::Config(format!(
                "unknown schedule '{text}': expected constant, step:EPOCHS[:FACTOR], warmup:EPOCHS or \
                 cosine[:WARM-UP EPOCHS]"
            ))
        };
        let number =
            |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0).ok_or_else(wrong);
        let steps = |text: &str| Ok::<u64, Error>((number(text)? * steps_per_epoch as f64).round() as u64);
        let total = u64::from(epochs).saturating_mul(steps_per_epoch);
        let every = |text: &str| match steps(text)? {
            0 => Err(Error::Config(format!(
                "schedule '{text}' epochs: expected at least one step between changes, found none"
            ))),
            every => Ok(every),
        };
        let below_total = |text: &str| match steps(text)? {
            up if up < total || up == 0 => Ok(up),
            _ => Err(Error::Config(format!(
                "a warm-up of {text} epochs: expected fewer than the {epochs} of the run"
            ))),
        };
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            ["constant"] => Ok(Self::Constant),
            ["step", n] => Ok(Self::Step { every: every(n)?, factor: 0.1 }),
            ["step", n, factor] => Ok(Self::Step { every: every(n)?, factor: number(factor)? }),
            ["warmup", up] => Ok(Self::WarmUp { steps: steps(up)? }),
            ["cosine"] => Ok(Self::Cosine { warm_up: 0, steps: total }),
            ["cosine", up] => Ok(Self::Cosine { warm_up: below_total(up)?, steps: total }),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn schedules_reach_their_marks() {
        let cosine = Schedule::Cosine { warm_up: 10, steps: 110 };
        assert_eq!((cosine.factor(0), cosine.factor(9), cosine.factor(10)), (0.1, 1.0, 1.0));
        assert!((cosine.factor(60) - 0.5).abs() < 1e-12);
        assert!(cosine.factor(110).abs() < 1e-12 && cosine.factor(1000).abs() < 1e-12);
        let step = Schedule::Step { every: 5, factor: 0.5 };
        assert_eq!((step.factor(4), step.factor(5), step.factor(14)), (1.0, 0.5, 0.25));
        assert_eq!(Schedule::WarmUp { steps: 4 }.factor(1), 0.5);
        assert_eq!(Schedule::Constant.factor(7), 1.0);
    }

    #[test]
    fn text_counts_in_epochs() {
        let parse = |text| Schedule::parse(text, 10, 100);
        assert_eq!(parse("cosine:2").unwrap(), Schedule::Cosine { warm_up: 200, steps: 1000 });
        assert_eq!(parse("step:3").unwrap(), Schedule::Step { every: 300, factor: 0.1 });
        assert_eq!(parse("step:0.5:0.7").unwrap(), Schedule::Step { every: 50, factor: 0.7 });
        assert_eq!(parse("warmup:1").unwrap(), Schedule::WarmUp { steps: 100 });
        for wrong in ["", "cosin", "step", "step:x", "step:-1", "warmup:inf", "constant:1"] {
            assert!(parse(wrong).unwrap_err().to_string().contains("expected constant"), "{wrong}");
        }
        assert!(parse("step:0").unwrap_err().to_string().contains("at least one step"));
        assert!(parse("cosine:10").unwrap_err().to_string().contains("fewer than the 10"));
    }
}
