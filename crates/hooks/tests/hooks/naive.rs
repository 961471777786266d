//! Reference implementation of every statistic in `docs/statistics.md`: written directly from the definitions, in f64, over
//! all values of a window.

use taper_hooks::Activation;
use taper_report::{ActivePerSample, FiringRates, Histogram, LayerStats, MAGNITUDES, Quantiles};

/// All values of a window, row-major: `(samples, units, positions)`, or `(samples, positions, units)` if `last`.
pub struct Window {
    /// `None` at a tap.
    pub activation: Option<Activation>,
    pub units: usize,
    pub last: bool,
    pub positions: usize,
    pub xs: Vec<f64>,
    pub ys: Vec<f64>,
}

/// `f'(x)`, independent of the library's; the left derivative where f has a kink.
fn slope(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Identity => 1.0,
        Activation::Relu => f64::from(x > 0.0),
        Activation::Relu6 => f64::from(x > 0.0 && x < 6.0),
        Activation::Relu2 => 2.0 * x.max(0.0),
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                1.0
            } else {
                slope
            }
        }
        Activation::Selu => 1.0507009873554805 * if x > 0.0 { 1.0 } else { 1.6732632423543772 * x.exp() },
        Activation::Tanh => x.cosh().powi(-2),
        Activation::Sigmoid => sigmoid(x) * (1.0 - sigmoid(x)),
        Activation::Silu => sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
        Activation::Hardtanh => f64::from(x.abs() < 1.0),
        other => panic!("no slope for {other} here"),
    }
}

fn mean(xs: impl IntoIterator<Item = f64>) -> Option<f64> {
    let xs: Vec<f64> = xs.into_iter().collect();
    (!xs.is_empty()).then(|| xs.iter().sum::<f64>() / xs.len() as f64)
}

/// Vinje and Gallant's sparseness, and Hoyer's; `None` for fewer than two values and where all are zero.
fn sparseness(ys: &[f64]) -> Option<(f64, f64)> {
    if ys.len() < 2 || ys.iter().all(|y| *y == 0.0) {
        return None;
    }
    let n = ys.len() as f64;
    let a = mean(ys.iter().map(|y| y.abs()))?.powi(2) / mean(ys.iter().map(|y| y * y))?;
    let (l1, l2) = (ys.iter().map(|y| y.abs()).sum::<f64>(), ys.iter().map(|y| y * y).sum::<f64>().sqrt());
    Some(((1.0 - a) / (1.0 - 1.0 / n), (n.sqrt() - l1 / l2) / (n.sqrt() - 1.0)))
}

/// The bin of a magnitude: octaves from 2^-20 to 2^12, each cut into eight.
fn bin(y: f64) -> usize {
    let octave = y.log2().floor();
    let part = ((y / octave.exp2() - 1.0) * 8.0).floor();
    (1.0 + 8.0 * (octave + 20.0) + part).clamp(0.0, MAGNITUDES as f64 - 1.0) as usize
}

impl Window {
    /// The finite pairs `(x, y)` among these indices.
    fn pairs(&self, which: impl Fn(usize) -> bool) -> Vec<(f64, f64)> {
        let all = self.xs.iter().copied().zip(self.ys.iter().copied()).enumerate();
        all.filter(|(i, (_, y))| which(*i) && y.is_finite()).map(|(_, pair)| pair).collect()
    }

    pub fn samples(&self) -> usize {
        self.ys.len() / (self.units * self.positions)
    }

    fn sample(&self, sample: usize) -> Vec<f64> {
        let size = self.units * self.positions;
        self.pairs(|i| i / size == sample).into_iter().map(|(_, y)| y).collect()
    }

    fn unit(&self, unit: usize) -> Vec<(f64, f64)> {
        let of = |i| if self.last { i % self.units } else { i / self.positions % self.units };
        self.pairs(|i| of(i) == unit)
    }

