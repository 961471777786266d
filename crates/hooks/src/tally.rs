use serde::{Deserialize, Serialize};
use taper_report::{ActivePerSample, FiringRates, Histogram, LayerStats, Quantiles};

use crate::moments::Moments;
use crate::{Parts, bits};

/// A unit that fires on less than this share of observations is rare.
pub(crate) const RARE: f64 = 0.01;
/// Keeps dormancy scores defined if every unit is silent (Sokar et al. 2023).
const DORMANT_EPS: f64 = 1e-9;

/// The properties that decide which numbers a site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kind {
    /// Whether there is an f', which dead and flat need.
    pub has_slope: bool,
    /// Whether the activation function is 0 for every negative input.
    pub zero_floored: bool,
    /// Whether it is the output of the network.
    pub output: bool,
}

/// All sums of one site over a window. Tallies of the same site merge.
///
/// Its size grows with the number of units, not with the number of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub samples: u64,
    pub values: u64,
    pub zeros: u64,
    pub negatives: u64,
    pub positives: u64,
    pub near_zeros: u64,
    pub nan: u64,
    pub infinite: u64,
    pub flat_low: u64,
    pub flat_high: u64,
    pub moments: Moments,
    pub histogram: Histogram,
    pub units: Units,
    pub per_sample: PerSample,
}

/// Sums of every unit: one vector per sum, so that a step adds to all units in vector code. Serialised as one list per unit,
/// since there may be thousands.
///
/// The number of observations is not stored, and neither is the sum of magnitudes: [`Tally::each_unit`] derives both.
/// `faulty` and `below` are mostly 0, so that a step of a fully connected layer with ReLU does not touch them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<[u64; 6]>", into = "Vec<[u64; 6]>")]
pub(crate) struct Units {
    /// Observations that are not finite.
    pub faulty: Vec<u64>,
    pub fired: Vec<u64>,
    pub passed: Vec<u64>,
    pub sum: Vec<f64>,
    /// Of the negative values.
    pub below: Vec<f64>,
    pub sum_squares: Vec<f64>,
}

/// The sums of one unit. Only finite values count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Unit {
    pub observations: u64,
    /// Observations with `ys > 0`.
    pub fired: u64,
    /// Observations with `f'(xs) ≠ 0`.
    pub passed: u64,
    pub sum: f64,
    pub sum_abs: f64,
    pub sum_squares: f64,
}

/// The sums over samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PerSample {
    /// Samples with a finite value; others are ignored.
    pub counted: u64,
    pub active: u64,
    pub min_active: u64,
    pub max_active: u64,
    pub all_zero: u64,
    /// Samples that have a sparseness, and the sums of their sparseness.
    pub scored: u64,
    #[serde(with = "bits")]
    pub population: f64,
    #[serde(with = "bits")]
    pub hoyer: f64,
}

impl From<Vec<[u64; 6]>> for Units {
    fn from(written: Vec<[u64; 6]>) -> Self {
        let mut units = Self::new(written.len());
        for (i, [faulty, fired, passed, sum, below, sum_squares]) in written.into_iter().enumerate() {
            (units.faulty[i], units.fired[i], units.passed[i]) = (faulty, fired, passed);
            [units.sum[i], units.below[i], units.sum_squares[i]] =
                [sum, below, sum_squares].map(f64::from_bits);
        }
        units
    }
}

impl From<Units> for Vec<[u64; 6]> {
    fn from(u: Units) -> Self {
        let written = |i| {
            let sums: [f64; 3] = [u.sum[i], u.below[i], u.sum_squares[i]];
            let [sum, below, sum_squares] = sums.map(f64::to_bits);
            [u.faulty[i], u.fired[i], u.passed[i], sum, below, sum_squares]
        };
        (0..u.len()).map(written).collect()
    }
}

impl Units {
    /// An empty tally for this many units.
    pub fn new(units: usize) -> Self {
        let (none, nothing) = (|| vec![0; units], || vec![0.0; units]);
        Self {
            faulty: none(),
            fired: none(),
            passed: none(),
            sum: nothing(),
            below: nothing(),
            sum_squares: nothing(),
        }
    }

