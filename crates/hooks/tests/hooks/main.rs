//! What the recorder's numbers mean, that they merge, and what observers are promised.
#![allow(clippy::unwrap_used, missing_docs)]

mod claims;
mod definitions;
mod extremes;
mod faults;
mod merging;
mod naive;
mod observing;
mod written;

use candle_core::{Device, Tensor};
use rand::RngExt;
use taper_hooks::{Activation, Pass, Recorder, Rng, Site};
use taper_kernels::activate;
use taper_report::LayerStats;

/// A standard normal value, nearly: the sum of twelve uniform ones.
fn normal(rng: &mut Rng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Standard normal values.
fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = taper_hooks::rng(seed);
    tensor((0..shape.iter().product()).map(|_| normal(&mut rng)).collect(), shape)
}

/// Shows a recorder one batch in evaluation mode.
fn see(recorder: &mut Recorder, site: &Site, xs: &Tensor) {
    let ys = activate(xs, site.activation()).unwrap();
    Pass::eval(recorder).see(site, site.activation(), xs, &ys).unwrap();
}

/// The numbers of a window of one batch at one site.
fn stats(activation: Activation, xs: &Tensor) -> LayerStats {
    let mut recorder = Recorder::new();
    see(&mut recorder, &Site::new("fc1", activation), xs);
    recorder.finish().remove(0)
}

/// The numbers of one batch of post-activations, shown as they are behind an identity.
fn stats_of(ys: &[f32], shape: &[usize]) -> LayerStats {
    stats(Activation::Identity, &tensor(ys.to_vec(), shape))
}

/// The error that showing a batch to a recorder gives, in words.
fn refusal(recorder: &mut Recorder, site: &Site, xs: &Tensor, ys: &Tensor) -> String {
    Pass::eval(recorder).see(site, site.activation(), xs, ys).unwrap_err().to_string()
}
