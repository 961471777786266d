use crate::{
    Histogram, LayerStats, MetricKind, Shown, Statistic, StatisticKind, Summary, label_value, number,
    picture::{PICTURE_TITLE, picture},
    table::{Align, Table},
};

/// Tables that compare runs, as text of at most `width` columns for usual names.
///
/// One row per run: its labels, the primary metric (best of all epochs, and final), the other metrics and the loss of
/// the last epoch, seconds over all passes, training samples per second and the share of time for tracking. Statistics
/// of every layer are in the same rows if they fit, else in a second table, layer by layer. If a row is too long, times
/// and tracking are left out.
/// Runs that differ only in the seed are also averaged: mean ± sample standard deviation over runs with at least one
/// epoch, and their number.
///
/// The title has what all runs share, such as the data set; differences are columns. A missing number, as of a run
/// without epochs, is a dash.
pub fn comparison(runs: &[Summary], width: usize) -> String {
    if runs.is_empty() {
        return "no runs to compare\n".into();
    }
    let labels = Labels::of(runs);
    let mut text = match runs.len() {
        1 => "1 run".to_string(),
        n => format!("{n} runs"),
    };
    text += &labels
        .shared
        .iter()
        .map(|(before, value, after)| format!("{before}{value}{after}"))
        .collect::<String>();
    text.push('\n');
    let alone: Vec<Group<'_>> = runs.iter().map(|run| Group(vec![run])).collect();
    blocks(&mut text, &labels, &alone, width);

    let seeds = over_seeds(runs);
    if !seeds.is_empty() {
        text += "\nover seeds: mean ± sample standard deviation of n runs\n";
        blocks(&mut text, &labels, &seeds, width);
    }
    text
}

/// Runs that share a row: one, or several that differ only in the seed.
struct Group<'a>(Vec<&'a Summary>);

/// Groups of runs that differ only in the seed; runs without an epoch are left out if others have epochs.
fn over_seeds(runs: &[Summary]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for run in runs.iter().filter(|run| run.score.is_some()) {
        let like = |r: &Summary| {
            (&r.run.dataset, &r.run.model, &r.run.labels, r.split)
                == (&run.run.dataset, &run.run.model, &run.run.labels, run.split)
        };
        match groups.iter_mut().find(|group| like(group.0[0])) {
            Some(group) => group.0.push(run),
            None => groups.push(Group(vec![run])),
        }
    }
    groups.retain(|group| {
        let mut seeds: Vec<u64> = group.0.iter().map(|run| run.run.seed).collect();
        seeds.sort_unstable();
        // The same seed twice: these runs differ in something else, and have no common mean.
        seeds.len() > 1 && seeds.windows(2).all(|pair| pair[0] < pair[1])
    });
    groups
}

/// A property that distinguishes rows: its title, and its value in each run.
type Column<'a> = (&'a str, Box<dyn Fn(&Summary) -> String + 'a>);

/// What all runs share, and what differs.
struct Labels<'a> {
    /// A value, and the words before and after it.
    shared: Vec<(String, String, &'static str)>,
    columns: Vec<Column<'a>>,
}

impl<'a> Labels<'a> {
    fn of(runs: &'a [Summary]) -> Self {
        let metrics = metrics(runs).into_iter().map(|(name, _)| format!("{name}, ")).collect::<String>();
        let metrics = metrics.strip_suffix(", ").map_or(String::new(), |names| format!("{names} and "));
        let may_be_shared: [(String, Column<'a>, &str); 4] = [
            (" on ".into(), ("data set", Box::new(|r| r.run.dataset.clone())), ""),
            (", ".into(), ("model", Box::new(|r| r.run.model.clone())), ""),
            (
                ", ".into(),
                ("epochs", Box::new(epochs)),
                if runs[0].run.epochs == 1 { " epoch" } else { " epochs" },
            ),
            (format!("; {metrics}loss on "), ("split", Box::new(split)), ""),
        ];
        let mut labels = Self { shared: Vec::new(), columns: Vec::new() };
        for (before, (title, value), after) in may_be_shared {
            let first = value(&runs[0]);
            if runs.iter().all(|run| value(run) == first) {
                labels.shared.push((before, first, after));
            } else {
                labels.columns.push((title, value));
            }
        }
        for name in distinct(runs.iter().flat_map(|run| run.run.labels.keys().map(String::as_str))) {
            let value = move |r: &Summary| r.run.labels.get(name).map_or(number::NONE.into(), label_value);
            labels.columns.push((name, Box::new(value)));
        }
        // Runs that differ in another option, such as the learning rate, have only their names.
        let key = |r: &Summary| {
            let values = labels.columns.iter().map(|(_, value)| value(r));
            values.chain([r.run.seed.to_string()]).collect::<Vec<_>>()
        };
        let mut keys: Vec<_> = runs.iter().map(key).collect();
        keys.sort();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            labels.columns.insert(0, ("run", Box::new(|r| r.run.name.clone())));
        }
        labels
    }

