//! Products that skip zeros, beside their twins.

use candle_core::{Device, Tensor};
use taper_kernels::inference::{Active, ConvRows, LinearRows, Windows, apply, scale_shift};
use taper_kernels::{Activation, Conv2dGeometry, twin};

use crate::{assert_close_in_scale, random};

fn values(xs: &Tensor) -> Vec<f32> {
    xs.flatten_all().unwrap().to_vec1().unwrap()
}

/// Some values, below 0 all the same one: 0.
fn rectified(seed: u64, shape: &[usize]) -> Tensor {
    random(seed, shape).relu().unwrap()
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

#[test]
fn a_linear_layer_has_the_values_of_its_twin() {
    for (n, i, o) in [(1, 3, 1), (1, 65, 17), (5, 130, 33), (9, 40, 64)] {
        let (xs, weight, bias) = (rectified(1, &[n, i]), random(2, &[o, i]), random(3, &[o]));
        let expected = twin::linear(&xs, &weight, Some(&bias)).unwrap();
        let layer = LinearRows::new(&values(&weight), &values(&bias)).unwrap();
        let mut ys = vec![f32::NAN; n * layer.padded()];
        layer.dense(&values(&xs), &mut ys).unwrap();
        assert_close_in_scale("dense", &tensor(&ys[..n * o], &[n, o]), &expected, 1e-6);
        let mut active = Active::with_capacity(n, n * i);
        active.push(&values(&xs), i);
        let mut zs = vec![f32::NAN; n * layer.padded()];
        layer.sparse(&active, &mut zs).unwrap();
        assert_eq!(ys[..n * o], zs[..n * o]);
    }
}

#[test]
fn a_convolution_has_the_values_of_its_twin() {
    let odd = Conv2dGeometry { stride: 2, padding: 3 };
    for (c, o, kernel, geometry) in
        [(1, 5, (3, 3), Conv2dGeometry::default()), (3, 70, (5, 2), odd), (20, 33, (1, 7), odd)]
    {
        let (h, w) = (8, 9);
        let (xs, bias) = (rectified(1, &[1, c, h, w]), random(3, &[o]));
        let weight = random(2, &[o, c, kernel.0, kernel.1]);
        let expected = twin::conv2d(&xs, &weight, Some(&bias), geometry).unwrap();
        let layer = ConvRows::new(&values(&weight), &values(&bias), kernel, geometry, 0.0).unwrap();
        let xs = values(&xs.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap());
        let (oh, ow) = layer.size((h, w)).unwrap();
        for skip in [false, true] {
            let mut ys = vec![f32::NAN; oh * ow * layer.padded()];
            let (_, done) = layer.run(&xs, (h, w), skip, &mut Active::default(), &mut ys).unwrap();
            let ys = tensor(&ys[..oh * ow * o], &[1, oh, ow, o]).permute((0, 3, 1, 2)).unwrap();
            assert_close_in_scale("convolution", &ys, &expected, 1e-6);
            assert_eq!(done == layer.multiplications((h, w)), !skip);
        }
    }
}

#[test]
fn pooling_and_elementwise_steps_have_the_values_of_their_twins() {
    let xs = random(1, &[1, 5, 7, 8]);
    let by_pixel = values(&xs.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap());
    let windows = Windows { image: (7, 8, 5), side: (3, 2), stride: 2 };
    let (h, w) = windows.size();
    let mut ys = vec![0.0; h * w * 5];
    let by_plane = |ys: &[f32]| tensor(ys, &[1, h, w, 5]).permute((0, 3, 1, 2)).unwrap();
    windows.max(&by_pixel, &mut ys).unwrap();
    assert_close_in_scale("max", &by_plane(&ys), &twin::max_pool2d(&xs, (3, 2), (2, 2)).unwrap(), 0.0);
    windows.mean(&by_pixel, &mut ys).unwrap();
    assert_close_in_scale("mean", &by_plane(&ys), &twin::avg_pool2d(&xs, (3, 2), (2, 2)).unwrap(), 1e-6);

    let mut zs = vec![1.0, -2.0, 3.0, f32::NAN];
    scale_shift(&mut zs, &[2.0, 0.5], &[1.0, 0.0]);
    assert_eq!(zs[..3], [3.0, -1.0, 7.0]);
    apply(Activation::Relu, &mut zs);
    assert_eq!(zs[..3], [3.0, 0.0, 7.0]);
    assert!(zs[3].is_nan());
    let mut most = [0.0];
    Windows { image: (1, 2, 1), side: (1, 2), stride: 1 }.max(&[f32::NAN, 1.0], &mut most).unwrap();
    assert!(most[0].is_nan());
}

#[test]
fn active_inputs_are_listed_in_order_and_nan_is_active() {
    for n in [1, 15, 16, 17, 40] {
        let row: Vec<f32> = (0..n).map(|i| [0.0, -0.0, 1.5, f32::NAN][i * 7 % 4]).collect();
        let mut active = Active::default();
        active.push(&row, n);
        active.push_all(&row, n);
        let expected: Vec<u32> = (0..n).filter(|i| row[*i] != 0.0).map(|i| i as u32).collect();
        let (at, found) = active.row(0);
        assert_eq!(at, expected);
        assert!(at.iter().zip(found).all(|(at, x)| x.to_bits() == row[*at as usize].to_bits()));
        assert_eq!(active.row(1).0.len(), n);
        assert_eq!((active.row(2).0.len(), active.rows(), active.width()), (0, 2, n));
    }
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let message = |error: taper_kernels::Error| error.to_string();
    let layer = LinearRows::new(&[1.0, 2.0], &[0.5]).unwrap();
    let error = layer.dense(&[1.0; 4], &mut [0.0]).unwrap_err();
    assert!(message(error).starts_with("linear layer: expected samples of 2 inputs and room for"));
    assert!(layer.dense(&[1.0; 3], &mut [0.0; 64]).is_err());
    let mut active = Active::default();
    active.push(&[1.0, 0.0, 2.0], 3);
    assert!(layer.sparse(&active, &mut [0.0; 64]).is_err());
    assert!(LinearRows::new(&[], &[]).is_err() && LinearRows::new(&[1.0], &[1.0, 2.0]).is_err());
    assert_eq!(
        message(LinearRows::new(&[f32::NAN], &[0.0]).err().unwrap()),
        "weight: expected finite values, found NaN"
    );
    let default = Conv2dGeometry::default();
    assert!(ConvRows::new(&[1.0; 4], &[0.0], (0, 3), default, 0.0).is_err());
    assert!(ConvRows::new(&[1.0; 4], &[0.0], (2, 2), Conv2dGeometry { stride: 0, padding: 0 }, 0.0).is_err());
    let layer = ConvRows::new(&[1.0; 4], &[0.0], (2, 2), default, 0.0).unwrap();
    assert_eq!((layer.size((1, 5)), layer.multiplications((1, 5))), (None, 0));
    let pixels = &mut Active::default();
    assert!(layer.run(&[0.0; 9], (3, 3), true, pixels, &mut [0.0]).is_err());
    assert!(layer.run(&[0.0; 8], (3, 3), true, pixels, &mut [0.0; 99]).is_err());
    let windows = Windows { image: (2, 2, 1), side: (3, 3), stride: 1 };
    assert_eq!(windows.size(), (0, 0));
    assert!(windows.max(&[0.0; 4], &mut []).is_err());
}
