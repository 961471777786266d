use std::{fmt, str::FromStr};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{EpochReport, Error, LayerStats, Result, STATISTICS, Score, Sink, Split, SplitReport, Statistic};

/// A rule that ends a run: `fc2.dead_fraction>0.5`. A sink that comes after the sinks that write the epoch.
///
/// Written `[SPLIT:]SITE.STATISTIC OP NUMBER` or `SPLIT.METRIC OP NUMBER`, with or without blanks around `OP`, one of
/// `>`, `>=`, `<` and `<=`:
///
/// - `SITE` is a site's name, or `*` for any site; `STATISTIC` is the name of one of [`STATISTICS`](crate::STATISTICS),
///   as in `layers.jsonl`. `SPLIT` is `train`, `validation` or `test`; the default is the headline split: `test` if
///   there is one, else `validation`, else `train`.
/// - `METRIC` is a metric of the split's score, such as `accuracy`, or another number of `metrics.jsonl` or
///   `timing.jsonl`: `loss`, `samples`, `learning_rate`, `nonfinite` (batches), `seconds`, `samples_per_second`,
///   `tracking_fraction`.
///
/// A NaN fires any rule about it, because it satisfies no bound. A missing number, such as the skewness of a constant
/// layer, fires none. Epoch 0, the untrained network, fires nothing: only the names in the rule are checked.
///
/// ```
/// use taper_report::{Alert, EpochReport, Score, Sink, Split, SplitReport};
///
/// let mut alert: Alert = "test.loss > 2".parse()?;
/// let score = Score { loss: 2.5, samples: 100, ..Score::default() };
/// let report = EpochReport { epoch: 3, splits: vec![SplitReport::new(Split::Test, score)] };
/// let error = alert.epoch(&report).unwrap_err();
/// assert_eq!(error.to_string(), "alert 'test.loss > 2' in epoch 3: test.loss is 2.5");
/// assert!("fc1.ded>1".parse::<Alert>().is_err());
/// # Ok::<(), taper_report::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Alert {
    text: String,
    /// `None` is the headline split.
    split: Option<Split>,
    what: What,
    comparison: Comparison,
    bound: f64,
}

