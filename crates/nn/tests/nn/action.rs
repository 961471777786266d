//! What a site does with its values before they are shown: terms of the loss, and other values in their place.

use candle_core::{D, Tensor};
use taper_hooks::{Pass, Recorder, Seen, observer_fn};
use taper_kernels::record;
use taper_nn::{Act, Activation, Init, Linear, Params, Tap};
use taper_report::LayerStats;

use crate::{CPU, bits, message, params, random, values};

fn act(f: Activation, params: &Params) -> Act {
    Act::new(f, params.builder().pp("fc1")).unwrap()
}

/// All but the largest `k` of every row become 0.
fn k_winners(ys: &Tensor, k: usize) -> candle_core::Result<Tensor> {
    let least = ys.sort_last_dim(false)?.0.narrow(D::Minus1, k - 1, 1)?.detach();
    ys * ys.broadcast_ge(&least)?.to_dtype(ys.dtype())?
}

#[test]
fn an_l1_term_is_added_to_the_loss_and_its_gradient_reaches_the_weights() {
    let params = params();
    let layer = Linear::new(4, 3, Init::He, params.builder().pp("fc1")).unwrap();
    let act = act(Activation::Relu, &params).then(|pass, ys| {
        pass.add_to_loss(&(ys.abs()?.mean_all()? * 0.5)?)?;
        Ok(ys.clone())
    });
    let (xs, weight) = (random(1, &[6, 4]), &params.vars()[0].1);
    // The same penalty by hand.
    let plain = layer.forward(&xs).unwrap().relu().unwrap();
    let penalty = (plain.abs().unwrap().mean_all().unwrap() * 0.5).unwrap();
    let want = values(penalty.backward().unwrap().get(weight).unwrap());
    assert!(want.iter().any(|g| *g != 0.0));
    let near =
        |got: Vec<f32>| got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6) && got.len() == want.len();

    let added = |fused: bool| {
        let mut nobody = ();
        let mut pass = Pass::train(&mut nobody, 1, 0);
        let ys = match fused {
            true => layer.forward_act(&mut pass, &xs, &act).unwrap(),
            false => act.forward(&mut pass, &layer.forward(&xs).unwrap()).unwrap(),
        };
        assert_eq!(bits(&ys), bits(&plain));
        pass.added_loss().expect("a term was added").clone()
    };
    for fused in [false, true] {
        let loss = added(fused);
        assert!((values(&loss)[0] - values(&penalty)[0]).abs() < 1e-6);
        assert!(near(values(loss.backward().unwrap().get(weight).unwrap())));
        let (loss, tape) = record(|| added(fused));
        assert!(near(values(&tape.backward(&loss).unwrap().get(weight).unwrap().values().unwrap())));
    }
    // In evaluation there is nothing to minimise.
    let mut nobody = ();
    let mut pass = Pass::eval(&mut nobody);
    layer.forward_act(&mut pass, &xs, &act).unwrap();
    assert!(pass.added_loss().is_none());
}

#[test]
fn the_result_of_an_action_is_returned_and_recorded() {
    // Positive values, so that every zero is made by the action.
    let xs = (random(1, &[20, 10]).abs().unwrap() + 0.1).unwrap();
    for f in [Activation::Relu, Activation::Tanh] {
        let act = act(f, &params()).then(|_, ys| k_winners(ys, 3));
        let mut recorder = Recorder::new();
        let ys = act.forward(&mut Pass::eval(&mut recorder), &xs).unwrap();
        assert_eq!(values(&ys).iter().filter(|y| **y == 0.0).count(), 20 * 7);
        let got = recorder.finish().remove(0);
        assert_eq!((got.zeros, got.activation.as_deref()), (20 * 7, Some(f.name())));
        let active = got.active_per_sample.unwrap();
        assert_eq!((active.min, active.max), (3, 3));
        // Whether a gradient passes shows in a ReLU's values, and not in a tanh's that were replaced.
        if f == Activation::Relu {
            assert_eq!((got.flat_low, got.flat_high, got.dead), (Some(0.7), Some(0.0), Some(0)));
        } else {
            assert_eq!((got.flat_low, got.flat_high, got.dead, got.rare), (None, None, None, None));
        }
    }
}

#[test]
fn a_unit_without_a_maximum_is_dead_after_relu() {
    let xs = Tensor::new(&[[1.0_f32, 2.0, 3.0], [1.0, 3.0, 2.0]], CPU).unwrap();
    let act = act(Activation::Relu, &params()).then(|_, ys| k_winners(ys, 1));
    let mut recorder = Recorder::new();
    act.forward(&mut Pass::eval(&mut recorder), &xs).unwrap();
    assert_eq!(recorder.finish()[0].dead_units, [0]);
}

#[test]
fn an_action_runs_on_a_tap_and_receives_the_mode() {
    let tap = Tap::new("logits").then(|pass, ys| match pass.mode() {
        taper_nn::Mode::Train => ys * 2.0,
        taper_nn::Mode::Eval => Ok(ys.clone()),
    });
    let xs = Tensor::new(&[[1.0_f32, -1.0]], CPU).unwrap();
    let run = |pass: &mut Pass<'_>| values(&tap.forward(pass, &xs).unwrap());
    let mut shown: Vec<Vec<f32>> = Vec::new();
    let mut observer = observer_fn(|seen: &Seen<'_>| {
        shown.push(values(seen.ys));
        Ok(())
    });
    assert_eq!(run(&mut Pass::train(&mut observer, 1, 0)), [2.0, -2.0]);
    assert_eq!(run(&mut Pass::eval(&mut observer)), [1.0, -1.0]);
    assert_eq!(shown, [[2.0, -2.0], [1.0, -1.0]]);
}

#[test]
fn an_action_that_returns_another_shape_is_an_error() {
    let act = act(Activation::Relu, &params()).then(|_, ys| ys.flatten_all());
    let error = message(act.forward(&mut Pass::eval(&mut ()), &random(1, &[2, 3])));
    assert!(error.contains("expected values of shape [2, 3]") && error.contains("found [6]"), "{error}");
}

#[test]
fn a_named_act_takes_its_action_along() {
    let act = act(Activation::Relu, &params()).then(|_, ys| ys * 0.0).named("other");
    let mut recorder = Recorder::new();
    act.forward(&mut Pass::eval(&mut recorder), &random(1, &[2, 3])).unwrap();
    let got: LayerStats = recorder.finish().remove(0);
    assert_eq!((got.site.as_str(), got.zeros), ("other", 6));
}
