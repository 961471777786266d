//! Regression on custom data, with early stopping: Friedman's function of ten numbers, of which five matter. A `Table`
//! shuffles and batches tensors; the loop is plain Rust.
//!
//!     cargo run --example regression -- --patience 10
//!     cargo run --example regression -- --act relu,tanh --seeds 3
//!     cargo run --example regression -- --resume runs/NAME

use std::process::ExitCode;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use clap::Parser;
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};
use taper::data::Table;
use taper::hooks::{Rng, rng};
use taper::nn::{Act, Activation, Init, Linear, Model, Pass};
use taper::train::{MSE, regress};
use taper_experiment::{Data, Options, Result, Setup, Sweep, Trial, at_least_one};

/// Fit a function of ten numbers, with early stopping.
#[derive(Parser, Serialize, Deserialize)]
#[command(next_help_heading = "Model", mut_arg("epochs", |arg| arg.default_value("200")))]
#[command(mut_arg("batch_size", |arg| arg.default_value("32")), mut_arg("learning_rate", |arg| arg.default_value("0.003")))]
#[command(mut_arg("schedule", |arg| arg.default_value("constant")))]
struct Args {
    /// Activation functions of the hidden layers, one run each
    #[arg(long, value_name = "A[,B...]", default_value = "relu")]
    act: Sweep<Activation>,
    /// Stop if R² on the validation split has not improved for N epochs
    #[arg(long, default_value_t = 15, value_name = "N", value_parser = at_least_one::<u32>)]
    patience: u32,
    #[command(flatten)]
    #[serde(flatten)]
    options: Options,
}

/// Inputs `(n, 10)` and targets `(n, 1)`.
type Columns = Table<(Tensor, Tensor)>;

/// Friedman's first function (1991) of ten uniform numbers, with normal noise of variance 1: `(n, 10)` and `(n, 1)`.
fn friedman(n: usize, rng: &mut Rng) -> Result<Columns> {
    let xs: Vec<f32> = (0..n * 10).map(|_| rng.random()).collect();
    let noise = StandardNormal.sample_iter(rng);
    let y = |(x, noise): (&[f32], f32)| {
        let product = (std::f32::consts::PI * x[0] * x[1]).sin();
        10.0 * product + 20.0 * (x[2] - 0.5).powi(2) + 10.0 * x[3] + 5.0 * x[4] + noise
    };
    let ys: Vec<f32> = xs.chunks_exact(10).zip(noise).map(y).collect();
    let xs = Tensor::from_vec(xs, (n, 10), &Device::Cpu)?;
    Ok(Table::new((xs, Tensor::from_vec(ys, (n, 1), &Device::Cpu)?))?)
}

struct Net {
    hidden: Vec<(Linear, Act)>,
    out: Linear,
}

impl Net {
    fn new(f: Activation, vb: VarBuilder) -> candle_core::Result<Self> {
        let layer =
            |(i, o, name)| Ok((Linear::new(i, o, Init::of(f), vb.pp(name))?, Act::new(f, vb.pp(name))?));
        let hidden =
            [(10, 64, "fc1"), (64, 32, "fc2")].into_iter().map(layer).collect::<candle_core::Result<_>>()?;
        Ok(Self { hidden, out: Linear::new(32, 1, Init::LeCun, vb.pp("out"))? })
    }
}

impl Model for Net {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let mut ys = xs.clone();
        for (layer, act) in &self.hidden {
            ys = layer.forward_act(pass, &ys, act)?;
        }
        self.out.forward(&ys)
    }
}

fn load(_: &mut Args, _: &Setup<'_>) -> Result<Data<Columns>> {
    let data = &mut rng(3);
    let (train, validation) = (friedman(2000, data)?, friedman(500, data)?);
    let identity = [train.checksum()?, validation.checksum()?].join(" ").into();
    Ok(Data { name: "friedman1".into(), train, validation: Some(validation), test: None, identity })
}

fn train(args: &Args, trial: &mut Trial<'_, Columns>) -> Result<()> {
    let net = Net::new(*args.act, trial.params.builder())?;
    let step = regress(&net);
    trial.start("mlp 10-64-32-1", MSE)?;
    while let Some(epoch) = trial.next_epoch()? {
        // Epochs are compared by the first metric of the step, here R².
        let best = trial.best().map_or(epoch, |(best, _)| best);
        if epoch > best + args.patience {
            trial.say(&format!("no better since epoch {best}: stopped"));
            break;
        }
        trial.train(&step)?;
        trial.evaluate(&step)?;
        trial.end_epoch()?;
    }
    Ok(())
}

fn main() -> ExitCode {
    taper_experiment::run(load, train)
}
