use crate::{
    Histogram, LayerStats, Summary, number,
    picture::{PICTURE_TITLE, picture},
    table::{Align, Table},
};

/// Tables that set runs side by side, as text of at most 100 columns for usual names.
///
/// One row per run: accuracy (best of all epochs, and final), final loss, seconds over all passes,
/// training samples per second and the share of time that tracking took. Zeros, dead units and skewness
/// of every layer stand in the same rows where they fit, else in a second table, layer by layer.
/// Runs that differ in nothing but the seed are also averaged: mean ± sample standard deviation over
/// those that ended at least one epoch, with their number.
///
/// What all runs share stands in the title, the data set with it; what tells them apart is a column.
/// A missing number, as of a run without epochs, is a dash.
pub fn comparison(runs: &[Summary]) -> String {
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
    blocks(&mut text, &labels, &alone);

    let seeds = over_seeds(runs);
    if !seeds.is_empty() {
        text += "\nover seeds: mean ± sample standard deviation of n runs\n";
        blocks(&mut text, &labels, &seeds);
    }
    text
}

const WIDEST: usize = 100;

/// Runs that share a row: one, or several that differ in nothing but the seed.
struct Group<'a>(Vec<&'a Summary>);

/// Every run in the set of its likes, where there are any, and without those that have no epoch.
fn over_seeds(runs: &[Summary]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for run in runs.iter().filter(|run| run.score.is_some()) {
        let like = |r: &Summary| {
            (&r.run.dataset, &r.run.model, &r.run.activation, r.run.dropout.to_bits(), r.split)
                == (
                    &run.run.dataset,
                    &run.run.model,
                    &run.run.activation,
                    run.run.dropout.to_bits(),
                    run.split,
                )
        };
        match groups.iter_mut().find(|group| like(group.0[0])) {
            Some(group) => group.0.push(run),
            None => groups.push(Group(vec![run])),
        }
    }
    groups.retain(|group| {
        let mut seeds: Vec<u64> = group.0.iter().map(|run| run.run.seed).collect();
        seeds.sort_unstable();
        // A seed twice: these runs differ in something else, and have no common mean.
        seeds.len() > 1 && seeds.windows(2).all(|pair| pair[0] < pair[1])
    });
    groups
}

/// One kind of thing that a row is told apart by.
type Label = (&'static str, fn(&Summary) -> String);

/// What all runs have in common, and what tells them apart.
struct Labels {
    /// A value, and the words before and after it.
    shared: Vec<(&'static str, String, &'static str)>,
    columns: Vec<Label>,
}

impl Labels {
    fn of(runs: &[Summary]) -> Self {
        let may_be_shared: [(&str, Label, &str); 4] = [
            (" on ", ("data set", |r| r.run.dataset.clone()), ""),
            (", ", ("model", |r| r.run.model.clone()), ""),
            (", ", ("epochs", epochs), if runs[0].run.epochs == 1 { " epoch" } else { " epochs" }),
            ("; accuracy and loss on ", ("split", split), ""),
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
        labels.columns.push(("act", |r| r.run.activation.clone()));
        labels.columns.push(("dropout", |r| r.run.dropout.to_string()));
        // Runs that differ in something else, as the learning rate, have nothing but their names.
        let key = |r: &Summary| {
            labels
                .columns
                .iter()
                .map(|(_, value)| value(r))
                .chain([r.run.seed.to_string()])
                .collect::<Vec<_>>()
        };
        let mut keys: Vec<_> = runs.iter().map(key).collect();
        keys.sort();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            labels.columns.insert(0, ("run", |r| r.run.name.clone()));
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
fn blocks(text: &mut String, labels: &Labels, groups: &[Group<'_>]) {
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
    if wide.width() <= WIDEST {
        text.push_str(&wide.render(0, false));
        return;
    }
    text.push_str(&table.render(0, false));
    text.push('\n');

    // Layer by layer, so that what is to be compared stands below each other.
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
    text.push_str(&table.render(0, false));
}

fn scores(table: &mut Table, groups: &[Group<'_>]) {
    type Measure = fn(&Summary) -> Option<f64>;
    let mut column = |title: &str, value: Measure, unit: &str, show: &dyn Fn(f64) -> String| {
        let cell = |group: &Group<'_>| spread(group.0.iter().map(|run| value(run)), unit, show);
        table.column(Align::Right, title, groups.iter().map(cell));
    };
    let percent = |decimals: usize| move |x: f64| format!("{:.decimals$}", x * 100.0);
    column("best", |r| r.best_accuracy, "%", &percent(2));
    column("final", |r| r.score.map(|score| score.accuracy), "%", &percent(2));
    column("loss", |r| r.score.map(|score| score.loss), "", &|x| number::fixed(x, 4));
    column("seconds", |r| (r.seconds > 0.0).then_some(r.seconds), "", &|x| format!("{x:.1}"));
    column("samples/s", Summary::samples_per_second, "", &|x| number::count(x.round() as u64));
    column("tracking", Summary::tracking_fraction, "%", &percent(1));
}

/// Names of all layers, in the order of their first appearance.
fn sites<'a>(groups: &[Group<'a>]) -> Vec<&'a str> {
    let mut sites = Vec::new();
    for layer in groups.iter().flat_map(|group| &group.0).flat_map(|run| &run.layers) {
        if !sites.contains(&layer.site.as_str()) {
            sites.push(layer.site.as_str());
        }
    }
    sites
}

/// One layer in every run of a group; nothing where one of them lacks it.
fn layers_at<'a>(group: &Group<'a>, site: &str) -> Vec<&'a LayerStats> {
    let at = |run: &&'a Summary| run.layers.iter().find(|layer| layer.site == site);
    group.0.iter().map(at).collect::<Option<_>>().unwrap_or_default()
}

/// Zeros, dead units and skewness of one layer, or of those that the rows name; empty cells are runs without it.
fn layer_columns(table: &mut Table, site: &str, rows: &[Vec<&LayerStats>]) {
    let zeros = |layers: &Vec<&LayerStats>| match layers[..] {
        [layer] => number::share(layer.zero_fraction),
        _ => {
            let show = |x: f64| format!("{:.1}", x * 100.0);
            spread(layers.iter().map(|l| Some(l.zero_fraction)), "%", &show)
        }
    };
    let dead = |layers: &Vec<&LayerStats>| match layers[..] {
        [] => number::NONE.into(),
        [layer] => format!("{}/{}", layer.dead, layer.units),
        _ => {
            let unit = format!(" of {}", layers[0].units);
            spread(layers.iter().map(|l| Some(l.dead as f64)), &unit, &|x| format!("{x:.1}"))
        }
    };
    let skew = |layers: &Vec<&LayerStats>| {
        spread(layers.iter().map(|l| l.skewness), "", &|x| number::rounded(Some(x)))
    };
    table.column(Align::Right, format!("{site} zeros").trim_start(), rows.iter().map(zeros));
    table.column(Align::Right, "dead", rows.iter().map(dead));
    table.column(Align::Right, "skew", rows.iter().map(skew));
}

/// Histograms add: several runs make one picture.
fn merged_picture(layers: &[&LayerStats]) -> String {
    let mut all = None::<Histogram>;
    for histogram in layers.iter().filter_map(|layer| layer.histogram.as_ref()) {
        all.get_or_insert_default().merge(histogram);
    }
    all.as_ref().map_or(number::NONE.into(), picture)
}

/// `97.71%` for one value, `97.71 ± 0.12%` for several, a dash where one is missing.
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
