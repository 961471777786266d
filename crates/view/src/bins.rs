use taper_report::{Histogram, MAGNITUDES};

/// The smallest magnitude that a picture resolves is 2^-10: smaller ones share the bin next to zero.
const NEAREST: i32 = -10;
/// Bins per octave in pictures: each is two of the histogram's.
const PARTS: usize = 4;
/// The histogram's magnitude bins below 2^-10: the underflow and ten octaves of eight.
const NEAR: usize = 1 + 10 * 8;

/// Signed logarithmic bins of pictures, wide enough for a set of histograms.
///
/// Every bin is one step wide on the axis: bin `m` of positive values covers `[m, m + 1]`, that of
/// negative ones `[-m - 1, -m]`. Exact zeros are in none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bins {
    /// Number of bins for negative values.
    pub negative: usize,
    /// Number of bins for positive values.
    pub positive: usize,
}

/// Where a magnitude bin of the histogram is drawn.
fn coarse(bin: usize) -> usize {
    if bin < NEAR { 0 } else { 1 + (bin - NEAR) / 2 }
}

/// The magnitudes that a bin of the picture covers.
fn edges(bin: usize) -> (f64, f64) {
    match bin {
        0 => (0.0, 2_f64.powi(NEAREST)),
        m => {
            let first = NEAR + 2 * (m - 1);
            let (low, high) = Histogram::edges(first.min(MAGNITUDES - 1));
            (low, if first < MAGNITUDES - 1 { Histogram::edges(first + 1).1 } else { high })
        }
    }
}

impl Bins {
    /// Widens the range to hold this histogram.
    pub fn include(&mut self, histogram: &Histogram) {
        let used = |counts: &[u64]| counts.iter().rposition(|n| *n > 0).map_or(0, |bin| coarse(bin) + 1);
        self.negative = self.negative.max(used(&histogram.negative));
        self.positive = self.positive.max(used(&histogram.positive));
    }

    /// The middles of all bins on the axis, ascending.
    pub fn positions(self) -> Vec<f64> {
        (-(self.negative as i32)..self.positive as i32).map(|i| f64::from(i) + 0.5).collect()
    }

    /// `0.25 to 0.3125` for every bin, ascending.
    pub fn labels(self) -> Vec<String> {
        let number = |x: f64, sign: &str| match x {
            x if x.is_infinite() => format!("{sign}∞"),
            0.0 => "0".into(),
            x => format!("{sign}{}", format!("{x:.4}").trim_end_matches('0').trim_end_matches('.')),
        };
        let negative = (0..self.negative).rev().map(|m| {
            let (low, high) = edges(m);
            format!("{} to {}", number(high, "−"), number(low, "−"))
        });
        let positive = (0..self.positive).map(|m| {
            let (low, high) = edges(m);
            format!("{} to {}", number(low, ""), number(high, ""))
        });
        negative.chain(positive).collect()
    }

    /// Counts in every bin, ascending.
    pub fn counts(self, histogram: &Histogram) -> Vec<u64> {
        let side = |counts: &[u64], bins: usize| {
            let mut sums = vec![0; bins];
            for (bin, n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
                if let Some(sum) = sums.get_mut(coarse(bin)) {
                    *sum = n.saturating_add(*sum);
                }
            }
            sums
        };
        let mut counts = side(&histogram.negative, self.negative);
        counts.reverse();
        counts.extend(side(&histogram.positive, self.positive));
        counts
    }

    /// Where the axis has its ticks, and what they say: powers of ten within the range, and zero.
    pub fn ticks(self) -> (Vec<f64>, Vec<String>) {
        self.ticks_at(|_| true)
    }

    /// As many of them as there is room for beside each other.
    pub fn few_ticks(self) -> (Vec<f64>, Vec<String>) {
        let wide = self.negative + self.positive > 110;
        self.ticks_at(|power| power > -2 && (!wide || power % 2 != 0))
    }

    fn ticks_at(self, wanted: impl Fn(i32) -> bool) -> (Vec<f64>, Vec<String>) {
        let mut ticks = vec![(0.0, "0".to_string())];
        let powers = [(-2, "0.01"), (-1, "0.1"), (0, "1"), (1, "10"), (2, "100"), (3, "1000")];
        for (power, name) in powers.into_iter().filter(|(power, _)| wanted(*power)) {
            let at = position(10_f64.powi(power));
            if at <= self.positive as f64 {
                ticks.push((at, name.into()));
            }
            if at <= self.negative as f64 {
                ticks.push((-at, format!("−{name}")));
            }
        }
        ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
        ticks.into_iter().unzip()
    }
}

/// Where a magnitude of at least 2^-10 lies on the axis.
fn position(magnitude: f64) -> f64 {
    let octave = magnitude.log2().floor();
    let part = magnitude / octave.exp2() - 1.0;
    1.0 + PARTS as f64 * (octave - f64::from(NEAREST) + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(xs: &[f32]) -> (Bins, Histogram) {
        let (mut bins, mut histogram) = (Bins::default(), Histogram::default());
        xs.iter().for_each(|x| histogram.add(*x));
        bins.include(&histogram);
        (bins, histogram)
    }

    #[test]
    fn no_value_is_lost_and_zeros_are_in_no_bin() {
        let (bins, histogram) = of(&[0.0, -0.0, 1e-9, 0.001, 1.0, 1.2, 5e3, -1e-9, -0.3, -1e9]);
        let counts = bins.counts(&histogram);
        assert_eq!(counts.iter().sum::<u64>() + 2, histogram.total());
        assert_eq!(counts.len(), bins.positions().len());
        assert_eq!(counts.len(), bins.labels().len());
    }

    #[test]
    fn a_bin_is_labelled_with_the_magnitudes_it_holds_and_lies_between_its_ticks() {
        for x in [0.001_f32, 0.04, 1.0, 1.3, 700.0] {
            let (bins, histogram) = of(&[x]);
            let at = bins.counts(&histogram).iter().position(|n| *n == 1).expect("it is there");
            let (low, high) = edges(at);
            assert!(low <= x as f64 && (x as f64) < high, "{x} is not in [{low}, {high})");
            assert!((position(low.max(2_f64.powi(NEAREST))) - at as f64).abs() < 1e-9);
        }
        let (bins, _) = of(&[0.25, -0.0001, -0.0011]);
        assert_eq!(bins.labels().last().map(String::as_str), Some("0.25 to 0.3125"));
        assert_eq!(bins.labels()[..2], ["−0.0012 to −0.001", "−0.001 to 0"]);
    }

    #[test]
    fn ticks_are_symmetric_powers_of_ten_within_the_range() {
        let (bins, _) = of(&[-0.2, 3.0]);
        assert_eq!(bins.ticks().1, ["−0.1", "−0.01", "0", "0.01", "0.1", "1"]);
        assert_eq!(bins.few_ticks().1, ["−0.1", "0", "0.1", "1"]);
    }
}
