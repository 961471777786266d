use std::sync::Arc;

use candle_core::Device;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::*;

const BOTH: Wanted = Wanted { xs: true, weight: true };

/// Property tests with a fixed seed: the same `n` cases on every run and machine, or the first PROPTEST_CASES of them.
fn cases(n: u32) -> Config {
    // Miri takes seconds for a case.
    let n = if cfg!(miri) { 2 } else { n.min(Config::default().cases) };
    Config { cases: n, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..Config::default() }
}

fn random(rng: &mut Xoshiro256PlusPlus, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-2.0..2.0)).collect()
}

/// Random values, of which about this share is not 0.
fn sparse_values(rng: &mut Xoshiro256PlusPlus, n: usize, density: f64) -> Vec<f32> {
    (0..n).map(|_| if rng.random_bool(density) { rng.random_range(-2.0..2.0) } else { 0.0 }).collect()
}

/// Shapes of all kinds: images that are not square, strides, padding, more and fewer channels than a vector has.
fn shapes() -> impl Strategy<Value = ConvShape> {
    let channels = prop_oneof![1..9_usize, 9..36_usize];
    let sizes = (1..20_usize, channels, 1..9_usize, 1..8_usize, 1..8_usize);
    (sizes, (0..9_usize, 0..9_usize), 1..4_usize, 0..3_usize).prop_map(
        |((n, c, o, kh, kw), (more_h, more_w), stride, padding)| {
            let side = |kernel: usize, more: usize| (kernel + more).saturating_sub(2 * padding).max(1);
            let image = (n, c, side(kh, more_h), side(kw, more_w));
            ConvShape::new(image, (o, c, kh, kw), Conv2dGeometry { stride, padding }).unwrap()
        },
    )
}

fn densities() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(0.05), Just(1.0), 0.0..1.0]
}

/// Those that a convolution can apply as it writes.
fn functions() -> impl Strategy<Value = Activation> {
    let all =
        [Activation::Identity, Activation::Relu, Activation::LeakyRelu { slope: 0.25 }, Activation::Hardtanh];
    prop::sample::select(all.to_vec())
}

/// The gradient with respect to the input of `f`, by the formula.
fn through(f: Activation, ys: &[f32], grads: &[f32]) -> Vec<f32> {
    ys.iter().zip(grads).map(|(y, grad)| grad * f.derivative(*y)).collect()
}

/// Every value within `1e-5` of the largest that is wanted.
#[track_caller]
fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let largest = want.iter().fold(1e-3, |max: f32, x| max.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-5 * largest, "{what}[{i}]: expected {want}, found {got}");
    }
}

#[track_caller]
fn agree(got: &ConvGradients, want: &ConvGradients) {
    assert_close("grad_xs", got.xs.as_ref().unwrap(), want.xs.as_ref().unwrap());
    assert_close("grad_weight", got.weight.as_ref().unwrap(), want.weight.as_ref().unwrap());
    assert_close("grad_bias", &got.bias, &want.bias);
}

