//! An autoencoder: images are squeezed through 16 numbers and drawn again. Its training step, mean squared error, is a
//! closure; the session records, saves and resumes the run, whatever the step computes.
//!
//!     cargo run --example autoencoder
//!     cargo run --example autoencoder -- --dataset mnist --epochs 10
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
use taper::nn::{Act, Activation, Init, Linear, Model, Params, Pass};
use taper::report::{ConsoleConfig, ConsoleSink, Run, Split, write_whole};
use taper::train::{MSE, Optimizer, OptimizerConfig, Rule, SaveEvery, Session, SessionConfig, reconstruct};
use taper_examples::{at_least_one, start};
use taper_view::{html_report, load_runs};

/// Train an autoencoder and see which of its units are used.
#[derive(Parser)]
struct Args {
    /// auto (mnist, or digits where it cannot be had), mnist, fashion-mnist, kmnist, digits, emnist-letters (or
    /// -balanced, -byclass, -bymerge, -digits, -mnist), or idx: your own four files under MNIST's names
    #[arg(long, default_value_t = Choice::Digits)]
    dataset: Choice,
    /// Directory with the data set's four files
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Behind every hidden layer
    #[arg(long, default_value = "relu")]
    act: Activation,
    /// Passes over the training data
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = at_least_one::<u32>)]
    epochs: u32,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Save a checkpoint every N batches too
    #[arg(long, value_name = "N", value_parser = at_least_one::<u64>)]
    checkpoint_steps: Option<u64>,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Where the run is written, and resumed if it is there
    #[arg(long, value_name = "DIR", default_value = "runs/autoencoder")]
    out: PathBuf,
    /// Resume although options or data are others than they were
    #[arg(long)]
    force: bool,
}

/// `inputs` → 128 → 16 → 128 → `inputs`
struct Autoencoder {
    hidden: Vec<(Linear, Act)>,
    out: Linear,
}

impl Autoencoder {
    fn new(inputs: usize, f: Activation, vb: VarBuilder) -> candle_core::Result<Self> {
        let layer =
            |(i, o, name)| Ok((Linear::new(i, o, Init::of(f), vb.pp(name))?, Act::new(f, vb.pp(name))?));
        let sizes = [(inputs, 128, "encoder1"), (128, 16, "encoder2"), (16, 128, "decoder1")];
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

fn train(args: &Args) -> Result<()> {
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
    }
    let env_dir = std::env::var_os("TAPER_DATA").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let options = data::Options { data_dir: args.data_dir.clone(), env_dir, ..Default::default() };
    let data = data::load(args.dataset, &options, &mut |_| {})?.scaled(Scale::Unit);
    let (c, h, w) = data.train.shape();

    let params = Params::of_run(args.seed, &Device::Cpu);
    let net = Autoencoder::new(c * h * w, args.act, params.builder())?;
    let optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adam(0.0), 1e-3))?;
    let run = Run {
        name: "autoencoder".into(),
        dataset: data.name.clone(),
        model: format!("autoencoder {}-128-16-128-{0}", c * h * w),
        labels: [("act".into(), args.act.to_string().into())].into(),
        loss: MSE.into(),
        seed: args.seed,
        parameters: params.count() as u64,
        epochs: args.epochs,
        config: json!({ "data": data.checksum() }),
    };

    let save = SaveEvery { epochs: Some(1), steps: args.checkpoint_steps };
    let config = SessionConfig { save, force: args.force, ..Default::default() };
    let mut session = Session::open(&args.out, run, &params, optimizer, config)?;
    session.sink(ConsoleSink::stdout(ConsoleConfig { color: true, ..Default::default() }));
    let step = reconstruct(&net);
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
