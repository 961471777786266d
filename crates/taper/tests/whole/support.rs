use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use taper::data::{Choice, Dataset, Options, Scale};
use taper::nn::{Activation, Cnn, CnnConfig, Mlp, MlpConfig, Model, Params};

/// A file made by PyTorch or numpy: see `goldens/README.md`.
pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

pub fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu).unwrap()
}

pub fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// The real MNIST with pixels in [0, 1], or `None`, which the test says.
pub fn mnist(test: &str) -> Option<Dataset> {
    let Some(dir) = std::env::var_os("TAPER_DATA") else {
        println!("skipped: {test}: set TAPER_DATA to the directory of the MNIST files");
        return None;
    };
    // Below the crate when tests run, at the root when people give a relative path.
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(dir);
    let options = Options { data_dir: Some(dir), download: false, ..Default::default() };
    Some(taper::data::load(Choice::Mnist, &options, &mut |_| {}).unwrap().scaled(Scale::Unit))
}

pub fn close(what: &str, got: f64, want: f64, relative: f64) {
    assert!((got - want).abs() <= relative * want.abs().max(1e-30), "{what}: {got}, expected {want}");
}

/// The sizes of an MLP, from its weight file.
pub fn mlp_sizes(tensors: &HashMap<String, Tensor>, prefix: &str) -> (usize, Vec<usize>) {
    let shape = |i: usize| tensors.get(&format!("{prefix}fc{i}.weight")).map(|t| t.dims2().unwrap());
    let layers: Vec<(usize, usize)> = (1..).map_while(shape).collect();
    let widths = layers[..layers.len() - 1].iter().map(|(o, _)| *o).collect();
    (layers[0].1, widths)
}

/// Every optimiser.
pub const RULES: [&str; 7] = ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "adadelta"];

/// A network for 8×8 digits with dropout.
pub fn small_net(cnn: bool, seed: u64) -> (Params, Box<dyn Model + Send + Sync>) {
    let params = Params::new(seed, &Device::Cpu);
    let (activation, dropout) = (Activation::Relu, 0.3);
    let model: Box<dyn Model + Send + Sync> = if cnn {
        let (input, channels, widths) = ((1, 8, 8), vec![4, 8], vec![16]);
        let config = CnnConfig { input, channels, widths, activation, dropout, ..Default::default() };
        Box::new(Cnn::new(&config, params.builder()).unwrap())
    } else {
        let config =
            MlpConfig { inputs: 64, widths: vec![300, 40], activation, dropout, ..Default::default() };
        Box::new(Mlp::new(&config, params.builder()).unwrap())
    };
    (params, model)
}

/// The bits of all parameters.
pub fn bits(params: &Params) -> Vec<u32> {
    let values = |v: &candle_core::Var| v.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    params.vars().iter().flat_map(|(_, v)| values(v)).map(f32::to_bits).collect()
}
