use serde_json::{Map, Value, json};
use taper_report::{LayerStats, Split, Statistic, StatisticKind as Kind};

use crate::{
    group::{Group, Groups, Series},
    measure,
    text::brief,
};

/// Curves on one pair of axes, as the page's script draws them.
pub(crate) struct Chart {
    /// The unit of the horizontal axis.
    x: &'static str,
    kind: Kind,
    /// The range of the vertical axis.
    range: (f64, f64),
    /// The curves of every window that the chart can show.
    windows: Vec<(&'static str, Vec<Curve>)>,
}

/// A curve of one group.
struct Curve {
    group: usize,
    /// Separate points: values at the ends of epochs, above those of steps.
    dots: bool,
    xs: Vec<f64>,
    series: Series,
    /// Whether low and high are drawn as a band.
    band: bool,
    /// The text after each value in the tooltip.
    notes: Vec<String>,
}

impl Curve {
    fn new(group: usize, series: Series) -> Self {
        let xs = series.xs.iter().map(|x| *x as f64).collect();
        let band = series.seeds > 1;
        Self { group, dots: false, xs, series, band, notes: Vec::new() }
    }
}

/// The lists of numbers that charts share, each stored once.
#[derive(Default)]
pub(crate) struct Axes(Vec<Vec<f64>>);

impl Axes {
    /// The index of this list.
    fn number(&mut self, xs: &[f64]) -> usize {
        let known = self.0.iter().position(|known| known == xs);
        known.unwrap_or_else(|| {
            self.0.push(xs.to_vec());
            self.0.len() - 1
        })
    }

    pub fn to_json(&self) -> Value {
        self.0.iter().map(|xs| brief_all(xs)).collect()
    }
}

fn brief_all(xs: &[f64]) -> Value {
    xs.iter().map(|x| brief(*x)).collect()
}

impl Chart {
    /// `{"x": "epoch", "kind": "share", "range": [0, 1], "data": {"test": [{"g": 0, "x": 3, "y": […], …}]}}`, where `x` of
    /// a curve is a number in `axes`.
    pub fn to_json(&self, axes: &mut Axes) -> Value {
        let mut data = Map::new();
        for (window, curves) in &self.windows {
            let curve = |curve: &Curve| {
                let series = &curve.series;
                let mut of =
                    json!({ "g": curve.group, "x": axes.number(&curve.xs), "y": brief_all(&series.mean) });
                if curve.band {
                    of["low"] = brief_all(&series.low);
                    of["high"] = brief_all(&series.high);
                }
                if curve.dots {
                    of["dots"] = true.into();
                }
                if !curve.notes.is_empty() {
                    of["notes"] = curve.notes.clone().into();
                }
                of
            };
            data.insert(window.to_string(), curves.iter().map(curve).collect());
        }
        let kind = match self.kind {
            Kind::Share => "share",
            Kind::Units | Kind::Count => "count",
            Kind::Number => "number",
        };
        let (low, high) = self.range;
        json!({ "x": self.x, "kind": kind, "range": [brief(low), brief(high)], "data": data })
    }
}

/// A metric, or `loss`, on one split, over the epochs.
pub(crate) fn score(groups: &Groups<'_>, panel: usize, split: Split, kind: Kind, name: &str) -> Chart {
    let of = |group: &Group<'_>, split| {
        group.series(|run| {
            let at =
                |line: &taper_report::MetricsLine| Some((line.epoch.into(), line.of.score.metric(name)?));
            run.scores(split).filter_map(at).collect()
        })
    };
    // One range for all splits, so that train and test can be compared. It may leave out the untrained network, whose
    // value can be so much worse that the others could not be distinguished.
    let mut all: Vec<Series> = groups
        .scored()
        .into_iter()
        .flat_map(|split| groups.groups.iter().map(move |group| of(group, split)))
        .collect();
    if all.iter().any(|series| series.xs.iter().any(|epoch| *epoch > 0)) {
        all.iter_mut().for_each(Series::leave_out_untrained);
    }
    let curves = groups.in_panel(panel).map(|(i, group)| Curve::new(i, of(group, split))).collect();
    Chart { x: "epoch", kind, range: range(&all, kind, true), windows: vec![("all", curves)] }
}