#[derive(Clone, Debug)]
enum What {
    Metric(String),
    /// The site's name, `None` for any.
    Layer(Option<String>, &'static Statistic),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// Longer operators first, because they share a beginning.
const COMPARISONS: [(&str, Comparison); 4] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    (">", Comparison::Above),
    ("<", Comparison::Below),
];

type Number = (&'static str, fn(&SplitReport) -> Option<f64>);
/// The numbers of every split, in addition to its metrics.
const NUMBERS: [Number; 7] = [
    ("loss", |of| Some(of.score.loss)),
    ("samples", |of| Some(of.score.samples as f64)),
    ("learning_rate", |of| of.learning_rate),
    ("nonfinite", |of| Some(of.nonfinite.as_ref().map_or(0, |n| n.batches) as f64)),
    ("seconds", |of| Some(of.seconds)),
    ("samples_per_second", |of| Some(of.samples_per_second())),
    ("tracking_fraction", |of| Some(of.tracking_fraction())),
];

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

impl Alert {
    /// The split in the rule, if there is one.
    pub fn split(&self) -> Option<Split> {
        self.split
    }

    /// Whether it is about layers, so that it can never fire without tracking.
    pub fn asks_layers(&self) -> bool {
        matches!(self.what, What::Layer(..))
    }

    /// Whether it is about a number that a counting recorder leaves out (`Parts::COUNTS`).
    pub fn asks_more_than_counts(&self) -> bool {
        matches!(self.what, What::Layer(_, statistic) if !statistic.counted)
    }

    /// Checks that the site exists.
    ///
    /// # Errors
    /// [`Error::Rule`] with the names of the sites if it does not exist, and for `*` if there are none.
    pub fn check_site<S: AsRef<str>>(&self, sites: &[S]) -> Result<()> {
        match &self.what {
            What::Layer(Some(site), _) if sites.iter().all(|known| known.as_ref() != site) => {
                let known: Vec<&str> = sites.iter().map(AsRef::as_ref).collect();
                let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
                Err(self.wrong(format!("unknown site '{site}': the sites are {known}")))
            }
            What::Layer(None, _) if sites.is_empty() => Err(self.wrong("there is no site".into())),
            _ => Ok(()),
        }
    }

    /// Checks that the score of the rule's split has the metric.
    ///
    /// # Errors
    /// [`Error::Rule`] with the names of the metrics if it does not.
    pub fn check_metrics(&self, score: &Score) -> Result<()> {
        let What::Metric(name) = &self.what else { return Ok(()) };
        let own = score.metrics.iter().map(|metric| metric.name.as_str());
        let known: Vec<&str> = own.chain(NUMBERS.iter().map(|(name, _)| *name)).collect();
        if known.contains(&name.as_str()) {
            return Ok(());
        }
        let (found, known) = (name.escape_debug(), known.join(", "));
        Err(self.wrong(format!("unknown metric '{found}' of a split: the metrics are {known}")))
    }

    fn wrong(&self, why: String) -> Error {
        Error::Rule(format!("alert '{}': {why}", self.text.escape_debug()))
    }

    fn fires(&self, value: f64) -> bool {
        let bound = self.bound;
        value.is_nan()
            || match self.comparison {
                Comparison::Above => value > bound,
                Comparison::AtLeast => value >= bound,
                Comparison::Below => value < bound,
                Comparison::AtMost => value <= bound,
            }
    }

    /// The names and values that fire in this report.
    fn fired(&self, report: &EpochReport) -> Result<Vec<String>> {
        let found = |name: String, value: Option<f64>| {
            let fires = |value: &f64| report.epoch > 0 && self.fires(*value);
            value.filter(fires).map(|value| format!("{name} is {value}"))
        };
        match &self.what {
            What::Metric(name) => {
                let Some(of) = self.split.and_then(|split| report.split(split)) else {
                    return Ok(Vec::new());
                };
                self.check_metrics(&of.score)?;
                let number = NUMBERS.iter().find(|(known, _)| known == name);
                let value = number.map_or(of.score.metric(name), |(_, value)| value(of));
                Ok(found(format!("{}.{name}", of.split.name()), value).into_iter().collect())
            }
            What::Layer(site, statistic) => {
                let of = self.split.map_or(report.observed(), |split| report.split(split));
                // An interrupted epoch has no layers.
                let Some(of) = of.filter(|of| !of.layers.is_empty()) else { return Ok(Vec::new()) };
                let names: Vec<&str> = of.layers.iter().map(|layer| layer.site.as_str()).collect();
                self.check_site(&names)?;
                let meant = |layer: &&LayerStats| site.as_ref().is_none_or(|site| *site == layer.site);
                let fired = |layer: &LayerStats| {
                    let name = format!("{}:{}.{}", of.split.name(), layer.site, statistic.id);
                    found(name, (statistic.value)(layer))
                };
                Ok(of.layers.iter().filter(meant).filter_map(fired).collect())
            }
        }
    }
}

impl Sink for Alert {
    /// # Errors
    /// [`Error::Alert`] when it fires; the message names rule, epoch, and every value that fired. [`Error::Rule`]
    /// when there is no such site or metric.
    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        match self.fired(report)? {
            fired if fired.is_empty() => Ok(()),
            fired => Err(Error::Alert(format!(
                "alert '{}' in epoch {}: {}",
                self.text,
                report.epoch,
                fired.join(", ")
            ))),
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl FromStr for Alert {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: String| Error::Rule(format!("alert '{}': {why}", text.escape_debug()));
        let form = || {
            wrong(
                "expected [SPLIT:]SITE.STATISTIC OP NUMBER or SPLIT.METRIC OP NUMBER, OP one of > >= < <="
                    .into(),
            )
        };
        // From the end, because a site can have any name.
        let at = text.rfind(['<', '>']).ok_or_else(form)?;
        let (what, rest) = text.split_at(at);
        let (sign, comparison) =
            COMPARISONS.into_iter().find(|(sign, _)| rest.starts_with(sign)).ok_or_else(form)?;
        let bound = rest[sign.len()..].trim();
        let bound = bound.parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(|| {
            wrong(format!("expected a finite number after {sign}, found '{}'", bound.escape_debug()))
        })?;
        let (name, last) = what.trim().rsplit_once('.').ok_or_else(form)?;
        let split_of = |name: &str| SPLITS.into_iter().find(|split| split.name() == name);
        let (split, what) = match split_of(name) {
            // `test.loss`: a split's metric.
            Some(_) if last.is_empty() => return Err(form()),
            Some(split) => (Some(split), What::Metric(last.to_string())),
            None => {
                let (split, site) = match name.split_once(':') {
                    Some((split, site)) if split_of(split).is_some() => (split_of(split), site),
                    _ => (None, name),
                };
                if site.is_empty() {
                    return Err(form());
                }
                let Some(statistic) = Statistic::named(last) else {
                    let known: Vec<&str> = STATISTICS.iter().map(|of| of.id).collect();
                    let (found, known) = (last.escape_debug(), known.join(", "));
                    return Err(wrong(format!("unknown statistic '{found}': the statistics are {known}")));
                };
                (split, What::Layer((site != "*").then(|| site.to_string()), statistic))
            }
        };
        Ok(Self { text: text.to_string(), split, what, comparison, bound })
    }
}

/// The text that is parsed and printed.
impl Serialize for Alert {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Alert {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
