//! Inputs at the edge: nothing, one value, equal values, values that are no numbers, and inputs without gradient.

use candle_core::{DType, Device, Tensor};
use taper_kernels::{
    Activation, Conv2dGeometry, activate, avg_pool2d, conv2d, cross_entropy, dropout, linear, max_pool2d,
    twin,
};

use crate::{bits, flat, gradients, random, var};

#[test]
fn no_gradient_is_computed_for_an_input_that_needs_none() {
    let (xs, weight, bias) = (random(1, &[3, 4]), var(&random(2, &[2, 4])), var(&random(3, &[2])));
    for bias in [None, Some(&*bias)] {
        let grads = linear(&xs, &weight, bias).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&xs).is_none() && grads.get(&weight).is_some());
    }
    let (xs, weight) = (random(1, &[3, 2, 5, 5]), var(&random(2, &[2, 2, 3, 3])));
    for bias in [None, Some(&*bias)] {
        let ys = conv2d(&xs, &weight, bias, Conv2dGeometry::default()).unwrap();
        let grads = ys.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&xs).is_none() && grads.get(&weight).is_some());
    }
}

#[test]
fn no_gradient_is_computed_for_a_weight_that_is_a_constant() {
    let (xs, weight) = (var(&random(1, &[3, 4])), random(2, &[2, 4]));
    let grads = linear(&xs, &weight, None).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&weight).is_none() && grads.get(&xs).is_some());
    let (xs, weight) = (var(&random(1, &[3, 2, 5, 5])), random(2, &[2, 2, 3, 3]));
    let ys = conv2d(&xs, &weight, None, Conv2dGeometry::default()).unwrap();
    let grads = ys.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&weight).is_none() && grads.get(&xs).is_some());
}

#[test]
fn an_input_with_and_without_gradient_gives_the_same_weight_gradient() {
    let (weight, bias) = (var(&random(2, &[3, 2, 3, 3])), var(&random(3, &[3])));
    let xs = random(1, &[37, 2, 6, 7]);
    let run = |xs: &Tensor| {
        let ys = conv2d(xs, &weight, Some(&bias), Conv2dGeometry { stride: 2, padding: 1 }).unwrap();
        gradients(&ys, &random(4, ys.dims()), &[&weight, &bias]).iter().map(bits).collect::<Vec<_>>()
    };
    assert_eq!(run(&xs), run(&var(&xs)));
}

