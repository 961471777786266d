//! Text form of activations: `relu`, `celu:0.5`.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Activation;
use crate::Error;

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut this = *self;
        let default = Self::ALL.iter().find(|a| a.name() == self.name());
        match this.parameter() {
            Some((_, value)) if default != Some(self) => write!(f, "{}:{value}", self.name()),
            _ => f.write_str(self.name()),
        }
    }
}

/// Shortens a text from a file to one line of readable length, for a message.
fn shown(text: &str) -> String {
    const MOST: usize = 64;
    let cut: String = text.chars().take(MOST).collect();
    format!("{}{}", cut.escape_debug(), if cut.len() < text.len() { "…" } else { "" })
}

impl FromStr for Activation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let Some(mut activation) = Self::ALL.into_iter().find(|a| a.name() == name) else {
            // A much longer text is not similar to any name, and comparing it would take memory for the product of the
            // lengths.
            let short = name.len() <= 64;
            let nearest = Self::ALL
                .iter()
                .filter(|_| short)
                .map(|a| (strsim::damerau_levenshtein(a.name(), name), a.name()))
                .min()
                .filter(|(distance, near)| *distance <= near.len().max(name.len()) / 2);
            let cure = match nearest {
                Some((_, near)) => format!("did you mean {near}?"),
                None => format!("expected one of {}", Self::ALL.map(Self::name).join(", ")),
            };
            return Err(Error::Activation(format!("unknown activation '{}': {cure}", shown(name))));
        };
        let text = shown(text);
        if let Some(value) = value {
            let parsed = value.parse::<f64>().ok().filter(|v| (*v as f32).is_finite());
            match (activation.parameter(), parsed) {
                (None, _) => {
                    return Err(Error::Activation(format!("'{text}': {name} takes no parameter")));
                }
                (Some(("alpha", _)), Some(v)) if v as f32 <= 0.0 => {
                    return Err(Error::Activation(format!("'{text}': alpha must be above 0")));
                }
                (Some((_, parameter)), Some(v)) => *parameter = v,
                (Some((what, _)), None) => {
                    return Err(Error::Activation(format!(
                        "'{text}': expected {name}:<{what}>, a finite number"
                    )));
                }
            }
        }
        Ok(activation)
    }
}

/// The text that is parsed and printed.
impl Serialize for Activation {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Activation {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_reads_back_what_it_prints() {
        for f in Activation::ALL {
            assert_eq!(f.to_string().parse::<Activation>().expect("printed by Display"), f);
        }
        assert_eq!("elu:0.25".parse::<Activation>().expect("valid").to_string(), "elu:0.25");
    }

    #[test]
    fn a_bad_name_or_parameter_is_answered_with_the_cure() {
        let error = |text: &str| text.parse::<Activation>().expect_err("must not parse").to_string();
        assert_eq!(error("slu"), "unknown activation 'slu': did you mean elu?");
        assert_eq!(error("celu:\u{10}"), "'celu:\\u{10}': expected celu:<alpha>, a finite number");
        assert!(
            error(&"r".repeat(1000))
                .starts_with(&format!("unknown activation '{}…': expected", "r".repeat(64)))
        );
        assert!(error("transformer").contains("expected one of identity, relu"));
        assert_eq!(error("relu:2"), "'relu:2': relu takes no parameter");
        assert!(error("celu:x").contains("celu:<alpha>"));
        assert!(error("celu:nan").contains("finite"));
        assert!(error("elu:-1").contains("above 0"));
    }
}
