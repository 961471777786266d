use taper_report::{Histogram, MAGNITUDES};

/// The smallest magnitude that a picture resolves is 2^-10; smaller magnitudes share the bin next to zero.
const NEAREST: i32 = -10;
/// The width of this bin on the axis, in octaves. Values evenly spread around zero have about the same density there as
/// in the octave above, so the bin is not a peak.
pub(crate) const NEXT_TO_ZERO: f64 = 2.0;
/// The histogram's magnitude bins below 2^-10: the underflow bin and ten octaves of eight.
const NEAR: usize = 1 + 10 * 8;

/// Signed logarithmic bins for pictures, wide enough for a set of histograms: four per octave, each of two bins of the
/// histogram.
///
/// The axis is in octaves of magnitude, from [`NEXT_TO_ZERO`] octaves below 2^-10, to the right for positive values and
/// to the left for negative ones. It does not have exact zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bins {
    /// Number of bins for negative values.
    pub negative: usize,
    /// Number of bins for positive values.
    pub positive: usize,
}

/// The picture's bin for a magnitude bin of the histogram.
fn coarse(bin: usize) -> usize {
    if bin < NEAR { 0 } else { 1 + (bin - NEAR) / 2 }
}

/// The magnitudes of a bin of the picture.
fn magnitudes(bin: usize) -> (f64, f64) {
    match bin {
        0 => (0.0, 2_f64.powi(NEAREST)),
        m => {
            let first = NEAR + 2 * (m - 1);
            let (low, high) = Histogram::edges(first.min(MAGNITUDES - 1));
            (low, if first < MAGNITUDES - 1 { Histogram::edges(first + 1).1 } else { high })
        }
    }
}

/// `0.25 to 0.3125`, or for negative values `−0.3125 to −0.25`: the magnitudes from `low` to `high`.
pub(crate) fn limits(sign: f64, (low, high): (f64, f64)) -> String {
    let number = |x: f64, sign: &str| match x {
        x if x.is_infinite() => format!("{sign}∞"),
        0.0 => "0".into(),
        x => format!("{sign}{}", format!("{x:.4}").trim_end_matches('0').trim_end_matches('.')),
    };
    if sign < 0.0 {
        format!("{} to {}", number(high, "−"), number(low, "−"))
    } else {
        format!("{} to {}", number(low, ""), number(high, ""))
    }
}

/// The values of `of(sign, index)` for bins of both signs, which are counted from zero: in the order of the axis.
pub(crate) fn ascending<T>(negative: usize, positive: usize, of: impl Fn(f64, usize) -> T) -> Vec<T> {
    let below = (0..negative).rev().map(|i| of(-1.0, i));
    below.chain((0..positive).map(|i| of(1.0, i))).collect()
}

/// The position of a magnitude on the axis.
fn position(magnitude: f64) -> f64 {
    (magnitude.log2() - f64::from(NEAREST) + NEXT_TO_ZERO).max(0.0)
}

/// Start and end of a bin on the axis. The last has no upper end and is drawn an octave wide.
fn extent(bin: usize) -> (f64, f64) {
    let (low, high) = magnitudes(bin);
    let low = position(low);
    (low, if high.is_finite() { position(high) } else { low + 1.0 })
}

impl Bins {
    /// Widens the range to hold this histogram.
    pub fn include(&mut self, histogram: &Histogram) {
        let used = |counts: &[u64]| counts.iter().rposition(|n| *n > 0).map_or(0, |bin| coarse(bin) + 1);
        self.negative = self.negative.max(used(&histogram.negative));
        self.positive = self.positive.max(used(&histogram.positive));
    }

    /// The values of `of(sign, bin)` for each bin, ascending.
    fn each<T>(self, of: impl Fn(f64, usize) -> T) -> Vec<T> {
        ascending(self.negative, self.positive, of)
    }

    /// The edges of the bins on the axis, in octaves, ascending.
    pub fn extents(self) -> Vec<(f64, f64)> {
        self.each(|sign, m| {
            let (low, high) = extent(m);
            if sign < 0.0 { (-high, -low) } else { (low, high) }
        })
    }

