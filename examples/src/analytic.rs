use rand_distr::{Distribution as _, StandardNormal, Uniform};
use taper::hooks::{Activation, Rng};
use taper::report::{Histogram, LayerStats, MAGNITUDES};

/// A symmetric distribution with mean 0 and variance 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Law {
    /// N(0, 1).
    Normal,
    /// Uniform between ±√3.
    Uniform,
}

/// The moments and shares of a function's output. NaN for undefined values: skewness without variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers {
    /// Mean.
    pub mean: f64,
    /// Population standard deviation.
    pub std: f64,
    /// `m3 / m2^1.5`.
    pub skewness: f64,
    /// `m4 / m2² − 3`.
    pub excess_kurtosis: f64,
    /// Share of exact zeros.
    pub zero_fraction: f64,
    /// Share of values below zero.
    pub negative_fraction: f64,
    /// As [`Histogram::asymmetry`], with the same bins.
    pub asymmetry: f64,
    /// Share of values with `|f'(xs)| < 0.01`.
    pub flat_fraction: f64,
}

impl Law {
    /// The number of values.
    pub fn sample(self, n: usize, rng: &mut Rng) -> Vec<f32> {
        let edge = 3.0_f32.sqrt();
        match (self, Uniform::new_inclusive(-edge, edge)) {
            (Self::Uniform, Ok(uniform)) => uniform.sample_iter(rng).take(n).collect(),
            _ => StandardNormal.sample_iter(rng).take(n).collect(),
        }
    }

    /// Points and weights with sum 1: the three points of Gauss and Legendre in each of many short intervals.
    ///
    /// The range is cut at integers, where all kinks are, so no interval has a kink inside.
    pub fn nodes(self) -> Vec<(f64, f64)> {
        const PARTS: usize = 1000;
        let edge = match self {
            Self::Normal => 12.0, // the rest is below 1e-32
            Self::Uniform => 3.0_f64.sqrt(),
        };
        let density = |x: f64| match self {
            Self::Normal => (-0.5 * x * x).exp(),
            Self::Uniform => 1.0,
        };
        let inner = (-12..=12).map(f64::from).filter(|cut| cut.abs() < edge);
        let cuts: Vec<f64> = [-edge].into_iter().chain(inner).chain([edge]).collect();
        let mut nodes = Vec::new();
        for cut in cuts.windows(2) {
            let half = (cut[1] - cut[0]) / (2 * PARTS) as f64;
            for i in 0..PARTS {
                let middle = cut[0] + (2 * i + 1) as f64 * half;
                let aside = half * 0.6_f64.sqrt();
                for (x, weight) in [(middle - aside, 5.0), (middle, 8.0), (middle + aside, 5.0)] {
                    nodes.push((x, weight * half * density(x)));
                }
            }
        }
        let whole: f64 = nodes.iter().map(|(_, weight)| weight).sum();
        nodes.iter_mut().for_each(|(_, weight)| *weight /= whole);
        nodes
    }
}

impl Numbers {
    /// By integration over the [`Law::nodes`] of an input.
    pub fn analytic(f: Activation, nodes: &[(f64, f64)]) -> Self {
        let ys: Vec<(f64, f64)> =
            nodes.iter().map(|(x, weight)| (f64::from(f.value(*x as f32)), *weight)).collect();
        let sum = |term: &dyn Fn(f64) -> f64| ys.iter().map(|(y, weight)| weight * term(*y)).sum::<f64>();
        let mean = sum(&|y| y);
        let moment = |k: i32| sum(&|y| (y - mean).powi(k));
        let m2 = moment(2);
        let mut bins = [0.0; MAGNITUDES];
        for (y, weight) in &ys {
            // Values on the left cancel those at the mirror image on the right.
            bins[Histogram::magnitude(*y as f32)] += if *y == 0.0 { 0.0 } else { weight.copysign(*y) };
        }
        let flat = nodes.iter().filter(|(x, _)| f.derivative(*x as f32).abs() < 0.01);
        Self {
            mean,
            std: m2.sqrt(),
            skewness: moment(3) / m2.powf(1.5),
            excess_kurtosis: moment(4) / (m2 * m2) - 3.0,
            zero_fraction: sum(&|y| f64::from(y == 0.0)),
            negative_fraction: sum(&|y| f64::from(y < 0.0)),
            asymmetry: bins.iter().map(|apart: &f64| apart.abs()).sum(),
            flat_fraction: flat.map(|(_, weight)| weight).sum(),
        }
    }

    /// From the numbers of a recorder.
    pub fn measured(stats: &LayerStats) -> Self {
        let or_none = |x: Option<f64>| x.unwrap_or(f64::NAN);
        Self {
            mean: or_none(stats.mean),
            std: or_none(stats.std()),
            skewness: or_none(stats.skewness),
            excess_kurtosis: or_none(stats.excess_kurtosis),
            zero_fraction: stats.zero_fraction,
            negative_fraction: stats.negatives as f64 / stats.values.max(1) as f64,
            asymmetry: or_none(stats.asymmetry),
            flat_fraction: or_none(stats.flat_low) + or_none(stats.flat_high),
        }
    }

    /// With names, in the order of the fields.
    pub fn named(&self) -> [(&'static str, f64); 8] {
        [
            ("mean", self.mean),
            ("std", self.std),
            ("skewness", self.skewness),
            ("excess_kurtosis", self.excess_kurtosis),
            ("zero_fraction", self.zero_fraction),
            ("negative_fraction", self.negative_fraction),
            ("asymmetry", self.asymmetry),
            ("flat_fraction", self.flat_fraction),
        ]
    }

    /// As cells of a table, in the order of the fields.
    pub fn cells(&self) -> [String; 8] {
        self.named().map(|(name, x)| match name {
            _ if x.is_nan() => "–".to_string(),
            "zero_fraction" | "negative_fraction" | "flat_fraction" => share(x),
            _ if x.abs() >= 1e4 => format!("{x:.1e}"),
            _ if x.abs() < 5e-4 => "0.000".to_string(),
            _ => format!("{x:.3}"),
        })
    }
}

/// A share in percent: `0%` is exactly none, `100%` is exactly all.
pub fn share(x: f64) -> String {
    match 100.0 * x {
        p if p < 1e-10 => "0%".to_string(),
        p if p < 0.05 => "<0.1%".to_string(),
        p if p >= 100.0 - 1e-10 => "100%".to_string(),
        p if p >= 99.95 => ">99.9%".to_string(),
        p => format!("{p:.1}%"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_nodes_have_the_moments_of_their_law() {
        for (law, kurtosis) in [(Law::Normal, 0.0), (Law::Uniform, -1.2)] {
            let of = Numbers::analytic(Activation::Identity, &law.nodes());
            let apart = [
                of.mean,
                of.std - 1.0,
                of.skewness,
                of.excess_kurtosis - kurtosis,
                of.negative_fraction - 0.5,
            ];
            assert!(apart.iter().all(|x| x.abs() < 1e-7), "{law:?}: {of:?}");
            assert!(of.asymmetry < 1e-9 && of.zero_fraction == 0.0 && of.flat_fraction == 0.0);
        }
    }

    #[test]
    fn relu_of_a_symmetric_input_is_half_zeros_and_half_asymmetric() {
        let of = Numbers::analytic(Activation::Relu, &Law::Normal.nodes());
        assert!((of.zero_fraction - 0.5).abs() < 1e-12 && (of.asymmetry - 0.5).abs() < 1e-12);
        assert!((of.mean - (0.5 / std::f64::consts::PI).sqrt()).abs() < 1e-7);
    }
}
