use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::number;

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
    /// Mean loss per sample, of the kind that [`Run::loss`](crate::Run::loss) names; NaN or infinite in a run that went wrong.
    pub loss: f64,
    /// The number of samples.
    pub samples: u64,
    /// The metrics of the training step, in its order.
    pub metrics: Vec<Metric>,
    /// Tables of counts that the training step added up, by name: `confusion`, row by row.
    pub counts: BTreeMap<String, Vec<Vec<u64>>>,
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
