//! Restarted units: their weights, and the optimiser's state.

use candle_core::Device;
use taper_hooks::rng;
use taper_nn::{Cnn, CnnConfig, Model, Params};
use taper_train::{classify, restart_units, train_epoch};

use crate::common::few;
use crate::{adam, flat, net, var};

#[test]
fn a_map_is_restarted_with_all_columns_that_it_feeds_and_no_others() {
    let params = Params::new(1, &Device::Cpu);
    let config = CnnConfig { input: (1, 8, 8), channels: vec![3, 4], widths: vec![5], ..Default::default() };
    let net = Cnn::new(&config, params.builder()).unwrap();
    let mut optimizer = adam(&params, 0.01);
    for (link, unit) in net.links().iter().zip([1, 2, 4]) {
        let before: Vec<Vec<f32>> = params.vars().iter().map(|(_, var)| flat(var)).collect();
        restart_units(link, &[unit], &params, &mut optimizer, &mut rng(3)).unwrap();
        for ((name, var), before) in params.vars().iter().zip(before) {
            let (after, dims) = (flat(var), var.dims());
            let row = before.len() / dims[0];
            let span = row / dims.get(1).copied().unwrap_or(1);
            for (i, (was, is)) in before.iter().zip(&after).enumerate() {
                let (of, column) = (i / row, i % row / span);
                let incoming = *name == link.weight && of == unit;
                let outgoing = *name == link.next_weight && column / link.columns == unit;
                match (incoming, outgoing) {
                    (true, _) => assert_ne!(was, is, "{name} {i}"),
                    (_, true) => assert_eq!(*is, 0.0, "{name} {i}"),
                    _ => assert_eq!(was, is, "{name} {i}"),
                }
            }
        }
    }
}

#[test]
fn adam_takes_its_first_step_with_the_weights_of_a_restarted_unit() {
    let (params, net) = net(1);
    let (rate, data, link) = (1e-3, few(), net.links()[0].clone());
    let mut optimizer = adam(&params, rate);
    for _ in 0..5 {
        train_epoch(&classify(&net), &mut optimizer, data.train.batches(32), &mut (), 1).unwrap();
    }
    restart_units(&link, &[3], &params, &mut optimizer, &mut rng(9)).unwrap();
    let read = || (flat(&var(&params, "fc1.weight")), flat(&var(&params, "fc2.weight")));
    let before = read();
    train_epoch(&classify(&net), &mut optimizer, data.train.batches(96), &mut (), 1).unwrap();
    let after = read();
    // Bias correction makes the first step of each weight as long as the rate. With the old count it would be 3.2 times that;
    // with the old moments, anything.
    let outgoing: Vec<f32> =
        (0..8).map(|row| (after.1[row * 12 + 3] - before.1[row * 12 + 3]).abs()).collect();
    let moved: Vec<f32> = outgoing.into_iter().filter(|x| *x != 0.0).collect();
    assert!(moved.len() > 2 && moved.iter().all(|x| (x / 1e-3 - 1.0).abs() < 0.01), "{moved:?}");
    // Without outgoing weights no gradient reached its incoming ones, which stay as they were drawn.
    assert_eq!(before.0[3 * 64..4 * 64], after.0[3 * 64..4 * 64]);
    assert_ne!(before.0[..64], after.0[..64]);
}