    /// Puts the labels of these rows into a table.
    fn columns(&self, table: &mut Table, rows: &[&Group<'_>]) {
        let several = rows.iter().any(|group| group.0.len() > 1);
        for (title, value) in
            self.columns.iter().filter(|(title, _)| !several || !["run", "epochs"].contains(title))
        {
            table.column(Align::Left, title, rows.iter().map(|group| value(group.0[0])));
        }
        if several {
            table.column(Align::Right, "n", rows.iter().map(|group| group.0.len().to_string()));
        } else {
            table.column(Align::Right, "seed", rows.iter().map(|group| group.0[0].run.seed.to_string()));
        }
    }
}

/// `10`, or `3/10` where a run ended early.
fn epochs(summary: &Summary) -> String {
    match (summary.epoch, summary.run.epochs) {
        (done, planned) if done == planned => done.to_string(),
        (done, planned) => format!("{done}/{planned}"),
    }
}

fn split(summary: &Summary) -> String {
    summary.split.map_or(number::NONE.into(), |split| split.name().into())
}

/// The table of scores, with the layers in the same rows or in a table below.
fn blocks(text: &mut String, labels: &Labels<'_>, groups: &[Group<'_>], width: usize) {
    let rows: Vec<_> = groups.iter().collect();
    let mut table = Table::default();
    labels.columns(&mut table, &rows);
    scores(&mut table, groups);
    let sites = sites(groups);
    let mut wide = table.clone();
    for site in &sites {
        let cells: Vec<_> = groups.iter().map(|group| layers_at(group, site)).collect();
        layer_columns(&mut wide, site, &cells);
    }
    if wide.width() <= width {
        text.push_str(&wide.render(0, false));
        return;
    }
    table.fit(width, &["tracking", "samples/s", "seconds"]);
    text.push_str(&table.render(0, false));
    if sites.is_empty() {
        return;
    }
    text.push('\n');

    // Layer by layer, so numbers to compare are below each other.
    let mut rows = Vec::new();
    let mut names = Vec::new();
    let mut cells = Vec::new();
    for site in &sites {
        for group in groups {
            let layers = layers_at(group, site);
            if !layers.is_empty() {
                rows.push(group);
                names.push(*site);
                cells.push(layers);
            }
        }
    }
    let mut table = Table::default();
    table.column(Align::Left, "layer", names);
    labels.columns(&mut table, &rows);
    layer_columns(&mut table, "", &cells);
    table.column(Align::Left, PICTURE_TITLE, cells.iter().map(|layers| merged_picture(layers)));
    table.fit(width, &["skew", PICTURE_TITLE]);
    text.push_str(&table.render(0, false));
}

