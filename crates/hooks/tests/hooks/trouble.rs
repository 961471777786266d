//! A recorder never ends a pass: it reports what it cannot record, and continues with everything else.

use taper_hooks::{Activation, Error, Mode, Observer, Pass, Recorder, Site, Units};
use taper_report::{LayerStats, Split, Trouble};

use crate::{random, see, show, stats};

/// Two sites, of which the second never has trouble: the statistics of both over three batches, with these numbers of
/// units, modes and new sites at the first.
fn three_batches(batches: [(usize, Mode, bool); 3]) -> (Recorder, [LayerStats; 2]) {
    let [mut first, second] = ["fc1", "fc2"].map(|name| Site::behind(name, Activation::Relu));
    let mut recorder = Recorder::new();
    for (seed, (units, mode, anew)) in (0..).zip(batches) {
        if anew {
            first = first.named("fc1");
        }
        let mut pass = match mode {
            Mode::Train => Pass::train(&mut recorder, 1, seed),
            Mode::Eval => Pass::eval(&mut recorder),
        };
        show(&mut pass, &first, &random(seed, &[2, units])).unwrap();
        drop(pass);
        see(&mut recorder, &second, &random(seed, &[4, 6]));
    }
    let [a, b] = recorder.finish().try_into().expect("two sites");
    (recorder, [a, b])
}

#[test]
fn a_site_in_trouble_keeps_its_earlier_numbers_and_others_continue() {
    let (train, eval) = (Mode::Train, Mode::Eval);
    let units = Trouble::UnitsChanged { expected: 3, found: 5 };
    for (batches, trouble) in [
        ([(3, eval, false), (5, eval, false), (3, eval, false)], units.clone()),
        ([(3, train, false), (3, eval, false), (3, train, false)], Trouble::ModesMixed),
        ([(3, eval, false), (3, eval, true), (3, eval, true)], Trouble::SiteTwice),
        // The first of several troubles is reported.
        ([(3, eval, false), (5, eval, false), (3, eval, true)], units),
    ] {
        let (_, [first, second]) = three_batches(batches);
        let alone = stats(Activation::Relu, &random(0, &[2, 3]));
        assert_eq!(first, LayerStats { trouble: Some(trouble), ..alone });
        assert_eq!((second.samples, second.trouble), (12, None));
    }
}

#[test]
fn a_new_window_is_out_of_trouble_and_may_be_of_other_units() {
    let batch = |units| (units, Mode::Eval, false);
    let (mut recorder, [first, _]) = three_batches([batch(3), batch(5), batch(3)]);
    assert!(first.trouble.is_some());
    // A new model, in another mode: nothing to compare its dead units with.
    let site = Site::behind("fc1", Activation::Relu);
    show(&mut Pass::train(&mut recorder, 1, 0), &site, &random(1, &[2, 5])).unwrap();
    let next = recorder.finish().remove(0);
    assert_eq!((next.units, next.trouble, next.died), (5, None, None));
}

#[test]
fn a_new_site_in_every_pass_is_reported_by_name() {
    let mut recorder = Recorder::new();
    for seed in 0..3 {
        see(&mut recorder, &Site::behind("fc1", Activation::Relu), &random(seed, &[2, 3]));
    }
    let got = recorder.finish().remove(0);
    assert_eq!((got.samples, got.trouble.clone()), (2, Some(Trouble::SiteTwice)));
    assert!(got.trouble.unwrap().to_string().contains("make sites once, not in every pass"));
}

#[test]
fn a_second_evaluation_into_an_unfinished_window_fails_and_names_both_splits() {
    let (site, xs) = (Site::behind("fc1", Activation::Relu), random(1, &[2, 3]));
    let mut recorder = Recorder::new();
    recorder.begin(Split::Test, false).unwrap();
    // Nothing came: nothing would be mixed.
    recorder.begin(Split::Validation, false).unwrap();
    see(&mut recorder, &site, &xs);
    for split in [Split::Validation, Split::Test, Split::Train] {
        // Also as one of several observers.
        let mut both = ((), Some(&mut recorder));
        let error = both.begin(split, false).unwrap_err().to_string();
        let both =
            [format!("record {} into", split.name()), "found one with passes over validation".to_string()];
        assert!(both.iter().all(|part| error.contains(part)), "{error}");
    }
    // What was recorded is still there.
    assert_eq!(recorder.finish()[0].samples, 2);
    recorder.begin(Split::Test, false).unwrap();
}

