use std::fmt::Write;

use taper_report::{
    LayerStats, Metric, MetricKind, Score, Shown, Split, Statistic, StatisticKind, TimingLine,
};

use crate::{
    RunData,
    group::{Group, Groups},
    measure, palette,
    text::{self, NONE, html},
};

/// A table in HTML, with tooltips for titles and exact values.
#[derive(Default)]
pub(crate) struct Table {
    head: String,
    body: String,
}

impl Table {
    pub fn title(&mut self, title: &str, what: &str) {
        let tip =
            if what.is_empty() { String::new() } else { format!(" data-tip=\"{}\" tabindex=0", html(what)) };
        let _ = write!(self.head, "<th scope=col{tip}>{}</th>", html(title));
    }

    pub fn row(&mut self, attributes: &str, cells: &str) {
        let _ = writeln!(self.body, "<tr{attributes}>{cells}</tr>");
    }

    pub fn render(&self, id: &str) -> String {
        let Self { head, body } = self;
        format!(
            "<div class=scroll tabindex=0><table id={id} class=sortable><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"
        )
    }
}

/// A function from a run or a layer to a value.
type Value<'a, T> = Box<dyn Fn(&T) -> Option<f64> + 'a>;

/// One column of a table: its name, its meaning, its value in each run, and its format.
struct Column<'a, T> {
    id: &'a str,
    title: &'a str,
    what: String,
    value: Value<'a, T>,
    show: Box<dyn Fn(f64) -> String>,
    /// The number of decimals of `mean ± sd`, and a factor.
    spread: (usize, f64, &'static str),
    /// Whether the cell shows the value, a share, as a bar.
    bar: bool,
}

/// Metrics, loss and time: one row per group of runs, and one per run.
pub(crate) fn runs(groups: &Groups<'_>) -> String {
    /// The scores on the headline split of all epochs except epoch 0.
    fn headline(run: &RunData) -> Vec<&Score> {
        let lines = run.headline().into_iter().flat_map(|split| run.scores(split));
        lines.filter(|line| line.epoch > 0).map(|line| &line.of.score).collect()
    }
    fn best(run: &RunData) -> Option<Metric> {
        let all = headline(run).into_iter().map(Score::primary).filter(|metric| !metric.value.is_nan());
        all.reduce(|best, metric| if metric.is_better_than(&best) { metric } else { best })
    }
    fn train_rate(run: &RunData) -> Option<f64> {
        let of = |line: &&TimingLine| line.split == Split::Train && line.of.seconds > 0.0;
        let (mut samples, mut seconds) = (0.0, 0.0);
        for line in run.timing.iter().filter(of) {
            samples += line.of.samples_per_second * line.of.seconds;
            seconds += line.of.seconds;
        }
        (seconds > 0.0).then(|| samples / seconds)
    }
    fn seconds(run: &RunData) -> Option<f64> {
        Some(run.timing.iter().map(|line| line.of.seconds).sum()).filter(|s| *s > 0.0)
    }
    fn tracking(run: &RunData) -> Option<f64> {
        let tracking: f64 = run.timing.iter().map(|line| line.of.seconds * line.of.tracking_fraction).sum();
        seconds(run).map(|all| tracking / all)
    }
    fn metric<'a>(
        id: &'a str,
        title: &'a str,
        kind: MetricKind,
        what: String,
        value: Value<'a, RunData>,
    ) -> Column<'a, RunData> {
        let spread = if kind == MetricKind::Share { (2, 100.0, "%") } else { (4, 1.0, "") };
        let value = Box::new(move |run: &RunData| value(run).filter(|x| x.is_finite()));
        Column {
            id,
            title,
            what,
            value,
            show: Box::new(move |x| kind.text(x).replace('-', "−")),
            spread,
            bar: false,
        }
    }
    let first = groups.runs().find_map(|run| Some(headline(run).first()?.primary()));
    let (name, kind) = first.map_or(("loss".into(), MetricKind::Lower), |of| (of.name, of.kind));
    let on = "on test if there is one, else validation, else train";
    let last = |name: &str| {
        let name = name.to_string();
        Box::new(move |run: &RunData| headline(run).last()?.metric(&name))
    };
    let mut columns: Vec<Column<'_, RunData>> = vec![
        metric(
            "best",
            "best",
            kind,
            format!("Best {name} of any epoch, {on}."),
            Box::new(|run| Some(best(run).filter(|best| best.name == name)?.value)),
        ),
        metric("final", "final", kind, format!("{name} of the last epoch on the same split."), last(&name)),
    ];
    for (other, kind) in groups.metrics().into_iter().filter(|(other, _)| *other != name) {
        columns.push(metric(
            other,
            other,
            kind,
            format!("{other} of the last epoch on the same split."),
            last(other),
        ));
    }
    if name != "loss" {
        let what = "Loss of the last epoch on the same split.".to_string();
        columns.push(metric("loss", "loss", MetricKind::Lower, what, last("loss")));
    }
    let what =
        format!("{name} on the training batches of the last epoch, in train mode, while the weights moved.");
    let train = |run: &RunData| run.scores(Split::Train).last()?.of.score.metric(&name);
    columns.push(metric("train", "train", kind, what, Box::new(train)));
    columns.extend([
        Column {
            id: "seconds",
            title: "seconds",
            what: "Wall-clock seconds of all epochs and splits, tracking included.".into(),
            value: Box::new(seconds),
            show: Box::new(|x| text::plain(x, 1)),
            spread: (1, 1.0, ""),
            bar: false,
        },
        Column {
            id: "samples_per_second",
            title: "samples/s",
            what: "Samples trained on per second, tracking included.".into(),
            value: Box::new(train_rate),
            show: Box::new(|x| text::count(x.round() as u64)),
            spread: (0, 1.0, ""),
            bar: false,
        },
        Column {
            id: "tracking",
            title: "tracking",
            what: "Share of the time that observing the activations took.".into(),
            value: Box::new(tracking),
            show: Box::new(text::share),
            spread: (1, 100.0, "%"),
            bar: false,
        },
    ]);
    let rows = |groups: &[(&Group<'_>, usize, Vec<&RunData>)], each: bool| {
        let mut table = Table::default();
        table.title("run", "The labels that tell runs apart.");
        table.title(if each { "seed" } else { "seeds" }, "Every random number of a run comes from its seed.");
        table.title("epochs", "Epochs that ended, of those planned where there are fewer.");
        for column in &columns {
            table.title(column.title, &column.what);
        }
        for (group, number, runs) in groups {
            let mut cells = row_title(group, each.then(|| runs[0]));
            let first = if each { runs[0].run.seed.to_string() } else { runs.len().to_string() };
            let _ = write!(cells, "<td>{first}</td><td>{}</td>", epochs(runs));
            for column in &columns {
                cells += &cell(column, runs);
            }
            table.row(&format!(" data-group=g{number}"), &cells);
        }
        table.render(if each { "every-run" } else { "runs" })
    };
    both(groups, |group| group.runs.clone(), rows, "Every run")
}

