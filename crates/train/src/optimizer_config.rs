use serde_json::{Value, json};
use taper_kernels::Rule;

use crate::rules::{rule_options, with_weight_decay};
use crate::{Error, OnNonFinite, Result, Schedule};

/// What an [`Optimizer`](crate::Optimizer) does at a step.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// How a gradient moves a parameter.
    pub rule: Rule,
    /// The base learning rate; finite and at least 0.
    pub learning_rate: f64,
    /// What the base is multiplied with as the run goes on.
    pub schedule: Schedule,
    /// Parameters with options of their own.
    pub groups: Vec<ParamGroup>,
    /// Batches whose gradients are averaged for one step, at least 1: `k` batches of `n` samples give the step of one
    /// batch of `k · n`, within rounding, in the memory of `n`. Steps, and with them the schedule, count updates and not
    /// batches.
    pub accumulate: u64,
    /// If the L2 norm of all gradients together, over all groups, is above this, they are scaled down to it (Pascanu et
    /// al. 2013); above 0.
    pub clip_norm: Option<f64>,
    /// After a step, the incoming weights of every unit are scaled down to this L2 norm (Srivastava et al. 2014);
    /// above 0. Biases are left alone.
    pub max_norm: Option<f64>,
    /// What [`train_epoch`](crate::train_epoch) does about NaN and infinities.
    pub on_nonfinite: OnNonFinite,
}

/// Options of the parameters whose names match a pattern.
///
/// A parameter takes from every group that matches: rate factors multiply, the last weight decay counts, and one group is
/// enough to freeze it.
///
/// ```
/// use taper_train::{ParamGroup, OptimizerConfig, Rule};
///
/// // Fine-tuning: keep the first layer, move the second slowly, and let no bias decay.
/// let groups = vec![
///     ParamGroup { frozen: true, ..ParamGroup::new("fc1.*") },
///     ParamGroup { rate: 0.1, ..ParamGroup::new("fc2.*") },
///     ParamGroup { weight_decay: Some(0.0), ..ParamGroup::new("*.bias") },
/// ];
/// let config = OptimizerConfig { groups, ..OptimizerConfig::new(Rule::adamw(0.01), 1e-3) };
/// # taper_train::Optimizer::new(vec![], config).expect_err("no parameter matches");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ParamGroup {
    /// Which parameters: their name, in which `*` stands for any characters. It must match at least one.
    pub pattern: String,
    /// A factor on the learning rate; at least 0.
    pub rate: f64,
    /// Weight decay in place of that of the rule; at least 0.
    pub weight_decay: Option<f64>,
    /// They stay as they are: the optimiser keeps nothing for them, and their gradients are neither computed nor part of the
    /// clip norm. Where all in front of a layer is frozen, the backward pass ends there.
    pub frozen: bool,
    /// They may have no gradient in the first step, which otherwise is an error.
    pub unused: bool,
}

impl ParamGroup {
    /// A group that changes nothing yet.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self { pattern: pattern.into(), rate: 1.0, weight_decay: None, frozen: false, unused: false }
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        matches(&self.pattern, name)
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            let mut ends = tail.char_indices().map(|(i, _)| i).chain([tail.len()]);
            ends.any(|i| matches(rest, &tail[i..]))
        }),
    }
}

impl OptimizerConfig {
    /// A rule at a constant learning rate, nothing clipped, that stops at NaN and infinities.
    pub fn new(rule: Rule, learning_rate: f64) -> Self {
        Self {
            rule,
            learning_rate,
            schedule: Schedule::Constant,
            groups: Vec::new(),
            accumulate: 1,
            clip_norm: None,
            max_norm: None,
            on_nonfinite: OnNonFinite::Stop,
        }
    }