#[test]
fn an_empty_batch_gives_empty_results_and_zero_gradients() {
    let none = |shape: &[usize]| var(&Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
    let xs = none(&[0, 4]);
    let (weight, bias) = (var(&random(2, &[3, 4])), var(&random(3, &[3])));
    let ys = linear(&xs, &weight, Some(&bias)).unwrap();
    assert_eq!(ys.dims(), [0, 3]);
    let grads = gradients(&ys, &ys.ones_like().unwrap(), &[&xs, &weight, &bias]);
    assert_eq!(grads[0].dims(), [0, 4]);
    assert!(flat(&grads[1]).iter().chain(&flat(&grads[2])).all(|g| *g == 0.0));

    let xs = none(&[0, 2, 6, 5]);
    let weight = var(&random(2, &[3, 2, 3, 3]));
    for tracked in [xs.as_tensor().clone(), xs.detach()] {
        let ys = conv2d(&tracked, &weight, Some(&bias), Conv2dGeometry::default()).unwrap();
        assert_eq!(ys.dims(), [0, 3, 4, 3]);
        let grads = gradients(&ys, &ys.ones_like().unwrap(), &[&weight, &bias]);
        assert!(flat(&grads[0]).iter().chain(&flat(&grads[1])).all(|g| *g == 0.0));
    }

    for ys in [max_pool2d(&xs, (2, 2), (2, 2)).unwrap(), avg_pool2d(&xs, (2, 2), (2, 2)).unwrap()] {
        assert_eq!(ys.dims(), [0, 2, 3, 2]);
        assert_eq!(gradients(&ys, &ys.ones_like().unwrap(), &[&xs])[0].dims(), [0, 2, 6, 5]);
    }
    for f in Activation::ALL {
        assert_eq!(activate(&xs, f).unwrap().dims(), [0, 2, 6, 5]);
    }
    assert_eq!(dropout(&xs, 0.5, 1).unwrap().dims(), [0, 2, 6, 5]);
}

#[test]
fn layers_without_inputs_or_outputs_are_sums_of_nothing() {
    let zeros = |shape: &[usize]| var(&Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
    let (bias, grad_ys) = (var(&random(1, &[3])), random(2, &[2, 3]));
    let ys = linear(&zeros(&[2, 0]), &zeros(&[3, 0]), Some(&bias)).unwrap();
    assert_eq!(bits(&ys), [bits(&bias), bits(&bias)].concat());
    let grad_bias = &gradients(&ys, &grad_ys, &[&bias])[0];
    assert_eq!(flat(grad_bias), flat(&grad_ys.sum(0).unwrap()));
    assert_eq!(flat(&linear(&zeros(&[2, 0]), &zeros(&[3, 0]), None).unwrap()), [0.0; 6]);

    let xs = var(&random(3, &[2, 4]));
    let ys = linear(&xs, &zeros(&[0, 4]), Some(&zeros(&[0]))).unwrap();
    assert_eq!(ys.dims(), [2, 0]);
    assert_eq!(flat(&gradients(&ys, &ys.ones_like().unwrap(), &[&xs])[0]), [0.0; 8]);

    let images = zeros(&[2, 0, 4, 4]);
    let ys = conv2d(&images, &zeros(&[3, 0, 3, 3]), Some(&bias), Conv2dGeometry::default()).unwrap();
    assert_eq!(ys.dims(), [2, 3, 2, 2]);
    assert_eq!(flat(&gradients(&ys, &ys.ones_like().unwrap(), &[&bias])[0]), [8.0; 3]);
}

#[test]
fn ties_go_to_the_first_maximum() {
    let xs = var(
        &Tensor::new(&[[[[1.0_f32, 2.0, 5.0], [2.0, 2.0, 5.0], [0.0, 0.0, 5.0]]]], &Device::Cpu).unwrap()
    );
    for pool in [max_pool2d, twin::max_pool2d] {
        let ys = pool(&xs, (2, 2), (1, 1)).unwrap();
        assert_eq!(flat(&ys), [2.0, 5.0, 2.0, 5.0]);
        let grad_ys = Tensor::new(&[[[[1.0_f32, 10.0], [100.0, 1000.0]]]], &Device::Cpu).unwrap();
        let grads = gradients(&ys, &grad_ys, &[&xs]);
        assert_eq!(flat(&grads[0]), [0.0, 1.0, 10.0, 100.0, 0.0, 1000.0, 0.0, 0.0, 0.0]);
    }
}

#[test]
fn nan_wins_every_maximum_and_spoils_only_its_windows() {
    for at in 0..4 {
        let mut values = [1.0_f32, 7.0, 3.0, f32::NEG_INFINITY, 1.0, 2.0, 3.0, 4.0];
        values[at] = f32::NAN;
        // Two planes of 2×2.
        let xs = Tensor::new(&values, &Device::Cpu).unwrap().reshape((1, 2, 2, 2)).unwrap();
        for pool in [max_pool2d, twin::max_pool2d] {
            let ys = flat(&pool(&xs, (2, 2), (2, 2)).unwrap());
            assert!(ys[0].is_nan() && ys[1] == 4.0, "{ys:?}");
        }
    }
    let lowest = Tensor::full(f32::NEG_INFINITY, (1, 1, 2, 2), &Device::Cpu).unwrap();
    assert_eq!(flat(&max_pool2d(&lowest, (2, 2), (2, 2)).unwrap()), [f64::NEG_INFINITY]);
}

#[test]
fn nan_reaches_the_loss_through_linear_conv2d_and_cross_entropy() {
    let nan = |shape: &[usize]| {
        let n: usize = shape.iter().product();
        Tensor::new([vec![f32::NAN], vec![0.0; n - 1]].concat(), &Device::Cpu)
            .unwrap()
            .reshape(shape)
            .unwrap()
    };
    // A zero weight does not hide a NaN: 0 · NaN is NaN.
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let ys = flat(&linear(&nan(&[2, 3]), &zeros(&[2, 3]), None).unwrap());
    assert!(ys[0].is_nan() && ys[1].is_nan() && ys[2] == 0.0);
    let ys = conv2d(&nan(&[1, 1, 3, 3]), &zeros(&[1, 1, 2, 2]), None, Conv2dGeometry::default()).unwrap();
    assert_eq!(flat(&ys).iter().map(|y| y.is_nan()).collect::<Vec<_>>(), [true, false, false, false]);
    let targets = Tensor::new(&[1_u32, 1], &Device::Cpu).unwrap();
    for loss in [cross_entropy, twin::cross_entropy] {
        assert!(flat(&loss(&nan(&[2, 3]), &targets).unwrap())[0].is_nan());
    }
}

#[test]
fn cross_entropy_of_huge_logits_is_finite() {
    let logits = var(&Tensor::new(&[[1e30_f32, -1e30, 0.0], [-1e4, 1e4, 0.0]], &Device::Cpu).unwrap());
    let targets = Tensor::new(&[0_u32, 2], &Device::Cpu).unwrap();
    for loss in [cross_entropy, twin::cross_entropy] {
        let loss = loss(&logits, &targets).unwrap();
        assert_eq!(flat(&loss), [5000.0]);
        let grads = flat(loss.backward().unwrap().get(&logits).unwrap());
        assert_eq!(grads, [0.0, 0.0, 0.0, 0.0, 0.5, -0.5]);
    }
}
