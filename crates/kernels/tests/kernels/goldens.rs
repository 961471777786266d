//! Values and gradients that PyTorch computed: `../goldens`, made by `../goldens/make_goldens.py`. Each file is
//! checked for the kernel, for its twin, and for the twin in f64.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use taper_kernels::{
    Activation, Conv2dGeometry, Mask, Moments, activate, attention, avg_pool2d, batch_norm, batch_norm_with,
    binary_cross_entropy, conv2d, cross_entropy, embedding, layer_norm, linear, log_softmax, max_pool2d, mse,
    prelu, rms_norm, self_attention, soft_cross_entropy, softmax, twin,
};

use crate::{assert_close, gradients, largest, var};

pub fn load(name: &str) -> HashMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    let file = candle_core::safetensors::load(&path, &Device::Cpu);
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs `f` on the named arguments of a file in `dtype`; compares its result and all gradients with the file's.
///
/// Gradients are sums, so "near zero" is measured against the largest of them: where the largest is 43, PyTorch's own
/// rounding (against the same sums in f64) reaches 1.5e-5, and our kernel's 0.6e-5.
#[track_caller]
fn check(name: &str, arguments: &[&str], dtype: DType, f: impl Fn(&[Var]) -> candle_core::Result<Tensor>) {
    let golden = load(name);
    let args: Vec<Var> = arguments.iter().map(|a| var(&golden[*a].to_dtype(dtype).unwrap())).collect();
    let ys = f(&args).unwrap();
    assert_eq!(ys.dtype(), dtype);
    assert_close(&format!("{name}: ys"), &ys, &golden["ys"], 1e-5, 1e-6);
    let grad_ys = golden["grad_ys"].to_dtype(dtype).unwrap();
    let grads = gradients(&ys, &grad_ys, &args.iter().collect::<Vec<_>>());
    for (grad, argument) in grads.iter().zip(arguments) {
        let want = &golden[&format!("grad_{argument}")];
        let near_zero = 1e-6 * largest(want).max(1.0);
        assert_close(&format!("{name}: gradient of {argument}"), grad, want, 1e-5, near_zero);
    }
}

#[test]
fn linear_is_that_of_pytorch() {
    let arguments = ["xs", "weight", "bias"];
    let kernel = |v: &[Var]| linear(&v[0], &v[1], Some(&v[2]));
    let twin = |v: &[Var]| twin::linear(&v[0], &v[1], Some(&v[2]));
    check("linear.safetensors", &arguments, DType::F32, kernel);
    check("linear.safetensors", &arguments, DType::F32, twin);
    check("linear.safetensors", &arguments, DType::F64, kernel);
}

#[test]
fn conv2d_is_that_of_pytorch() {
    for (name, stride, padding) in [
        ("conv2d_b1_i2_o6_s6_k1_stride1_pad0.safetensors", 1, 0),
        ("conv2d_b2_i1_o4_s9_k3_stride1_pad0.safetensors", 1, 0),
        ("conv2d_b3_i4_o8_s7_k3_stride1_pad1.safetensors", 1, 1),
        ("conv2d_b2_i3_o5_s10_k5_stride2_pad2.safetensors", 2, 2),
    ] {
        let arguments = ["xs", "weight", "bias"];
        let geometry = Conv2dGeometry { stride, padding };
        let kernel = |v: &[Var]| conv2d(&v[0], &v[1], Some(&v[2]), geometry);
        let twin = |v: &[Var]| twin::conv2d(&v[0], &v[1], Some(&v[2]), geometry);
        check(name, &arguments, DType::F32, kernel);
        check(name, &arguments, DType::F32, twin);
        check(name, &arguments, DType::F64, kernel);
    }
}

#[test]
fn max_pool2d_is_that_of_pytorch_with_and_without_ties() {
    for (sizes, k) in [("b2_c3_h4_w6", 2), ("b1_c2_h13_w13", 2), ("b2_c2_h9_w7", 3)] {
        for kind in ["max_pool2d", "max_pool2d_ties"] {
            let name = format!("{kind}_{sizes}_k{k}.safetensors");
            let kernel = |v: &[Var]| max_pool2d(&v[0], (k, k), (k, k));
            let twin = |v: &[Var]| twin::max_pool2d(&v[0], (k, k), (k, k));
            check(&name, &["xs"], DType::F32, kernel);
            check(&name, &["xs"], DType::F32, twin);
            check(&name, &["xs"], DType::F64, kernel);
        }
    }
}