/// Gradients by the formula, in f64.
fn by_definition(s: &ConvShape, xs: &[f32], weight: &[f32], grad_ys: &[f32]) -> ConvGradients {
    let mut grad_xs = vec![0.0_f64; xs.len()];
    let mut grad_weight = vec![0.0_f64; weight.len()];
    let mut grad_bias = vec![0.0_f64; s.o];
    for (i, grad) in grad_ys.iter().map(|g| f64::from(*g)).enumerate() {
        let (n, o, y, x) = (i / s.output(), i / s.p % s.o, i % s.p / s.out.1, i % s.out.1);
        grad_bias[o] += grad;
        for j in 0..s.k {
            let (c, dy, dx) = (j / (s.kernel.0 * s.kernel.1), j / s.kernel.1 % s.kernel.0, j % s.kernel.1);
            let (y, x) = (y * s.geometry.stride + dy, x * s.geometry.stride + dx);
            let inside = |at: usize, side: usize| at.checked_sub(s.geometry.padding).filter(|at| *at < side);
            if let (Some(y), Some(x)) = (inside(y, s.h), inside(x, s.w)) {
                let pixel = ((n * s.c + c) * s.h + y) * s.w + x;
                grad_xs[pixel] += grad * f64::from(weight[o * s.k + j]);
                grad_weight[o * s.k + j] += grad * f64::from(xs[pixel]);
            }
        }
    }
    let single = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect();
    ConvGradients { xs: Some(single(grad_xs)), weight: Some(single(grad_weight)), bias: single(grad_bias) }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn sparse_and_dense_gradients_are_those_of_the_formula(s in shapes(), density in densities(), f in functions(), seed: u64) {
        let rng = &mut Xoshiro256PlusPlus::seed_from_u64(seed);
        let (xs, weight) = (random(rng, s.n * s.input()), random(rng, s.o * s.k));
        let grad_ys = sparse_values(rng, s.n * s.output(), density);
        let ys = random(rng, grad_ys.len());
        let want = by_definition(&s, &xs, &weight, &through(f, &ys, &grad_ys));
        let maps = Maps { f, values: &grad_ys, ys: &ys, size: s.p, positions: None };
        agree(&dense::backward(&s, &xs, &weight, maps, BOTH), &want);
        agree(&sparse::backward(&s, &xs, &weight, maps, BOTH), &want);
        agree(&s.backward(&xs, &weight, (f, &ys), Gradient::Dense(grad_ys), BOTH), &want);
    }

    #[test]
    fn scattered_gradients_are_those_of_the_maps_that_they_stand_for(
        s in shapes(), density in densities(), windows in 0..12_usize, f in functions(), seed: u64,
    ) {
        let rng = &mut Xoshiro256PlusPlus::seed_from_u64(seed);
        let (xs, weight) = (random(rng, s.n * s.input()), random(rng, s.o * s.k));
        let values = sparse_values(rng, s.n * s.o * windows, density);
        // Drawn freely, so that some places win several windows, as they do where windows overlap.
        let positions: Vec<u32> = values.iter().map(|_| rng.random_range(0..s.p as u32)).collect();
        let mut grad_ys = vec![0.0; s.n * s.output()];
        for (i, (value, position)) in values.iter().zip(&positions).enumerate() {
            grad_ys[i / windows * s.p + *position as usize] += value;
        }
        let ys = random(rng, grad_ys.len());
        let at = |i: usize| i / windows * s.p + positions[i] as usize;
        let pooled: Vec<f32> = (0..values.len()).map(|i| ys[at(i)]).collect();
        let want = by_definition(&s, &xs, &weight, &through(f, &ys, &grad_ys));
        let maps = Maps { f, values: &values, ys: &pooled, size: windows, positions: Some(&positions) };
        agree(&dense::backward(&s, &xs, &weight, maps, BOTH), &want);
        agree(&sparse::backward(&s, &xs, &weight, maps, BOTH), &want);
        let pooled = Tensor::from_slice(&pooled, pooled.len(), &Device::Cpu).unwrap();
        let scattered = Scattered { values, ys: Some(pooled), positions: Arc::new(positions), windows, plane: s.p };
        agree(&s.backward(&xs, &weight, (f, &ys), Gradient::Scattered(scattered), BOTH), &want);
    }

    #[test]
    fn a_constant_background_changes_no_bit(s in shapes(), share in 0.0..1.0_f64, zero: bool, seed: u64) {
        let rng = &mut Xoshiro256PlusPlus::seed_from_u64(seed);
        let (weight, bias) = (random(rng, s.o * s.k), random(rng, s.o));
        let background: Vec<f32> = if zero { vec![0.0; s.c] } else { random(rng, s.c) };
        // A rectangle of other values from a random row and column on; from 0 on there is no background.
        let (top, left) = ((s.h as f64 * share) as usize, (s.w as f64 * share.sqrt()) as usize);
        let mut xs = random(rng, s.n * s.input());
        for (i, x) in xs.iter_mut().enumerate() {
            if i / s.w % s.h < top || i % s.w < left {
                *x = background[i / (s.h * s.w) % s.c];
            }
        }
        let ys = direct::forward(&s, &xs, &weight, Some(&bias), Activation::Identity);
        assert_close("ys", &s.forward(&xs, &weight, Some(&bias), Activation::Identity), &ys);
        // With one more channel, different everywhere but of no weight, no image has a background.
        let more = ConvShape::new((s.n, s.c + 1, s.h, s.w), (s.o, s.c + 1, s.kernel.0, s.kernel.1), s.geometry);
        let more = more.unwrap();
        let noise = random(rng, s.n * s.h * s.w);
        let images = xs.chunks_exact(s.input()).zip(noise.chunks_exact(s.h * s.w));
        let noisy: Vec<f32> = images.flat_map(|(image, noise)| [image, noise].concat()).collect();
        let longer = |w: &[f32]| [w, &vec![0.0; s.kernel.0 * s.kernel.1]].concat();
        let weight: Vec<f32> = weight.chunks_exact(s.k).flat_map(longer).collect();
        prop_assert_eq!(ys, direct::forward(&more, &noisy, &weight, Some(&bias), Activation::Identity));
    }
}

