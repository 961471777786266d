//! Dropout: which kind, when, and from which random numbers.

use candle_core::Tensor;
use candle_nn::Module;
use taper_hooks::Pass;
use taper_nn::{Activation, Dropout};

use crate::{CPU, bits, message, random, values};

fn train(dropout: Dropout, xs: &Tensor, seed: u64) -> Tensor {
    dropout.forward(&mut Pass::train(&mut (), seed, 0), xs).unwrap()
}

#[test]
fn it_is_inverted_dropout_except_after_selu() {
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
fn at_rate_0_it_draws_nothing() {
    let next = |dropout: Option<Dropout>| {
        let mut nobody = ();
        let mut pass = Pass::train(&mut nobody, 1, 0);
        dropout.iter().for_each(|d| drop(d.forward(&mut pass, &random(1, &[2, 2])).unwrap()));
        pass.draw().unwrap()
    };
    assert_eq!(next(Some(Dropout::new(0.0).unwrap())), next(None));
    assert_ne!(next(Some(Dropout::new(0.5).unwrap())), next(None));
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
fn its_mask_follows_from_seed_step_and_place() {
    let (xs, dropout) = (random(1, &[30, 30]), Dropout::new(0.5).unwrap());
    let both = |seed, step| {
        let mut nobody = ();
        let mut pass = Pass::train(&mut nobody, seed, step);
        [0, 1].map(|_| bits(&dropout.forward(&mut pass, &xs).unwrap()))
    };
    assert_eq!(both(1, 7), both(1, 7));
    let all = [both(1, 7), both(2, 7), both(1, 8), both(7, 1)].concat();
    for (i, mask) in all.iter().enumerate() {
        assert!(!all[..i].contains(mask), "mask {i} came before");
    }
}

#[test]
fn parts_of_a_batch_drop_what_the_whole_batch_drops_at_every_place() {
    let xs = random(1, &[13, 6, 5]);
    for f in [Activation::Relu, Activation::Selu] {
        let dropout = Dropout::matching(f, 0.4).unwrap();
        let twice = |xs: &Tensor, first_row: u64| {
            let mut nobody = ();
            let mut pass = Pass::train(&mut nobody, 3, 9).rows_from(first_row);
            let first = dropout.forward(&mut pass, xs).unwrap();
            [bits(&first), bits(&dropout.forward(&mut pass, &first).unwrap())]
        };
        let whole = twice(&xs, 0);
        // Accumulation steps or ranks, of any size.
        for cuts in [vec![13], vec![1, 12], vec![4, 4, 5]] {
            let (mut parts, mut start) = ([Vec::new(), Vec::new()], 0);
            for rows in cuts {
                let part = twice(&xs.narrow(0, start, rows).unwrap(), start as u64);
                parts.iter_mut().zip(part).for_each(|(all, part)| all.extend(part));
                start += rows;
            }
            assert_eq!(parts, whole, "{f}");
        }
        assert_ne!(twice(&xs, 13), whole);
    }
}

#[test]
fn as_a_module_it_drops_only_within_the_scope_of_a_training_pass() {
    let (xs, dropout) = (random(1, &[10, 10]), Dropout::new(0.5).unwrap());
    let module = || bits(&Module::forward(&dropout, &xs).unwrap());
    assert_eq!(module(), bits(&xs));
    assert_eq!(Pass::eval(&mut ()).scope(module), bits(&xs));
    assert_eq!(Pass::train(&mut (), 1, 0).scope(module), bits(&train(dropout, &xs, 1)));
    assert_eq!(Pass::train(&mut (), 1, 0).scope(|| Pass::outside(module)), bits(&xs));
    // It draws from the pass: twice in a scope gives two masks.
    let [first, second] = Pass::train(&mut (), 1, 0).scope(|| [module(), module()]);
    assert_ne!(first, second);
}
