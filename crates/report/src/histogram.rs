use serde::{Deserialize, Serialize};

/// Number of magnitude bins on each side of zero: 256 regular ones, one below them and one above.
pub const MAGNITUDES: usize = 258;

/// Sub-bins per octave, as a power of two: 8.
const SUB_BITS: u32 = 3;
/// The smallest magnitude with a regular bin is 2^-20.
const MIN_EXPONENT: i32 = -20;
/// The first magnitude above the regular bins is 2^12.
const MAX_EXPONENT: i32 = 12;

/// Counts of values in signed log-linear bins with fixed edges.
///
/// Every octave `[2^e, 2^(e+1))`, `-20 <= e < 12`, is cut into eight equal parts, on both sides of zero. Exact zeros
/// have their own bin. Magnitudes below 2^-20 (about 1e-6) and from 2^12 (4096) are counted in an underflow and an
/// overflow bin per sign. Edges are the same for every layer, epoch, run and machine, so histograms add and subtract
/// bin by bin, and the bin of a value follows from its bits: the exponent and the first three bits of the mantissa.
///
/// NaN and infinities are not counted here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Sparse", try_from = "Sparse")]
pub struct Histogram {
    /// Exact zeros of both signs.
    pub zeros: u64,
    /// Counts of positive values by magnitude: `[underflow, 256 regular bins, overflow]`.
    pub positive: Vec<u64>,
    /// Counts of negative values by magnitude, in the same order: nearest to zero first.
    pub negative: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { zeros: 0, positive: vec![0; MAGNITUDES], negative: vec![0; MAGNITUDES] }
    }
}

impl Histogram {
    /// The magnitude bin of a finite, non-zero value, in `0..MAGNITUDES`.
    ///
    /// The bin of zero is 0 too: count zeros separately.
    #[inline(always)]
    pub fn magnitude(x: f32) -> usize {
        let first = (127 + MIN_EXPONENT) << SUB_BITS;
        let bin = ((x.to_bits() & 0x7fff_ffff) >> (23 - SUB_BITS)) as i32 - first + 1;
        bin.clamp(0, MAGNITUDES as i32 - 1) as usize
    }

    /// The magnitudes that bin `bin` covers: `[low, high)`. The last bin has no upper end.
    pub fn edges(bin: usize) -> (f64, f64) {
        let parts = 1 << SUB_BITS;
        let edge = |i: usize| {
            let octave = (MIN_EXPONENT + (i / parts) as i32) as f64;
            octave.exp2() * (1.0 + (i % parts) as f64 / parts as f64)
        };
        match bin {
            0 => (0.0, edge(0)),
            b if b < MAGNITUDES - 1 => (edge(b - 1), edge(b)),
            _ => ((MAX_EXPONENT as f64).exp2(), f64::INFINITY),
        }
    }

    /// Counts one finite value.
    pub fn add(&mut self, x: f32) {
        if x == 0.0 {
            self.zeros += 1;
        } else if x > 0.0 {
            self.positive[Self::magnitude(x)] += 1;
        } else {
            self.negative[Self::magnitude(x)] += 1;
        }
    }

    /// Adds another histogram's counts to this one's. Counts saturate at 2^64 − 1, which only a file can reach.
    pub fn merge(&mut self, other: &Self) {
        self.zeros = self.zeros.saturating_add(other.zeros);
        for (a, b) in self.positive.iter_mut().zip(&other.positive) {
            *a = a.saturating_add(*b);
        }
        for (a, b) in self.negative.iter_mut().zip(&other.negative) {
            *a = a.saturating_add(*b);
        }
    }

    /// The number of values; 2^64 − 1 if there are more.
    pub fn total(&self) -> u64 {
        let counts = self.positive.iter().chain(&self.negative);
        counts.fold(self.zeros, |total, n| total.saturating_add(*n))
    }

    /// Total-variation distance between the distribution and its mirror image, in `[0, 1]`.
    ///
    /// `½ Σ_b |h(b) − h(−b)| / Σ_b h(b)`: 0 for a symmetric distribution, 1 for a one-sided one without
    /// zeros, ½ for ReLU of a symmetric input. `None` when nothing was counted.
    pub fn asymmetry(&self) -> Option<f64> {
        // Each pair of bins appears twice in the sum over signed bins, which cancels the factor ½.
        let pairs = self.positive.iter().zip(&self.negative);
        let apart = pairs.fold(0_u64, |apart, (p, n)| apart.saturating_add(p.abs_diff(*n)));
        let total = self.total();
        (total > 0).then(|| apart as f64 / total as f64)
    }

