use serde::{Deserialize, Serialize};

use crate::{Octaves, Score};

/// The content of one window of training steps, for curves from the first step.
///
/// Windows are a step long at first and a hundredth of the step number later; statistics are sums over all steps of a
/// window, norms are those of its last step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The last step of the window; the optimiser's steps count from 1.
    pub step: u64,
    /// Steps in the window, at least 1.
    pub steps: u64,
    /// Mean loss per sample, metrics and samples of the window; without tables of counts.
    #[serde(flatten)]
    pub score: Score,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// One entry per site that was observed in the window, in the order of the forward pass.
    pub sites: Vec<SiteSteps>,
    /// One entry per parameter that had a gradient in the last step, in the optimiser's order.
    pub parameters: Vec<ParameterNorms>,
}

/// The statistics of one site in a window of steps. Names and definitions are those of
/// [`LayerStats`](crate::LayerStats).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteSteps {
    /// The site's name.
    pub site: String,
    /// The number of units.
    pub units: u64,
    /// Share of values that are exactly 0, in `[0, 1]`.
    pub zero_fraction: f64,
    /// Units that no gradient reached in the window; `None` if there is no activation function. A unit that is dead for
    /// a few steps is often alive in a whole epoch.
    pub dead: Option<u64>,
    /// Mean of the finite values.
    pub mean: Option<f64>,
    /// Standard deviation of the finite values (population).
    pub std: Option<f64>,
    /// Where the values lie; `None` without a histogram.
    #[serde(default)]
    pub octaves: Option<Octaves>,
}

impl SiteSteps {
    /// `dead / units`, in `[0, 1]`.
    pub fn dead_fraction(&self) -> Option<f64> {
        self.dead.filter(|_| self.units > 0).map(|dead| dead as f64 / self.units as f64)
    }
}

/// L2 norms of one parameter in one step; `None` if a value is not finite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterNorms {
    /// The parameter's name: `fc1.weight`.
    pub parameter: String,
    /// Of the gradient, after clipping.
    pub gradient_norm: Option<f64>,
    /// Of the values after the step.
    pub weight_norm: Option<f64>,
    /// Of the update.
    pub update_norm: Option<f64>,
}
