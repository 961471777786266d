//! What can be computed with pen and paper.

use candle_core::{Device, Tensor};
use rand_distr::{Distribution, StandardNormal};
use taper::hooks::{Activation, Pass, Recorder, Site, rng};
use taper::kernels::activate;
use taper::nn::{Act, Linear, Mlp, MlpConfig, Model, Params};

use crate::support::json;

fn normal(shape: (usize, usize), seed: u64) -> Tensor {
    let mut rng = rng(seed);
    let values: Vec<f32> = (0..shape.0 * shape.1).map(|_| StandardNormal.sample(&mut rng)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The function with a name of the golden file, such as `elu_0.5` or `gelu_erf`.
fn named(name: &str) -> Option<Activation> {
    if name == "gelu_erf" {
        return Some(Activation::Gelu);
    }
    name.parse().ok().or_else(|| {
        let (function, parameter) = name.rsplit_once('_')?;
        format!("{function}:{parameter}").parse().ok()
    })
}

#[test]
fn moments_of_a_million_normal_values_are_within_five_standard_errors() {
    let n = 1_000_000.0_f64;
    let xs = normal((1000, 1000), 1);
    let goldens = json("analytic-moments.json");
    let mut checked = 0;
    for (name, want) in goldens["activations"].as_object().unwrap() {
        let Some(f) = named(name) else { continue };
        let site = Site::behind(name.as_str(), f);
        let mut recorder = Recorder::new();
        let ys = activate(&xs, f).unwrap();
        Pass::eval(&mut recorder).see(&site, &xs, &ys).unwrap();
        let got = &recorder.finish()[0];
        let value = |key: &str| want[key].as_f64().unwrap();
        for (key, got) in [
            ("mean", got.mean.unwrap()),
            ("variance", got.variance.unwrap()),
            ("skewness", got.skewness.unwrap()),
            ("excess_kurtosis", got.excess_kurtosis.unwrap()),
        ] {
            let error = 5.0 * want["sampling_sd_times_sqrt_n"][key].as_f64().unwrap() / n.sqrt();
            assert!(
                (got - value(key)).abs() <= error,
                "{name}, {key}: {got}, expected {} ± {error}",
                value(key)
            );
        }
        let fraction = |key: &str, got: f64| {
            let p = value(key);
            // At least one value's worth: some probabilities are below 1e-6.
            let error = 5.0 * ((p * (1.0 - p) / n).sqrt()).max(1.0 / n);
            assert!((got - p).abs() <= error, "{name}, {key}: {got}, expected {p} ± {error}");
        };
        fraction("p_exact_zero", got.zero_fraction);
        fraction("p_abs_lt_0.01", got.near_zeros as f64 / n);
        checked += 1;
    }
    assert!(checked >= 22, "only {checked} functions were recognised");
}

#[test]
fn symmetric_functions_keep_a_symmetric_input_symmetric_and_relu_does_not() {
    let xs = normal((1000, 1000), 2);
    let asymmetry = |f: Activation| {
        let mut recorder = Recorder::new();
        let ys = activate(&xs, f).unwrap();
        Pass::eval(&mut recorder).see(&Site::behind("s", f), &xs, &ys).unwrap();
        recorder.finish()[0].asymmetry.unwrap()
    };
    for f in [Activation::Identity, Activation::Tanh, Activation::Softsign, Activation::Hardtanh] {
        assert!(asymmetry(f) < 0.01, "{f}: {}", asymmetry(f));
    }
    assert!((asymmetry(Activation::Relu) - 0.5).abs() < 0.003);
    assert_eq!(asymmetry(Activation::Sigmoid), 1.0);
}

#[test]
fn two_linear_layers_without_a_nonlinearity_are_one() {
    let params = Params::new(3, &Device::Cpu);
    let config = MlpConfig {
        inputs: 50,
        widths: vec![40],
        activation: Activation::Identity,
        init: Some(taper::nn::Init::PyTorch),
        ..Default::default()
    };
    let two = Mlp::new(&config, params.builder()).unwrap();
    let [w1, b1, w2, b2] =
        &params.vars().into_iter().map(|(_, v)| v.as_tensor().clone()).collect::<Vec<_>>()[..]
    else {
        panic!("expected four parameters");
    };
    let bias = (w2.matmul(&b1.unsqueeze(1).unwrap()).unwrap().squeeze(1).unwrap() + b2).unwrap();
    let one = Linear { weight: w2.matmul(w1).unwrap(), bias: Some(bias) };
    let xs = normal((64, 50), 4);
    let two = two.forward(&mut Pass::eval(&mut ()), &xs).unwrap();
    let apart = (two - one.forward(&xs).unwrap()).unwrap().abs().unwrap().flatten_all().unwrap();
    assert!(apart.max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-5);
}

/// P(some hidden layer is all zero) = 1 − (1 − 2^−N)^H for one non-zero input, zero biases and symmetric weights.
#[test]
fn a_narrow_relu_network_is_born_dead_as_often_as_the_formula_says() {
    let goldens = json("born-dead.json");
    let trials = 2000;
    for row in goldens["rows"].as_array().unwrap() {
        let (width, depth) =
            (row["width"].as_u64().unwrap() as usize, row["hidden_layers"].as_u64().unwrap() as usize);
        if width * depth > 60 {
            continue;
        }
        let p = row["p_dead_one_input_exact"].as_f64().unwrap();
        let formula = 1.0 - (1.0 - 0.5_f64.powi(width as i32)).powi(depth as i32);
        assert!((p - formula).abs() < 1e-9);
        let xs = Tensor::ones((1, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
        let mut dead = 0;
        for trial in 0..trials {
            let params = Params::new(trial, &Device::Cpu);
            let mut recorder = Recorder::new();
            let mut pass = Pass::eval(&mut recorder);
            let mut ys = xs.clone();
            for layer in 1..=depth {
                let vb = params.builder().pp(format!("fc{layer}"));
                let inputs = ys.dim(1).unwrap();
                let linear = Linear::new(inputs, width, taper::nn::Init::He, vb.clone()).unwrap();
                let act = Act::new(Activation::Relu, vb).unwrap();
                ys = act.forward(&mut pass, &linear.forward(&ys).unwrap()).unwrap();
            }
            dead += u64::from(recorder.finish().iter().any(|layer| layer.dead == Some(layer.units)));
        }
        let (got, error) = (dead as f64 / trials as f64, 5.0 * (p * (1.0 - p) / trials as f64).sqrt());
        assert!(
            (got - p).abs() <= error.max(5.0 / trials as f64),
            "width {width}, {depth} layers: {got}, expected {p} ± {error}"
        );
    }
}
