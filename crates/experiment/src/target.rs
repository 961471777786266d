use taper_report::{Metric, MetricKind, Summary};

use crate::{Error, Result};

/// Refuses an impossible target for this metric. A share is given in percent: 0.98 probably means 98.
pub(crate) fn check(target: Option<f64>, metric: &Metric) -> Result<()> {
    match target {
        Some(target) if metric.kind == MetricKind::Share && !(target > 1.0 && target <= 100.0) => {
            let name = &metric.name;
            Err(Error::Usage(format!(
                "--target: expected {name} in percent, above 1 and at most 100, found {target}"
            )))
        }
        _ => Ok(()),
    }
}

/// The message about a run that missed its target; `None` if it did not.
pub(crate) fn missed(target: Option<f64>, of: &Summary) -> Option<String> {
    let target = target?;
    let (run, set) = (&of.run.name, &of.run.dataset);
    let Some(Metric { name, kind, value }) = &of.best else {
        return Some(format!(
            "{run}: expected a best value to compare with the target of {target}, found no epoch"
        ));
    };
    // With a tolerance for rounding.
    match kind {
        MetricKind::Share if 100.0 * value < target - 1e-9 || value.is_nan() => {
            Some(format!("{run}: best {set} {name} {:.2} % is below the target of {target} %", 100.0 * value))
        }
        MetricKind::Higher if *value < target - 1e-9 || value.is_nan() => {
            Some(format!("{run}: best {set} {name} {value:.4} is below the target of {target}"))
        }
        MetricKind::Lower if *value > target + 1e-9 || value.is_nan() => {
            Some(format!("{run}: best {set} {name} {value:.4} is above the target of {target}"))
        }
        _ => None,
    }
}
