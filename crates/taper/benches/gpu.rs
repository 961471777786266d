//! What a CUDA device computes, compared with the CPU, and how fast it trains: `gpu check`, and `gpu train mlp recorded`.
//! `benches/gpu.sh` runs all of it next to PyTorch. Without a GPU it says so and succeeds.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use rand::RngExt;
use taper::kernels::{
    Activation, Conv2dGeometry, Rule, Slots, activate, conv2d_act, cross_entropy, cuda, dropout, linear_act,
    max_pool2d, prelu, softmax,
};
use taper::prelude::*;
use taper::report::LayerStats;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let device = match cuda(0) {
        Ok(device) => device,
        Err(error) => {
            println!("skipped: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let done = match words[..] {
        ["train", model, observed] => train(&device, model, observed, "sgd"),
        ["train", model, observed, rule] => train(&device, model, observed, rule),
        ["pools"] => pools(&device),
        ["bits", width] => bits(&device, width),
        _ => check(&device),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn random(seed: u64, shape: &[usize]) -> Result<Tensor> {
    let mut rng = rng(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

/// The largest difference, relative to the largest value; infinite where only one is NaN or infinite.
fn apart(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (flat(a)?, flat(b)?);
    ensure!(a.len() == b.len(), "expected {} values, found {}", a.len(), b.len());
    let scale = b.iter().filter(|x| x.is_finite()).fold(1e-6_f32, |top, x| top.max(x.abs()));
    let of = |(a, b): (&f32, &f32)| match (a.is_finite(), b.is_finite()) {
        (true, true) => f64::from((a - b).abs() / scale),
        _ if a.is_nan() && b.is_nan() || a == b => 0.0,
        _ => f64::INFINITY,
    };
    Ok(a.iter().zip(&b).map(of).fold(0.0, f64::max))
}

struct Checks {
    passed: usize,
    failed: usize,
}

impl Checks {
    fn that(&mut self, what: &str, found: Result<f64>, bound: f64) {
        match found {
            Ok(found) if found <= bound => self.passed += 1,
            Ok(found) => {
                println!("FAIL {what}: {found:.2e} above {bound:.0e}");
                self.failed += 1;
            }
            Err(error) => {
                println!("FAIL {what}: {error:#}");
                self.failed += 1;
            }
        }
    }
}

type Op<'a> = &'a dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>;

/// Values and gradients of an operation on both devices.
fn both(device: &Device, inputs: &[Tensor], op: Op<'_>) -> Result<f64> {
    let on = |device: &Device| -> Result<Vec<Tensor>> {
        let vars = inputs
            .iter()
            .map(|t| Var::from_tensor(&t.to_device(device)?))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let given: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let ys = op(&given)?;
        let weights = random(99, ys.dims())?.to_device(device)?;
        let gradients = (&ys * weights)?.sum_all()?.backward()?;
        let own = given.iter().map(|v| gradients.get(v).cloned().unwrap_or_else(|| v.detach()));
        Ok([ys].into_iter().chain(own).collect())
    };
    let (a, b) = (on(device)?, on(&Device::Cpu)?);
    a.iter().zip(&b).map(|(a, b)| apart(a, b)).try_fold(0.0, |worst: f64, apart| Ok(worst.max(apart?)))
}

fn check(device: &Device) -> Result<()> {
    let mut checks = Checks { passed: 0, failed: 0 };
    let edges = [
        f32::NEG_INFINITY,
        f32::MIN,
        -100.0,
        -3.0,
        -1e-30,
        0.0,
        1e-30,
        3.0,
        6.0,
        100.0,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
    ];
    for f in Activation::ALL {
        checks.that(&format!("{f}"), both(device, &[random(1, &[7, 33])?], &|xs| activate(&xs[0], f)), 1e-5);
        let edges = Tensor::new(&edges, &Device::Cpu)?;
        let there = activate(&edges.to_device(device)?, f)?;
        checks.that(&format!("{f} at the edges"), apart(&there, &activate(&edges, f)?), 1e-5);
    }
    checks.that(
        "prelu",
        both(device, &[random(1, &[7, 33])?, random(2, &[1])?], &|xs| prelu(&xs[0], &xs[1])),
        1e-5,
    );
    for (n, i, o) in [(1, 5, 3), (128, 784, 512), (33, 100, 257)] {
        for f in [Activation::Identity, Activation::Relu, Activation::Tanh] {
            let inputs = [random(1, &[n, i])?, random(2, &[o, i])?, random(3, &[o])?];
            let op = |xs: &[Tensor]| linear_act(&xs[0], &xs[1], Some(&xs[2]), f);
            checks.that(&format!("linear {n} {i} {o} {f}"), both(device, &inputs, &op), 1e-4);
        }
    }
    for (shape, o, k, stride, padding) in [
        ([2, 1, 28, 28], 4, 3, 1, 0),
        ([3, 5, 9, 7], 6, 3, 2, 1),
        ([2, 3, 11, 11], 2, 5, 3, 2),
        ([4, 8, 6, 6], 8, 1, 1, 0),
    ] {
        let inputs = [random(1, &shape)?, random(2, &[o, shape[1], k, k])?, random(3, &[o])?];
        let geometry = Conv2dGeometry { stride, padding };
        let op = |xs: &[Tensor]| conv2d_act(&xs[0], &xs[1], Some(&xs[2]), geometry, Activation::Relu);
        checks.that(
            &format!("conv2d {shape:?} {o} {k} {stride} {padding}"),
            both(device, &inputs, &op),
            1e-4,
        );
    }
    for (kernel, stride) in [((2, 2), (2, 2)), ((3, 2), (2, 1)), ((3, 3), (1, 1)), ((2, 2), (3, 3))] {
        let op = |xs: &[Tensor]| max_pool2d(&xs[0], kernel, stride);
        checks.that(
            &format!("max_pool2d {kernel:?} {stride:?}"),
            both(device, &[random(1, &[2, 3, 9, 8])?], &op),
            0.0,
        );
    }
    for rate in [0.25, 0.5] {
        let op = |xs: &[Tensor]| dropout(&xs[0], rate, 7);
        checks.that("dropout draws the bits of the CPU", both(device, &[random(1, &[9, 3, 7])?], &op), 1e-6);
    }
    checks.that("softmax", both(device, &[random(1, &[9, 7])?], &|xs| softmax(&xs[0], 1)), 1e-5);
    let labels = Tensor::new(&[0_u32, 9, 3, 3, 1], &Device::Cpu)?;
    let op = |xs: &[Tensor]| cross_entropy(&xs[0], &labels);
    checks.that("cross_entropy", both(device, &[random(1, &[5, 10])?], &op), 1e-5);
    for (what, labels) in [("here", labels.clone()), ("there", labels.to_device(device)?)] {
        let logits = random(1, &[5, 9])?;
        let (there, here) = (
            cross_entropy(&logits.to_device(device)?, &labels),
            cross_entropy(&logits, &labels.to_device(&Device::Cpu)?),
        );
        let same = there.map_err(|e| e.to_string()).err() == here.map_err(|e| e.to_string()).err();
        checks.that(&format!("a label that is no class, {what}"), Ok(f64::from(!same)), 0.0);
    }
    optimisers(device, &mut checks)?;
    recorders(device, &mut checks)?;
    trainings(device, &mut checks)?;
    println!("{} passed, {} failed", checks.passed, checks.failed);
    ensure!(checks.failed == 0, "the GPU and the CPU differ");
    Ok(())
}

fn optimisers(device: &Device, checks: &mut Checks) -> Result<()> {
    for name in ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "adadelta"] {
        let rule = taper::train::parse_rule(name, None)?.0;
        let moved = |device: &Device| -> Result<Tensor> {
            let var = Var::from_tensor(&random(1, &[17, 9])?.to_device(device)?)?;
            let mut slots = Slots::new(&rule, &var)?;
            for step in 1..=10 {
                slots.step(
                    &rule,
                    &var,
                    &random(step, &[17, 9])?.to_device(device)?.into(),
                    0.01,
                    step,
                    false,
                )?;
            }
            Ok(var.as_detached_tensor())
        };
        checks.that(name, apart(&moved(device)?, &moved(&Device::Cpu)?), 1e-5);
    }
    Ok(())
}

/// Whether two recorders agree, to `bound` where sums of floats are compared.
fn differ(a: &LayerStats, b: &LayerStats) -> Result<f64> {
    let counts = |s: &LayerStats| {
        [
            s.units,
            s.samples,
            s.values,
            s.zeros,
            s.negatives,
            s.positives,
            s.near_zeros,
            s.nan,
            s.infinite,
            s.always_on,
            s.dead.unwrap_or(0),
        ]
    };
    ensure!(counts(a) == counts(b), "counts {:?} and {:?}", counts(a), counts(b));
    let apart: u64 = match (&a.histogram, &b.histogram) {
        (Some(a), Some(b)) => {
            let all = |h: &taper::report::Histogram| {
                [h.positive.clone(), h.negative.clone(), vec![h.zeros]].concat()
            };
            all(a).iter().zip(all(b)).map(|(a, b)| a.abs_diff(b)).sum()
        }
        _ => 0,
    };
    ensure!(apart == 0, "histograms differ in {apart} values");
    let floats = |s: &LayerStats| {
        [
            s.mean,
            s.variance,
            s.skewness,
            s.excess_kurtosis,
            s.min,
            s.max,
            s.flat_low,
            s.flat_high,
            s.population_sparseness,
            s.hoyer,
            s.lifetime_sparseness,
            s.active_per_sample.as_ref().map(|a| a.mean),
        ]
    };
    let mut worst = 0.0_f64;
    for (a, b) in floats(a).into_iter().zip(floats(b)) {
        ensure!(a.is_some() == b.is_some(), "{a:?} and {b:?}");
        let (a, b) = (a.unwrap_or(0.0), b.unwrap_or(0.0));
        worst = worst.max((a - b).abs() / b.abs().max(0.1));
    }
    Ok(worst)
}

fn recorders(device: &Device, checks: &mut Checks) -> Result<()> {
    let shapes: [(&[usize], Units); 5] = [
        (&[128, 300], Units::Last),
        (&[3, 1], Units::Last),
        (&[16, 5, 13, 11], Units::Second),
        (&[7, 40, 33], Units::Last),
        (&[2, 3, 700], Units::Second),
    ];
    for (shape, units) in shapes {
        for f in Activation::ALL {
            let site = taper::hooks::Site::behind("site", f).units(units);
            let seen = |device: &Device| -> Result<LayerStats> {
                let mut recorder = Recorder::new();
                for seed in 0..3 {
                    // The values of the CPU, so that both measure the same; one of them far from the others.
                    let mut xs = flat(&random(seed, shape)?)?;
                    xs[0] = 40.0;
                    if seed == 2 && xs.len() > 50 {
                        (xs[5], xs[9], xs[40]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
                    }
                    let xs = Tensor::from_vec(xs, shape, &Device::Cpu)?;
                    let ys = activate(&xs, f)?;
                    Pass::train(&mut recorder, 1, seed).see(
                        &site,
                        &xs.to_device(device)?,
                        &ys.to_device(device)?,
                    )?;
                }
                Ok(recorder.finish().remove(0))
            };
            let found = seen(device).and_then(|there| differ(&there, &seen(&Device::Cpu)?));
            checks.that(&format!("recorder {shape:?} {f}"), found, 1e-6);
        }
    }
    Ok(())
}

fn network(device: &Device, model: &str) -> Result<(Params, Box<dyn Model + Send + Sync>)> {
    let params = Params::new(1, device);
    let net: Box<dyn Model + Send + Sync> = match model {
        "cnn" => Box::new(Cnn::new(&CnnConfig::default(), params.builder())?),
        "digits" => Box::new(Mlp::new(
            &MlpConfig { inputs: 64, widths: vec![64, 32], dropout: 0.2, ..Default::default() },
            params.builder(),
        )?),
        widths => {
            let widths = match widths {
                "mlp" => vec![512, 256],
                width => vec![width.parse().context("a model is mlp, cnn or a width")?; 2],
            };
            Box::new(Mlp::new(&MlpConfig { inputs: 784, widths, ..Default::default() }, params.builder())?)
        }
    };
    Ok((params, net))
}

fn trainings(device: &Device, checks: &mut Checks) -> Result<()> {
    let trained = |device: &Device, rule: &str| -> Result<(f64, Vec<u64>)> {
        let data = taper::data::digits()?.on(device);
        let (params, net) = network(device, "digits")?;
        let (rule, rate) = taper::train::parse_rule(rule, None)?;
        let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(rule, rate))?;
        let (mut recorder, mut order) = (Recorder::new(), rng(3));
        let (mut loss, mut zeros) = (0.0, Vec::new());
        for _ in 0..3 {
            let batches = data.train.shuffled(&mut order, 32);
            loss = train_epoch(&classify(&*net), &mut optimizer, batches, &mut recorder, 1)?.score.loss;
            zeros = recorder.finish().iter().map(|layer| layer.zeros).collect();
        }
        Ok((loss, zeros))
    };
    for rule in ["sgd", "adamw"] {
        let ((loss, zeros), (expected, expected_zeros)) =
            (trained(device, rule)?, trained(&Device::Cpu, rule)?);
        checks.that(&format!("loss of digits, {rule}: {loss}"), Ok((loss - expected).abs()), 2e-3);
        for (a, b) in zeros.iter().zip(&expected_zeros) {
            checks.that(&format!("zeros of digits, {rule}"), Ok(a.abs_diff(*b) as f64 / *b as f64), 5e-3);
        }
        let again = trained(device, rule)?;
        checks.that("the same bits twice", Ok(f64::from((loss, zeros) != again)), 0.0);
    }
    // A NaN weight is found and ends training, with the place.
    let (params, net) = network(device, "digits")?;
    let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1))?;
    let weight = params.vars().swap_remove(0).1;
    weight.set(&(weight.as_detached_tensor() * f64::NAN)?)?;
    let data = taper::data::digits()?.on(device);
    let error =
        train_epoch(&classify(&*net), &mut optimizer, data.train.batches(32), &mut Recorder::new(), 1);
    let found = error.err().map(|error| error.to_string()).unwrap_or_default();
    println!("a NaN weight: {found}");
    checks.that("a NaN weight is found", Ok(f64::from(!found.contains("fc1"))), 0.0);
    Ok(())
}

/// Random images, so that no file is needed.
fn images(n: usize, device: &Device) -> Result<taper::data::ImageSet> {
    let mut rng = rng(5);
    let pixels = (0..n * 784).map(|_| rng.random_range(0..=255_u8)).collect();
    let labels: Vec<u32> = (0..n as u32).map(|i| i % 10).collect();
    let split = taper::data::ImageSet::new("random", (1, 28, 28), 255, 10, pixels, labels)?;
    Ok(taper::data::Dataset::new("random", split.clone(), split)?.on(device).train)
}

/// Samples per second of epochs of 60,000 images in batches of 128.
fn train(device: &Device, model: &str, observed: &str, rule: &str) -> Result<()> {
    let data = images(60_000, device)?;
    let (params, net) = network(device, model)?;
    let (rule, _) = taper::train::parse_rule(rule, None)?;
    let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(rule, 0.01))?;
    let (mut recorder, mut nobody, mut order) = (Recorder::new(), (), rng(3));
    let mut best = (0.0_f64, 0.0);
    for epoch in 0..4 {
        let observer: &mut dyn Observer = if observed == "recorded" { &mut recorder } else { &mut nobody };
        let (start, batches) = (Instant::now(), data.shuffled(&mut order, 128));
        let report = train_epoch(&classify(&*net), &mut optimizer, batches, observer, 1)?;
        recorder.finish();
        device.synchronize()?;
        if epoch > 0 {
            best = (
                best.0.max(60_000.0 / start.elapsed().as_secs_f64()),
                report.tracking_seconds / report.seconds,
            );
        }
    }
    println!("taper {model} {observed}: {:.0} samples/s, tracking {:.1} %", best.0, 100.0 * best.1);
    Ok(())
}

/// Trainings of wide layers in thread pools of their own, which end with them.
fn pools(device: &Device) -> Result<()> {
    let (start, data) = (Instant::now(), images(1280, device)?);
    for i in 0..100 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(16).build()?;
        pool.install(|| -> Result<()> {
            let (params, net) = network(device, "3072")?;
            let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adamw(0.0), 1e-3))?;
            let batches = data.batches(64);
            train_epoch(&classify(&*net), &mut optimizer, batches, &mut (), i)?;
            Ok(())
        })?;
    }
    println!("100 trainings of 20 steps in pools of their own: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The loss of 40 steps with 16 threads and with one.
fn bits(device: &Device, width: &str) -> Result<()> {
    let data = images(5120, device)?;
    let run = |threads: usize| -> Result<u64> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| {
            let (params, net) = network(device, width)?;
            let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adamw(0.0), 1e-3))?;
            let report = train_epoch(&classify(&*net), &mut optimizer, data.batches(128), &mut (), 1)?;
            let sum: f64 = params
                .vars()
                .iter()
                .map(|(_, v)| Ok(v.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?))
                .sum::<Result<f64>>()?;
            Ok(report.score.loss.to_bits() ^ sum.to_bits())
        })
    };
    let (one, many) = (run(1)?, run(16)?);
    println!(
        "width {width}: the bits of 1 and 16 threads are {}",
        if one == many { "equal" } else { "NOT equal" }
    );
    ensure!(one == many, "bits differ");
    Ok(())
}
