//! Trains networks on MNIST (or digits, Fashion-MNIST, KMNIST) and shows statistics of every layer's activations, for
//! one or several activation functions, with and without dropout.
//!
//!     cargo run --example mnist -- --act selu
//!     cargo run --example mnist -- --model cnn --act relu --dropout 0.25 --target 99
//!     cargo run --example mnist -- --act relu,selu,tanh,sigmoid --dropout 0,0.5 --seeds 3
//!     cargo run --example mnist -- --resume runs/NAME
//!
//! Exit code: 0, 1 when something failed or `--target` was missed, 2 for wrong usage, 3 when an `--alert` fired, 130
//! after Ctrl-C, 143 after SIGTERM.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use taper::data::ImageSet;
use taper::nn::{Activation, Architecture, Cnn, CnnConfig, Init, Mlp, MlpConfig, Model};
use taper::train::{CROSS_ENTROPY, Revive, classify};
use taper_experiment::{
    Data, ImageOptions, Options, Result, Setup, Sweep, Trial, not_negative, rate, size, sweep,
};

/// Keeps freed memory for the next step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Train on MNIST and see what every layer's activations do: how sparse they are, which units are dead, how they are
/// distributed. Several activations, dropout rates or seeds are compared side by side.
#[derive(Parser, Serialize, Deserialize)]
#[command(name = "mnist", version, after_help = after_help(), next_help_heading = "Model")]
struct Args {
    /// Network: fully connected, convolutional (with --schedule cosine:0.5), or softmax regression
    #[arg(long, value_enum, default_value_t = Kind::Mlp)]
    model: Kind,
    /// Units of the hidden fully connected layers [default: 512,256 for mlp, 128 for cnn]
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', value_parser = size)]
    widths: Option<Vec<usize>>,
    /// Feature maps of the convolutions of a cnn
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', value_parser = size, default_value = "32,64")]
    channels: Vec<usize>,
    /// Activation functions, one run each; some take a number: celu:0.5
    #[arg(long, value_name = "A[,B...]", default_value = "relu")]
    act: Sweep<Activation>,
    /// Dropout rates, one run each; alpha-dropout for selu
    #[arg(long, value_name = "P[,P...]", value_parser = sweep(rate), default_value = "0,0.25")]
    dropout: Sweep<f64>,
    /// he, lecun, glorot or pytorch [default: depends on the activation]
    #[arg(long)]
    init: Option<Init>,
    /// Pull activations towards 0, one run each: L times the sum of |y| over a sample's activations, added to the loss
    #[arg(long, value_name = "L[,L...]", value_parser = sweep(not_negative))]
    l1: Option<Sweep<f64>>,
    /// Restart units that do little, one run each: none, redo[:TAU[:PERIOD IN STEPS]] or continual[:RATE[:MATURITY]]
    #[arg(long, value_name = "M[,M...]")]
    revive: Option<Sweep<Revive>>,
    #[command(flatten)]
    #[serde(flatten)]
    images: ImageOptions,
    #[command(flatten)]
    #[serde(flatten)]
    options: Options,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Mlp,
    Cnn,
    Linear,
}

fn load(args: &mut Args, setup: &Setup<'_>) -> Result<Data<ImageSet>> {
    let data = args.images.load(setup)?;
    if args.model == Kind::Cnn {
        // Without a warm-up, Adam's first steps kill half of the units of fc1: docs/dead-units.md.
        args.options.training.schedule.get_or_insert("cosine:0.5".into());
    }
    if args.model == Kind::Linear {
        let rates = args.dropout.values();
        let dropped = rates.iter().any(|rate| *rate > 0.0) && rates != [0.0, 0.25];
        let other = args.widths.is_some() || args.l1.is_some() || args.revive.is_some();
        if other || args.act.values() != [Activation::Relu] || dropped {
            setup.warn("softmax regression has no hidden layer: --act, --dropout, --widths, --l1 and --revive do nothing");
        }
        (args.act, args.dropout) = (Sweep::one(Activation::Identity), Sweep::one(0.0));
        (args.l1, args.revive) = (None, None);
    }
    Ok(data)
}

fn train(args: &Args, trial: &mut Trial<'_, ImageSet>) -> Result<()> {
    let (input @ (c, h, w), classes) = (trial.data.train.shape(), trial.data.train.classes());
    let (activation, dropout, init) = (*args.act, *args.dropout, args.init);
    let l1 = args.l1.as_deref().copied().unwrap_or(0.0);
    let vb = trial.params.builder();
    let (model, sizes, layers): (Box<dyn Model + Send + Sync>, _, _) = if args.model == Kind::Cnn {
        let (channels, widths) = (args.channels.clone(), args.widths.clone().unwrap_or(vec![128]));
        let rest = CnnConfig::default();
        let config = CnnConfig { input, channels, widths, classes, activation, init, dropout, l1, ..rest };
        (Box::new(Cnn::new(&config, vb)?), config.to_string(), config.layers())
    } else {
        let (inputs, mlp) = (c * h * w, args.widths.clone().unwrap_or(vec![512, 256]));
        let widths = if args.model == Kind::Mlp { mlp } else { vec![] };
        let config = MlpConfig { inputs, widths, classes, activation, init, dropout, l1 };
        (Box::new(Mlp::new(&config, vb)?), config.to_string(), config.layers())
    };
    if let Some(revive) = &args.revive {
        trial.upkeep = revive.upkeep(model.links(), &trial.params, args.options.training.seed)?;
    }
    trial.consumers = Architecture::new(&layers, trial.params.shapes(), input)?.consumers();
    trial.start(sizes, CROSS_ENTROPY)?;
    trial.fit(&classify(&*model))
}

/// Help text that belongs to no single option.
fn after_help() -> String {
    let names = Activation::ALL.map(Activation::name);
    let rows: Vec<String> = names.chunks(10).map(|row| row.join(", ")).collect();
    let examples = "\
  mnist --act selu                                     one activation, without dropout and with it
  mnist --act relu,selu,tanh,sigmoid --dropout 0,0.5   a grid of eight runs and their comparison
  mnist --act relu,selu,tanh --seeds 4 --jobs 8        24 runs, eight at a time, each on one core
  mnist --model cnn --dropout 0.25 --target 99         fails if the best test accuracy is below 99 %
  mnist --dataset digits --widths 64 --epochs 20       the bundled 8×8 digits, no download
  mnist --resume runs/NAME                             resumes an interrupted run";
    format!("Activations:\n  {}\n\nExamples:\n{examples}", rows.join(",\n  "))
}

fn main() -> ExitCode {
    taper_experiment::run(load, train)
}
