//! Regression on data of one's own, with early stopping: Friedman's function of ten numbers, of which five matter. A
//! `Table` shuffles and batches tensors; the loop around it is plain Rust.
//!
//!     cargo run --example regression -- --patience 10
//!
//! The same command resumes a run that was interrupted.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use clap::Parser;
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use taper::data::Table;
use taper::hooks::{Rng, rng};
use taper::nn::{Act, Activation, Init, Linear, Model, Params, Pass};
use taper::report::{ConsoleConfig, ConsoleSink, Run, Split, write_whole};
use taper::train::{MSE, Optimizer, OptimizerConfig, Rule, SaveEvery, Session, SessionConfig, regress};
use taper_examples::{at_least_one, start};
use taper_view::{html_report, load_runs};

/// Fit a function of ten numbers, and stop when that gets no better.
#[derive(Parser)]
struct Args {
    /// Behind every hidden layer
    #[arg(long, default_value = "relu")]
    act: Activation,
    /// Passes over the training data, at most
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = at_least_one::<u32>)]
    epochs: u32,
    /// Stop when R² on the validation split has not been higher for N epochs
    #[arg(long, default_value_t = 15, value_name = "N", value_parser = at_least_one::<u32>)]
    patience: u32,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the run is written, and resumed if it is there
    #[arg(long, value_name = "DIR", default_value = "runs/regression")]
    out: PathBuf,
    /// Resume although options are others than they were
    #[arg(long)]
    force: bool,
}

/// Friedman's first function (1991) of ten uniform numbers, with normal noise of variance 1: `(n, 10)` and `(n, 1)`.
fn friedman(n: usize, rng: &mut Rng) -> Result<Table<(Tensor, Tensor)>> {
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

fn train(args: &Args) -> Result<()> {
    let data = &mut rng(3);
    let (train, validation) = (friedman(2000, data)?, friedman(500, data)?);
    let params = Params::of_run(args.seed, &Device::Cpu);
    let net = Net::new(args.act, params.builder())?;
    let optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adam(0.0), 3e-3))?;
    let run = Run {
        name: "regression".into(),
        dataset: "friedman1".into(),
        model: "mlp 10-64-32-1".into(),
        labels: [("act".into(), args.act.to_string().into())].into(),
        loss: MSE.into(),
        seed: args.seed,
        parameters: params.count() as u64,
        epochs: args.epochs,
        config: serde_json::json!({ "patience": args.patience, "data": [train.checksum()?, validation.checksum()?] }),
    };
    let config = SessionConfig {
        save: SaveEvery { epochs: Some(10), steps: None },
        force: args.force,
        ..Default::default()
    };
    let mut session = Session::open(&args.out, run, &params, optimizer, config)?;
    session.sink(ConsoleSink::stdout(ConsoleConfig { layers: false, color: true, ..Default::default() }));
    let step = regress(&net);
    while let Some(epoch) = session.next_epoch()? {
        // Epochs are compared by the first metric of the step, here R².
        let best = session.best().map_or(epoch, |(best, _)| best);
        if epoch > best + args.patience {
            println!("no better since epoch {best}: stopped");
            break;
        }
        session.train(&step, |rng, done| train.shuffled(rng, 32).skip(done))?;
        session.evaluate(&step, Split::Validation, validation.batches(500))?;
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
