//! Compares the vector code with the definitions, and tallies that were merged with tallies of all values.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use rand::RngExt;
use taper_kernels::Activation;

use super::*;
use crate::tally::Units;

/// More values than fit into one span of the vector code.
const WIDE: usize = 1500;

/// Property tests with a fixed seed: the same `n` cases on every run and machine, or the first PROPTEST_CASES of them.
fn cases(n: u32) -> Config {
    Config {
        cases: n.min(Config::default().cases),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        ..Config::default()
    }
}

/// The tally of one batch.
fn tally(batch: Block<'_>, parts: Parts) -> Tally {
    let mut tallies = vec![Tally::new(batch.units)];
    add(batch, parts, &mut tallies);
    Tally::of(&tallies)
}

/// Measured by the vector code; `None` if one of the values is not finite.
fn by_vectors(block: Block<'_>, parts: Parts) -> Option<Tally> {
    let mut tally = Tally::new(block.units);
    let is_finite = add_finite(block, parts, &mut tally);
    assert!(is_finite || tally == Tally::new(block.units), "nothing is added of a block that is refused");
    is_finite.then_some(tally)
}

/// By the definitions.
fn by_definition(block: Block<'_>, parts: Parts) -> Tally {
    let mut tally = Tally::new(block.units);
    add_any(block, parts, &mut tally);
    tally
}

/// A batch that owns its values.
#[derive(Debug)]
struct Owned {
    slopes: Option<Slopes>,
    units: usize,
    last: bool,
    positions: usize,
    xs: Vec<f32>,
    ys: Vec<f32>,
}

impl Owned {
    /// Values of every kind a layer may hold; `ys` are finite unless `faults`. After all functions there is none.
    fn new(
        activation: usize,
        (samples, units, positions): (usize, usize, usize),
        seed: u64,
        faults: bool,
    ) -> Self {
        let f = Activation::ALL.get(activation).copied();
        let value = |x| f.map_or(x, |f| f.value(x));
        let mut rng = crate::rng(seed);
        let (zeros, odd) = (rng.random_range(0..10), rng.random_range(0..4));
        let mut pair = || {
            let x = match rng.random_range(0..20) {
                k if k < zeros => 0.0,
                k if k >= 20 - odd => {
                    let sign = if rng.random::<bool>() { 1.0 } else { -1.0 };
                    sign * [0.0, 1e-45, 1e-40, 1e-30, 9.5e-7, 0.01, 6.0, 4096.0, 1e9, 3e18, 3e38]
                        [rng.random_range(0..11)]
                }
                _ => rng.random_range(-4.0_f32..4.0),
            };
            let y = value(x);
            match (faults, rng.random_range(0..50)) {
                (true, 0) => (f32::NAN, f32::NAN),
                (true, 1) => (x, f32::INFINITY),
                (true, 2) => (x, f32::NEG_INFINITY),
                _ if y.is_finite() => (x, y),
                _ => (0.5, value(0.5)),
            }
        };
        let (xs, ys) = (0..samples * units * positions).map(|_| pair()).unzip();
        let (xs, ys): (Vec<f32>, Vec<f32>) = (xs, ys);
        // Without an activation function inputs and outputs are the same.
        let xs = if f.is_some() { xs } else { ys.clone() };
        Self { slopes: f.map(Slopes::of), units, last: false, positions, xs, ys }
    }

    /// The same values, with the units as the last axis or the second.
    fn last(self, last: bool) -> Self {
        Self { last, ..self }
    }

    /// The samples of a range.
    fn batch(&self, samples: std::ops::Range<usize>) -> Block<'_> {
        let size = self.units * self.positions;
        let range = samples.start * size..samples.end * size;
        Block {
            slopes: self.slopes.as_ref(),
            units: self.units,
            units_last: self.last,
            positions: self.positions,
            xs: &self.xs[range.clone()],
            ys: &self.ys[range],
        }
    }

    fn all(&self) -> Block<'_> {
        self.batch(0..self.ys.len() / (self.units * self.positions))
    }
}

/// Of merging.
const TIGHT: f64 = 1e-12;
/// Of central moments against the definitions, which add all values up in one long row and loses half an
/// ulp with each.
const LOOSE: f64 = 1e-11;

