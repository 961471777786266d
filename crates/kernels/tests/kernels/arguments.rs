//! Bad arguments: each is an error of one line that says what was expected and found, and none is a panic.

use candle_core::{DType, Device, Result, Tensor};
use taper_kernels::{
    Conv2dGeometry, Mask, add, attention, avg_pool2d, conv2d, cross_entropy, embedding, grouped_linear,
    layer_norm, linear, max_pool2d, prelu, rms_norm, self_attention, softmax,
};

use crate::{message, random};

/// The error of `f` for f32, which the kernel gives, and for f64, which the twin might.
#[track_caller]
fn error(f: impl Fn(DType) -> Result<Tensor>) -> String {
    let texts = [DType::F32, DType::F64].map(|dtype| message(f(dtype).expect_err("bad arguments")));
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0].lines().count(), 1, "{}", texts[0]);
    texts[0].clone()
}

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
}

#[test]
fn conv2d_names_the_argument_that_does_not_fit() {
    let run = |xs: [usize; 4], weight: [usize; 4], bias: Option<&'static [usize]>, stride, padding| {
        error(move |d| {
            let bias = bias.map(|b| zeros(b, d));
            conv2d(&zeros(&xs, d), &zeros(&weight, d), bias.as_ref(), Conv2dGeometry { stride, padding })
        })
    };
    assert_eq!(
        run([2, 3, 4, 5], [6, 3, 5, 3], None, 1, 0),
        "conv2d: a kernel of 5×3 with stride 1 does not fit an input of 4×5 (padding included)"
    );
    assert!(run([2, 3, 4, 5], [6, 3, 3, 8], None, 1, 1).contains("6×7 (padding included)"));
    assert!(run([2, 3, 9, 9], [6, 3, 3, 3], None, 0, 0).contains("stride 0"));
    assert!(run([2, 3, 9, 9], [6, 3, 0, 3], None, 1, 0).contains("kernel of 0×3"));
    assert_eq!(run([2, 3, 9, 9], [6, 4, 3, 3], None, 1, 0), "conv2d: expected inputs of 4 channels, found 3");
    // Sizes whose product no integer holds, and places that 32 bits do not hold.
    for padding in [usize::MAX, usize::MAX / 4, (1 << 31) - 1, 1 << 15] {
        assert_eq!(
            run([1, 1, 2, 2], [1, 1, 1, 1], None, 1, padding),
            format!("conv2d: expected maps of fewer than 2^32 pixels, found 2×2 with a padding of {padding}")
        );
    }
    let bias = "conv2d: expected a bias of 6 values, found shape ";
    assert_eq!(run([2, 3, 9, 9], [6, 3, 3, 3], Some(&[5]), 1, 0), format!("{bias}[5]"));
    assert_eq!(run([2, 3, 9, 9], [6, 3, 3, 3], Some(&[1]), 1, 0), format!("{bias}[1]"));
    let flat = |d| conv2d(&zeros(&[3, 9, 9], d), &zeros(&[6, 3, 3, 3], d), None, Conv2dGeometry::default());
    assert!(!error(flat).is_empty());
}

#[test]
fn linear_names_the_argument_that_does_not_fit() {
    let run = |xs: &'static [usize], weight: &'static [usize], bias: Option<&'static [usize]>| {
        error(move |d| {
            let bias = bias.map(|b| zeros(b, d));
            linear(&zeros(xs, d), &zeros(weight, d), bias.as_ref())
        })
    };
    assert_eq!(run(&[2, 3], &[5, 4], None), "linear: expected inputs of 4 features, found shape [2, 3]");
    assert_eq!(run(&[], &[5, 4], None), "linear: expected inputs of 4 features, found shape []");
    assert_eq!(run(&[2, 4], &[5, 4], Some(&[4])), "linear: expected a bias of 5 values, found shape [4]");
    assert_eq!(run(&[2, 4], &[5, 4], Some(&[1])), "linear: expected a bias of 5 values, found shape [1]");
    assert!(!run(&[2, 4], &[5, 4, 1], None).is_empty());
}

#[test]
fn pooling_names_the_argument_that_does_not_fit() {
    for pool in [max_pool2d, avg_pool2d] {
        let run = |xs: &'static [usize], kernel, stride| error(move |d| pool(&zeros(xs, d), kernel, stride));
        assert_eq!(
            run(&[1, 1, 4, 5], (5, 2), (2, 2)),
            "pooling: a window of 5×2 with stride 2×2 does not fit an input of 4×5"
        );
        assert!(run(&[1, 1, 4, 5], (2, 2), (0, 2)).contains("stride 0×2"));
        assert!(run(&[1, 1, 4, 5], (0, 2), (1, 1)).contains("window of 0×2"));
        assert!(run(&[1, 1, 0, 0], (1, 1), (1, 1)).contains("input of 0×0"));
        assert_eq!(
            run(&[0, 1, 1 << 16, 1 << 16], (2, 2), (2, 2)),
            "pooling: expected maps of fewer than 2^32 pixels, found 65536×65536"
        );
        assert!(!run(&[4, 5], (2, 2), (2, 2)).is_empty());
    }
}

