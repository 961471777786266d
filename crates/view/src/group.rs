use std::{collections::BTreeMap, path::Path};

use taper_report::{LayerStats, MetricKind, Run, SiteSteps, Split, StepLine, label_text};

use crate::{RunData, palette, text::rounded};

/// Runs that differ only in the seed: they share a colour, a line style, a panel and a row.
pub(crate) struct Group<'a> {
    /// The values of the labels of this group.
    pub label: String,
    /// Index into [`Groups::hues`].
    pub hue: usize,
    /// Index of its colour in the palette.
    pub color: usize,
    /// Index into [`Groups::dashes`].
    pub dash: usize,
    /// Index into [`Groups::panels`].
    pub panel: usize,
    pub runs: Vec<&'a RunData>,
}

/// All runs of a page.
///
/// The first label that differs is the colour and the last is the line style; those between make panels. Data set and
/// model are labels after the first.
pub(crate) struct Groups<'a> {
    pub groups: Vec<Group<'a>>,
    /// The names of the colours.
    pub hues: Vec<String>,
    /// For every hue the index of its colour in the palette.
    pub colors: Vec<usize>,
    /// The names of the line styles; empty if there is only one.
    pub dashes: Vec<String>,
    /// The names of the panels; a single empty name if there is only one.
    pub panels: Vec<String>,
    /// Names of all sites, in the order of their first appearance.
    pub sites: Vec<String>,
    /// Windows in which layers were observed, the headline one first.
    pub windows: Vec<Split>,
}

/// One number over the epochs or steps of a group's runs, where they have it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series {
    /// Epochs or steps, ascending.
    pub xs: Vec<u64>,
    /// Over the seeds that have this epoch or step.
    pub mean: Vec<f64>,
    pub low: Vec<f64>,
    pub high: Vec<f64>,
    /// The largest number of seeds at any of them.
    pub seeds: usize,
}

impl Series {
    /// Leaves out epoch 0.
    pub fn leave_out_untrained(&mut self) {
        if self.xs.first() == Some(&0) {
            self.xs.remove(0);
            for values in [&mut self.mean, &mut self.low, &mut self.high] {
                values.remove(0);
            }
        }
    }
}

impl<'a> Groups<'a> {
    pub fn of(runs: &'a [RunData]) -> Self {
        let Places { hues, dashes, panels, of } = places(runs);
        let colors = palette::colors(&hues);
        let mut this =
            Self { groups: Vec::new(), hues, colors, dashes, panels, sites: Vec::new(), windows: Vec::new() };
        for (run, (place, label)) in runs.iter().zip(of) {
            let [hue, dash, panel] = place;
            match this.groups.iter_mut().find(|group| [group.hue, group.dash, group.panel] == place) {
                Some(group) => group.runs.push(run),
                None => {
                    let color = this.colors[hue];
                    this.groups.push(Group { label, hue, color, dash, panel, runs: vec![run] });
                }
            }
            for line in &run.layers {
                if !this.sites.contains(&line.of.site) {
                    this.sites.push(line.of.site.clone());
                }
                if !this.windows.contains(&line.split) {
                    this.windows.push(line.split);
                }
            }
        }
        this.windows.sort_by(|a, b| b.cmp(a));
        this
    }

    /// The groups of a panel, with their indices.
    pub fn in_panel(&self, panel: usize) -> impl Iterator<Item = (usize, &Group<'a>)> {
        self.groups.iter().enumerate().filter(move |(_, group)| group.panel == panel)
    }

    /// Names and kinds of all metrics, in the order of their first appearance.
    pub fn metrics(&self) -> Vec<(&'a str, MetricKind)> {
        let mut metrics = Vec::new();
        for metric in self.runs().flat_map(|run| &run.metrics).flat_map(|line| &line.of.score.metrics) {
            if !metrics.contains(&(metric.name.as_str(), metric.kind)) {
                metrics.push((metric.name.as_str(), metric.kind));
            }
        }
        metrics
    }

