//! Taps, sequences, and one activation at several places.

use candle_core::Tensor;
use candle_nn::Module;
use taper_hooks::{Pass, Recorder};
use taper_nn::{Act, Activation, Init, Linear, Tap, Units};
use taper_report::LayerStats;

use crate::{bits, message, params, random, values};

fn recorded(forward: impl FnOnce(&mut Pass<'_>)) -> Vec<LayerStats> {
    let mut recorder = Recorder::new();
    forward(&mut Pass::eval(&mut recorder));
    recorder.finish()
}

#[test]
fn five_units_killed_in_the_mlp_of_a_transformer_are_found_by_index() {
    let params = params();
    let layer = Linear::new(32, 64, Init::He, params.builder().pp("mlp")).unwrap();
    let act = Act::new(Activation::Relu, params.builder().pp("mlp")).unwrap();
    let killed = [0, 7, 31, 32, 63];
    let bias = &params.vars()[1].1;
    let mut values = values(bias);
    killed.iter().for_each(|u| values[*u] = -100.0);
    bias.set(&Tensor::new(values, crate::CPU).unwrap()).unwrap();
    let got = recorded(|pass| {
        let ys = layer.forward_act(pass, &random(1, &[20, 28, 32]), &act).unwrap();
        assert_eq!(ys.dims(), [20, 28, 64]);
    });
    assert_eq!((got[0].units, got[0].samples, got[0].values), (64, 20, 20 * 28 * 64));
    assert_eq!((got[0].dead, got[0].dead_units.clone()), (Some(5), killed.map(|u| u as u32).to_vec()));
    assert!(got[0].zeros > 20 * 28 * 5 && got[0].zero_fraction < 0.7);
    // Without its layer, an activation needs the unit axis.
    let apart = recorded(|pass| {
        let xs = layer.forward(&random(1, &[20, 28, 32])).unwrap();
        let error = message(act.forward(pass, &xs));
        assert!(error.contains("site 'mlp'") && error.contains("units(Units::Last)"), "{error}");
        act.named("mlp").units(Units::Last).forward(&mut Pass::eval(&mut ()), &xs).unwrap();
        act.clone().units(Units::Last).forward(pass, &xs).unwrap();
    });
    assert_eq!(apart, got);
}

#[test]
fn a_tap_returns_its_input_and_has_no_slope() {
    let params = params();
    let tap = Tap::at(params.builder().pp("block1")).unwrap().units(Units::Last);
    let xs = random(1, &[4, 3, 5]);
    let got = recorded(|pass| assert_eq!(bits(&tap.forward(pass, &xs).unwrap()), bits(&xs))).remove(0);
    assert_eq!(
        (got.site.as_str(), got.activation.as_deref(), got.units, got.samples),
        ("block1", None, 5, 4)
    );
    assert_eq!((got.flat_low, got.dead, got.rare, got.died, got.revived), (None, None, None, None, None));
    assert_eq!((got.dormant_0, got.zeros), (Some(0), 0));
    let got = recorded(|pass| drop(tap.clone().output().forward(pass, &xs).unwrap())).remove(0);
    assert_eq!((got.dormant_0, got.dormant_0_025, got.dormant_0_1), (None, None, None));
    assert!(message(Tap::at(params.builder())).contains("a site needs a name"));
}

#[test]
fn a_tap_keeps_the_graph_in_training() {
    let params = params();
    let layer = Linear::new(4, 3, Init::He, params.builder().pp("fc1")).unwrap();
    let ys = layer.forward(&random(1, &[2, 4])).unwrap();
    let ys = Tap::new("logits").forward(&mut Pass::train(&mut (), 1, 0), &ys).unwrap();
    let gradients = ys.sum_all().unwrap().backward().unwrap();
    assert!(params.vars().iter().all(|(_, var)| gradients.get(var).is_some()));
}

#[test]
fn one_act_used_seven_times_says_so_and_named_ones_are_places_of_their_own() {
    let act = Act::new(Activation::Relu, params().builder().pp("stem")).unwrap();
    let xs = random(1, &[3, 4]);
    let got = recorded(|pass| (0..7).for_each(|_| drop(act.forward(pass, &xs).unwrap()))).remove(0);
    assert_eq!((got.uses, got.samples, got.title().as_str()), (7, 21, "stem ×7"));
    let places: Vec<Act> = (0..7).map(|i| act.named(&format!("place{i}"))).collect();
    let got = recorded(|pass| places.iter().for_each(|act| drop(act.forward(pass, &xs).unwrap())));
    assert_eq!(got.len(), 7);
    for (i, place) in got.iter().enumerate() {
        assert_eq!((place.site.clone(), place.uses, place.samples), (format!("place{i}"), 1, 3));
    }
}

#[test]
fn a_named_prelu_shares_its_slope() {
    let params = params();
    let act = Act::new(Activation::Prelu { slope: 0.25 }, params.builder().pp("a")).unwrap();
    let other = act.named("b");
    assert_eq!(params.names(), ["a.slope"]);
    params.vars()[0].1.set(&Tensor::new(&[2.0_f32], crate::CPU).unwrap()).unwrap();
    let xs = Tensor::new(&[[-1.0_f32]], crate::CPU).unwrap();
    assert_eq!(values(&other.forward(&mut Pass::eval(&mut ()), &xs).unwrap()), [-2.0]);
    // As a module outside any scope it computes the same.
    assert_eq!(values(&Module::forward(&other, &xs).unwrap()), [-2.0]);
}