#[test]
fn cross_entropy_names_the_argument_that_does_not_fit() {
    let run = |logits: [usize; 2], targets: Vec<u32>| {
        error(move |d| {
            cross_entropy(&zeros(&logits, d), &Tensor::new(targets.clone(), &Device::Cpu).unwrap())
        })
    };
    assert_eq!(run([3, 4], vec![0, 4, 1]), "cross_entropy: expected targets below 4, found 4");
    assert_eq!(
        run([3, 4], vec![0, u32::MAX, 1]),
        "cross_entropy: expected targets below 4, found 4294967295"
    );
    assert!(run([3, 4], vec![0, 1]).contains("expected 3 targets of type u32, found U32 of shape [2]"));
    assert!(run([0, 4], vec![]).contains("at least one sample and class, found 0×4"));
    assert!(run([2, 0], vec![0, 0]).contains("at least one sample and class, found 2×0"));
    let other = error(|d| cross_entropy(&zeros(&[3, 4], d), &zeros(&[3], DType::I64)));
    assert!(other.contains("type u32, found I64"), "{other}");
}

#[test]
fn prelu_wants_one_slope() {
    for slopes in [&[0_usize][..], &[3], &[1, 2]] {
        let text = error(|d| prelu(&zeros(&[2, 3], d), &zeros(slopes, d)));
        assert_eq!(text, format!("prelu: expected a slope of one value, found shape {slopes:?}"));
    }
    assert!(prelu(&random(1, &[2, 3]), &random(1, &[])).is_ok());
}

#[test]
fn layers_of_transformers_name_the_argument_that_does_not_fit() {
    let one = |shape: &'static [usize], f: fn(&Tensor) -> Result<Tensor>| error(move |d| f(&zeros(shape, d)));
    assert_eq!(
        one(&[2, 3], |xs| add(xs, &xs.t()?)),
        "add: expected a second tensor of shape [2, 3] or its last axes, found [3, 2]"
    );
    assert_eq!(
        one(&[2, 3], |xs| layer_norm(xs, &xs.get(0)?, &xs.flatten_all()?, 1e-5)),
        "layer_norm: expected a bias of 3 values, as the last axis of the inputs, found shape [6]"
    );
    assert!(one(&[2, 3], |xs| rms_norm(xs, xs, 1e-5)).starts_with("rms_norm: expected a weight of 3 values"));
    assert!(one(&[], |xs| rms_norm(xs, xs, 1e-5)).contains("found a scalar"));
    assert!(!one(&[2, 3], |xs| softmax(xs, 2)).is_empty());
    assert_eq!(
        one(&[2, 4, 10], |xs| self_attention(xs, 2, Mask::None)),
        "self_attention: expected (B, T, 3·F) with F a multiple of 2 heads, none empty, found [2, 4, 10]"
    );
    assert!(one(&[2, 4, 6], |xs| self_attention(xs, 0, Mask::None)).contains("0 heads"));
    assert!(one(&[2, 0, 6], |xs| self_attention(xs, 2, Mask::None)).contains("none empty"));
    let fewer = |xs: &Tensor| attention(xs, &xs.narrow(3, 0, 1)?, xs, Mask::None);
    assert!(one(&[1, 2, 3, 4], fewer).contains("found [1, 2, 3, 4], [1, 2, 3, 1] and [1, 2, 3, 4]"));
    let no_keys = |xs: &Tensor| attention(xs, &xs.narrow(2, 0, 0)?, &xs.narrow(2, 0, 0)?, Mask::None);
    assert!(one(&[1, 2, 3, 4], no_keys).contains("none empty"));
    let ids = |ids: &[u32]| Tensor::new(ids, &Device::Cpu);
    let look = |ids: Tensor| error(move |d| embedding(&ids, &zeros(&[5, 3], d)));
    assert_eq!(look(ids(&[4, 5]).unwrap()), "embedding: expected ids below 5, found 5");
    assert_eq!(look(zeros(&[2], DType::I64)), "embedding: expected ids of type u32, found I64");
}

#[test]
fn grouped_linear_names_the_argument_that_does_not_fit() {
    let run = |xs: [usize; 3], weight: [usize; 3], bias: [usize; 2]| {
        error(|d| grouped_linear(&zeros(&xs, d), &zeros(&weight, d), Some(&zeros(&bias, d))))
    };
    let text = run([2, 3, 4], [3, 5, 6], [3, 5]);
    assert_eq!(text, "grouped_linear: expected 3 groups of 6 features, found shape [2, 3, 4]");
    let text = run([2, 3, 4], [3, 5, 4], [5, 3]);
    assert_eq!(text, "grouped_linear: expected a bias of shape [3, 5], found shape [5, 3]");
}

#[test]
fn mixed_dtypes_are_errors() {
    let (single, double) = (zeros(&[2, 2], DType::F32), zeros(&[2, 2], DType::F64));
    assert!(linear(&single, &double, None).is_err());
    assert!(prelu(&single, &zeros(&[1], DType::F64)).is_err());
}

#[test]
fn activation_parameters_must_survive_f32() {
    use taper_kernels::Activation;
    for text in ["celu:1e-60", "elu:1e-60", "leaky_relu:1e60", "celu:inf", "celu:0"] {
        assert!(text.parse::<Activation>().is_err(), "{text}");
    }
}
