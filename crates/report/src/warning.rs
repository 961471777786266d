use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{EpochReport, LayerStats, SiteSteps, StepReport, number};

/// A layer with a larger share of dead units than this is reported. A tenth of its width is left: the network is
/// another one than was asked for. Sparse layers of healthy networks have many zeros, but few dead units.
const DEAD: f64 = 0.9;

/// Units are killed early if the share of units that a whole batch leaves at slope 0 rises by more than this...
const KILLED: f64 = 0.25;

/// ...within so many steps. The data are the same at step 1 and here, and a network learns little in that time: what goes
/// silent was pushed there by the size of the steps.
const EARLY: u64 = 20;

/// The loss is judged from this step on: the means below then are of at least 100 batches each.
const JUDGED: u64 = 400;

/// A loss that falls by less than this share, from the third to the fourth quarter of the steps so far, stands still...
const STILL: f64 = 0.01;

/// ...unless it has fallen below this share of where it began: a network that has learned may have nothing left to learn.
const LEARNED: f64 = 0.5;

/// ...or the learning rate is below this share of its highest: then standing still is what the schedule wants.
const LOWERED: f64 = 0.5;

/// A layer is saturated if at more than this share of its values the slope is below 0.01 although they are not 0: most of
/// the gradient stops there. The zeros of a ReLU are no saturation.
const SATURATED: f64 = 0.5;

/// Something in the records of a run that usually keeps a network from learning: what was found, and when.
///
/// [`Watch`] finds them. As text it is one line, with what usually helps after a colon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// The epoch whose end showed it; `None` where a step did.
    pub epoch: Option<u32>,
    /// The step, from 1, that showed it; `None` where the end of an epoch did.
    pub step: Option<u64>,
    /// What was found; its fields stand beside the others, its name as `kind`.
    #[serde(flatten)]
    pub finding: Finding,
}

/// What a [`Warning`] is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// More than 90 % of a layer's units are dead in the headline split.
    DeadLayer {
        /// The layer.
        site: String,
        /// Its activation function, as text.
        #[serde(default)]
        activation: Option<String>,
        /// Its dead units.
        dead: u64,
        /// All its units.
        units: u64,
    },
    /// Within the first 20 steps, more than 25 % of a layer's units stopped answering to whole batches.
    KilledUnits {
        /// The layer.
        site: String,
        /// Units without a gradient in the first step.
        before: u64,
        /// And now.
        after: u64,
        /// All units of the layer.
        units: u64,
        /// The step after which most of them went silent, from 1.
        worst: u64,
    },
    /// The training loss fell by less than 1 % from the third to the fourth quarter of the steps so far (from step 400
    /// on), is above half of where it began, and the learning rate has not been lowered to less than half.
    LossStandsStill {
        /// Mean loss over the last quarter of the steps.
        loss: f64,
        /// Loss of the first window of steps.
        first: f64,
    },
    /// More than half of a layer's values are not 0, but at a place where the slope is below 0.01.
    Saturated {
        /// The layer.
        site: String,
        /// Its activation function.
        activation: String,
        /// The share of those values.
        share: f64,
    },
}

impl Finding {
    /// The layer that it is about, if it is about one.
    pub fn site(&self) -> Option<&str> {
        match self {
            Self::DeadLayer { site, .. } | Self::KilledUnits { site, .. } | Self::Saturated { site, .. } => {
                Some(site)
            }
            Self::LossStandsStill { .. } => None,
        }
    }

    /// What usually helps, with the layer's activation function.
    pub fn help(&self) -> Cow<'static, str> {
        match self {
            Self::DeadLayer { activation, .. } => match activation.as_deref() {
                Some(f @ ("relu" | "relu2" | "relu6")) => {
                    format!("a lower learning rate, a warm-up, or leaky_relu instead of {f}").into()
                }
                // Between two bounds: where all units are dead, all are at a bound.
                Some("sigmoid" | "tanh" | "softsign" | "hardsigmoid" | "hardtanh") => LARGE_INPUTS.into(),
                _ => LARGE_STEPS.into(),
            },
            Self::KilledUnits { .. } => LARGE_STEPS.into(),
            Self::LossStandsStill { .. } => "another learning rate; look for dead or saturated layers".into(),
            Self::Saturated { .. } => LARGE_INPUTS.into(),
        }
    }
}

/// What helps where steps are too large.
const LARGE_STEPS: &str = "a lower learning rate, a warm-up, or a normalisation before the layer";

/// What helps where an activation function is given too large values.
const LARGE_INPUTS: &str = "a lower learning rate, a smaller initialisation, or inputs of variance 1";

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadLayer { site, dead, units, .. } => {
                write!(f, "{site}: {dead} of {units} units are dead")
            }
            Self::KilledUnits { site, before, after, units, worst } => write!(
                f,
                "{site}: step {worst} was too large: {before} of {units} units were silent before, {after} are now"
            ),
            Self::LossStandsStill { loss, first } => write!(
                f,
                "the training loss stands still at {}; it began at {}",
                number::fixed(*loss, 4),
                number::fixed(*first, 4)
            ),
            Self::Saturated { site, activation, share } => {
                write!(f, "{site}: {activation} is saturated at {} of the values", number::share(*share))
            }
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { finding, .. } = self;
        match (self.epoch, self.step) {
            (Some(epoch), _) => write!(f, "epoch {epoch}: ")?,
            (_, Some(step)) => write!(f, "step {step}: ")?,
            _ => {}
        }
        write!(f, "{finding} (what usually helps: {})", finding.help())
    }
}

