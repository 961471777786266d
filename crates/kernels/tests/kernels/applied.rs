//! An activation that a layer applies while it writes has the bits of one after the layer.

use candle_core::{DType, Result, Tensor, Var};
use proptest::prelude::*;
use taper_kernels::{
    Activation, Conv2dGeometry, activate, conv2d, conv2d_act, linear, linear_act, max_pool2d, record,
};

use crate::{bits, cases, gradients, random, var};

/// Value and gradients of both, by candle's graph and along the tape.
#[track_caller]
fn agree(
    args: &[Tensor],
    applied: impl Fn(&[Tensor]) -> Result<Tensor>,
    behind: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let run = |f: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
        let vars: Vec<Var> = args.iter().map(var).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let ys = f(&tensors).unwrap();
        let grad_ys = random(99, ys.dims());
        let mut all = gradients(&ys, &grad_ys, &vars.iter().collect::<Vec<_>>());
        let (loss, tape) = record(|| (f(&tensors).unwrap() * &grad_ys).unwrap().sum_all().unwrap());
        let taped = tape.backward(&loss).unwrap();
        all.extend(
            vars.iter().map(|v| taped.get(v).expect("a gradient for every variable").values().unwrap()),
        );
        all.push(ys);
        all.iter().map(bits).collect::<Vec<_>>()
    };
    assert_eq!(run(&applied), run(&behind));
}

fn functions() -> impl Strategy<Value = Activation> {
    prop::sample::select(Activation::ALL.to_vec())
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn a_linear_layer_applies_its_activation_to_the_bit(
        // From small ones to those that are cut into tiles, more samples than outputs and fewer.
        n in 1..150_usize, i in 1..200_usize, o in 1..300_usize,
        // Of inputs that are 0: with many only the others are multiplied, or columns that vary.
        zeros in prop_oneof![Just(0.0), 0.6..1.0_f64], columns: bool, bias: bool, f in functions(), seed: u64,
    ) {
        let xs = random(seed, &[n, i]);
        let mask = random(seed ^ 3, &[if columns { 1 } else { n }, i]);
        let mask = mask.ge(4.0 * zeros - 2.0).unwrap().to_dtype(DType::F32).unwrap();
        let xs = xs.broadcast_mul(&mask).unwrap();
        let mut args = vec![xs, random(seed ^ 1, &[o, i])];
        if bias {
            args.push(random(seed ^ 2, &[o]));
        }
        agree(
            &args,
            |a| linear_act(&a[0], &a[1], a.get(2), f),
            |a| activate(&linear(&a[0], &a[1], a.get(2))?, f),
        );
    }

    #[test]
    fn a_convolution_applies_its_activation_to_the_bit_with_and_without_pooling_behind_it(
        (n, c, o) in (1..20_usize, prop_oneof![1..5_usize, 16..20_usize], 1..40_usize), k in 1..4_usize, more in 1..9_usize,
        padding in 0..2_usize, bias: bool, pool: bool, overlapping: bool, f in functions(), seed: u64,
    ) {
        let geometry = Conv2dGeometry { stride: 1, padding };
        let mut args = vec![random(seed, &[n, c, k + more, k + more]), random(seed ^ 1, &[o, c, k, k])];
        if bias {
            args.push(random(seed ^ 2, &[o]));
        }
        let stride = if overlapping { 1 } else { 2 };
        let pooled = |ys: Tensor| if pool { max_pool2d(&ys, (2, 2), (stride, stride)) } else { Ok(ys) };
        agree(
            &args,
            |a| pooled(conv2d_act(&a[0], &a[1], a.get(2), geometry, f)?),
            |a| pooled(activate(&conv2d(&a[0], &a[1], a.get(2), geometry)?, f)?),
        );
    }
}

#[test]
fn applied_activations_are_those_behind_the_layer_in_f64_too() {
    let wide = |seed, shape: &[usize]| random(seed, shape).to_dtype(DType::F64).unwrap();
    let values = |ys: Tensor| ys.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (xs, weight, bias) = (wide(1, &[2, 3]), wide(2, &[4, 3]), wide(3, &[4]));
    let (images, kernels) = (wide(4, &[2, 3, 5, 5]), wide(5, &[4, 3, 2, 2]));
    let geometry = Conv2dGeometry::default();
    for f in Activation::ALL {
        let behind = activate(&linear(&xs, &weight, Some(&bias)).unwrap(), f).unwrap();
        assert_eq!(values(linear_act(&xs, &weight, Some(&bias), f).unwrap()), values(behind), "{f}");
        let behind = activate(&conv2d(&images, &kernels, Some(&bias), geometry).unwrap(), f).unwrap();
        assert_eq!(
            values(conv2d_act(&images, &kernels, Some(&bias), geometry, f).unwrap()),
            values(behind),
            "{f}"
        );
    }
}

#[test]
fn applied_activations_hand_nan_on() {
    let (xs, weight) =
        (random(1, &[3, 4]), Tensor::full(f32::NAN, (2, 4), &candle_core::Device::Cpu).unwrap());
    for f in Activation::ALL {
        let ys = linear_act(&xs, &weight, None, f).unwrap();
        assert!(ys.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|y| y.is_nan()), "{f}");
    }
}
