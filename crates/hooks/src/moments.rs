use serde::{Deserialize, Serialize};

use crate::bits;

/// Mean and central moments of a set of values in f64, with their extremes. Sets merge exactly in real
/// arithmetic (Pébay 2008), so data may be split in any way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Moments {
    pub count: u64,
    #[serde(with = "bits")]
    pub mean: f64,
    /// Sums of powers of the deviation from the mean.
    #[serde(with = "bits")]
    pub m2: f64,
    #[serde(with = "bits")]
    m3: f64,
    #[serde(with = "bits")]
    m4: f64,
    #[serde(with = "bits::single")]
    pub min: f32,
    #[serde(with = "bits::single")]
    pub max: f32,
}

impl Default for Moments {
    fn default() -> Self {
        Self { count: 0, mean: 0.0, m2: 0.0, m3: 0.0, m4: 0.0, min: f32::INFINITY, max: f32::NEG_INFINITY }
    }
}

impl Moments {
    /// Moments of finite values, in two passes over each piece.
    pub fn of(ys: &[f32]) -> Self {
        let mut moments = Self::default();
        for ys in ys.chunks(CHUNK) {
            let mean = ys.iter().map(|y| *y as f64).sum::<f64>() / ys.len() as f64;
            let mut powers = [0.0; 4];
            for y in ys {
                let d = *y as f64 - mean;
                for (k, sum) in (1..).zip(&mut powers) {
                    *sum += d.powi(k);
                }
            }
            let extremes =
                ys.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), y| (a.min(*y), b.max(*y)));
            moments.merge(&Self::about(mean, powers, ys.len() as u64, extremes));
        }
        moments
    }

    /// Moments of `count` values from the sums of the first four powers of their deviations from `shift`, which should
    /// be near their mean (see [`Moments::keeps_digits`]), and from the smallest and the largest value.
    pub fn about(shift: f64, [p1, p2, p3, p4]: [f64; 4], count: u64, (min, max): (f32, f32)) -> Self {
        let e = p1 / count as f64;
        Self {
            count,
            mean: shift + e,
            m2: p2 - e * p1,
            m3: p3 - 3.0 * e * p2 + 2.0 * e * e * p1,
            m4: p4 - 4.0 * e * p3 + 6.0 * e * e * p2 - 3.0 * e * e * e * p1,
            min,
            max,
        }
    }

    /// Whether moments that were computed from powers about zero lost few digits by cancellation. `squares` is the sum of
    /// squares about zero; it may be 8 times that about the mean, so the mean is at most √7 standard deviations from zero.
    pub fn keeps_digits(&self, squares: f64) -> bool {
        squares <= 8.0 * self.m2
    }

    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (na, nb) = (self.count as f64, other.count as f64);
        let n = na + nb;
        let d = other.mean - self.mean;
        let (a, b) = (na / n, nb / n);
        let m2 = self.m2 + other.m2 + d * d * na * b;
        let m3 = self.m3 + other.m3 + d * d * d * na * b * (a - b) + 3.0 * d * (a * other.m2 - b * self.m2);
        let m4 = self.m4
            + other.m4
            + d * d * d * d * na * b * (a * a - a * b + b * b)
            + 6.0 * d * d * (a * a * other.m2 + b * b * self.m2)
            + 4.0 * d * (a * other.m3 - b * self.m3);
        *self = Self {
            count: self.count + other.count,
            mean: self.mean + d * b,
            m2,
            m3,
            m4,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        };
    }

    /// Population variance, or `None` without values.
    pub fn variance(&self) -> Option<f64> {
        (self.count > 0).then(|| self.m2 / self.count as f64)
    }

    /// `m3 / m2^1.5`, or `None` if the variance is 0.
    pub fn skewness(&self) -> Option<f64> {
        let variance = self.variance().filter(|v| *v > 0.0)?;
        Some(self.m3 / self.count as f64 / variance.powf(1.5))
    }

    /// `m4 / m2² − 3`, or `None` if the variance is 0.
    pub fn excess_kurtosis(&self) -> Option<f64> {
        let variance = self.variance().filter(|v| *v > 0.0)?;
        Some(self.m4 / self.count as f64 / (variance * variance) - 3.0)
    }
}

/// Values whose mean and powers are summed at once by [`Moments::of`].
const CHUNK: usize = 704;

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudo-random numbers: the fractional parts of multiples of the golden ratio.
    fn values(n: usize, mean: f32) -> Vec<f32> {
        (0..n).map(|i| mean + ((i as f64 * 0.618_033_988_749_894_9) % 1.0).powi(2) as f32).collect()
    }

    fn close(a: Option<f64>, b: Option<f64>, relative: f64) {
        let (a, b) = (a.expect("has a value"), b.expect("has a value"));
        assert!((a - b).abs() <= relative * b.abs(), "{a} against {b}");
    }

    #[test]
    fn moments_agree_with_two_passes_in_f64_also_far_from_zero() {
        for mean in [0.0, 300.0, -5000.0] {
            let ys = values(100_000, mean);
            let mut got = Moments::default();
            ys.chunks(1024).for_each(|chunk| got.merge(&Moments::of(chunk)));
            let n = ys.len() as f64;
            let exact = ys.iter().map(|y| *y as f64).sum::<f64>() / n;
            let moment = |k| ys.iter().map(|y| (*y as f64 - exact).powi(k)).sum::<f64>() / n;
            close(Some(got.mean), Some(exact), 1e-9);
            close(got.variance(), Some(moment(2)), 1e-6);
            close(got.skewness(), Some(moment(3) / moment(2).powf(1.5)), 1e-6);
            close(got.excess_kurtosis(), Some(moment(4) / moment(2).powi(2) - 3.0), 1e-6);
        }
    }

    #[test]
    fn merging_in_any_order_and_split_changes_nothing() {
        let ys = values(5000, 2.0);
        let whole = Moments::of(&ys);
        for size in [1, 7, 640, 4999] {
            let parts: Vec<Moments> = ys.chunks(size).map(Moments::of).collect();
            let (mut forward, mut backward) = (Moments::default(), Moments::default());
            parts.iter().for_each(|p| forward.merge(p));
            parts.iter().rev().for_each(|p| backward.merge(p));
            for merged in [forward, backward] {
                assert_eq!((merged.count, merged.min, merged.max), (whole.count, whole.min, whole.max));
                close(merged.variance(), whole.variance(), 1e-12);
                close(merged.skewness(), whole.skewness(), 1e-11);
                close(merged.excess_kurtosis(), whole.excess_kurtosis(), 1e-11);
            }
        }
    }

    #[test]
    fn a_constant_has_no_skewness_and_nothing_has_no_variance() {
        let constant = Moments::of(&[0.1; 100]);
        assert_eq!(
            (constant.variance(), constant.skewness(), constant.excess_kurtosis()),
            (Some(0.0), None, None)
        );
        assert_eq!(Moments::of(&[]).variance(), None);
    }
}
