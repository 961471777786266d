//! Fixed random masks of incoming weights.

use taper_nn::Params;
use taper_train::{InputMasks, Upkeep, classify, train_epoch};

use crate::common::few;
use crate::{adam, flat, net, var};

#[test]
fn every_unit_keeps_the_same_number_of_inputs_and_the_variance_of_its_start() {
    let (params, net) = net(1);
    let before = flat(&var(&params, "fc1.weight"));
    let mut masks = InputMasks::new(&params, &["fc1.weight"], 0.3, 5).unwrap();
    let mut optimizer = adam(&params, 0.01);
    let open = |params: &Params| -> Vec<bool> {
        flat(&var(params, "fc1.weight")).iter().map(|w| *w != 0.0).collect()
    };
    let at_first = open(&params);
    assert!(at_first.chunks(64).all(|unit| unit.iter().filter(|open| **open).count() == 19), "0.3 of 64");
    assert_ne!(at_first[..64], at_first[64..128]);
    let scale = (64.0_f32 / 19.0).sqrt();
    for (was, is) in before.iter().zip(flat(&var(&params, "fc1.weight"))).filter(|(_, is)| *is != 0.0) {
        assert!((was * scale - is).abs() < 1e-5);
    }
    for batch in few().train.batches(32) {
        train_epoch(&classify(&net), &mut optimizer, [batch].into_iter(), &mut masks, 1).unwrap();
        masks.keep_up(&mut optimizer).unwrap();
    }
    assert_eq!(open(&params), at_first);
    // The same seed draws the same masks.
    let (again, _) = crate::net(2);
    InputMasks::new(&again, &["fc1.weight"], 0.3, 5).unwrap();
    assert_eq!(open(&again), at_first);
}
