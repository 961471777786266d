use serde::{Deserialize, Serialize};
use taper_report::{ParameterNorms, Score, SiteSteps, StepReport};

use crate::Progress;

/// The number of windows of steps that have ended after `steps` steps: one per step up to step 100, then a hundred for
/// each factor of e, ⌊100 + 100 ln(steps / 100)⌋. So the window that ends with step s has at most ⌈s / 100⌉ steps.
///
/// A function of the step number only, so resumed runs have the same windows.
pub(crate) fn windows(steps: u64) -> u64 {
    match steps {
        0..=100 => steps,
        // No integer step is so near to an edge that rounding could matter.
        _ => (100.0 + 100.0 * (steps as f64 / 100.0).ln()) as u64,
    }
}

/// The open window of steps, and earlier ones that were not taken yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// Whether the observer has begun the first window.
    pub begun: bool,
    /// Steps of the optimiser in the open window.
    pub steps: u64,
    /// The sums of its batches.
    pub sums: Progress,
    pub ended: Vec<StepReport>,
}

impl Window {
    /// Ends the window with this step.
    pub fn end(
        &mut self,
        step: u64,
        learning_rate: f64,
        sites: Vec<SiteSteps>,
        parameters: Vec<ParameterNorms>,
    ) {
        // Tables of counts are too large for windows.
        let score = Score { counts: Default::default(), ..self.sums.report().score };
        self.ended.push(StepReport { step, steps: self.steps, score, learning_rate, sites, parameters });
        (self.steps, self.sums) = (0, Progress::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_a_step_at_first_and_then_at_most_a_hundredth_of_the_steps_so_far() {
        assert_eq!([469, 2345, 14_070].map(windows), [254, 415, 594]);
        let mut last = 0;
        for step in 1..=200_000 {
            let ended = windows(step) - windows(step - 1);
            assert!(ended <= 1);
            if ended == 1 {
                assert!(step - last <= step.div_ceil(100), "{last} to {step}");
                last = step;
            }
        }
    }

    #[test]
    fn rounding_cannot_decide_where_a_window_ends() {
        for n in 101..=1700_u64 {
            let border = 100.0 * ((n as f64 - 100.0) / 100.0).exp();
            let distance = (border - border.round()).abs() / border;
            assert!(distance > 1e-13, "window {n} ends at {border}");
        }
    }
}
