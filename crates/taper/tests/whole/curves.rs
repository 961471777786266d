//! Training as PyTorch does it: plain SGD from the same weights over the same images, every loss.

use taper::hooks::{Activation, Pass, Recorder, Rng};
use taper::nn::{Cnn, CnnConfig, Mlp, MlpConfig, Model, Params};
use taper::report::{Split, sink_fn};
use taper::train::{Fit, Optimizer, OptimizerConfig, Rule, classify, cross_entropy, fit};

use crate::support::{close, mlp_sizes, mnist, tensors};

fn follow(
    name: &str,
    batch: usize,
    take: usize,
    rate: f64,
    build: impl Fn(&Params) -> Box<dyn Model + Send + Sync>,
) {
    let Some(data) = mnist(name) else { return };
    let golden = tensors(&format!("{name}_curve.safetensors"));
    let params = Params::new(0, &candle_core::Device::Cpu);
    let model = build(&params);
    for (name, var) in params.vars() {
        var.set(&golden[&format!("before.{name}")]).unwrap();
    }
    let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, rate)).unwrap();
    let batches: Vec<_> = data.train.take(take).batches(batch).map(Result::unwrap).collect();
    let mut recorder = Recorder::new();
    let losses = golden["losses"].to_vec1::<f32>().unwrap();
    for (step, want) in losses.iter().enumerate() {
        let batch = &batches[step % batches.len()];
        let logits = model.forward(&mut Pass::train(&mut recorder, 0, step as u64), &batch.images).unwrap();
        let loss = cross_entropy(&logits, &batch.labels).unwrap();
        close(
            &format!("{name}, loss at step {step}"),
            loss.to_scalar::<f32>().unwrap() as f64,
            *want as f64,
            1e-4,
        );
        optimizer.step(&loss.backward().unwrap().into()).unwrap();
    }
    for (name, var) in params.vars() {
        let after = &golden[&format!("after.{name}")];
        let apart = (var.as_tensor() - after).unwrap().abs().unwrap().flatten_all().unwrap();
        let worst = apart.max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 1e-4, "{name} after the last step is {worst} away");
    }
}

fn mlp(name: &str, activation: Activation) -> impl Fn(&Params) -> Box<dyn Model + Send + Sync> {
    let (inputs, widths) = mlp_sizes(&tensors(&format!("{name}_curve.safetensors")), "before.");
    let config = MlpConfig { inputs, widths, activation, ..Default::default() };
    move |params: &Params| Box::new(Mlp::new(&config, params.builder()).unwrap())
}

#[test]
fn an_mlp_with_relu_follows_pytorchs_curve() {
    follow("mlp_relu", 32, 1280, 0.1, mlp("mlp_relu", Activation::Relu));
}

#[test]
fn an_mlp_with_selu_follows_pytorchs_curve() {
    follow("mlp_selu", 32, 1280, 0.05, mlp("mlp_selu", Activation::Selu));
}

#[test]
fn a_cnn_follows_pytorchs_curve() {
    follow("cnn_relu", 16, 320, 0.1, |params| {
        let config = CnnConfig { channels: vec![8, 16], widths: vec![32], ..Default::default() };
        Box::new(Cnn::new(&config, params.builder()).unwrap())
    });
}

#[test]
fn an_mlp_on_digits_learns_without_any_file() {
    let data = taper::data::digits().unwrap();
    let params = Params::new(1, &candle_core::Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![64], ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap();
    let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1)).unwrap();
    let (train, test) = (|rng: &mut Rng| data.train.shuffled(rng, 32), || data.test.batches(32));
    let (options, mut nobody) = (Fit { epochs: 15, seed: 1 }, sink_fn(|_| Ok(())));
    let last = fit(&classify(&net), &mut optimizer, train, test, options, &mut nobody);
    let test = last.unwrap().split(Split::Test).unwrap().score.clone();
    assert!(test.primary().value > 0.9, "{test:?}");
}
