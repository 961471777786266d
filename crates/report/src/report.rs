use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{LayerStats, number};

/// The labels that distinguish a run in its grid: names and values, such as `act: "relu"` and `dropout: 0.5`.
///
/// Values are texts, numbers or truth values. Tables and pictures make columns, colours and line styles of the labels
/// that differ between the runs they show.
pub type Labels = BTreeMap<String, serde_json::Value>;

/// The value of a label as text: `relu`, `0.5`.
pub fn label_value(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        // JSON writes `0.0` for 0.
        serde_json::Value::Number(x) if x.is_f64() => x.as_f64().unwrap_or(f64::NAN).to_string(),
        other => other.to_string(),
    }
}

/// A short form of a label: `relu` for a text, `dropout 0.5` for anything else.
pub fn label_text(name: &str, value: &serde_json::Value) -> String {
    if value.is_string() { label_value(value) } else { format!("{name} {}", label_value(value)) }
}

/// The description of a run: enough to name it, to distinguish it, and to repeat it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// A short name, unique within a grid of runs: `relu-dropout0.5-seed1`.
    pub name: String,
    /// The data set that was used: `mnist`, `digits`.
    pub dataset: String,
    /// The model with its sizes, as text: `mlp 784-512-256-10`.
    pub model: String,
    /// The labels that distinguish the run: see [`Labels`].
    pub labels: Labels,
    /// The loss and its unit: `mean cross-entropy per sample, in nats`.
    pub loss: String,
    /// The seed of all random numbers of the run.
    pub seed: u64,
    /// Number of trainable parameters.
    pub parameters: u64,
    /// Number of planned epochs.
    pub epochs: u32,
    /// Everything else that is needed to repeat the run: options and versions.
    pub config: serde_json::Value,
}

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

/// The kind of a [`Metric`]: which values are better, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    /// A fraction in `[0, 1]` of which more is better, such as accuracy; written in percent.
    Share,
    /// A number of which more is better, such as R².
    Higher,
    /// A number of which less is better, such as a mean absolute error.
    Lower,
}

impl MetricKind {
    /// A value in a table: a share in percent with two decimals, other numbers with four.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Share => format!("{:.2}%", 100.0 * value),
            Self::Higher | Self::Lower => number::fixed(value, 4),
        }
    }
}

/// A number other than the loss that measures a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name: `accuracy`, `mae`.
    pub name: String,
    /// Which values are better, and how it is written.
    pub kind: MetricKind,
    /// The value over the whole split; NaN if there is none.
    pub value: f64,
}

impl Metric {
    /// The value, or its negative if less is better: a larger rank is better.
    pub fn rank(&self) -> f64 {
        match self.kind {
            MetricKind::Share | MetricKind::Higher => self.value,
            MetricKind::Lower => -self.value,
        }
    }

    /// Whether it is a better value than the other one; NaN never is.
    pub fn is_better_than(&self, other: &Self) -> bool {
        self.rank() > other.rank() || !self.rank().is_nan() && other.rank().is_nan()
    }
}

impl fmt::Display for Metric {
    /// `accuracy 97.71%`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.kind.text(self.value))
    }
}

/// The name of the metric for the terms that sites add to the loss. It is minimised with the loss, and measures no
/// success.
pub const ADDED_LOSS: &str = "added_loss";

/// The loss and metrics of a model on one split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "Record", try_from = "Record")]
pub struct Score {
    /// Mean loss per sample, of the kind that [`Run::loss`] names; NaN or infinite in a run that went wrong.
    pub loss: f64,
    /// The number of samples.
    pub samples: u64,
    /// The metrics of the training step, in its order.
    pub metrics: Vec<Metric>,
    /// Tables of counts that the training step added up, by name: `confusion`, row by row.
    pub counts: BTreeMap<String, Vec<Vec<u64>>>,
}

/// The serialised form of a score: values and kinds of the metrics by name, in their order; non-finite numbers are
/// null.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    loss: Option<f64>,
    samples: u64,
    metrics: Fields<Option<f64>>,
    kinds: Fields<MetricKind>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    counts: BTreeMap<String, Vec<Vec<u64>>>,
}