fn near(a: f64, b: f64, scale: f64, what: &str) -> Result<(), TestCaseError> {
    prop_assert!((a - b).abs() <= TIGHT * scale, "{what}: {a} against {b}, scale {scale}");
    Ok(())
}

/// Counts and histograms exactly; sums to 1e-12 of the sum of their terms' magnitudes.
fn same(a: &Tally, b: &Tally) -> Result<(), TestCaseError> {
    same_to(TIGHT, a, b)
}

fn same_to(tolerance: f64, a: &Tally, b: &Tally) -> Result<(), TestCaseError> {
    let counts = |t: &Tally| {
        let Tally { samples, values, zeros, negatives, positives, near_zeros, nan, infinite, .. } = *t;
        [samples, values, zeros, negatives, positives, near_zeros, nan, infinite, t.flat_low, t.flat_high]
    };
    prop_assert_eq!(counts(a), counts(b));
    prop_assert_eq!(&a.histogram, &b.histogram);
    prop_assert_eq!(a.units.len(), b.units.len());
    for (a, b) in a.each_unit().zip(b.each_unit()) {
        prop_assert_eq!((a.observations, a.fired, a.passed), (b.observations, b.fired, b.passed));
        near(a.sum, b.sum, b.sum_abs, "sum")?;
        near(a.sum_abs, b.sum_abs, b.sum_abs, "sum of magnitudes")?;
        near(a.sum_squares, b.sum_squares, b.sum_squares, "sum of squares")?;
    }
    let (p, q) = (&a.per_sample, &b.per_sample);
    prop_assert_eq!(
        (p.counted, p.active, p.min_active, p.max_active, p.all_zero, p.scored),
        (q.counted, q.active, q.min_active, q.max_active, q.all_zero, q.scored)
    );
    near(p.population, q.population, q.scored as f64, "population")?;
    near(p.hoyer, q.hoyer, q.scored as f64, "hoyer")?;
    let (m, n) = (&a.moments, &b.moments);
    prop_assert_eq!((m.count, m.min, m.max), (n.count, n.min, n.max));
    if n.count == 0 {
        return Ok(());
    }
    near(m.mean, n.mean, b.each_unit().map(|u| u.sum_abs).sum::<f64>() / n.count as f64, "mean")?;
    let variance = n.variance().unwrap();
    near(m.variance().unwrap(), variance, variance * tolerance / TIGHT, "variance")?;
    prop_assert_eq!(m.skewness().is_some(), n.skewness().is_some());
    if let Some(kurtosis) = n.excess_kurtosis() {
        // The terms of the third moment cancel: they are at most √(m2 m4) together.
        near(
            m.skewness().unwrap(),
            n.skewness().unwrap(),
            (kurtosis + 3.0).sqrt() * tolerance / TIGHT,
            "skewness",
        )?;
        near(m.excess_kurtosis().unwrap(), kurtosis, (kurtosis + 3.0) * tolerance / TIGHT, "kurtosis")?;
    }
    Ok(())
}

fn shapes() -> impl Strategy<Value = (usize, usize, usize)> {
    (0_usize..20, 1_usize..40, prop_oneof![Just(1), 2_usize..9, Just(9), Just(25), Just(130), Just(1100)])
}

fn activations() -> std::ops::Range<usize> {
    0..Activation::ALL.len() + 1
}

