//! The calls that observers receive, and the errors of a pass.

use std::cell::Cell;
use std::time::Duration;

use candle_core::{Result, Tensor, bail};
use taper_hooks::{Activation, Error, Mode, Observer, Pass, Recorder, Seen, Site, Units, observer_fn};
use taper_kernels::activate;

use crate::{random, tensor};

/// One call at a site called `fc1`, in the mode of the pass.
fn mention(pass: &mut Pass<'_>) -> Result<()> {
    let xs = random(1, &[2, 3]);
    pass.see(&Site::behind("fc1", Activation::Tanh), &xs, &xs)
}

#[test]
fn pre_activations_are_not_computed_without_demand() {
    let (ys, site) = (random(1, &[2, 3]), Site::behind("fc1", Activation::Tanh));
    for observer in [&mut () as &mut dyn Observer, &mut None::<Recorder>] {
        let xs = || panic!("nobody wants to know");
        Pass::eval(observer).see_with(&site, Some(Activation::Tanh), None, &xs, &ys).unwrap();
    }
}

#[test]
fn closures_pairs_and_options_observe() {
    let mut names = Vec::new();
    let mut count = 0;
    let mut both = (
        observer_fn(|seen: &Seen<'_>| {
            names.push((seen.site.name().to_string(), seen.activation, seen.xs()?.dims().to_vec()));
            Ok(())
        }),
        Some(observer_fn(|_: &Seen<'_>| {
            count += 1;
            Ok(())
        })),
    );
    mention(&mut Pass::eval(&mut both)).unwrap();
    mention(&mut Pass::eval(&mut both)).unwrap();
    assert_eq!(names, vec![("fc1".to_string(), Some(Activation::Tanh), vec![2, 3]); 2]);
    assert_eq!(count, 2);
}

#[test]
fn the_first_of_a_pair_that_refuses_ends_the_pass() {
    let mut seen = false;
    let mut both = (
        observer_fn(|_: &Seen<'_>| bail!("no more")),
        observer_fn(|_: &Seen<'_>| {
            seen = true;
            Ok(())
        }),
    );
    let error = mention(&mut Pass::eval(&mut both)).unwrap_err();
    assert!(error.to_string().contains("no more"));
    assert!(!seen);
}

#[test]
fn the_mode_is_handed_on() {
    let mut modes = Vec::new();
    let mut observer = observer_fn(|seen: &Seen<'_>| {
        modes.push(seen.mode);
        Ok(())
    });
    let mut train = Pass::train(&mut observer, 1, 0);
    assert_eq!(train.mode(), Mode::Train);
    mention(&mut train).unwrap();
    let mut eval = Pass::eval(&mut observer);
    assert_eq!(eval.mode(), Mode::Eval);
    mention(&mut eval).unwrap();
    assert_eq!(modes, [Mode::Train, Mode::Eval]);
}

#[test]
fn draws_follow_from_seed_step_and_place_and_do_not_exist_in_evaluation() {
    let draws = |seed, step| {
        let mut nobody = ();
        let mut pass = Pass::train(&mut nobody, seed, step);
        [pass.draw().unwrap(), pass.draw().unwrap()]
    };
    assert_eq!(draws(1, 5), draws(1, 5));
    let all = [draws(1, 5), draws(2, 5), draws(1, 6), draws(5, 1), draws(0, 0)].concat();
    let seeds: std::collections::HashSet<u64> = all.iter().map(|draw| draw.seed).collect();
    assert_eq!(seeds.len(), all.len());
    assert!(all.iter().all(|draw| draw.first_row == 0));
    let error = Pass::eval(&mut ()).draw().unwrap_err();
    assert_eq!(Error::of(&error), Some(&Error::NoRng));
    assert!(error.to_string().contains("no random numbers in evaluation mode"), "{error}");
}

#[test]
fn a_part_of_a_batch_draws_from_its_first_row_on() {
    let (mut nobody, mut other) = ((), ());
    let (mut whole, mut part) = (Pass::train(&mut nobody, 1, 2), Pass::train(&mut other, 1, 2).rows_from(40));
    for _ in 0..3 {
        let (whole, part) = (whole.draw().unwrap(), part.draw().unwrap());
        assert_eq!((part.seed, part.first_row), (whole.seed, 40));
    }
    assert_eq!(Pass::eval(&mut ()).rows_from(40).mode(), Mode::Eval);
}

#[test]
fn observing_draws_nothing() {
    let draw = |observer: &mut dyn Observer| {
        let mut pass = Pass::train(observer, 1, 0);
        mention(&mut pass).unwrap();
        pass.draw().unwrap()
    };
    assert_eq!(draw(&mut Recorder::new()), draw(&mut ()));
}

#[test]
fn what_is_added_to_the_loss_adds_up_in_training_alone() {
    let (mut nobody, mut other) = ((), ());
    let (mut train, mut eval) = (Pass::train(&mut nobody, 1, 0), Pass::eval(&mut other));
    assert!(train.added_loss().is_none());
    for term in [0.5_f32, 2.0] {
        let term = tensor(vec![term], &[]);
        train.add_to_loss(&term).unwrap();
        eval.add_to_loss(&term).unwrap();
    }
    assert_eq!(train.added_loss().unwrap().to_scalar::<f32>().unwrap(), 2.5);
    assert!(eval.added_loss().is_none());
    assert!(train.add_to_loss(&tensor(vec![1.0, 2.0], &[2])).is_err());
}

/// The mode of the pass whose scope this is, if there is one.
fn current() -> Option<Mode> {
    Pass::current(|pass| pass.map(|pass| pass.mode()))
}

