//! A saved and restored recorder continues with the same numbers.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use serde_json::{Value, from_str, to_string};
use taper_hooks::{Activation, CustomActivation, Error, Observer, Parts, Pass, Recorder, Site};
use taper_report::{Split, Trouble};

use crate::{random, see, show, tensor};

static HALF: CustomActivation = CustomActivation {
    name: "half",
    value: |x| if x > 0.0 { x / 2.0 } else { 0.0 },
    derivative: |x| if x > 0.0 { 0.5 } else { 0.0 },
    zero_floored: true,
};

fn again(recorder: &Recorder) -> Recorder {
    from_str(&to_string(recorder).unwrap()).unwrap()
}

#[test]
fn a_window_that_is_cut_and_written_down_ends_with_the_same_bits() {
    for parts in [Parts::FULL, Parts::COUNTS] {
        for activation in [Activation::Relu, Activation::Selu, Activation::Custom(&HALF)] {
            let sites = [("fc1", &[40, 300][..]), ("conv1", &[40, 6, 5, 5])];
            let sites = sites.map(|(name, shape)| (Site::behind(name, activation), shape));
            let (mut whole, mut cut) = (Recorder::of(parts), Recorder::of(parts));
            for epoch in 0..3 {
                for batch in 0..4 {
                    for (site, shape) in &sites {
                        let xs = random(10 * epoch + batch, shape);
                        see(&mut whole, site, &xs);
                        see(&mut cut, site, &xs);
                        // Also between the sites of a pass, and at the end of a window.
                        cut = again(&cut);
                    }
                }
                // Debug prints every number to its last digit.
                assert_eq!(format!("{:?}", whole.finish()), format!("{:?}", cut.finish()));
                cut = again(&cut);
            }
        }
    }
}

#[test]
fn sums_that_are_not_finite_come_back() {
    let site = Site::behind("fc1", Activation::Identity);
    let mut recorder = Recorder::new();
    see(&mut recorder, &site, &tensor(vec![f32::NAN, f32::INFINITY, f32::MAX, -0.0], &[2, 2]));
    assert_eq!(to_string(&again(&recorder)).unwrap(), to_string(&recorder).unwrap());
    // Nothing at all: the extremes are infinite then.
    let mut recorder = Recorder::new();
    see(&mut recorder, &site, &tensor(vec![f32::NAN; 4], &[2, 2]));
    assert_eq!(to_string(&again(&recorder)).unwrap(), to_string(&recorder).unwrap());
}

#[test]
fn two_sites_of_one_name_are_found_after_a_restart_too() {
    let xs = random(1, &[2, 3]);
    let mut recorder = Recorder::new();
    see(&mut recorder, &Site::behind("fc1", Activation::Relu), &xs);
    let mut recorder = again(&recorder);
    see(&mut recorder, &Site::behind("fc1", Activation::Relu), &xs); // a new process has a new site
    assert_eq!(recorder.clone().finish()[0].trouble, None);
    see(&mut recorder, &Site::behind("fc1", Activation::Relu), &xs);
    let got = recorder.finish().remove(0);
    assert_eq!((got.samples, got.trouble), (4, Some(Trouble::SiteTwice)));
}

#[test]
fn the_split_of_a_window_is_restored() {
    let (fc1, xs) = (Site::behind("fc1", Activation::Relu), random(1, &[2, 3]));
    let mut recorder = Recorder::new();
    recorder.begin(Split::Test, false).unwrap();
    let mut pass = Pass::eval(&mut recorder);
    (0..7).for_each(|_| show(&mut pass, &fc1, &xs).unwrap());
    pass.tap(&Site::new("logits").output(), &xs).unwrap();
    see(&mut recorder, &fc1, &random(1, &[2, 4]));
    let mut recorder = again(&recorder);
    let error = recorder.begin(Split::Validation, false).unwrap_err();
    let (open, begins) = (Some(Split::Test), Split::Validation);
    assert_eq!(Error::of(&error), Some(&Error::WindowOpen { open, begins }));
    // Trouble stays, whatever the next batch has.
    see(&mut recorder, &fc1, &xs);
    let all = recorder.finish();
    let changed = Trouble::UnitsChanged { expected: 3, found: 4 };
    assert_eq!((all[0].uses, all[0].samples, all[0].trouble.clone()), (7, 14, Some(changed)));
    // A tap is one still, and an output too.
    assert_eq!((all[1].activation.clone(), all[1].dead, all[1].dormant_0), (None, None, None));
}