    pub fn len(&self) -> usize {
        self.fired.len()
    }

    /// Adds the sums of another tally for the same units.
    #[inline(always)]
    pub fn add(&mut self, other: &Self) {
        add(&mut self.faulty, &other.faulty);
        add(&mut self.fired, &other.fired);
        add(&mut self.passed, &other.passed);
        add(&mut self.sum, &other.sum);
        add(&mut self.below, &other.below);
        add(&mut self.sum_squares, &other.sum_squares);
    }
}

/// Adds numbers to sums.
#[inline(always)]
pub(crate) fn add<T: Copy + std::ops::AddAssign>(sums: &mut [T], others: &[T]) {
    for (sum, other) in sums.iter_mut().zip(others) {
        *sum += *other;
    }
}

impl Tally {
    pub fn new(units: usize) -> Self {
        Self {
            samples: 0,
            values: 0,
            zeros: 0,
            negatives: 0,
            positives: 0,
            near_zeros: 0,
            nan: 0,
            infinite: 0,
            flat_low: 0,
            flat_high: 0,
            moments: Moments::default(),
            histogram: Histogram::default(),
            units: Units::new(units),
            per_sample: PerSample::default(),
        }
    }

    /// The sums of each unit. All units have equally many observations, finite or not.
    pub fn each_unit(&self) -> impl Iterator<Item = Unit> {
        let (u, observed) = (&self.units, self.values / self.units.len().max(1) as u64);
        (0..u.len()).map(move |i| Unit {
            observations: observed - u.faulty[i],
            fired: u.fired[i],
            passed: u.passed[i],
            sum: u.sum[i],
            sum_abs: u.sum[i] - 2.0 * u.below[i],
            sum_squares: u.sum_squares[i],
        })
    }

    /// The sum of all blocks, at least one.
    pub fn of(blocks: &[Self]) -> Self {
        let mut whole = blocks[0].clone();
        blocks[1..].iter().for_each(|block| whole.merge(block));
        whole
    }

