//! The two convolutions of a small network for MNIST, 128 images at a time, on all threads.
//!
//! `cargo bench -p taper-kernels --bench conv`. Backward passes include what candle does around them: it adds
//! every gradient to zeros.
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, Var};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use taper_kernels::{Conv2dGeometry, conv2d};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IMAGES: usize = 128;

/// A loss whose gradient is known.
struct WithGradient(Tensor);

impl CustomOp1 for WithGradient {
    fn name(&self) -> &'static str {
        "with_gradient"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), 1.into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

fn random(seed: u64, shape: &[usize], density: f64) -> Tensor {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut value = || if rng.random_bool(density) { rng.random_range(-1.0..1.0) } else { 0.0 };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| value()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Images with noise in a disc in the middle, and the same value everywhere else: about half of the outputs of a
/// 3×3 kernel see nothing of the disc.
fn images(channels: usize, side: usize) -> Tensor {
    let centre = (side as f32 - 1.0) / 2.0;
    let inside = (0..side * side).map(|i| {
        let (y, x) = ((i / side) as f32 - centre, (i % side) as f32 - centre);
        u8::from(y.hypot(x) < 0.33 * side as f32)
    });
    let inside = Tensor::from_vec(inside.collect(), (side, side), &Device::Cpu).unwrap();
    let noise = random(1, &[IMAGES, channels, side, side], 1.0);
    let inside = inside.broadcast_as(noise.shape()).unwrap();
    inside.where_cond(&noise, &noise.ones_like().unwrap()).unwrap()
}

fn convolutions(criterion: &mut Criterion) {
    for (name, c, o, side) in [("conv1", 1, 32, 28), ("conv2", 32, 64, 26)] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(IMAGES as u64));
        let (weight, bias) =
            (Var::from_tensor(&random(2, &[o, c, 3, 3], 1.0)).unwrap(), random(3, &[o], 1.0));
        let run = |xs: &Tensor| conv2d(xs, &weight, Some(&bias), Conv2dGeometry::default()).unwrap();
        let noise = random(1, &[IMAGES, c, side, side], 1.0);
        for (what, xs) in [("noise", &noise), ("background", &images(c, side))] {
            group.bench_function(BenchmarkId::new("forward", what), |bencher| bencher.iter(|| run(xs)));
        }
        // The first layer's input needs no gradient.
        let xs = if c == 1 { noise } else { Var::from_tensor(&noise).unwrap().as_tensor().clone() };
        let ys = run(&xs);
        for density in [0.05, 0.125, 0.25, 0.5, 1.0] {
            let gradient = WithGradient(random(4, ys.dims(), density));
            let loss = ys.apply_op1(gradient).unwrap();
            group.bench_function(BenchmarkId::new("backward", density), |bencher| {
                bencher.iter(|| loss.backward().unwrap())
            });
        }
        group.finish();
    }
}

criterion_group!(benches, convolutions);
criterion_main!(benches);
