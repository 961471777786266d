//! Parameters are seeded, ordered, named, and never shared by accident.

use candle_core::Tensor;
use candle_nn::{Init, Module, ModuleT};
use taper_nn::{Mlp, MlpConfig, Params};

use crate::{CPU, bits, message, named, params, random, shapes, values};

fn small(seed: u64) -> Params {
    let params = Params::new(seed, CPU);
    Mlp::new(&MlpConfig { inputs: 7, widths: vec![5, 4], ..MlpConfig::default() }, params.builder()).unwrap();
    params
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_one_others() {
    let all = |seed| small(seed).vars().iter().map(|(_, var)| bits(var)).collect::<Vec<_>>();
    assert_eq!(all(1), all(1));
    assert_ne!(all(1), all(2));
}

#[test]
fn parameters_are_in_the_order_in_which_they_were_asked_for() {
    let params = params();
    let vb = params.builder();
    for name in ["z", "a", "m"] {
        vb.pp(name).get_with_hints(2, "weight", Init::Const(0.5)).unwrap();
    }
    assert_eq!(params.names(), ["z.weight", "a.weight", "m.weight"]);
    assert_eq!(params.vars().iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), params.names());
}

#[test]
fn all_values_are_counted() {
    assert_eq!(small(1).count(), 7 * 5 + 5 + 5 * 4 + 4 + 4 * 10 + 10);
    assert_eq!(params().count(), 0);
}

#[test]
fn a_path_asked_for_twice_is_an_error_that_names_it() {
    let params = params();
    let vb = params.builder();
    candle_nn::linear(3, 2, vb.pp("fc1")).unwrap();
    let error = message(candle_nn::linear(3, 2, vb.pp("fc1")));
    assert!(error.contains("parameter 'fc1.weight' was asked for twice"), "{error}");
    // Clones and further builders are the same parameters.
    let error = message(params.clone().builder().pp("fc1").get_with_hints(2, "bias", Init::Const(0.0)));
    assert!(error.contains("'fc1.bias'"), "{error}");
    assert_eq!(params.names().len(), 2);
}

#[test]
fn what_exists_is_known_and_what_has_no_shape_is_refused() {
    let params = params();
    let vb = params.builder();
    assert!(!vb.contains_tensor("scale"));
    vb.get_with_hints(1, "scale", Init::Const(2.0)).unwrap();
    assert!(vb.contains_tensor("scale"));
    assert!(message(vb.get_unchecked("other")).contains("parameter 'other': its shape must be given"));
}

#[test]
fn layers_hold_the_very_variables_that_an_optimiser_moves() {
    let params = params();
    let layer = candle_nn::linear(3, 2, params.builder().pp("fc1")).unwrap();
    let (_, weight) = &params.vars()[0];
    weight.set(&Tensor::full(2.5_f32, (2, 3), CPU).unwrap()).unwrap();
    assert_eq!(values(layer.weight()), [2.5; 6]);
    let gradients = layer.forward(&random(1, &[4, 3])).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(params.vars().iter().all(|(_, var)| gradients.get(var).is_some()));
}

#[test]
fn layers_of_candle_get_their_parameters_here() {
    let params = params();
    let vb = params.builder();
    candle_nn::linear(6, 4, vb.pp("fc")).unwrap();
    candle_nn::conv2d(3, 8, 5, Default::default(), vb.pp("conv")).unwrap();
    candle_nn::layer_norm(4, 1e-5, vb.pp("norm")).unwrap();
    candle_nn::embedding(10, 4, vb.pp("words")).unwrap();
    let expected = named(&[
        ("fc.weight", &[4, 6]),
        ("fc.bias", &[4]),
        ("conv.weight", &[8, 3, 5, 5]),
        ("conv.bias", &[8]),
        ("norm.weight", &[4]),
        ("norm.bias", &[4]),
        ("words.weight", &[10, 4]),
    ]);
    assert_eq!(shapes(&params), expected);
    for (name, var) in params.vars() {
        let values = values(&var);
        assert!(values.iter().all(|x| x.is_finite()), "{name}");
        match name.as_str() {
            "norm.weight" => assert_eq!(values, [1.0; 4]),
            "norm.bias" => assert_eq!(values, [0.0; 4]),
            // Drawn, not constant.
            _ => assert!(values.iter().any(|x| *x != values[0]), "{name}"),
        }
    }
}

#[test]
fn the_running_statistics_of_candles_batch_norm_are_buffers() {
    let params = params();
    let norm = candle_nn::batch_norm(3, 1e-5, params.builder().pp("bn1")).unwrap();
    assert_eq!(params.names(), ["bn1.weight", "bn1.bias"]);
    assert_eq!(params.count(), 6);
    let names =
        |vars: Vec<(String, candle_core::Var)>| vars.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(params.buffers()), ["bn1.running_mean", "bn1.running_var"]);
    let all = ["bn1.running_mean", "bn1.running_var", "bn1.weight", "bn1.bias"];
    assert_eq!(names(params.state()), all, "in the order of the requests");
    let ys = norm.forward_t(&random(1, &[50, 3, 2, 2]), true).unwrap();
    let moved = values(&params.buffers()[0].1);
    assert!(moved.iter().all(|mean| *mean != 0.0), "{moved:?}");
    // They change only in the forward pass: no gradient reaches them.
    let gradients = ys.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let reached: Vec<bool> = params.state().iter().map(|(_, var)| gradients.get(var).is_some()).collect();
    assert_eq!(reached, [false, false, true, true]);
}
