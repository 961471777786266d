use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Point};

/// Which checkpoints to keep after a new one; the others are removed. Parsed from and printed as `last:3,best:1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The number of newest ones, at least 1.
    pub last: usize,
    /// The number of those with the highest rank; of two equal ranks the earlier one.
    pub best: usize,
}

impl Default for Keep {
    /// Only the newest.
    fn default() -> Self {
        Self { last: 1, best: 0 }
    }
}

impl Keep {
    /// The checkpoints to remove, of all with their ranks.
    pub(crate) fn superfluous(self, all: &[(Point, Option<f64>)]) -> Vec<Point> {
        let mut newest: Vec<Point> = all.iter().map(|(point, _)| *point).collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        let mut best: Vec<(f64, Point)> = all.iter().filter_map(|(point, x)| Some(((*x)?, *point))).collect();
        best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        best.truncate(self.best);
        let stays = |point: &Point| best.iter().any(|(_, of)| of == point);
        newest.into_iter().skip(self.last.max(1)).filter(|point| !stays(point)).collect()
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "last:{}", self.last)?;
        if self.best > 0 { write!(f, ",best:{}", self.best) } else { Ok(()) }
    }
}

impl FromStr for Keep {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::Config(format!(
                "what to keep: expected last:N, at least 1, and optionally best:N, found '{text}': for instance last:3,best:1"
            ))
        };
        let mut keep = Self::default();
        for part in text.split(',') {
            let (name, n) = part.split_once(':').ok_or_else(wrong)?;
            let n: usize = n.parse().map_err(|_| wrong())?;
            match name {
                "last" if n > 0 => keep.last = n,
                "best" => keep.best = n,
                _ => return Err(wrong()),
            }
        }
        Ok(keep)
    }
}

/// The text that is parsed and printed.
impl Serialize for Keep {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_and_the_best_stay() {
        let at = |epoch, batch| Point { epoch, batch };
        let all = [
            (at(3, 0), Some(0.9)),
            (at(1, 0), Some(0.9)),
            (at(2, 0), Some(0.5)),
            (at(2, 7), None),
            (at(4, 0), Some(f64::NEG_INFINITY)),
        ];
        let gone = |text: &str| text.parse::<Keep>().unwrap().superfluous(&all);
        assert_eq!(gone("last:1"), [at(3, 0), at(2, 7), at(2, 0), at(1, 0)]);
        assert_eq!(gone("last:1,best:1"), [at(3, 0), at(2, 7), at(2, 0)], "of two equals the earlier");
        assert_eq!(gone("last:2,best:2"), [at(2, 7), at(2, 0)]);
        assert_eq!(gone("best:9,last:1"), [at(2, 7)]);
        assert_eq!(gone("last:9"), []);
    }

    #[test]
    fn printed_text_parses_and_invalid_text_is_refused() {
        for text in ["last:1", "last:3,best:1"] {
            assert_eq!(text.parse::<Keep>().unwrap().to_string(), text);
        }
        for wrong in
            ["", "last", "last:0", "last:-1", "best", "best:x", "last:1,", "first:1", "last:1 best:1"]
        {
            assert!(wrong.parse::<Keep>().unwrap_err().to_string().contains("expected last:N"), "{wrong}");
        }
    }
}
