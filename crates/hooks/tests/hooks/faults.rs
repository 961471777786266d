//! NaN, infinities, and models that mention nonsense: each has a defined answer.

use taper_hooks::{Activation, FirstFault, Observer, Parts, Pass, Recorder, Site};
use taper_kernels::activate;

use crate::{random, refusal, see, stats, tensor};

#[test]
fn nan_and_infinities_are_counted_and_left_out_of_everything_else() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let xs = tensor(vec![nan, 1.0, inf, -2.0, 3.0, 4.0, nan, -6.0], &[2, 4]);
    let got = stats(Activation::Relu, &xs);
    assert_eq!((got.values, got.nan, got.infinite, got.zeros, got.positives), (8, 2, 1, 2, 3));
    assert_eq!((got.mean, got.max), (Some(8.0 / 5.0), Some(4.0)));
    assert_eq!(got.histogram.unwrap().total(), 5);
    // Unit 2 has no finite observation: it is neither dead nor silent nor always on. Unit 3 is dead.
    assert_eq!((got.dead_units.as_slice(), got.always_on, got.dormant_0), (&[3][..], 2, Some(1)));
}

#[test]
fn nan_is_never_shown_as_sparsity() {
    for shape in [&[5, 6][..], &[2, 3, 5]] {
        let got = stats(Activation::Relu, &tensor(vec![f32::NAN; 30], shape));
        assert_eq!((got.nan, got.zeros, got.zero_fraction, got.near_zeros), (30, 0, 0.0, 0));
        assert_eq!((got.dead, got.rare, got.dormant_0_1, got.flat_low), (Some(0), Some(0), Some(0), None));
        assert_eq!((got.samples_all_zero, got.active_per_sample), (None, None));
        assert_eq!((got.mean, got.min, got.histogram, got.lifetime_sparseness), (None, None, None, None));
        assert_eq!((got.firing_rate.never, got.firing_rate.always), (0, 0));
    }
}

#[test]
fn a_sample_of_nan_is_not_one_of_zeros() {
    let got = stats(Activation::Relu, &tensor(vec![f32::NAN, f32::NAN, 1.0, 2.0, -1.0, -1.0], &[3, 2]));
    assert_eq!((got.samples, got.samples_all_zero), (3, Some(1)));
    let active = got.active_per_sample.unwrap();
    assert_eq!((active.mean, active.min, active.max), (1.0, 0, 2));
}

#[test]
fn two_sites_of_one_name_are_an_error_that_names_it() {
    let xs = random(1, &[2, 3]);
    let mut recorder = Recorder::new();
    see(&mut recorder, &Site::new("fc1", Activation::Relu), &xs);
    let error = refusal(&mut recorder, &Site::new("fc1", Activation::Relu), &xs, &xs);
    assert!(error.contains("two sites are called 'fc1'"), "{error}");
    // A new window may be about a new model.
    recorder.finish();
    see(&mut recorder, &Site::new("fc1", Activation::Relu), &xs);
}

#[test]
fn a_changing_number_of_units_is_an_error_within_a_window() {
    let (site, mut recorder) = (Site::new("fc1", Activation::Relu), Recorder::new());
    see(&mut recorder, &site, &random(1, &[2, 3]));
    let xs = random(1, &[2, 4]);
    let error = refusal(&mut recorder, &site, &xs, &xs);
    assert!(error.contains("site 'fc1': expected 3 units as before, found 4"), "{error}");
    // Between windows it may change, and then there is nothing to compare with.
    recorder.finish();
    see(&mut recorder, &site, &xs);
    assert_eq!(recorder.finish()[0].died, None);
}

#[test]
fn a_shape_without_units_is_an_error() {
    for shape in [&[][..], &[4]] {
        let xs = random(1, shape);
        let error = refusal(&mut Recorder::new(), &Site::new("fc1", Activation::Relu), &xs, &xs);
        assert!(error.contains("site 'fc1'") && error.contains("(N, units, ..)"), "{error}");
    }
}

#[test]
fn pre_and_post_activations_of_two_shapes_are_an_error() {
    let (xs, ys) = (random(1, &[2, 3, 4]), random(1, &[2, 12]));
    let error = refusal(&mut Recorder::new(), &Site::new("fc1", Activation::Relu), &xs, &ys);
    assert!(error.contains("found [2, 3, 4] and [2, 12]"), "{error}");
}

#[test]
fn training_and_evaluation_are_never_mixed_in_one_window() {
    let (site, mut recorder, mut rng) =
        (Site::new("fc1", Activation::Relu), Recorder::new(), taper_hooks::rng(1));
    let xs = random(1, &[2, 3]);
    Pass::train(&mut recorder, &mut rng).see(&site, Activation::Relu, &xs, &xs).unwrap();
    let error = refusal(&mut recorder, &site, &xs, &xs);
    assert!(error.contains("site 'fc1': training and evaluation in one window"), "{error}");
    recorder.finish();
    see(&mut recorder, &site, &xs);
}

#[test]
fn recorders_that_do_not_fit_are_not_merged_by_half() {
    let (mut own, mut other) = (Recorder::new(), Recorder::new());
    let conv = Site::new("conv1", Activation::Relu);
    see(&mut own, &conv, &random(1, &[2, 3]));
    see(&mut own, &Site::new("fc1", Activation::Relu), &random(1, &[2, 5]));
    see(&mut other, &conv, &random(1, &[2, 3]));
    see(&mut other, &Site::new("fc1", Activation::Relu), &random(1, &[2, 4]));
    let error = own.merge(&other).unwrap_err().to_string();
    assert!(error.contains("site 'fc1': expected 5 units as before, found 4"), "{error}");
    assert_eq!(own.finish()[0].samples, 2);
    let error = Recorder::new().merge(&Recorder::of(Parts::COUNTS)).unwrap_err().to_string();
    assert!(error.contains("different parts"), "{error}");
}

#[test]
fn the_first_site_with_a_fault_is_found() {
    let (mut fault, relu) = (FirstFault::default(), Activation::Relu);
    let sites = ["conv1", "conv2", "fc1"].map(|name| Site::new(name, relu));
    let inputs =
        [random(1, &[2, 3]), tensor(vec![1.0, f32::NEG_INFINITY], &[1, 2]), tensor(vec![f32::NAN], &[1, 1])];
    let mut pass = Pass::eval(&mut fault);
    for (site, xs) in sites.iter().zip(&inputs) {
        // At conv2 the fault is in front of the function only: behind it the infinity is a zero.
        pass.see(site, relu, xs, &activate(xs, relu).unwrap()).unwrap();
    }
    assert_eq!(fault.site(), Some("conv2"));
    assert_eq!(FirstFault::default().site(), None);
}

#[test]
fn a_fault_is_found_behind_a_pair_and_an_option() {
    let mut both = (Some(FirstFault::default()), None::<Recorder>);
    let site = Site::new("fc1", Activation::Tanh);
    let observer: &mut dyn Observer = &mut both;
    let xs = tensor(vec![f32::NAN], &[1, 1]);
    Pass::eval(observer).see(&site, Activation::Tanh, &xs, &xs).unwrap();
    assert_eq!(both.0.unwrap().site(), Some("fc1"));
}