#[test]
fn images_of_one_colour_are_convolved() {
    let s = ConvShape::new((2, 30, 7, 5), (4, 30, 3, 2), Conv2dGeometry { stride: 1, padding: 0 }).unwrap();
    let rng = &mut Xoshiro256PlusPlus::seed_from_u64(1);
    let weight = random(rng, s.o * s.k);
    let xs = [vec![0.5; s.input()], vec![-2.0; s.input()]].concat();
    let ys = s.forward(&xs, &weight, None, Activation::Identity);
    for (i, map) in ys.chunks_exact(s.p).enumerate() {
        let sum: f32 = weight[i % s.o * s.k..][..s.k].iter().sum();
        assert_close("map", map, &vec![sum * if i < s.o { 0.5 } else { -2.0 }; s.p]);
    }
}

#[test]
fn sparse_gradients_have_the_same_bits_with_any_number_of_threads() {
    let s = ConvShape::new((37, 16, 9, 8), (10, 16, 3, 3), Conv2dGeometry { stride: 1, padding: 1 }).unwrap();
    let rng = &mut Xoshiro256PlusPlus::seed_from_u64(1);
    let (xs, weight) = (random(rng, s.n * s.input()), random(rng, s.o * s.k));
    let grad_ys = sparse_values(rng, s.n * s.output(), 0.1);
    let ys = random(rng, s.n * s.output());
    let run = |threads: usize, wanted: Wanted| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let grad_ys = Gradient::Dense(grad_ys.clone());
        let grads = pool.install(|| s.backward(&xs, &weight, (Activation::Relu, &ys), grad_ys, wanted));
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        (grads.xs.map(bits), grads.weight.map(bits), bits(grads.bias))
    };
    let one = run(1, BOTH);
    for threads in [2, 3, 8] {
        assert_eq!(one, run(threads, BOTH));
    }
    // What else is wanted makes no difference either.
    assert_eq!(one.0, run(2, Wanted { xs: true, weight: false }).0);
    assert_eq!(one.1, run(2, Wanted { xs: false, weight: true }).1);
}

#[test]
fn sparse_sums_are_chosen_by_density_and_only_if_channels_fill_a_vector() {
    let rng = &mut Xoshiro256PlusPlus::seed_from_u64(1);
    let mut choose = |channels: usize, density: f64| {
        let s =
            ConvShape::new((16, channels, 12, 12), (8, channels, 3, 3), Conv2dGeometry::default()).unwrap();
        let values = sparse_values(rng, s.n * s.output(), density);
        s.choose(Maps { f: Activation::Identity, values: &values, ys: &values, size: s.p, positions: None })
    };
    // Without vector instructions one channel fills a vector.
    if lanes() > 1 {
        assert_eq!(choose(1, 0.1), Choice::FewChannels);
    }
    assert!(matches!(choose(32, 0.1), Choice::Sparse { density, .. } if (density - 0.1).abs() < 0.03));
    assert!(matches!(choose(32, 1.0), Choice::Dense { density, .. } if density > 0.99));
}
