use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use taper_nn::{Link, Params};

use super::{Continual, ContinualConfig, Redo};
use crate::{Error, Result, Upkeep};

/// A method that restarts units, as an option of a program. Its text is `none`, `redo:TAU:PERIOD` or
/// `continual:RATE:MATURITY`; numbers may be omitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Revive {
    /// No units are restarted.
    None,
    /// [`Redo`]; the text has the defaults τ = 0.025 and 1000 steps.
    Redo {
        /// Units with a score of at most τ are restarted; at least 0.
        tau: f64,
        /// Number of steps between restarts, at least 1.
        period: u64,
    },
    /// [`Continual`]; the text has the defaults of [`ContinualConfig`].
    Continual {
        /// [`ContinualConfig::rate`].
        rate: f64,
        /// [`ContinualConfig::maturity`].
        maturity: u64,
    },
}

impl Revive {
    /// The method for these units, for [`Session::upkeep`](crate::Session::upkeep); `None` for [`Revive::None`].
    ///
    /// # Errors
    /// As [`Redo::new`] and [`Continual::new`].
    pub fn upkeep(self, links: &[Link], params: &Params, seed: u64) -> Result<Option<Box<dyn Upkeep>>> {
        Ok(match self {
            Self::None => None,
            Self::Redo { tau, period } => Some(Box::new(Redo::new(links, tau, period, params, seed)?)),
            Self::Continual { rate, maturity } => {
                let config = ContinualConfig { rate, maturity, ..Default::default() };
                Some(Box::new(Continual::new(links, config, params, seed)?))
            }
        })
    }
}

impl fmt::Display for Revive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Redo { tau, period } => write!(f, "redo:{tau}:{period}"),
            Self::Continual { rate, maturity } => write!(f, "continual:{rate}:{maturity}"),
        }
    }
}

impl FromStr for Revive {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            |what: &str, found: &str| Error::Config(format!("revive: expected {what}, found '{found}'"));
        let (name, numbers) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let (first, second) = match numbers.map(|numbers| numbers.split_once(':').unwrap_or((numbers, ""))) {
            Some(("", "")) => return Err(wrong("a number after the colon", text)),
            Some((first, second)) => (Some(first), Some(second).filter(|second| !second.is_empty())),
            None => (None, None),
        };
        let real = |text: Option<&str>, usual: f64, what: &str, most: f64| match text {
            None => Ok(usual),
            Some(text) => match text.parse::<f64>() {
                Ok(x) if x.is_finite() && (0.0..=most).contains(&x) => Ok(x),
                _ => Err(wrong(what, text)),
            },
        };
        let whole = |text: Option<&str>, usual: u64, what: &str, least: u64| match text {
            None => Ok(usual),
            Some(text) => match text.parse::<u64>() {
                Ok(n) if n >= least => Ok(n),
                _ => Err(wrong(what, text)),
            },
        };
        match name {
            "none" if numbers.is_none() => Ok(Self::None),
            "redo" => Ok(Self::Redo {
                tau: real(first, 0.025, "τ of at least 0", f64::MAX)?,
                period: whole(second, 1000, "a period of at least 1 step", 1)?,
            }),
            "continual" => {
                let usual = ContinualConfig::default();
                Ok(Self::Continual {
                    rate: real(first, usual.rate, "a rate from 0 to 1", 1.0)?,
                    maturity: whole(second, usual.maturity, "a maturity in batches", 0)?,
                })
            }
            _ => Err(wrong("none, redo[:TAU[:PERIOD]] or continual[:RATE[:MATURITY]]", text)),
        }
    }
}

/// The text that is parsed and printed.
impl Serialize for Revive {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Revive {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
