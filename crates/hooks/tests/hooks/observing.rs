//! Who is told what, and what a pass hands out.

use std::cell::Cell;
use std::time::Duration;

use candle_core::{Result, Tensor, bail};
use taper_hooks::{Activation, Mode, Observer, Pass, Recorder, Seen, Site, observer_fn};
use taper_kernels::activate;

use crate::{random, tensor};

/// One call at a site called `fc1`, in the mode of the pass.
fn mention(pass: &mut Pass<'_>) -> Result<()> {
    let xs = random(1, &[2, 3]);
    pass.see(&Site::new("fc1", Activation::Tanh), Activation::Tanh, &xs, &xs)
}

#[test]
fn nobody_computes_nothing() {
    // A shape that every recorder refuses: nobody looks at it.
    let xs = tensor(vec![], &[0]);
    let site = Site::new("fc1", Activation::Relu);
    Pass::eval(&mut ()).see(&site, Activation::Relu, &xs, &xs).unwrap();
    Pass::eval(&mut None::<Recorder>).see(&site, Activation::Relu, &xs, &xs).unwrap();
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
    assert_eq!(names, vec![("fc1".to_string(), Activation::Tanh, vec![2, 3]); 2]);
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
    let mut rng = taper_hooks::rng(1);
    let mut train = Pass::train(&mut observer, &mut rng);
    assert_eq!(train.mode(), Mode::Train);
    mention(&mut train).unwrap();
    let mut eval = Pass::eval(&mut observer);
    assert_eq!(eval.mode(), Mode::Eval);
    mention(&mut eval).unwrap();
    assert_eq!(modes, [Mode::Train, Mode::Eval]);
}

#[test]
fn seeds_repeat_with_the_generator_and_do_not_exist_in_evaluation() {
    let seeds = |seed: u64| {
        let mut rng = taper_hooks::rng(seed);
        let mut nobody = ();
        let mut pass = Pass::train(&mut nobody, &mut rng);
        let first = [pass.seed().unwrap(), pass.seed().unwrap()];
        // The next pass goes on where this one stopped.
        [first[0], first[1], Pass::train(&mut (), &mut rng).seed().unwrap()]
    };
    assert_eq!(seeds(1), seeds(1));
    assert_ne!(seeds(1), seeds(2));
    let [a, b, c] = seeds(1);
    assert!(a != b && b != c && a != c);
    let error = Pass::eval(&mut ()).seed().unwrap_err().to_string();
    assert!(error.contains("no random numbers in evaluation mode"), "{error}");
}

#[test]
fn observing_takes_no_seed() {
    let seed = |observer: &mut dyn Observer| {
        let mut rng = taper_hooks::rng(1);
        let mut pass = Pass::train(observer, &mut rng);
        mention(&mut pass).unwrap();
        pass.seed().unwrap()
    };
    assert_eq!(seed(&mut Recorder::new()), seed(&mut ()));
}

#[test]
fn the_time_that_observing_took_adds_up() {
    let mut slow = observer_fn(|_: &Seen<'_>| {
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    });
    let mut pass = Pass::eval(&mut slow);
    assert_eq!(pass.observing(), Duration::ZERO);
    mention(&mut pass).unwrap();
    let once = pass.observing();
    mention(&mut pass).unwrap();
    assert!(once >= Duration::from_millis(2) && pass.observing() >= once + Duration::from_millis(2));
}

#[test]
fn observing_changes_no_value() {
    let xs: Tensor = random(1, &[4, 5]);
    let before = xs.to_vec2::<f32>().unwrap();
    let mut recorder = Recorder::new();
    Pass::eval(&mut recorder).see(&Site::new("fc1", Activation::Relu), Activation::Relu, &xs, &xs).unwrap();
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
        let (site, ys) = (Site::new("fc1", f), activate(&xs, f).unwrap());
        Pass::eval(&mut told).see_with(&site, f, &compute, &ys).unwrap();
        assert_eq!(asked.get(), usize::from(!f.slope_shows_in_value()), "{f}");
        Pass::eval(&mut told_all).see(&site, f, &xs, &ys).unwrap();
        assert_eq!(told.finish(), told_all.finish());
    }
}

#[test]
fn pre_activations_that_are_computed_must_have_the_shape_of_the_others() {
    let (xs, ys) = (random(1, &[3, 4]), random(1, &[3, 5]));
    let mut observer = observer_fn(|seen: &Seen<'_>| seen.xs().map(|_| ()));
    let site = Site::new("fc1", Activation::Relu);
    let error =
        Pass::eval(&mut observer).see_with(&site, Activation::Relu, &|| Ok(xs.clone()), &ys).unwrap_err();
    assert!(error.to_string().contains("site 'fc1'"), "{error}");
}

#[test]
fn a_clone_of_a_site_is_the_same_place_and_a_namesake_is_not() {
    let site = Site::new("fc1", Activation::Relu);
    assert!(site.is_same_place(&site.clone()));
    assert!(!site.is_same_place(&Site::new("fc1", Activation::Relu)));
}
