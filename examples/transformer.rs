//! A transformer on images, with each row of the image as a token. Activations and the residual stream are recorded.
//! It uses Taper's `LayerNorm`, `self_attention` and `add`, because candle's `LayerNorm` and fused softmax have no backward pass.
//!
//!     cargo run --example transformer
//!     cargo run --example transformer -- --dataset mnist --blocks 2
//!
//! The same command resumes a run that was interrupted.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use clap::Parser;
use indicatif::ProgressBar;
use serde_json::json;
use taper::data::{self, Batch, Choice, Scale};
use taper::nn::{
    Act, Activation, Init, LayerNorm, Linear, Mask, Model, Params, Pass, Tap, Units, add, mean_of_steps,
    self_attention,
};
use taper::report::{ConsoleConfig, ConsoleSink, Run, Split, write_whole};
use taper::train::{
    CROSS_ENTROPY, Optimizer, OptimizerConfig, Rule, Session, SessionConfig, Step, cross_entropy,
};
use taper_examples::{at_least_one, start};
use taper_view::{html_report, load_runs};

/// Train a transformer on the rows of images and see which of its units are used.
#[derive(Parser)]
struct Args {
    /// auto (mnist, or digits where it cannot be had), mnist, fashion-mnist, kmnist or digits
    #[arg(long, default_value_t = Choice::Digits)]
    dataset: Choice,
    /// Behind the first layer of every MLP
    #[arg(long, default_value = "relu")]
    act: Activation,
    /// Blocks of attention and MLP
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = at_least_one::<u32>)]
    blocks: u32,
    /// Passes over the training data
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = at_least_one::<u32>)]
    epochs: u32,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the run is written, and resumed if it is there
    #[arg(long, value_name = "DIR", default_value = "runs/transformer")]
    out: PathBuf,
}

/// Features of a token, and heads that share them.
const WIDTH: usize = 64;
const HEADS: usize = 4;

/// `xs + attention(norm(xs))`, and to that `+ mlp(norm(..))`.
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    up: Linear,
    act: Act,
    down: Linear,
    residual: Tap,
}

impl Block {
    fn new(f: Activation, vb: VarBuilder) -> candle_core::Result<Self> {
        let linear = |i, o, name| Linear::new(i, o, Init::LeCun, vb.pp(name));
        Ok(Self {
            norm1: LayerNorm::new(WIDTH, vb.pp("norm1"))?,
            qkv: linear(WIDTH, 3 * WIDTH, "qkv")?,
            proj: linear(WIDTH, WIDTH, "proj")?,
            norm2: LayerNorm::new(WIDTH, vb.pp("norm2"))?,
            up: Linear::new(WIDTH, 4 * WIDTH, Init::of(f), vb.pp("up"))?,
            act: Act::new(f, vb.pp("up"))?,
            down: linear(4 * WIDTH, WIDTH, "down")?,
            residual: Tap::at(vb.pp("residual"))?.units(Units::Last),
        })
    }
}

impl Model for Block {
    /// `xs`: `(N, T, F)`; the result too.
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let qkv = self.qkv.forward(&self.norm1.forward(xs)?)?;
        let xs = add(xs, &self.proj.forward(&self_attention(&qkv, HEADS, Mask::None)?)?)?;
        let hidden = self.up.forward_act(pass, &self.norm2.forward(&xs)?, &self.act)?;
        self.residual.forward(pass, &add(&xs, &self.down.forward(&hidden)?)?)
    }
}

struct Transformer {
    embed: Linear,
    position: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

impl Transformer {
    /// For images of `(rows, columns)`.
    fn new((h, w): (usize, usize), blocks: u32, f: Activation, vb: VarBuilder) -> candle_core::Result<Self> {
        let start = candle_nn::Init::Randn { mean: 0.0, stdev: 0.02 };
        Ok(Self {
            embed: Linear::new(w, WIDTH, Init::LeCun, vb.pp("embed"))?,
            position: vb.get_with_hints((h, WIDTH), "position", start)?,
            blocks: (1..=blocks)
                .map(|i| Block::new(f, vb.pp(format!("block{i}"))))
                .collect::<Result<_, _>>()?,
            norm: LayerNorm::new(WIDTH, vb.pp("norm"))?,
            head: Linear::new(WIDTH, 10, Init::LeCun, vb.pp("head"))?,
        })
    }
}

impl Model for Transformer {
    /// `xs`: `(N, 1, H, W)`; the result is `(N, 10)`.
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let mut xs = add(&self.embed.forward(&xs.squeeze(1)?)?, &self.position)?;
        for block in &self.blocks {
            xs = block.forward(pass, &xs)?;
        }
        self.head.forward(&mean_of_steps(&self.norm.forward(&xs)?)?)
    }
}

fn train(args: &Args) -> Result<()> {
    let env_dir = std::env::var_os("TAPER_DATA").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let options = data::Options { env_dir, ..Default::default() };
    let data = data::load(args.dataset, &options, &mut |_| {})?.scaled(Scale::Unit);
    let (_, h, w) = data.train.shape();

    let params = Params::of_run(args.seed, &Device::Cpu);
    let net = Transformer::new((h, w), args.blocks, args.act, params.builder())?;
    let optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adamw(0.01), 1e-3))?;
    let run = Run {
        name: "transformer".into(),
        dataset: data.name.clone(),
        model: format!("transformer of {} blocks, {WIDTH} features, {HEADS} heads", args.blocks),
        labels: [("act".into(), args.act.to_string().into()), ("blocks".into(), args.blocks.into())].into(),
        loss: CROSS_ENTROPY.into(),
        seed: args.seed,
        parameters: params.count() as u64,
        epochs: args.epochs,
        config: json!({ "data": data.checksum() }),
    };
    let mut session = Session::open(&args.out, run, &params, optimizer, SessionConfig::default())?;
    session.sink(ConsoleSink::stdout(ConsoleConfig { color: true, ..Default::default() }));

    let step = |pass: &mut Pass<'_>, batch: &Batch| {
        let logits = net.forward(pass, &batch.images)?;
        let guesses = logits.argmax(1)?.to_vec1::<u32>()?;
        let labels = batch.labels.to_vec1::<u32>()?;
        let right = guesses.iter().zip(&labels).filter(|(guess, label)| guess == label).count();
        let loss = cross_entropy(&logits, &batch.labels)?;
        Ok(Step::new(loss, batch.len()).share("accuracy", right as u64, batch.len() as u64))
    };
    while session.next_epoch()?.is_some() {
        let bar = ProgressBar::new((data.train.len() + data.test.len()) as u64);
        let advance =
            |batch: &data::Result<Batch>| bar.inc(batch.as_ref().map_or(0, |batch| batch.len() as u64));
        session.train(&step, |rng, done| data.train.shuffled(rng, 64).skip(done).inspect(advance))?;
        session.evaluate(&step, Split::Test, data.test.batches(256).inspect(advance))?;
        bar.finish_and_clear();
        session.end_epoch()?;
    }
    session.finish()?;
    let page = args.out.join("report.html");
    write_whole(&page, html_report(&load_runs(std::slice::from_ref(&args.out)).0).as_bytes())?;
    println!("look at {}", page.display());
    Ok(())
}

fn main() -> ExitCode {
    start(train)
}
