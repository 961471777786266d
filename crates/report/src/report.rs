use serde::{Deserialize, Serialize};

use crate::{LayerStats, NonFinite, Score};

/// Which part of the data a number describes.
///
/// `train` covers the training batches of one epoch, in train mode, while the weights change. `validation` and `test`
/// are one pass in evaluation mode over the whole split with fixed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training batches, while the weights change.
    Train,
    /// Held back from training, for choosing between runs.
    Validation,
    /// Never trained on, for the headline number.
    Test,
}

impl Split {
    /// `train`, `validation` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// All results of one split in one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitReport {
    /// Which split.
    pub split: Split,
    /// Loss and metrics.
    pub score: Score,
    /// Learning rate of the last step; `None` outside training.
    pub learning_rate: Option<f64>,
    /// Wall-clock seconds of the whole pass, tracking included.
    pub seconds: f64,
    /// Wall-clock seconds of observing activations; part of `seconds`.
    pub tracking_seconds: f64,
    /// One entry per observed site, in the order of the forward pass; empty if nothing was tracked.
    pub layers: Vec<LayerStats>,
    /// Batches that were not finite; `None` if all were.
    pub nonfinite: Option<NonFinite>,
}

impl SplitReport {
    /// A report without layers or timing; fill in the known fields.
    pub fn new(split: Split, score: Score) -> Self {
        Self {
            split,
            score,
            learning_rate: None,
            seconds: 0.0,
            tracking_seconds: 0.0,
            layers: Vec::new(),
            nonfinite: None,
        }
    }

    /// Samples per second of wall-clock time; 0 without a time.
    pub fn samples_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.score.samples as f64 / self.seconds } else { 0.0 }
    }

    /// Share of the time for observing, in `[0, 1]`; 0 without a time.
    pub fn tracking_fraction(&self) -> f64 {
        if self.seconds > 0.0 { self.tracking_seconds / self.seconds } else { 0.0 }
    }
}

/// All results of one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochReport {
    /// Epochs count from 1; 0 is the untrained network, which has no `train`.
    pub epoch: u32,
    /// The splits that were measured, `train` first.
    pub splits: Vec<SplitReport>,
}

impl EpochReport {
    /// The report of one split, if it was measured.
    pub fn split(&self, split: Split) -> Option<&SplitReport> {
        self.splits.iter().find(|s| s.split == split)
    }

    /// The split that headline numbers come from: test, else validation, else train.
    pub fn headline(&self) -> Option<&SplitReport> {
        self.splits.iter().max_by_key(|s| s.split)
    }

    /// The split whose layers are shown first: the headline split if it was observed.
    pub fn observed(&self) -> Option<&SplitReport> {
        self.splits.iter().filter(|s| !s.layers.is_empty()).max_by_key(|s| s.split)
    }
}
