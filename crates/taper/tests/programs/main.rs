//! Programs as a user writes them: models, losses and data that the library was not made for. Each keeps every service:
//! recorder, metrics, the policy for NaN, reports.
#![allow(clippy::unwrap_used, missing_docs)]

mod normalised;
mod tasks;
mod transformer;
mod watching;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use taper::hooks::Activation;
use taper::nn::{Act, Init, Linear, Model, Params, Pass};
use taper::train::{Optimizer, OptimizerConfig, Rule};

struct Net {
    fc1: Linear,
    act1: Act,
    out: Linear,
}

impl Net {
    fn new(outputs: usize, vb: VarBuilder) -> Result<Self> {
        let relu = Activation::Relu;
        Ok(Self {
            fc1: Linear::new(64, 32, Init::of(relu), vb.pp("fc1"))?,
            act1: Act::new(relu, vb.pp("fc1"))?,
            out: Linear::new(32, outputs, Init::LeCun, vb.pp("out"))?,
        })
    }
}

impl Model for Net {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        self.out.forward(&self.fc1.forward_act(pass, &xs.flatten_from(1)?, &self.act1)?)
    }
}

fn adam(params: &Params) -> Optimizer {
    Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adam(0.0), 3e-3)).unwrap()
}
