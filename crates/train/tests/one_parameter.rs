//! Bounds on norms, and a state that is restored: with one parameter whose gradients are given.

#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor, Var};
use taper_train::{Optimizer, OptimizerConfig, Rule, parse_rule};

fn var(values: &[f32]) -> (String, Var) {
    ("w".to_string(), Var::from_slice(values, (1, values.len()), &Device::Cpu).unwrap())
}

fn step(optimizer: &mut Optimizer, w: &Var, gradient: &[f32]) {
    let g = Tensor::from_slice(gradient, w.shape(), &Device::Cpu).unwrap();
    let gradients = (w.as_tensor() * g).unwrap().sum_all().unwrap().backward().unwrap();
    optimizer.step(&gradients.into()).unwrap();
}

fn flat(w: &Var) -> Vec<f32> {
    w.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn gradients_above_the_norm_are_scaled_down_to_it_and_others_are_left() {
    let w = var(&[0.0, 0.0]);
    let config = OptimizerConfig { clip_norm: Some(1.0), ..OptimizerConfig::new(Rule::SGD, 1.0) };
    let mut optimizer = Optimizer::new(vec![w.clone()], config).unwrap();
    step(&mut optimizer, &w.1, &[3.0, 4.0]);
    let moved = flat(&w.1);
    assert!((moved[0] + 0.6).abs() < 1e-5 && (moved[1] + 0.8).abs() < 1e-5, "{moved:?}");
    step(&mut optimizer, &w.1, &[0.3, 0.4]);
    let moved = flat(&w.1);
    assert!((moved[0] + 0.9).abs() < 1e-5, "{moved:?}");
}

#[test]
fn incoming_weights_stay_within_the_largest_norm() {
    let w = var(&[3.0, 4.0]);
    let config = OptimizerConfig { max_norm: Some(2.0), ..OptimizerConfig::new(Rule::SGD, 0.0) };
    step(&mut Optimizer::new(vec![w.clone()], config).unwrap(), &w.1, &[1.0, 1.0]);
    let limited = flat(&w.1);
    assert!((limited[0] - 1.2).abs() < 1e-6 && (limited[1] - 1.6).abs() < 1e-6, "{limited:?}");
}

#[test]
fn weights_within_the_largest_norm_keep_every_bit() {
    for bound in [1.7, 2.9, 3.0, 3.4, 6.8] {
        let w = var(&[0.3, 0.4]);
        let config = OptimizerConfig { max_norm: Some(bound), ..OptimizerConfig::new(Rule::SGD, 0.0) };
        step(&mut Optimizer::new(vec![w.clone()], config).unwrap(), &w.1, &[1.0, 1.0]);
        assert_eq!(flat(&w.1), [0.3, 0.4], "{bound}");
    }
}

#[test]
fn an_optimizer_continues_from_a_restored_state_to_the_same_bits() {
    for name in ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "adadelta"] {
        let (rule, rate) = parse_rule(name, None).unwrap();
        let (a, b) = (var(&[1.0, -2.0]), var(&[1.0, -2.0]));
        let mut whole = Optimizer::new(vec![a.clone()], OptimizerConfig::new(rule, rate)).unwrap();
        let mut first = Optimizer::new(vec![b.clone()], OptimizerConfig::new(rule, rate)).unwrap();
        (0..3).for_each(|i| step(&mut whole, &a.1, &[0.5, i as f32]));
        (0..3).for_each(|i| step(&mut first, &b.1, &[0.5, i as f32]));
        let mut second = Optimizer::new(vec![b.clone()], OptimizerConfig::new(rule, rate)).unwrap();
        second.restore(&first.state().unwrap()).unwrap();
        step(&mut whole, &a.1, &[-1.0, 0.25]);
        step(&mut second, &b.1, &[-1.0, 0.25]);
        assert_eq!(flat(&a.1), flat(&b.1), "{name}");
    }
}