    /// The losses of the runs, as text.
    pub fn losses(&self) -> String {
        let mut losses: Vec<&str> =
            self.runs().map(|run| run.run.loss.as_str()).filter(|l| !l.is_empty()).collect();
        losses.sort_unstable();
        losses.dedup();
        losses.join("; ")
    }

    /// The name of a site, with the number of its uses if there are several: `stem ×7`.
    pub fn title(&self, site: &str) -> String {
        let layers = self.runs().flat_map(|run| &run.layers).map(|line| &line.of);
        let most = layers.filter(|layer| layer.site == site).max_by_key(|layer| layer.uses);
        most.map_or(site.to_string(), LayerStats::title)
    }

    /// Splits that were scored in any run, in the order train, validation, test.
    pub fn scored(&self) -> Vec<Split> {
        let has = |split| self.runs().any(|run| run.scores(split).next().is_some());
        [Split::Train, Split::Validation, Split::Test].into_iter().filter(|split| has(*split)).collect()
    }

    pub fn runs(&self) -> impl Iterator<Item = &'a RunData> {
        self.groups.iter().flat_map(|group| group.runs.iter().copied())
    }

    /// Every epoch that any run has reached.
    pub fn epochs(&self) -> Vec<u32> {
        let mut epochs: Vec<u32> =
            self.runs().flat_map(|run| run.metrics.iter().map(|line| line.epoch)).collect();
        epochs.extend(self.runs().flat_map(|run| run.layers.iter().map(|line| line.epoch)));
        epochs.sort_unstable();
        epochs.dedup();
        epochs
    }
}

/// The directories of the runs.
struct Places {
    hues: Vec<String>,
    dashes: Vec<String>,
    panels: Vec<String>,
    /// For each run the indices of its hue, dash and panel, and its label.
    of: Vec<([usize; 3], String)>,
}

/// A value of a label: its number, by which it is ordered, if it has one, and its name.
type Value = (Option<f64>, String);

fn places(runs: &[RunData]) -> Places {
    let mut values = differing(runs);
    tell_apart(runs, &mut values);
    let n = values.first().map_or(1, Vec::len);
    let join = |values: &[Value]| values.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", ");
    let hue = |run: &[Value]| run[0].clone();
    let dash = |run: &[Value]| run[n - 1].clone();
    let panel = |run: &[Value]| (None, join(&run[1.min(n - 1)..n - 1]));
    let (hues, of_hue) = indices(values.iter().map(|run| hue(run)), false);
    let (dashes, of_dash) = match n {
        1 => (Vec::new(), vec![0; runs.len()]),
        _ => indices(values.iter().map(|run| dash(run)), true),
    };
    let (panels, of_panel) = indices(values.iter().map(|run| panel(run)), false);
    let of = (values.iter().enumerate())
        .map(|(i, run)| ([of_hue[i], of_dash[i], of_panel[i]], join(run)))
        .collect();
    Places { hues, dashes, panels, of }
}

