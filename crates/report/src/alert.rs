use std::{fmt, str::FromStr};

use crate::{EpochReport, Error, LayerStats, Result, Sink, Split, SplitReport, statistic};

/// A rule that ends a run: `fc2.dead_fraction>0.5`. A sink, to stand behind those that write the epoch down.
///
/// Written `[SPLIT:]SITE.STATISTIC OP NUMBER` or `SPLIT.METRIC OP NUMBER`, with or without blanks around `OP`, one of
/// `>`, `>=`, `<` and `<=`:
///
/// - `SITE` is a site's name, or `*` for any site; `STATISTIC` a number of [`LayerStats`] under the name that it has
///   there and in `layers.jsonl`, a quantile (`q99`), or one derived from them: `dead_fraction`, `dormant_fraction`,
///   `std`. `SPLIT` is `train`, `validation` or `test`; without it the layers of the headline split are asked, which
///   is `test` if there is one, else `validation`, else `train`.
/// - `METRIC` is a number of `metrics.jsonl` or `timing.jsonl`: `loss`, `accuracy`, `samples`, `learning_rate`,
///   `nonfinite` (batches), `seconds`, `samples_per_second`, `tracking_fraction`.
///
/// A number that is NaN fires any rule about it: it is not on the good side of any bound. A number that there is none
/// of, such as the skewness of a constant layer, fires none.
///
/// ```
/// use taper_report::{Alert, EpochReport, Score, Sink, Split, SplitReport};
///
/// let mut alert: Alert = "test.loss > 2".parse()?;
/// let score = Score { loss: 2.5, accuracy: 0.1, samples: 100 };
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
    Metric(&'static str, fn(&SplitReport) -> Option<f64>),
    /// The site's name, `None` for any.
    Layer(Option<String>, &'static statistic::Statistic),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// The longer of two that begin alike first.
const COMPARISONS: [(&str, Comparison); 4] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    (">", Comparison::Above),
    ("<", Comparison::Below),
];

type Metric = (&'static str, fn(&SplitReport) -> Option<f64>);
const METRICS: [Metric; 8] = [
    ("loss", |of| Some(of.score.loss)),
    ("accuracy", |of| Some(of.score.accuracy)),
    ("samples", |of| Some(of.score.samples as f64)),
    ("learning_rate", |of| of.learning_rate),
    ("nonfinite", |of| Some(of.nonfinite.as_ref().map_or(0, |n| n.batches) as f64)),
    ("seconds", |of| Some(of.seconds)),
    ("samples_per_second", |of| Some(of.samples_per_second())),
    ("tracking_fraction", |of| Some(of.tracking_fraction())),
];

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

impl Alert {
    /// The split that is named, if one is.
    pub fn split(&self) -> Option<Split> {
        self.split
    }

    /// Whether it asks about layers, so that without tracking it could never fire.
    pub fn asks_layers(&self) -> bool {
        matches!(self.what, What::Layer(..))
    }

    /// Whether it asks about a number that is left out where a recorder only counts (`Parts::COUNTS`).
    pub fn asks_more_than_counts(&self) -> bool {
        matches!(self.what, What::Layer(_, statistic) if !statistic.counted)
    }

    /// Compares the site with those that there are.
    ///
    /// # Errors
    /// [`Error::Rule`] with their names, if it is none of them, and for `*` if there are none.
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

    /// What fires in this report: names and values.
    fn fired(&self, report: &EpochReport) -> Result<Vec<String>> {
        let found = |name: String, value: Option<f64>| {
            value.filter(|value| self.fires(*value)).map(|value| format!("{name} is {value}"))
        };
        match &self.what {
            What::Metric(name, value) => {
                let of = self.split.and_then(|split| report.split(split));
                let fired = |of: &SplitReport| found(format!("{}.{name}", of.split.name()), value(of));
                Ok(of.and_then(fired).into_iter().collect())
            }
            What::Layer(site, statistic) => {
                let of = self.split.map_or(report.observed(), |split| report.split(split));
                // An epoch that was cut short has no layers.
                let Some(of) = of.filter(|of| !of.layers.is_empty()) else { return Ok(Vec::new()) };
                let names: Vec<&str> = of.layers.iter().map(|layer| layer.site.as_str()).collect();
                self.check_site(&names)?;
                let meant = |layer: &&LayerStats| site.as_ref().is_none_or(|site| *site == layer.site);
                let fired = |layer: &LayerStats| {
                    let name = format!("{}:{}.{}", of.split.name(), layer.site, statistic.name);
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
    /// when there is no such site.
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
        // From behind: a site may be called anything.
        let at = text.rfind(['<', '>']).ok_or_else(form)?;
        let (what, rest) = text.split_at(at);
        let (sign, comparison) =
            COMPARISONS.into_iter().find(|(sign, _)| rest.starts_with(sign)).ok_or_else(form)?;
        let bound = rest[sign.len()..].trim();
        let bound = bound.parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(|| {
            wrong(format!("expected a finite number behind {sign}, found '{}'", bound.escape_debug()))
        })?;
        let (name, last) = what.trim().rsplit_once('.').ok_or_else(form)?;
        let split_of = |name: &str| SPLITS.into_iter().find(|split| split.name() == name);
        let (split, what) = match split_of(name) {
            // `test.loss`: a split's metric.
            Some(split) => {
                let Some((name, value)) = METRICS.into_iter().find(|(name, _)| *name == last) else {
                    let known = METRICS.map(|(name, _)| name).join(", ");
                    let found = last.escape_debug();
                    return Err(wrong(format!(
                        "unknown metric '{found}' of a split: the metrics are {known}"
                    )));
                };
                (Some(split), What::Metric(name, value))
            }
            None => {
                let (split, site) = match name.split_once(':') {
                    Some((split, site)) if split_of(split).is_some() => (split_of(split), site),
                    _ => (None, name),
                };
                if site.is_empty() {
                    return Err(form());
                }
                let Some(statistic) = statistic::STATISTICS.iter().find(|of| of.name == last) else {
                    let known: Vec<&str> = statistic::STATISTICS.iter().map(|of| of.name).collect();
                    let (found, known) = (last.escape_debug(), known.join(", "));
                    return Err(wrong(format!("unknown statistic '{found}': the statistics are {known}")));
                };
                (split, What::Layer((site != "*").then(|| site.to_string()), statistic))
            }
        };
        Ok(Self { text: text.to_string(), split, what, comparison, bound })
    }
}
