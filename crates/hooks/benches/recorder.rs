//! What watching one batch costs, in values per second: `cargo bench -p taper-hooks`.

#![allow(missing_docs)]

use std::hint::black_box;

use candle_core::{Device, Result, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use taper_hooks::{Activation, Parts, Pass, Recorder, Site, Units};

/// Pre-activations of a fully connected layer: they look random, half of them below zero.
fn rows(samples: usize, units: usize) -> Result<Tensor> {
    let xs: Vec<f32> = (0..samples * units).map(|i| noise(i) * 4.0 - 2.0).collect();
    Tensor::from_vec(xs, (samples, units), &Device::Cpu)
}

/// The same of the tokens of a sequence: units are the last axis.
fn tokens(samples: usize, positions: usize, units: usize) -> Result<Tensor> {
    rows(samples * positions, units)?.reshape((samples, positions, units))
}

/// Pre-activations of a convolution of digits: half of a map is background, which has one value throughout;
/// elsewhere there are waves, half of them below zero.
fn maps(samples: usize, units: usize, side: usize) -> Result<Tensor> {
    let mut xs = Vec::with_capacity(samples * units * side * side);
    for map in 0..samples * units {
        let background = noise(map % units) - 0.3;
        let (phase, radius) = (noise(map) * 6.0, side as f32 * 0.4);
        for i in 0..side * side {
            let (row, column) = ((i / side) as f32, (i % side) as f32);
            let middle = side as f32 / 2.0;
            let inside = (row - middle).hypot(column - middle) < radius;
            xs.push(if inside { (row * 0.5 + phase).sin() + (column * 0.7).cos() } else { background });
        }
    }
    Tensor::from_vec(xs, (samples, units, side, side), &Device::Cpu)
}

/// In `[0, 1)`.
fn noise(i: usize) -> f32 {
    (i as f64 * 0.618_033_988_749_894_9).fract() as f32
}

fn recorder(c: &mut Criterion) {
    let cases = [
        ("relu (128, 512)", Activation::Relu, rows(128, 512), Parts::FULL),
        ("relu (128, 256)", Activation::Relu, rows(128, 256), Parts::FULL),
        ("relu (128, 28, 64), units last", Activation::Relu, tokens(128, 28, 64), Parts::FULL),
        ("relu (128, 32, 26, 26)", Activation::Relu, maps(128, 32, 26), Parts::FULL),
        ("relu (128, 64, 24, 24)", Activation::Relu, maps(128, 64, 24), Parts::FULL),
        ("relu (128, 64, 24, 24), counts", Activation::Relu, maps(128, 64, 24), Parts::COUNTS),
        ("tanh (128, 512)", Activation::Tanh, rows(128, 512), Parts::FULL),
        ("tanh (128, 64, 24, 24)", Activation::Tanh, maps(128, 64, 24), Parts::FULL),
    ];
    let mut group = c.benchmark_group("recorder");
    for (name, activation, xs, parts) in cases {
        let xs = xs.expect("the shape fits");
        let ys = taper_kernels::activate(&xs, activation).expect("it runs on every CPU");
        let units = if xs.rank() == 3 { Units::Last } else { Units::Second };
        let site = Site::behind("fc1", activation).units(units);
        let mut recorder = Recorder::of(parts);
        group.throughput(Throughput::Elements(ys.elem_count() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut pass = Pass::eval(&mut recorder);
                pass.see(&site, black_box(&xs), black_box(&ys)).expect("one site, one shape");
            })
        });
    }
}

criterion_group!(benches, recorder);
criterion_main!(benches);
