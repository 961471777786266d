use serde::{Deserialize, Serialize};

use crate::LayerStats;

/// What a run is: enough to name it, to tell it from others, and to repeat it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// A short name, unique within a grid of runs: `relu-dropout0.5-seed1`.
    pub name: String,
    /// The data set that was really used: `mnist`, `digits`.
    pub dataset: String,
    /// The model with its sizes, as text: `mlp 784-512-256-10`.
    pub model: String,
    /// The activation function, as text: `celu:0.5`.
    pub activation: String,
    /// Dropout rate, in `[0, 1)`; 0 is none.
    pub dropout: f64,
    /// The seed every random number of the run comes from.
    pub seed: u64,
    /// Number of trainable parameters.
    pub parameters: u64,
    /// How many epochs are planned.
    pub epochs: u32,
    /// Everything else that is needed to repeat the run: options and versions.
    pub config: serde_json::Value,
}

/// Which part of the data a number describes.
///
/// `train` is measured over the training batches of one epoch, in train mode, while the weights move.
/// `validation` and `test` are one pass in evaluation mode over the whole split with fixed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training batches, while the weights move.
    Train,
    /// Held back from training, for choosing.
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

/// How well a model did on one split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Mean cross-entropy per sample, in nats; at least 0, and NaN or infinite in a run that went wrong.
    pub loss: f64,
    /// Fraction of samples classified correctly, in `[0, 1]`.
    pub accuracy: f64,
    /// How many samples the two are taken over.
    pub samples: u64,
}

/// Batches of a split at which something was NaN or infinite: the loss, a gradient, or an activation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonFinite {
    /// How many batches; at least 1.
    pub batches: u64,
    /// Those of them whose step was left out.
    pub skipped: u64,
    /// The first of them in words: which batch, from 1, and where in it.
    pub first: String,
}

/// Everything that one epoch says about one split.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitReport {
    /// Which split.
    pub split: Split,
    /// Loss and accuracy.
    pub score: Score,
    /// Learning rate of the last step; `None` outside training.
    pub learning_rate: Option<f64>,
    /// Wall-clock seconds of the whole pass, tracking included.
    pub seconds: f64,
    /// Wall-clock seconds that went into observing activations; part of `seconds`.
    pub tracking_seconds: f64,
    /// One entry per observed site, in the order the model visits them; empty when nothing was tracked.
    pub layers: Vec<LayerStats>,
    /// Batches that were not finite; `None` where all were.
    pub nonfinite: Option<NonFinite>,
}

impl SplitReport {
    /// A report without layers or timing; fill in what is known.
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

    /// Samples per second of wall-clock time; 0 when no time was measured.
    pub fn samples_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.score.samples as f64 / self.seconds } else { 0.0 }
    }

    /// Share of the time that observing took, in `[0, 1]`; 0 when no time was measured.
    pub fn tracking_fraction(&self) -> f64 {
        if self.seconds > 0.0 { self.tracking_seconds / self.seconds } else { 0.0 }
    }
}

/// Everything that one epoch reports.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochReport {
    /// Epochs count from 1.
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

    /// The split whose layers are shown first: the headline one of those that observed any.
    pub fn observed(&self) -> Option<&SplitReport> {
        self.splits.iter().filter(|s| !s.layers.is_empty()).max_by_key(|s| s.split)
    }
}
