//! The other kernels at the sizes of a network for MNIST, 128 samples at a time, on all threads; how many elements a
//! second is said of multiplications for products, of values for all else.
//!
//! `cargo bench -p taper-kernels --bench layers`. Backward passes go along a tape, as training does.
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor, Var};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use taper_kernels::{Activation, Rule, Slots, activate, cross_entropy, dropout, linear, max_pool2d, record};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SAMPLES: usize = 128;

/// Values of which `density` are not 0.
fn random(seed: u64, shape: &[usize], density: f64) -> Tensor {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut value = || if rng.random_bool(density) { rng.random_range(-1.0..1.0) } else { 0.0 };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| value()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn var(seed: u64, shape: &[usize]) -> Var {
    Var::from_tensor(&random(seed, shape, 1.0)).unwrap()
}

/// Forward, and there and back with the gradients multiplied out; after an activation function, as layers are.
fn linears(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear");
    for (i, o, density) in [(784, 512, 0.19), (784, 512, 1.0), (512, 256, 1.0), (1000, 1000, 1.0)] {
        let name = format!("{i} to {o}, density {density}");
        let (xs, weight, bias) = (random(1, &[SAMPLES, i], density), var(2, &[o, i]), var(3, &[o]));
        group.throughput(Throughput::Elements((SAMPLES * i * o) as u64));
        group.bench_function(BenchmarkId::new("forward", &name), |bencher| {
            bencher.iter(|| {
                linear(&xs.detach(), &weight.as_tensor().detach(), Some(&bias.as_tensor().detach())).unwrap()
            })
        });
        group.bench_function(BenchmarkId::new("forward and backward", &name), |bencher| {
            bencher.iter(|| {
                let (loss, tape) = record(|| linear(&xs, &weight, Some(&bias)).unwrap().sum_all().unwrap());
                tape.backward(&loss).unwrap().get(&weight).unwrap().values().unwrap()
            })
        });
    }
    group.finish();
}

fn elementwise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("elementwise");
    let xs = random(1, &[SAMPLES, 512], 1.0);
    group.throughput(Throughput::Elements((SAMPLES * 512) as u64));
    for f in Activation::ALL {
        group.bench_function(f.name(), |bencher| bencher.iter(|| activate(&xs, f).unwrap()));
    }
    group.bench_function("dropout", |bencher| bencher.iter(|| dropout(&xs, 0.5, 1).unwrap()));
    group.finish();
}

fn pooling_and_loss(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pooling and loss");
    let xs = random(1, &[SAMPLES, 64, 24, 24], 0.3);
    group.throughput(Throughput::Elements(xs.elem_count() as u64));
    group.bench_function("max_pool2d", |bencher| bencher.iter(|| max_pool2d(&xs, (2, 2), (2, 2)).unwrap()));
    let logits = var(2, &[SAMPLES, 10]);
    let targets = Tensor::new(vec![3_u32; SAMPLES], &Device::Cpu).unwrap();
    group.throughput(Throughput::Elements(logits.elem_count() as u64));
    group.bench_function("cross_entropy, there and back", |bencher| {
        bencher.iter(|| {
            let (loss, tape) = record(|| cross_entropy(&logits, &targets).unwrap());
            tape.backward(&loss).unwrap()
        })
    });
    group.finish();
}

/// A step along values, and one along a product, which includes multiplying it out.
fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    let (i, o) = (1000, 1000);
    group.throughput(Throughput::Elements((i * o) as u64));
    let rules = [
        ("sgd", Rule::SGD),
        ("adamw", Rule::adamw(0.01)),
        ("rmsprop", Rule::RMSPROP),
        ("adadelta", Rule::ADADELTA),
    ];
    for (name, rule) in rules {
        let (weight, input) = (var(1, &[o, i]), var(2, &[SAMPLES, i]));
        let (loss, tape) = record(|| {
            let xs = activate(&input, Activation::Relu).unwrap();
            linear(&xs, &weight, None).unwrap().sum_all().unwrap()
        });
        let gradients = tape.backward(&loss).unwrap();
        let product = gradients.get(&weight).unwrap();
        let values = product.values().unwrap().into();
        for (what, gradient) in [("values", &values), ("product", product)] {
            let mut slots = Slots::new(&rule, &weight).unwrap();
            group.bench_function(BenchmarkId::new(name, what), |bencher| {
                bencher.iter(|| slots.step(&rule, &weight, gradient, 1e-9, 1, false).unwrap())
            });
        }
    }
    group.finish();
}

/// The gradient of a layer's inputs, and a step of SGD with the gradient of its weights multiplied out in it, where so many
/// of the result's gradients are not 0.
fn densities(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("density");
    let (i, o) = (1000, 1000);
    group.throughput(Throughput::Elements((SAMPLES * i * o) as u64));
    for density in [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0] {
        let (input, weight) = (var(1, &[SAMPLES, i]), var(2, &[o, i]));
        let record = || {
            record(|| {
                let xs = activate(&input, Activation::Relu).unwrap();
                let ys = linear(&xs, &weight, None).unwrap();
                dropout(&ys, 1.0 - density, 3).unwrap().sum_all().unwrap()
            })
        };
        group.bench_function(BenchmarkId::new("inputs", density), |bencher| {
            bencher.iter_batched(
                record,
                |(loss, tape)| tape.backward(&loss).unwrap(),
                BatchSize::PerIteration,
            )
        });
        let (loss, tape) = record();
        let gradients = tape.backward(&loss).unwrap();
        let product = gradients.get(&weight).unwrap();
        let mut slots = Slots::new(&Rule::SGD, &weight).unwrap();
        group.bench_function(BenchmarkId::new("weights", density), |bencher| {
            bencher.iter(|| slots.step(&Rule::SGD, &weight, product, 1e-9, 1, false).unwrap())
        });
    }
    group.finish();
}

criterion_group!(benches, linears, elementwise, pooling_and_loss, steps, densities);
criterion_main!(benches);