impl From<Score> for Record {
    fn from(score: Score) -> Self {
        let finite = |x: f64| Some(x).filter(|x| x.is_finite());
        Self {
            loss: finite(score.loss),
            samples: score.samples,
            kinds: Fields(score.metrics.iter().map(|of| (of.name.clone(), of.kind)).collect()),
            metrics: Fields(score.metrics.into_iter().map(|of| (of.name, finite(of.value))).collect()),
            counts: score.counts,
        }
    }
}

impl TryFrom<Record> for Score {
    type Error = String;

    fn try_from(record: Record) -> Result<Self, String> {
        let Fields(kinds) = record.kinds;
        let metric = |(name, value): (String, Option<f64>)| {
            let kind = kinds.iter().find(|(of, _)| *of == name).map(|(_, kind)| *kind);
            let kind = kind.ok_or_else(|| format!("expected a kind for metric '{name}', found none"))?;
            Ok(Metric { name, kind, value: value.unwrap_or(f64::NAN) })
        };
        Ok(Self {
            loss: record.loss.unwrap_or(f64::NAN),
            samples: record.samples,
            metrics: record.metrics.0.into_iter().map(metric).collect::<Result<_, String>>()?,
            counts: record.counts,
        })
    }
}

/// The fields of a JSON object, in its order.
#[derive(Clone)]
struct Fields<T>(Vec<(String, T)>);

impl<T: Serialize> Serialize for Fields<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Fields<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<T>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(InOrder(PhantomData))
    }
}

impl Score {
    /// The value of a metric, or of `loss`; `None` if there is none of this name.
    pub fn metric(&self, name: &str) -> Option<f64> {
        match name {
            "loss" => Some(self.loss),
            _ => self.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value),
        }
    }

    /// The number by which runs and epochs are compared: the first metric, or the loss if there is none except
    /// [`ADDED_LOSS`].
    pub fn primary(&self) -> Metric {
        let loss = || Metric { name: "loss".into(), kind: MetricKind::Lower, value: self.loss };
        self.metrics.iter().find(|metric| metric.name != ADDED_LOSS).cloned().unwrap_or_else(loss)
    }
}

/// Batches of a split with a NaN or infinity in the loss, a metric, a gradient, or an activation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NonFinite {
    /// Their number, at least 1.
    pub batches: u64,
    /// The number of skipped steps.
    pub skipped: u64,
    /// The first of them.
    pub first: Fault,
}

/// A batch with a NaN or infinity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// The batch within the pass, from 1.
    pub batch: u64,
    /// Its loss; finite if something else is not. In JSON a number, or one of the texts `NaN`, `inf` and `-inf`.
    #[serde(with = "any_number")]
    pub loss: f64,
    /// Where the first such number was found.
    pub place: Place,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch {}: loss is {}, {}", self.batch, self.loss, self.place)
    }
}

/// The place of a NaN or infinity, as near to its origin as possible. Indices count from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// In the inputs of the batch.
    Data {
        /// The first such sample of the batch.
        sample: u64,
    },
    /// In a parameter.
    Weights {
        /// Its name.
        parameter: String,
        /// The first such unit: the index of dimension 0.
        unit: u64,
    },
    /// At a site, before or after its activation function, while inputs and parameters are finite.
    Site {
        /// The first such site of the forward pass.
        site: String,
        /// The first such unit there.
        unit: u64,
    },
    /// After the last site: in the last layer or the loss.
    Loss,
    /// In a gradient, while the loss is finite.
    Gradient {
        /// The first parameter with such a gradient.
        parameter: String,
        /// The first such unit: the index of dimension 0.
        unit: u64,
    },
    /// In a metric, while the loss is finite.
    Metric {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data { sample } => {
                write!(f, "the inputs of the batch hold NaN or infinity, first in sample {sample}")
            }
            Self::Weights { parameter, unit } => {
                write!(f, "parameter '{parameter}' holds NaN or infinity, first in unit {unit}")
            }
            Self::Site { site, unit } => {
                write!(f, "the first non-finite values are at site '{site}', in unit {unit}")
            }
            Self::Loss => f.write_str("every site is finite, so it is in the last layer or the loss"),
            Self::Gradient { parameter, unit } => {
                write!(f, "the gradient of '{parameter}' holds NaN or infinity, first in unit {unit}")
            }
            Self::Metric { name } => write!(f, "metric '{name}' is not finite"),
        }
    }
}