#[test]
fn training_may_continue_its_window_and_nothing_else_may_begin_in_it() {
    let (site, xs) = (Site::behind("fc1", Activation::Relu), random(1, &[2, 3]));
    let mut recorder = Recorder::new();
    for step in 0..3 {
        recorder.begin(Split::Train, step > 0).unwrap();
        show(&mut Pass::train(&mut recorder, 1, step), &site, &xs).unwrap();
    }
    // A new epoch is no continuation.
    assert!(recorder.begin(Split::Train, false).is_err());
    let error = recorder.begin(Split::Test, false).unwrap_err();
    let (open, begins) = (Some(Split::Train), Split::Test);
    assert_eq!(Error::of(&error), Some(&Error::WindowOpen { open, begins }));
    assert_eq!(recorder.finish()[0].samples, 6);
    // Passes of a custom loop, without a known split.
    see(&mut recorder, &site, &xs);
    let error = recorder.begin(Split::Train, false).unwrap_err().to_string();
    assert!(error.contains("record train into") && error.contains("passes of your own loop"), "{error}");
}

#[test]
fn one_site_for_two_layouts_of_as_many_units_is_no_trouble() {
    // An activation used after a convolution and after a linear layer: only the number of units matters.
    let (site, xs) = (Site::behind("shared", Activation::Relu), random(1, &[2, 4, 4]));
    let mut recorder = Recorder::new();
    let mut pass = Pass::eval(&mut recorder);
    for axis in [Units::Second, Units::Last] {
        pass.see_with(&site, Some(Activation::Relu), Some(axis), &|| Ok(xs.clone()), &xs).unwrap();
    }
    let got = recorder.finish().remove(0);
    assert_eq!((got.units, got.samples, got.uses, got.trouble), (4, 4, 2, None));
}

#[test]
fn nan_at_a_site_in_trouble_is_still_noticed() {
    let mut recorder = Recorder::new();
    let site = Site::behind("fc1", Activation::Relu);
    see(&mut recorder, &site, &random(1, &[2, 3]));
    see(&mut recorder, &site, &random(1, &[2, 4]));
    assert_eq!(recorder.non_finite(), 0);
    see(&mut recorder, &site, &(random(1, &[2, 4]) * f64::NAN).unwrap());
    assert_eq!(recorder.non_finite(), 8);
    assert_eq!(recorder.finish()[0].nan, 0, "the numbers are about what came before");
}

#[test]
fn nan_of_a_recorder_that_is_merged_into_one_in_trouble_is_still_noticed() {
    let site = Site::behind("fc1", Activation::Relu);
    let (mut troubled, mut other) = (Recorder::new(), Recorder::new());
    see(&mut troubled, &site, &random(1, &[2, 3]));
    see(&mut troubled, &site, &random(1, &[2, 4]));
    see(&mut other, &site, &(random(1, &[2, 3]) * f64::NAN).unwrap());
    troubled.merge(&other).unwrap();
    assert_eq!(troubled.non_finite(), 6);
}

#[test]
fn a_site_that_comes_with_and_without_its_function_is_in_trouble() {
    let mut recorder = Recorder::new();
    let (site, ys) = (Site::behind("fc1", Activation::Relu), random(1, &[2, 3]));
    see(&mut recorder, &site, &ys);
    Pass::eval(&mut recorder).tap(&site, &ys).unwrap();
    let got = recorder.finish().remove(0);
    assert_eq!((got.samples, got.trouble), (2, Some(Trouble::ActivationChanged)));
}

#[test]
fn recorders_of_other_functions_or_other_splits_are_not_merged() {
    let recorded = |site: Site, split: Option<Split>| {
        let mut recorder = Recorder::new();
        split.map_or(Ok(()), |split| recorder.begin(split, false)).unwrap();
        Pass::eval(&mut recorder).tap(&site, &random(1, &[2, 3])).unwrap();
        recorder
    };
    let plain = || recorded(Site::new("fc1"), Some(Split::Test));
    let mut act = Recorder::new();
    see(&mut act, &Site::behind("fc1", Activation::Relu), &random(1, &[2, 3]));
    let error = plain().merge(&act).unwrap_err();
    assert!(matches!(error, Error::Merge { trouble: Trouble::ActivationChanged, .. }), "{error}");
    let error = plain().merge(&recorded(Site::new("fc1"), Some(Split::Validation))).unwrap_err();
    let windows = Error::WindowOpen { open: Some(Split::Test), begins: Split::Validation };
    assert_eq!(error, windows);
    // What comes from a recorder with a window is about that window.
    let mut merged = Recorder::new();
    merged.merge(&plain()).unwrap();
    let error = merged.begin(Split::Train, false).unwrap_err();
    assert_eq!(Error::of(&error), Some(&Error::WindowOpen { open: Some(Split::Test), begins: Split::Train }));
}
