//! Methods that restart units or keep weights at 0, alone and in a session.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod continual;
mod input_masks;
mod l2_init;
mod options;
mod redo;
mod restart;
mod session;

use candle_core::{Device, Tensor, Var};
use taper_hooks::{Observer, Parts, Pass, Recorder};
use taper_nn::{Mlp, MlpConfig, Model, Params};
use taper_train::{Optimizer, OptimizerConfig, Rule};

use crate::common::few;

/// 64-12-8-10, from a seed.
fn net(seed: u64) -> (Params, Mlp) {
    let params = Params::new(seed, &Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![12, 8], ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap();
    (params, net)
}

fn adam(params: &Params, rate: f64) -> Optimizer {
    Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adam(0.0), rate)).unwrap()
}

fn images() -> Tensor {
    few().train.batches(96).next().unwrap().unwrap().images
}

fn var(params: &Params, name: &str) -> Var {
    params.vars().into_iter().find(|(own, _)| own == name).unwrap().1
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn edit(params: &Params, name: &str, f: impl FnOnce(&mut [f32])) {
    let var = var(params, name);
    let mut values = flat(&var);
    f(&mut values);
    var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
}

/// The logits.
fn outputs(net: &dyn Model, xs: &Tensor, observer: &mut dyn Observer) -> Vec<f32> {
    flat(&net.forward(&mut Pass::eval(observer), xs).unwrap())
}

fn recorder() -> Recorder {
    Recorder::of(Parts::COUNTS)
}

/// Makes units of a layer dead.
fn kill(params: &Params, bias: &str, units: &[usize]) {
    edit(params, bias, |bias| units.iter().for_each(|unit| bias[*unit] = -1e3));
}
