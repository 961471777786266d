//! What the kernels promise: PyTorch's values, their twins' values, and a defined answer to odd input.
#![allow(clippy::unwrap_used, missing_docs)]

mod activations;
mod applied;
mod arguments;
mod dropout;
mod edges;
mod goldens;
mod inference;
mod losses;
mod optimisers;
mod reproducible;
mod tape;
mod twins;

use candle_core::{DType, Device, Tensor, Var};
use proptest::test_runner::{Config, RngSeed};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// Property tests with a fixed seed: the same `n` cases on every run and machine, or the first PROPTEST_CASES of them.
fn cases(n: u32) -> Config {
    // Miri takes seconds for a case.
    let n = if cfg!(miri) { 2 } else { n.min(Config::default().cases) };
    Config { cases: n, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..Config::default() }
}

/// Values in `[-2, 2)`.
fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The same tensor laid out differently in memory: its last two dimensions are exchanged, and it starts inside a
/// larger storage.
fn scattered(xs: &Tensor) -> Tensor {
    let padded = xs.t().unwrap().pad_with_zeros(0, 1, 1).unwrap().contiguous().unwrap();
    let view = padded.narrow(0, 1, xs.t().unwrap().dim(0).unwrap()).unwrap().t().unwrap();
    assert!(!view.is_contiguous() || xs.dims().iter().any(|d| *d <= 1));
    view
}

/// What went wrong, without the backtrace that candle adds where RUST_BACKTRACE is set.
fn message(mut error: candle_core::Error) -> String {
    while let candle_core::Error::WithBacktrace { inner, .. } = error {
        error = *inner;
    }
    error.to_string()
}

fn var(xs: &Tensor) -> Var {
    Var::from_tensor(xs).unwrap()
}

fn flat(xs: &Tensor) -> Vec<f64> {
    xs.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(xs: &Tensor) -> Vec<u32> {
    let values = xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// The gradients of `args` when that of `ys` is `grad_ys`.
fn gradients(ys: &Tensor, grad_ys: &Tensor, args: &[&Var]) -> Vec<Tensor> {
    let grads = (ys * grad_ys).unwrap().sum_all().unwrap().backward().unwrap();
    args.iter().map(|arg| grads.get(arg).expect("a gradient for every variable").clone()).collect()
}

/// Every value within `relative` of the expected one, or within `absolute` near zero.
#[track_caller]
fn assert_close(what: &str, got: &Tensor, want: &Tensor, relative: f64, absolute: f64) {
    assert_eq!(got.dims(), want.dims(), "{what}: shape");
    for (i, (got, want)) in flat(got).into_iter().zip(flat(want)).enumerate() {
        let near = (got - want).abs() <= absolute.max(relative * want.abs());
        let same = got == want || (got.is_nan() && want.is_nan());
        assert!(near || same, "{what}[{i}]: expected {want}, found {got}");
    }
}

/// Every value within `relative` times the largest value that is wanted.
#[track_caller]
fn assert_close_in_scale(what: &str, got: &Tensor, want: &Tensor, relative: f64) {
    assert_close(what, got, want, 0.0, relative * largest(want).max(1e-3));
}

fn largest(xs: &Tensor) -> f64 {
    flat(xs).into_iter().fold(0.0, |max, x| max.max(x.abs()))
}
