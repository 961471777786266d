use plotly::{
    Bar, HeatMap, Layout, Scatter, Trace,
    common::{AxisSide, DashType, Fill, HoverInfo, Line, LineShape, Marker, MarkerSymbol, Mode, Title},
    layout::{Axis, AxisRange, BarMode, HoverMode, TicksDirection},
};
use serde_json::{Map, Value, json};
use taper_report::{Histogram, LayerStats, Split, Statistic, StatisticKind as Kind};

use crate::{
    bins::Bins,
    group::{Group, Groups, Series},
    measure, palette,
    text::{plotly as name_of, rounded, share},
};

type Traces = Vec<Box<dyn Trace>>;

/// A chart for plotly: a layout, and the traces of every window that it can show.
///
/// Traces carry the number of their group in `legendgroup`, by which the page hides and shows them.
pub(crate) struct Figure {
    layout: Layout,
    windows: Vec<(&'static str, Traces)>,
    /// What the page adds to the traces as it draws them: see [`distribution`].
    more: Map<String, Value>,
}

impl Figure {
    fn new(layout: Layout) -> Self {
        Self { layout, windows: Vec::new(), more: Map::new() }
    }

    /// Something for the page to use as it draws.
    pub fn add(&mut self, key: &str, value: Value) {
        self.more.insert(key.into(), value);
    }

    /// `{"layout": …, "data": {"test": […], "train": […]}, …}`
    pub fn to_json(&self) -> Value {
        let data: Map<String, Value> = self
            .windows
            .iter()
            .map(|(name, traces)| (name.to_string(), traces.iter().map(|t| json!(t)).collect()))
            .collect();
        let mut figure = self.more.clone();
        figure.insert("layout".into(), json!(self.layout));
        figure.insert("data".into(), data.into());
        figure.into()
    }
}

/// A metric, or `loss`, on one split.
pub(crate) fn score(groups: &Groups<'_>, panel: usize, split: Split, kind: Kind, name: &str) -> Figure {
    let of = |group: &Group<'_>, split| {
        group.series(|run| {
            run.scores(split).filter_map(|line| Some((line.epoch, line.of.score.metric(name)?))).collect()
        })
    };
    // One range for all splits, so that train and test can be compared by eye. The untrained network may be so much worse
    // that nothing else could be told apart: its point may lie outside.
    let mut all: Vec<Series> = groups
        .scored()
        .into_iter()
        .flat_map(|split| groups.groups.iter().map(move |group| of(group, split)))
        .collect();
    if all.iter().any(|series| series.epochs.iter().any(|epoch| *epoch > 0)) {
        all.iter_mut().for_each(Series::leave_out_untrained);
    }
    let mut figure = Figure::new(over_epochs(groups, y_axis(kind, range(&all, kind, true))));
    let mut traces = Traces::new();
    for (i, group) in groups.in_panel(panel) {
        curve(&mut traces, i, group, &of(group, split), Vec::new(), kind);
    }
    figure.windows.push(("all", traces));
    figure
}

/// A statistic of one site over the epochs, for every window.
pub(crate) fn statistic(groups: &Groups<'_>, panel: usize, site: &str, of: &Statistic) -> Figure {
    let spread = of.id == "mean" && groups.groups.len() <= 2;
    let sites: &[String] = &groups.sites;
    let own = [site.to_string()];
    let shared = if of.kind == Kind::Count { &own[..] } else { sites };
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
    let axis = y_axis(of.kind, range(&all, of.kind, false));
    let mut figure = Figure::new(over_epochs(groups, axis));
    for split in &groups.windows {
        let mut traces = Traces::new();
        for (i, group) in groups.in_panel(panel) {
            let mut series = group.layer(site, *split, of.value);
            let hover = hover(group, site, *split, of, &series);
            if spread {
                let around = deviation(group, site, *split);
                (series.low, series.high, series.seeds) = (around.low, around.high, 2);
            }
            curve(&mut traces, i, group, &series, hover, of.kind);
        }
        figure.windows.push((split.name(), traces));
    }
    figure
}

/// The mean activation of a site, with mean ± standard deviation for a range.
fn deviation(group: &Group<'_>, site: &str, split: Split) -> Series {
    let mean = group.layer(site, split, |l| l.std().and(l.mean));
    let std = group.layer(site, split, LayerStats::std);
    let around =
        |sign: f64| mean.mean.iter().zip(&std.mean).map(|(mean, std)| rounded(mean + sign * std)).collect();
    Series { low: around(-1.0), high: around(1.0), ..mean }
}

