//! What the words mean in the cases where projects differ.

use candle_core::{DType, Device, Tensor};
use taper_hooks::{Activation, Parts, Pass, Recorder, Site, Units};
use taper_kernels::{activate, dropout};

use crate::{random, see, show, stats, stats_of, tensor};

#[test]
fn a_unit_that_fires_once_is_not_dead() {
    let mut xs = vec![-1.0; 500 * 2];
    xs[250 * 2] = 1e-30;
    let got = stats(Activation::Relu, &tensor(xs.clone(), &[500, 2]));
    assert_eq!(
        (got.dead_units.as_slice(), got.rare, got.rare_units.as_slice()),
        (&[1][..], Some(1), &[0][..])
    );
    // The same as feature maps: once in 500 positions.
    xs.swap(250 * 2, 499);
    let got = stats(Activation::Relu, &tensor(xs, &[1, 2, 500]));
    assert_eq!(
        (got.dead_units.as_slice(), got.rare, got.rare_units.as_slice()),
        (&[1][..], Some(1), &[0][..])
    );
}

#[test]
fn a_relu_unit_at_zero_everywhere_is_dead_and_flat() {
    for shape in [&[6, 1][..], &[2, 1, 3]] {
        let got = stats(Activation::Relu, &tensor(vec![0.0, -0.0, 0.0, 0.0, -0.0, 0.0], shape));
        assert_eq!((got.dead, got.rare, got.zeros), (Some(1), Some(0), 6));
        assert_eq!((got.flat_low, got.flat_high), (Some(1.0), Some(0.0)));
        assert_eq!((got.min, got.variance, got.skewness), (Some(0.0), Some(0.0), None));
    }
}

#[test]
fn flat_low_of_relu_is_its_zero_fraction() {
    for shape in [&[50, 12][..], &[5, 4, 30]] {
        let got = stats(Activation::Relu, &random(3, shape));
        assert_eq!(got.flat_low, Some(got.zero_fraction));
    }
}

#[test]
fn a_unit_that_only_leaks_or_saturates_is_not_dead() {
    let xs = tensor(vec![-30.0; 40], &[10, 4]);
    for activation in Activation::ALL {
        let zero_floored = matches!(activation, Activation::Relu | Activation::Relu6 | Activation::Relu2);
        let clipped =
            matches!(activation, Activation::Hardtanh | Activation::Hardsigmoid | Activation::Hardswish);
        // f' of these is below the smallest f32 out there: no gradient passes, and dead is the word for it.
        let underflows = matches!(activation, Activation::Gelu | Activation::GeluTanh);
        let got = stats(activation, &xs);
        let dead = if zero_floored || clipped || underflows { 4 } else { 0 };
        assert_eq!(got.dead, Some(dead), "{activation}");
        assert_eq!(got.rare.is_some(), zero_floored, "{activation}");
    }
}

#[test]
fn zeros_that_dropout_makes_behind_the_site_are_not_counted() {
    let (site, xs) = (Site::behind("fc1", Activation::Tanh), random(1, &[30, 40]));
    let mut recorder = Recorder::new();
    let mut pass = Pass::train(&mut recorder, 1, 0);
    let ys = activate(&xs, Activation::Tanh).unwrap();
    pass.see(&site, &xs, &ys).unwrap();
    let ys = dropout(&ys, 0.5, pass.draw().unwrap()).unwrap();
    assert!(ys.flatten_all().unwrap().to_vec1::<f32>().unwrap().contains(&0.0));
    assert_eq!(recorder.finish()[0].zeros, 0);
}

#[test]
fn a_site_seen_twice_in_one_pass_adds_up_and_says_so() {
    let site = Site::behind("shared", Activation::Relu).units(Units::Second);
    let mut recorder = Recorder::new();
    for _batch in 0..3 {
        let mut pass = Pass::eval(&mut recorder);
        for (seed, positions) in [(1, 7), (2, 3)] {
            show(&mut pass, &site.clone(), &random(seed, &[5, 4, positions])).unwrap();
        }
    }
    // A pass with one use does not lower it.
    see(&mut recorder, &site, &random(3, &[5, 4, 1]));
    let got = recorder.finish();
    assert_eq!((got.len(), got[0].uses, got[0].trouble.clone()), (1, 2, None));
    assert_eq!((got[0].values, got[0].samples), (5 * 4 * 31, 5 * 7));
}

#[test]
fn sites_come_in_the_order_in_which_they_were_first_seen() {
    let sites = ["conv2", "conv1", "fc1"].map(|name| Site::behind(name, Activation::Relu));
    let mut recorder = Recorder::new();
    for _ in 0..2 {
        sites.iter().for_each(|site| see(&mut recorder, site, &random(1, &[2, 3])));
    }
    assert_eq!(
        recorder.finish().iter().map(|s| s.site.as_str()).collect::<Vec<_>>(),
        ["conv2", "conv1", "fc1"]
    );
}

#[test]
fn a_window_without_a_pass_has_no_layers() {
    let mut recorder = Recorder::new();
    assert!(recorder.finish().is_empty() && recorder.units("fc1").is_none());
}