    /// `0.25 to 0.3125` for every bin, ascending.
    pub fn labels(self) -> Vec<String> {
        self.each(|sign, m| limits(sign, magnitudes(m)))
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

    /// The density of every bin: its share of all values, zeros included, divided by its width in octaves, ascending.
    ///
    /// Bins are narrower at the upper end of an octave than at the lower one: undivided counts would show a peak in
    /// every octave.
    pub fn density(self, histogram: &Histogram) -> Vec<f64> {
        let total = histogram.total().max(1) as f64;
        let counts = self.counts(histogram).into_iter().zip(self.extents());
        counts.map(|(n, (low, high))| n as f64 / total / (high - low)).collect()
    }

    /// The ticks of the axis and their labels: powers of ten within the range, and zero.
    pub fn ticks(self) -> Vec<(f64, String)> {
        let mut ticks = vec![(0.0, "0".to_string())];
        let reach = |bins: usize| bins.checked_sub(1).map_or(0.0, |last| extent(last).1);
        for (power, name) in [(-2, "0.01"), (-1, "0.1"), (0, "1"), (1, "10"), (2, "100"), (3, "1000")] {
            let at = position(10_f64.powi(power));
            if at <= reach(self.positive) {
                ticks.push((at, name.into()));
            }
            if at <= reach(self.negative) {
                ticks.push((-at, format!("−{name}")));
            }
        }
        ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(xs: impl IntoIterator<Item = f32>) -> (Bins, Histogram) {
        let (mut bins, mut histogram) = (Bins::default(), Histogram::default());
        xs.into_iter().for_each(|x| histogram.add(x));
        bins.include(&histogram);
        (bins, histogram)
    }

    /// Normal values at the middles of `n` equal shares: Φ is inverted by bisection of its series.
    fn normal(n: usize) -> impl Iterator<Item = f32> {
        // Abramowitz and Stegun 26.2.17: absolute error below 7.5e-8.
        fn phi(x: f64) -> f64 {
            let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
            let b = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
            let tail = b.iter().rev().fold(0.0, |sum, b| (sum + b) * t) * (-0.5 * x * x).exp()
                / (2.0 * std::f64::consts::PI).sqrt();
            if x < 0.0 { tail } else { 1.0 - tail }
        }
        (0..n).map(move |i| {
            let (share, mut low, mut high) = ((i as f64 + 0.5) / n as f64, -8.0, 8.0);
            for _ in 0..50 {
                let middle = 0.5 * (low + high);
                if phi(middle) < share { low = middle } else { high = middle }
            }
            low as f32
        })
    }

    fn maxima(density: &[f64]) -> usize {
        let at = |i: isize| usize::try_from(i).ok().and_then(|i| density.get(i)).copied().unwrap_or(0.0);
        (0..density.len() as isize).filter(|&i| at(i) > at(i - 1) && at(i) > at(i + 1)).count()
    }

    #[test]
    fn the_density_of_relu_of_a_normal_distribution_has_one_local_maximum() {
        let (bins, histogram) = of(normal(400_000).map(|x| x.max(0.0)));
        let density = bins.density(&histogram);
        assert_eq!(maxima(&density), 1, "{density:?}");
        // Undivided counts have a peak in every octave, which the division removes.
        assert!(maxima(&bins.counts(&histogram).iter().map(|n| *n as f64).collect::<Vec<_>>()) > 3);
        let share: f64 = density.iter().zip(bins.extents()).map(|(d, (low, high))| d * (high - low)).sum();
        assert!((share - 0.5).abs() < 1e-4, "{share}");
    }

    #[test]
    fn the_density_of_a_normal_distribution_has_a_maximum_on_either_side() {
        let (bins, histogram) = of(normal(400_000));
        assert_eq!(maxima(&bins.density(&histogram)), 2);
    }

    #[test]
    fn no_value_is_lost_and_zeros_are_in_no_bin() {
        let (bins, histogram) = of([0.0, -0.0, 1e-9, 0.001, 1.0, 1.2, 5e3, -1e-9, -0.3, -1e9]);
        let counts = bins.counts(&histogram);
        assert_eq!(counts.iter().sum::<u64>() + 2, histogram.total());
        assert_eq!((counts.len(), counts.len()), (bins.extents().len(), bins.labels().len()));
    }

    #[test]
    fn a_bin_is_labelled_with_the_magnitudes_it_holds_and_bins_meet() {
        for x in [0.001_f32, 0.04, 1.0, 1.3, 700.0] {
            let (bins, histogram) = of([x]);
            let at = bins.counts(&histogram).iter().position(|n| *n == 1).expect("it is there");
            let (low, high) = magnitudes(at);
            assert!(low <= x as f64 && (x as f64) < high, "{x} is not in [{low}, {high})");
        }
        let (bins, _) = of([0.25, -0.0001, -0.0011]);
        assert_eq!(bins.labels().last().map(String::as_str), Some("0.25 to 0.3125"));
        assert_eq!(bins.labels()[..2], ["−0.0012 to −0.001", "−0.001 to 0"]);
        let extents = bins.extents();
        assert!(extents.windows(2).all(|pair| (pair[0].1 - pair[1].0).abs() < 1e-12));
    }

    #[test]
    fn ticks_are_symmetric_powers_of_ten_within_the_range() {
        let (bins, _) = of([-0.2, 3.0]);
        let names: Vec<String> = bins.ticks().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["−0.1", "−0.01", "0", "0.01", "0.1", "1"]);
    }
}
