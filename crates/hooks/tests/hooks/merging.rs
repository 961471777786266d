//! However a window is cut, over batches, recorders and threads, its numbers are the same.

use candle_core::Tensor;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use taper_hooks::{Activation, Error, Parts, Pass, Recorder, Site, Units};
use taper_report::{LayerStats, Trouble};

use crate::{random, see, show};

/// Property tests with a fixed seed: the same cases on every run and machine.
fn cases(n: u32) -> Config {
    Config { cases: n, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..Config::default() }
}

fn close(a: Option<f64>, b: Option<f64>, scale: f64) {
    assert_eq!(a.is_some(), b.is_some());
    if let (Some(a), Some(b)) = (a, b) {
        assert!((a - b).abs() <= 1e-12 * scale.max(b.abs()), "{a} against {b}");
    }
}

/// Counts and histograms exactly, means of f64 numbers to 1e-12.
fn assert_same(a: &LayerStats, b: &LayerStats) {
    let kurtosis = b.excess_kurtosis.unwrap_or(0.0) + 3.0;
    close(a.mean, b.mean, b.std().unwrap_or(0.0));
    close(a.variance, b.variance, 0.0);
    close(a.skewness, b.skewness, kurtosis.sqrt());
    close(a.excess_kurtosis, b.excess_kurtosis, kurtosis);
    close(a.population_sparseness, b.population_sparseness, 1.0);
    close(a.hoyer, b.hoyer, 1.0);
    close(a.lifetime_sparseness, b.lifetime_sparseness, 1.0);
    let counts = |s: &LayerStats| LayerStats {
        mean: None,
        variance: None,
        skewness: None,
        excess_kurtosis: None,
        population_sparseness: None,
        hoyer: None,
        lifetime_sparseness: None,
        ..s.clone()
    };
    assert_eq!(counts(a), counts(b));
}

/// A window of a network with three sites: a fully connected one, a convolutional one, and a sequence of tokens.
struct Window {
    sites: [Site; 3],
    inputs: [Tensor; 3],
}

impl Window {
    fn new(samples: usize, seed: u64, activation: Activation) -> Self {
        let [fc1, conv1, mlp] = ["fc1", "conv1", "mlp"].map(|name| Site::behind(name, activation));
        let shapes = [&[samples, 11][..], &[samples, 5, 4, 3], &[samples, 4, 9]];
        Self { sites: [fc1, conv1, mlp.units(Units::Last)], inputs: shapes.map(|shape| random(seed, shape)) }
    }

    fn see(&self, recorder: &mut Recorder, start: usize, samples: usize) {
        for (site, xs) in self.sites.iter().zip(&self.inputs) {
            see(recorder, site, &xs.narrow(0, start, samples).unwrap());
        }
    }

    /// Cut into batches of `size`.
    fn batches(&self, size: usize) -> Vec<(usize, usize)> {
        let samples = self.inputs[0].dim(0).unwrap();
        (0..samples).step_by(size).map(|start| (start, size.min(samples - start))).collect()
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn batches_and_recorders_of_any_number_change_nothing(
        samples in 1_usize..70, size in 1_usize..70, recorders in 1_usize..5, seed in 0_u64..1000,
        activation in prop::sample::select(Activation::ALL.to_vec()),
    ) {
        let window = Window::new(samples, seed, activation);
        let mut whole = Recorder::new();
        window.see(&mut whole, 0, samples);
        let whole = whole.finish();

        let mut parts = vec![Recorder::new(); recorders];
        for (i, (start, samples)) in window.batches(size).into_iter().enumerate() {
            window.see(&mut parts[i % recorders], start, samples);
        }
        let (mut forward, mut backward) = (Recorder::new(), Recorder::new());
        parts.iter().for_each(|part| forward.merge(part).unwrap());
        parts.iter().rev().for_each(|part| backward.merge(part).unwrap());
        for mut merged in [forward, backward] {
            let merged = merged.finish();
            prop_assert_eq!(merged.len(), 3);
            merged.iter().zip(&whole).for_each(|(a, b)| assert_same(a, b));
        }
    }
}

#[test]
fn one_thread_and_two_give_the_same_bits() {
    // Large enough for many blocks.
    let record = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut recorder = Recorder::new();
            let mlp = Site::behind("mlp", Activation::Selu).units(Units::Last);
            see(&mut recorder, &mlp, &random(1, &[70, 9, 300]));
            for (name, shape) in [("fc1", &[700, 300][..]), ("conv1", &[70, 32, 10, 10])] {
                see(&mut recorder, &Site::behind(name, Activation::Selu), &random(1, shape));
            }
            // Debug prints every number to its last digit.
            format!("{recorder:?}")
        })
    };
    assert_eq!(record(1), record(2));
}

#[test]
fn a_merged_recorder_has_the_sites_of_both() {
    let (mut a, mut b) = (Recorder::new(), Recorder::new());
    see(&mut a, &Site::behind("fc1", Activation::Relu), &random(1, &[2, 3]));
    see(&mut b, &Site::behind("fc2", Activation::Relu), &random(2, &[2, 4]));
    a.merge(&b).unwrap();
    let names: Vec<String> = a.finish().into_iter().map(|s| s.site).collect();
    assert_eq!(names, ["fc1", "fc2"]);
}

#[test]
fn recorders_of_copies_of_a_model_merge() {
    // Two threads with a model each: the same names, but not the same sites.
    let (mut a, mut b) = (Recorder::new(), Recorder::new());
    for recorder in [&mut a, &mut b] {
        see(recorder, &Site::behind("fc1", Activation::Relu), &random(1, &[2, 3]));
    }
    a.merge(&b).unwrap();
    assert_eq!(a.finish()[0].samples, 4);
}

#[test]
fn merging_keeps_the_most_uses_and_the_first_trouble() {
    let (site, xs) = (Site::behind("fc1", Activation::Relu), random(1, &[2, 3]));
    let seen = |uses: usize| {
        let mut recorder = Recorder::new();
        let mut pass = Pass::eval(&mut recorder);
        (0..uses).for_each(|_| show(&mut pass, &site, &xs).unwrap());
        recorder
    };
    let mut troubled = seen(2);
    see(&mut troubled, &site, &random(1, &[2, 4]));
    let changed = Some(Trouble::UnitsChanged { expected: 3, found: 4 });
    for (mut a, b, uses, trouble) in [
        (seen(1), seen(3), 3, None),
        (seen(3), troubled.clone(), 3, changed.clone()),
        (troubled, seen(1), 2, changed),
    ] {
        a.merge(&b).unwrap();
        let got = a.finish().remove(0);
        assert_eq!((got.uses, got.trouble), (uses, trouble));
    }
    // Also where only the other knows the site.
    let mut empty = Recorder::new();
    empty.merge(&seen(2)).unwrap();
    assert_eq!(empty.finish()[0].uses, 2);
}

#[test]
fn training_and_evaluation_are_not_merged() {
    let (site, xs) = (Site::behind("fc1", Activation::Relu), random(1, &[2, 3]));
    let (mut train, mut eval) = (Recorder::of(Parts::COUNTS), Recorder::of(Parts::COUNTS));
    show(&mut Pass::train(&mut train, 1, 0), &site, &xs).unwrap();
    see(&mut eval, &site, &xs);
    let error = train.merge(&eval).unwrap_err();
    assert_eq!(error, Error::Merge { site: "fc1".to_string(), trouble: Trouble::ModesMixed });
    assert_eq!(train.finish()[0].samples, 2);
}