/// For serde's `with`: a float that may be NaN or infinite, which JSON numbers cannot be.
mod any_number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Number {
        Finite(f64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
        let number = if x.is_finite() { Number::Finite(*x) } else { Number::Text(x.to_string()) };
        number.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        match Number::deserialize(from)? {
            Number::Finite(x) => Ok(x),
            Number::Text(text) => {
                text.parse().map_err(|_| D::Error::custom("expected a number, NaN, inf or -inf"))
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_which_batch_and_where_and_survives_json() -> serde_json::Result<()> {
        let place = Place::Site { site: "fc1".into(), unit: 3 };
        let fault = Fault { batch: 7, loss: f64::NAN, place };
        let said = "batch 7: loss is NaN, the first non-finite values are at site 'fc1', in unit 3";
        assert_eq!(fault.to_string(), said);
        for loss in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.25, 2.0] {
            let fault = Fault { loss, ..fault.clone() };
            let again: Fault = serde_json::from_str(&serde_json::to_string(&fault)?)?;
            assert_eq!(again.to_string(), fault.to_string());
        }
        assert_eq!(
            serde_json::to_string(&Fault { place: Place::Loss, ..fault })?,
            r#"{"batch":7,"loss":"NaN","place":"loss"}"#
        );
        Ok(())
    }

    #[test]
    fn a_score_keeps_the_order_of_its_metrics() -> serde_json::Result<()> {
        let metric = |name: &str, kind, value| Metric { name: name.into(), kind, value };
        let score = Score {
            loss: f64::INFINITY,
            samples: 10,
            metrics: vec![metric("r2", MetricKind::Higher, -0.5), metric("mae", MetricKind::Lower, f64::NAN)],
            counts: BTreeMap::from([("confusion".to_string(), vec![vec![3, 1], vec![0, 6]])]),
        };
        let text = serde_json::to_string(&score)?;
        assert_eq!(
            text,
            r#"{"loss":null,"samples":10,"metrics":{"r2":-0.5,"mae":null},"kinds":{"r2":"higher","mae":"lower"},"counts":{"confusion":[[3,1],[0,6]]}}"#
        );
        let again: Score = serde_json::from_str(&text)?;
        assert_eq!(again.primary(), score.metrics[0]);
        assert_eq!(serde_json::to_string(&again)?, text);
        let error = serde_json::from_str::<Score>(&text.replace("mae\":\"lower", "mean\":\"lower")).map(drop);
        assert!(error.is_err_and(|error| error.to_string().contains("a kind for metric 'mae'")));
        Ok(())
    }

    #[test]
    fn metrics_are_compared_by_rank_and_nan_is_never_better() {
        let metric = |kind, value| Metric { name: "x".into(), kind, value };
        let higher = |x| metric(MetricKind::Higher, x);
        let lower = |x| metric(MetricKind::Lower, x);
        assert!(higher(2.0).is_better_than(&higher(1.0)) && lower(1.0).is_better_than(&lower(2.0)));
        assert!(
            !higher(f64::NAN).is_better_than(&higher(0.0)) && higher(0.0).is_better_than(&higher(f64::NAN))
        );
        assert_eq!(metric(MetricKind::Share, 0.97714).to_string(), "x 97.71%");
        assert_eq!(Score { loss: 0.5, ..Score::default() }.primary().rank(), -0.5);
    }

    #[test]
    fn a_label_is_short_where_its_value_says_enough() {
        let texts =
            [serde_json::json!("relu"), 0.0.into(), 64.into(), true.into()].map(|x| label_text("a", &x));
        assert_eq!(texts, ["relu", "a 0", "a 64", "a true"]);
    }
}