/// The distinct names, and the index of each value's name; in the order of numbers if `ordered` and all have one.
fn indices(values: impl Iterator<Item = Value>, ordered: bool) -> (Vec<String>, Vec<usize>) {
    let values: Vec<Value> = values.collect();
    let mut distinct: Vec<&Value> = Vec::new();
    for value in &values {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    if ordered && distinct.iter().all(|(number, _)| number.is_some()) {
        distinct.sort_by(|(a, _), (b, _)| a.unwrap_or(0.0).total_cmp(&b.unwrap_or(0.0)));
    }
    let of =
        values.iter().map(|value| distinct.iter().position(|known| *known == value).unwrap_or(0)).collect();
    (distinct.into_iter().map(|(_, name)| name.clone()).collect(), of)
}

/// For each run the values of the labels that differ, in the same order: at least one.
fn differing(runs: &[RunData]) -> Vec<Vec<Value>> {
    let labels: BTreeMap<&String, ()> =
        runs.iter().flat_map(|run| run.run.labels.keys()).map(|key| (key, ())).collect();
    let label = |key: &String, run: &Run| match run.labels.get(key) {
        Some(value) => (value.as_f64(), label_text(key, value)),
        None => (None, format!("no {key}")),
    };
    let mut columns: Vec<Vec<Value>> =
        labels.into_keys().map(|key| runs.iter().map(|run| label(key, &run.run)).collect()).collect();
    let all = columns.clone();
    let differs = |column: &Vec<Value>| column.iter().any(|value| *value != column[0]);
    columns.retain(differs);
    let extras = [|run: &Run| run.dataset.clone(), |run: &Run| run.model.clone()];
    let extras = extras.map(|of| runs.iter().map(|run| (None, of(&run.run))).collect());
    columns.splice(columns.len().min(1)..columns.len().min(1), extras.into_iter().filter(differs));
    let value = |i: usize| match (&columns[..], &all[..]) {
        ([], []) => vec![(None, runs[i].run.name.clone())],
        // Nothing differs.
        ([], all) => {
            vec![(None, all.iter().map(|column| column[i].1.as_str()).collect::<Vec<_>>().join(", "))]
        }
        (columns, _) => columns.iter().map(|column| column[i].clone()).collect(),
    };
    (0..runs.len()).map(value).collect()
}

/// The same seed twice: these runs differ in something else, and have no common mean. They are distinguished by their
/// grids, then by their names, then by their directories.
fn tell_apart(runs: &[RunData], values: &mut [Vec<Value>]) {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name).map_or(String::new(), |name| name.to_string_lossy().into_owned())
    };
    let by: [&dyn Fn(&RunData) -> String; 3] =
        [&|run| name(run.dir.parent()), &|run| run.run.name.clone(), &|run| run.dir.display().to_string()];
    let key = |values: &[Value]| values.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>();
    for tell_apart in by {
        let mut twice = BTreeMap::new();
        for (run, values) in runs.iter().zip(values.iter()) {
            *twice.entry((key(values), run.run.seed)).or_insert(0) += 1;
        }
        let twice: Vec<_> =
            twice.into_iter().filter(|(_, n)| *n > 1).map(|((values, _), _)| values).collect();
        for (run, values) in runs.iter().zip(values.iter_mut()) {
            if twice.contains(&key(values)) {
                values[0].1.extend([", ", &tell_apart(run)]);
            }
        }
    }
}

