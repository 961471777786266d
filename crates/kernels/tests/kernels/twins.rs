//! Every kernel against its twin on random shapes: values, and gradients for every argument that has one.

use candle_core::{DType, Device, Result, Tensor, Var};
use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use taper_kernels::{
    Activation, Conv2dGeometry, Mask, Moments, activate, add, attention, avg_pool2d, batch_norm,
    batch_norm_with, binary_cross_entropy, conv2d, cross_entropy, embedding, global_avg_pool2d,
    grouped_linear, layer_norm, linear, log_softmax, max_pool2d, mean_of_steps, mse, prelu, rms_norm,
    self_attention, soft_cross_entropy, softmax, twin,
};

use crate::{assert_close, cases, gradients, largest, random, scattered, var};

/// Runs kernel and twin on the same arguments, and the kernel on the same values behind other memory layouts and
/// in f64; all must agree in value and gradients.
#[track_caller]
fn agree(
    args: &[Tensor],
    kernel: impl Fn(&[Tensor]) -> Result<Tensor>,
    twin: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let run = |f: &dyn Fn(&[Tensor]) -> Result<Tensor>, args: &[Tensor], layout: fn(&Tensor) -> Tensor| {
        let vars: Vec<Var> = args.iter().map(var).collect();
        let seen: Vec<Tensor> = vars.iter().map(|v| layout(v)).collect();
        let ys = f(&seen).unwrap();
        let grad_ys = random(99, ys.dims()).to_dtype(ys.dtype()).unwrap();
        let mut results = gradients(&ys, &layout(&grad_ys), &vars.iter().collect::<Vec<_>>());
        results.push(ys);
        results
    };
    let plain = |xs: &Tensor| xs.clone();
    let view = |xs: &Tensor| if xs.rank() < 2 { xs.clone() } else { scattered(xs) };
    let wide: Vec<Tensor> = args.iter().map(|a| a.to_dtype(DType::F64).unwrap()).collect();
    let want = run(&twin, &wide, plain);
    let terms = want[args.len()].elem_count();
    let results = [
        run(&kernel, args, plain),
        run(&twin, args, plain),
        run(&kernel, args, view),
        run(&kernel, &wide, plain),
    ];
    for (who, got) in ["kernel", "twin", "kernel on views", "kernel in f64"].iter().zip(results) {
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let what = if i < args.len() { format!("gradient {i}") } else { "value".to_string() };
            // candle adds up in f32, on a CPU without AVX one term after the other. A sum that cancels is measured
            // by what such a sum usually comes to.
            let sum = *who == "twin" && got.elem_count() == 1;
            let usual = if sum { (terms as f64).sqrt() } else { 1e-3 };
            assert_close(&format!("{who}: {what}"), got, want, 0.0, 1e-5 * largest(want).max(usual));
        }
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn linear_agrees_with_its_twin(
        lead in prop::collection::vec(1..9_usize, 0..3), i in 1..40_usize, o in 1..40_usize, bias: bool, seed: u64,
    ) {
        let xs = [&lead[..], &[i]].concat();
        let mut args = vec![random(seed, &xs), random(seed ^ 1, &[o, i])];
        if bias {
            args.push(random(seed ^ 2, &[o]));
        }
        agree(&args, |a| linear(&a[0], &a[1], a.get(2)), |a| twin::linear(&a[0], &a[1], a.get(2)));
    }

    #[test]
    fn linear_of_one_sample_agrees_with_its_twin(
        // Also where all threads share the work.
        (i, o) in prop_oneof![(1..200_usize, 1..60_usize), (500..900_usize, 400..700_usize)],
        zeros in 0.0..1.0_f64, bias: bool, seed: u64,
    ) {
        let mut args = vec![random(seed, &[1, i]), random(seed ^ 1, &[o, i])];
        if bias {
            args.push(random(seed ^ 2, &[o]));
        }
        // Gradients of some outputs are 0.
        let mask = random(seed ^ 3, &[1, o]).ge(4.0 * zeros - 2.0).unwrap();
        let masked = |ys: Tensor| &ys * mask.to_dtype(ys.dtype())?;
        agree(
            &args,
            |a| masked(linear(&a[0], &a[1], a.get(2))?),
            |a| masked(twin::linear(&a[0], &a[1], a.get(2))?),
        );
    }

    #[test]
    fn linear_over_mostly_one_value_agrees_with_its_twin(
        density in prop_oneof![Just(0.0), 0.0..0.5_f64], value in prop::sample::select(vec![0.0_f32, -0.4242, 3.0]),
        (n, o) in (32..70_usize, 60..140_usize), bias: bool, seed: u64,
    ) {
        let i = 600;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut xs: Vec<f32> = random(seed, &[n, i]).flatten_all().unwrap().to_vec1().unwrap();
        xs.iter_mut().filter(|_| !rng.random_bool(density)).for_each(|x| *x = value);
        // A background is known by the first value; zeros need not be there.
        if value != 0.0 {
            xs[0] = value;
        }
        let mut args = vec![Tensor::from_vec(xs, (n, i), &Device::Cpu).unwrap(), random(seed ^ 1, &[o, i])];
        if bias {
            args.push(random(seed ^ 2, &[o]));
        }
        agree(&args, |a| linear(&a[0], &a[1], a.get(2)), |a| twin::linear(&a[0], &a[1], a.get(2)));
    }

    #[test]
    fn linear_of_many_inputs_and_few_outputs_agrees_with_its_twin(
        density in 0.0..0.6_f64, (n, i, o) in (32..140_usize, 2048..2300_usize, 60..140_usize), seed: u64,
    ) {
        // All threads share such a product in parts of its sums.
        let chosen = random(seed, &[n, i]).lt(4.0 * density - 2.0).unwrap().to_dtype(DType::F32).unwrap();
        let args = [(random(seed ^ 1, &[n, i]) * chosen).unwrap(), random(seed ^ 2, &[o, i]), random(seed ^ 3, &[o])];
        agree(&args, |a| linear(&a[0], &a[1], a.get(2)), |a| twin::linear(&a[0], &a[1], a.get(2)));
    }

    #[test]
    fn gradients_of_linear_agree_with_its_twin_however_few_there_are(
        density in prop_oneof![Just(0.0), Just(1.0), 0.0..0.8_f64], (n, i, o) in (32..300_usize, 560..700_usize, 60..300_usize),
        constant in prop_oneof![Just(0), Just(300)], seed: u64,
    ) {
        // Where a share of the columns is constant, only the others are multiplied.
        let xs = Tensor::cat(&[&random(seed, &[n, i - constant]), &random(0, &[1, constant]).repeat((n, 1)).unwrap()], 1).unwrap();
        let args = [xs, random(seed ^ 1, &[o, i]), random(seed ^ 2, &[o])];
        let chosen = random(seed ^ 3, &[n, o]).lt(4.0 * density - 2.0).unwrap().to_dtype(DType::F32).unwrap();
        let grad_ys = (random(seed ^ 4, &[n, o]) * chosen).unwrap();
        let run = |f: fn(&Tensor, &Tensor, Option<&Tensor>) -> Result<Tensor>, dtype: DType| {
            let vars: Vec<Var> = args.iter().map(|a| var(&a.to_dtype(dtype).unwrap())).collect();
            let ys = f(&vars[0], &vars[1], Some(&vars[2])).unwrap();
            gradients(&ys, &grad_ys.to_dtype(dtype).unwrap(), &vars.iter().collect::<Vec<_>>())
        };
        for (k, (got, want)) in run(linear, DType::F32).iter().zip(&run(twin::linear, DType::F64)).enumerate() {
            assert_close(&format!("gradient {k}"), got, want, 0.0, 1e-5 * largest(want).max(1e-3));
        }
    }

    #[test]
    fn conv2d_agrees_with_its_twin(
        (n, c, o) in (1..20_usize, 1..5_usize, 1..6_usize), (kh, kw) in (1..5_usize, 1..5_usize),
        (more_h, more_w) in (0..9_usize, 0..9_usize), stride in 1..4_usize, padding in 0..3_usize,
        bias: bool, seed: u64,
    ) {
        // From kernels that just fit, padding included, upwards.
        let (h, w) = ((kh + more_h).saturating_sub(2 * padding).max(1), (kw + more_w).saturating_sub(2 * padding).max(1));
        let geometry = Conv2dGeometry { stride, padding };
        let mut args = vec![random(seed, &[n, c, h, w]), random(seed ^ 1, &[o, c, kh, kw])];
        if bias {
            args.push(random(seed ^ 2, &[o]));
        }
        agree(&args, |a| conv2d(&a[0], &a[1], a.get(2), geometry), |a| twin::conv2d(&a[0], &a[1], a.get(2), geometry));
    }

    #[test]
    fn pooling_agrees_with_its_twin(
        (n, c) in (1..4_usize, 1..4_usize), kernel in (1..5_usize, 1..5_usize), stride in (1..5_usize, 1..5_usize),
        (more_h, more_w) in (0..9_usize, 0..9_usize), ties: bool, seed: u64,
    ) {
        let mut xs = random(seed, &[n, c, kernel.0 + more_h, kernel.1 + more_w]);
        if ties {
            xs = xs.round().unwrap();
        }
        agree(&[xs.clone()], |a| max_pool2d(&a[0], kernel, stride), |a| twin::max_pool2d(&a[0], kernel, stride));
        agree(&[xs], |a| avg_pool2d(&a[0], kernel, stride), |a| twin::avg_pool2d(&a[0], kernel, stride));
    }

    #[test]
    fn batch_norm_agrees_with_its_twin(
        // Some of more values than one task takes.
        (n, c) in prop_oneof![(2..20_usize, 1..20_usize), (100..130_usize, 4..9_usize)],
        rest in prop_oneof![Just(vec![]), Just(vec![1]), (1..40_usize).prop_map(|t| vec![t]), (1..9_usize, 1..9_usize).prop_map(|(h, w)| vec![h, w])],
        (far, relu) in (prop_oneof![Just(0.0), Just(50.0)], any::<bool>()), seed: u64,
    ) {
        let f = if relu { Activation::LeakyRelu { slope: 0.25 } } else { Activation::Identity };
        let shape = [&[n, c], &rest[..]].concat();
        let args = [(random(seed, &shape) + far).unwrap(), random(seed ^ 1, &[c]), random(seed ^ 2, &[c])];
        if far == 0.0 {
            agree(
                &args,
                |a| Ok(batch_norm(&a[0], &a[1], &a[2], 0.1, f)?.0),
                |a| activate(&twin::batch_norm(&a[0], &a[1], &a[2], 0.1)?.0, f),
            );
        }
        // A mean far from zero costs no digits of the variance.
        let moments = [&args[0], &args[0].to_dtype(DType::F64).unwrap()].map(|xs| {
            let one = |t: &Tensor| t.to_dtype(xs.dtype()).unwrap();
            batch_norm(xs, &one(&args[1]), &one(&args[2]), 0.1, f).unwrap().1
        });
        assert_close("mean", &moments[0].mean, &moments[1].mean, 1e-6, 1e-6);
        assert_close("variance", &moments[0].variance, &moments[1].variance, 1e-6, 1e-7);

        let given = Moments { mean: random(seed ^ 3, &[c]), variance: (random(seed ^ 4, &[c]) + 2.0).unwrap() };
        if far == 0.0 {
            agree(
                &args,
                |a| batch_norm_with(&a[0], &given_as(&given, &a[0])?, &a[1], &a[2], 0.1, f),
                |a| activate(&twin::batch_norm_with(&a[0], &given_as(&given, &a[0])?, &a[1], &a[2], 0.1)?, f),
            );
        }
    }

    #[test]
    fn the_mean_of_a_map_agrees_with_candles((n, c, h, w) in (1..9_usize, 1..9_usize, 1..9_usize, 1..9_usize), seed: u64) {
        agree(&[random(seed, &[n, c, h, w])], |a| global_avg_pool2d(&a[0]), |a| a[0].mean((2, 3)));
    }

    #[test]
    fn the_mean_of_steps_agrees_with_candles((n, t, f) in (1..9_usize, 1..40_usize, 1..70_usize), seed: u64) {
        agree(&[random(seed, &[n, t, f])], |a| mean_of_steps(&a[0]), |a| twin::mean_of_steps(&a[0]));
    }

    #[test]
    fn cross_entropy_agrees_with_its_twin(
        (n, classes) in (1..40_usize, 1..15_usize), scale in prop_oneof![Just(1.0), Just(10.0), Just(500.0)], seed: u64,
    ) {
        let logits = (random(seed, &[n, classes]) * scale).unwrap();
        let targets: Vec<u32> = (0..n).map(|i| ((i as u64 ^ seed) % classes as u64) as u32).collect();
        let targets = Tensor::new(targets, logits.device()).unwrap();
        agree(&[logits], |a| cross_entropy(&a[0], &targets), |a| twin::cross_entropy(&a[0], &targets));
    }

    #[test]
    fn losses_of_two_tensors_agree_with_their_twins(
        (n, k) in (1..40_usize, 1..15_usize), scale in prop_oneof![Just(0.5), Just(5.0), Just(250.0)],
        positive_weight in prop_oneof![Just(1.0), 0.1..9.0_f64], constant: bool, seed: u64,
    ) {
        // Targets in [0, 1], some of them 0 or 1. Where they are arguments too, they have gradients of their own.
        let targets = random(seed ^ 1, &[n, k]).clamp(-1.0, 1.0).unwrap().affine(0.5, 0.5).unwrap();
        let logits = (random(seed, &[n, k]) * scale).unwrap();
        let both = |f: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>, twin: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>| {
            let of = |f: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>, a: &[Tensor]| match a {
                [xs] => f(xs, &targets.to_dtype(xs.dtype())?),
                _ => f(&a[0], &a[1]),
            };
            let args = if constant { vec![logits.clone()] } else { vec![logits.clone(), targets.clone()] };
            agree(&args, |a| of(f, a), |a| of(twin, a));
        };
        both(&mse, &twin::mse);
        both(&soft_cross_entropy, &twin::soft_cross_entropy);
        both(
            &|xs, targets| binary_cross_entropy(xs, targets, positive_weight),
            &|xs, targets| twin::binary_cross_entropy(xs, targets, positive_weight),
        );
    }

    #[test]
    fn add_agrees_with_its_twin(
        lead in prop_oneof![prop::collection::vec(1..6_usize, 0..3), Just(vec![300])],
        rest in prop_oneof![prop::collection::vec(1..20_usize, 1..3), Just(vec![40_000])], seed: u64,
    ) {
        prop_assume!(lead.len() < 2 || rest[0] < 40_000);
        let lead = if rest[0] == 40_000 { &lead[..0] } else { &lead[..] };
        let args = [random(seed, &[lead, &rest].concat()), random(seed ^ 1, &rest)];
        agree(&args, |a| add(&a[0], &a[1]), |a| twin::add(&a[0], &a[1]));
    }

    #[test]
    fn normalisation_agrees_with_its_twin(
        lead in prop::collection::vec(1..12_usize, 0..4), width in 2..70_usize, far in prop_oneof![Just(0.0), Just(30.0)], seed: u64,
    ) {
        let xs = (random(seed, &[&lead[..], &[width]].concat()) + far).unwrap();
        let args = [xs, random(seed ^ 1, &[width]), random(seed ^ 2, &[width])];
        // With two values only the difference matters: eps keeps it from the size of rounding errors.
        let (layer, layer_twin) = (|a: &[Tensor]| layer_norm(&a[0], &a[1], &a[2], 0.1), |a: &[Tensor]| twin::layer_norm(&a[0], &a[1], &a[2], 0.1));
        if far == 0.0 {
            agree(&args, layer, layer_twin);
        }
        agree(&args[..2], |a| rms_norm(&a[0], &a[1], 1e-5), |a| twin::rms_norm(&a[0], &a[1], 1e-5));
    }

    #[test]
    fn softmax_agrees_with_its_twin(
        (a, b, c) in (1..6_usize, 1..40_usize, 1..40_usize), axis in 0..3_usize, scale in prop_oneof![Just(1.0), Just(50.0)], seed: u64,
    ) {
        let xs = random(seed, &[a, b, c]);
        agree(std::slice::from_ref(&xs), |v| softmax(&v[0], axis), |v| twin::softmax(&v[0], axis));
        agree(&[(xs * scale).unwrap()], |v| log_softmax(&v[0], axis), |v| twin::log_softmax(&v[0], axis));
    }

    #[test]
    fn embedding_agrees_with_its_twin(
        (n, t) in (1..9_usize, 1..9_usize), (rows, width) in prop_oneof![(1..20_usize, 1..20_usize), Just((700, 130))], seed: u64,
    ) {
        let ids: Vec<u32> = (0..n * t).map(|i| (seed.rotate_left(i as u32) % rows as u64) as u32).collect();
        let ids = Tensor::from_vec(ids, (n, t), &Device::Cpu).unwrap();
        agree(&[random(seed, &[rows, width])], |a| embedding(&ids, &a[0]), |a| twin::embedding(&ids, &a[0]));
    }

    #[test]
    fn grouped_linear_agrees_with_its_twin(
        // Also where all threads share the work.
        (n, g) in prop_oneof![(1..5_usize, 1..9_usize), Just((3, 700))], (i, o) in (1..40_usize, 1..20_usize), bias: bool, seed: u64,
    ) {
        let mut args = vec![random(seed, &[n, g, i]), random(seed ^ 1, &[g, o, i])];
        if bias {
            args.push(random(seed ^ 2, &[g, o]));
        }
        agree(&args, |a| grouped_linear(&a[0], &a[1], a.get(2)), |a| twin::grouped_linear(&a[0], &a[1], a.get(2)));
    }

    #[test]
    fn attention_agrees_with_its_twin(
        (b, heads) in (1..4_usize, 1..4_usize), (t, s) in (1..40_usize, 1..40_usize), (d, e) in (1..20_usize, 1..20_usize), causal: bool, seed: u64,
    ) {
        let mask = if causal { Mask::Causal } else { Mask::None };
        let args = [random(seed, &[b, heads, t, d]), random(seed ^ 1, &[b, heads, s, d]), random(seed ^ 2, &[b, heads, s, e])];
        agree(&args, |a| attention(&a[0], &a[1], &a[2], mask), |a| twin::attention(&a[0], &a[1], &a[2], mask));
        let args = [random(seed, &[b, t, 3 * heads * d])];
        agree(&args, |a| self_attention(&a[0], heads, mask), |a| twin::self_attention(&a[0], heads, mask));
    }

    #[test]
    fn prelu_agrees_with_its_twin(shape in prop::collection::vec(1..9_usize, 1..5), seed: u64) {
        let args = [random(seed, &shape), random(seed ^ 1, &[1])];
        agree(&args, |a| prelu(&a[0], &a[1]), |a| twin::prelu(&a[0], &a[1]));
    }
}