/// The tables of counts of a single run, in its last epoch on the headline split.
pub(crate) fn counts(groups: &Groups<'_>) -> String {
    let runs: Vec<&RunData> = groups.runs().collect();
    let [run] = runs[..] else { return String::new() };
    let Some(line) = run.headline().and_then(|split| run.scores(split).last()) else { return String::new() };
    let mut out = String::new();
    for (name, rows) in line.of.score.counts.iter().filter(|(_, rows)| rows.len() <= COUNTS) {
        let _ = writeln!(
            out,
            "<h3>{} on {}, epoch {}</h3>",
            html(&text::shorten(name, 80)),
            line.split.name(),
            line.epoch
        );
        let mut table = Table::default();
        table.title("", "");
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0).min(COUNTS);
        (0..columns).for_each(|i| table.title(&i.to_string(), ""));
        for (i, row) in rows.iter().enumerate() {
            let cells: String =
                row.iter().take(COUNTS).map(|n| format!("<td>{}</td>", text::count(*n))).collect();
            table.row("", &format!("<th scope=row>{i}</th>{cells}"));
        }
        out += &table.render("counts");
    }
    out
}

/// The largest number of rows and columns of a table of counts on the page.
const COUNTS: usize = 64;

/// The statistics of every layer in the last epoch of a window.
pub(crate) fn layers(groups: &Groups<'_>, window: Split) -> String {
    let column = |of: &'static Statistic| Column::<LayerStats> {
        id: of.id,
        title: of.column,
        what: of.what.into(),
        value: Box::new(of.value),
        show: Box::new(|x| measure::show(of.kind, x)),
        spread: match of.kind {
            StatisticKind::Share => (1, 100.0, "%"),
            StatisticKind::Units | StatisticKind::Count => (1, 1.0, ""),
            StatisticKind::Number => (2, 1.0, ""),
        },
        bar: of.id == "zero_fraction",
    };
    let columns: Vec<_> = Statistic::shown_in(Shown::Table).map(column).collect();
    let mut out = String::new();
    for (number, site) in groups.sites.iter().enumerate() {
        let rows = |rows: &[(&Group<'_>, usize, Vec<&LayerStats>, Option<&RunData>)], each: bool| {
            let mut table = Table::default();
            table.title("run", "The labels that tell runs apart.");
            table.title(
                if each { "seed" } else { "seeds" },
                "Every random number of a run comes from its seed.",
            );
            for column in &columns {
                table.title(column.title, &column.what);
            }
            for (group, number, layers, run) in rows {
                let mut cells = row_title(group, *run);
                let first = run.map_or(layers.len().to_string(), |run| run.run.seed.to_string());
                let _ = write!(cells, "<td>{first}</td>");
                for column in &columns {
                    cells += &cell(column, layers);
                }
                let name = run.map_or(String::new(), |run| format!(" data-run=\"{}\"", html(&run.run.name)));
                table.row(&format!(" data-group=g{number}{name}"), &cells);
            }
            table.render(&format!("{}-{number}", if each { "every-layer" } else { "layers" }))
        };
        let (mut grouped, mut every) = (Vec::new(), Vec::new());
        for (i, group) in groups.groups.iter().enumerate() {
            let last = group.last(site, window);
            if !last.is_empty() {
                grouped.push((group, i, last.iter().map(|(_, l)| *l).collect::<Vec<_>>(), None));
            }
            for (run, layer) in last {
                every.push((group, i, vec![layer], Some(run)));
            }
        }
        if every.is_empty() {
            continue;
        }
        let _ = writeln!(
            out,
            "<div data-site={number}><h3>{}</h3>",
            html(&text::shorten(&groups.title(site), 80))
        );
        if grouped.len() < every.len() {
            out += &rows(&grouped, false);
            let _ = write!(
                out,
                "<details><summary>Every run ({})</summary>\n{}</details>\n",
                every.len(),
                rows(&every, true)
            );
        } else {
            out += &rows(&every, true);
        }
        out += "</div>\n";
    }
    out
}

