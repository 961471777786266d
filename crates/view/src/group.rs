use std::{collections::BTreeMap, path::Path};

use taper_report::{LayerStats, Split};

use crate::{RunData, text::rounded};

/// Runs that differ in nothing but the seed: they share a colour, a line style and a row.
pub(crate) struct Group<'a> {
    /// Activation and dropout, and whatever else tells this group apart.
    pub label: String,
    /// Index into [`Groups::hues`].
    pub hue: usize,
    /// Index into [`Groups::dashes`].
    pub dash: usize,
    pub runs: Vec<&'a RunData>,
}

/// All runs of a page. Activation is colour, dropout is line style.
pub(crate) struct Groups<'a> {
    pub groups: Vec<Group<'a>>,
    /// What the colours stand for.
    pub hues: Vec<String>,
    /// What the line styles stand for, ascending dropout rates.
    pub dashes: Vec<String>,
    /// Names of all sites, in the order of their first appearance.
    pub sites: Vec<String>,
    /// Windows in which layers were observed, the headline one first.
    pub windows: Vec<Split>,
}

/// One number over the epochs of a group's runs, at the epochs that have it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series {
    pub epochs: Vec<u32>,
    /// Over the seeds that reached the epoch.
    pub mean: Vec<f64>,
    pub low: Vec<f64>,
    pub high: Vec<f64>,
    /// The most seeds of any epoch.
    pub seeds: usize,
}

impl<'a> Groups<'a> {
    pub fn of(runs: &'a [RunData]) -> Self {
        let parts = labels(runs);
        let mut rates: Vec<f64> = runs.iter().map(|run| run.run.dropout).collect();
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        let mut this = Self {
            groups: Vec::new(),
            hues: Vec::new(),
            dashes: rates.iter().map(|rate| format!("dropout {rate}")).collect(),
            sites: Vec::new(),
            windows: Vec::new(),
        };
        for (run, hue) in runs.iter().zip(parts) {
            let dash = rates.iter().position(|rate| rate.total_cmp(&run.run.dropout).is_eq()).unwrap_or(0);
            let hue = index(&mut this.hues, hue);
            match this.groups.iter_mut().find(|group| (group.hue, group.dash) == (hue, dash)) {
                Some(group) => group.runs.push(run),
                None => {
                    let label = format!("{}, {}", this.hues[hue], this.dashes[dash]);
                    this.groups.push(Group { label, hue, dash, runs: vec![run] });
                }
            }
            for line in &run.layers {
                if !this.sites.contains(&line.stats.site) {
                    this.sites.push(line.stats.site.clone());
                }
                if !this.windows.contains(&line.split) {
                    this.windows.push(line.split);
                }
            }
        }
        this.windows.sort_by(|a, b| b.cmp(a));
        this
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

/// What each run's colour stands for: its activation, and what else distinguishes it apart from dropout and seed.
fn labels(runs: &[RunData]) -> Vec<String> {
    let differs = |of: fn(&RunData) -> &str| runs.iter().any(|run| of(run) != of(&runs[0]));
    let (datasets, models) = (differs(|run| &run.run.dataset), differs(|run| &run.run.model));
    let mut labels: Vec<String> = runs
        .iter()
        .map(|RunData { run, .. }| {
            let mut label = run.activation.clone();
            for (differ, part) in [(datasets, &run.dataset), (models, &run.model)] {
                if differ {
                    label.extend([", ", part]);
                }
            }
            label
        })
        .collect();
    // A seed twice: these runs differ in something else, and have no common mean. What is left to tell
    // them apart is the grid they are from, then their names, then where they lie.
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name).map_or(String::new(), |name| name.to_string_lossy().into_owned())
    };
    let by: [&dyn Fn(&RunData) -> String; 3] =
        [&|run| name(run.dir.parent()), &|run| run.run.name.clone(), &|run| run.dir.display().to_string()];
    for tell_apart in by {
        let mut twice = BTreeMap::new();
        for (RunData { run, .. }, label) in runs.iter().zip(&labels) {
            *twice.entry((label.clone(), run.dropout.to_bits(), run.seed)).or_insert(0) += 1;
        }
        let twice: Vec<String> =
            twice.into_iter().filter(|(_, n)| *n > 1).map(|((label, ..), _)| label).collect();
        for (run, label) in runs.iter().zip(&mut labels) {
            if twice.contains(label) {
                label.extend([", ", &tell_apart(run)]);
            }
        }
    }
    labels
}

fn index(names: &mut Vec<String>, name: String) -> usize {
    names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

impl Group<'_> {
    /// Mean and range over the seeds of a number of one site.
    pub fn layer(&self, site: &str, split: Split, value: impl Fn(&LayerStats) -> Option<f64>) -> Series {
        self.series(|run| {
            run.site(site, split).filter_map(|(epoch, stats)| Some((epoch, value(stats)?))).collect()
        })
    }

    /// The same of loss, accuracy and the like: whatever `values` takes from a run, by epoch.
    pub fn series(&self, values: impl Fn(&RunData) -> Vec<(u32, f64)>) -> Series {
        let mut by_epoch = BTreeMap::<u32, Vec<f64>>::new();
        for run in &self.runs {
            for (epoch, x) in values(run).into_iter().filter(|(_, x)| x.is_finite()) {
                by_epoch.entry(epoch).or_default().push(x);
            }
        }
        let mut series = Series::default();
        for (epoch, xs) in by_epoch {
            series.epochs.push(epoch);
            series.mean.push(rounded(xs.iter().sum::<f64>() / xs.len() as f64));
            series.low.push(rounded(xs.iter().copied().fold(f64::INFINITY, f64::min)));
            series.high.push(rounded(xs.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
            series.seeds = series.seeds.max(xs.len());
        }
        series
    }

    /// The layers of one site in the last epoch of each run that saw it.
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
    fn a_series_averages_over_the_seeds_that_got_so_far() {
        let (long, mut short) = (run("relu", 0.0, 1), run("relu", 0.0, 2));
        short.layers.retain(|line| line.epoch == 1);
        let runs = [long, short];
        let groups = Groups::of(&runs);
        let series = groups.groups[0].layer("fc1", Split::Test, |l| Some(l.zero_fraction));
        assert_eq!(series.epochs, [1, 2, 3]);
        assert_eq!((series.low[0], series.mean[0], series.high[0]), (0.21, 0.215, 0.22));
        assert_eq!((series.low[1], series.high[1], series.seeds), (0.31, 0.31, 2));
    }
}
