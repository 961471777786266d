use crate::{Error, Result};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// The conversion of a pixel to a number; parsed from and printed as `raw`, `unit`, `standard` or mean and standard
/// deviation, `0.5,0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Scale {
    /// The pixel itself, in `[0, white]`: 0 to 255 in MNIST.
    Raw,
    /// `pixel / white`, in `[0, 1]`.
    Unit,
    /// `(pixel / white - mean) / std` with the data set's [`mean`](crate::Dataset::mean) and [`std`](crate::Dataset::std).
    ///
    /// If all pixels are equal (`std` is 0), only the mean is subtracted.
    #[default]
    Standard,
    /// `(pixel / white - mean) / std` with these numbers, as torchvision's `Normalize((mean,), (std,))`.
    Normalize {
        /// Subtracted from each value.
        mean: f64,
        /// The divisor; above 0.
        std: f64,
    },
}

impl Scale {
    /// The numbers `m` and `s` of `(pixel / white - m) / s`, for a data set with this `mean` and `std`.
    pub fn mean_and_std(self, white: u8, mean: f64, std: f64) -> (f64, f64) {
        match self {
            Scale::Raw => (0.0, 1.0 / f64::from(white)),
            Scale::Unit => (0.0, 1.0),
            Scale::Standard => (mean, if std == 0.0 { 1.0 } else { std }),
            Scale::Normalize { mean, std } => (mean, std),
        }
    }

    /// The value of each of the 256 pixel values, computed in `f64` and rounded once.
    pub(crate) fn table(self, white: u8, mean: f64, std: f64) -> [f32; 256] {
        let (mean, std) = self.mean_and_std(white, mean, std);
        std::array::from_fn(|pixel| ((pixel as f64 / f64::from(white) - mean) / std) as f32)
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scale::Raw => f.pad("raw"),
            Scale::Unit => f.pad("unit"),
            Scale::Standard => f.pad("standard"),
            Scale::Normalize { mean, std } => f.pad(&format!("{mean},{std}")),
        }
    }
}

impl FromStr for Scale {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.trim().parse().ok().filter(|x: &f64| x.is_finite());
        let numbers = text.split_once(',').and_then(|(mean, std)| Some((number(mean)?, number(std)?)));
        match (text, numbers) {
            ("raw", _) => Ok(Scale::Raw),
            ("unit", _) => Ok(Scale::Unit),
            ("standard", _) => Ok(Scale::Standard),
            (_, Some((mean, std))) if std > 0.0 => Ok(Scale::Normalize { mean, std }),
            _ => Err(Error::Usage {
                expected: "a scale".to_owned(),
                found: format!("{text:?}"),
                cure: "the scales are raw, unit, standard, and a mean and a standard deviation above 0 such as 0.5,0.5"
                    .to_owned(),
            }),
        }
    }
}

/// The text that is parsed and printed.
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
        let own = Scale::Normalize { mean: 0.1307, std: 0.3081 };
        for scale in [Scale::Raw, Scale::Unit, Scale::Standard, own] {
            assert_eq!(scale.to_string().parse::<Scale>().unwrap(), scale);
        }
        for wrong in ["units", "0.5", "0.5,0", "0.5,-1", "nan,1", "0,inf", "0.5,0.5,0.5"] {
            let error = wrong.parse::<Scale>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("expected a scale, found {wrong:?}: the scales are raw, unit"))
            );
        }
    }

    #[test]
    fn a_mean_and_a_standard_deviation_are_those_of_torchvision() {
        let table = Scale::Normalize { mean: 0.5, std: 0.5 }.table(255, 0.1, 0.3);
        assert_eq!((table[0], table[51], table[255]), (-1.0, -0.6, 1.0));
    }

    #[test]
    fn raw_is_the_pixel_whatever_white_is() {
        for white in 1..=255 {
            let table = Scale::Raw.table(white, 0.1, 0.3);
            assert!(table.iter().enumerate().all(|(pixel, x)| *x == pixel as f32), "white {white}");
        }
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
