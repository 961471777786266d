//! An activation computes, and calls the observer.

use candle_core::{Tensor, Var};
use taper_hooks::{Pass, Recorder, Seen, observer_fn};
use taper_kernels::activate;
use taper_nn::{Act, Activation, Conv2d, Conv2dConfig, Init, Linear, Units, no_grad};

use crate::{CPU, bits, named, params, random, shapes, values};

#[test]
fn the_site_has_the_name_of_the_layer_that_feeds_it() {
    let params = params();
    let vb = params.builder().pp("block").pp("2").pp("fc1");
    let act = Act::new(Activation::Relu, vb).unwrap();
    assert_eq!((act.site().name(), act.site().activation()), ("block.2.fc1", Some(Activation::Relu)));
    // No parameter but PReLU's.
    assert!(params.names().is_empty());
}

#[test]
fn every_function_is_the_kernels_and_its_input_and_output_are_shown() {
    let xs = random(1, &[3, 4, 2]);
    for f in Activation::ALL {
        let act = Act::new(f, params().builder().pp("fc1")).unwrap().units(Units::Second);
        let mut shown = Vec::new();
        let mut observer = observer_fn(|seen: &Seen<'_>| {
            shown.push((seen.activation, bits(&seen.xs()?), bits(seen.ys)));
            Ok(())
        });
        let ys = act.forward(&mut Pass::eval(&mut observer), &xs).unwrap();
        assert_eq!(bits(&ys), bits(&activate(&xs, f).unwrap()), "{f}");
        assert_eq!(shown, [(Some(f), bits(&xs), bits(&ys))]);
    }
}

#[test]
fn a_layer_that_applies_it_gives_and_shows_the_same() {
    let params = params();
    let vb = params.builder();
    let linear = Linear::new(4, 3, Init::He, vb.pp("fc1")).unwrap();
    let conv = Conv2d::new(2, 3, Conv2dConfig::default(), vb.pp("conv1")).unwrap();
    let (rows, images) = (random(1, &[5, 4]), random(2, &[5, 2, 6, 6]));
    for f in Activation::ALL {
        let act = Act::new(f, taper_nn::Params::new(1, CPU).builder().pp("fc1")).unwrap();
        let shown = |train: bool, run: &dyn Fn(&mut Pass<'_>) -> Tensor| {
            let mut shown = Vec::new();
            let mut observer = observer_fn(|seen: &Seen<'_>| {
                shown.push((seen.activation, seen.mode, bits(&seen.xs()?), bits(seen.ys)));
                Ok(())
            });
            let mut pass = if train { Pass::train(&mut observer, 1, 0) } else { Pass::eval(&mut observer) };
            let ys = run(&mut pass);
            (bits(&ys), ys.track_op(), shown)
        };
        for train in [false, true] {
            let both = [
                shown(train, &|pass| linear.forward_act(pass, &rows, &act).unwrap()),
                shown(train, &|pass| act.forward(pass, &linear.forward(&rows).unwrap()).unwrap()),
            ];
            assert_eq!(both[0], both[1], "{f}");
            assert_eq!((both[0].1, both[0].2.len()), (true, 1));
            let both = [
                shown(train, &|pass| conv.forward_act(pass, &images, &act).unwrap()),
                shown(train, &|pass| act.forward(pass, &conv.forward(&images).unwrap()).unwrap()),
            ];
            assert_eq!(both[0], both[1], "{f}");
        }
    }
}

#[test]
fn no_grad_cuts_the_graph_and_neither_mode_nor_observer_does() {
    for f in Activation::ALL {
        let params = params();
        let layer = Linear::new(4, 3, Init::He, params.builder().pp("fc1")).unwrap();
        let act = Act::new(f, params.builder().pp("fc1")).unwrap();
        let xs = random(1, &[5, 4]);
        let reached = |pass: &mut Pass<'_>| {
            let ys = act.forward(pass, &layer.forward(&xs).unwrap()).unwrap();
            let gradients = ys.sum_all().unwrap().backward().unwrap();
            (ys.track_op(), params.vars().iter().filter(|(_, var)| gradients.get(var).is_some()).count())
        };
        assert_eq!(no_grad(|| reached(&mut Pass::eval(&mut ()))), (false, 0), "{f}");
        let all = params.vars().len();
        assert_eq!(reached(&mut Pass::train(&mut (), 1, 0)), (true, all), "{f}");
        assert_eq!(reached(&mut Pass::eval(&mut ())), (true, all), "{f}");
        // An observer does not change that.
        assert_eq!(reached(&mut Pass::train(&mut Recorder::new(), 1, 0)), (true, all), "{f}");
    }
}

#[test]
fn the_slope_of_prelu_is_trained_and_reported() {
    let params = params();
    let act = Act::new(Activation::Prelu { slope: 0.25 }, params.builder().pp("fc1")).unwrap();
    assert_eq!(shapes(&params), named(&[("fc1.slope", &[1])]));
    let slope = &params.vars()[0].1;
    assert_eq!(values(slope), [0.25]);

    let xs = Var::from_tensor(&Tensor::new(&[[-2.0_f32, 3.0], [-1.0, 0.0]], CPU).unwrap()).unwrap();
    let ys = act.forward(&mut Pass::train(&mut (), 1, 0), &xs).unwrap();
    assert_eq!(values(&ys), [-0.5, 3.0, -0.25, 0.0]);
    let gradients = ys.sum_all().unwrap().backward().unwrap();
    // Σ x over x <= 0.
    assert_eq!(values(gradients.get(slope).unwrap()), [-3.0]);
    assert_eq!(values(gradients.get(&xs).unwrap()), [0.25, 1.0, 0.25, 0.25]);

    slope.set(&Tensor::new(&[-0.5_f32], CPU).unwrap()).unwrap();
    let (mut recorder, mut now) = (Recorder::new(), None);
    let mut observer = observer_fn(|seen: &Seen<'_>| {
        now = seen.activation;
        Ok(())
    });
    let ys = act.forward(&mut Pass::eval(&mut observer), &xs).unwrap();
    assert_eq!((values(&ys), now), (vec![1.0, 3.0, 0.5, 0.0], Some(Activation::Prelu { slope: -0.5 })));
    act.forward(&mut Pass::eval(&mut recorder), &xs).unwrap();
    let stats = recorder.finish().remove(0);
    assert_eq!(
        (stats.site.as_str(), stats.activation.as_deref(), stats.dead),
        ("fc1", Some("prelu"), Some(0))
    );
}

#[test]
fn a_prelu_whose_slope_was_learned_to_be_zero_has_dead_units() {
    let params = params();
    let act = Act::new(Activation::Prelu { slope: 0.25 }, params.builder().pp("fc1")).unwrap();
    params.vars()[0].1.set(&Tensor::zeros(1, candle_core::DType::F32, CPU).unwrap()).unwrap();
    let mut recorder = Recorder::new();
    let xs = Tensor::new(&[[-2.0_f32, 3.0], [-1.0, 0.0]], CPU).unwrap();
    act.forward(&mut Pass::eval(&mut recorder), &xs).unwrap();
    assert_eq!(recorder.finish()[0].dead_units, [0]);
}

#[test]
fn an_observer_that_refuses_ends_the_forward_pass() {
    let act = Act::new(Activation::Relu, params().builder().pp("fc1")).unwrap();
    let error = act.forward(&mut Pass::eval(&mut Recorder::new()), &random(1, &[4])).unwrap_err();
    assert!(error.to_string().contains("site 'fc1': expected values of shape (N, units, ..)"));
}
