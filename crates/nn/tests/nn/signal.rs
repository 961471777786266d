//! What an initialisation does to the scale of a signal on its way through twenty layers.

use taper_hooks::Recorder;
use taper_nn::{Activation, Init, Mlp, MlpConfig, Params};
use taper_report::LayerStats;

use crate::{CPU, eval, random};

/// Twenty layers of 256 units on standard normal input.
fn depth(activation: Activation, init: Option<Init>, seed: u64) -> Vec<LayerStats> {
    let config = MlpConfig { inputs: 256, widths: vec![256; 20], activation, init, ..MlpConfig::default() };
    let model = Mlp::new(&config, Params::new(seed, CPU).builder()).unwrap();
    let mut recorder = Recorder::new();
    eval(&model, &mut recorder, &random(seed + 100, &[1000, 256]));
    recorder.finish()
}

#[test]
fn selu_with_lecun_weights_keeps_mean_0_and_variance_1_through_twenty_layers() {
    for seed in 0..3 {
        let layers = depth(Activation::Selu, None, seed);
        assert_eq!(layers.len(), 20);
        for layer in layers {
            let (mean, variance) = (layer.mean.unwrap(), layer.variance.unwrap());
            assert!(
                mean.abs() < 0.05 && (0.85..1.15).contains(&variance),
                "{}: {mean}, {variance}",
                layer.site
            );
        }
    }
}

#[test]
fn relu_with_he_weights_keeps_its_scale_and_with_those_of_pytorch_collapses() {
    let second_moment = |layer: &LayerStats| layer.variance.unwrap() + layer.mean.unwrap().powi(2);
    for seed in 0..3 {
        let he = depth(Activation::Relu, None, seed);
        let ratio = second_moment(&he[19]) / second_moment(&he[0]);
        assert!((0.33..3.0).contains(&ratio), "{ratio}");
        // Weights of variance 1/(3n) take a sixth of the second moment through each layer: what is left at the end is
        // what biases put in.
        let pytorch = depth(Activation::Relu, Some(Init::PyTorch), seed);
        let ratio = second_moment(&pytorch[19]) / second_moment(&pytorch[0]);
        assert!(ratio < 0.02, "{ratio}");
    }
}
