//! A transformer learns, with PyTorch's gradients.

#[path = "../transformer/mod.rs"]
mod model;

use candle_core::{DType, Device, Tensor};
use model::Transformer;
use taper::data::{Batch, digits};
use taper::hooks::{Recorder, rng};
use taper::kernels::record;
use taper::nn::{Model, Params, Pass};
use taper::report::Split;
use taper::train::{Step, cross_entropy, evaluate, train_epoch};

use crate::adam;

#[test]
fn every_parameter_of_a_transformer_moves_in_its_first_steps_and_it_learns() {
    let data = digits().unwrap();
    let params = Params::new(1, &Device::Cpu);
    let net = Transformer::new((8, 8), (16, 2), 10, params.builder()).unwrap();
    let copies = || params.vars().iter().map(|(_, var)| var.copy().unwrap()).collect::<Vec<_>>();
    let step = |pass: &mut Pass<'_>, batch: &Batch| {
        let logits = net.forward(pass, &batch.images.squeeze(1)?)?;
        Ok(Step::new(cross_entropy(&logits, &batch.labels)?, batch.len()))
    };
    let (mut optimizer, mut recorder, mut order) = (adam(&params), Recorder::new(), rng(2));
    let start = copies();
    train_epoch(&step, &mut optimizer, data.train.batches(32).take(3), &mut (), 1).unwrap();
    for ((name, now), before) in params.vars().iter().zip(&start) {
        let still = now.eq(before).unwrap().to_dtype(DType::U32).unwrap().sum_all().unwrap();
        // Adam moves every value that has a gradient; rounding may make one of the keys' biases 0.
        let still = still.to_scalar::<u32>().unwrap() as usize;
        assert!(still < now.elem_count() / 4, "{name}: {still} of {} values stay", now.elem_count());
    }
    let before = evaluate(&step, Split::Test, data.test.batches(100), &mut ()).unwrap().score.loss;
    for _ in 0..6 {
        train_epoch(&step, &mut optimizer, data.train.shuffled(&mut order, 32), &mut (), 1).unwrap();
    }
    let after = evaluate(&step, Split::Test, data.test.batches(100), &mut recorder).unwrap().score.loss;
    assert!(after < 0.4 * before, "{before}, then {after}");
    let layers = recorder.finish();
    assert_eq!((layers[0].site.as_str(), layers[0].units, layers[0].values), ("up", 64, 360 * 8 * 64));
}

#[test]
fn logits_and_gradients_of_a_transformer_are_those_of_pytorch() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/transformer.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let params = Params::new(1, &Device::Cpu);
    let net = Transformer::new((5, 6), (8, 2), 4, params.builder()).unwrap();
    for (name, var) in params.vars() {
        var.set(&golden[&name]).unwrap();
    }
    let targets = golden["targets"].to_dtype(DType::U32).unwrap();
    let (result, tape) = record(|| {
        let logits = net.forward(&mut Pass::train(&mut (), 1, 0), &golden["xs"]).unwrap();
        let loss = cross_entropy(&logits, &targets).unwrap();
        (logits, loss)
    });
    let close = |what: &str, got: &Tensor, want: &Tensor| {
        assert_eq!(got.dims(), want.dims());
        let [got, want] = [got, want].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let largest = want.iter().fold(0.0_f32, |max, x| max.max(x.abs())).max(1e-3);
        let near = got.iter().zip(&want).all(|(got, want)| (got - want).abs() <= 1e-5 * largest);
        assert!(near, "{what}: expected {want:?}, found {got:?}");
    };
    close("logits", &result.0, &golden["logits"]);
    let gradients = tape.backward(&result.1).unwrap();
    for (name, var) in params.vars() {
        let gradient = gradients.get(&var).unwrap().values().unwrap();
        close(&name, &gradient, &golden[&format!("grad.{name}")]);
    }
}
