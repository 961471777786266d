use serde::{Deserialize, Serialize};

use crate::Histogram;

/// Columns on each side of zero.
pub const OCTAVES: usize = 8;

/// How many values fell into each octave of magnitude: a [`Histogram`] in small, for records of which there are many.
///
/// Column 0 holds the magnitudes below ⅛, column 1 those in `[⅛, ¼)`, and so on to column 6 with `[4, 8)`; column 7 holds 8
/// and more. These are the columns of the console's picture. NaN and infinities are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Octaves {
    /// Exact zeros of both signs.
    pub zeros: u64,
    /// Values below zero, the nearest to zero first.
    pub negative: [u64; OCTAVES],
    /// Values above zero, the nearest to zero first.
    pub positive: [u64; OCTAVES],
}

impl Octaves {
    /// The magnitudes that a column covers: `[low, high)`. The last one has no upper end.
    pub fn edges(column: usize) -> (f64, f64) {
        let edge = |column: usize| (column as f64 - 4.0).exp2();
        let low = if column == 0 { 0.0 } else { edge(column) };
        (low, if column + 1 < OCTAVES { edge(column + 1) } else { f64::INFINITY })
    }

    /// Adds other counts to these. A count that would leave 64 bits stays at their end.
    pub fn merge(&mut self, other: &Self) {
        *self = self.each(other, u64::saturating_add);
    }

    /// What was counted since `before`; 0 where that has more.
    pub fn since(&self, before: &Self) -> Self {
        self.each(before, u64::saturating_sub)
    }

    /// How many values were counted; 2^64 − 1 where it is more.
    pub fn total(&self) -> u64 {
        let counts = self.negative.iter().chain(&self.positive);
        counts.fold(self.zeros, |total, n| total.saturating_add(*n))
    }

    fn each(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let both = |a: &[u64; OCTAVES], b: &[u64; OCTAVES]| std::array::from_fn(|i| f(a[i], b[i]));
        Self {
            zeros: f(self.zeros, other.zeros),
            negative: both(&self.negative, &other.negative),
            positive: both(&self.positive, &other.positive),
        }
    }
}

impl From<&Histogram> for Octaves {
    fn from(of: &Histogram) -> Self {
        Self { zeros: of.zeros, negative: columns(&of.negative), positive: columns(&of.positive) }
    }
}

/// Sums of the magnitude bins of each column.
fn columns(counts: &[u64]) -> [u64; OCTAVES] {
    // The first bin ends at 2^-20, and each octave has eight: [⅛, ¼) begins with this one.
    const SECOND: usize = 1 + 17 * 8;
    let first = |column: usize| if column == 0 { 0 } else { SECOND + 8 * (column - 1) };
    std::array::from_fn(|column| {
        let end = if column + 1 < OCTAVES { first(column + 1) } else { counts.len() };
        let bins = counts.get(first(column)..end).unwrap_or_default();
        bins.iter().fold(0, |sum: u64, n| sum.saturating_add(*n))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_the_edges_of_its_column() {
        for x in [1e-9_f32, 0.12499, 0.125, 0.2499, 0.25, 0.99, 1.0, 3.99, 4.0, 7.99, 8.0, 1e9] {
            let mut histogram = Histogram::default();
            [x, x, -x, 0.0].into_iter().for_each(|x| histogram.add(x));
            let of = Octaves::from(&histogram);
            assert_eq!((of.zeros, of.total()), (1, 4));
            let column = of.positive.iter().position(|n| *n == 2).expect("it is there");
            assert_eq!(of.negative[column], 1);
            let (low, high) = Octaves::edges(column);
            assert!(low <= x as f64 && (x as f64) < high, "{x} is not in [{low}, {high})");
        }
    }

    #[test]
    fn what_is_merged_and_taken_away_again_leaves_the_rest() {
        let of = |zeros, n| Octaves { zeros, negative: [n; OCTAVES], positive: [2 * n; OCTAVES] };
        let mut sum = of(1, 2);
        sum.merge(&of(3, 4));
        assert_eq!((sum, sum.since(&of(3, 4))), (of(4, 6), of(1, 2)));
    }
}