#[test]
fn avg_pool2d_is_that_of_pytorch() {
    for (sizes, k) in [("b2_c3_h4_w6", 2), ("b1_c2_h13_w13", 2), ("b2_c2_h9_w7", 3)] {
        let name = format!("avg_pool2d_{sizes}_k{k}.safetensors");
        let kernel = |v: &[Var]| avg_pool2d(&v[0], (k, k), (k, k));
        let twin = |v: &[Var]| twin::avg_pool2d(&v[0], (k, k), (k, k));
        check(&name, &["xs"], DType::F32, kernel);
        check(&name, &["xs"], DType::F32, twin);
        check(&name, &["xs"], DType::F64, kernel);
    }
}

#[test]
fn normalisation_over_the_last_axis_is_that_of_pytorch() {
    let layer = |v: &[Var]| layer_norm(&v[0], &v[1], &v[2], 1e-5);
    let layer_twin = |v: &[Var]| twin::layer_norm(&v[0], &v[1], &v[2], 1e-5);
    let rms = |v: &[Var]| rms_norm(&v[0], &v[1], 1e-6);
    let rms_twin = |v: &[Var]| twin::rms_norm(&v[0], &v[1], 1e-6);
    for dtype in [DType::F32, DType::F64] {
        check("layer_norm.safetensors", &["xs", "weight", "bias"], dtype, layer);
        check("rms_norm.safetensors", &["xs", "weight"], dtype, rms);
    }
    check("layer_norm.safetensors", &["xs", "weight", "bias"], DType::F32, layer_twin);
    check("rms_norm.safetensors", &["xs", "weight"], DType::F32, rms_twin);
}

#[test]
fn softmax_and_its_logarithm_over_any_axis_are_those_of_pytorch() {
    for axis in [1, 2] {
        let (plain, log) =
            (format!("softmax_axis{axis}.safetensors"), format!("log_softmax_axis{axis}.safetensors"));
        for dtype in [DType::F32, DType::F64] {
            check(&plain, &["xs"], dtype, |v| softmax(&v[0], axis));
            check(&log, &["xs"], dtype, |v| log_softmax(&v[0], axis));
        }
        check(&plain, &["xs"], DType::F32, |v| twin::softmax(&v[0], axis));
        check(&log, &["xs"], DType::F32, |v| twin::log_softmax(&v[0], axis));
    }
}

#[test]
fn batch_norm_is_that_of_pytorch_in_training_and_evaluation() {
    let (arguments, eps, none) = (["xs", "weight", "bias"], 1e-5, Activation::Identity);
    for kind in ["2d", "1d", "1d_time"] {
        let name = format!("batch_norm_{kind}_train.safetensors");
        let kernel = |v: &[Var]| Ok(batch_norm(&v[0], &v[1], &v[2], eps, none)?.0);
        check(&name, &arguments, DType::F32, kernel);
        check(&name, &arguments, DType::F64, kernel);
        check(&name, &arguments, DType::F32, |v| Ok(twin::batch_norm(&v[0], &v[1], &v[2], eps)?.0));

        let name = format!("batch_norm_{kind}_eval.safetensors");
        let golden = load(&name);
        let moments = Moments { mean: golden["mean"].clone(), variance: golden["var"].clone() };
        let kernel = |v: &[Var]| batch_norm_with(&v[0], &moments, &v[1], &v[2], eps, none);
        check(&name, &arguments, DType::F32, kernel);
        check(&name, &arguments, DType::F64, kernel);
        check(&name, &arguments, DType::F32, |v| twin::batch_norm_with(&v[0], &moments, &v[1], &v[2], eps));
    }
}

#[test]
fn embedding_is_that_of_pytorch() {
    let name = "embedding.safetensors";
    let ids = load(name)["ids"].to_dtype(DType::U32).unwrap();
    check(name, &["weight"], DType::F32, |v| embedding(&ids, &v[0]));
    check(name, &["weight"], DType::F32, |v| twin::embedding(&ids, &v[0]));
    check(name, &["weight"], DType::F64, |v| embedding(&ids, &v[0]));
}

