//! A step of networks of other layers with everything recorded, beside PyTorch without hooks, in turns:
//! `RAYON_NUM_THREADS=2 cargo bench -p taper --bench networks --profile dev -- PYTHON`, where PYTHON has torch; names of
//! networks behind it choose some.
//!
//! `batch_norm`: 128 images of 28 by 28, two convolutions of 3 by 3 with 8 and 16 channels, each with batch normalisation,
//! ReLU and max-pooling, SGD with momentum. `transformer`: 64 samples of 28 tokens, 64 features, 4 heads, an MLP four times as
//! wide, GELU, AdamW. The inputs are random, and the same in every epoch: speed does not depend on their values.

#![allow(missing_docs)]

#[path = "../tests/transformer/mod.rs"]
mod transformer;

use std::process::Command;
use std::time::Instant;

use candle_core::{Device, Error, Result, Tensor};
use candle_nn::VarBuilder;
use rand_distr::{Distribution, StandardNormal};
use taper::hooks::{Activation, Observer, Recorder, rng};
use taper::nn::{
    Act, BatchNorm2d, Conv2d, Conv2dConfig, Conv2dGeometry, Init, Linear, Model, Params, Pass, max_pool2d,
};
use taper::train::{Optimizer, OptimizerConfig, Rule, Step, cross_entropy, train_epoch};
use transformer::Transformer;

// As in the `mnist` example.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOKENS: usize = 28;
/// In a turn.
const STEPS: usize = 200;
const ROUNDS: usize = 7;

struct BatchNormNet {
    layers: [(Conv2d, BatchNorm2d, Act); 2],
    fc: Linear,
}

impl BatchNormNet {
    fn new(vb: VarBuilder) -> Result<Self> {
        let layer = |i, o, name| {
            let geometry = Conv2dGeometry { stride: 1, padding: 1 };
            let (conv, vb) = (Conv2dConfig { geometry, ..Default::default() }, vb.pp(name));
            let norm = BatchNorm2d::new(o, Default::default(), vb.pp("bn"))?;
            Ok::<_, Error>((Conv2d::new(i, o, conv, vb.pp("conv"))?, norm, Act::new(Activation::Relu, vb)?))
        };
        let layers = [layer(1, 8, "1")?, layer(8, 16, "2")?];
        Ok(Self { layers, fc: Linear::new(16 * 7 * 7, 10, Init::PyTorch, vb.pp("fc"))? })
    }
}

impl Model for BatchNormNet {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.clone();
        for (conv, norm, act) in &self.layers {
            xs = max_pool2d(&norm.forward_act(pass, &conv.forward(&xs)?, act)?, (2, 2), (2, 2))?;
        }
        self.fc.forward(&xs.flatten_from(1)?)
    }
}

struct Case {
    name: &'static str,
    /// Shape of a batch.
    shape: &'static [usize],
    rule: Rule,
    learning_rate: f64,
    model: fn(VarBuilder) -> Result<Box<dyn Model + Send + Sync>>,
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let (python, chosen) = args.split_first().map_or((None, &args[..]), |(first, rest)| (Some(first), rest));
    let momentum = Rule::Sgd { momentum: 0.9, nesterov: false, weight_decay: 1e-3 };
    let cases = [
        Case {
            name: "batch_norm",
            shape: &[128, 1, 28, 28],
            rule: momentum,
            learning_rate: 0.02,
            model: |vb| Ok(Box::new(BatchNormNet::new(vb)?)),
        },
        Case {
            name: "transformer",
            shape: &[64, TOKENS, TOKENS],
            rule: Rule::adamw(0.01),
            learning_rate: 1e-3,
            model: |vb| Ok(Box::new(Transformer::new((TOKENS, TOKENS), (64, 4), 10, vb)?)),
        },
    ];
    println!("microseconds a step; above 1.0 Taper with everything recorded is faster");
    let is_chosen = |case: &&Case| chosen.is_empty() || chosen.iter().any(|name| name == case.name);
    cases.iter().filter(is_chosen).try_for_each(|case| case.run(python.map(String::as_str)))
}

impl Case {
    fn run(&self, python: Option<&str>) -> anyhow::Result<()> {
        let params = Params::new(1, &Device::Cpu);
        let net = (self.model)(params.builder())?;
        let config = OptimizerConfig::new(self.rule, self.learning_rate);
        let mut optimizer = Optimizer::new(params.vars(), config)?.buffers(params.buffers());
        let step = |pass: &mut Pass<'_>, (xs, ys): &(Tensor, Tensor)| {
            Ok(Step::new(cross_entropy(&net.forward(pass, xs)?, ys)?, xs.dim(0)?))
        };
        let (mut random, n) = (rng(2), self.shape[0]);
        let mut batch = |i| {
            let values = (0..self.shape.iter().product()).map(|_| StandardNormal.sample(&mut random));
            let xs = Tensor::from_vec(values.collect::<Vec<f32>>(), self.shape, &Device::Cpu)?;
            let labels = (0..n as u32).map(|j| (i + j) % 10).collect();
            Ok((xs, Tensor::from_vec(labels, n, &Device::Cpu)?))
        };
        let batches = (0..16).map(&mut batch).collect::<Result<Vec<_>>>()?;
        // Microseconds a step.
        let mut ours = |observer: &mut dyn Observer| -> anyhow::Result<f64> {
            let start = Instant::now();
            let batches = batches.iter().cycle().take(STEPS).map(|batch| Result::Ok(batch.clone()));
            train_epoch(&step, &mut optimizer, batches, observer, 1)?;
            Ok(1e6 * start.elapsed().as_secs_f64() / STEPS as f64)
        };
        println!("{:12} {:>9} {:>9} {:>9} {:>6}", self.name, "off", "full", "PyTorch", "ratio");
        ours(&mut ())?;
        let mut ratios = Vec::new();
        for round in 1..=ROUNDS {
            let (off, full) = (ours(&mut ())?, ours(&mut Recorder::new())?);
            let other = python.map(|python| self.theirs(python)).transpose()?.unwrap_or(f64::NAN);
            println!("{round:12} {off:>9.0} {full:>9.0} {other:>9.0} {:>6.2}", other / full);
            ratios.push(other / full);
        }
        ratios.sort_by(f64::total_cmp);
        println!("median ratio {:.2}, {:.2} to {:.2}", ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1]);
        Ok(())
    }

    fn theirs(&self, python: &str) -> anyhow::Result<f64> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/pytorch_networks.py");
        let threads = rayon::current_num_threads().to_string();
        let run = Command::new(python).args([script, self.name, "--threads", &threads]).output()?;
        let text = String::from_utf8_lossy(&run.stdout);
        let found = text.trim().parse();
        found.map_err(|_| anyhow::anyhow!("{python}: {}", String::from_utf8_lossy(&run.stderr).trim()))
    }
}
