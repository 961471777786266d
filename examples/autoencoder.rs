//! An autoencoder: it compresses images to a few numbers and reconstructs them. The loss is the mean squared error between
//! output and input.
//!
//!     cargo run --example autoencoder
//!     cargo run --example autoencoder -- --dataset mnist --act relu,selu --jobs 2
//!     cargo run --example autoencoder -- --resume runs/NAME

use std::process::ExitCode;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use clap::Parser;
use serde::{Deserialize, Serialize};
use taper::data::ImageSet;
use taper::nn::{Act, Activation, Init, Linear, Model, Pass};
use taper::train::{MSE, reconstruct};
use taper_experiment::{Data, ImageOptions, Options, Result, Setup, Sweep, Trial, size};

/// Train an autoencoder and see which of its units are used.
#[derive(Parser, Serialize, Deserialize)]
#[command(next_help_heading = "Model")]
#[command(mut_arg("dataset", |arg| arg.default_value("digits")), mut_arg("scale", |arg| arg.default_value("unit")))]
#[command(mut_arg("epochs", |arg| arg.default_value("10")), mut_arg("batch_size", |arg| arg.default_value("64")))]
struct Args {
    /// Activation functions of the hidden layers, one run each
    #[arg(long, value_name = "A[,B...]", default_value = "relu")]
    act: Sweep<Activation>,
    /// Size of the code, one run each
    #[arg(long, value_name = "N[,N...]", default_value = "16", value_parser = taper_experiment::sweep(size))]
    code: Sweep<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    images: ImageOptions,
    #[command(flatten)]
    #[serde(flatten)]
    options: Options,
}

/// `inputs` → 128 → `code` → 128 → `inputs`
struct Autoencoder {
    hidden: Vec<(Linear, Act)>,
    out: Linear,
}

impl Autoencoder {
    fn new(inputs: usize, code: usize, f: Activation, vb: VarBuilder) -> candle_core::Result<Self> {
        let layer =
            |(i, o, name)| Ok((Linear::new(i, o, Init::of(f), vb.pp(name))?, Act::new(f, vb.pp(name))?));
        let sizes = [(inputs, 128, "encoder1"), (128, code, "encoder2"), (code, 128, "decoder1")];
        let hidden = sizes.into_iter().map(layer).collect::<candle_core::Result<_>>()?;
        Ok(Self { hidden, out: Linear::new(128, inputs, Init::LeCun, vb.pp("decoder2"))? })
    }
}

impl Model for Autoencoder {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let mut ys = xs.flatten_from(1)?;
        for (layer, act) in &self.hidden {
            ys = layer.forward_act(pass, &ys, act)?;
        }
        self.out.forward(&ys)
    }
}

fn load(args: &mut Args, setup: &Setup<'_>) -> Result<Data<ImageSet>> {
    args.images.load(setup)
}

fn train(args: &Args, trial: &mut Trial<'_, ImageSet>) -> Result<()> {
    let (c, h, w) = trial.data.train.shape();
    let (inputs, code) = (c * h * w, *args.code);
    let net = Autoencoder::new(inputs, code, *args.act, trial.params.builder())?;
    trial.start(format!("autoencoder {inputs}-128-{code}-128-{inputs}"), MSE)?;
    trial.fit(&reconstruct(&net))
}

fn main() -> ExitCode {
    taper_experiment::run(load, train)
}