#[test]
fn attention_is_scaled_dot_product_attention_of_pytorch() {
    for (name, mask) in [("attention", Mask::None), ("attention_causal", Mask::Causal)] {
        let (name, arguments) = (format!("{name}.safetensors"), ["q", "k", "v"]);
        check(&name, &arguments, DType::F32, |v| attention(&v[0], &v[1], &v[2], mask));
        check(&name, &arguments, DType::F32, |v| twin::attention(&v[0], &v[1], &v[2], mask));
        check(&name, &arguments, DType::F64, |v| attention(&v[0], &v[1], &v[2], mask));
    }
    let name = "self_attention_causal.safetensors";
    check(name, &["qkv"], DType::F32, |v| self_attention(&v[0], 3, Mask::Causal));
    check(name, &["qkv"], DType::F32, |v| twin::self_attention(&v[0], 3, Mask::Causal));
}

#[test]
fn cross_entropy_is_that_of_pytorch() {
    let golden = load("cross_entropy.safetensors");
    let targets = golden["targets"].to_dtype(DType::U32).unwrap();
    for (f, dtype) in [
        (cross_entropy as fn(&Tensor, &Tensor) -> _, DType::F32),
        (twin::cross_entropy, DType::F32),
        (cross_entropy, DType::F64),
    ] {
        let logits = var(&golden["logits"].to_dtype(dtype).unwrap());
        let loss = f(&logits, &targets).unwrap();
        assert_close("loss", &loss, &golden["loss"], 1e-5, 1e-6);
        let grads = loss.backward().unwrap();
        assert_close("gradient", grads.get(&logits).unwrap(), &golden["grad_logits"], 1e-5, 1e-6);
    }
}

type Loss<'a> = &'a dyn Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>;

/// Checks a loss and its gradient against the file's.
#[track_caller]
fn check_loss(name: &str, kernel: Loss<'_>, twin: Loss<'_>) {
    let golden = load(&format!("{name}.safetensors"));
    for (f, dtype) in [(kernel, DType::F32), (twin, DType::F32), (kernel, DType::F64)] {
        let logits = var(&golden["logits"].to_dtype(dtype).unwrap());
        let loss = f(&logits, &golden["targets"].to_dtype(dtype).unwrap()).unwrap();
        assert_eq!(loss.dtype(), dtype);
        assert_close(name, &loss, &golden["loss"], 1e-5, 1e-6);
        let grads = loss.backward().unwrap();
        let gradient = format!("{name}: gradient");
        assert_close(&gradient, grads.get(&logits).unwrap(), &golden["grad_logits"], 1e-5, 1e-6);
    }
}

#[test]
fn mse_is_that_of_pytorch() {
    check_loss("mse", &mse, &twin::mse);
}

#[test]
fn binary_cross_entropy_is_that_of_pytorch_with_logits_and_a_positive_weight() {
    for name in ["hard", "soft", "weighted"].map(|name| format!("binary_cross_entropy_{name}")) {
        let file = load(&format!("{name}.safetensors"));
        let weight = f64::from(flat_f32(&file["positive_weight"])[0]);
        assert!(largest(&file["logits"]) == 1e4 && (weight == 3.5) == name.ends_with("weighted"));
        check_loss(&name, &|xs, targets| binary_cross_entropy(xs, targets, weight), &|xs, targets| {
            twin::binary_cross_entropy(xs, targets, weight)
        });
    }
}

#[test]
fn soft_targets_express_pytorchs_label_smoothing_and_class_weights() {
    for kind in ["", "_smoothed", "_weighted", "_weighted_smoothed"] {
        check_loss(&format!("soft_cross_entropy{kind}"), &soft_cross_entropy, &twin::soft_cross_entropy);
    }
}