fn given_as(moments: &Moments, xs: &Tensor) -> Result<Moments> {
    let of = |values: &Tensor| values.to_dtype(xs.dtype());
    Ok(Moments { mean: of(&moments.mean)?, variance: of(&moments.variance)? })
}

#[test]
fn a_group_is_a_linear_layer_of_its_own() {
    let (xs, weight, bias) = (random(1, &[4, 3, 20]), random(2, &[3, 5, 20]), random(3, &[3, 5]));
    let all = grouped_linear(&xs, &weight, Some(&bias)).unwrap();
    for g in 0..3 {
        let xs = xs.narrow(1, g, 1).unwrap().squeeze(1).unwrap();
        let alone = linear(&xs, &weight.get(g).unwrap(), Some(&bias.get(g).unwrap())).unwrap();
        let own = all.narrow(1, g, 1).unwrap().squeeze(1).unwrap();
        assert_close("a group", &own, &alone, 0.0, 1e-5);
    }
}

#[test]
fn targets_may_be_a_view() {
    let logits = random(1, &[3, 4]);
    let all = Tensor::new(&[[9_u32, 0, 9], [9, 3, 9], [9, 2, 9]], logits.device()).unwrap();
    let view = all.narrow(1, 1, 1).unwrap().squeeze(1).unwrap();
    let plain = Tensor::new(&[0_u32, 3, 2], logits.device()).unwrap();
    let losses = [(&view), (&plain)].map(|t| {
        let logits = var(&logits);
        let loss = cross_entropy(&logits, t).unwrap();
        let grads = loss.backward().unwrap();
        (crate::bits(&loss), crate::bits(grads.get(&logits).unwrap()))
    });
    assert_eq!(losses[0], losses[1]);
    let plain = random(2, &[3, 4]);
    let view = crate::scattered(&plain);
    for loss in [mse as fn(&Tensor, &Tensor) -> _, soft_cross_entropy] {
        assert_eq!(crate::bits(&loss(&logits, &view).unwrap()), crate::bits(&loss(&logits, &plain).unwrap()));
    }
}
