use std::path::Path;

use serde_json::{Value, json};
use taper_report::{Run, read_config};

use crate::{Error, Result};

/// Compares a run with the run in a directory. Returns the stored run if they are equal, and `run` if there is none or
/// `force` accepts the changes, which are then listed in `config.forced`.
///
/// # Errors
/// [`Error::OtherRun`] if the directory has another run, and errors of [`read_config`].
pub fn same_run(path: &Path, mut run: Run, force: bool) -> Result<Run> {
    let config = path.join("config.json");
    if !config.exists() {
        return Ok(run);
    }
    let stored = read_config(&config)?;
    let changes = changes(&stored, &run);
    if changes.is_empty() {
        return Ok(stored);
    }
    if !force {
        return Err(Error::OtherRun { path: path.to_path_buf(), changes });
    }
    let mut forced = stored.config["forced"].as_array().cloned().unwrap_or_default();
    forced.push(changes.join("; ").into());
    if !run.config.is_object() {
        run.config = json!({ "config": run.config });
    }
    run.config["forced"] = forced.into();
    Ok(run)
}

/// Lists the differences between two runs, as text. The options `command`, `data_dir`, `running` and `threads` are ignored,
/// because they do not change the results. Results do not depend on the number of threads. The consumers are ignored too,
/// because they follow from the model.
pub(crate) fn changes(was: &Run, is: &Run) -> Vec<String> {
    let values = |run: &Run| {
        let mut run = Run { consumers: Vec::new(), ..run.clone() };
        if let Some(config) = run.config.as_object_mut() {
            config.retain(|name, _| {
                !["command", "data_dir", "running", "threads", "forced"].contains(&name.as_str())
            });
        }
        serde_json::to_value(run).unwrap_or_default()
    };
    let mut found = Vec::new();
    compare(String::new(), &values(was), &values(is), &mut found);
    found
}

/// Adds the differences between two values to `found`, as text.
pub(crate) fn compare(name: String, was: &Value, is: &Value, found: &mut Vec<String>) {
    match (was, is) {
        (Value::Object(a), Value::Object(b)) => {
            let missing = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(missing) {
                let name = match (name.as_str(), key.as_str()) {
                    ("", "config") => String::new(),
                    ("", key) => key.to_string(),
                    (name, key) => format!("{name}.{key}"),
                };
                compare(name, &was[key], &is[key], found);
            }
        }
        _ if was == is => {}
        _ => {
            let why = if name == "epochs" { ", on which the learning rate depends" } else { "" };
            let change = format!("{name} was {was} and is {is}{why}");
            // An option can be a field of the run, such as the number of epochs.
            if !found.contains(&change) {
                found.push(change);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use taper_report::Consumer;

    use super::*;

    #[test]
    fn changes_are_named_with_both_values_and_threads_are_none() {
        let run = |config: Value| Run { name: "a".into(), epochs: 3, config, ..Run::default() };
        let was =
            run(json!({ "lr": 0.1, "data": { "sha256": "a" }, "threads": 1, "command": ["a"], "gone": 1 }));
        assert_eq!(changes(&was, &was), [""; 0]);
        let mut is =
            run(json!({ "lr": 0.2, "data": { "sha256": "b" }, "threads": 2, "command": [], "new": true }));
        is.epochs = 4;
        is.consumers.push(Consumer { site: "fc1".into(), layer: "fc2".into(), multiplications: 8 });
        let mut found = changes(&was, &is);
        found.sort();
        let expected = [
            "data.sha256 was \"a\" and is \"b\"",
            "epochs was 3 and is 4, on which the learning rate depends",
            "gone was 1 and is null",
            "lr was 0.1 and is 0.2",
            "new was null and is true",
        ];
        assert_eq!(found, expected);
    }
}
