//! However a window is cut, over batches, recorders and threads, its numbers are the same.

use candle_core::Tensor;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use taper_hooks::{Activation, Recorder, Site};
use taper_report::LayerStats;

use crate::{random, see};

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

/// Counts and histograms to the bit, means of f64 numbers to 1e-12.
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

/// A window of a network with two sites, a fully connected and a convolutional one.
struct Window {
    sites: [Site; 2],
    inputs: [Tensor; 2],
}

impl Window {
    fn new(samples: usize, seed: u64, activation: Activation) -> Self {
        let inputs = [random(seed, &[samples, 11]), random(seed + 1, &[samples, 5, 4, 3])];
        Self { sites: ["fc1", "conv1"].map(|name| Site::new(name, activation)), inputs }
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
            prop_assert_eq!(merged.len(), 2);
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
            for (name, shape) in [("fc1", &[700, 300][..]), ("conv1", &[70, 32, 10, 10])] {
                see(&mut recorder, &Site::new(name, Activation::Selu), &random(1, shape));
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
    see(&mut a, &Site::new("fc1", Activation::Relu), &random(1, &[2, 3]));
    see(&mut b, &Site::new("fc2", Activation::Relu), &random(2, &[2, 4]));
    a.merge(&b).unwrap();
    let names: Vec<String> = a.finish().into_iter().map(|s| s.site).collect();
    assert_eq!(names, ["fc1", "fc2"]);
}

#[test]
fn recorders_of_copies_of_a_model_merge() {
    // Two threads with a model each: the same names, but not the same sites.
    let (mut a, mut b) = (Recorder::new(), Recorder::new());
    for recorder in [&mut a, &mut b] {
        see(recorder, &Site::new("fc1", Activation::Relu), &random(1, &[2, 3]));
    }
    a.merge(&b).unwrap();
    assert_eq!(a.finish()[0].samples, 4);
}