/// A table of groups, and a folded one of every run if there are more runs than groups.
fn both<'a, T>(
    groups: &Groups<'a>,
    of: impl Fn(&Group<'a>) -> Vec<T>,
    table: impl Fn(&[(&Group<'a>, usize, Vec<T>)], bool) -> String,
    title: &str,
) -> String {
    let grouped: Vec<_> = groups.groups.iter().enumerate().map(|(i, group)| (group, i, of(group))).collect();
    let every: Vec<_> = groups
        .groups
        .iter()
        .enumerate()
        .flat_map(|(i, group)| of(group).into_iter().map(move |run| (group, i, vec![run])))
        .collect();
    if grouped.len() == every.len() {
        return table(&every, true);
    }
    let (n, every) = (every.len(), table(&every, true));
    format!("{}<details><summary>{title} ({n})</summary>\n{every}</details>\n", table(&grouped, false))
}

/// The row's title: the group, with the run's name as its tooltip.
fn row_title(group: &Group<'_>, run: Option<&RunData>) -> String {
    let tip = run.map_or(&group.label, |run| &run.run.name);
    format!("<th scope=row title=\"{}\">{}</th>", html(tip), key(group))
}

/// A sample of the group's line, and its label.
pub(crate) fn key(group: &Group<'_>) -> String {
    let label = html(&text::shorten(&group.label, text::LABEL));
    format!("{}{label}", swatch(group.color, group.dash))
}

/// A short line in the group's colour and style.
pub(crate) fn swatch(color: usize, dash: usize) -> String {
    let dashes: Vec<String> = palette::dash(dash).iter().map(u32::to_string).collect();
    format!(
        "<svg class=swatch width=26 height=8 aria-hidden=true><line x1=1 x2=25 y1=4 y2=4 stroke=\"{}\" \
         stroke-width=3 stroke-dasharray=\"{}\"/></svg>",
        palette::hex(color),
        dashes.join(" ")
    )
}

/// `10`, or `3 of 10` if a run ended early.
fn epochs(runs: &[&RunData]) -> String {
    let mut texts: Vec<String> = runs
        .iter()
        .map(|run| match (run.epoch(), run.run.epochs) {
            (done, planned) if done >= planned => done.to_string(),
            (done, planned) => format!("{done} of {planned}"),
        })
        .collect();
    texts.dedup();
    texts.join(", ")
}

/// The value, or mean ± sample standard deviation of several; the exact mean in `data-v`.
fn cell<T, R: std::borrow::Borrow<T>>(column: &Column<'_, T>, of: &[R]) -> String {
    let values: Option<Vec<f64>> = of.iter().map(|of| (column.value)(of.borrow())).collect();
    let Some(values) = values.filter(|values| !values.is_empty()) else {
        return format!("<td data-f=\"{}\">{NONE}</td>", html(column.id));
    };
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let shown = if values.len() == 1 || values.iter().all(|x| *x == values[0]) {
        (column.show)(mean)
    } else {
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        let (decimals, factor, unit) = column.spread;
        let sd = (squares / (n - 1.0)).sqrt();
        format!(
            "{} <span class=sd>± {}{unit}</span>",
            written(mean * factor, decimals),
            written(sd * factor, decimals)
        )
    };
    let bar = if column.bar {
        format!(" class=bar style=\"--v:{:.4}\"", mean.clamp(0.0, 1.0))
    } else {
        String::new()
    };
    format!("<td data-f=\"{}\" data-v={mean}{bar}>{shown}</td>", html(column.id))
}

fn written(x: f64, decimals: usize) -> String {
    if decimals == 0 { text::count(x.round() as u64) } else { text::plain(x, decimals) }
}
