use crate::{Error, Result};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// How a pixel becomes a number; parsed from and printed as `unit` or `standard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// `pixel / white`, in `[0, 1]`.
    Unit,
    /// `(pixel / white - mean) / std` with the data set's [`mean`](crate::Dataset::mean) and [`std`](crate::Dataset::std).
    ///
    /// Where every pixel is the same (`std` is 0) only the mean is taken away.
    #[default]
    Standard,
}

impl Scale {
    /// The value of each of the 256 pixel values, computed in `f64` and rounded once.
    pub(crate) fn table(self, white: u8, mean: f64, std: f64) -> [f32; 256] {
        let (shift, divisor) = match self {
            Scale::Unit => (0.0, 1.0),
            Scale::Standard => (mean, if std == 0.0 { 1.0 } else { std }),
        };
        std::array::from_fn(|pixel| ((pixel as f64 / f64::from(white) - shift) / divisor) as f32)
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Scale::Unit => "unit",
            Scale::Standard => "standard",
        })
    }
}

impl FromStr for Scale {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "unit" => Ok(Scale::Unit),
            "standard" => Ok(Scale::Standard),
            _ => Err(Error::Usage {
                expected: "a scale".to_owned(),
                found: format!("{text:?}"),
                cure: "the scales are unit and standard".to_owned(),
            }),
        }
    }
}

/// As text, as it is parsed and printed.
impl Serialize for Scale {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scale {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn scales_are_read_as_they_are_written() {
        for scale in [Scale::Unit, Scale::Standard] {
            assert_eq!(scale.to_string().parse::<Scale>().unwrap(), scale);
        }
        let error = "units".parse::<Scale>().unwrap_err().to_string();
        assert_eq!(error, r#"expected a scale, found "units": the scales are unit and standard"#);
    }

    #[test]
    fn unit_is_the_division_in_f32() {
        let table = Scale::Unit.table(255, 0.5, 0.5);
        for (pixel, &value) in table.iter().enumerate() {
            assert_eq!(value, pixel as f32 / 255.0);
        }
    }

    #[test]
    fn standard_of_equal_pixels_is_zero_and_not_nan() {
        assert_eq!(Scale::Standard.table(16, 0.25, 0.0)[4], 0.0);
    }
}