fn merged(a: &Tally, b: &Tally) -> Tally {
    let mut sum = a.clone();
    sum.merge(b);
    sum
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn the_vectorised_pass_counts_what_the_definitions_count(
        shape in shapes(), last: bool, activation in activations(), seed in any::<u64>(),
    ) {
        let owned = Owned::new(activation, shape, seed, false).last(last);
        same_to(LOOSE, &by_vectors(owned.all(), Parts::FULL).unwrap(), &by_definition(owned.all(), Parts::FULL))?;
    }

    #[test]
    fn blocks_on_all_threads_count_what_the_definitions_count_also_with_faults(
        shape in shapes(), last: bool, activation in activations(), seed in any::<u64>(), faults: bool,
    ) {
        let owned = Owned::new(activation, shape, seed, faults).last(last);
        same_to(LOOSE, &tally(owned.all(), Parts::FULL), &by_definition(owned.all(), Parts::FULL))?;
    }

    #[test]
    fn a_window_may_be_split_into_batches_of_any_size(
        shape in shapes(), last: bool, activation in activations(), seed in any::<u64>(), size in 1_usize..21,
    ) {
        let owned = Owned::new(activation, shape, seed, seed % 3 == 0).last(last);
        let mut split = Tally::new(owned.units);
        for start in (0..shape.0).step_by(size) {
            split.merge(&tally(owned.batch(start..(start + size).min(shape.0)), Parts::FULL));
        }
        same(&split, &tally(owned.all(), Parts::FULL))?;
    }

    #[test]
    fn merging_is_associative_and_commutative(
        (_, units, positions) in shapes(), n in [0_usize..9, 0..9, 0..9], activation in activations(), seed in any::<u64>(),
    ) {
        let [a, b, c] = [0, 1, 2].map(|i| {
            tally(Owned::new(activation, (n[i], units, positions), seed ^ i as u64, i == 1).all(), Parts::FULL)
        });
        same(&merged(&merged(&a, &b), &c), &merged(&a, &merged(&b, &c)))?;
        same(&merged(&a, &b), &merged(&b, &a))?;
        same(&merged(&a, &Tally::new(units)), &a)?;
        same(&merged(&Tally::new(units), &a), &a)?;
    }
}

#[test]
fn a_row_wider_than_an_inner_loop_is_counted_unit_by_unit() {
    for activation in activations() {
        for (positions, last) in [(1, false), (2, true)] {
            let shape = (3, WIDE, positions);
            let owned = Owned::new(activation, shape, activation as u64, false).last(last);
            let by_vectors = by_vectors(owned.all(), Parts::FULL).unwrap();
            same_to(LOOSE, &by_vectors, &by_definition(owned.all(), Parts::FULL)).unwrap();
        }
    }
}

#[test]
fn a_sample_larger_than_a_block_is_one_block() {
    const { assert!(37 * 1100 > BLOCK) };
    for last in [false, true] {
        let owned = Owned::new(1, (3, 37, 1100), 5, false).last(last);
        same_to(LOOSE, &tally(owned.all(), Parts::FULL), &by_definition(owned.all(), Parts::FULL)).unwrap();
    }
}

#[test]
fn counts_are_the_same_whichever_parts_are_wanted() {
    let owned = Owned::new(1, (7, 5, 9), 3, false);
    let (counts, full) = (tally(owned.all(), Parts::COUNTS), tally(owned.all(), Parts::FULL));
    // Squares are only for sparseness, so they are summed only if it is wanted.
    assert!(counts.each_unit().all(|unit| unit.sum_squares == 0.0));
    let units = Units { sum_squares: vec![0.0; full.units.len()], ..full.units };
    assert_eq!((counts.zeros, counts.positives, counts.units), (full.zeros, full.positives, units));
    assert_eq!((counts.moments.count, counts.histogram.total()), (0, 0));
}

/// Every choice of parts.
fn all_parts() -> impl Iterator<Item = Parts> {
    (0..8).map(|bits| Parts { moments: bits & 1 > 0, histogram: bits & 2 > 0, samples: bits & 4 > 0 })
}

/// Values as a plane, as a row, and as rows of two units that are the last axis.
fn layouts<'a>(slopes: &'a Slopes, ys: &'a [f32]) -> Vec<Block<'a>> {
    let all = Block { slopes: Some(slopes), units: 1, units_last: false, positions: ys.len(), xs: ys, ys };
    let mut layouts = vec![all, Block { units: ys.len(), positions: 1, ..all }];
    if ys.len().is_multiple_of(2) {
        layouts.push(Block { units: 2, units_last: true, positions: ys.len() / 2, ..all });
    }
    layouts
}