#[test]
fn a_batch_of_no_samples_says_nothing_about_the_units() {
    for shape in [&[0, 3][..], &[0, 3, 4, 4], &[2, 3, 0]] {
        let got = stats(Activation::Relu, &tensor(vec![], shape));
        assert_eq!((got.units, got.values, got.dead, got.dormant_0), (3, 0, Some(0), Some(0)), "{shape:?}");
        assert_eq!((got.always_on, got.rare, got.zero_fraction), (0, Some(0), 0.0));
        assert_eq!((got.mean, got.min, got.flat_low, got.asymmetry), (None, None, None, None));
        assert!(got.histogram.is_none() && got.active_per_sample.is_none() && got.hoyer.is_none());
        assert_eq!(got.firing_rate.never + got.firing_rate.always, 0);
    }
    // Beside others it changes nothing.
    let (site, xs) = (Site::behind("fc1", Activation::Relu), random(1, &[4, 3]));
    let mut recorder = Recorder::new();
    for xs in [tensor(vec![], &[0, 3]), xs.clone(), tensor(vec![], &[0, 3])] {
        see(&mut recorder, &site, &xs);
    }
    assert_eq!(recorder.finish()[0], stats(Activation::Relu, &xs));
}

#[test]
fn one_value_has_a_mean_and_no_spread() {
    let got = stats_of(&[2.5], &[1, 1]);
    assert_eq!((got.mean, got.variance, got.min, got.max), (Some(2.5), Some(0.0), Some(2.5), Some(2.5)));
    assert_eq!((got.skewness, got.excess_kurtosis), (None, None));
    // One value is no population.
    assert_eq!((got.population_sparseness, got.hoyer, got.lifetime_sparseness), (None, None, None));
    assert_eq!((got.always_on, got.samples_all_zero), (1, Some(0)));
}

#[test]
fn a_silent_layer_is_wholly_dormant_and_a_sample_of_zeros_has_no_sparseness() {
    let got = stats(Activation::Relu, &tensor(vec![-1.0; 12], &[3, 4]));
    assert_eq!((got.dormant_0, got.dead, got.samples_all_zero), (Some(4), Some(4), Some(3)));
    assert_eq!((got.population_sparseness, got.hoyer, got.lifetime_sparseness), (None, None, None));
    assert_eq!(got.asymmetry, Some(0.0));
}

#[test]
fn dormancy_includes_its_bound() {
    // Mean magnitudes 1 and 39: scores 0.05 and 1.95; then scores of exactly 0 and 2 (but for the 1e-9).
    let got = stats_of(&[1.0, -39.0], &[1, 2]);
    assert_eq!((got.dormant_0, got.dormant_0_025, got.dormant_0_1), (Some(0), Some(0), Some(1)));
    let got = stats_of(&[0.0, 3.0], &[1, 2]);
    assert_eq!((got.dormant_0, got.dormant_0_025), (Some(1), Some(1)));
}

#[test]
fn a_layer_fainter_than_a_billionth_is_dormant_as_a_whole() {
    // 1e-10 / (1e-10 + 1e-9) is 0.09, and 2e-10 / (2e-10 + 1e-9) is 0.17.
    assert_eq!(stats_of(&[1e-10; 6], &[2, 3]).dormant_0_1, Some(3));
    assert_eq!(stats_of(&[2e-10; 6], &[2, 3]).dormant_0_1, Some(0));
}

#[test]
fn dead_is_about_gradients_and_firing_about_values() {
    // Above 6 ReLU6 fires always and passes nothing; x² of a tiny x is 0 and its slope is not.
    let relu6 = stats(Activation::Relu6, &tensor(vec![7.0; 4], &[4, 1]));
    assert_eq!((relu6.dead, relu6.rare, relu6.always_on, relu6.flat_high), (Some(1), Some(0), 1, Some(1.0)));
    let relu2 = stats(Activation::Relu2, &tensor(vec![1e-30; 4], &[4, 1]));
    assert_eq!((relu2.dead, relu2.rare, relu2.zeros, relu2.firing_rate.never), (Some(0), Some(1), 4, 1));
}

#[test]
fn one_percent_is_not_rare_and_less_is() {
    for (n, rare) in [(100, 0), (101, 1), (300, 1)] {
        let mut xs = vec![-1.0; n];
        xs[n / 2] = 1.0;
        assert_eq!(stats(Activation::Relu, &tensor(xs, &[n, 1])).rare, Some(rare), "once in {n}");
    }
}

#[test]
fn recording_only_counts_leaves_the_rest_out() {
    let site = Site::behind("fc1", Activation::Relu);
    let (mut counts, mut full) = (Recorder::of(Parts::COUNTS), Recorder::new());
    for recorder in [&mut counts, &mut full] {
        see(recorder, &site, &random(1, &[20, 6]));
    }
    let (counts, full) = (counts.finish().remove(0), full.finish().remove(0));
    let without = taper_report::LayerStats {
        mean: None,
        variance: None,
        skewness: None,
        excess_kurtosis: None,
        min: None,
        max: None,
        histogram: None,
        quantiles: None,
        asymmetry: None,
        active_per_sample: None,
        population_sparseness: None,
        hoyer: None,
        samples_all_zero: None,
        lifetime_sparseness: None,
        ..full
    };
    assert_eq!(counts, without);
}

