//! What layers and models promise: names, shapes, how weights start, and what observers see of them.
#![allow(clippy::unwrap_used, missing_docs)]

mod act;
mod action;
mod architecture;
mod batch_norm;
mod dropout;
mod init;
mod k_winners;
mod link;
mod models;
mod params;
mod scope;
mod sequence;
mod signal;
mod sparseout;
mod tap;

use candle_core::{Device, Tensor};
use rand_distr::{Distribution, StandardNormal};
use taper_hooks::{Observer, Pass};
use taper_nn::{Model, Params};

const CPU: &Device = &Device::Cpu;

/// Standard normal values.
fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = taper_hooks::rng(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| StandardNormal.sample(&mut rng)).collect();
    Tensor::from_vec(values, shape, CPU).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The bits of all values: equal ones are equal to the last digit.
fn bits(tensor: &Tensor) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

fn params() -> Params {
    Params::new(1, CPU)
}

/// Names and shapes of all parameters.
fn shapes(params: &Params) -> Vec<(String, Vec<usize>)> {
    params.vars().into_iter().map(|(name, var)| (name, var.dims().to_vec())).collect()
}

fn named(shapes: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    shapes.iter().map(|(name, dims)| (name.to_string(), dims.to_vec())).collect()
}

fn eval(model: &dyn Model, observer: &mut dyn Observer, xs: &Tensor) -> Tensor {
    model.forward(&mut Pass::eval(observer), xs).unwrap()
}

/// The first line of an error; candle adds a backtrace below it if the environment asks for one.
fn message<T>(result: candle_core::Result<T>) -> String {
    result.err().expect("it must be refused").to_string().lines().next().unwrap().to_string()
}