    /// What runs are compared by: every option with its value.
    pub(crate) fn options(&self) -> Value {
        let group = |of: &ParamGroup| {
            let ParamGroup { pattern, rate, weight_decay, frozen, unused } = of;
            json!({ "pattern": pattern, "rate": rate, "weight_decay": weight_decay, "frozen": frozen, "unused": unused })
        };
        json!({
            "rule": rule_options(&self.rule),
            "learning_rate": self.learning_rate,
            "schedule": self.schedule.options(),
            "groups": self.groups.iter().map(group).collect::<Vec<_>>(),
            "accumulate": self.accumulate,
            "clip_norm": self.clip_norm,
            "max_norm": self.max_norm,
            "on_nonfinite": self.on_nonfinite.to_string(),
        })
    }

    /// Rule, rate factor, and whether it is frozen or may be unused, of the parameter of this name.
    pub(crate) fn of(&self, name: &str) -> Result<(Rule, f64, bool, bool)> {
        let mut own = (self.rule, 1.0, false, false);
        for group in self.groups.iter().filter(|group| group.matches(name)) {
            if let Some(decay) = group.weight_decay {
                own.0 = with_weight_decay(self.rule, decay)?;
            }
            own = (own.0, own.1 * group.rate, own.2 || group.frozen, own.3 || group.unused);
        }
        Ok(own)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let positive = |what: &str, value: Option<f64>| match value {
            Some(x) if !(x.is_finite() && x > 0.0) => {
                Err(Error::Config(format!("{what}: expected a number above 0, found {x}")))
            }
            _ => Ok(()),
        };
        check_rate(self.learning_rate)?;
        if self.accumulate == 0 {
            return Err(Error::Config("accumulate: expected at least 1 batch for a step, found 0".into()));
        }
        let decay = |what: &str, x: f64| match (0.0..1.0).contains(&x) {
            true => Ok(()),
            false => {
                Err(Error::Config(format!("{what}: expected a number of at least 0 and below 1, found {x}")))
            }
        };
        let at_least_0 = |what: &str, x: f64| match x.is_finite() && x >= 0.0 {
            true => Ok(()),
            false => Err(Error::Config(format!("{what}: expected a number of at least 0, found {x}"))),
        };
        for ParamGroup { pattern, rate, weight_decay, .. } in &self.groups {
            at_least_0(&format!("group '{pattern}': rate factor"), *rate)?;
            at_least_0(&format!("group '{pattern}': weight decay"), weight_decay.unwrap_or(0.0))?;
        }
        match self.rule {
            Rule::Sgd { momentum, weight_decay, .. } => {
                decay("momentum", momentum)?;
                at_least_0("weight decay", weight_decay)?;
            }
            Rule::Adam { beta1, beta2, eps, weight_decay, .. } => {
                decay("beta1", beta1)?;
                decay("beta2", beta2)?;
                at_least_0("eps", eps)?;
                at_least_0("weight decay", weight_decay)?;
            }
            Rule::RmsProp { alpha, eps } => {
                decay("alpha", alpha)?;
                at_least_0("eps", eps)?;
            }
            Rule::Adadelta { rho, eps } => {
                decay("rho", rho)?;
                at_least_0("eps", eps)?;
            }
        }
        positive("norm to clip gradients to", self.clip_norm)?;
        positive("largest norm of incoming weights", self.max_norm)
    }
}

pub(crate) fn check_rate(rate: f64) -> Result<()> {
    match rate.is_finite() && rate >= 0.0 {
        true => Ok(()),
        false => Err(Error::Config(format!("learning rate: expected a number of at least 0, found {rate}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters_and_everything_else_for_itself() {
        for (pattern, yes, no) in [
            ("fc1.weight", &["fc1.weight"][..], &["fc1.weights", "xfc1.weight", "fc1"][..]),
            ("fc1.*", &["fc1.weight", "fc1."], &["fc11.weight", "a.fc1.weight"]),
            ("*.bias", &["fc1.bias", ".bias"], &["bias", "fc1.bias2"]),
            ("*norm*weight", &["a.norm1.weight", "normweight"], &["weight.norm"]),
            ("*", &["", "häufig"], &[]),
        ] {
            assert!(yes.iter().all(|name| matches(pattern, name)), "{pattern}");
            assert!(!no.iter().any(|name| matches(pattern, name)), "{pattern}");
        }
    }
}
