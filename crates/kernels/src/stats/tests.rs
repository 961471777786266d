//! Every instruction set against one value at a time; `taper-hooks` compares the pass with its definition.
#![allow(clippy::unwrap_used)]

use rand::{RngExt, SeedableRng};

use super::bins::Bins;
use super::*;
use crate::Activation;

/// Everything that a block adds up to: counts and bins, sums with the sums of their terms' magnitudes, and extremes.
#[derive(Debug, Default)]
struct Measured {
    counts: Vec<u64>,
    sums: Vec<f64>,
    extremes: [f32; 2],
}

fn measured(
    block: Block<'_>,
    (histogram, samples, moments): (bool, bool, bool),
    run: &dyn Fn(Measure<'_>) -> Option<Totals>,
) -> Option<Measured> {
    let (mut positive, mut negative) = (vec![0; 258], vec![0; 258]);
    let (mut fired, mut passed) = (vec![3; block.units], vec![3; block.units]);
    let [mut sum, mut below, mut squares] = [(); 3].map(|()| vec![0.5; block.units]);
    let units = UnitSums {
        fired: &mut fired,
        passed: &mut passed,
        sum: &mut sum,
        below: &mut below,
        sum_squares: samples.then_some(&mut squares),
    };
    let bins = Histogram { first: (-20.0_f32).exp2(), positive: &mut positive, negative: &mut negative };
    let totals = run(Measure { block, units, histogram: histogram.then_some(bins), moments });
    let Some(t) = totals else {
        let untouched = fired.iter().chain(&passed).all(|n| *n == 3)
            && sum.iter().chain(&below).chain(&squares).all(|s| *s == 0.5)
            && positive.iter().chain(&negative).all(|n| *n == 0);
        assert!(untouched, "nothing is added of a block that is refused");
        return None;
    };
    let mut counts = [fired, passed, positive, negative].concat();
    counts.extend([t.zeros, t.negatives, t.near_zeros, t.flat_low, t.flat_high]);
    counts.extend(t.samples.iter().map(|sample| sample.active));
    let mut sums = [sum, below, squares, t.powers.to_vec()].concat();
    sums.extend(t.samples.iter().flat_map(|sample| [sample.sum_abs, sample.sum_squares]));
    Some(Measured { counts, sums, extremes: [t.min, t.max] })
}

/// Measures on this CPU's widest vectors and with AVX2, and compares both with one value at a time.
fn every_instruction_set_agrees(block: Block<'_>) {
    // Of the largest sum's terms: sums of other terms of one sign are smaller.
    let scale = |power: i32| block.ys.iter().map(|y| f64::from(*y).abs().powi(power)).sum::<f64>() + 1.0;
    let scale = (1..=4).map(scale).fold(0.0, f64::max);
    for wanted in [(true, true, true), (true, false, true), (false, true, false), (false, false, false)] {
        let expected = measured(block, wanted, &|pass| pass.with_simd(pulp::Scalar));
        let compare = |found: Option<Measured>| {
            let (Some(found), Some(expected)) = (&found, &expected) else {
                return assert!(found.is_none() && expected.is_none());
            };
            assert_eq!((&found.counts, found.extremes), (&expected.counts, expected.extremes));
            for (a, b) in found.sums.iter().zip(&expected.sums) {
                assert!((a - b).abs() <= 1e-12 * scale, "{a} against {b}");
            }
        };
        compare(measured(block, wanted, &|pass| Arch::new().dispatch(pass)));
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = pulp::x86::V3::try_new() {
            compare(measured(block, wanted, &|pass| Simd::vectorize(v3, pass)));
        }
    }
}

#[test]
fn every_instruction_set_agrees_with_the_scalar_code() {
    let mut rng = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(5);
    let functions =
        [Activation::Relu, Activation::Tanh, Activation::Hardtanh, Activation::Gelu].map(Slopes::of);
    let shapes =
        [(1, 1, 1), (3, 40, 1), (2, 1500, 1), (5, 7, 9), (2, 3, 676), (2, 2, 1500), (9, 33, 2), (70, 16, 1)];
    for (case, (samples, units, positions)) in shapes.into_iter().cycle().take(120).enumerate() {
        let kinds = [0.0, -0.0, 0.25, -0.25, 1e-45, -1e-30, 0.01, 0.010_000_001, 50.0, f32::INFINITY];
        // Zeros, some other frequent value, a value that is not finite now and then, and values of common magnitudes.
        let (share, most) = (rng.random_range(0..10), if case % 8 == 7 { 10 } else { 9 });
        let frequent = kinds[rng.random_range(0..4)];
        let ys: Vec<f32> = (0..samples * units * positions)
            .map(|_| match rng.random_range(0..12) {
                n if n < share => frequent,
                10 => kinds[rng.random_range(0..most)],
                _ => rng.random_range(-4.0..4.0),
            })
            .collect();
        let slopes = functions.get(case % 5);
        for units_last in [false, true] {
            every_instruction_set_agrees(Block { slopes, units, positions, units_last, xs: &ys, ys: &ys });
        }
    }
}

#[test]
fn every_count_reaches_its_bin_of_the_histogram() {
    // From 2^-1 to 2^1 there are sixteen bins between the first and the last.
    let ys = [0.25, -0.25, 0.5, 0.5624, 0.5625, -1.0, 1.9, -2.0, 1e-45, f32::MAX, 1.0, 1.0];
    let (mut bins, mut positive, mut negative) = (Bins::new(), [1; 18], [0; 18]);
    bins.add(&ys);
    bins.add_many(-1.5, 3);
    bins.add_to(Histogram { first: 0.5, positive: &mut positive, negative: &mut negative });
    assert_eq!(positive, [3, 3, 2, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 1, 1, 1, 2, 2]);
    assert_eq!(negative, [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 1]);
}