fn written() -> String {
    let mut recorder = Recorder::new();
    see(&mut recorder, &Site::behind("fc1", Activation::Relu), &random(1, &[5, 3]));
    recorder.finish();
    see(&mut recorder, &Site::behind("fc1", Activation::Relu), &random(2, &[5, 3]));
    to_string(&recorder).unwrap()
}

#[test]
fn counts_that_contradict_each_other_are_refused() {
    let good: Value = from_str(&written()).unwrap();
    for (path, says) in [
        ("/sites/0/tallies/0/zeros", "more values"),
        ("/sites/0/tallies/0/histogram/zeros", "more values"),
        ("/sites/0/tallies/0/flat_low", "than are finite"),
        ("/sites/0/tallies/0/values", "do not add up"),
        ("/sites/0/tallies/0/units/1/0", "do not add up"),
        ("/sites/0/tallies/0/units/1/1", "than it was observed"),
        ("/sites/0/tallies/0/per_sample/scored", "more samples"),
        ("/sites/0/tallies/0/samples", "than there are values"),
        ("/sites/0/tallies/0/per_sample/active", "than there are values"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(path).unwrap() = 1_000_000_u64.into();
        let error = serde_json::from_value::<Recorder>(bad).unwrap_err().to_string();
        assert!(error.contains("'fc1'") && error.contains(says), "{path}: {error}");
    }
    let (mut none, mut unlike) = (good.clone(), good.clone());
    none["sites"][0]["tallies"] = Value::Array(Vec::new());
    let mut other = good["sites"][0]["tallies"][0].clone();
    other["units"].as_array_mut().unwrap().pop();
    unlike["sites"][0]["tallies"].as_array_mut().unwrap().push(other);
    for bad in [none, unlike] {
        let error = serde_json::from_value::<Recorder>(bad).unwrap_err().to_string();
        assert!(error.contains("'fc1': expected tallies of the same units"), "{error}");
    }
    // Each is possible by itself, and their sum is none that can be counted.
    let mut many = good.clone();
    let tally = &mut many["sites"][0]["tallies"][0];
    tally["values"] = (u64::MAX / 2 / 3 * 3).into();
    let tally = tally.clone();
    many["sites"][0]["tallies"].as_array_mut().unwrap().push(tally);
    let error = serde_json::from_value::<Recorder>(many).unwrap_err().to_string();
    assert!(error.contains("more values are counted than a run can have"), "{error}");
    let mut twice = good;
    let site = twice["sites"][0].clone();
    twice["sites"].as_array_mut().unwrap().push(site);
    assert!(serde_json::from_value::<Recorder>(twice).unwrap_err().to_string().contains("twice"));
}

proptest! {
    #![proptest_config(Config { cases: 400, failure_persistence: None, rng_seed: RngSeed::Fixed(5), ..Config::default() })]

    /// Reading any file gives a recorder or an error, and a recorder can be finished and continued.
    #[test]
    fn a_damaged_file_is_refused_or_harmless(at in 0_usize..10_000, with in 0_u8..10, number in any::<u64>()) {
        let mut text = written();
        let digits: Vec<usize> = text.bytes().enumerate().filter(|(_, b)| b.is_ascii_digit()).map(|(i, _)| i).collect();
        let at = digits[at % digits.len()];
        if number % 3 == 0 {
            text.replace_range(at..=at, &number.to_string());
        } else {
            text.replace_range(at..=at, &with.to_string());
        }
        if let Ok(mut recorder) = from_str::<Recorder>(&text) {
            recorder.finish();
            recorder.finish();
        }
    }
}