    pub fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.values += other.values;
        self.zeros += other.zeros;
        self.negatives += other.negatives;
        self.positives += other.positives;
        self.near_zeros += other.near_zeros;
        self.nan += other.nan;
        self.infinite += other.infinite;
        self.flat_low += other.flat_low;
        self.flat_high += other.flat_high;
        self.moments.merge(&other.moments);
        self.histogram.merge(&other.histogram);
        self.units.add(&other.units);
        self.per_sample.merge(&other.per_sample);
    }

    /// Checks deserialised counts for consistency; returns the contradiction, if there is one.
    pub fn contradiction(&self) -> Option<&'static str> {
        let sum = |parts: &[u64]| parts.iter().try_fold(0_u64, |sum, n| sum.checked_add(*n));
        let within = |parts: &[u64], whole: u64| sum(parts).is_some_and(|sum| sum <= whole);
        let counted = [self.zeros, self.negatives, self.positives, self.nan, self.infinite];
        let h = &self.histogram;
        let binned: Vec<u64> = h.positive.iter().chain(&h.negative).copied().chain([h.zeros]).collect();
        if !within(&counted, self.values) || !within(&binned, self.values) {
            return Some("more values are counted than there are");
        }
        let finite = self.values - self.nan - self.infinite;
        if [self.near_zeros, self.flat_low, self.flat_high, self.moments.count].iter().any(|n| *n > finite) {
            return Some("more values are counted than are finite");
        }
        let (faulty, units) = (&self.units.faulty, self.units.len().max(1) as u64);
        if !self.values.is_multiple_of(units)
            || faulty.iter().any(|n| *n > self.values / units)
            || sum(faulty) != Some(self.nan + self.infinite)
        {
            return Some("the units' observations do not add up to the values");
        }
        if self.each_unit().any(|u| u.fired > u.observations || u.passed > u.observations) {
            return Some("a unit fired more often than it was observed");
        }
        let s = &self.per_sample;
        if self.samples > self.values || s.active > self.values {
            return Some("more samples or active values are counted than there are values");
        }
        if s.counted > self.samples || s.all_zero > s.counted || s.scored > s.counted {
            return Some("more samples are counted than there are");
        }
        None
    }

    /// Units with f'(x) = 0 at every observation. Without observations no unit is dead.
    pub fn dead(&self) -> Vec<bool> {
        self.each_unit().map(|u| u.observations > 0 && u.passed == 0).collect()
    }

    /// The statistics of the window, without names and comparisons with the previous window.
    pub fn stats(&self, parts: Parts, kind: Kind) -> LayerStats {
        let finite = self.values - self.nan - self.infinite;
        let flat = |n: u64| (kind.has_slope && finite > 0).then(|| n as f64 / finite as f64);
        let dead = if kind.has_slope { self.dead() } else { Vec::new() };
        let count = |which: &dyn Fn(&Unit) -> bool| {
            self.each_unit().filter(|u| u.observations > 0 && which(u)).count() as u64
        };
        let rare =
            |u: &Unit| u.observations > 0 && u.passed > 0 && (u.fired as f64 / u.observations as f64) < RARE;
        let has_rare = kind.has_slope && kind.zero_floored;
        let rare_units: Vec<u32> = match has_rare {
            true => (0..).zip(self.each_unit()).filter(|(_, u)| rare(u)).map(|(i, _)| i).collect(),
            false => Vec::new(),
        };
        let scores = self.dormancy();
        let dormant =
            |tau: f64| (!kind.output).then(|| scores.iter().flatten().filter(|s| **s <= tau).count() as u64);
        let histogram = (parts.histogram && finite > 0).then(|| self.histogram.clone());
        let moments = (parts.moments && finite > 0).then_some(&self.moments);
        let samples = (parts.samples && self.per_sample.counted > 0).then_some(&self.per_sample);
        let scored = samples.filter(|s| s.scored > 0);
        LayerStats {
            units: self.units.len() as u64,
            samples: self.samples,
            values: self.values,
            zeros: self.zeros,
            negatives: self.negatives,
            positives: self.positives,
            near_zeros: self.near_zeros,
            // NEAR_ZERO in f64, with the digits of 0.01.
            near_zero_bound: 0.01,
            nan: self.nan,
            infinite: self.infinite,
            zero_fraction: if self.values > 0 { self.zeros as f64 / self.values as f64 } else { 0.0 },
            mean: moments.map(|m| m.mean),
            variance: moments.and_then(Moments::variance),
            skewness: moments.and_then(Moments::skewness),
            excess_kurtosis: moments.and_then(Moments::excess_kurtosis),
            // Adding 0 turns -0 into 0: the order of merging decides which of the two comes first.
            min: moments.map(|m| m.min as f64 + 0.0),
            max: moments.map(|m| m.max as f64 + 0.0),
            quantiles: histogram.as_ref().and_then(quantiles),
            asymmetry: histogram.as_ref().and_then(Histogram::asymmetry),
            histogram,
            flat_low: flat(self.flat_low),
            flat_high: flat(self.flat_high),
            dead: kind.has_slope.then(|| dead.iter().filter(|d| **d).count() as u64),
            dead_units: (0..).zip(&dead).filter(|(_, dead)| **dead).map(|(i, _)| i).collect(),
            rare: has_rare.then_some(rare_units.len() as u64),
            rare_units,
            always_on: count(&|u| u.fired == u.observations),
            dormant_0: dormant(0.0),
            dormant_0_025: dormant(0.025),
            dormant_0_1: dormant(0.1),
            firing_rate: self.firing_rates(),
            active_per_sample: samples.map(|s| ActivePerSample {
                mean: s.active as f64 / s.counted as f64,
                min: s.min_active,
                max: s.max_active,
            }),
            population_sparseness: scored.map(|s| s.population / s.scored as f64),
            hoyer: scored.map(|s| s.hoyer / s.scored as f64),
            samples_all_zero: samples.map(|s| s.all_zero),
            lifetime_sparseness: if parts.samples { self.lifetime_sparseness() } else { None },
            ..LayerStats::default()
        }
    }

    /// Mean |activation| of each unit, divided by its mean over the layer (Sokar et al. 2023); `None` for a unit
    /// without observations.
    pub fn dormancy(&self) -> Vec<Option<f64>> {
        let mean_abs = |u: Unit| (u.observations > 0).then(|| u.sum_abs / u.observations as f64);
        let seen: Vec<f64> = self.each_unit().filter_map(mean_abs).collect();
        let mean = seen.iter().sum::<f64>() / seen.len().max(1) as f64;
        self.each_unit().map(|u| mean_abs(u).map(|h| h / (mean + DORMANT_EPS))).collect()
    }

    fn firing_rates(&self) -> FiringRates {
        let mut rates = FiringRates::default();
        for u in self.each_unit().filter(|u| u.observations > 0) {
            if u.fired == 0 {
                rates.never += 1;
            } else if u.fired == u.observations {
                rates.always += 1;
            } else {
                // In integers: 20 · fired / observations, rounded down, is exact.
                rates.between[(u.fired as u128 * 20 / u.observations as u128) as usize] += 1;
            }
        }
        rates
    }

    fn lifetime_sparseness(&self) -> Option<f64> {
        let scores: Vec<f64> = self
            .each_unit()
            .filter_map(|u| sparseness(u.observations, u.sum_abs, u.sum_squares).map(|(s, _)| s))
            .collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    }
}

