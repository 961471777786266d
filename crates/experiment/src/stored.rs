use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use taper_report::{FORMAT_VERSION, read_config, write_whole};

use crate::{Error, Result};

/// The result of `--resume DIR`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// The directory of a run, or of a grid of them.
    pub dir: PathBuf,
    /// The run's name, if it is one.
    pub only: Option<String>,
    /// The options of its start.
    pub options: Value,
}

/// `grid.json`: the options of all runs below a directory.
#[derive(Serialize, Deserialize)]
struct GridRecord {
    v: u32,
    options: Value,
}

/// The file in the directory of a grid.
const GRID: &str = "grid.json";

impl Stored {
    /// The run in this directory, or the runs below it.
    ///
    /// # Errors
    /// If there is none, or its options are missing.
    pub fn find(dir: &Path) -> Result<Self> {
        let (config, grid) = (dir.join("config.json"), dir.join(GRID));
        if config.exists() {
            let run = read_config(&config)?;
            if !run.config.is_object() {
                let config = config.display();
                return wrong(format!(
                    "{config}: expected the options that the run was started with, found none"
                ));
            }
            return Ok(Self { dir: dir.to_path_buf(), only: Some(run.name), options: run.config });
        }
        if let Err(error) = fs::read_dir(dir) {
            let dir = dir.display();
            return wrong(format!(
                "{dir}: expected the directory of a run to resume: correct the path: {error}"
            ));
        }
        let bytes = match fs::read(&grid) {
            Ok(bytes) => bytes,
            Err(_) => {
                let dir = dir.display();
                return wrong(format!(
                    "{dir}: expected a run to resume, found no config.json and no {GRID}: start it again"
                ));
            }
        };
        let json = |cause| taper_report::Error::Json { path: grid.clone(), line: 1, cause };
        let GridRecord { v, options } = serde_json::from_slice(&bytes).map_err(json)?;
        if v != FORMAT_VERSION {
            return Err(taper_report::Error::Version { path: grid, line: 1, found: v }.into());
        }
        Ok(Self { dir: dir.to_path_buf(), only: None, options })
    }

    /// The stored options, with the values that are given now for these names.
    pub fn with(&self, now: &Value, given: &[&str]) -> Value {
        let mut options = self.options.clone();
        replace(&mut options, now, given);
        options
    }
}

fn wrong<T>(text: String) -> Result<T> {
    Err(Error::Other(text.into()))
}

/// Writes the options of a grid.
pub(crate) fn write_grid(dir: &Path, options: &Value) -> Result<()> {
    let path = dir.join(GRID);
    let record = GridRecord { v: FORMAT_VERSION, options: options.clone() };
    let io = |cause: std::io::Error| taper_report::Error::Io { path: path.clone(), cause };
    let text = serde_json::to_string_pretty(&record).map_err(|cause| io(cause.into()))?;
    Ok(write_whole(&path, text.as_bytes()).map_err(io)?)
}

/// Replaces the fields with these names, at any depth of `now`.
fn replace(options: &mut Value, now: &Value, given: &[&str]) {
    let Some(fields) = now.as_object() else { return };
    for (name, value) in fields {
        if given.contains(&name.as_str()) {
            options[name] = value.clone();
        } else if let Some(inner) = options.get_mut(name).filter(|inner| inner.is_object()) {
            replace(inner, value, given);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_given_now_takes_the_place_of_what_was_given_then() {
        let options =
            json!({ "act": "relu", "widths": [16, 8], "running": { "alert": ["a", "b"], "quiet": true } });
        let stored = Stored { dir: "x".into(), only: None, options };
        let now = json!({ "act": { "sweep": ["selu", "tanh"] }, "widths": null, "running": { "alert": ["c"], "quiet": false } });
        let expected =
            json!({ "act": now["act"], "widths": [16, 8], "running": { "alert": ["c"], "quiet": true } });
        assert_eq!(stored.with(&now, &["act", "alert", "help"]), expected);
    }
}
