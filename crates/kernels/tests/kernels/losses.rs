//! Losses at the ends of their domains, and the arguments they refuse.

use candle_core::{DType, Device, Result, Tensor};
use taper_kernels::{binary_cross_entropy, count_correct, cross_entropy, mse, soft_cross_entropy, twin};

use crate::{assert_close, flat, message, random, var};

type Binary = fn(&Tensor, &Tensor, f64) -> Result<Tensor>;
type Loss = fn(&Tensor, &Tensor) -> Result<Tensor>;

fn tensor(values: &[f32], dtype: DType) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

#[test]
fn binary_cross_entropy_of_huge_logits_is_finite_and_its_gradients_right() {
    // Wrong by 1e4 each, right by 1e4 each, and undecided.
    let (xs, ts) = ([1e4_f32, -1e4, 1e4, -1e4, 0.0], [0.0_f32, 1.0, 1.0, 0.0, 1.0]);
    for weight in [1.0, 3.0] {
        let want = (1e4 + weight * 1e4 + weight * 2_f64.ln()) / 5.0;
        let want_grad = [1.0, -weight, 0.0, 0.0, -weight / 2.0].map(|g| g / 5.0);
        for (f, dtype) in [
            (binary_cross_entropy as Binary, DType::F32),
            (twin::binary_cross_entropy, DType::F32),
            (binary_cross_entropy, DType::F64),
        ] {
            let xs = var(&tensor(&xs, dtype));
            let loss = f(&xs, &tensor(&ts, dtype), weight).unwrap();
            assert!((flat(&loss)[0] / want - 1.0).abs() < 1e-6, "{loss}, expected {want}");
            let grad = flat(loss.backward().unwrap().get(&xs).unwrap());
            assert!(grad.iter().zip(want_grad).all(|(g, w)| (g - w).abs() < 1e-7), "{grad:?}, {want_grad:?}");
        }
    }
}

#[test]
fn a_prediction_is_correct_if_the_target_is_the_first_largest_value_of_a_row_without_nan() {
    let nan = f32::NAN;
    for (row, target, correct) in [
        ([1.0, 3.0, 3.0], 1_u32, true),
        ([1.0, 3.0, 3.0], 2, false),
        ([1.0, 2.0, 3.0], 1, false),
        ([nan, 1.0, 2.0], 2, false),
        ([2.0, nan, 1.0], 0, false),
        ([1.0, 2.0, 3.0], 7, false),
    ] {
        for dtype in [DType::F32, DType::F64] {
            let logits = tensor(&row, dtype).reshape((1, 3)).unwrap();
            let targets = Tensor::new(&[target], &Device::Cpu).unwrap();
            let count = count_correct(&logits, &targets).unwrap().to_scalar::<f32>().unwrap();
            assert_eq!(count, f32::from(correct), "{row:?}, {target}, {dtype:?}");
        }
    }
}

#[test]
fn soft_targets_of_one_class_are_cross_entropy() {
    let logits = (random(1, &[7, 5]) * 10.0).unwrap();
    let classes: Vec<u32> = (0..7).map(|i| i * 3 % 5).collect();
    let one_hot: Vec<f32> =
        classes.iter().flat_map(|c| (0..5).map(move |k| f32::from(u8::from(k == *c)))).collect();
    let one_hot = Tensor::from_vec(one_hot, (7, 5), &Device::Cpu).unwrap();
    let classes = Tensor::new(classes, &Device::Cpu).unwrap();
    let run = |loss: &dyn Fn(&Tensor) -> Result<Tensor>| {
        let logits = var(&logits);
        let loss = loss(&logits).unwrap();
        (loss.clone(), loss.backward().unwrap().get(&logits).unwrap().clone())
    };
    let (soft, hard) = (run(&|xs| soft_cross_entropy(xs, &one_hot)), run(&|xs| cross_entropy(xs, &classes)));
    assert_close("loss", &soft.0, &hard.0, 1e-6, 1e-6);
    assert_close("gradient", &soft.1, &hard.1, 1e-6, 1e-7);
}

#[test]
fn soft_cross_entropy_of_huge_logits_is_finite() {
    let xs = var(&Tensor::new(&[[1e4_f32, -1e4], [0.0, 0.0]], &Device::Cpu).unwrap());
    let targets = Tensor::new(&[[0.25_f32, 0.75], [1.0, 0.0]], &Device::Cpu).unwrap();
    for loss in [soft_cross_entropy as Loss, twin::soft_cross_entropy] {
        let loss = loss(&xs, &targets).unwrap();
        assert!((flat(&loss)[0] - (15000.0 + 2_f64.ln()) / 2.0).abs() < 1e-3, "{loss}");
        let grad = flat(loss.backward().unwrap().get(&xs).unwrap());
        assert_eq!(grad, [0.375, -0.375, -0.25, 0.25]);
    }
}

#[test]
fn targets_that_do_not_fit_are_errors_and_nan_is_a_nan_loss() {
    let losses: [(&str, Loss); 3] = [
        ("mse", mse),
        ("binary_cross_entropy", |xs, ts| binary_cross_entropy(xs, ts, 1.0)),
        ("soft_cross_entropy", soft_cross_entropy),
    ];
    for (name, loss) in losses {
        for dtype in [DType::F32, DType::F64] {
            let zeros = |shape: [usize; 2]| Tensor::zeros(&shape, dtype, &Device::Cpu).unwrap();
            let error = message(loss(&zeros([2, 3]), &zeros([3, 2])).unwrap_err());
            assert_eq!(
                error,
                format!("{name}: expected targets of shape [2, 3] as the outputs have, found [3, 2]")
            );
            let error = message(loss(&zeros([0, 3]), &zeros([0, 3])).unwrap_err());
            assert_eq!(error, format!("{name}: expected at least one value, found shape [0, 3]"));
            let nan = (zeros([2, 3]) + f64::NAN).unwrap();
            assert!(flat(&loss(&nan, &zeros([2, 3])).unwrap())[0].is_nan(), "{name}");
        }
    }
}
