use std::collections::BTreeMap;

use serde_json::{Value, json};
use taper_report::Octaves;

use crate::{
    bins::{NEXT_TO_ZERO, ascending, limits},
    distribution::UNIT,
    group::{Group, Groups},
    text::brief,
};

/// Columns of a heat map at most: more would be narrower than a few pixels.
const COLUMNS: usize = 100;

/// The rows of a site's heat maps over the training steps, as many as any group fills: an octave of magnitude each, negative
/// values below, positive ones above.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Rows {
    negative: usize,
    positive: usize,
    /// Whether any value is exactly zero.
    zeros: bool,
}

impl Rows {
    /// `None` where no run has counts by octave.
    pub fn of(groups: &Groups<'_>, site: &str) -> Option<Self> {
        let mut rows = Self::default();
        for (_, _, of) in groups.groups.iter().flat_map(|group| windows(group, site)) {
            let filled = |counts: &[u64]| counts.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
            rows.negative = rows.negative.max(filled(&of.negative));
            rows.positive = rows.positive.max(filled(&of.positive));
            rows.zeros |= of.zeros > 0;
        }
        (rows != Self::default()).then_some(rows)
    }

    /// The axis: edges in octaves from zero, what each row holds, and ticks where the console's picture has them.
    pub fn to_json(&self) -> Value {
        let sides = [(-1.0, self.negative), (1.0, self.positive)];
        let tick = |(sign, rows): (f64, usize)| {
            let inner = [(1, 0.125), (4, 1.0), (7, 8.0)].into_iter().filter(move |(row, _)| *row < rows);
            inner.map(move |(row, at)| {
                json!([sign * from(row), format!("{}{at}", if sign < 0.0 { "−" } else { "" })])
            })
        };
        let mut edges = self.each(|sign, row| if sign < 0.0 { -from(row + 1) } else { from(row) });
        edges.push(from(self.positive));
        json!({
            "edges": edges,
            "names": self.each(|sign, row| limits(sign, Octaves::edges(row))),
            "ticks": std::iter::once(json!([0, "0"])).chain(sides.into_iter().flat_map(tick)).collect::<Vec<_>>(),
            "zeros": self.zeros,
        })
    }

    fn each<T>(&self, of: impl Fn(f64, usize) -> T) -> Vec<T> {
        ascending(self.negative, self.positive, of)
    }
}

/// Where a row begins on the axis, in octaves from zero.
fn from(row: usize) -> f64 {
    if row == 0 { 0.0 } else { NEXT_TO_ZERO + (row - 1) as f64 }
}

/// First step, last step and counts of the windows of a site, in the order of the runs.
fn windows<'a>(group: &'a Group<'_>, site: &'a str) -> impl Iterator<Item = (u64, u64, Octaves)> + 'a {
    group.runs.iter().flat_map(|run| &run.steps).filter_map(move |line| {
        let of = line.of.sites.iter().find(|of| of.site == site)?.octaves?;
        let before = line.of.step.saturating_sub(line.of.steps);
        Some((before.saturating_add(1), line.of.step, of))
    })
}

/// The distribution of one site in one group over the training steps: windows of steps, several to a column where there are
/// many, and its seeds' counts added up.
///
/// `{"from": [1, 5], "to": [4, 8], "density": [[…], […]], "zeros": [0.5, 0.6]}`; null where there are no counts.
pub(crate) fn over_steps(group: &Group<'_>, site: &str, rows: &Rows) -> Value {
    let mut by_step = BTreeMap::<u64, (u64, Octaves)>::new();
    for (first, last, of) in windows(group, site) {
        by_step.entry(last).or_insert((first, Octaves::default())).1.merge(&of);
    }
    if by_step.is_empty() {
        return Value::Null;
    }
    let windows: Vec<(u64, (u64, Octaves))> = by_step.into_iter().collect();
    let (mut from_step, mut to, mut density, mut zeros) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for column in windows.chunks(windows.len().div_ceil(COLUMNS)) {
        let mut sum = Octaves::default();
        column.iter().for_each(|(_, (_, of))| sum.merge(of));
        let total = sum.total().max(1) as f64;
        let of_row = |sign: f64, row: usize| {
            let n = if sign < 0.0 { sum.negative[row] } else { sum.positive[row] };
            (UNIT * n as f64 / total / (from(row + 1) - from(row))).round() as u64
        };
        from_step.push(column[0].1.0);
        to.push(column[column.len() - 1].0);
        density.push(rows.each(of_row));
        zeros.push(brief(sum.zeros as f64 / total));
    }
    json!({ "from": from_step, "to": to, "density": density, "zeros": zeros })
}

#[cfg(test)]
mod tests {
    use taper_report::{FORMAT_VERSION, Score, SiteSteps, StepLine, StepReport};

    use super::*;
    use crate::{RunData, sample};

    fn run(seed: u64, windows: u64, octaves: Octaves) -> RunData {
        let line = |step| {
            let site = SiteSteps {
                site: "fc1".into(),
                units: 4,
                zero_fraction: 0.5,
                dead: None,
                mean: None,
                std: None,
                octaves: Some(octaves),
            };
            let (sites, parameters) = (vec![site], Vec::new());
            let of =
                StepReport { step, steps: 1, score: Score::default(), learning_rate: 0.1, sites, parameters };
            StepLine { v: FORMAT_VERSION, run: "relu".into(), labels: Default::default(), seed, of }
        };
        RunData { steps: (1..=windows).map(line).collect(), ..sample::run("relu", 0.0, seed) }
    }

    #[test]
    fn many_windows_share_columns_and_no_value_is_lost() {
        let counts =
            Octaves { zeros: 5, negative: [2, 0, 0, 0, 0, 0, 0, 0], positive: [0, 2, 0, 0, 1, 0, 0, 0] };
        let runs = [run(1, 250, counts), run(2, 250, counts)];
        let groups = Groups::of(&runs);
        let rows = Rows::of(&groups, "fc1").expect("it has counts");
        assert_eq!(rows, Rows { negative: 1, positive: 5, zeros: true });
        let axis = rows.to_json();
        assert_eq!(axis["edges"], json!([-2.0, 0.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        assert_eq!(axis["names"][0], "−0.125 to 0");
        assert_eq!(axis["ticks"], json!([[0, "0"], [2.0, "0.125"], [5.0, "1"]]));
        let of = over_steps(&groups.groups[0], "fc1", &rows);
        assert_eq!((of["from"][1].as_u64(), of["to"][1].as_u64()), (Some(4), Some(6)));
        assert_eq!(of["to"].as_array().map(Vec::len), Some(84));
        // 2 of 10 in two octaves, 2 and 1 of 10 in one.
        assert_eq!(of["density"][83], json!([10_000, 0, 20_000, 0, 0, 10_000]));
        assert_eq!(of["zeros"][0], 0.5);
    }

    #[test]
    fn a_site_without_counts_has_no_rows() {
        let runs = [run(1, 3, Octaves::default()), sample::run("relu", 0.5, 1)];
        assert_eq!(Rows::of(&Groups::of(&runs), "fc1"), None);
        let of = over_steps(&Groups::of(&runs).groups[1], "fc1", &Rows::default());
        assert_eq!(of, Value::Null);
    }
}
