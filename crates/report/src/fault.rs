use std::fmt;

use serde::{Deserialize, Serialize};

/// Batches of a split with a NaN or infinity in the loss, a metric, a gradient, or an activation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NonFinite {
    /// Their number, at least 1.
    pub batches: u64,
    /// The number of skipped steps.
    pub skipped: u64,
    /// The first of them.
    pub first: Fault,
}

/// A batch with a NaN or infinity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// The batch within the pass, from 1.
    pub batch: u64,
    /// Its loss; finite if something else is not. In JSON a number, or one of the texts `NaN`, `inf` and `-inf`.
    #[serde(with = "any_number")]
    pub loss: f64,
    /// Where the first such number was found.
    pub place: Place,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch {}: loss is {}, {}", self.batch, self.loss, self.place)
    }
}

/// The place of a NaN or infinity, as near to its origin as possible. Indices count from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// In the inputs of the batch.
    Data {
        /// The first such sample of the batch.
        sample: u64,
    },
    /// In a parameter.
    Weights {
        /// Its name.
        parameter: String,
        /// The first such unit: the index of dimension 0.
        unit: u64,
    },
    /// At a site, before or after its activation function, while inputs and parameters are finite.
    Site {
        /// The first such site of the forward pass.
        site: String,
        /// The first such unit there.
        unit: u64,
    },
    /// After the last site: in the last layer or the loss.
    Loss,
    /// In a gradient, while the loss is finite.
    Gradient {
        /// The first parameter with such a gradient.
        parameter: String,
        /// The first such unit: the index of dimension 0.
        unit: u64,
    },
    /// In a metric, while the loss is finite.
    Metric {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data { sample } => {
                write!(f, "the inputs of the batch hold NaN or infinity, first in sample {sample}")
            }
            Self::Weights { parameter, unit } => {
                write!(f, "parameter '{parameter}' holds NaN or infinity, first in unit {unit}")
            }
            Self::Site { site, unit } => {
                write!(f, "the first non-finite values are at site '{site}', in unit {unit}")
            }
            Self::Loss => f.write_str("every site is finite, so it is in the last layer or the loss"),
            Self::Gradient { parameter, unit } => {
                write!(f, "the gradient of '{parameter}' holds NaN or infinity, first in unit {unit}")
            }
            Self::Metric { name } => write!(f, "metric '{name}' is not finite"),
        }
    }
}

/// For serde's `with`: a float that may be NaN or infinite, which JSON numbers cannot be.
mod any_number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Number {
        Finite(f64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
        let number = if x.is_finite() { Number::Finite(*x) } else { Number::Text(x.to_string()) };
        number.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        match Number::deserialize(from)? {
            Number::Finite(x) => Ok(x),
            Number::Text(text) => {
                text.parse().map_err(|_| D::Error::custom("expected a number, NaN, inf or -inf"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_which_batch_and_where_and_survives_json() -> serde_json::Result<()> {
        let place = Place::Site { site: "fc1".into(), unit: 3 };
        let fault = Fault { batch: 7, loss: f64::NAN, place };
        let said = "batch 7: loss is NaN, the first non-finite values are at site 'fc1', in unit 3";
        assert_eq!(fault.to_string(), said);
        for loss in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.25, 2.0] {
            let fault = Fault { loss, ..fault.clone() };
            let again: Fault = serde_json::from_str(&serde_json::to_string(&fault)?)?;
            assert_eq!(again.to_string(), fault.to_string());
        }
        assert_eq!(
            serde_json::to_string(&Fault { place: Place::Loss, ..fault })?,
            r#"{"batch":7,"loss":"NaN","place":"loss"}"#
        );
        Ok(())
    }
}
