//! The number of threads changes no bit of any result.

use candle_core::{Device, Tensor};
use taper_kernels::{
    Activation, Conv2dGeometry, Mask, Rule, Slots, activate, add, alpha_dropout, avg_pool2d, batch_norm,
    binary_cross_entropy, conv2d, cross_entropy, dropout, embedding, grouped_linear, layer_norm, linear,
    max_pool2d, mean_of_steps, mse, prelu, self_attention, soft_cross_entropy, softmax,
};

use crate::{bits, gradients, random, var};

/// Bits of the result and of all gradients.
fn run(args: &[Tensor], f: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>) -> Vec<Vec<u32>> {
    let vars: Vec<_> = args.iter().map(var).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let ys = f(&tensors).unwrap();
    let mut results = gradients(&ys, &random(77, ys.dims()), &vars.iter().collect::<Vec<_>>());
    results.push(ys);
    results.iter().map(bits).collect()
}

#[track_caller]
fn the_same_with_any_number_of_threads(what: &str, f: impl Fn() -> Vec<Vec<u32>> + Sync) {
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(&f)
    };
    let one = with(1);
    for threads in [2, 3, 8] {
        let many = with(threads);
        for (i, (one, many)) in one.iter().zip(&many).enumerate() {
            let different = one.iter().zip(many).filter(|(a, b)| a != b).count();
            let worst = one.iter().zip(many).map(|(a, b)| (f32::from_bits(*a) - f32::from_bits(*b)).abs());
            let worst = worst.fold(0.0, f32::max);
            assert_eq!(
                different,
                0,
                "{what}, result {i}, {threads} threads: of {}, worst {worst}",
                one.len()
            );
        }
    }
}

#[test]
fn batch_norm_gives_the_same_bits() {
    for shape in [&[128, 8, 28, 28][..], &[300, 512], &[1, 3, 300, 300]] {
        let channels = [shape[1]];
        let args = [random(1, shape), random(2, &channels), random(3, &channels)];
        the_same_with_any_number_of_threads(&format!("{shape:?}"), || {
            run(&args, |a| Ok(batch_norm(&a[0], &a[1], &a[2], 1e-5, Activation::Relu)?.0))
        });
    }
}

#[test]
fn linear_gives_the_same_bits() {
    for (n, i, o) in [(128, 784, 512), (128, 512, 10), (1000, 1000, 1000), (37, 1001, 129), (3, 9216, 128)] {
        let args = [random(1, &[n, i]), random(2, &[o, i]), random(3, &[o])];
        the_same_with_any_number_of_threads(&format!("{n}×{i} to {o}"), || {
            run(&args, |a| linear(&a[0], &a[1], Some(&a[2])))
        });
    }
}

#[test]
fn linear_over_a_background_or_constant_columns_gives_the_same_bits() {
    let (n, i, o) = (128, 784, 512);
    let args = [random(1, &[n, i]), random(2, &[o, i]), random(3, &[o])];
    let values: Vec<f32> = args[0].flatten_all().unwrap().to_vec1().unwrap();
    for constant in [|k: usize| !k.is_multiple_of(5), |k: usize| k % 784 < 400] {
        let values = values.iter().enumerate().map(|(k, x)| if constant(k) { -0.4 } else { *x });
        let mut values: Vec<f32> = values.collect();
        values[0] = -0.4;
        let xs = Tensor::from_vec(values, (n, i), &Device::Cpu).unwrap();
        let args = [xs, args[1].clone(), args[2].clone()];
        the_same_with_any_number_of_threads("linear", || run(&args, |a| linear(&a[0], &a[1], Some(&a[2]))));
    }
}

#[test]
fn linear_with_few_gradients_gives_the_same_bits() {
    for (n, i, o) in [(300, 200, 300), (64, 1001, 70), (128, 512, 256)] {
        let args = [random(1, &[n, i]), random(2, &[o, i]), random(3, &[o])];
        the_same_with_any_number_of_threads(&format!("{n}×{i} to {o}"), || {
            run(&args, |a| dropout(&linear(&a[0], &a[1], Some(&a[2]))?, 0.7, 1))
        });
    }
}