/// Reads the records of one run as they come and answers with warnings, each kind once for each layer.
///
/// What it answers depends on the records alone, so whoever reads the files of a run finds the same: see [`warnings`].
#[derive(Clone, Debug, Default)]
pub struct Watch {
    windows: Vec<Window>,
    /// The sites in the windows up to step [`EARLY`], and one more.
    early: Vec<(u64, Vec<SiteSteps>)>,
    warned: BTreeSet<(&'static str, Option<String>)>,
}

/// What the loss is judged by.
#[derive(Clone, Copy, Debug)]
struct Window {
    step: u64,
    loss: f64,
    samples: u64,
    learning_rate: f64,
}

/// All warnings about a run, from its records; steps come before the epochs that they belong to, as the runs write them.
pub fn warnings(steps: &[StepReport], epochs: &[EpochReport]) -> Vec<Warning> {
    let mut watch = Watch::default();
    let of_steps: Vec<_> = steps.iter().flat_map(|report| watch.step(report)).collect();
    of_steps.into_iter().chain(epochs.iter().flat_map(|report| watch.epoch(report))).collect()
}

impl Watch {
    /// A window of steps has ended.
    pub fn step(&mut self, report: &StepReport) -> Vec<Warning> {
        let StepReport { step, learning_rate, .. } = *report;
        self.windows.push(Window {
            step,
            loss: report.score.loss,
            samples: report.score.samples,
            learning_rate,
        });
        let mut found = Vec::new();
        if self.early.last().is_none_or(|(last, _)| *last < EARLY) {
            self.early.push((step, report.sites.clone()));
            if step >= EARLY {
                found = killed(&self.early);
            }
        }
        found.extend(stands_still(&self.windows));
        self.unsaid(found, None, Some(step))
    }

    /// An epoch has ended.
    pub fn epoch(&mut self, report: &EpochReport) -> Vec<Warning> {
        let layers = report.observed().map_or(&[][..], |of| &of.layers);
        let found = layers.iter().flat_map(|layer| [dead(layer), saturated(layer)]).flatten().collect();
        self.unsaid(found, Some(report.epoch), None)
    }

    fn unsaid(&mut self, found: Vec<Finding>, epoch: Option<u32>, step: Option<u64>) -> Vec<Warning> {
        let kind = |finding: &Finding| match finding {
            Finding::DeadLayer { .. } => "dead",
            Finding::KilledUnits { .. } => "killed",
            Finding::LossStandsStill { .. } => "still",
            Finding::Saturated { .. } => "saturated",
        };
        let is_new =
            |finding: &Finding| self.warned.insert((kind(finding), finding.site().map(str::to_string)));
        found.into_iter().filter(is_new).map(|finding| Warning { epoch, step, finding }).collect()
    }
}

fn dead(layer: &LayerStats) -> Option<Finding> {
    let dead = layer.dead.filter(|_| layer.dead_fraction() > Some(DEAD))?;
    let (site, activation) = (layer.site.clone(), layer.activation.clone());
    Some(Finding::DeadLayer { site, activation, dead, units: layer.units })
}

fn saturated(layer: &LayerStats) -> Option<Finding> {
    let share = layer.flat_low? + layer.flat_high? - layer.zero_fraction;
    let activation = layer.activation.clone().filter(|_| share > SATURATED)?;
    Some(Finding::Saturated { site: layer.site.clone(), activation, share })
}

/// Compares the first window with the last, site by site.
fn killed(early: &[(u64, Vec<SiteSteps>)]) -> Vec<Finding> {
    let [(1, first), .., (_, last)] = early else { return Vec::new() };
    let dead_in = |sites: &[SiteSteps], name: &str| sites.iter().find(|of| of.site == name)?.dead;
    let finding = |now: &SiteSteps| {
        let (before, after) = (dead_in(first, &now.site)?, now.dead?);
        if after.saturating_sub(before) as f64 <= KILLED * now.units as f64 {
            return None;
        }
        // The forward pass of a step is before its update: what is silent in step n was killed by step n - 1.
        let rise = |pair: &[(u64, Vec<SiteSteps>)]| {
            let dead = |(_, sites): &(u64, Vec<SiteSteps>)| dead_in(sites, &now.site).unwrap_or(0);
            (dead(&pair[1]).saturating_sub(dead(&pair[0])), std::cmp::Reverse(pair[0].0))
        };
        let (_, std::cmp::Reverse(worst)) = early.windows(2).map(rise).max()?;
        Some(Finding::KilledUnits { site: now.site.clone(), before, after, units: now.units, worst })
    };
    last.iter().filter_map(finding).collect()
}

fn stands_still(windows: &[Window]) -> Option<Finding> {
    let (first, last) = (windows.first()?, windows.last()?);
    let end = last.step;
    let highest = windows.iter().map(|of| of.learning_rate).fold(0.0, f64::max);
    if end < JUDGED || last.learning_rate < LOWERED * highest {
        return None;
    }
    let mean = |from: u64, to: u64| {
        let within = windows.iter().rev().take_while(|of| of.step > from).filter(|of| of.step <= to);
        let sums = within.map(|of| (of.loss * of.samples as f64, of.samples as f64));
        let (loss, samples) = sums.fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        loss / samples
    };
    let (before, loss) = (mean(end / 2, end / 4 * 3), mean(end / 4 * 3, end));
    // A loss of NaN is a fault, which is reported as such.
    let still = loss > (1.0 - STILL) * before && loss > LEARNED * first.loss;
    still.then_some(Finding::LossStandsStill { loss, first: first.loss })
}
