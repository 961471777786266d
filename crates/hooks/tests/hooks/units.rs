//! Units as the last axis, as after a linear layer, and sites without an activation function.

use candle_core::Tensor;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use taper_hooks::{Activation, Recorder, Site, Units};

use crate::definitions::{ACTIVATIONS, assert_same, batch, site, window};
use crate::{random, see, tensor};

/// Property tests with a fixed seed: the same cases on every run and machine.
fn cases(n: u32) -> Config {
    Config { cases: n, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..Config::default() }
}

/// `(N, T, F)` with units of every kind, some of them not finite if so wished.
fn tokens(shape: &[usize], seed: u64, faults: bool) -> Tensor {
    let mut xs = batch((shape, Units::Last), seed, seed as usize % 8);
    for i in (3..xs.len()).step_by(17).filter(|_| faults) {
        xs[i] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3];
    }
    tensor(xs, shape)
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn units_last_are_what_their_definitions_say_in_batches_and_on_threads_of_any_number(
        samples in 1_usize..40, positions in prop::collection::vec(1_usize..7, 1..3), units in 1_usize..40,
        activation in prop_oneof![
            prop::sample::select(vec![Some(Activation::Relu), Some(Activation::Tanh), None]),
            prop::sample::select(ACTIVATIONS.to_vec()),
        ],
        size in 1_usize..40, threads in 1_usize..4, faults: bool, seed in 0_u64..1000,
    ) {
        let shape = [&[samples], &positions[..], &[units]].concat();
        let (site, xs, mut recorder) = (site(activation, Units::Last), tokens(&shape, seed, faults), Recorder::new());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            for start in (0..samples).step_by(size) {
                see(&mut recorder, &site, &xs.narrow(0, start, size.min(samples - start)).unwrap());
            }
        });
        let got = recorder.finish().remove(0);
        prop_assert_eq!((got.units, got.samples), (units as u64, samples as u64));
        assert_same(&got, &window(activation, Units::Last, &xs).stats("conv2", None));
    }

    #[test]
    fn units_last_are_the_same_as_transposing_them_to_the_second_axis(
        samples in 1_usize..40, positions in 1_usize..40, units in 1_usize..40, faults: bool, seed in 0_u64..1000,
        activation in prop::sample::select(Activation::ALL.iter().copied().map(Some).chain([None]).collect::<Vec<_>>()),
    ) {
        let xs = tokens(&[samples, positions, units], seed, faults);
        let transposed = xs.transpose(1, 2).unwrap();
        let [last, second] = [(Units::Last, &xs), (Units::Second, &transposed)].map(|(axis, xs)| {
            let mut recorder = Recorder::new();
            see(&mut recorder, &site(activation, axis), xs);
            recorder.finish().remove(0)
        });
        assert_same(&last, &second);
    }
}

#[test]
fn batches_of_several_blocks_count_units_last_by_their_definitions() {
    // A block has 16,384 values; a batch is cut into 32 at most, of whole samples.
    for shape in [&[150, 9, 31][..], &[40, 64, 17], &[3, 700, 9]] {
        for activation in [Some(Activation::Relu), Some(Activation::Tanh), None] {
            for faults in [false, true] {
                let (xs, mut recorder) = (tokens(shape, 1, faults), Recorder::new());
                see(&mut recorder, &site(activation, Units::Last), &xs);
                let want = window(activation, Units::Last, &xs).stats("conv2", None);
                assert_same(&recorder.finish().remove(0), &want);
            }
        }
    }
}

