//! The ends of what can be counted: the histogram's outermost bins, constants, layers that are dead as a whole, and
//! counts that no 32 bits hold.

use taper_hooks::{Activation, Recorder, Site};
use taper_report::{Histogram, MAGNITUDES};

use crate::{see, stats, stats_of, tensor};

#[test]
fn values_beyond_the_histogram_are_counted_in_its_outermost_bins() {
    let (least, most) = (2_f32.powi(-20), 4096_f32);
    let below = [f32::MIN_POSITIVE / 8.0, 1e-30, least / 2.0, f32::from_bits(least.to_bits() - 1)];
    let beyond = [most, 1e10, f32::MAX];
    let inside = [least, f32::from_bits(most.to_bits() - 1)];
    let positive: Vec<f32> = [&below[..], &inside, &beyond].concat();
    let ys: Vec<f32> = positive.iter().flat_map(|y| [*y, -*y]).chain([0.0, -0.0]).collect();
    let got = stats_of(&ys, &[1, ys.len()]);
    let histogram = got.histogram.unwrap();
    for side in [&histogram.positive, &histogram.negative] {
        assert_eq!((side[0], side[1], side[MAGNITUDES - 2], side[MAGNITUDES - 1]), (4, 1, 1, 3));
        assert_eq!(side.iter().sum::<u64>(), 9);
    }
    assert_eq!((histogram.zeros, histogram.total()), (2, got.values));
    assert_eq!((got.min, got.max), (Some(-f64::from(f32::MAX)), Some(f64::from(f32::MAX))));
    assert_eq!((got.mean, got.asymmetry, got.infinite), (Some(0.0), Some(0.0), 0));
    // The definition, in f64: nothing overflows on the way.
    let n = ys.len() as f64;
    let moment = |k| ys.iter().map(|y| f64::from(*y).powi(k)).sum::<f64>() / n;
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
    assert!(close(got.variance.unwrap(), moment(2)));
    assert!(close(got.excess_kurtosis.unwrap() + 3.0, moment(4) / moment(2).powi(2)));
    let quantiles = got.quantiles.unwrap();
    assert_eq!((quantiles.q01, quantiles.q99), (-4096.0, 4096.0));
    assert_eq!(Histogram::edges(MAGNITUDES - 1), (4096.0, f64::INFINITY));
}

#[test]
fn a_constant_layer_has_no_variance_and_nothing_that_is_divided_by_it() {
    for value in [0.1_f32, -3.0, 1e-30, 0.0, f32::MAX] {
        let (site, mut recorder) = (Site::behind("fc1", Activation::Identity), Recorder::new());
        // Several batches, of several blocks each, so that moments are merged too.
        for n in [700, 1, 300] {
            see(&mut recorder, &site, &tensor(vec![value; n * 100], &[n, 100]));
        }
        let got = recorder.finish().remove(0);
        assert_eq!((got.min, got.max), (Some(f64::from(value)), Some(f64::from(value))), "{value}");
        assert_eq!((got.variance, got.skewness, got.excess_kurtosis), (Some(0.0), None, None), "{value}");
        assert_eq!(got.mean, Some(f64::from(value)));
    }
}

#[test]
fn a_layer_of_dead_units_is_all_zeros_and_every_unit_is_named() {
    let (site, mut recorder) = (Site::behind("fc1", Activation::Relu), Recorder::new());
    see(&mut recorder, &site, &tensor(vec![-1.0; 30], &[5, 6]));
    let first = recorder.finish().remove(0);
    assert_eq!((first.dead, first.dead_fraction(), first.zero_fraction), (Some(6), Some(1.0), 1.0));
    assert_eq!(first.dead_units, [0, 1, 2, 3, 4, 5]);
    assert_eq!((first.rare, first.always_on, first.dormant_0), (Some(0), 0, Some(6)));
    assert_eq!((first.firing_rate.never, first.samples_all_zero), (6, Some(5)));
    assert_eq!(
        (first.variance, first.population_sparseness, first.lifetime_sparseness),
        (Some(0.0), None, None)
    );
    assert_eq!((first.asymmetry, first.flat_low), (Some(0.0), Some(1.0)));
    see(&mut recorder, &site, &tensor(vec![1.0; 30], &[5, 6]));
    let second = recorder.finish().remove(0);
    assert_eq!(
        (second.dead, second.revived, second.died, second.still_dead),
        (Some(0), Some(6), Some(0), Some(0))
    );
}

#[test]
fn counts_are_exact_where_neither_32_bits_nor_a_double_would_be() {
    let site = Site::behind("fc1", Activation::Relu);
    let mut recorder = Recorder::new();
    see(&mut recorder, &site, &tensor(vec![-1.0, 2.0, 3.0, f32::NAN], &[2, 2]));
    // A recorder that saw the same again, 58 times over.
    for _ in 0..58 {
        let other = recorder.clone();
        recorder.merge(&other).unwrap();
    }
    let mut last = Recorder::new();
    see(&mut last, &site, &tensor(vec![-1.0, 2.0], &[1, 2]));
    recorder.merge(&last).unwrap();
    let got = recorder.finish().remove(0);
    let n = 1_u64 << 58;
    assert_eq!((got.values, got.nan, got.zeros, got.positives), (4 * n + 2, n, n + 1, 2 * n + 1));
    assert_eq!((got.samples, got.histogram.unwrap().total()), (2 * n + 1, 3 * n + 2));
    assert_eq!(got.firing_rate.between.iter().sum::<u64>() + got.firing_rate.always, 2);
}

#[test]
fn an_infinity_that_relu_turns_into_zero_is_a_zero_by_its_definition() {
    // What there is to count is what comes out; that something is wrong in front is for the search for a fault to say.
    let got = stats(Activation::Relu, &tensor(vec![f32::NEG_INFINITY, 1.0], &[1, 2]));
    assert_eq!((got.zeros, got.infinite), (1, 0));
}