/// Compares the vector code with the definitions in every layout and for every choice of parts.
fn vectors_follow_the_definitions(slopes: &Slopes, ys: &[f32]) {
    for block in layouts(slopes, ys) {
        for parts in all_parts() {
            if let Err(error) =
                same_to(LOOSE, &by_vectors(block, parts).unwrap(), &by_definition(block, parts))
            {
                let (f, units, last) = (slopes.activation(), block.units, block.units_last);
                panic!("{f} {parts:?} {units} units, last: {last}, of {ys:?}: {error}");
            }
        }
    }
}

#[test]
fn runs_of_any_length_are_counted_wherever_they_end() {
    let kinds = [0.0, -0.0, 0.3, -0.3, 1e-45, -1e-40, 0.01, 0.010_000_001, f32::MAX, f32::MIN];
    for (i, a) in kinds.into_iter().enumerate() {
        for b in kinds[i..].iter().copied().chain([1.5]) {
            for n in 1..=40 {
                let start = (n * 7 + i) % n;
                let ys: Vec<f32> = (0..n).map(|j| if j < start { a } else { b }).collect();
                vectors_follow_the_definitions(&Slopes::of(Activation::Identity), &ys);
            }
        }
    }
}

#[test]
fn values_between_runs_are_counted_for_every_activation() {
    let mut rng = crate::rng(3);
    for (i, slopes) in Activation::ALL.map(Slopes::of).iter().enumerate() {
        for n in 1..=40 {
            let mut pick = |of: &[f32]| of[rng.random_range(0..of.len())];
            let run = pick(&[0.0, 0.2, -0.2]);
            let ys: Vec<f32> = (0..n + 30 * (i % 3))
                .map(|j| {
                    if j / 9 % 2 == 0 { run } else { pick(&[run, 0.0, -0.0, 0.5, -1.5, 0.005, 7e3, -1e-30]) }
                })
                .collect();
            vectors_follow_the_definitions(slopes, &ys);
        }
    }
}

#[test]
fn a_value_that_is_not_finite_is_found_anywhere() {
    let tanh = Slopes::of(Activation::Tanh);
    for fault in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for n in 1..=40 {
            for place in 0..n {
                for others in [0.0, 0.5, fault] {
                    let mut ys = vec![others; n];
                    ys[place] = fault;
                    for block in layouts(&tanh, &ys) {
                        assert!(all_parts().all(|parts| by_vectors(block, parts).is_none()), "{ys:?}");
                        same(&tally(block, Parts::FULL), &by_definition(block, Parts::FULL)).unwrap();
                    }
                }
            }
        }
    }
    // Infinities of both signs, which would cancel.
    let ys = [1.0, f32::INFINITY, f32::NEG_INFINITY, 1.0];
    assert!(layouts(&tanh, &ys).iter().all(|block| by_vectors(*block, Parts::FULL).is_none()));
}

#[test]
fn moments_keep_their_digits_far_from_zero_and_after_an_outlier() {
    let mut rng = crate::rng(4);
    let mut noise = |mean: f32| (0..2000).map(|_| mean + rng.random_range(-1.0_f32..1.0).powi(3)).collect();
    let (near, far): (Vec<f32>, Vec<f32>) = (noise(0.0), noise(1000.0));
    let mut outlier = near.clone();
    outlier[0] = 1e9;
    let holes: Vec<f32> = far.iter().enumerate().map(|(i, y)| if i % 5 == 0 { 0.0 } else { *y }).collect();
    // Just near enough for powers about zero, and just too far.
    let (nearer, farther) = (noise(0.95), noise(1.05));
    for ys in [near, nearer, farther, far, outlier, holes] {
        vectors_follow_the_definitions(&Slopes::of(Activation::Identity), &ys);
    }
}

#[test]
fn blocks_of_rows_count_what_the_definitions_count_batch_after_batch() {
    let owned = Owned::new(1, (500, 150, 1), 3, false);
    let mut tallies = vec![Tally::new(owned.units)];
    // Of three blocks, one, and two.
    for samples in [0..300, 300..365, 365..500] {
        add(owned.batch(samples), Parts::FULL, &mut tallies);
    }
    assert_eq!(tallies.len(), 3);
    same_to(LOOSE, &Tally::of(&tallies), &by_definition(owned.all(), Parts::FULL)).unwrap();
}