    /// Never at a tap.
    pub fn dead(&self, unit: usize) -> bool {
        let unit = self.unit(unit);
        self.activation.is_some_and(|f| !unit.is_empty() && unit.iter().all(|(x, _)| slope(f, *x) == 0.0))
    }

    fn quantile(sorted: &[f64], q: f64) -> f64 {
        let rank = ((q * sorted.len() as f64).ceil() as usize).max(1);
        let y = sorted[rank - 1];
        if y == 0.0 {
            return 0.0;
        }
        let octave = (y.abs().log2().floor()).exp2();
        let eighths = ((y.abs() / octave - 1.0) * 8.0).floor();
        y.signum() * octave * (1.0 + (eighths + 0.5) / 8.0)
    }

    fn histogram(&self) -> Histogram {
        let mut histogram = Histogram::default();
        for (_, y) in self.pairs(|_| true) {
            match y {
                0.0 => histogram.zeros += 1,
                y if y > 0.0 => histogram.positive[bin(y)] += 1,
                y => histogram.negative[bin(-y)] += 1,
            }
        }
        histogram
    }

    /// The numbers, given which units were dead in the window before.
    pub fn stats(&self, name: &str, before: Option<&[bool]>) -> LayerStats {
        let pairs = self.pairs(|_| true);
        let ys: Vec<f64> = pairs.iter().map(|(_, y)| *y).collect();
        let n = ys.len() as f64;
        let count = |which: &dyn Fn(f64) -> bool| ys.iter().filter(|y| which(**y)).count() as u64;
        let flat = |which: &dyn Fn(f64) -> bool| {
            let flat =
                |f| pairs.iter().filter(|(x, _)| slope(f, *x).abs() < 0.01 && which(*x)).count() as f64;
            self.activation.map(|f| flat(f) / n)
        };
        let center = mean(ys.iter().copied());
        let moment = |k| mean(ys.iter().map(|y| (y - center.unwrap()).powi(k))).filter(|_| n > 0.0);
        let m2 = moment(2);
        let spread = m2.filter(|m2| *m2 > 0.0);
        let mut sorted = ys.clone();
        sorted.sort_by(f64::total_cmp);

        let units: Vec<Vec<(f64, f64)>> = (0..self.units).map(|u| self.unit(u)).collect();
        let dead: Vec<bool> = (0..self.units).map(|u| self.dead(u)).collect();
        let number = |which: &dyn Fn(usize) -> bool| (0..self.units).filter(|u| which(*u)).count() as u64;
        let rate = |u: usize| mean(units[u].iter().map(|(_, y)| f64::from(*y > 0.0))).unwrap();
        let loudness: Vec<f64> =
            units.iter().filter_map(|unit| mean(unit.iter().map(|(_, y)| y.abs()))).collect();
        let score = |h: f64| h / (mean(loudness.iter().copied()).unwrap() + 1e-9);
        let dormant = |tau: f64| Some(loudness.iter().filter(|h| score(**h) <= tau).count() as u64);
        let mut firing_rate = FiringRates::default();
        for u in (0..self.units).filter(|u| !units[*u].is_empty()) {
            match rate(u) {
                0.0 => firing_rate.never += 1,
                1.0 => firing_rate.always += 1,
                // A rate at an edge may be an ulp below it.
                r => firing_rate.between[(r * 20.0 + 1e-9).floor() as usize] += 1,
            }
        }

        let rows: Vec<Vec<f64>> =
            (0..self.samples()).map(|s| self.sample(s)).filter(|s| !s.is_empty()).collect();
        let active: Vec<u64> = rows.iter().map(|s| s.iter().filter(|y| **y != 0.0).count() as u64).collect();
        let scores: Vec<(f64, f64)> = rows.iter().filter_map(|s| sparseness(s)).collect();
        let lifetime = units.iter().filter_map(|unit| {
            let ys: Vec<f64> = unit.iter().map(|(_, y)| *y).collect();
            sparseness(&ys).map(|(s, _)| s)
        });
        let crossed = |was: bool, is: bool| {
            self.activation.and(before).map(|before| number(&|u| before[u] == was && dead[u] == is))
        };

        // The distance between the distribution over all signed bins and its mirror image.
        let histogram = self.histogram();
        let signed = |b: i64| match b {
            0 => histogram.zeros,
            b if b > 0 => histogram.positive[b as usize - 1],
            b => histogram.negative[-b as usize - 1],
        };
        let bins = -(MAGNITUDES as i64)..=MAGNITUDES as i64;
        let apart: u64 = bins.map(|b| signed(b).abs_diff(signed(-b))).sum();
        let floored =
            matches!(self.activation, Some(Activation::Relu | Activation::Relu2 | Activation::Relu6));
        let rare = |u: usize| !units[u].is_empty() && !dead[u] && rate(u) < 0.01;
        LayerStats {
            site: name.to_string(),
            activation: self.activation.map(|f| f.to_string()),
            uses: 1,
            trouble: None,
            units: self.units as u64,
            samples: self.samples() as u64,
            values: self.ys.len() as u64,
            zeros: count(&|y| y == 0.0),
            negatives: count(&|y| y < 0.0),
            positives: count(&|y| y > 0.0),
            near_zeros: count(&|y| y.abs() <= 0.01),
            near_zero_bound: 0.01,
            nan: self.ys.iter().filter(|y| y.is_nan()).count() as u64,
            infinite: self.ys.iter().filter(|y| y.is_infinite()).count() as u64,
            zero_fraction: count(&|y| y == 0.0) as f64 / self.ys.len() as f64,
            mean: center,
            variance: m2,
            skewness: spread.map(|m2| moment(3).unwrap() / m2.powf(1.5)),
            excess_kurtosis: spread.map(|m2| moment(4).unwrap() / m2.powi(2) - 3.0),
            min: sorted.first().copied(),
            max: sorted.last().copied(),
            quantiles: Some(Quantiles {
                q01: Self::quantile(&sorted, 0.01),
                q05: Self::quantile(&sorted, 0.05),
                q25: Self::quantile(&sorted, 0.25),
                q50: Self::quantile(&sorted, 0.5),
                q75: Self::quantile(&sorted, 0.75),
                q95: Self::quantile(&sorted, 0.95),
                q99: Self::quantile(&sorted, 0.99),
            }),
            asymmetry: Some(0.5 * apart as f64 / n),
            histogram: Some(histogram),
            flat_low: flat(&|x| x <= 0.0),
            flat_high: flat(&|x| x > 0.0),
            dead: self.activation.map(|_| number(&|u| dead[u])),
            rare: floored.then(|| number(&rare)),
            rare_units: (0..self.units as u32).filter(|u| floored && rare(*u as usize)).collect(),
            always_on: number(&|u| !units[u].is_empty() && rate(u) == 1.0),
            dormant_0: dormant(0.0),
            dormant_0_025: dormant(0.025),
            dormant_0_1: dormant(0.1),
            died: crossed(false, true),
            revived: crossed(true, false),
            still_dead: crossed(true, true),
            dead_units: (0..self.units as u32).filter(|u| dead[*u as usize]).collect(),
            firing_rate,
            active_per_sample: Some(ActivePerSample {
                mean: mean(active.iter().map(|a| *a as f64)).unwrap(),
                min: *active.iter().min().unwrap(),
                max: *active.iter().max().unwrap(),
            }),
            population_sparseness: mean(scores.iter().map(|(s, _)| *s)),
            hoyer: mean(scores.iter().map(|(_, hoyer)| *hoyer)),
            samples_all_zero: Some(active.iter().filter(|a| **a == 0).count() as u64),
            lifetime_sparseness: mean(lifetime),
        }
    }
}
