use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The labels that distinguish a run in its grid: names and values, such as `act: "relu"` and `dropout: 0.5`.
///
/// Values are texts, numbers or truth values. Tables and pictures make columns, colours and line styles of the labels
/// that differ between the runs they show.
pub type Labels = BTreeMap<String, serde_json::Value>;

/// The value of a label as text: `relu`, `0.5`.
pub fn label_value(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        // JSON writes `0.0` for 0.
        serde_json::Value::Number(x) if x.is_f64() => x.as_f64().unwrap_or(f64::NAN).to_string(),
        other => other.to_string(),
    }
}

/// A short form of a label: `relu` for a text, `dropout 0.5` for anything else.
pub fn label_text(name: &str, value: &serde_json::Value) -> String {
    if value.is_string() { label_value(value) } else { format!("{name} {}", label_value(value)) }
}

/// The description of a run: enough to name it, to distinguish it, and to repeat it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// A short name, unique within a grid of runs: `relu-dropout0.5-seed1`.
    pub name: String,
    /// The data set that was used: `mnist`, `digits`.
    pub dataset: String,
    /// The model with its sizes, as text: `mlp 784-512-256-10`.
    pub model: String,
    /// The labels that distinguish the run: see [`Labels`].
    pub labels: Labels,
    /// The loss and its unit: `mean cross-entropy per sample, in nats`.
    pub loss: String,
    /// The seed of all random numbers of the run.
    pub seed: u64,
    /// Number of trainable parameters.
    pub parameters: u64,
    /// Number of planned epochs.
    pub epochs: u32,
    /// The layers that multiply the values of the sites, as far as the program states them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consumers: Vec<Consumer>,
    /// Everything else that is needed to repeat the run: options and versions.
    pub config: serde_json::Value,
}

/// A layer that multiplies the values of a site by its weights. A value that is 0 makes its multiplications unnecessary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Name of the site: `fc1`.
    pub site: String,
    /// Name of the layer: `fc2`.
    pub layer: String,
    /// Its number of multiplications per sample, without skipping. Zero padding is not multiplied.
    pub multiplications: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_short_where_its_value_says_enough() {
        let texts =
            [serde_json::json!("relu"), 0.0.into(), 64.into(), true.into()].map(|x| label_text("a", &x));
        assert_eq!(texts, ["relu", "a 0", "a 64", "a true"]);
    }
}
