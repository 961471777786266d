//! What a frozen network promises: the same bits with and without skipping, the model's own answers, and a clear line for
//! whatever does not fit.
#![allow(clippy::unwrap_used, missing_docs)]

mod bits;
mod bounds;
mod file;
mod model;
mod prune;
mod trouble;

use candle_core::Device;
use taper_frozen::{Scaling, Sequential};
use taper_nn::{Architecture, Layers, Params};

/// Values in `[-1, 1)`, a given share of which is 0.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn unit(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1_u64 << 24) as f32
    }

    pub fn some(&mut self, n: usize, zeros: f32) -> Vec<f32> {
        let mut value = || if self.unit() < zeros { 0.0 } else { self.unit() * 2.0 - 1.0 };
        (0..n).map(|_| value()).collect()
    }
}

pub fn layers(text: &str) -> Layers {
    text.parse().unwrap()
}

/// A network of these layers with random weights, batch normalisations' statistics among them; `shapes` are those of its weights.
pub fn network(
    text: &str,
    shapes: &[(&str, &[usize])],
    input: (usize, usize, usize),
    scaling: Scaling,
) -> (Params, Sequential) {
    let mut tensors = Vec::new();
    for (name, shape) in shapes {
        tensors.push((format!("{name}.weight"), shape.to_vec()));
        // A single value is the slope of a PReLU.
        if shape != &[1] {
            tensors.push((format!("{name}.bias"), vec![shape[0]]));
        }
        if shape.len() == 1 && shape != &[1] {
            tensors.push((format!("{name}.running_mean"), vec![shape[0]]));
            tensors.push((format!("{name}.running_var"), vec![shape[0]]));
        }
    }
    let params = Params::new(3, &Device::Cpu);
    let architecture = Architecture::new(&layers(text), tensors, input).unwrap();
    architecture.build(params.builder()).unwrap();
    let mut numbers = Numbers::new(5);
    for (name, var) in params.state() {
        if var.dtype() != candle_core::DType::F32 {
            continue;
        }
        let mut values = numbers.some(var.elem_count(), 0.0);
        if name.ends_with("running_var") {
            values.iter_mut().for_each(|x| *x = x.abs() + 0.1);
        }
        var.set(&candle_core::Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap()).unwrap();
    }
    let network = Sequential::new(&layers(text), &params, input, scaling).unwrap();
    (params, network)
}
