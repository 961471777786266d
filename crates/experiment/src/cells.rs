use serde::de::DeserializeOwned;
use serde_json::Value;
use taper_report::{Labels, label_value};

use crate::sweep::combinations;
use crate::{Error, Options, Result};

/// One run of the grid; every sweep in its options has one value.
pub(crate) struct Cell<A> {
    pub args: A,
    pub about: About,
}

/// The parts of a run that do not depend on the program's own options.
pub(crate) struct About {
    /// Unique within the grid, and the name of a directory: `relu-dropout0.5-seed1`.
    pub name: String,
    pub labels: Labels,
    pub options: Options,
    /// The options as JSON.
    pub json: Value,
}

/// Every combination of the sweeps in `options` with every seed. Duplicate combinations are one run.
///
/// # Errors
/// If the options are not those of this program.
pub(crate) fn cells<A: DeserializeOwned>(options: &Value, program: &str) -> Result<Vec<Cell<A>>> {
    let all: Options = parse(options)?;
    let mut cells: Vec<Cell<A>> = Vec::new();
    for (json, labels) in combinations(options) {
        for i in 0..all.training.seeds as u64 {
            let seed = all.training.seed.wrapping_add(i);
            let mut json = json.clone();
            (json["seed"], json["seeds"]) = (seed.into(), 1.into());
            let value = |(name, value): &(String, Value)| match value {
                Value::String(text) => text.clone(),
                value => format!("{name}{}", label_value(value)),
            };
            let mut parts: Vec<String> = labels.iter().map(value).collect();
            if parts.is_empty() {
                parts.push(program.to_string());
            }
            let name = file_name(&format!("{}-seed{seed}", parts.join("-")));
            if cells.iter().all(|cell| cell.about.name != name) {
                let (args, options) = (parse(&json)?, parse(&json)?);
                let labels = labels.iter().cloned().collect();
                cells.push(Cell { args, about: About { name, labels, options, json } });
            }
        }
    }
    Ok(cells)
}

/// Options from JSON.
pub(crate) fn parse<T: DeserializeOwned>(options: &Value) -> Result<T> {
    T::deserialize(options).map_err(|error| {
        Error::Other(
            format!(
                "options: {error}: expected those of this program, with taper_experiment::Options flattened"
            )
            .into(),
        )
    })
}

/// The text with `_` instead of characters that a file system may refuse.
pub(crate) fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}