#[test]
fn the_innermost_scope_is_current_and_outside_there_is_none() {
    let (mut a, mut b) = ((), ());
    let (mut train, mut eval) = (Pass::train(&mut a, 1, 0), Pass::eval(&mut b));
    assert_eq!(current(), None);
    train.scope(|| {
        assert_eq!(current(), Some(Mode::Train));
        eval.scope(|| assert_eq!(current(), Some(Mode::Eval)));
        assert_eq!(current(), Some(Mode::Train));
        Pass::outside(|| {
            assert_eq!(current(), None);
            eval.scope(|| assert_eq!(current(), Some(Mode::Eval)));
            assert_eq!(current(), None);
        });
        // The holder of the pass has exclusive access to it.
        Pass::current(|pass| {
            assert!(pass.is_some());
            assert_eq!(current(), None);
        });
        assert_eq!(std::thread::spawn(current).join().unwrap(), None);
        assert_eq!(current(), Some(Mode::Train));
    });
    assert_eq!(current(), None);
    Pass::outside(|| assert_eq!(current(), None));
}

#[test]
fn a_scope_ends_where_its_forward_pass_panics() {
    let caught = std::panic::catch_unwind(|| Pass::eval(&mut ()).scope(|| panic!("on purpose")));
    assert!(caught.is_err());
    assert_eq!(current(), None);
}

#[test]
fn the_time_that_observing_took_adds_up() {
    let mut slow = observer_fn(|_: &Seen<'_>| {
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    });
    let mut pass = Pass::eval(&mut slow);
    assert_eq!(pass.observing(), Duration::ZERO);
    let (site, xs) = (Site::new("fc1"), random(1, &[2, 3]));
    pass.tap(&site, &xs).unwrap();
    let once = pass.observing();
    pass.tap(&site, &xs).unwrap();
    assert!(once >= Duration::from_millis(2) && pass.observing() >= once + Duration::from_millis(2));
}

#[test]
fn the_time_that_looking_at_the_input_took_counts_as_observing() {
    struct Slow;
    impl Observer for Slow {
        fn observe(&mut self, _: &Seen<'_>) -> Result<()> {
            Ok(())
        }

        fn input(&mut self, _: &Tensor) -> Result<()> {
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        }
    }
    let mut slow = Slow;
    let mut pass = Pass::eval(&mut slow);
    pass.input(&random(1, &[2, 3])).unwrap();
    assert!(pass.observing() >= Duration::from_millis(2));
}

#[test]
fn observing_changes_no_value() {
    let xs: Tensor = random(1, &[4, 5]);
    let before = xs.to_vec2::<f32>().unwrap();
    let mut recorder = Recorder::new();
    Pass::eval(&mut recorder).see(&Site::behind("fc1", Activation::Relu), &xs, &xs).unwrap();
    assert_eq!(xs.to_vec2::<f32>().unwrap(), before);
}

#[test]
fn a_recorder_asks_for_pre_activations_only_where_the_value_does_not_tell() {
    let xs = random(1, &[3, 4]);
    for f in Activation::ALL {
        let asked = Cell::new(0);
        let compute = || {
            asked.set(asked.get() + 1);
            Ok(xs.clone())
        };
        let (mut told, mut told_all) = (Recorder::new(), Recorder::new());
        let (site, ys) = (Site::behind("fc1", f), activate(&xs, f).unwrap());
        Pass::eval(&mut told).see_with(&site, Some(f), None, &compute, &ys).unwrap();
        assert_eq!(asked.get(), usize::from(!f.slope_shows_in_value()), "{f}");
        Pass::eval(&mut told_all).see(&site, &xs, &ys).unwrap();
        assert_eq!(told.finish(), told_all.finish());
    }
}

#[test]
fn pre_activations_that_are_computed_must_have_the_shape_of_the_others() {
    let (xs, ys) = (random(1, &[3, 4]), random(1, &[3, 5]));
    let mut observer = observer_fn(|seen: &Seen<'_>| seen.xs().map(|_| ()));
    let site = Site::behind("fc1", Activation::Relu);
    let mut pass = Pass::eval(&mut observer);
    let error = pass.see_with(&site, Some(Activation::Relu), None, &|| Ok(xs.clone()), &ys).unwrap_err();
    assert!(error.to_string().contains("site 'fc1'"), "{error}");
}

#[test]
fn a_clone_of_a_site_is_the_same_place_and_a_namesake_is_not() {
    let site = Site::behind("fc1", Activation::Relu);
    assert!(site.is_same_place(&site.clone()));
    assert!(!site.is_same_place(&Site::behind("fc1", Activation::Relu)));
    assert!(!site.is_same_place(&site.named("fc1")));
}

#[test]
fn an_observer_receives_units_uses_and_the_unit_of_every_value() {
    let mut told = Vec::new();
    let mut observer = observer_fn(|seen: &Seen<'_>| {
        let units: Vec<usize> = (0..6).map(|i| seen.unit(i)).collect();
        told.push((seen.site.name().to_string(), seen.units, seen.uses, seen.sizes(), units));
        Ok(())
    });
    let (xs, site) = (random(1, &[1, 2, 3]), Site::new("a").units(Units::Last));
    let mut pass = Pass::eval(&mut observer);
    for site in [&site, &site, &site.named("b").units(Units::Second)] {
        pass.tap(site, &xs).unwrap();
    }
    let (last, second) = (((3, 2), vec![0, 1, 2, 0, 1, 2]), ((2, 3), vec![0, 0, 0, 1, 1, 1]));
    let name = |name: &str| name.to_string();
    let want = [
        (name("a"), Units::Last, 1, last.0, last.1.clone()),
        (name("a"), Units::Last, 2, last.0, last.1),
        (name("b"), Units::Second, 1, second.0, second.1),
    ];
    assert_eq!(told, want);
}