#[test]
fn conv2d_gives_the_same_bits() {
    for (n, c, size, o, stride, padding) in
        [(37, 3, 13, 5, 1, 0), (5, 16, 14, 32, 2, 1), (128, 1, 28, 32, 1, 0)]
    {
        let args = [random(1, &[n, c, size, size]), random(2, &[o, c, 3, 3]), random(3, &[o])];
        the_same_with_any_number_of_threads("conv2d", || {
            run(&args, |a| conv2d(&a[0], &a[1], Some(&a[2]), Conv2dGeometry { stride, padding }))
        });
    }
}

#[test]
fn pooling_dropout_and_activations_give_the_same_bits() {
    let xs = [random(1, &[9, 8, 25, 27])];
    the_same_with_any_number_of_threads("max_pool2d", || run(&xs, |a| max_pool2d(&a[0], (3, 2), (2, 2))));
    the_same_with_any_number_of_threads("avg_pool2d", || run(&xs, |a| avg_pool2d(&a[0], (3, 2), (2, 2))));
    let steps = [random(1, &[90, 28, 65])];
    the_same_with_any_number_of_threads("mean_of_steps", || run(&steps, |a| mean_of_steps(&a[0])));
    the_same_with_any_number_of_threads("dropout", || run(&xs, |a| dropout(&a[0], 0.3, 9)));
    the_same_with_any_number_of_threads("alpha_dropout", || run(&xs, |a| alpha_dropout(&a[0], 0.3, 9)));
    for f in Activation::ALL {
        the_same_with_any_number_of_threads(f.name(), || run(&xs, |a| activate(&a[0], f)));
    }
    let args = [random(1, &[200_000]), random(2, &[1])];
    the_same_with_any_number_of_threads("prelu", || run(&args, |a| prelu(&a[0], &a[1])));
    let targets = Tensor::new(vec![3_u32; 512], &Device::Cpu).unwrap();
    let logits = [random(1, &[512, 10])];
    the_same_with_any_number_of_threads("cross_entropy", || run(&logits, |a| cross_entropy(&a[0], &targets)));
    let (xs, targets) = ([random(1, &[3000, 40])], random(2, &[3000, 40]).clamp(0.0, 1.0).unwrap());
    the_same_with_any_number_of_threads("mse", || run(&xs, |a| mse(&a[0], &targets)));
    the_same_with_any_number_of_threads("binary_cross_entropy", || {
        run(&xs, |a| binary_cross_entropy(&a[0], &targets, 2.0))
    });
    the_same_with_any_number_of_threads("soft_cross_entropy", || {
        run(&xs, |a| soft_cross_entropy(&a[0], &targets))
    });
}

#[test]
fn layers_of_transformers_give_the_same_bits() {
    let args = [random(1, &[40, 28, 48]), random(2, &[48]), random(3, &[48])];
    the_same_with_any_number_of_threads("layer_norm", || {
        run(&args, |a| layer_norm(&a[0], &a[1], &a[2], 1e-5))
    });
    the_same_with_any_number_of_threads("add", || run(&args[..2], |a| add(&a[0], &a[1])));
    the_same_with_any_number_of_threads("softmax", || run(&args[..1], |a| softmax(&a[0], 2)));
    the_same_with_any_number_of_threads("attention", || {
        run(&args[..1], |a| self_attention(&a[0], 4, Mask::Causal))
    });
    let ids = Tensor::new((0..5000_u32).map(|i| i * i % 999).collect::<Vec<_>>(), &Device::Cpu).unwrap();
    let weight = [random(1, &[999, 64])];
    the_same_with_any_number_of_threads("embedding", || run(&weight, |a| embedding(&ids, &a[0])));
    let args = [random(1, &[9, 500, 20]), random(2, &[500, 30, 20]), random(3, &[500, 30])];
    the_same_with_any_number_of_threads("grouped_linear", || {
        run(&args, |a| grouped_linear(&a[0], &a[1], Some(&a[2])))
    });
}

#[test]
fn optimiser_steps_give_the_same_bits() {
    let rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, decoupled: false };
    the_same_with_any_number_of_threads("adam", || {
        let parameter = var(&random(1, &[200_001]));
        let mut slots = Slots::new(&rule, &parameter).unwrap();
        for step in 1..4 {
            slots.step(&rule, &parameter, &random(step, &[200_001]).into(), 0.01, step, false).unwrap();
        }
        let mut results = slots.tensors(&parameter).unwrap();
        results.push(parameter.as_tensor().clone());
        results.iter().map(bits).collect()
    });
}