/// What stands behind the value in the hover box: the range of the seeds, or how many units the share is.
fn hover(group: &Group<'_>, site: &str, split: Split, statistic: &Statistic, series: &Series) -> Vec<String> {
    let show = |x: f64| measure::show(statistic.kind, x);
    let units = |of: fn(&LayerStats) -> Option<f64>| group.layer(site, split, of).mean;
    if statistic.id == "dead_fraction" {
        let (dead, units) = (units(|l| l.dead.map(|n| n as f64)), units(|l| Some(l.units as f64)));
        let each = dead.iter().zip(&units).map(|(dead, units)| format!(" ({dead:.3} of {units})"));
        return each.map(|text| text.replace(".000", "")).collect();
    }
    if statistic.id == "active_per_sample" && series.seeds == 1 {
        let of = |bound: fn(&taper_report::ActivePerSample) -> u64| {
            group.layer(site, split, |l| l.active_per_sample.as_ref().map(|a| bound(a) as f64)).mean
        };
        return of(|a| a.min).iter().zip(of(|a| a.max)).map(|(a, b)| format!(" ({a} to {b})")).collect();
    }
    match series.seeds {
        0 | 1 => Vec::new(),
        _ => (series.low.iter().zip(&series.high))
            .map(|(low, high)| format!(" ({} to {})", show(*low), show(*high)))
            .collect(),
    }
}

/// Units that died since the window before, above zero, and those that revived, below.
pub(crate) fn died_and_revived(groups: &Groups<'_>, panel: usize, site: &str) -> Figure {
    let died = |l: &LayerStats| l.died.map(|n| n as f64);
    let revived = |l: &LayerStats| l.revived.map(|n| -(n as f64));
    let mut all = Vec::new();
    for group in &groups.groups {
        for split in &groups.windows {
            all.extend([group.layer(site, *split, died), group.layer(site, *split, revived)]);
        }
    }
    let most = all.iter().flat_map(|s| s.high.iter().chain(&s.low)).fold(1.0, |a: f64, x| a.max(x.abs()));
    let axis =
        Axis::new().range(AxisRange::new(-1.12 * most, 1.12 * most)).tick_format(",~f").zero_line(true);
    let mut figure = Figure::new(over_epochs(groups, axis));
    for split in &groups.windows {
        let mut traces = Traces::new();
        for (i, group) in groups.in_panel(panel) {
            let (up, down) = (group.layer(site, *split, died), group.layer(site, *split, revived));
            for (series, what) in [(up, "died"), (down, "revived")] {
                let text = series.mean.iter().map(|n| format!("{:.1} {what}", n.abs()).replace(".0 ", " "));
                let line = Line::new()
                    .color(palette::hex(group.hue))
                    .width(1.8)
                    .dash(palette::dash_type(group.dash));
                traces.push(
                    Scatter::new(series.epochs.clone(), series.mean.clone())
                        .mode(mode(&series))
                        .name(name_of(&group.label))
                        .legend_group(format!("g{i}"))
                        .line(line.shape(LineShape::Hvh))
                        .custom_data(text.collect())
                        .hover_template("%{customdata}"),
                );
            }
        }
        figure.windows.push((split.name(), traces));
    }
    figure
}

