//! A small residual network with batch normalisation: two blocks of two convolutions, whose input is added to their output.
//! The training step is a closure; the session records, saves and resumes the run.
//!
//!     cargo run --release --example resnet
//!     cargo run --release --example resnet -- --dataset mnist --epochs 3
//!
//! The same command resumes a run that was interrupted.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use clap::Parser;
use serde_json::json;
use taper::data::{self, Batch, Choice};
use taper::nn::{
    Act, Activation, BatchNorm2d, Conv2d, Conv2dConfig, Conv2dGeometry, Init, Linear, Model, Params, Pass,
    add, global_avg_pool2d, max_pool2d,
};
use taper::report::{ConsoleConfig, ConsoleSink, Run, Split, write_whole};
use taper::train::{
    CROSS_ENTROPY, Optimizer, OptimizerConfig, Rule, Session, SessionConfig, Step, cross_entropy,
};
use taper_examples::{at_least_one, start};
use taper_view::{html_report, load_runs};

/// Train a residual network and see what its blocks do.
#[derive(Parser)]
struct Args {
    /// auto (mnist, or digits where it cannot be had), mnist, fashion-mnist, kmnist or digits
    #[arg(long, default_value_t = Choice::Digits)]
    dataset: Choice,
    /// Directory with the data set's four files
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Passes over the training data
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = at_least_one::<u32>)]
    epochs: u32,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the run is written, and resumed if it is there
    #[arg(long, value_name = "DIR", default_value = "runs/resnet")]
    out: PathBuf,
}

/// Convolution without a bias, which batch normalisation would take away again, normalisation, and ReLU.
struct Layer(Conv2d, BatchNorm2d, Act);

impl Layer {
    fn new(inputs: usize, outputs: usize, vb: VarBuilder) -> candle_core::Result<Self> {
        let geometry = Conv2dGeometry { stride: 1, padding: 1 };
        let conv = Conv2dConfig { geometry, bias: false, ..Default::default() };
        let bn = vb.pp("bn");
        Ok(Self(
            Conv2d::new(inputs, outputs, conv, vb.pp("conv"))?,
            BatchNorm2d::new(outputs, Default::default(), bn.clone())?,
            Act::new(Activation::Relu, bn)?,
        ))
    }

    /// `relu(bn(conv(xs)))`
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        self.1.forward_act(pass, &self.0.forward(xs)?, &self.2)
    }
}

struct ResNet {
    stem: Layer,
    blocks: Vec<[Layer; 2]>,
    fc: Linear,
}

impl ResNet {
    fn new(inputs: usize, vb: VarBuilder) -> candle_core::Result<Self> {
        let layer = |name: &str| Layer::new(16, 16, vb.pp(name));
        Ok(Self {
            stem: Layer::new(inputs, 16, vb.pp("stem"))?,
            blocks: vec![[layer("block1.0")?, layer("block1.1")?], [layer("block2.0")?, layer("block2.1")?]],
            fc: Linear::new(16, 10, Init::LeCun, vb.pp("fc"))?,
        })
    }
}

impl Model for ResNet {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let mut xs = max_pool2d(&self.stem.forward(pass, xs)?, (2, 2), (2, 2))?;
        for [first, Layer(conv, bn, act)] in &self.blocks {
            let ys = conv.forward(&first.forward(pass, &xs)?)?;
            let sum = add(&xs, &bn.forward(pass, &ys)?)?;
            xs = act.forward(pass, &sum)?;
        }
        self.fc.forward(&global_avg_pool2d(&xs)?)
    }
}

fn train(args: &Args) -> Result<()> {
    let env_dir = std::env::var_os("TAPER_DATA").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let options = data::Options { data_dir: args.data_dir.clone(), env_dir, ..Default::default() };
    let data = data::load(args.dataset, &options, &mut |_| {})?;

    let params = Params::of_run(args.seed, &Device::Cpu);
    let net = ResNet::new(data.train.shape().0, params.builder())?;
    let optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adam(0.0), 3e-3))?;
    let run = Run {
        name: "resnet".into(),
        dataset: data.name.clone(),
        model: "resnet 16-16-16".into(),
        labels: Default::default(),
        loss: CROSS_ENTROPY.into(),
        seed: args.seed,
        parameters: params.count() as u64,
        epochs: args.epochs,
        config: json!({ "data": data.checksum() }),
    };

    let step = |pass: &mut Pass<'_>, batch: &Batch| {
        let logits = net.forward(pass, &batch.images)?;
        let guesses = logits.detach().argmax(1)?.to_vec1::<u32>()?;
        let right =
            guesses.iter().zip(batch.labels.to_vec1::<u32>()?).filter(|(guess, label)| *guess == label);
        let (right, n) = (right.count() as u64, batch.len());
        Ok(Step::new(cross_entropy(&logits, &batch.labels)?, n).share("accuracy", right, n as u64))
    };
    let mut session = Session::open(&args.out, run, &params, optimizer, SessionConfig::default())?;
    session.sink(ConsoleSink::stdout(ConsoleConfig { color: true, ..Default::default() }));
    while session.next_epoch()?.is_some() {
        session.train(&step, |rng, done| data.train.shuffled(rng, 64).skip(done))?;
        session.evaluate(&step, Split::Test, data.test.batches(256))?;
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
