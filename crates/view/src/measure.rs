//! The format and explanation of numbers that are not statistics.

use taper_report::{MetricKind, StatisticKind};

use crate::text;

/// The text for a number of this kind.
pub(crate) fn show(kind: StatisticKind, x: f64) -> String {
    match kind {
        StatisticKind::Share => text::share(x),
        StatisticKind::Units => text::count(x as u64),
        StatisticKind::Count => text::fixed(x, 1),
        StatisticKind::Number => text::plain(x, 2),
    }
}

/// How a metric is drawn.
pub(crate) fn kind_of(metric: MetricKind) -> StatisticKind {
    if metric == MetricKind::Share { StatisticKind::Share } else { StatisticKind::Number }
}

/// The explanation of a metric: its kind.
pub(crate) fn meaning(metric: MetricKind) -> &'static str {
    match metric {
        MetricKind::Share => "A metric of the training step: a share, of which more is better.",
        MetricKind::Higher => "A metric of the training step: more is better.",
        MetricKind::Lower => "A metric of the training step: less is better.",
    }
}

pub(crate) const WINDOW: &str = "test: one pass in evaluation mode over the whole split, with the weights fixed: it \
    describes one network. train: all training batches of the epoch, in train mode, while the weights move.";
pub(crate) const DISTRIBUTION: &str = "How the values are spread over magnitude, on a signed logarithmic axis: the height is \
    the share of all values per octave, a factor of 2 in magnitude, so that the area is a share of the values. Bins are the same for \
    every layer and run. Exact zeros are counted apart. Seeds are added up.";
pub(crate) const FIRING: &str = "A unit's firing rate is the fraction of observations with y > 0. The curve says how \
    the units are spread over the rates in the last epoch; units that never (= 0) or always (= 1) fire are the points at the ends.";
pub(crate) const BAND: &str =
    "With one or two lines, the shaded band is mean ± one standard deviation of the values.";