/// How the firing rates of a site's units are spread in the last epoch; units that never or always fire stand
/// apart, on an axis of their own.
pub(crate) fn firing(groups: &Groups<'_>, panel: usize, site: &str) -> Figure {
    let mut figure = Figure::new(base());
    let mut most = 0.02_f64;
    for split in &groups.windows {
        let mut traces = Traces::new();
        let n = groups.in_panel(panel).count();
        for (place, (i, group)) in groups.in_panel(panel).enumerate() {
            let last = group.last(site, *split);
            // As files can claim any numbers, they are not summed up in integers.
            let sum = |n: &dyn Fn(&LayerStats) -> u64| last.iter().map(|(_, l)| n(l) as f64).sum::<f64>();
            let units = sum(&|l| l.units);
            if units == 0.0 {
                continue;
            }
            let of = |n: &dyn Fn(&LayerStats) -> u64| rounded(sum(n) / units);
            let between: Vec<f64> = (0..20).map(|k| of(&|l| l.firing_rate.between[k])).collect();
            most = between.iter().copied().fold(most, f64::max);
            let (x, labels): (Vec<f64>, Vec<String>) = (0..20)
                .map(|k| (rounded(0.05 * f64::from(k) + 0.025), format!("{} to {}%", 5 * k, 5 * k + 5)))
                .unzip();
            let line = Line::new().color(palette::hex(group.hue)).width(1.6);
            traces.push(
                Scatter::new(x, between)
                    .mode(Mode::Lines)
                    .name(name_of(&group.label))
                    .legend_group(format!("g{i}"))
                    .line(line.dash(palette::dash_type(group.dash)))
                    .custom_data(labels)
                    .hover_template("%{y:.1~%} of units fire at %{customdata}"),
            );
            // Side by side, in the order of the legend; hollow where the line is not solid.
            let place = (place as f64 + 1.0) / (n as f64 + 1.0) - 0.5;
            let symbol = if group.dash == 0 { MarkerSymbol::Circle } else { MarkerSymbol::CircleOpen };
            traces.push(
                Scatter::new(
                    vec![0.7 * place, 1.0 + 0.7 * place],
                    vec![of(&|l| l.firing_rate.never), of(&|l| l.firing_rate.always)],
                )
                .mode(Mode::Markers)
                .name(name_of(&group.label))
                .legend_group(format!("g{i}"))
                .x_axis("x2")
                .y_axis("y2")
                .marker(marker(group).symbol(symbol))
                .custom_data(vec!["never fire".to_string(), "always fire".to_string()])
                .hover_template("%{y:.1~%} of units %{customdata}"),
            );
        }
        figure.windows.push((split.name(), traces));
    }
    let rates = Axis::new()
        .domain(&[0.0, 0.7])
        .range(AxisRange::new(0.0, 1.0))
        .tick_values(vec![0.0, 0.5, 1.0])
        .tick_text(vec!["0", "0.5", "1"])
        .zero_line(false)
        .show_grid(false)
        .title(Title::with_text("firing rate"));
    let apart = Axis::new()
        .domain(&[0.77, 1.0])
        .range(AxisRange::new(-0.55, 1.55))
        .tick_values(vec![0.0, 1.0])
        .tick_text(vec!["= 0", "= 1"])
        .tick_angle(0.0)
        .zero_line(false)
        .show_grid(false)
        .fixed_range(true)
        .anchor("y2");
    figure.layout = base()
        .hover_mode(HoverMode::Closest)
        .x_axis(rates)
        .y_axis(y_axis(Kind::Share, Some((-0.03 * most, 1.06 * most))))
        .x_axis2(apart)
        .y_axis2(shares().range(AxisRange::new(-0.03, 1.06)).anchor("x2").side(AxisSide::Right));
    figure
}

/// An axis from none to all of something that is drawn apart.
fn shares() -> Axis {
    Axis::new()
        .range(AxisRange::new(0.0, 1.0))
        .tick_values(vec![0.0, 0.5, 1.0])
        .tick_format(".0%")
        .show_grid(false)
        .zero_line(true)
        .fixed_range(true)
}

/// What the charts of a site have in common, so that groups can be compared by eye.
pub(crate) struct Common {
    bins: Bins,
    /// Whether any value of any group is exactly zero.
    zeros: bool,
    /// The largest share of values in any one bin.
    most: f64,
}

impl Common {
    pub fn of(groups: &Groups<'_>, site: &str) -> Self {
        let mut this = Self { bins: Bins::default(), zeros: false, most: 0.0 };
        let all = || groups.runs().flat_map(|run| &run.layers).filter(|line| line.of.site == site);
        for histogram in all().filter_map(|line| line.of.histogram.as_ref()) {
            this.bins.include(histogram);
            this.zeros |= histogram.zeros > 0;
        }
        for histogram in all().filter_map(|line| line.of.histogram.as_ref()) {
            let total = histogram.total().max(1) as f64;
            let most = this.bins.counts(histogram).into_iter().max().unwrap_or(0);
            this.most = this.most.max(most as f64 / total);
        }
        this
    }

    pub fn is_empty(&self) -> bool {
        self.bins == Bins::default() && !self.zeros
    }
}

