//! ReDo: dormant units, and when they are restarted.

use taper_hooks::Recorder;
use taper_nn::Model;
use taper_train::{Redo, Upkeep, classify, redo, train_epoch};

use crate::common::few;
use crate::{adam, images, kill, net, outputs, recorder};

#[test]
fn restarting_dead_units_changes_nothing_of_what_the_network_computes() {
    let (params, net) = net(1);
    let mut optimizer = adam(&params, 0.01);
    kill(&params, "fc1.bias", &[2, 7]);
    kill(&params, "fc2.bias", &[5]);
    let (xs, mut window) = (images(), recorder());
    let before = outputs(&net, &xs, &mut window);
    let dead =
        |window: &Recorder, site| window.units(site).unwrap().iter().filter(|unit| unit.is_dead()).count();
    let was = dead(&window, "fc1") + dead(&window, "fc2");
    let restarted = redo(net.links(), 0.0, &window, &params, &mut optimizer, 1).unwrap();
    assert_eq!((restarted, was >= 3), (was as u64, true));
    let mut window = recorder();
    assert_eq!(outputs(&net, &xs, &mut window), before);
    assert!(dead(&window, "fc1") + dead(&window, "fc2") < 3, "they are alive again");
}

#[test]
fn a_unit_is_dormant_up_to_tau_inclusive_and_its_score_has_a_mean_of_1() {
    let (params, net) = net(1);
    let (xs, mut window) = (images(), recorder());
    outputs(&net, &xs, &mut window);
    let scores: Vec<f64> = window.units("fc2").unwrap().iter().map(|unit| unit.dormancy).collect();
    assert!((scores.iter().sum::<f64>() / 8.0 - 1.0).abs() < 1e-6, "{scores:?}");
    let mut sorted = scores.clone();
    sorted.sort_by(f64::total_cmp);
    let (tau, fc2) = (sorted[3], &net.links()[1..]);
    let below = |tau: f64| scores.iter().filter(|score| **score <= tau).count() as u64;
    let restarted = redo(fc2, tau, &window, &params, &mut adam(&params, 0.01), 1).unwrap();
    assert_eq!((restarted, restarted >= 4), (below(tau), true));
}

#[test]
fn a_layer_that_is_dead_as_a_whole_is_restarted_as_a_whole() {
    let (params, net) = net(1);
    kill(&params, "fc2.bias", &[0, 1, 2, 3, 4, 5, 6, 7]);
    let (xs, mut window) = (images(), recorder());
    outputs(&net, &xs, &mut window);
    let fc2 = &net.links()[1..];
    assert_eq!(redo(fc2, 0.0, &window, &params, &mut adam(&params, 0.01), 1).unwrap(), 8);
    let mut window = recorder();
    outputs(&net, &xs, &mut window);
    assert!(window.units("fc2").unwrap().iter().any(|unit| !unit.is_dead()));
}

#[test]
fn redo_restarts_by_the_steps_since_the_last_time_and_in_training_alone() {
    let (params, net) = net(1);
    let (data, mut optimizer) = (few(), adam(&params, 1e-4));
    let mut upkeep = Redo::new(net.links(), 0.0, 6, &params, 1).unwrap();
    let mut epoch = |upkeep: &mut Redo| {
        train_epoch(&classify(&net), &mut optimizer, data.train.batches(32), upkeep, 1).unwrap();
        outputs(&net, &images(), upkeep); // evaluation is not observed
        upkeep.keep_up(&mut optimizer).unwrap();
        upkeep.restarted()
    };
    kill(&params, "fc1.bias", &[4]);
    assert_eq!(epoch(&mut upkeep), 0, "three steps are not six");
    let first = epoch(&mut upkeep);
    assert!(first >= 1);
    kill(&params, "fc1.bias", &[4]);
    assert_eq!(epoch(&mut upkeep), first);
    assert!(epoch(&mut upkeep) > first);
}
