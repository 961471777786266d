//! Real MNIST: properties of the data, and accuracies that a network must reach.

use candle_core::{Device, Tensor};
use taper::hooks::Pass;
use taper::nn::{Linear, Model};
use taper::report::Split;
use taper::train::{classify, cross_entropy, evaluate};

use crate::support::{close, mnist};

/// Deterministic: full batch from zeros, SGD at rate 1, pixels in [0, 1], 200 steps.
#[test]
fn softmax_regression_reaches_its_known_accuracy_and_loss() {
    let Some(data) = mnist("softmax regression") else { return };
    let zeros =
        |shape: &[usize]| candle_core::Var::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let (weight, bias) = (zeros(&[10, 784]), zeros(&[10]));
    struct Softmax(Linear);
    impl Model for Softmax {
        fn forward(&self, _: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
            self.0.forward(&xs.flatten_from(1)?)
        }
    }
    let model = Softmax(Linear { weight: weight.as_tensor().clone(), bias: Some(bias.as_tensor().clone()) });
    let all = data.train.batches(data.train.len()).next().unwrap().unwrap();
    let mut loss = f64::NAN;
    for _ in 0..200 {
        let logits = model.forward(&mut Pass::eval(&mut ()), &all.images).unwrap();
        let value: Tensor = cross_entropy(&logits, &all.labels).unwrap();
        loss = value.to_scalar::<f32>().unwrap() as f64;
        let gradients = value.backward().unwrap();
        for var in [&weight, &bias] {
            var.set(&(var.as_tensor() - gradients.get(var).unwrap()).unwrap()).unwrap();
        }
    }
    let test = evaluate(&classify(&model), Split::Test, data.test.batches(1000), &mut ()).unwrap().score;
    println!("softmax regression: loss {loss:.5}, test accuracy {:.4}", test.primary().value);
    assert!((test.primary().value - 0.9168).abs() <= 0.0005, "{test:?}");
    close("training loss", loss, 0.31398, 2e-3);
}