#[test]
fn what_is_counted_per_sample_is_counted_once_for_all_positions() {
    // Two samples of three tokens with two units; the second is silent.
    let xs = tensor(vec![1.0, 0.0, 2.0, 0.0, 0.0, -3.0, -1.0, -1.0, 0.0, -2.0, -1.0, -1.0], &[2, 3, 2]);
    let mut recorder = Recorder::new();
    see(&mut recorder, &Site::behind("mlp", Activation::Relu).units(Units::Last), &xs);
    let units = recorder.units("mlp").unwrap();
    assert_eq!((units[0].observations, units[0].fired, units[0].passed), (6, 2, Some(2)));
    let got = recorder.finish().remove(0);
    assert_eq!((got.units, got.samples, got.values), (2, 2, 12));
    assert_eq!((got.dead_units.as_slice(), got.samples_all_zero), (&[1][..], Some(1)));
    let active = got.active_per_sample.unwrap();
    assert_eq!((active.mean, active.min, active.max), (1.0, 0, 2));
}

#[test]
fn two_and_four_axes_have_their_units_second_unless_the_site_says_otherwise() {
    let units = |site: &Site, shape: &[usize]| {
        let mut recorder = Recorder::new();
        see(&mut recorder, site, &random(1, shape));
        recorder.finish()[0].units
    };
    let site = Site::behind("fc1", Activation::Relu);
    assert_eq!(
        [units(&site, &[2, 3]), units(&site, &[2, 3, 4, 5]), units(&site, &[2, 3, 4, 5, 6])],
        [3, 3, 3]
    );
    let site = site.units(Units::Last);
    assert_eq!([units(&site, &[2, 3]), units(&site, &[2, 3, 4]), units(&site, &[2, 3, 4, 5])], [3, 4, 5]);
    assert_eq!(units(&site.units(Units::Second), &[2, 3, 4]), 3);
}

#[test]
fn a_tap_says_nothing_that_needs_a_slope_in_any_window() {
    let (site, mut recorder) = (Site::new("residual").units(Units::Last), Recorder::new());
    for seed in 0..2 {
        see(&mut recorder, &site, &random(seed, &[5, 3, 4]));
        assert_eq!(recorder.units("residual").unwrap()[0].passed, None);
        let got = recorder.finish().remove(0);
        assert_eq!((got.activation, got.flat_low, got.flat_high), (None, None, None));
        assert_eq!(
            (got.dead, got.rare, got.died, got.revived, got.still_dead),
            (None, None, None, None, None)
        );
        assert!(got.dead_units.is_empty());
        // All else is there.
        assert!(got.mean.is_some() && got.histogram.is_some() && got.hoyer.is_some());
        assert_eq!((got.dormant_0, got.samples, got.firing_rate.never), (Some(0), 5, 0));
    }
}

#[test]
fn no_unit_of_an_output_is_dormant() {
    // One class that is never predicted is no sign of a dormant unit.
    let xs = tensor(vec![0.0, 1.0, 0.0, 2.0], &[2, 2]);
    for (site, dormant) in [(Site::new("logits"), Some(1)), (Site::new("logits").output(), None)] {
        let mut recorder = Recorder::new();
        see(&mut recorder, &site, &xs);
        let got = recorder.finish().remove(0);
        assert_eq!((got.dormant_0, got.dormant_0_025, got.dormant_0_1), (dormant, dormant, dormant));
    }
    // It may come after a function too.
    let mut recorder = Recorder::new();
    see(&mut recorder, &Site::behind("out", Activation::Sigmoid).output(), &xs);
    let got = recorder.finish().remove(0);
    assert_eq!((got.dead, got.dormant_0), (Some(0), None));
}

#[test]
fn a_place_of_another_name_is_recorded_apart() {
    let (site, mut recorder) = (Site::behind("stem", Activation::Relu).units(Units::Last), Recorder::new());
    for (i, site) in [site.clone(), site.named("head"), site.named("tail")].iter().enumerate() {
        see(&mut recorder, site, &random(1, &[2, 3, 4 + i]));
    }
    let got: Vec<_> =
        recorder.finish().into_iter().map(|s| (s.site, s.units, s.activation.unwrap())).collect();
    let want =
        [("stem", 4), ("head", 5), ("tail", 6)].map(|(name, n)| (name.to_string(), n, "relu".to_string()));
    assert_eq!(got, want);
}
