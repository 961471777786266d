use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Deserializer, Serialize};
use taper::report::{Align, Table, fixed_text};

/// A claim of a paper, and the function that measures it.
pub struct Paper {
    /// The name on the command line and of the directory.
    pub name: &'static str,
    /// The claim in one sentence.
    pub claim: &'static str,
    /// Authors, year, where it was published, and where its numbers come from.
    pub source: &'static str,
    /// The time on two cores.
    pub minutes: f64,
    /// What `--check` asserts, in words; the bands are in the code of `run`.
    pub asserted: &'static str,
    /// Runs the protocol.
    pub run: fn(&Setting) -> Result<Outcome>,
}

/// How a paper's protocol is run.
pub struct Setting {
    /// Number of networks of each kind, each with its own seed; `None`: the number that the protocol fixes.
    pub seeds: Option<usize>,
    /// Whether to run the short form, which takes at most 15 s: fewer networks and fewer steps.
    pub quick: bool,
    /// The directory for everything that is written. Training runs that are in it already are resumed or kept.
    pub out: PathBuf,
}

/// What a protocol gave.
pub struct Outcome {
    pub rows: Vec<Row>,
    /// An SVG file.
    pub picture: String,
}

/// A published number and the measured one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What is measured.
    pub what: String,
    /// The number and how it was seen; `None` if the paper says it in words only, or nothing.
    pub published: Option<(f64, Seen)>,
    #[serde(deserialize_with = "or_nan")]
    pub measured: f64,
    /// The standard deviation of `measured`: of a mean over n runs, that of the runs divided by √n; NaN if it is unknown.
    #[serde(deserialize_with = "or_nan")]
    pub sd: f64,
    /// The smallest and the largest value that agree with the claim; `None` if the number is only reported.
    #[serde(deserialize_with = "or_unbounded")]
    pub band: Option<(f64, f64)>,
}

/// NaN is null in JSON.
fn or_nan<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// Infinities are null in JSON.
fn or_unbounded<'de, D: Deserializer<'de>>(from: D) -> Result<Option<(f64, f64)>, D::Error> {
    let band: Option<(Option<f64>, Option<f64>)> = Option::deserialize(from)?;
    Ok(band.map(|(low, high)| (low.unwrap_or(f64::NEG_INFINITY), high.unwrap_or(f64::INFINITY))))
}

/// How a published number was seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// Printed in the paper or in its authors' files.
    Source,
    /// In a text of others about the paper.
    Quoted,
    /// Read off a figure.
    Figure,
    /// Remembered: such a number is never asserted.
    Memory,
    /// Computed from a formula, or by a simulation of somebody else.
    Computed,
}

/// Whether a measured number agrees with the published one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Holds,
    Misses,
    Reported,
}

impl Row {
    /// A number with its standard deviation, which is only reported.
    pub fn new(what: impl Into<String>, (measured, sd): (f64, f64)) -> Self {
        Self { what: what.into(), published: None, measured, sd, band: None }
    }

    /// The same row with the published number, if there is one.
    pub fn published(self, value: impl Into<Option<f64>>, seen: Seen) -> Self {
        Self { published: value.into().map(|value| (value, seen)), ..self }
    }

    /// The same row, whose number must be at most `tolerance` from the published one.
    pub fn near(self, tolerance: f64) -> Self {
        let Some((published, _)) = self.published else { return self };
        self.within(published - tolerance, published + tolerance)
    }

    /// The same row, whose number must be above 0 by 2 standard deviations.
    pub fn above_zero(self) -> Self {
        let low = 2.0 * self.sd;
        self.within(low, f64::INFINITY)
    }

    /// The same row, whose number must be in this band.
    pub fn within(self, low: f64, high: f64) -> Self {
        Self { band: Some((low, high)), ..self }
    }

    pub fn verdict(&self) -> Verdict {
        match self.band {
            Some(_) if matches!(self.published, Some((_, Seen::Memory))) => Verdict::Reported,
            Some((low, high)) if (low..=high).contains(&self.measured) => Verdict::Holds,
            Some(_) => Verdict::Misses,
            None => Verdict::Reported,
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "seen in the source",
            Self::Quoted => "quoted by others",
            Self::Figure => "read off a figure",
            Self::Memory => "from memory",
            Self::Computed => "computed",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::Misses => "misses",
            Self::Reported => "reported",
        })
    }
}

/// The rows as a table, with the name of the paper in front of each.
pub fn table(rows: &[(&str, &Row)]) -> String {
    let number = |x: f64| if x == f64::INFINITY { "∞".into() } else { fixed_text(x, 4) };
    let column = |text: &dyn Fn(&Row) -> String| rows.iter().map(|(_, row)| text(row)).collect::<Vec<_>>();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".into());
    let mut table = Table::default();
    table.column(Align::Left, "paper", rows.iter().map(|(paper, _)| *paper));
    table.column(Align::Left, "what", column(&|row| row.what.clone()));
    table.column(
        Align::Right,
        "published",
        column(&|row| or_none(row.published.map(|(value, _)| number(value)))),
    );
    table.column(
        Align::Left,
        "seen",
        column(&|row| or_none(row.published.map(|(_, seen)| seen.to_string()))),
    );
    let measured = |row: &Row| match row.sd.is_nan() {
        true => number(row.measured),
        false => format!("{} ± {}", number(row.measured), number(row.sd)),
    };
    table.column(Align::Right, "measured ± sd", column(&measured));
    let band =
        |row: &Row| or_none(row.band.map(|(low, high)| format!("{} to {}", number(low), number(high))));
    table.column(Align::Right, "band", column(&band));
    table.column(Align::Left, "verdict", column(&|row| row.verdict().to_string()));
    table.render(0, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_holds_within_its_band_and_misses_outside_of_it() {
        let row = |measured| Row::new("x", (measured, 0.1)).published(1.0, Seen::Figure);
        let at = |measured| row(measured).near(0.25).verdict();
        assert_eq!(
            [0.75, 1.25, 1.26, f64::NAN].map(at),
            [Verdict::Holds, Verdict::Holds, Verdict::Misses, Verdict::Misses]
        );
    }

    #[test]
    fn a_number_is_above_zero_by_two_standard_deviations() {
        let at = |measured| Row::new("x", (measured, 0.1)).above_zero().verdict();
        assert_eq!([0.21, 0.19, f64::NAN].map(at), [Verdict::Holds, Verdict::Misses, Verdict::Misses]);
    }

    #[test]
    fn a_row_without_an_upper_bound_or_a_standard_deviation_is_read_again() {
        let row = Row::new("x", (2.0, f64::NAN)).within(1.0, f64::INFINITY);
        let text = serde_json::to_string(&row).expect("a row is JSON");
        let again: Row = serde_json::from_str(&text).expect("a row");
        assert!(again.sd.is_nan() && again.band == row.band && again.verdict() == Verdict::Holds, "{text}");
    }

    #[test]
    fn a_number_from_memory_is_reported_and_never_asserted() {
        let row = Row::new("x", (2.0, 0.1));
        assert_eq!(row.clone().published(1.0, Seen::Memory).near(0.2).verdict(), Verdict::Reported);
        assert_eq!(row.verdict(), Verdict::Reported);
    }
}
