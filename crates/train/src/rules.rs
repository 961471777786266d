use taper_kernels::Rule;

use crate::{Error, Result};

/// A rule by name, with PyTorch's defaults, and the learning rate to start from: `sgd`, `momentum` (0.9),
/// `nesterov`, `adam`, `adamw`, `rmsprop` or `adadelta`. `weight_decay` replaces the default where it is given.
///
/// # Errors
/// For any other name, and for weight decay with a rule that has none.
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
