use serde_json::{Value, json};
use taper_kernels::Rule;

use crate::{Error, Result};

/// Returns the update rule with this name and its default learning rate. The other options of the rule are PyTorch's
/// defaults; `weight_decay` replaces the default weight decay.
///
/// Names: `sgd`, `momentum` (SGD with momentum 0.9), `nesterov` (the same with Nesterov momentum), `adam`, `adamw`,
/// `rmsprop` and `adadelta`.
///
/// # Errors
/// When the name is unknown, the weight decay is negative or not finite, or the rule has no weight decay.
pub fn parse_rule(name: &str, weight_decay: Option<f64>) -> Result<(Rule, f64)> {
    if let Some(decay) = weight_decay.filter(|d| !(d.is_finite() && *d >= 0.0)) {
        return Err(Error::Config(format!("weight decay: expected a number of at least 0, found {decay}")));
    }
    let decay = weight_decay.unwrap_or(0.0);
    let sgd = |momentum, nesterov| Rule::Sgd { momentum, nesterov, weight_decay: decay };
    let found = match name {
        "sgd" => (sgd(0.0, false), 0.1),
        "momentum" => (sgd(0.9, false), 0.05),
        "nesterov" => (sgd(0.9, true), 0.05),
        "adam" => (Rule::adam(decay), 1e-3),
        "adamw" => (Rule::adamw(weight_decay.unwrap_or(0.01)), 1e-3),
        "rmsprop" => (Rule::RMSPROP, 1e-3),
        "adadelta" => (Rule::ADADELTA, 1.0),
        _ => {
            return Err(Error::Config(format!(
                "unknown optimizer '{name}': expected sgd, momentum, nesterov, adam, adamw, rmsprop or adadelta"
            )));
        }
    };
    match found.0 {
        Rule::RmsProp { .. } | Rule::Adadelta { .. } if decay > 0.0 => {
            Err(Error::Config(format!("{name} has no weight decay: leave it out or use adamw")))
        }
        _ => Ok(found),
    }
}

/// Sets the weight decay of a rule.
///
/// # Errors
/// When the rule has no weight decay.
pub(crate) fn with_weight_decay(mut rule: Rule, decay: f64) -> Result<Rule> {
    match &mut rule {
        Rule::Sgd { weight_decay, .. } | Rule::Adam { weight_decay, .. } => *weight_decay = decay,
        Rule::RmsProp { .. } | Rule::Adadelta { .. } if decay > 0.0 => {
            return Err(Error::Config(format!(
                "group: expected no weight decay, which rmsprop and adadelta do not have, found {decay}: use adamw"
            )));
        }
        Rule::RmsProp { .. } | Rule::Adadelta { .. } => {}
    }
    Ok(rule)
}

/// The options of a rule as JSON, for the comparison of a resumed run with its checkpoint.
pub(crate) fn rule_options(rule: &Rule) -> Value {
    match rule {
        Rule::Sgd { momentum, nesterov, weight_decay } => {
            json!({ "name": "sgd", "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay })
        }
        Rule::Adam { beta1, beta2, eps, weight_decay, decoupled } => {
            let name = if *decoupled { "adamw" } else { "adam" };
            json!({ "name": name, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay })
        }
        Rule::RmsProp { alpha, eps } => json!({ "name": "rmsprop", "alpha": alpha, "eps": eps }),
        Rule::Adadelta { rho, eps } => json!({ "name": "adadelta", "rho": rho, "eps": eps }),
    }
}
