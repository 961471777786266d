//! A step of a transformer block with everything recorded, beside PyTorch without hooks, in turns:
//! `RAYON_NUM_THREADS=2 cargo bench -p taper --bench transformer --profile dev -- PYTHON`, where PYTHON has torch.
//!
//! 64 samples of 28 tokens, 64 features, 4 heads, an MLP four times as wide, GELU, AdamW. The inputs are random, and the
//! same in every epoch: speed does not depend on their values.

#![allow(missing_docs)]

use std::process::Command;
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use rand_distr::{Distribution, StandardNormal};
use taper::hooks::{Activation, Observer, Recorder, rng};
use taper::nn::{Act, Init, LayerNorm, Linear, Mask, Model, Params, Pass, add, self_attention};
use taper::train::{Optimizer, OptimizerConfig, Rule, Step, cross_entropy, train_epoch};

// As in the `mnist` example.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 64;
const TOKENS: usize = 28;
const WIDTH: usize = 64;
const HEADS: usize = 4;
/// In a turn.
const STEPS: usize = 200;
const ROUNDS: usize = 7;

struct Transformer {
    embed: Linear,
    position: Tensor,
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    up: Linear,
    act: Act,
    down: Linear,
    norm3: LayerNorm,
    head: Linear,
}

impl Transformer {
    fn new(vb: VarBuilder) -> Result<Self> {
        let linear = |i, o, name| Linear::new(i, o, Init::PyTorch, vb.pp(name));
        let norm = |name| LayerNorm::new(WIDTH, vb.pp(name));
        let start = candle_nn::Init::Randn { mean: 0.0, stdev: 0.02 };
        Ok(Self {
            embed: linear(TOKENS, WIDTH, "embed")?,
            position: vb.get_with_hints((TOKENS, WIDTH), "position", start)?,
            norm1: norm("norm1")?,
            qkv: linear(WIDTH, 3 * WIDTH, "qkv")?,
            proj: linear(WIDTH, WIDTH, "proj")?,
            norm2: norm("norm2")?,
            up: linear(WIDTH, 4 * WIDTH, "up")?,
            act: Act::new(Activation::Gelu, vb.pp("up"))?,
            down: linear(4 * WIDTH, WIDTH, "down")?,
            norm3: norm("norm3")?,
            head: linear(WIDTH, 10, "head")?,
        })
    }
}

impl Model for Transformer {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let xs = add(&self.embed.forward(xs)?, &self.position)?;
        let qkv = self.qkv.forward(&self.norm1.forward(&xs)?)?;
        let xs = add(&xs, &self.proj.forward(&self_attention(&qkv, HEADS, Mask::None)?)?)?;
        let hidden = self.up.forward_act(pass, &self.norm2.forward(&xs)?, &self.act)?;
        let xs = add(&xs, &self.down.forward(&hidden)?)?;
        self.head.forward(&self.norm3.forward(&xs)?.mean(1)?)
    }
}

fn main() -> anyhow::Result<()> {
    let python = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let params = Params::new(1, &Device::Cpu);
    let net = Transformer::new(params.builder())?;
    let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adamw(0.01), 1e-3))?;
    let step = |pass: &mut Pass<'_>, (xs, ys): &(Tensor, Tensor)| {
        Ok(Step::new(cross_entropy(&net.forward(pass, xs)?, ys)?, xs.dim(0)?))
    };
    let mut random = rng(2);
    let mut batch = |i: u32| {
        let values: Vec<f32> =
            (0..BATCH * TOKENS * TOKENS).map(|_| StandardNormal.sample(&mut random)).collect();
        let labels = (Tensor::arange(i, i + BATCH as u32, &Device::Cpu)?.to_dtype(DType::F64)? / 6.4)?;
        let xs = Tensor::from_vec(values, (BATCH, TOKENS, TOKENS), &Device::Cpu)?;
        Ok((xs, labels.to_dtype(DType::U32)?.clamp(0_u32, 9)?))
    };
    let batches = (0..16).map(&mut batch).collect::<Result<Vec<_>>>()?;
    // Microseconds a step.
    let mut ours = |observer: &mut dyn Observer| -> anyhow::Result<f64> {
        let start = Instant::now();
        let batches = batches.iter().cycle().take(STEPS).map(|(xs, ys)| Result::Ok((xs.clone(), ys.clone())));
        train_epoch(&step, &mut optimizer, batches, observer, 1)?;
        Ok(1e6 * start.elapsed().as_secs_f64() / STEPS as f64)
    };
    let theirs = |python: &str| -> anyhow::Result<f64> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/pytorch_transformer.py");
        let threads = rayon::current_num_threads().to_string();
        let run = Command::new(python).args([script, "--threads", &threads]).output()?;
        let text = String::from_utf8_lossy(&run.stdout);
        let found = text.trim().parse();
        found.map_err(|_| anyhow::anyhow!("{python}: {}", String::from_utf8_lossy(&run.stderr).trim()))
    };
    println!("microseconds a step; above 1.0 Taper with everything recorded is faster");
    println!("{:>5} {:>9} {:>9} {:>9} {:>6}", "", "off", "full", "PyTorch", "ratio");
    ours(&mut ())?;
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let mut recorder = Recorder::new();
        let (off, full) = (ours(&mut ())?, ours(&mut recorder)?);
        let other = python.as_deref().map(theirs).transpose()?.unwrap_or(f64::NAN);
        println!("{round:>5} {off:>9.0} {full:>9.0} {other:>9.0} {:>6.2}", other / full);
        ratios.push(other / full);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}, {:.2} to {:.2}", ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1]);
    Ok(())
}