    /// The value below which a fraction `q` of the values lies, `q` in `[0, 1]`.
    ///
    /// The sample of rank `⌈q·n⌉` (from 1) is found exactly; the result is the middle of its bin, so in the regular
    /// range the relative error is at most 1/16 (a bin is at most an eighth of its lower edge wide). Underflow returns
    /// ±2^-21, overflow ±2^12. `None` without values.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).clamp(1, total);
        let middle = |bin: usize| match Self::edges(bin) {
            (low, high) if high.is_finite() => (low + high) / 2.0,
            (low, _) => low,
        };
        let negative = (0..MAGNITUDES).rev().map(|b| (-middle(b), self.negative[b]));
        let positive = (0..MAGNITUDES).map(|b| (middle(b), self.positive[b]));
        let mut seen = 0;
        for (value, count) in negative.chain([(0.0, self.zeros)]).chain(positive) {
            seen = count.saturating_add(seen);
            if seen >= rank {
                return Some(value);
            }
        }
        None
    }
}

/// The serialised form of a histogram: non-empty bins, as `[bin, count]`.
#[derive(Clone, Serialize, Deserialize)]
struct Sparse {
    zeros: u64,
    negative: Vec<(usize, u64)>,
    positive: Vec<(usize, u64)>,
}

impl From<Histogram> for Sparse {
    fn from(h: Histogram) -> Self {
        let sparse = |counts: Vec<u64>| counts.into_iter().enumerate().filter(|(_, n)| *n > 0).collect();
        Self { zeros: h.zeros, negative: sparse(h.negative), positive: sparse(h.positive) }
    }
}

impl TryFrom<Sparse> for Histogram {
    type Error = &'static str;

    fn try_from(s: Sparse) -> Result<Self, &'static str> {
        let mut histogram = Self { zeros: s.zeros, ..Self::default() };
        let mut total = Some(s.zeros);
        for (counts, sparse) in [(&mut histogram.negative, s.negative), (&mut histogram.positive, s.positive)]
        {
            if !sparse.is_sorted_by(|a, b| a.0 < b.0) {
                return Err("a histogram: expected ascending bins");
            }
            for (bin, n) in sparse {
                *counts.get_mut(bin).ok_or("a histogram: expected bins below 258")? = n;
                total = total.and_then(|total| total.checked_add(n));
            }
        }
        total.map(|_| histogram).ok_or("a histogram of 2^64 values or more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_the_edges_of_its_bin() {
        let mut x = 1e-9_f32;
        while x < 1e6 {
            let (low, high) = Histogram::edges(Histogram::magnitude(x));
            assert!(low <= x as f64 && (x as f64) < high, "{x} is not in [{low}, {high})");
            x *= 1.0137;
        }
    }

    #[test]
    fn edges_meet_and_octaves_have_eight_parts() {
        for bin in 0..MAGNITUDES - 1 {
            assert_eq!(Histogram::edges(bin).1, Histogram::edges(bin + 1).0);
        }
        let one = Histogram::magnitude(1.0);
        assert_eq!(Histogram::edges(one), (1.0, 1.125));
        assert_eq!(Histogram::magnitude(2.0), one + 8);
    }

    #[test]
    fn asymmetry_is_zero_for_mirrored_half_for_rectified_and_one_for_one_sided_values() {
        let of = |xs: &[f32]| {
            let mut h = Histogram::default();
            xs.iter().for_each(|&x| h.add(x));
            h.asymmetry()
        };
        assert_eq!(of(&[-1.0, 1.0, 0.0, 3.0, -3.0]), Some(0.0));
        assert_eq!(of(&[0.0, 1.0, 0.0, 3.0]), Some(0.5));
        assert_eq!(of(&[0.1, 1.0]), Some(1.0));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_quantile_is_within_a_sixteenth_of_the_sample_of_its_rank() {
        let xs: Vec<f32> = (0..1001).map(|i| ((i as f32) - 500.0) / 37.0).collect();
        let mut h = Histogram::default();
        xs.iter().for_each(|&x| h.add(x));
        for q in [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0] {
            let exact = xs[((q * 1001.0_f64).ceil() as usize).max(1) - 1] as f64;
            let got = h.quantile(q).expect("it is not empty");
            assert!((got - exact).abs() <= exact.abs() / 16.0, "q {q}: {got} against {exact}");
        }
    }

    #[test]
    fn a_histogram_survives_json() {
        let mut h = Histogram::default();
        [0.0, -0.0, 1e-9, -1e9, 0.3, 0.3].iter().for_each(|&x| h.add(x));
        let text = serde_json::to_string(&h).expect("it has no maps");
        assert_eq!(serde_json::from_str::<Histogram>(&text).expect("it was just written"), h);
        assert!(
            serde_json::from_str::<Histogram>(r#"{"zeros":1,"negative":[],"positive":[[999,1]]}"#).is_err()
        );
    }
}