impl Default for PerSample {
    fn default() -> Self {
        Self {
            counted: 0,
            active: 0,
            min_active: u64::MAX,
            max_active: 0,
            all_zero: 0,
            scored: 0,
            population: 0.0,
            hoyer: 0.0,
        }
    }
}

impl PerSample {
    /// Adds one sample with `counted` finite values, of which `active` are not zero.
    pub fn add(&mut self, counted: u64, active: u64, sum_abs: f64, sum_squares: f64) {
        if counted == 0 {
            return;
        }
        self.counted += 1;
        self.active += active;
        self.min_active = self.min_active.min(active);
        self.max_active = self.max_active.max(active);
        self.all_zero += u64::from(active == 0);
        if let Some((population, hoyer)) = sparseness(counted, sum_abs, sum_squares) {
            self.scored += 1;
            self.population += population;
            self.hoyer += hoyer;
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.counted += other.counted;
        self.active += other.active;
        self.min_active = self.min_active.min(other.min_active);
        self.max_active = self.max_active.max(other.max_active);
        self.all_zero += other.all_zero;
        self.scored += other.scored;
        self.population += other.population;
        self.hoyer += other.hoyer;
    }
}

/// Treves–Rolls sparseness in Vinje and Gallant's form, and Hoyer's, of `n` values with these sums of magnitudes and
/// squares; `None` if all are zero or there are fewer than two.
fn sparseness(n: u64, sum_abs: f64, sum_squares: f64) -> Option<(f64, f64)> {
    if n < 2 || sum_squares <= 0.0 {
        return None;
    }
    let n = n as f64;
    // a = (mean |y|)² / mean y²
    let a = sum_abs * sum_abs / (n * sum_squares);
    let hoyer = (n.sqrt() - sum_abs / sum_squares.sqrt()) / (n.sqrt() - 1.0);
    Some(((1.0 - a) / (1.0 - 1.0 / n), hoyer))
}

fn quantiles(h: &Histogram) -> Option<Quantiles> {
    let q = |q| h.quantile(q);
    Some(Quantiles {
        q01: q(0.01)?,
        q05: q(0.05)?,
        q25: q(0.25)?,
        q50: q(0.5)?,
        q75: q(0.75)?,
        q95: q(0.95)?,
        q99: q(0.99)?,
    })
}