/// The distribution of one site in one group: its seeds' histograms, added up, epoch by epoch.
///
/// Counts stand in the page once, exact, as the heat map's `z`. As it draws, the page takes their
/// logarithms, and fills the histograms of the second chart from them; `totals` are the values of each epoch.
pub(crate) fn distribution(
    groups: &Groups<'_>,
    number: usize,
    site: &str,
    common: &Common,
) -> (Figure, Figure) {
    let group = &groups.groups[number];
    let Common { bins, zeros, most } = *common;
    let axis = |(values, names): (Vec<f64>, Vec<String>)| {
        Axis::new()
            .tick_values(values)
            .tick_text(names)
            .range(AxisRange::new(-(bins.negative as f64), bins.positive as f64))
            .zero_line(true)
            .show_grid(false)
    };
    let strip = if zeros { 0.83 } else { 1.0 };
    let mut layout =
        over_epochs(groups, axis(bins.ticks()).domain(&[0.0, strip - 0.03])).hover_mode(HoverMode::Closest);
    if zeros {
        layout = layout.y_axis2(
            shares().domain(&[0.86, 1.0]).tick_values(vec![0.14, 1.0]).tick_text(vec!["= 0", "100%"]),
        );
    }
    let mut heat = Figure::new(layout);

    let mut layout = base()
        .hover_mode(HoverMode::Closest)
        .x_axis(axis(bins.few_ticks()).domain(&[0.0, if zeros { 0.86 } else { 1.0 }]).tick_angle(0.0))
        .y_axis(y_axis(Kind::Share, Some((0.0, 1.08 * most.max(1e-9)))));
    if zeros {
        let apart = Axis::new()
            .domain(&[0.9, 1.0])
            .range(AxisRange::new(-0.7, 0.7))
            .tick_values(vec![0.0])
            .tick_text(vec!["= 0"])
            .show_grid(false)
            .zero_line(false)
            .fixed_range(true);
        layout = layout
            .x_axis2(apart.anchor("y2"))
            .y_axis2(shares().anchor("x2").side(AxisSide::Right))
            .bar_mode(BarMode::Group);
    }
    let mut overlay = Figure::new(layout);

    let chosen = chosen_epochs(groups);
    for split in &groups.windows {
        let mut sums: Vec<(u32, Histogram)> = Vec::new();
        for (epoch, stats) in group.runs.iter().flat_map(|run| run.site(site, *split)) {
            if let Some(histogram) = &stats.histogram {
                match sums.iter_mut().find(|(known, _)| *known == epoch) {
                    Some((_, sum)) => sum.merge(histogram),
                    None => sums.push((epoch, histogram.clone())),
                }
            }
        }
        sums.sort_by_key(|(epoch, _)| *epoch);
        let epochs: Vec<u32> = sums.iter().map(|(epoch, _)| *epoch).collect();
        let columns: Vec<Vec<u64>> = sums.iter().map(|(_, sum)| bins.counts(sum)).collect();
        let rows = (0..bins.positions().len())
            .map(|bin| columns.iter().map(|column| column[bin]).collect())
            .collect::<Vec<Vec<u64>>>();
        let zero_shares: Vec<f64> =
            sums.iter().map(|(_, sum)| rounded(sum.zeros as f64 / sum.total().max(1) as f64)).collect();
        let mut traces: Traces = vec![
            HeatMap::new(epochs.clone(), bins.positions(), rows)
                .show_scale(false)
                .zmin(-6.0)
                .zmax(-0.5)
                .legend_group(format!("g{number}"))
                .hover_template("epoch %{x}, y %{text}<br>%{customdata}<extra></extra>"),
        ];
        if zeros {
            let texts = sums.iter().zip(&zero_shares).map(|((_, sum), share_of)| {
                format!("{} zeros ({})", crate::text::count(sum.zeros), share(*share_of))
            });
            traces.push(
                Bar::new(epochs.clone(), zero_shares.clone())
                    .y_axis("y2")
                    .marker(Marker::new().color(palette::hex(group.hue)))
                    .legend_group(format!("g{number}"))
                    .width(1.0)
                    .hover_text_array(texts.collect())
                    .hover_template("epoch %{x}: %{hovertext}<extra></extra>"),
            );
        }
        heat.windows.push((split.name(), traces));
        heat.more.entry("totals").or_insert_with(|| json!({}))[split.name()] =
            sums.iter().map(|(_, sum)| sum.total()).collect();

        let mut traces = Traces::new();
        for (i, (epoch, zero_share)) in epochs.iter().zip(&zero_shares).enumerate() {
            let Some(place) = chosen.iter().position(|known| known == epoch) else { continue };
            let color = palette::over_time(place as f64 / (chosen.len().max(2) - 1) as f64);
            // `ids` names the column of counts; the page fills in where the bins lie and what they hold.
            traces.push(
                Scatter::new(Vec::<f64>::new(), Vec::<f64>::new())
                    .mode(Mode::Lines)
                    .name(format!("epoch {epoch}"))
                    .ids(vec![i.to_string()])
                    .legend_group(format!("e{epoch}"))
                    .line(Line::new().color(color.clone()).width(1.6).shape(LineShape::Hvh))
                    .hover_template("%{text}: %{y:.2~%}"),
            );
            if zeros {
                traces.push(
                    Bar::new(vec![0.0], vec![*zero_share])
                        .x_axis("x2")
                        .y_axis("y2")
                        .name(format!("epoch {epoch}"))
                        .legend_group(format!("e{epoch}"))
                        .marker(Marker::new().color(color))
                        .hover_template("exact zeros: %{y:.2~%}"),
                );
            }
        }
        overlay.windows.push((split.name(), traces));
    }
    (heat, overlay)
}