/// PyTorch's name of an activation in the file, and ours.
const ACTIVATIONS: [(&str, &str); 22] = [
    ("identity", "identity"),
    ("relu", "relu"),
    ("leaky_relu_0.01", "leaky_relu:0.01"),
    ("elu_1", "elu:1"),
    ("elu_0.5", "elu:0.5"),
    ("celu_1", "celu:1"),
    ("celu_0.5", "celu:0.5"),
    ("celu_2", "celu:2"),
    ("selu", "selu"),
    ("tanh", "tanh"),
    ("sigmoid", "sigmoid"),
    ("softplus", "softplus"),
    ("softsign", "softsign"),
    ("gelu_erf", "gelu"),
    ("gelu_tanh", "gelu_tanh"),
    ("silu", "silu"),
    ("mish", "mish"),
    ("hardswish", "hardswish"),
    ("hardtanh", "hardtanh"),
    ("hardsigmoid", "hardsigmoid"),
    ("relu6", "relu6"),
    ("relu2", "relu2"),
];

#[test]
fn activations_and_their_derivatives_are_those_of_pytorch() {
    let golden = load("activations.safetensors");
    let grid = &golden["xs"];
    let points = flat_f32(grid);
    assert!([0.0, 88.8, -88.8, 120.0, -120.0, 1e4, -1e4].iter().all(|x| points.contains(x)));
    assert_eq!(golden.len(), 1 + 2 * ACTIVATIONS.len(), "a function in the file is not tested");
    let mut faults = Vec::new();
    for (theirs, ours) in ACTIVATIONS {
        let f: Activation = ours.parse().unwrap();
        let (want, want_grad) = (&golden[&format!("{theirs}.ys")], &golden[&format!("{theirs}.grad")]);
        let scalar = |g: &dyn Fn(f32) -> f32| {
            Tensor::from_vec(points.iter().map(|x| g(*x)).collect::<Vec<_>>(), points.len(), &Device::Cpu)
        };
        let mut results =
            vec![("scalar", scalar(&|x| f.value(x)).unwrap(), scalar(&|x| f.derivative(x)).unwrap())];
        for (what, dtype, op) in [
            ("kernel", DType::F32, activate as fn(&Tensor, Activation) -> _),
            ("twin", DType::F32, twin::activate),
            ("twin in f64", DType::F64, activate),
        ] {
            let xs = var(&grid.to_dtype(dtype).unwrap());
            let ys = op(&xs, f).unwrap();
            let grad = gradients(&ys, &ys.ones_like().unwrap(), &[&xs]).remove(0);
            results.push((what, ys, grad));
        }
        for (what, ys, grad) in results {
            for (part, got, want) in [("value", &ys, want), ("derivative", &grad, want_grad)] {
                let (got, want) = (flat_f32(got), flat_f32(want));
                for ((x, got), want) in points.iter().zip(got).zip(want) {
                    let near = (got - want).abs() as f64 <= (1e-5 * want.abs() as f64).max(1e-6);
                    if !near {
                        faults.push(format!("{what} {ours} {part} at {x}: expected {want}, found {got}"));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn flat_f32(xs: &Tensor) -> Vec<f32> {
    xs.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

#[test]
fn prelu_is_leaky_relu_with_a_gradient_for_its_slope() {
    // By hand: the slope's gradient is the sum of x · grad_y over x <= 0.
    let xs = [-2.0_f32, -0.5, 0.0, 1.5, -4.0, 88.8, -1e4];
    let grad_ys = [1.0_f32, -2.0, 5.0, 7.0, 0.25, 1.0, 1e-3];
    let want_slope = -2.0 + 1.0 - 1.0 - 10.0;
    for (f, dtype) in
        [(prelu as fn(&Tensor, &Tensor) -> _, DType::F32), (twin::prelu, DType::F32), (prelu, DType::F64)]
    {
        let make = |v: &[f32]| Tensor::new(v, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let (xs, slope, grad_ys) = (var(&make(&xs)), var(&make(&[0.01])), make(&grad_ys));
        let ys = f(&xs, &slope).unwrap();
        let leaky = activate(&xs, Activation::LeakyRelu { slope: 0.01 }).unwrap();
        assert_close("ys", &ys, &leaky, 1e-6, 0.0);
        let got = gradients(&ys, &grad_ys, &[&xs, &slope]);
        let want = gradients(&leaky, &grad_ys, &[&xs]);
        assert_close("gradient of xs", &got[0], &want[0], 1e-6, 0.0);
        assert_close("gradient of the slope", &got[1], &make(&[want_slope]), 1e-6, 0.0);
    }
}
