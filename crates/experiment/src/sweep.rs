use std::fmt::Display;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// An option with one value or a comma-separated list of values, which makes a grid of runs: `--act relu,selu`.
///
/// In the options of a run every sweep has one value, to which a `Sweep` dereferences. The value is also a label of the
/// run, under the name of the field. Sweeps in nested options count too.
///
/// ```
/// use taper_experiment::Sweep;
///
/// let rates: Sweep<f64> = "0,0.5".parse()?;
/// assert_eq!(rates.values(), [0.0, 0.5]);
/// assert_eq!(*Sweep::one("relu"), "relu");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep<T> {
    /// At least one.
    values: Vec<T>,
}

impl<T> Sweep<T> {
    /// A single value.
    pub fn one(value: T) -> Self {
        Self { values: vec![value] }
    }

    /// All values, at least one.
    pub fn values(&self) -> &[T] {
        &self.values
    }
}

/// The value in the options of a run; of a list the first.
impl<T> Deref for Sweep<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.values[0]
    }
}

impl<T: FromStr<Err: Display>> FromStr for Sweep<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        sweep(|value| value.parse::<T>())(text)
    }
}

/// A `clap` value parser for a [`Sweep`] whose values `one` parses: `value_parser = sweep(rate)`.
pub fn sweep<T, E: Display>(
    one: impl Fn(&str) -> Result<T, E> + Clone,
) -> impl Fn(&str) -> Result<Sweep<T>, String> + Clone {
    move |text| {
        let values = text.split(',').map(|value| one(value).map_err(|error| error.to_string()));
        Ok(Sweep { values: values.collect::<Result<_, _>>()? })
    }
}

/// The JSON form of a sweep: `{"sweep": [..]}`, which distinguishes it from other lists.
const KEY: &str = "sweep";

impl<T: Serialize> Serialize for Sweep<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map([(KEY, &self.values)])
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Sweep<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form<T> {
            Many { sweep: Vec<T> },
            One(T),
        }
        match Form::deserialize(from)? {
            Form::Many { sweep } if sweep.is_empty() => {
                Err(serde::de::Error::custom("expected a value, found none"))
            }
            Form::Many { sweep } => Ok(Self { values: sweep }),
            Form::One(value) => Ok(Self::one(value)),
        }
    }
}

/// Every combination of the values of all sweeps in `options`, with the last sweep changing fastest: the options with
/// single values, and the values by name.
pub(crate) fn combinations(options: &Value) -> Vec<(Value, Vec<(String, Value)>)> {
    let mut sweeps = Vec::new();
    find(options, "", &mut sweeps);
    let mut all = vec![(options.clone(), Vec::new())];
    for (pointer, values) in sweeps {
        let name = pointer.rsplit('/').next().unwrap_or_default();
        let with = |(options, labels): &(Value, Vec<_>), value: &Value| {
            let (mut options, mut labels) = (options.clone(), labels.clone());
            if let Some(place) = options.pointer_mut(&pointer) {
                *place = value.clone();
            }
            labels.push((name.to_string(), value.clone()));
            (options, labels)
        };
        all = all.iter().flat_map(|cell| values.iter().map(move |value| with(cell, value))).collect();
    }
    all
}

/// The positions of the sweeps, as JSON pointers.
fn find(value: &Value, at: &str, found: &mut Vec<(String, Vec<Value>)>) {
    let Some(fields) = value.as_object() else { return };
    match fields.get(KEY).and_then(Value::as_array) {
        Some(values) if fields.len() == 1 => found.push((at.to_string(), values.clone())),
        _ => fields.iter().for_each(|(name, field)| find(field, &format!("{at}/{name}"), found)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_value_is_combined_with_every_other() {
        let options =
            json!({ "a": { "sweep": ["x", "y"] }, "deep": { "b": { "sweep": [1, 2] } }, "c": [3, 4] });
        let all = combinations(&options);
        let labels: Vec<_> =
            all.iter().map(|(_, labels)| format!("{} {}", labels[0].1, labels[1].1)).collect();
        assert_eq!(labels, ["\"x\" 1", "\"x\" 2", "\"y\" 1", "\"y\" 2"]);
        assert_eq!(all[3].0, json!({ "a": "y", "deep": { "b": 2 }, "c": [3, 4] }));
        assert_eq!(combinations(&json!({ "c": 1 })), [(json!({ "c": 1 }), vec![])]);
    }

    #[test]
    fn a_sweep_comes_back_from_json_with_one_value_and_with_many() {
        for (text, values) in [("0.25", json!(0.25)), ("0,0.5", json!({ "sweep": [0.0, 0.5] }))] {
            let sweep: Sweep<f64> = text.parse().unwrap();
            assert_eq!(serde_json::from_value::<Sweep<f64>>(values).unwrap(), sweep);
            assert_eq!(serde_json::from_value::<Sweep<f64>>(json!(sweep)).unwrap(), sweep);
        }
        assert!("0,".parse::<Sweep<f64>>().is_err());
        assert!(serde_json::from_value::<Sweep<f64>>(json!({ "sweep": [] })).is_err());
    }

    #[test]
    fn a_list_may_begin_with_a_minus_where_the_option_says_so() {
        #[derive(clap::Parser)]
        struct Args {
            #[arg(long, allow_hyphen_values = true)]
            scale: Sweep<f64>,
        }
        let args: Args = clap::Parser::try_parse_from(["program", "--scale", "-1,2"]).unwrap();
        assert_eq!(args.scale.values(), [-1.0, 2.0]);
    }
}