#[test]
fn memory_does_not_grow_with_batches_or_epochs_and_with_their_size_by_a_factor_of_32_at_most() {
    // Numbers in the serialised form; a histogram has a fixed size in memory, and is written without empty bins.
    fn numbers(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Array(values) => values.iter().map(numbers).sum(),
            serde_json::Value::Object(fields) => {
                fields.iter().filter(|(name, _)| *name != "histogram").map(|(_, value)| numbers(value)).sum()
            }
            _ => 1,
        }
    }
    let size = |recorder: &Recorder| numbers(&serde_json::to_value(recorder).unwrap());
    let see_batches = |samples: usize, batches: u64, recorder: &mut Recorder, site: &Site| {
        (0..batches).for_each(|batch| see(recorder, site, &random(batch, &[samples, 5, 9])));
        size(recorder)
    };
    let mut small = 0;
    for samples in [2, 500, 30_000] {
        let (site, mut recorder) =
            (Site::behind("conv1", Activation::Relu).units(Units::Second), Recorder::new());
        let first = see_batches(samples, 1, &mut recorder, &site);
        recorder.finish();
        for _ in 0..2 {
            // Which units were dead in the window before is remembered.
            assert_eq!(see_batches(samples, 3, &mut recorder, &site), first + 6, "{samples} samples");
            recorder.finish();
        }
        small = if samples == 2 { first } else { small };
        assert!((small..=32 * small).contains(&first), "{samples} samples: {first} numbers, {small} for 2");
    }
}

#[test]
fn counters_are_exact_above_two_to_the_24() {
    // Beyond it an f32 counter would stand still. One unit sees them all.
    let (site, mut recorder) =
        (Site::behind("conv1", Activation::Relu).units(Units::Second), Recorder::new());
    let one = Tensor::ones((1, 1, 1), DType::F32, &Device::Cpu).unwrap();
    let (n, positions) = (1025, 4096);
    let xs = one.broadcast_as((n, 1, positions)).unwrap();
    (0..4).for_each(|_| see(&mut recorder, &site, &xs));
    see(&mut recorder, &site, &tensor(vec![-1.0, 1.0, 0.0], &[1, 1, 3]));
    let many = 4 * (n * positions) as u64;
    assert!(many > 1 << 24);
    let unit = recorder.units("conv1").unwrap()[0];
    assert_eq!((unit.observations, unit.fired, unit.passed), (many + 3, many + 1, Some(many + 1)));
    let got = recorder.finish().remove(0);
    assert_eq!((got.values, got.positives, got.zeros), (many + 3, many + 1, 2));
    assert_eq!(got.histogram.unwrap().total(), many + 3);
}

#[test]
fn other_dtypes_and_layouts_are_counted_like_plain_ones() {
    let xs = random(1, &[6, 4, 10]);
    let want = stats(Activation::Relu, &xs);
    assert_eq!(stats(Activation::Relu, &xs.to_dtype(DType::F64).unwrap()), want);
    let scattered = xs.transpose(1, 2).unwrap().contiguous().unwrap().transpose(1, 2).unwrap();
    assert!(!scattered.is_contiguous());
    assert_eq!(stats(Activation::Relu, &scattered), want);
    let part = Tensor::cat(&[&xs, &xs], 0).unwrap().narrow(0, 6, 6).unwrap();
    assert_eq!(stats(Activation::Relu, &part), want);
    let half = xs.to_dtype(DType::BF16).unwrap();
    assert_eq!(stats(Activation::Relu, &half), stats(Activation::Relu, &half.to_dtype(DType::F32).unwrap()));
}

#[test]
fn every_unit_has_its_own_statistics() {
    let (site, mut recorder) = (Site::behind("fc1", Activation::Relu), Recorder::new());
    see(&mut recorder, &site, &tensor(vec![-1.0, 2.0, 3.0, 4.0], &[2, 2]));
    let units = recorder.units("fc1").unwrap();
    assert_eq!((units[0].observations, units[0].fired, units[0].passed), (2, 1, Some(1)));
    assert_eq!((units[0].mean, units[1].mean, units[1].mean_abs), (1.5, 3.0, 3.0));
}

#[test]
fn a_window_knows_which_units_were_dead_in_the_one_before() {
    let (site, mut recorder) = (Site::behind("fc1", Activation::Relu), Recorder::new());
    let mut crossings = Vec::new();
    for xs in [[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0], [1.0, -1.0, 1.0, 1.0]] {
        see(&mut recorder, &site, &tensor(xs.to_vec(), &[1, 4]));
        let got = recorder.finish().remove(0);
        crossings.push((got.died, got.revived, got.still_dead));
    }
    assert_eq!(crossings, [(None, None, None), (Some(1), Some(1), Some(1)), (Some(1), Some(2), Some(0))]);
}
