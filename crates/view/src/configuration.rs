use std::fmt::Write;

use taper_report::label_value;

use crate::{
    RunData,
    group::Groups,
    text::{self, NONE, html},
};

/// Everything that is needed to repeat the runs: what they share, and their differences.
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
    let mut out = commands(&runs);
    out += "<div class=config>";
    if !differing.is_empty() {
        let _ = write!(out, "<div><h3>Differs</h3><table>{differing}</table></div>");
    }
    let heading = if runs.len() > 1 { "All runs" } else { "The run" };
    let _ = writeln!(out, "<div><h3>{heading}</h3><table>{shared}</table></div></div>");
    out
}

/// The command lines that repeat the runs, if they recorded them: the words in `command` of a configuration.
fn commands(runs: &[&RunData]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for run in runs {
        let Some(words) = run.run.config.get("command").and_then(serde_json::Value::as_array) else {
            continue;
        };
        let words: Vec<String> = words.iter().filter_map(|word| word.as_str()).map(text::shell).collect();
        let line = words.join(" ");
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.truncate(16);
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "<div class=command><button class=copy>copy</button><pre>{}</pre></div>\n",
        html(&lines.join("\n"))
    )
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
            // Without unset values, and without those in the command line above.
            serde_json::Value::Null => {}
            serde_json::Value::Array(_) if key == "command" => {}
            serde_json::Value::String(text) => out.push((key, text.clone())),
            other => out.push((key, other.to_string())),
        }
    }
    let run = &run.run;
    let label = |(key, value): (&String, &serde_json::Value)| (key.clone(), label_value(value));
    let mut out: Vec<(String, String)> = run.labels.iter().map(label).collect();
    out.extend(
        [
            ("dataset", run.dataset.clone()),
            ("model", run.model.clone()),
            ("loss", run.loss.clone()),
            ("seed", run.seed.to_string()),
            ("parameters", text::count(run.parameters)),
            ("epochs", run.epochs.to_string()),
        ]
        .map(|(key, value)| (key.to_string(), value)),
    );
    let known: Vec<String> = out.iter().map(|(key, _)| key.clone()).collect();
    walk(String::new(), &run.config, &mut out);
    // The configuration may repeat fields of the run.
    let mut i = 0;
    out.retain(|(key, _)| {
        i += 1;
        i <= known.len() || !known.contains(key)
    });
    out.push(("name".into(), run.name.clone()));
    out
}
