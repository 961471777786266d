use taper_frozen::{Scaling, Sequential};

use crate::{Numbers, network};

const STANDARD: Scaling = Scaling { mean: 0.1307, std: 0.3081 };

/// Random images, and images of black and white pixels only.
fn images(n: usize, values: usize) -> Vec<f32> {
    let mut numbers = Numbers::new(11);
    let grey = numbers.some(n * values, 0.3).into_iter().map(f32::abs);
    let mut other = Numbers::new(12);
    grey.chain((0..n * values).map(|_| f32::from(other.unit() < 0.5))).collect()
}

/// What is observed lies within the bounds; returns the widest bound relative to what is observed.
#[track_caller]
fn hold(network: &Sequential, xs: &[f32]) -> f64 {
    let (bounds, seen) = (network.bounds().unwrap(), network.observe(xs).unwrap());
    assert_eq!(bounds.len(), network.hidden().len());
    let mut widest = 0.0_f64;
    for (bounds, seen) in bounds.iter().zip(&seen) {
        assert_eq!(
            (&bounds.layer, bounds.units, bounds.ranges.len()),
            (&seen.layer, seen.units, seen.ranges.len())
        );
        for (i, (bound, seen)) in bounds.ranges.iter().zip(&seen.ranges).enumerate() {
            let layer = &bounds.layer;
            assert!(
                bound.low <= seen.low && seen.high <= bound.high,
                "{layer}: value {i}: {seen:?} outside of {bound:?}"
            );
            assert!(!bound.is_fixed || seen.is_fixed, "{layer}: value {i}: {seen:?} is not fixed");
            widest = widest.max((bound.high - bound.low) / (seen.high - seen.low));
        }
    }
    widest
}

#[test]
fn no_image_leaves_the_bounds_of_any_layer() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a [usize])], (usize, usize, usize));
    let cases: [Case<'_>; 8] = [
        (
            "linear, relu, linear, relu6, linear",
            &[("0", &[20, 16]), ("2", &[9, 20]), ("4", &[3, 9])],
            (1, 4, 4),
        ),
        (
            "linear, batch_norm, prelu, linear, batch_norm, hardtanh, linear",
            &[("0", &[20, 16]), ("1", &[20]), ("2", &[1]), ("3", &[9, 20]), ("4", &[9]), ("6", &[3, 9])],
            (1, 4, 4),
        ),
        (
            "conv 3 pad 1, relu, max_pool 2, conv 2 pad 1 stride 2, leaky_relu:-0.5, avg_pool 2, linear",
            &[("0", &[5, 2, 3, 3]), ("3", &[4, 5, 2, 2]), ("6", &[3, 4])],
            (2, 6, 6),
        ),
        (
            "conv 3, batch_norm, relu2, flatten, batch_norm, linear, relu, linear",
            &[("0", &[5, 1, 3, 3]), ("1", &[5]), ("4", &[80]), ("5", &[6, 80]), ("7", &[3, 6])],
            (1, 6, 6),
        ),
        (
            "batch_norm, conv 3 pad 2, selu, global_avg_pool, batch_norm, linear, gelu, linear",
            &[("0", &[2]), ("1", &[5, 2, 3, 3]), ("4", &[5]), ("5", &[6, 5]), ("7", &[3, 6])],
            (2, 4, 4),
        ),
        (
            "linear, tanh, linear, silu, linear, softplus, linear, mish, linear",
            &[("0", &[8, 16]), ("2", &[8, 8]), ("4", &[8, 8]), ("6", &[8, 8]), ("8", &[3, 8])],
            (1, 4, 4),
        ),
        (
            "linear, elu:2, linear, hardswish, linear, hardsigmoid, linear, softsign, linear",
            &[("0", &[8, 16]), ("2", &[8, 8]), ("4", &[8, 8]), ("6", &[8, 8]), ("8", &[3, 8])],
            (1, 4, 4),
        ),
        (
            "linear, celu:0.5, linear, sigmoid, linear, gelu_tanh, linear, linear",
            &[("0", &[8, 16]), ("2", &[8, 8]), ("4", &[8, 8]), ("6", &[8, 8]), ("7", &[3, 8])],
            (1, 4, 4),
        ),
    ];
    for (text, shapes, input) in cases {
        println!("{text}");
        for scaling in [Scaling::default(), STANDARD] {
            let (_, network) = network(text, shapes, input, scaling);
            hold(&network, &images(200, input.0 * input.1 * input.2));
        }
    }
}

#[test]
fn the_bounds_of_a_first_layer_are_reached() {
    let (_, network) = network("linear, linear", &[("0", &[5, 16]), ("1", &[3, 5])], (1, 4, 4), STANDARD);
    let weight = &network.parts[0].values.as_ref().unwrap().weight;
    let highest = weight.iter().map(|w| f32::from(*w > 0.0));
    let lowest = weight.iter().map(|w| f32::from(*w < 0.0));
    let images: Vec<f32> = highest.chain(lowest).collect();
    assert!(hold(&network, &images) < 1.0 + 1e-4);
}

/// A unit with these weights in front of ReLU.
fn unit(weight: &[f32], bias: f32) -> Sequential {
    let inputs = weight.len();
    let shapes: [(&str, &[usize]); 2] = [("0", &[1, inputs]), ("2", &[1, 1])];
    let (_, mut network) = network("linear, relu, linear", &shapes, (inputs, 1, 1), Scaling::default());
    let values = network.parts[0].values.as_mut().unwrap();
    (values.weight, values.bias) = (weight.to_vec(), Some(vec![bias]));
    network
}

#[test]
fn a_unit_is_proven_dead_only_where_no_rounding_can_wake_it() {
    let is_dead = |weight: &[f32], bias| unit(weight, bias).bounds().unwrap()[0].dead()[0];
    assert!(is_dead(&[0.25, 0.5, -1.0], -0.76));
    assert!(!is_dead(&[0.25, 0.5, -1.0], -0.74));
    // Never above 0, but closer to it than the rounding of three products and sums.
    assert!(!is_dead(&[0.25, 0.5, -1.0], -0.75));
    assert!(!is_dead(&[0.333_333_3; 3], -1.0));
    // Nothing is rounded without weights.
    assert!(is_dead(&[0.0; 3], 0.0));
}

#[test]
fn a_unit_whose_weights_sum_to_zero_is_not_dead() {
    let network = unit(&[1.0, -1.0], 0.0);
    assert_eq!(network.bounds().unwrap()[0].dead(), [false]);
    assert_eq!(network.observe(&[1.0, 0.0]).unwrap()[0].dead(), [false]);
    assert_eq!(network.observe(&[0.5, 0.5, 0.0, 1.0]).unwrap()[0].dead(), [true]);
}

#[test]
fn a_sum_that_can_overflow_is_unbounded() {
    let mut network = unit(&[3e38, 3e38], -1.0);
    let range = network.bounds().unwrap()[0].ranges[0];
    assert_eq!((range.low, range.high, range.is_fixed), (0.0, f64::INFINITY, false));
    network.parts[0].values.as_mut().unwrap().bias = Some(vec![-3.4e38]);
    assert!(!network.bounds().unwrap()[0].dead()[0]);
}
