//! Units with their incoming and outgoing weights, and actions at the sites of a model.

use taper_hooks::{Pass, rng};
use taper_nn::{Cnn, CnnConfig, Init, Link, Mlp, MlpConfig, Model, Params, Tap, l1};

use crate::{CPU, eval, message, params, random, values};

fn cnn(params: &Params) -> Cnn {
    let config = CnnConfig { input: (1, 9, 8), channels: vec![3, 4], widths: vec![5], ..Default::default() };
    Cnn::new(&config, params.builder().pp("net")).unwrap()
}

fn fits(links: &[Link], params: &Params) {
    let vars = params.vars();
    let dims = |name: &str| vars.iter().find(|(own, _)| own == name).unwrap().1.dims().to_vec();
    for link in links {
        assert_eq!(dims(&link.weight)[0], link.units, "{link:?}");
        assert_eq!(dims(link.bias.as_ref().unwrap()), [link.units], "{link:?}");
        assert_eq!(dims(&link.next_weight)[1], link.units * link.columns, "{link:?}");
        assert_eq!(dims(link.next_bias.as_ref().unwrap())[0], dims(&link.next_weight)[0], "{link:?}");
    }
}

#[test]
fn links_name_parameters_of_fitting_shapes_through_convolutions_and_flattening() {
    let own = params();
    let net = cnn(&own);
    fits(net.links(), &own);
    let found: Vec<_> = net.links().iter().map(|l| (l.site.as_str(), l.units, l.columns)).collect();
    assert_eq!(found, [("net.conv1", 3, 1), ("net.conv2", 4, 2 * 2), ("net.fc1", 5, 1)]);
    let own = params();
    let config = MlpConfig { inputs: 4, widths: vec![3, 2], init: Some(Init::PyTorch), ..Default::default() };
    let net = Mlp::new(&config, own.builder()).unwrap();
    fits(net.links(), &own);
    assert_eq!(net.links()[1].next_weight, "fc3.weight");
    assert!(net.links().iter().all(|link| link.init == Init::PyTorch));
}

#[test]
fn the_columns_of_a_map_are_those_that_it_feeds_through_pooling_and_flattening() {
    let own = params();
    let net = cnn(&own);
    let conv2 = net.links()[1].clone();
    let var = |name: &str| own.vars().into_iter().find(|(own, _)| own == name).unwrap().1;
    // Without the outgoing weights of map 2, its incoming ones have no effect.
    let next = var(&conv2.next_weight);
    let kept: Vec<f32> = (0..16).map(|c| f32::from(c / conv2.columns != 2)).collect();
    next.set(&next.broadcast_mul(&candle_core::Tensor::new(kept, CPU).unwrap()).unwrap()).unwrap();
    let xs = random(1, &[3, 1, 9, 8]);
    let before = values(&eval(&net, &mut (), &xs));
    let bias = var(conv2.bias.as_ref().unwrap());
    for (unit, changes) in [(2, false), (1, true)] {
        let mut new = values(&bias);
        new[unit] += 5.0;
        bias.set(&candle_core::Tensor::new(new, CPU).unwrap()).unwrap();
        assert_eq!(values(&eval(&net, &mut (), &xs)) != before, changes, "unit {unit}");
    }
}

#[test]
fn new_units_are_drawn_as_those_of_the_layer_were() {
    let variance = |xs: &[f32]| xs.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / xs.len() as f64;
    for (init, shape, want) in [
        (Init::He, vec![200, 50], 2.0 / 50.0),
        (Init::He, vec![40, 5, 3, 3], 2.0 / 45.0),
        (Init::LeCun, vec![200, 50], 1.0 / 50.0),
        (Init::Glorot, vec![200, 50], 2.0 / 250.0),
        (Init::PyTorch, vec![200, 50], 1.0 / 150.0),
    ] {
        let link = Link::new("fc1", shape[0], init, "fc2");
        let (weights, biases) = link.draw(&shape, 100, &mut rng(1)).unwrap();
        assert_eq!(weights.len(), 100 * shape[1..].iter().product::<usize>());
        assert!((variance(&weights) / want - 1.0).abs() < 0.1, "{init} {}", variance(&weights));
        assert_eq!((biases.len(), biases.iter().any(|b| *b != 0.0)), (100, init == Init::PyTorch));
    }
}

#[test]
fn the_l1_term_is_the_sum_over_a_sample_and_the_mean_over_the_batch() {
    let config =
        CnnConfig { input: (1, 9, 8), channels: vec![3, 4], widths: vec![5], l1: 0.5, ..Default::default() };
    let net = Cnn::new(&config, params().builder()).unwrap();
    let xs = random(1, &[3, 1, 9, 8]);
    let mut sums = 0.0;
    let mut sum = taper_hooks::observer_fn(|seen| {
        sums += values(seen.ys).iter().map(|y| f64::from(y.abs())).sum::<f64>();
        Ok(())
    });
    let mut pass = Pass::train(&mut sum, 1, 0);
    net.forward(&mut pass, &xs).unwrap();
    let added = f64::from(values(pass.added_loss().unwrap())[0]);
    drop(pass);
    assert!((added - 0.5 * sums / 3.0).abs() < 1e-4 && added > 0.0, "{added} {sums}");
    let mut nobody = ();
    let mut pass = Pass::eval(&mut nobody);
    net.forward(&mut pass, &xs).unwrap();
    assert!(pass.added_loss().is_none());
}

#[test]
fn a_second_action_at_a_site_is_given_what_the_first_returned() {
    let config = MlpConfig { inputs: 4, widths: vec![3], ..Default::default() };
    let net = Mlp::new(&config, params().builder()).unwrap();
    let plain = net.clone();
    let net = net.then("fc1", |_, ys| ys * 2.0).unwrap().then("fc1", |_, ys| ys - 1.0).unwrap();
    let xs = random(1, &[2, 4]);
    let seen = |net: &Mlp| {
        let mut found = Vec::new();
        let mut note = taper_hooks::observer_fn(|seen| {
            found = values(seen.ys);
            Ok(())
        });
        eval(net, &mut note, &xs);
        found
    };
    let want: Vec<f32> = seen(&plain).iter().map(|y| 2.0 * y - 1.0).collect();
    assert_eq!(seen(&net), want);
    let tap = Tap::new("logits").then(|_, ys| ys * 2.0).then(|_, ys| ys - 1.0);
    let want: Vec<f32> = values(&xs).iter().map(|y| 2.0 * y - 1.0).collect();
    assert_eq!(values(&tap.forward(&mut Pass::eval(&mut ()), &xs).unwrap()), want);
}

#[test]
fn an_unknown_site_and_a_factor_out_of_range_are_refused() {
    let net = cnn(&params());
    let error = message(net.clone().then("conv1", l1(0.1).unwrap()));
    assert_eq!(error, "site 'conv1': expected one of net.conv1, net.conv2, net.fc1");
    let none = MlpConfig { inputs: 4, widths: vec![], ..Default::default() };
    let error = message(Mlp::new(&none, params().builder()).unwrap().then("fc1", l1(0.1).unwrap()));
    assert!(error.contains("expected a model with hidden layers"), "{error}");
    for lambda in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(message(l1(lambda)).contains("expected λ of at least 0"));
        let config = MlpConfig { inputs: 4, l1: lambda, ..Default::default() };
        assert!(message(Mlp::new(&config, params().builder())).contains("expected λ of at least 0"));
    }
}