/// A metric, or `loss`, over the training steps, with dots for the headline split at the ends of epochs.
pub(crate) fn score_by_step(groups: &Groups<'_>, panel: usize, kind: Kind, name: &str) -> Chart {
    let train = |group: &Group<'_>| {
        group.series(|run| {
            run.steps.iter().filter_map(|line| Some((line.of.step, line.of.score.metric(name)?))).collect()
        })
    };
    let held_out = |group: &Group<'_>| {
        group.series(|run| {
            let split = run.headline().filter(|split| *split != Split::Train);
            let lines = split.into_iter().flat_map(|split| run.scores(split));
            lines.filter_map(|line| Some((run.step_of(line.epoch)?, line.of.score.metric(name)?))).collect()
        })
    };
    by_step(groups, panel, kind, train, held_out)
}

/// A statistic of one site over the training steps, with dots for the headline window at the ends of epochs.
///
/// `of_steps` is the statistic in a window of steps, `of` in an epoch.
pub(crate) fn statistic_by_step(
    groups: &Groups<'_>,
    panel: usize,
    site: &str,
    of: &Statistic,
    of_steps: fn(&taper_report::SiteSteps) -> Option<f64>,
) -> Chart {
    let window = groups.windows.first().copied();
    let at_epochs = |group: &Group<'_>, site: &str| {
        group.series(|run| {
            let epochs = window.into_iter().flat_map(|window| run.site(site, window));
            epochs.filter_map(|(epoch, stats)| Some((run.step_of(epoch)?, (of.value)(stats)?))).collect()
        })
    };
    // One range for all layers, as in charts over the epochs.
    let mut all: Vec<Series> = Vec::new();
    for (site, group) in
        groups.sites.iter().flat_map(|site| groups.groups.iter().map(move |group| (site, group)))
    {
        all.extend([group.steps(site, of_steps), at_epochs(group, site)]);
    }
    let range = range(&all, of.kind, false);
    let line = |group: &Group<'_>| group.steps(site, of_steps);
    Chart { range, ..by_step(groups, panel, of.kind, line, |group| at_epochs(group, site)) }
}

