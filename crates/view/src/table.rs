use std::fmt::Write;

use taper_report::{LayerStats, Split};

use crate::{
    RunData,
    group::{Group, Groups},
    measure::{self, Measure},
    palette,
    text::{self, NONE, html},
};

/// A table in HTML: titles that explain themselves on hover, numbers that carry their exact value.
#[derive(Default)]
struct Table {
    head: String,
    body: String,
}

impl Table {
    fn title(&mut self, title: &str, what: &str) {
        let tip =
            if what.is_empty() { String::new() } else { format!(" data-tip=\"{}\" tabindex=0", html(what)) };
        let _ = write!(self.head, "<th scope=col{tip}>{}</th>", html(title));
    }

    fn row(&mut self, attributes: &str, cells: &str) {
        let _ = writeln!(self.body, "<tr{attributes}>{cells}</tr>");
    }

    fn render(&self, id: &str) -> String {
        let Self { head, body } = self;
        format!(
            "<div class=scroll><table id={id}><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"
        )
    }
}

/// One column of a table: what it is called, what it means, its value in each run, and how it is written.
struct Column<T> {
    id: &'static str,
    title: &'static str,
    what: &'static str,
    value: fn(&T) -> Option<f64>,
    show: fn(f64) -> String,
    /// The number of decimals of `mean ± sd`, and the factor before.
    spread: (usize, f64, &'static str),
    /// Whether a bar in the cell shows the value, a share.
    bar: bool,
}

/// Columns of layers that stand in the table of every run alone, which has the room.
const IN_EVERY_RUN: [&str; 7] =
    ["died", "revived", "rare", "always_on", "excess_kurtosis", "flat_low", "flat_high"];
/// And one that sums up two of them.
const IN_GROUPS: [&str; 1] = ["flat"];

/// Accuracy, loss and time: one row per group of runs, and one per run.
pub(crate) fn runs(groups: &Groups<'_>) -> String {
    fn headline(run: &RunData, value: fn(&taper_report::MetricsLine) -> Option<f64>) -> Vec<Option<f64>> {
        run.headline().map_or(Vec::new(), |split| run.scores(split).map(value).collect())
    }
    fn train_rate(run: &RunData) -> Option<f64> {
        let of = |line: &&taper_report::TimingLine| line.split == Split::Train && line.seconds > 0.0;
        let (mut samples, mut seconds) = (0.0, 0.0);
        for line in run.timing.iter().filter(of) {
            samples += line.samples_per_second * line.seconds;
            seconds += line.seconds;
        }
        (seconds > 0.0).then(|| samples / seconds)
    }
    fn seconds(run: &RunData) -> Option<f64> {
        Some(run.timing.iter().map(|line| line.seconds).sum()).filter(|s| *s > 0.0)
    }
    fn tracking(run: &RunData) -> Option<f64> {
        let tracking: f64 = run.timing.iter().map(|line| line.seconds * line.tracking_fraction).sum();
        seconds(run).map(|all| tracking / all)
    }
    let percent = |x: f64| format!("{:.2}%", 100.0 * x);
    let columns: [Column<RunData>; 7] = [
        Column {
            id: "best_accuracy",
            title: "best",
            what: "Highest accuracy of any epoch, on test if there is one, else validation, else train.",
            value: |run| headline(run, |line| line.accuracy).into_iter().flatten().reduce(f64::max),
            show: percent,
            spread: (2, 100.0, "%"),
            bar: false,
        },
        Column {
            id: "accuracy",
            title: "final",
            what: "Accuracy of the last epoch on the same split.",
            value: |run| headline(run, |line| line.accuracy).last().copied().flatten(),
            show: percent,
            spread: (2, 100.0, "%"),
            bar: false,
        },
        Column {
            id: "loss",
            title: "loss",
            what: "Mean cross-entropy per sample in nats, in the last epoch on the same split.",
            value: |run| headline(run, |line| line.loss).last().copied().flatten(),
            show: |x| text::fixed(x, 4),
            spread: (4, 1.0, ""),
            bar: false,
        },
        Column {
            id: "train_accuracy",
            title: "train",
            what: "Accuracy on the training batches of the last epoch, in train mode, while the weights moved.",
            value: |run| run.scores(Split::Train).last().and_then(|line| line.accuracy),
            show: percent,
            spread: (2, 100.0, "%"),
            bar: false,
        },
        Column {
            id: "seconds",
            title: "seconds",
            what: "Wall-clock seconds of all epochs and splits, tracking included.",
            value: seconds,
            show: |x| text::plain(x, 1),
            spread: (1, 1.0, ""),
            bar: false,
        },
        Column {
            id: "samples_per_second",
            title: "samples/s",
            what: "Samples trained on per second, tracking included.",
            value: train_rate,
            show: |x| text::count(x.round() as u64),
            spread: (0, 1.0, ""),
            bar: false,
        },
        Column {
            id: "tracking",
            title: "tracking",
            what: "Share of the time that observing the activations took.",
            value: tracking,
            show: text::share,
            spread: (1, 100.0, "%"),
            bar: false,
        },
    ];
    let rows = |groups: &[(&Group<'_>, usize, Vec<&RunData>)], each: bool| {
        let mut table = Table::default();
        table.title("run", "Activation, dropout rate and whatever else tells runs apart.");
        table.title(if each { "seed" } else { "seeds" }, "Every random number of a run comes from its seed.");
        table.title("epochs", "Epochs that ended, of those planned where there are fewer.");
        for column in &columns {
            table.title(column.title, column.what);
        }
        for (group, number, runs) in groups {
            let mut cells = key(group, each.then(|| runs[0]));
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

/// What every layer does in the last epoch of a window.
pub(crate) fn layers(groups: &Groups<'_>, window: Split) -> String {
    let of = |measure: &Measure| (measure.value, measure.what);
    fn column(
        id: &'static str,
        title: &'static str,
        (value, what): (fn(&LayerStats) -> Option<f64>, &'static str),
        kind: u8,
    ) -> Column<LayerStats> {
        let (show, spread): (fn(f64) -> String, _) = match kind {
            b'%' => (text::share, (1, 100.0, "%")),
            b'n' => (|x| text::count(x as u64), (1, 1.0, "")),
            b'1' => (|x| text::fixed(x, 1), (1, 1.0, "")),
            _ => (|x| text::plain(x, 2), (2, 1.0, "")),
        };
        Column { id, title, what, value, show, spread, bar: id == "zero_fraction" }
    }
    let columns = [
        column("zero_fraction", "zeros", of(&measure::ZEROS), b'%'),
        column(
            "dead",
            "dead",
            (
                |l| Some(l.dead as f64),
                "Units that no gradient reached in the window: f′(x) was 0 at every observation.",
            ),
            b'n',
        ),
        column(
            "units",
            "of",
            (|l| Some(l.units as f64), "Units of the layer: neurons, or feature maps of a convolution."),
            b'n',
        ),
        column(
            "died",
            "died",
            (|l| l.died.map(|n| n as f64), "Units dead now that were not in the epoch before."),
            b'n',
        ),
        column(
            "revived",
            "revived",
            (|l| l.revived.map(|n| n as f64), "Units dead in the epoch before that are not now."),
            b'n',
        ),
        column(
            "dormant_0_025",
            "dormant",
            (
                |l| Some(l.dormant_0_025 as f64),
                "Units whose mean |y| is at most 2.5 % of their layer's mean (Sokar et al. 2023).",
            ),
            b'n',
        ),
        column(
            "rare",
            "rare",
            (
                |l| l.rare.map(|n| n as f64),
                "Units that are not dead and fire at fewer than 1 % of observations; ReLU and its kin only.",
            ),
            b'n',
        ),
        column(
            "always_on",
            "always on",
            (
                |l| Some(l.always_on as f64),
                "Units with y > 0 at every observation: a ReLU that is merely linear on these data.",
            ),
            b'n',
        ),
        column("mean", "mean", of(&measure::MEAN), b'2'),
        column("std", "std", of(&measure::STD), b'2'),
        column("skewness", "skew", of(&measure::SKEWNESS), b'2'),
        column(
            "excess_kurtosis",
            "kurtosis",
            (|l| l.excess_kurtosis, "m₄ / m₂² − 3: 0 for a normal distribution, positive for heavier tails."),
            b'2',
        ),
        column("asymmetry", "asymmetry", of(&measure::ASYMMETRY), b'2'),
        column(
            "flat_low",
            "flat low",
            (|l| l.flat_low, "Share of values with slope |f′(x)| < 0.01 at x ≤ 0."),
            b'%',
        ),
        column(
            "flat_high",
            "flat high",
            (|l| l.flat_high, "Share of values with slope |f′(x)| < 0.01 at x > 0."),
            b'%',
        ),
        column("flat", "flat", of(&measure::FLAT), b'%'),
        column("active_per_sample", "active/sample", of(&measure::ACTIVE), b'1'),
        column("population_sparseness", "sparseness", of(&measure::SPARSENESS), b'2'),
    ];
    let mut out = String::new();
    for (number, site) in groups.sites.iter().enumerate() {
        let rows = |rows: &[(&Group<'_>, usize, Vec<&LayerStats>, Option<&RunData>)], each: bool| {
            let mut table = Table::default();
            table.title("run", "Activation, dropout rate and whatever else tells runs apart.");
            table.title(
                if each { "seed" } else { "seeds" },
                "Every random number of a run comes from its seed.",
            );
            let left_out: &[&str] = if each { &IN_GROUPS } else { &IN_EVERY_RUN };
            let columns = || columns.iter().filter(|column| !left_out.contains(&column.id));
            for column in columns() {
                table.title(column.title, column.what);
            }
            for (group, number, layers, run) in rows {
                let mut cells = key(group, *run);
                let first = run.map_or(layers.len().to_string(), |run| run.run.seed.to_string());
                let _ = write!(cells, "<td>{first}</td>");
                for column in columns() {
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
        let _ = writeln!(out, "<div data-site={number}><h3>{}</h3>", html(&text::shorten(site, 80)));
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

/// A table of groups, and one of every run behind a click where that is more.
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

/// The row's title: a sample of the line, and what it stands for.
fn key(group: &Group<'_>, run: Option<&RunData>) -> String {
    let tip = run.map_or(&group.label, |run| &run.run.name);
    format!(
        "<th scope=row title=\"{}\">{}{}</th>",
        html(tip),
        swatch(group.hue, group.dash),
        html(&text::shorten(&group.label, text::LABEL))
    )
}

/// A short line in the group's colour and style.
pub(crate) fn swatch(hue: usize, dash: usize) -> String {
    let dashes: Vec<String> = palette::dash(dash).iter().map(u32::to_string).collect();
    format!(
        "<svg class=swatch width=26 height=8 aria-hidden=true><line x1=1 x2=25 y1=4 y2=4 stroke=\"{}\" \
         stroke-width=3 stroke-dasharray=\"{}\"/></svg>",
        palette::hex(hue),
        dashes.join(" ")
    )
}

/// `10`, or `3 of 10` where a run ended early.
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
fn cell<T, R: std::borrow::Borrow<T>>(column: &Column<T>, of: &[R]) -> String {
    let values: Option<Vec<f64>> = of.iter().map(|of| (column.value)(of.borrow())).collect();
    let Some(values) = values.filter(|values| !values.is_empty()) else {
        return format!("<td data-f={}>{NONE}</td>", column.id);
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
    format!("<td data-f={} data-v={mean}{bar}>{shown}</td>", column.id)
}

fn written(x: f64, decimals: usize) -> String {
    if decimals == 0 { text::count(x.round() as u64) } else { text::plain(x, decimals) }
}

/// Everything that is needed to repeat the runs: what they share, and where they differ.
pub(crate) fn configuration(groups: &Groups<'_>) -> String {
    let runs: Vec<&RunData> = groups.runs().collect();
    let flat: Vec<Vec<(String, String)>> = runs.iter().map(|run| flatten(run)).collect();
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in flat.iter().flatten() {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let (mut shared, mut differing) = (String::new(), String::new());
    for key in keys {
        let mut values: Vec<&str> = Vec::new();
        for run in &flat {
            let value = run.iter().find(|(known, _)| known == key).map_or(NONE, |(_, value)| value);
            if !values.contains(&value) {
                values.push(value);
            }
        }
        let several = values.len() > 1;
        let more = values.len().saturating_sub(24);
        values.truncate(24);
        let mut text = html(&values.join(if several { " · " } else { "" }));
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        let row = format!("<tr><th scope=row>{}</th><td>{text}</td></tr>\n", html(key));
        if several { &mut differing } else { &mut shared }.push_str(&row);
    }
    let mut out = String::from("<div class=config>");
    if !differing.is_empty() {
        let _ = write!(out, "<div><h3>Differs</h3><table>{differing}</table></div>");
    }
    let heading = if runs.len() > 1 { "All runs" } else { "The run" };
    let _ = writeln!(out, "<div><h3>{heading}</h3><table>{shared}</table></div></div>");
    out
}

/// `optimizer.rule` and so on, with the values as JSON, text without quotes.
fn flatten(run: &RunData) -> Vec<(String, String)> {
    fn walk(key: String, value: &serde_json::Value, out: &mut Vec<(String, String)>) {
        match value {
            serde_json::Value::Object(map) if !map.is_empty() => {
                for (name, value) in map {
                    let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    walk(key, value, out);
                }
            }
            serde_json::Value::String(text) => out.push((key, text.clone())),
            other => out.push((key, other.to_string())),
        }
    }
    let run = &run.run;
    let mut out: Vec<(String, String)> = [
        ("dataset", run.dataset.clone()),
        ("model", run.model.clone()),
        ("activation", run.activation.clone()),
        ("dropout", run.dropout.to_string()),
        ("seed", run.seed.to_string()),
        ("parameters", text::count(run.parameters)),
        ("epochs", run.epochs.to_string()),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into();
    let known: Vec<String> = out.iter().map(|(key, _)| key.clone()).collect();
    walk(String::new(), &run.config, &mut out);
    // The configuration may repeat what the run says of itself.
    let mut i = 0;
    out.retain(|(key, _)| {
        i += 1;
        i <= known.len() || !known.contains(key)
    });
    out.push(("name".into(), run.name.clone()));
    out
}
