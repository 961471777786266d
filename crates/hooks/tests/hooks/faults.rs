//! NaN, infinities, and models that mention nonsense: each has a defined answer.

use candle_core::{Device, Tensor};
use taper_hooks::{Activation, Error, FirstFault, Observer, Parts, Pass, Recorder, Site, Units};
use taper_kernels::activate;

use crate::{random, refusal, see, show, stats, tensor};

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
fn a_sample_of_nan_is_not_a_sample_of_zeros() {
    let got = stats(Activation::Relu, &tensor(vec![f32::NAN, f32::NAN, 1.0, 2.0, -1.0, -1.0], &[3, 2]));
    assert_eq!((got.samples, got.samples_all_zero), (3, Some(1)));
    let active = got.active_per_sample.unwrap();
    assert_eq!((active.mean, active.min, active.max), (1.0, 0, 2));
}

#[test]
fn two_sites_of_one_name_in_one_pass_are_an_error_that_names_it() {
    let xs = random(1, &[2, 3]);
    for observer in [&mut Recorder::new() as &mut dyn Observer, &mut ()] {
        let mut pass = Pass::eval(observer);
        show(&mut pass, &Site::new("fc1"), &xs).unwrap();
        let error = show(&mut pass, &Site::new("fc1"), &xs).unwrap_err();
        assert_eq!(Error::of(&error), Some(&Error::SiteTwice("fc1".to_string())));
        assert!(error.to_string().contains("two sites are called 'fc1'"), "{error}");
    }
}

#[test]
fn a_shape_without_units_is_an_error() {
    for shape in [&[][..], &[4]] {
        let xs = random(1, shape);
        let error = refusal(&Site::behind("fc1", Activation::Relu), &xs, &xs);
        assert!(error.contains("site 'fc1'") && error.contains("(N, units, ..)"), "{error}");
    }
}

#[test]
fn pre_and_post_activations_of_two_shapes_are_an_error() {
    let (xs, ys) = (random(1, &[2, 3, 4]), random(1, &[2, 12]));
    let error = refusal(&Site::behind("fc1", Activation::Relu), &xs, &ys);
    assert!(error.contains("found [2, 3, 4] and [2, 12]"), "{error}");
}

#[test]
fn three_axes_without_a_unit_axis_are_an_error_with_the_cure() {
    let (relu, tap) = (Site::behind("fc1", Activation::Relu), Site::new("logits"));
    let xs = random(1, &[2, 3, 4]);
    let error = refusal(&relu, &xs, &xs);
    assert!(error.contains("site 'fc1'") && error.contains("units(Units::Last) for (N, T, F)"), "{error}");
    let error = Pass::eval(&mut ()).tap(&tap, &xs).unwrap_err();
    assert!(matches!(Error::of(&error), Some(Error::UnitsUnknown { .. })), "{error}");
    for axis in [Units::Last, Units::Second] {
        Pass::eval(&mut ()).see(&relu.clone().units(axis), &xs, &xs).unwrap();
        Pass::eval(&mut ()).tap(&tap.clone().units(axis), &xs).unwrap();
        // A layer may say it in place of the site.
        let all = || Ok(xs.clone());
        Pass::eval(&mut ()).see_with(&relu, Some(Activation::Relu), Some(axis), &all, &xs).unwrap();
    }
}

#[test]
fn recorders_that_do_not_fit_are_not_merged_by_half() {
    let (mut own, mut other) = (Recorder::new(), Recorder::new());
    let conv = Site::behind("conv1", Activation::Relu);
    see(&mut own, &conv, &random(1, &[2, 3]));
    see(&mut own, &Site::behind("fc1", Activation::Relu), &random(1, &[2, 5]));
    see(&mut other, &conv, &random(1, &[2, 3]));
    see(&mut other, &Site::behind("fc1", Activation::Relu), &random(1, &[2, 4]));
    let error = own.merge(&other).unwrap_err().to_string();
    assert!(error.contains("site 'fc1': expected 5 units as before, found 4"), "{error}");
    assert_eq!(own.finish()[0].samples, 2);
    let error = Recorder::new().merge(&Recorder::of(Parts::COUNTS)).unwrap_err().to_string();
    assert!(error.contains("different parts"), "{error}");
}

#[test]
fn the_first_site_with_a_fault_is_found() {
    let (mut fault, relu) = (FirstFault::default(), Activation::Relu);
    let sites = ["conv1", "conv2", "fc1"].map(|name| Site::behind(name, relu));
    let inputs =
        [random(1, &[2, 3]), tensor(vec![1.0, f32::NEG_INFINITY], &[1, 2]), tensor(vec![f32::NAN], &[1, 1])];
    let mut pass = Pass::eval(&mut fault);
    for (site, xs) in sites.iter().zip(&inputs) {
        // At conv2 the fault is only before the function: after it the infinity is a zero.
        pass.see(site, xs, &activate(xs, relu).unwrap()).unwrap();
    }
    assert_eq!((fault.site(), fault.sample()), (Some(("conv2", 1)), None));
    assert_eq!((FirstFault::default().site(), FirstFault::default().sample()), (None, None));
}

#[test]
fn a_fault_is_found_through_a_pair_and_an_option() {
    let mut both = (Some(FirstFault::default()), None::<Recorder>);
    let site = Site::behind("fc1", Activation::Tanh);
    let observer: &mut dyn Observer = &mut both;
    let xs = tensor(vec![f32::NAN], &[1, 1]);
    Pass::eval(observer).see(&site, &xs, &xs).unwrap();
    assert_eq!(both.0.unwrap().site(), Some(("fc1", 0)));
}

#[test]
fn a_fault_in_the_input_is_the_datas_and_no_site_is_named() {
    let mut both = (FirstFault::default(), ());
    let mut pass = Pass::eval(&mut both);
    let mut values = vec![1.0; 3 * 2 * 4];
    values[2 * 8 + 5] = f32::NAN;
    let xs = tensor(values, &[3, 2, 4]);
    pass.input(&xs).unwrap();
    show(&mut pass, &Site::new("tap").units(Units::Last), &xs).unwrap();
    assert_eq!((both.0.sample(), both.0.site()), (Some(2), None));
    // Tokens, which are integers, have none.
    let (mut fault, tokens) = (FirstFault::default(), Tensor::new(&[[7_u32, 8]], &Device::Cpu).unwrap());
    Pass::eval(&mut fault).input(&tokens).unwrap();
    assert_eq!(fault.sample(), None);
}

#[test]
fn the_unit_of_a_fault_is_counted_along_the_unit_axis() {
    for (axis, unit) in [(Units::Last, 3), (Units::Second, 1)] {
        let mut values = vec![1.0; 2 * 2 * 4];
        values[8 + 4 + 3] = f32::INFINITY; // (1, 1, 3)
        let mut fault = FirstFault::default();
        show(&mut Pass::eval(&mut fault), &Site::new("tap").units(axis), &tensor(values, &[2, 2, 4]))
            .unwrap();
        assert_eq!(fault.site(), Some(("tap", unit)));
    }
}
