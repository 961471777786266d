use crate::{Error, Result};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// A data set by name; parsed from and printed as its [`name`](Choice::name).
///
/// The splits of EMNIST (G. Cohen and others, 2017) are handwritten characters, 28×28. They are not downloaded, because
/// they are published as one archive. In memory the images are upright and classes count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// MNIST if it is available, otherwise `digits` with a warning.
    #[default]
    Auto,
    /// 70,000 handwritten digits, 28×28.
    Mnist,
    /// 70,000 pieces of clothing, 28×28.
    FashionMnist,
    /// 70,000 cursive Japanese characters, 28×28.
    Kmnist,
    /// 1,797 handwritten digits, 8×8, part of the program.
    Digits,
    /// EMNIST: 131,600 characters of 47 classes, equally many of each: digits, capital letters, 11 small letters.
    EmnistBalanced,
    /// EMNIST: 814,255 characters of 62 classes: digits, capital and small letters.
    EmnistByclass,
    /// EMNIST: the same in 47 classes, without the small letters that look like their capitals.
    EmnistBymerge,
    /// EMNIST: 280,000 digits.
    EmnistDigits,
    /// EMNIST: 145,600 letters of 26 classes, capital and small ones together. `a` is class 0.
    EmnistLetters,
    /// EMNIST: 70,000 digits, a new version of MNIST.
    EmnistMnist,
    /// Your own set: four IDX files under MNIST's names, of any size and any number of classes.
    Idx,
}

impl Choice {
    /// Every choice, in the order of help texts.
    pub const ALL: [Choice; 12] = [
        Choice::Auto,
        Choice::Mnist,
        Choice::FashionMnist,
        Choice::Kmnist,
        Choice::Digits,
        Choice::EmnistBalanced,
        Choice::EmnistByclass,
        Choice::EmnistBymerge,
        Choice::EmnistDigits,
        Choice::EmnistLetters,
        Choice::EmnistMnist,
        Choice::Idx,
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Choice::Auto => "auto",
            Choice::Mnist => "mnist",
            Choice::FashionMnist => "fashion-mnist",
            Choice::Kmnist => "kmnist",
            Choice::Digits => "digits",
            Choice::EmnistBalanced => "emnist-balanced",
            Choice::EmnistByclass => "emnist-byclass",
            Choice::EmnistBymerge => "emnist-bymerge",
            Choice::EmnistDigits => "emnist-digits",
            Choice::EmnistLetters => "emnist-letters",
            Choice::EmnistMnist => "emnist-mnist",
            Choice::Idx => "idx",
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Choice::ALL.into_iter().find(|choice| choice.name() == text).ok_or_else(|| Error::Usage {
            expected: "a data set".to_owned(),
            found: format!("{text:?}"),
            cure: format!("the data sets are {}", Choice::ALL.map(Choice::name).join(", ")),
        })
    }
}

/// The text that is parsed and printed.
impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn choices_are_read_as_they_are_written() {
        for choice in Choice::ALL {
            assert_eq!(choice.to_string().parse::<Choice>().unwrap(), choice);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        assert_eq!(
            "cifar".parse::<Choice>().unwrap_err().to_string(),
            "expected a data set, found \"cifar\": the data sets are auto, mnist, fashion-mnist, kmnist, digits, \
             emnist-balanced, emnist-byclass, emnist-bymerge, emnist-digits, emnist-letters, emnist-mnist, idx"
        );
    }
}
