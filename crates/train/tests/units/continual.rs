//! Continual backprop: utilities, and which units are replaced. Several tests are named after mistakes of published programs.

use candle_core::Tensor;
use taper_hooks::{Observer, Pass};
use taper_nn::{Mlp, Model, Params};
use taper_train::{Continual, ContinualConfig, Upkeep};

use crate::{adam, edit, flat, images, kill, net, outputs, var};

/// A forward pass in train mode.
fn show(net: &dyn Model, xs: &Tensor, upkeep: &mut dyn Observer) -> candle_core::Result<()> {
    net.forward(&mut Pass::train(upkeep, 1, 0), xs).map(drop)
}

fn continual(net: &Mlp, params: &Params, rate: f64, maturity: u64) -> Continual {
    Continual::new(net.links(), ContinualConfig { rate, maturity, decay: 0.99 }, params, 1).unwrap()
}

#[test]
fn the_mean_contribution_of_a_replaced_unit_goes_to_the_next_bias() {
    let (params, net) = net(1);
    // Unit 3 is 2 for every image, so its utility is 0 and its mean all that it contributes.
    edit(&params, "fc1.weight", |weights| weights[3 * 64..4 * 64].fill(0.0));
    edit(&params, "fc1.bias", |bias| bias[3] = 2.0);
    let (xs, mut optimizer) = (images(), adam(&params, 0.01));
    let mut upkeep =
        Continual::new(&net.links()[..1], ContinualConfig { rate: 0.09, ..Default::default() }, &params, 1)
            .unwrap();
    let (before, bias) = (outputs(&net, &xs, &mut ()), flat(&var(&params, "fc2.bias")));
    for _ in 0..101 {
        show(&net, &xs, &mut upkeep).unwrap();
    }
    assert!(upkeep.utilities("fc1").unwrap()[3] < 1e-12);
    upkeep.keep_up(&mut optimizer).unwrap();
    assert_eq!(upkeep.replaced(), 1, "0.09 of 12 units");
    assert_ne!(flat(&var(&params, "fc1.weight"))[3 * 64], 0.0, "that unit");
    assert_ne!(flat(&var(&params, "fc2.bias")), bias);
    for (a, b) in outputs(&net, &xs, &mut ()).iter().zip(&before) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn the_utility_of_a_young_unit_reads_as_that_of_an_old_one() {
    let (params, net) = net(1);
    let (xs, mut upkeep) = (images(), continual(&net, &params, 0.0, 100));
    let mut utilities = Vec::new();
    for _ in 0..3 {
        for _ in 0..[1, 9, 290][utilities.len()] {
            show(&net, &xs, &mut upkeep).unwrap();
        }
        utilities.push(upkeep.utilities("fc2").unwrap());
    }
    for (young, old) in utilities[0].iter().zip(&utilities[2]).chain(utilities[1].iter().zip(&utilities[2])) {
        assert!((young - old).abs() <= 1e-6 * old.abs(), "{young} {old}");
    }
    // By its definition, of the batch that came each time.
    let mut ys = Vec::new();
    let mut note = taper_hooks::observer_fn(|seen| {
        ys = flat(seen.ys);
        Ok(())
    });
    outputs(&net, &xs, &mut note);
    let (outgoing, unit) = (flat(&var(&params, "fc3.weight")), 2);
    let own: Vec<f64> = ys.iter().skip(unit).step_by(8).map(|y| f64::from(*y)).collect();
    let mean = own.iter().sum::<f64>() / 96.0;
    let deviation = own.iter().map(|y| (y - mean).abs()).sum::<f64>() / 96.0;
    let weights = outgoing.iter().skip(unit).step_by(8).map(|w| f64::from(w.abs())).sum::<f64>();
    assert!(
        (utilities[2][unit] - deviation * weights).abs() < 1e-6,
        "{} {}",
        utilities[2][unit],
        deviation * weights
    );
}

#[test]
fn fractions_of_a_unit_add_up_and_newborns_are_left_alone() {
    let (params, net) = net(1);
    let (xs, mut optimizer) = (images(), adam(&params, 0.01));
    let mut upkeep = Continual::new(
        &net.links()[..1],
        ContinualConfig { rate: 1.0 / 48.0, maturity: 5, decay: 0.9 },
        &params,
        1,
    )
    .unwrap();
    let mut replaced = Vec::new();
    for _ in 0..20 {
        show(&net, &xs, &mut upkeep).unwrap();
        upkeep.keep_up(&mut optimizer).unwrap();
        replaced.push(upkeep.replaced());
    }
    // A quarter of a unit per batch from the sixth on, for as long as all 12 are mature; then a little less.
    assert_eq!(replaced[..9], [0, 0, 0, 0, 0, 0, 0, 0, 1], "{replaced:?}");
    assert_eq!(replaced[19], 3, "{replaced:?}");

    // All that are mature go at once, and none of the new ones before it has matured again.
    let mut upkeep = continual(&net, &params, 1.0, 3);
    let mut replaced = Vec::new();
    for _ in 0..9 {
        show(&net, &xs, &mut upkeep).unwrap();
        upkeep.keep_up(&mut optimizer).unwrap();
        replaced.push(upkeep.replaced());
    }
    assert_eq!(replaced, [0, 0, 0, 20, 20, 20, 20, 40, 40]);
}

#[test]
fn the_least_useful_unit_is_replaced_and_a_dead_one_is_it() {
    let (params, net) = net(1);
    kill(&params, "fc2.bias", &[6]);
    let (xs, mut optimizer) = (images(), adam(&params, 0.01));
    let config = ContinualConfig { rate: 0.125, maturity: 2, decay: 0.9 };
    let mut upkeep = Continual::new(&net.links()[1..], config, &params, 1).unwrap();
    for _ in 0..3 {
        show(&net, &xs, &mut upkeep).unwrap();
    }
    upkeep.keep_up(&mut optimizer).unwrap();
    assert_eq!((upkeep.replaced(), flat(&var(&params, "fc2.bias"))[6]), (1, 0.0));
}

#[test]
fn a_batch_that_is_not_finite_leaves_utilities_as_they_were() {
    let (params, net) = net(1);
    let (xs, mut upkeep) = (images(), continual(&net, &params, 0.0, 100));
    show(&net, &xs, &mut upkeep).unwrap();
    let state = upkeep.state().unwrap();
    show(&net, &(xs * f64::NAN).unwrap(), &mut upkeep).unwrap();
    assert_eq!(upkeep.state().unwrap(), state);
}