fn scores(table: &mut Table, groups: &[Group<'_>]) {
    let mut column =
        |title: &str, value: &dyn Fn(&Summary) -> Option<f64>, unit: &str, show: &dyn Fn(f64) -> String| {
            let cell = |group: &Group<'_>| spread(group.0.iter().map(|run| value(run)), unit, show);
            table.column(Align::Right, title, groups.iter().map(cell));
        };
    let runs = || groups.iter().flat_map(|group| group.0.iter().copied());
    let primary = runs().find_map(|run| Some(run.score.as_ref()?.primary()));
    let kind = primary.as_ref().map_or(MetricKind::Share, |of| of.kind);
    let name = primary.map_or(String::new(), |of| of.name);
    let (unit, show) = written(kind);
    // A run with another primary metric has no best value of this one.
    column("best", &|r| r.best.as_ref().filter(|best| best.name == name).map(|best| best.value), unit, &show);
    column("final", &|r| r.score.as_ref()?.metric(&name), unit, &show);
    for (metric, kind) in metrics(runs()).into_iter().filter(|(metric, _)| *metric != name) {
        let (unit, show) = written(kind);
        column(metric, &|r| r.score.as_ref()?.metric(metric), unit, &show);
    }
    if name != "loss" {
        let (unit, show) = written(MetricKind::Lower);
        column("loss", &|r| r.score.as_ref().map(|score| score.loss), unit, &show);
    }
    column("seconds", &|r| (r.seconds > 0.0).then_some(r.seconds), "", &|x| format!("{x:.1}"));
    column("samples/s", &Summary::samples_per_second, "", &|x| number::count(x.round() as u64));
    column("tracking", &Summary::tracking_fraction, "%", &|x| format!("{:.1}", x * 100.0));
}

/// The unit of a metric, and its value without it.
fn written(kind: MetricKind) -> (&'static str, impl Fn(f64) -> String) {
    let unit = if kind == MetricKind::Share { "%" } else { "" };
    (unit, move |x| kind.text(x).trim_end_matches('%').to_string())
}

/// Names and kinds of all metrics, in the order of their first appearance.
fn metrics<'a>(runs: impl IntoIterator<Item = &'a Summary>) -> Vec<(&'a str, MetricKind)> {
    let all = runs.into_iter().filter_map(|run| run.score.as_ref()).flat_map(|score| &score.metrics);
    distinct(all.map(|metric| (metric.name.as_str(), metric.kind)))
}

/// Names of all layers, in the order of their first appearance.
fn sites<'a>(groups: &[Group<'a>]) -> Vec<&'a str> {
    distinct(
        groups.iter().flat_map(|group| &group.0).flat_map(|run| &run.layers).map(|layer| layer.site.as_str()),
    )
}

fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct
}

/// One layer in every run of a group; none if one of them lacks it.
fn layers_at<'a>(group: &Group<'a>, site: &str) -> Vec<&'a LayerStats> {
    let at = |run: &&'a Summary| run.layers.iter().find(|layer| layer.site == site);
    group.0.iter().map(at).collect::<Option<_>>().unwrap_or_default()
}

/// Statistics of one layer, or of the layers in the rows; runs without it have empty cells.
fn layer_columns(table: &mut Table, site: &str, rows: &[Vec<&LayerStats>]) {
    for (i, of) in Statistic::shown_in(Shown::Comparison).enumerate() {
        let cell = |layers: &Vec<&LayerStats>| {
            let unit = match (of.kind, layers.first()) {
                (StatisticKind::Share, _) => "%".into(),
                (StatisticKind::Units, Some(layer)) if layers.len() > 1 => format!(" of {}", layer.units),
                (StatisticKind::Units, Some(layer)) => format!("/{}", layer.units),
                _ => String::new(),
            };
            let show = |x: f64| match of.kind {
                StatisticKind::Share if layers.len() > 1 => format!("{:.1}", x * 100.0),
                StatisticKind::Share => of.text(x).trim_end_matches('%').into(),
                StatisticKind::Units if layers.len() > 1 => format!("{x:.1}"),
                _ => of.text(x),
            };
            spread(layers.iter().map(|layer| (of.value)(layer)), &unit, &show)
        };
        let title = if i == 0 { format!("{site} {}", of.column) } else { of.column.into() };
        table.column(Align::Right, title.trim_start(), rows.iter().map(cell));
    }
}

/// Histograms add: several runs make one picture.
fn merged_picture(layers: &[&LayerStats]) -> String {
    let mut all = None::<Histogram>;
    for histogram in layers.iter().filter_map(|layer| layer.histogram.as_ref()) {
        all.get_or_insert_default().merge(histogram);
    }
    all.as_ref().map_or(number::NONE.into(), picture)
}

/// `97.71%` for one value, `97.71 ± 0.12%` for several, a dash if one is missing.
fn spread(values: impl Iterator<Item = Option<f64>>, unit: &str, show: &dyn Fn(f64) -> String) -> String {
    let Some(values) = values.collect::<Option<Vec<f64>>>() else { return number::NONE.into() };
    match values[..] {
        [] => number::NONE.into(),
        [value] => format!("{}{unit}", show(value)),
        _ => {
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
            format!("{} ± {}{unit}", show(mean), show((squares / (n - 1.0)).sqrt()))
        }
    }
}
