//! Dropout and alpha-dropout: kept values, dropped values, and the mask as a function of the seed only.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use taper_kernels::{Activation, Draw, activate, alpha_dropout, dropout, twin};

use crate::{assert_close, bits, cases, flat, gradients, random, scattered, var};

type Op = fn(&Tensor, f64, u64) -> candle_core::Result<Tensor>;

const N: usize = 1_000_000;

/// Standard normal values (Box-Muller).
fn normal(seed: u64) -> Tensor {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let values: Vec<f32> = (0..N)
        .map(|_| {
            let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
            ((-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()) as f32
        })
        .collect();
    Tensor::from_vec(values, N, &Device::Cpu).unwrap()
}

fn mean(xs: &[f64]) -> f64 {
    xs.iter().sum::<f64>() / xs.len() as f64
}

/// Mean and variance within five standard errors of 0 and 1.
#[track_caller]
fn assert_standardised(what: &str, xs: &[f64]) {
    let (n, m) = (xs.len() as f64, mean(xs));
    let power = |p: i32| mean(&xs.iter().map(|x| (x - m).powi(p)).collect::<Vec<_>>());
    let (variance, fourth) = (power(2), power(4));
    assert!(m.abs() < 5.0 * (variance / n).sqrt(), "{what}: mean {m}");
    let error = ((fourth - variance * variance) / n).sqrt();
    assert!((variance - 1.0).abs() < 5.0 * error, "{what}: variance {variance} ± {error}");
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn masks_values_and_gradients_are_those_of_the_twin(
        rate in prop_oneof![Just(0.0), 0.001..0.999_f64],
        shape in prop_oneof![4 => prop::collection::vec(1..12_usize, 1..4), 1 => Just(vec![70_001])], seed: u64,
    ) {
        for (kernel, twin) in [(dropout as Op, twin::dropout as Op), (alpha_dropout, twin::alpha_dropout)] {
            let run = |op: Op, dtype: DType, view: bool| {
                let xs = var(&random(3, &shape).to_dtype(dtype).unwrap());
                let seen = if view && shape.len() > 1 { scattered(&xs) } else { xs.as_tensor().clone() };
                let ys = op(&seen, rate, seed).unwrap();
                let grads = gradients(&ys, &random(4, &shape).to_dtype(dtype).unwrap(), &[&xs]).remove(0);
                (ys, grads)
            };
            let want = run(twin, DType::F64, false);
            for got in [run(kernel, DType::F32, false), run(kernel, DType::F32, true), run(twin, DType::F32, false)] {
                let dropped = |xs: &Tensor| flat(xs).iter().map(|x| *x == 0.0).collect::<Vec<_>>();
                prop_assert_eq!(dropped(&got.1), dropped(&want.1));
                assert_close("value", &got.0, &want.0, 1e-6, 1e-6);
                assert_close("gradient", &got.1, &want.1, 1e-6, 0.0);
            }
        }
    }
}

#[test]
fn dropout_keeps_the_expectation_and_drops_its_rate() {
    for rate in [0.05, 0.25, 0.5, 0.9] {
        for (i, op) in [dropout as Op, twin::dropout].into_iter().enumerate() {
            let ones = Tensor::ones(N, DType::F32, &Device::Cpu).unwrap();
            let ys = flat(&op(&ones, rate, 11 + i as u64).unwrap());
            let sigma = (rate * (1.0 - rate) / N as f64).sqrt();
            let zeros = ys.iter().filter(|y| **y == 0.0).count() as f64 / N as f64;
            assert!((zeros - rate).abs() < 5.0 * sigma, "rate {rate}: dropped {zeros}");
            assert!((mean(&ys) - 1.0).abs() < 5.0 * sigma / (1.0 - rate), "rate {rate}: mean {}", mean(&ys));
        }
    }
}

#[test]
fn alpha_dropout_keeps_mean_0_and_variance_1_and_makes_no_exact_zeros() {
    for rate in [0.05, 0.2, 0.5] {
        for seed in 0..2 {
            let xs = normal(seed);
            // A normal input, and what SELU makes of one, which has mean 0 and variance 1 too.
            for (what, xs) in [("normal", xs.clone()), ("selu", activate(&xs, Activation::Selu).unwrap())] {
                assert_standardised(&format!("{what} before"), &flat(&xs));
                for op in [alpha_dropout as Op, twin::alpha_dropout] {
                    let ys = flat(&op(&xs, rate, 100 + seed).unwrap());
                    assert_standardised(&format!("{what} after rate {rate}"), &ys);
                    assert!(ys.iter().all(|y| *y != 0.0));
                }
            }
        }
    }
}

#[test]
fn values_dropped_by_alpha_dropout_become_the_transformed_lower_limit() {
    let (rate, low) = (0.3, -taper_kernels::SELU_LAMBDA * taper_kernels::SELU_ALPHA);
    let q = 1.0 - rate;
    let a = (q + low * low * q * (1.0 - q)).powf(-0.5);
    let b = -a * (1.0 - q) * low;
    let xs = random(1, &[1000]);
    let ys = flat(&alpha_dropout(&xs, rate, 5).unwrap());
    let dropped = flat(&xs).into_iter().zip(ys).filter(|(x, y)| {
        let kept = (y - (a * x + b)).abs() < 1e-6;
        assert!(kept || (y - (a * low + b)).abs() < 1e-6, "{x} became {y}");
        !kept
    });
    assert!((200..400).contains(&dropped.count()));
}

#[test]
fn the_seed_decides_the_mask() {
    let ones = Tensor::ones(100_000, DType::F32, &Device::Cpu).unwrap();
    for op in [dropout as Op, alpha_dropout] {
        let mask = |seed| bits(&op(&ones, 0.5, seed).unwrap());
        assert_eq!(mask(1), mask(1));
        for (a, b) in [(0, 1), (1, 2), (1, 1 << 40), (0, 0x9e37_79b9_7f4a_7c15)] {
            let equal = mask(a).iter().zip(mask(b)).filter(|(a, b)| **a == *b).count();
            // Independent masks of rate one half agree at half of the places: 50,000 ± 158.
            assert!((49_200..50_800).contains(&equal), "seeds {a} and {b} agree at {equal} of 100000 places");
        }
    }
}

#[test]
fn parts_of_a_batch_draw_what_the_whole_batch_draws() {
    for shape in [vec![13], vec![13, 7], vec![13, 3, 5, 2], vec![13, 40_000]] {
        let xs = random(1, &shape);
        for op in [dropout as fn(&Tensor, f64, Draw) -> _, alpha_dropout, twin::dropout, twin::alpha_dropout]
        {
            let whole = bits(&op(&xs, 0.4, Draw { seed: 5, first_row: 100 }).unwrap());
            let mut parts = Vec::new();
            for (start, rows) in [(0, 1), (1, 8), (9, 4)] {
                let draw = Draw { seed: 5, first_row: 100 + start as u64 };
                parts.extend(bits(&op(&xs.narrow(0, start, rows).unwrap(), 0.4, draw).unwrap()));
            }
            assert_eq!(whole, parts, "{shape:?}");
        }
    }
}

#[test]
fn no_two_stretches_of_a_mask_are_related() {
    const STRETCH: usize = 32 * 1024;
    let ones = Tensor::ones((6, STRETCH), DType::F32, &Device::Cpu).unwrap();
    let mask = flat(&dropout(&ones, 0.5, 3).unwrap());
    // And not to those of seeds a caller may count up, be it by one or by SplitMix64's increment.
    let other = flat(&dropout(&ones, 0.5, 3_u64.wrapping_add(0x9e37_79b9_7f4a_7c15)).unwrap());
    let stretches: Vec<&[f64]> = mask.chunks(STRETCH).chain(other.chunks(STRETCH)).collect();
    for (i, a) in stretches.iter().enumerate() {
        for b in &stretches[..i] {
            for shift in 0..16 {
                let pairs = a[shift..].iter().zip(&b[..STRETCH - shift]);
                let equal = pairs.filter(|(a, b)| a == b).count() as f64;
                let n = (STRETCH - shift) as f64;
                assert!((equal - n / 2.0).abs() < 6.0 * (n / 4.0).sqrt(), "{equal} of {n} agree");
            }
        }
    }
}

#[test]
fn rate_0_is_the_identity_and_a_rate_outside_0_to_1_an_error() {
    let xs = random(1, &[1000]);
    for op in [dropout as Op, alpha_dropout, twin::dropout, twin::alpha_dropout] {
        assert_eq!(bits(&op(&xs, 0.0, 1).unwrap()), bits(&xs));
        for rate in [1.0, -0.1, f64::NAN, f64::INFINITY, 1.5] {
            let error = crate::message(op(&xs, rate, 1).unwrap_err());
            assert_eq!(error, format!("dropout: expected a rate of at least 0 and below 1, found {rate}"));
        }
    }
}