fn by_step(
    groups: &Groups<'_>,
    panel: usize,
    kind: Kind,
    line: impl Fn(&Group<'_>) -> Series,
    dots: impl Fn(&Group<'_>) -> Series,
) -> Chart {
    let mut curves = Vec::new();
    for (i, group) in groups.in_panel(panel) {
        curves.push(Curve::new(i, line(group)));
        curves.push(Curve { dots: true, band: false, ..Curve::new(i, dots(group)) });
    }
    curves.retain(|curve| !curve.xs.is_empty());
    let all: Vec<Series> = curves.iter().map(|curve| curve.series.clone()).collect();
    Chart { x: "step", kind, range: range(&all, kind, true), windows: vec![("all", curves)] }
}

/// A statistic of one site over the epochs, for every window.
pub(crate) fn statistic(groups: &Groups<'_>, panel: usize, site: &str, of: &Statistic) -> Chart {
    let spread = of.id == "mean" && groups.groups.len() <= 2;
    let own = [site.to_string()];
    let shared = if of.kind == Kind::Count { &own[..] } else { &groups.sites };
    let mut all: Vec<Series> = Vec::new();
    for group in &groups.groups {
        for site in shared {
            for split in &groups.windows {
                all.push(group.layer(site, *split, of.value));
                if spread {
                    all.push(deviation(group, site, *split));
                }
            }
        }
    }
    let curve = |split: Split, (i, group): (usize, &Group<'_>)| {
        let series = group.layer(site, split, of.value);
        let notes = notes(group, site, split, of, &series);
        let mut curve = Curve { notes, ..Curve::new(i, series) };
        if spread {
            let around = deviation(group, site, split);
            (curve.series.low, curve.series.high, curve.band) = (around.low, around.high, true);
        }
        curve
    };
    let windows = groups.windows.iter();
    let windows = windows
        .map(|split| (split.name(), groups.in_panel(panel).map(|group| curve(*split, group)).collect()))
        .collect();
    Chart { x: "epoch", kind: of.kind, range: range(&all, of.kind, false), windows }
}

/// The mean activation of a site, with mean ± standard deviation as the range.
fn deviation(group: &Group<'_>, site: &str, split: Split) -> Series {
    let mean = group.layer(site, split, |l| l.std().and(l.mean));
    let std = group.layer(site, split, LayerStats::std);
    let around = |sign: f64| mean.mean.iter().zip(&std.mean).map(|(mean, std)| mean + sign * std).collect();
    Series { low: around(-1.0), high: around(1.0), ..mean }
}

/// The text after the value in the tooltip: the range of the seeds, or the number of units of a share.
fn notes(group: &Group<'_>, site: &str, split: Split, statistic: &Statistic, series: &Series) -> Vec<String> {
    let show = |x: f64| measure::show(statistic.kind, x);
    let units = |of: fn(&LayerStats) -> Option<f64>| group.layer(site, split, of).mean;
    if statistic.id == "dead_fraction" {
        let (dead, units) = (units(|l| l.dead.map(|n| n as f64)), units(|l| Some(l.units as f64)));
        let each = dead.iter().zip(&units).map(|(dead, units)| format!("{dead:.1} of {units}"));
        return each.map(|text| text.replace(".0 ", " ")).collect();
    }
    if statistic.id == "active_per_sample" && series.seeds == 1 {
        let of = |bound: fn(&taper_report::ActivePerSample) -> u64| {
            group.layer(site, split, |l| l.active_per_sample.as_ref().map(|a| bound(a) as f64)).mean
        };
        return of(|a| a.min).iter().zip(of(|a| a.max)).map(|(a, b)| format!("{a} to {b}")).collect();
    }
    match series.seeds {
        0 | 1 => Vec::new(),
        _ => (series.low.iter().zip(&series.high))
            .map(|(low, high)| format!("{} to {}", show(*low), show(*high)))
            .collect(),
    }
}

/// The firing rates of a site's units in the last epoch: twenty bins, and the units that never or always fire.
pub(crate) fn firing(groups: &Groups<'_>, panel: usize, site: &str) -> Chart {
    let curve = |split: Split, (i, group): (usize, &Group<'_>)| {
        let last = group.last(site, split);
        // Files can have any numbers, so they are not summed as integers.
        let sum = |n: &dyn Fn(&LayerStats) -> u64| last.iter().map(|(_, l)| n(l) as f64).sum::<f64>();
        let units = sum(&|l| l.units);
        let of = |n: &dyn Fn(&LayerStats) -> u64| sum(n) / units;
        let mean = [of(&|l| l.firing_rate.never)].into_iter();
        let mean = mean.chain((0..20).map(|k| of(&|l| l.firing_rate.between[k])));
        let mean: Vec<f64> = mean.chain([of(&|l| l.firing_rate.always)]).collect();
        let series = Series { xs: (0..22).collect(), low: mean.clone(), high: mean.clone(), mean, seeds: 1 };
        (units > 0.0).then(|| Curve::new(i, series))
    };
    let windows = groups.windows.iter();
    let windows: Vec<_> = windows
        .map(|split| {
            let curves: Vec<Curve> =
                groups.in_panel(panel).filter_map(|group| curve(*split, group)).collect();
            (split.name(), curves)
        })
        .collect();
    let all: Vec<Series> = windows.iter().flat_map(|(_, of)| of.iter().map(|c| c.series.clone())).collect();
    Chart { x: "rate", kind: Kind::Share, range: range(&all, Kind::Share, false), windows }
}

/// The range of all series, with a margin; shares and counts start at zero unless `loose`.
fn range(all: &[Series], kind: Kind, loose: bool) -> (f64, f64) {
    let values = || all.iter().flat_map(|series| series.low.iter().chain(&series.high)).copied();
    let (Some(mut low), Some(mut high)) = (values().reduce(f64::min), values().reduce(f64::max)) else {
        return (0.0, 1.0);
    };
    if kind != Kind::Number && !loose {
        low = 0.0;
        high = high.max(if kind == Kind::Share { 0.05 } else { 1.0 });
    }
    let air = (0.05 * (high - low)).max(1e-3 * high.abs()).max(1e-9);
    // A line at zero stays visible.
    (low - air, high + air)
}
