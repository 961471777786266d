use std::collections::BTreeSet;

use taper_report::{STATISTICS, label_value};

use crate::RunData;

/// All numbers of runs as one table in CSV (RFC 4180), one row per run, epoch, split and site. pandas, polars and
/// DuckDB read it without options, and group, filter and plot it without a join.
///
/// The columns are `run`, `seed`, the labels of the runs (`act`, `dropout`), `epoch`, `split`, `samples`, `loss`, the
/// metrics (`accuracy`), `learning_rate`, `site`, `units`, `values` and every [statistic](STATISTICS). Loss and metrics
/// are those of the split, repeated in the rows of all its sites; a split without recorded sites has one row with an
/// empty `site`. A label or metric with the name of another column gets the prefix `label_` or `metric_`. Missing and
/// non-finite numbers are empty. Only `layers.jsonl` has histograms and lists of units, and only `timing.jsonl` has
/// times.
///
/// Numbers are written without loss; lines end with `\n`.
pub fn csv(runs: &[RunData]) -> String {
    let mut taken: BTreeSet<&str> =
        ["run", "seed", "epoch", "split", "samples", "loss", "learning_rate", "site", "units", "values"]
            .into();
    taken.extend(STATISTICS.iter().map(|of| of.id));
    let column = |kind: &str, name: &str| match taken.contains(name) {
        true => format!("{kind}_{name}"),
        false => name.to_string(),
    };
    let labels: BTreeSet<&str> =
        runs.iter().flat_map(|of| of.run.labels.keys().map(String::as_str)).collect();
    let mut metrics: Vec<&str> = Vec::new();
    for metric in runs.iter().flat_map(|of| &of.metrics).flat_map(|line| &line.of.score.metrics) {
        if !metrics.contains(&metric.name.as_str()) {
            metrics.push(&metric.name);
        }
    }
    let statistics = || STATISTICS.iter().filter(|of| !["units", "values", "samples"].contains(&of.id));

    let mut text = String::new();
    let mut head: Vec<String> = ["run", "seed"].map(String::from).into();
    head.extend(labels.iter().map(|name| column("label", name)));
    head.extend(["epoch", "split", "samples", "loss"].map(String::from));
    head.extend(metrics.iter().map(|name| match labels.contains(name) {
        true => format!("metric_{name}"),
        false => column("metric", name),
    }));
    head.extend(["learning_rate", "site", "units", "values"].map(String::from));
    head.extend(statistics().map(|of| of.id.to_string()));
    row(&mut text, head);

    for of in runs {
        let mut own = vec![of.run.name.clone(), of.run.seed.to_string()];
        own.extend(labels.iter().map(|name| of.run.labels.get(*name).map_or(String::new(), label_value)));
        for line in &of.metrics {
            let score = &line.of.score;
            let mut start = own.clone();
            start.extend([line.epoch.to_string(), line.split.name().to_string(), score.samples.to_string()]);
            start.push(number(Some(score.loss)));
            start.extend(metrics.iter().map(|name| number(score.metric(name))));
            start.push(number(line.of.learning_rate));
            let sites =
                of.layers.iter().filter(|layer| (layer.epoch, layer.split) == (line.epoch, line.split));
            let before = text.len();
            for layer in sites.map(|layer| &layer.of) {
                let mut fields = start.clone();
                fields.extend([layer.site.clone(), layer.units.to_string(), layer.values.to_string()]);
                fields.extend(statistics().map(|of| number((of.value)(layer))));
                row(&mut text, fields);
            }
            if text.len() == before {
                start.extend(std::iter::repeat_n(String::new(), 3 + statistics().count()));
                row(&mut text, start);
            }
        }
    }
    text
}

/// The shortest text that parses to the same number.
fn number(x: Option<f64>) -> String {
    x.filter(|x| x.is_finite()).map_or(String::new(), |x| x.to_string())
}

fn row(text: &mut String, fields: Vec<String>) {
    for (i, field) in fields.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        if field.contains([',', '"', '\n', '\r']) || field.trim() != field {
            text.push('"');
            text.push_str(&field.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(field);
        }
    }
    text.push('\n');
}