/// What both charts of a distribution call their bins.
pub(crate) fn bin_labels(common: &Common) -> Vec<String> {
    common.bins.labels()
}

/// Epochs whose histograms can be chosen: all, or a dozen spread evenly where there are more.
pub(crate) fn chosen_epochs(groups: &Groups<'_>) -> Vec<u32> {
    const MOST: usize = 12;
    let epochs = groups.epochs();
    match epochs.len() {
        n if n <= MOST => epochs,
        n => (0..MOST).map(|i| epochs[i * (n - 1) / (MOST - 1)]).collect(),
    }
}

/// The line of a group, with the range of its seeds as a band below.
fn curve(traces: &mut Traces, i: usize, group: &Group<'_>, series: &Series, hover: Vec<String>, kind: Kind) {
    let name = name_of(&group.label);
    if series.seeds > 1 {
        let back = series.epochs.iter().rev();
        traces.push(
            Scatter::new(
                series.epochs.iter().chain(back).copied().collect(),
                series.high.iter().chain(series.low.iter().rev()).copied().collect(),
            )
            .mode(Mode::Lines)
            .fill(Fill::ToSelf)
            .fill_color(palette::faint(group.hue))
            .line(Line::new().width(0.0).dash(DashType::Solid))
            .hover_info(HoverInfo::Skip)
            .legend_group(format!("g{i}"))
            .name(name.clone()),
        );
    }
    let line = Line::new().color(palette::hex(group.hue)).width(1.8).dash(palette::dash_type(group.dash));
    let mut trace = Scatter::new(series.epochs.clone(), series.mean.clone())
        .mode(mode(series))
        .name(name)
        .legend_group(format!("g{i}"))
        .line(line);
    if series.epochs.len() < 2 {
        trace = trace.marker(marker(group));
    }
    let format = measure::hover_format(kind);
    trace = match hover.len() == series.epochs.len() && !hover.is_empty() {
        true => trace.custom_data(hover).hover_template(format!("%{{y:{format}}}%{{customdata}}")),
        false => trace.hover_template(format!("%{{y:{format}}}")),
    };
    traces.push(trace);
}

/// A single epoch makes no line.
fn mode(series: &Series) -> Mode {
    if series.epochs.len() > 1 { Mode::Lines } else { Mode::Markers }
}

fn marker(group: &Group<'_>) -> Marker {
    Marker::new().color(palette::hex(group.hue)).size(6)
}

fn base() -> Layout {
    Layout::new().show_legend(false).auto_size(true)
}

fn over_epochs(groups: &Groups<'_>, y: Axis) -> Layout {
    let epochs = groups.epochs();
    let (first, last) = (epochs.first().copied().unwrap_or(1), epochs.last().copied().unwrap_or(1));
    let step = f64::from((last - first).div_ceil(8).max(1));
    let margin = 0.5;
    let x = Axis::new()
        .range(AxisRange::new(f64::from(first) - margin, f64::from(last) + margin))
        .dtick(step)
        .tick0(f64::from(first))
        .tick_format("d")
        .hover_format("epoch ~d")
        .show_grid(false)
        .zero_line(false)
        .ticks(TicksDirection::Outside)
        .title(Title::with_text("epoch"));
    base().hover_mode(HoverMode::XUnified).x_axis(x).y_axis(y)
}

fn y_axis(kind: Kind, range: Option<(f64, f64)>) -> Axis {
    let axis = Axis::new().tick_format(measure::axis_format(kind)).n_ticks(6).zero_line(true);
    match range {
        Some((low, high)) => axis.range(AxisRange::new(rounded(low), rounded(high))),
        None => axis,
    }
}

/// From the lowest to the highest value of all series, with some air; shares and counts start at zero
/// unless `loose`.
fn range(all: &[Series], kind: Kind, loose: bool) -> Option<(f64, f64)> {
    let values = || all.iter().flat_map(|series| series.low.iter().chain(&series.high)).copied();
    let (mut low, mut high) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    if kind != Kind::Number && !loose {
        low = 0.0;
        high = high.max(if kind == Kind::Share { 0.05 } else { 1.0 });
    }
    let air = (0.05 * (high - low)).max(1e-3 * high.abs()).max(1e-9);
    // A line along the ground stays visible.
    Some((low - air, high + air))
}
