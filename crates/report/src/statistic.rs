use crate::{LayerStats, STATISTICS, number};

/// One number of [`LayerStats`], declared once: tables, curves, alerts and records read its properties here.
#[derive(Debug)]
pub struct Statistic {
    /// Its name in `layers.jsonl`, in rules of alerts and in TensorBoard's tags.
    pub id: &'static str,
    /// Its name above a curve.
    pub title: &'static str,
    /// Its name above a column.
    pub column: &'static str,
    /// Its meaning, in one sentence.
    pub what: &'static str,
    /// How it is written, and the scale of its axis.
    pub kind: StatisticKind,
    /// The unit: `values`, `units`, `samples`, `y` (the scale of the activations), or nothing.
    pub unit: &'static str,
    /// Whether a recorder always counts it.
    pub counted: bool,
    /// Where it appears, in addition to records and alerts.
    pub shown: &'static [Shown],
    /// Its value; `None` if there is none.
    pub value: fn(&LayerStats) -> Option<f64>,
}

/// The format of a [`Statistic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatisticKind {
    /// A fraction in `[0, 1]`, written in percent.
    Share,
    /// Some of the layer's units.
    Units,
    /// A count whose size depends on the layer.
    Count,
    /// Any other number.
    Number,
}

/// A place where a [`Statistic`] appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shown {
    /// The console's table and the `tracing` events.
    Console,
    /// The comparison of runs.
    Comparison,
    /// Curves of the page, and TensorBoard.
    Curve,
    /// The table of the page.
    Table,
}

impl Statistic {
    /// The statistic of this name.
    pub fn named(id: &str) -> Option<&'static Self> {
        STATISTICS.iter().find(|of| of.id == id)
    }

    /// Those that appear in a place, in their order.
    pub fn shown_in(place: Shown) -> impl Iterator<Item = &'static Self> {
        STATISTICS.iter().filter(move |of| of.shown.contains(&place))
    }

    /// A value in a table of the terminal.
    pub fn text(&self, value: f64) -> String {
        match self.kind {
            StatisticKind::Share => number::share(value),
            StatisticKind::Units => number::count(value as u64),
            StatisticKind::Count => number::fixed(value, 1),
            StatisticKind::Number if self.unit.is_empty() => number::rounded(value),
            StatisticKind::Number => number::fixed(value, 3),
        }
    }
}
