//! Dropout: which kind, when, and from which random numbers.

use candle_core::Tensor;
use taper_hooks::Pass;
use taper_nn::{Activation, Dropout};

use crate::{CPU, bits, message, random, values};

fn train(dropout: Dropout, xs: &Tensor, seed: u64) -> Tensor {
    dropout.forward(&mut Pass::train(&mut (), &mut taper_hooks::rng(seed)), xs).unwrap()
}

#[test]
fn it_is_inverted_behind_all_but_selu() {
    let xs = Tensor::ones((100, 100), candle_core::DType::F32, CPU).unwrap();
    for f in Activation::ALL.into_iter().filter(|f| *f != Activation::Selu) {
        let dropout = Dropout::matching(f, 0.25).unwrap();
        assert_eq!(dropout, Dropout::new(0.25).unwrap());
        let ys = values(&train(dropout, &xs, 1));
        assert!(ys.iter().all(|y| *y == 0.0 || *y == 1.0 / 0.75), "{f}");
        // 5 standard errors of a share of 0.25 among 10,000.
        let share = ys.iter().filter(|y| **y == 0.0).count() as f64 / 1e4;
        assert!((share - 0.25).abs() < 5.0 * (0.25_f64 * 0.75 / 1e4).sqrt(), "{share}");
    }
}

#[test]
fn behind_selu_it_keeps_mean_0_and_variance_1_and_makes_no_zeros() {
    let dropout = Dropout::matching(Activation::Selu, 0.25).unwrap();
    let ys = values(&train(dropout, &random(1, &[400, 500]), 1));
    assert!(ys.iter().all(|y| *y != 0.0));
    let n = ys.len() as f64;
    let mean = ys.iter().map(|y| *y as f64).sum::<f64>() / n;
    let variance = ys.iter().map(|y| (*y as f64 - mean).powi(2)).sum::<f64>() / n;
    // 5 standard errors: 1/√n of the mean, and at most √(2/n) of the variance (its kurtosis is below 3).
    assert!(
        mean.abs() < 5.0 / n.sqrt() && (variance - 1.0).abs() < 5.0 * (2.0 / n).sqrt(),
        "{mean}, {variance}"
    );
}

#[test]
fn at_rate_0_and_in_evaluation_it_is_the_identity() {
    let xs = random(1, &[10, 10]);
    for f in [Activation::Relu, Activation::Selu] {
        assert_eq!(bits(&train(Dropout::matching(f, 0.0).unwrap(), &xs, 1)), bits(&xs));
        let dropout = Dropout::matching(f, 0.9).unwrap();
        assert_eq!(bits(&dropout.forward(&mut Pass::eval(&mut ()), &xs).unwrap()), bits(&xs));
    }
}

#[test]
fn at_rate_0_it_takes_no_random_number() {
    let (xs, mut rng) = (random(1, &[2, 2]), taper_hooks::rng(1));
    Dropout::new(0.0).unwrap().forward(&mut Pass::train(&mut (), &mut rng), &xs).unwrap();
    assert_eq!(rng, taper_hooks::rng(1));
}

#[test]
fn a_rate_outside_zero_to_one_is_an_error() {
    for rate in [1.0, 1.5, -0.1, f64::NAN, f64::INFINITY] {
        for result in [Dropout::new(rate), Dropout::matching(Activation::Selu, rate)] {
            let error = message(result);
            assert_eq!(error, format!("dropout: expected a rate in [0, 1), found {rate}"));
        }
    }
}

#[test]
fn it_repeats_with_the_generator_of_the_pass_and_differs_within_it() {
    let (xs, dropout) = (random(1, &[30, 30]), Dropout::new(0.5).unwrap());
    let both = |seed| {
        let (mut nobody, mut rng) = ((), taper_hooks::rng(seed));
        let mut pass = Pass::train(&mut nobody, &mut rng);
        [0, 1].map(|_| bits(&dropout.forward(&mut pass, &xs).unwrap()))
    };
    assert_eq!(both(1), both(1));
    assert_ne!(both(1)[0], both(1)[1]);
    assert_ne!(both(1)[0], both(2)[0]);
}
