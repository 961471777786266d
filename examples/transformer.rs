//! A transformer that classifies images. Each row of an image is a token. Activations and the residual stream are recorded.
//!
//! `LayerNorm`, `self_attention` and `add` are Taper's: candle's `LayerNorm` and its fused softmax have no backward pass.
//!
//!     cargo run --example transformer
//!     cargo run --example transformer -- --dataset mnist --blocks 1,2
//!     cargo run --example transformer -- --resume runs/NAME

use std::process::ExitCode;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap::Parser;
use serde::{Deserialize, Serialize};
use taper::data::ImageSet;
use taper::nn::{Act, Activation, Init, LayerNorm, Linear, Mask, Model, Pass, Tap, Units};
use taper::nn::{add, mean_of_steps, self_attention};
use taper::train::{CROSS_ENTROPY, classify};
use taper_experiment::{ImageOptions, Options, Setup, Sweep, Trial};

/// Train a transformer on the rows of images and see which of its units are used.
#[derive(Parser, Serialize, Deserialize)]
#[command(next_help_heading = "Model", mut_arg("optimizer", |arg| arg.default_value("adamw")))]
#[command(mut_arg("dataset", |arg| arg.default_value("digits")), mut_arg("scale", |arg| arg.default_value("unit")))]
#[command(mut_arg("epochs", |arg| arg.default_value("10")), mut_arg("batch_size", |arg| arg.default_value("64")))]
struct Args {
    /// Activation after the first layer of every MLP, one run each
    #[arg(long, value_name = "A[,B...]", default_value = "relu")]
    act: Sweep<Activation>,
    /// Blocks of attention and MLP, one run each
    #[arg(long, value_name = "N[,N...]", default_value = "2")]
    blocks: Sweep<u8>,
    #[command(flatten)]
    #[serde(flatten)]
    images: ImageOptions,
    #[command(flatten)]
    #[serde(flatten)]
    options: Options,
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
    fn new(f: Activation, vb: VarBuilder) -> Result<Self> {
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

    /// `xs`: `(N, T, F)`; the result too.
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
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
    fn new(images: &ImageSet, blocks: u8, f: Activation, vb: VarBuilder) -> Result<Self> {
        let (_, h, w) = images.shape();
        let start = candle_nn::Init::Randn { mean: 0.0, stdev: 0.02 };
        let block = |i| Block::new(f, vb.pp(format!("block{i}")));
        Ok(Self {
            embed: Linear::new(w, WIDTH, Init::LeCun, vb.pp("embed"))?,
            position: vb.get_with_hints((h, WIDTH), "position", start)?,
            blocks: (1..=blocks).map(block).collect::<Result<_>>()?,
            norm: LayerNorm::new(WIDTH, vb.pp("norm"))?,
            head: Linear::new(WIDTH, images.classes(), Init::LeCun, vb.pp("head"))?,
        })
    }
}

impl Model for Transformer {
    /// `xs`: `(N, 1, H, W)`; the result is `(N, classes)`.
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let mut xs = add(&self.embed.forward(&xs.squeeze(1)?)?, &self.position)?;
        for block in &self.blocks {
            xs = block.forward(pass, &xs)?;
        }
        self.head.forward(&mean_of_steps(&self.norm.forward(&xs)?)?)
    }
}

fn train(args: &Args, trial: &mut Trial<'_, ImageSet>) -> taper_experiment::Result<()> {
    let blocks = *args.blocks;
    let net = Transformer::new(&trial.data.train, blocks, *args.act, trial.params.builder())?;
    trial.start(format!("transformer of {blocks} blocks, {WIDTH} features, {HEADS} heads"), CROSS_ENTROPY)?;
    trial.fit(&classify(&net))
}

fn main() -> ExitCode {
    taper_experiment::run(|args: &mut Args, setup: &Setup<'_>| args.images.load(setup), train)
}
