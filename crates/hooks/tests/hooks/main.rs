//! What the recorder's numbers mean, that they merge, and what observers are promised.
#![allow(clippy::unwrap_used, missing_docs)]

mod claims;
mod definitions;
mod extremes;
mod faults;
mod merging;
mod naive;
mod observing;
mod trouble;
mod units;
mod windows;
mod written;

use candle_core::{Device, Result, Tensor};
use rand::RngExt;
use taper_hooks::{Activation, Pass, Recorder, Rng, Site, Units};
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

/// Passes `xs` through the site's function to the observer, or `xs` itself if there is none.
fn show(pass: &mut Pass<'_>, site: &Site, xs: &Tensor) -> Result<()> {
    match site.activation() {
        Some(f) => pass.see(site, xs, &activate(xs, f)?),
        None => pass.tap(site, xs),
    }
}

/// Shows a recorder one batch in evaluation mode.
fn see(recorder: &mut Recorder, site: &Site, xs: &Tensor) {
    show(&mut Pass::eval(recorder), site, xs).unwrap();
}

/// The numbers of a window of one batch at one site, of which the second axis is the units.
fn stats(activation: Activation, xs: &Tensor) -> LayerStats {
    let mut recorder = Recorder::new();
    see(&mut recorder, &Site::behind("fc1", activation).units(Units::Second), xs);
    recorder.finish().remove(0)
}

/// The statistics of one batch of post-activations, as after an identity.
fn stats_of(ys: &[f32], shape: &[usize]) -> LayerStats {
    stats(Activation::Identity, &tensor(ys.to_vec(), shape))
}

/// The error message of a batch, which does not depend on the observer.
fn refusal(site: &Site, xs: &Tensor, ys: &Tensor) -> String {
    let of = |pass: &mut Pass<'_>| pass.see(site, xs, ys).unwrap_err().to_string();
    let error = of(&mut Pass::eval(&mut Recorder::new()));
    assert_eq!(of(&mut Pass::eval(&mut ())), error);
    error
}