impl Group<'_> {
    /// Mean and range over the seeds of a number of one site.
    pub fn layer(&self, site: &str, split: Split, value: impl Fn(&LayerStats) -> Option<f64>) -> Series {
        self.series(|run| {
            run.site(site, split).filter_map(|(epoch, stats)| Some((epoch.into(), value(stats)?))).collect()
        })
    }

    /// The same for one site in the windows of training steps, by step.
    pub fn steps(&self, site: &str, value: impl Fn(&SiteSteps) -> Option<f64>) -> Series {
        self.series(|run| {
            let at = |line: &StepLine| {
                let of = line.of.sites.iter().find(|of| of.site == site)?;
                Some((line.of.step, value(of)?))
            };
            run.steps.iter().filter_map(at).collect()
        })
    }

    /// The same for the numbers that `values` returns for a run, by epoch or step.
    pub fn series(&self, values: impl Fn(&RunData) -> Vec<(u64, f64)>) -> Series {
        let mut by_x = BTreeMap::<u64, Vec<f64>>::new();
        for run in &self.runs {
            for (at, x) in values(run).into_iter().filter(|(_, x)| x.is_finite()) {
                by_x.entry(at).or_default().push(x);
            }
        }
        let mut series = Series::default();
        for (at, xs) in by_x {
            series.xs.push(at);
            series.mean.push(rounded(xs.iter().sum::<f64>() / xs.len() as f64));
            series.low.push(rounded(xs.iter().copied().fold(f64::INFINITY, f64::min)));
            series.high.push(rounded(xs.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
            series.seeds = series.seeds.max(xs.len());
        }
        series
    }

    /// The layers of one site in the last epoch of each run that has it.
    pub fn last(&self, site: &str, split: Split) -> Vec<(&RunData, &LayerStats)> {
        let last = |run: &RunData| run.site(site, split).map(|(epoch, _)| epoch).max();
        self.runs
            .iter()
            .filter_map(|run| {
                let (_, stats) = run.site(site, split).find(|(epoch, _)| Some(*epoch) == last(run))?;
                Some((*run, stats))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::run;

    #[test]
    fn seeds_share_a_group_and_activation_is_colour_and_dropout_is_line_style() {
        let runs = [run("relu", 0.0, 1), run("relu", 0.5, 1), run("relu", 0.0, 2), run("tanh", 0.5, 1)];
        let groups = Groups::of(&runs);
        let shape: Vec<_> = groups.groups.iter().map(|g| (g.hue, g.dash, g.runs.len())).collect();
        assert_eq!(shape, [(0, 0, 2), (0, 1, 1), (1, 1, 1)]);
        assert_eq!(
            (groups.hues.join(" "), groups.dashes.join(" ")),
            ("relu tanh".into(), "dropout 0 dropout 0.5".into())
        );
        assert_eq!((groups.groups[1].label.as_str(), groups.panels.len()), ("relu, dropout 0.5", 1));
        assert_eq!(groups.windows, [Split::Test, Split::Train]);
    }

    #[test]
    fn a_seed_twice_means_that_something_else_differs() {
        let (mut a, mut b) = (run("relu", 0.0, 1), run("relu", 0.0, 1));
        (a.dir, b.dir) = ("grid/slow".into(), "grid/fast".into());
        (a.run.name, b.run.name) = ("slow".into(), "fast".into());
        let runs = [a, b, run("tanh", 0.0, 1)];
        let groups = Groups::of(&runs);
        assert_eq!(groups.hues, ["relu, grid, slow", "relu, grid, fast", "tanh"]);
    }

    #[test]
    fn a_single_difference_is_shown_by_colour_only() {
        let runs = [run("relu", 0.5, 1), run("relu", 0.0, 1), run("relu", 0.0, 2)];
        let groups = Groups::of(&runs);
        assert_eq!((groups.hues.join(" "), groups.dashes.len()), ("dropout 0.5 dropout 0".into(), 0));
        let single = Groups::of(&runs[..1]);
        assert_eq!(
            (single.hues.join(" "), single.groups[0].label.as_str()),
            ("relu, dropout 0.5".into(), "relu, dropout 0.5")
        );
    }

    #[test]
    fn what_differs_between_the_first_and_the_last_label_makes_panels() {
        let mut runs = [run("relu", 0.0, 1), run("relu", 0.5, 1), run("tanh", 0.5, 1)];
        for (run, width) in runs.iter_mut().zip([64, 128, 64]) {
            run.run.labels.insert("width".into(), width.into());
        }
        let groups = Groups::of(&runs);
        assert_eq!(groups.hues, ["relu", "tanh"]);
        assert_eq!(groups.panels, ["dropout 0", "dropout 0.5"]);
        assert_eq!(groups.dashes, ["width 64", "width 128"]);
        let places: Vec<_> = groups.groups.iter().map(|g| (g.hue, g.dash, g.panel)).collect();
        assert_eq!(places, [(0, 0, 0), (0, 1, 1), (1, 0, 1)]);
        // Data sets are panels too, and are never a colour.
        let mut runs = [run("relu", 0.0, 1), run("relu", 0.5, 1), run("tanh", 0.5, 1)];
        runs[2].run.dataset = "mnist".into();
        let groups = Groups::of(&runs);
        assert_eq!(
            (groups.hues.join(" "), groups.panels.join(" ")),
            ("relu tanh".into(), "digits mnist".into())
        );
    }

    #[test]
    fn a_series_averages_over_the_seeds_that_got_so_far() {
        let (long, mut short) = (run("relu", 0.0, 1), run("relu", 0.0, 2));
        short.layers.retain(|line| line.epoch == 1);
        let runs = [long, short];
        let groups = Groups::of(&runs);
        let series = groups.groups[0].layer("fc1", Split::Test, |l| Some(l.zero_fraction));
        assert_eq!(series.xs, [1, 2, 3]);
        assert_eq!((series.low[0], series.mean[0], series.high[0]), (0.21, 0.215, 0.22));
        assert_eq!((series.low[1], series.high[1], series.seeds), (0.31, 0.31, 2));
    }
}
