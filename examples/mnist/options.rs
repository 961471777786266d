//! What can be said on the command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use taper::data::{Choice, Scale};
use taper::hooks::Parts;
use taper::nn::{Activation, Init};
use taper::report::{Alert, Split};
use taper::train::{self, Keep, OnNonFinite, OptimizerConfig, SaveEvery, Schedule, parse_rule};
use taper_examples::{at_least_one, not_negative, number, percent, positive, rate, size};

/// Train on MNIST and see what every layer's activations do: how sparse they are, which units are dead, how
/// the distribution leans. Several activations, dropout rates or seeds are compared side by side.
#[derive(Parser, Clone, Debug)]
#[command(name = "mnist", version, allow_negative_numbers = true, after_help = after_help())]
pub struct Args {
    /// Network: fully connected, convolutional, or softmax regression
    #[arg(long, value_enum, default_value_t = Kind::Mlp)]
    pub model: Kind,
    /// Units of the hidden fully connected layers [default: 512,256 for mlp, 128 for cnn]
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', value_parser = size)]
    pub widths: Option<Vec<usize>>,
    /// Feature maps of the convolutions of a cnn
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', value_parser = size, default_value = "32,64")]
    pub channels: Vec<usize>,
    /// Activation functions, one run each; some take a number: celu:0.5
    #[arg(long, value_name = "A[,B...]", value_delimiter = ',', default_value = "relu")]
    pub act: Vec<Activation>,
    /// Dropout rates, one run each; behind selu it is alpha-dropout
    #[arg(long, value_name = "P[,P...]", value_delimiter = ',', value_parser = rate, default_value = "0,0.25")]
    pub dropout: Vec<f64>,
    /// Seed of everything random; the same seed gives the same bits
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of seeds, from --seed upwards; the comparison then shows mean ± sd
    #[arg(long, value_name = "N", default_value = "1", value_parser = size)]
    pub seeds: usize,
    /// Passes over the training data
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one::<u32>)]
    pub epochs: u32,
    /// Samples per step
    #[arg(long, value_name = "N", default_value = "128", value_parser = at_least_one::<usize>)]
    pub batch_size: usize,
    /// Learning rate [default: 0.001 for adam, adamw and rmsprop, 0.1 for sgd, 0.05 with momentum, 1 for adadelta]
    #[arg(long, value_parser = not_negative)]
    pub lr: Option<f64>,
    /// sgd, momentum, nesterov, adam, adamw, rmsprop or adadelta
    #[arg(long, default_value = "adam", value_parser = optimizer)]
    pub optimizer: String,
    /// Pull weights towards zero [default: 0.01 for adamw, otherwise 0]
    #[arg(long, value_parser = not_negative)]
    pub weight_decay: Option<f64>,
    /// Learning rate over time: cosine[:WARM-UP EPOCHS], constant, step:EPOCHS[:FACTOR] or warmup:EPOCHS
    #[arg(long, default_value = "cosine", value_name = "S", value_parser = schedule)]
    pub schedule: String,
    /// Scale gradients down to this common norm
    #[arg(long, value_name = "NORM", value_parser = positive)]
    pub clip_norm: Option<f64>,
    /// Scale every unit's incoming weights down to this norm
    #[arg(long, value_name = "NORM", value_parser = positive)]
    pub max_norm: Option<f64>,
    /// he, lecun, glorot or pytorch [default: what suits the activation]
    #[arg(long)]
    pub init: Option<Init>,
    /// unit: pixels in [0, 1]; standard: the same minus their mean, over their standard deviation
    #[arg(long, default_value_t = Scale::Standard)]
    pub scale: Scale,
    /// auto (mnist, or digits where it cannot be had), mnist, fashion-mnist, kmnist, digits, emnist-letters (or
    /// -balanced, -byclass, -bymerge, -digits, -mnist), or idx: your own four files under MNIST's names
    #[arg(long, default_value_t = Choice::Auto)]
    pub dataset: Choice,
    /// Directory with the data set's four files [default: $TAPER_DATA, else datasets/NAME, the cache or a download]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Use only the first N training and N test samples
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    pub limit: Option<usize>,
    /// Hold back the last N training samples and report on them too
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    pub validation: Option<usize>,
    /// Where to write what was measured; nothing there is overwritten [default: runs/TIME-NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with a run, or with the unfinished ones of a grid, from the newest checkpoint, with the options of then
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub resume: Option<PathBuf>,
    /// Go on although options, data or version are others than they were; that is recorded in config.json
    #[arg(long, requires = "resume")]
    pub force: bool,
    /// Save a checkpoint every N epochs; 0 for none [default: whenever a minute has gone by, and at the end]
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<u32>,
    /// Save a checkpoint every N batches too
    #[arg(long, value_name = "N", value_parser = at_least_one::<u64>)]
    pub checkpoint_steps: Option<u64>,
    /// Which checkpoints to keep: the newest N, and perhaps the N of the best score, as in last:3,best:1
    #[arg(long, value_name = "last:N[,best:N]", default_value_t = Keep::default())]
    pub keep: Keep,
    /// Start from these weights (safetensors, ours or PyTorch's)
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
    /// Accept weights in f16, bf16 or f64 there and convert them to f32
    #[arg(long, requires = "load")]
    pub convert: bool,
    /// Threads of a run, at most 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Runs at a time; from 2 on each has one thread, and all are faster together. Results are the same to the bit
    #[arg(long, value_name = "N", default_value = "1", value_parser = threads)]
    pub jobs: usize,
    /// cpu, cuda or metal (the latter two if built with the feature of that name)
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    pub device: DeviceKind,
    /// Fail unless the best test accuracy of every run is at least this, in percent
    #[arg(long, value_name = "ACCURACY", value_parser = percent)]
    pub target: Option<f64>,
    /// Where a loss, gradient or activation is NaN or infinite: stop, skip the step of that batch, or continue
    #[arg(long, value_name = "WHAT", default_value_t = OnNonFinite::Stop)]
    pub on_nonfinite: OnNonFinite,
    /// End a run, with exit code 3, at the first epoch at which this holds: 'fc2.dead_fraction>0.5',
    /// '*.dead_fraction>0.5', 'train:fc1.zero_fraction>=0.99', 'test.loss>2'; may be given several times
    #[arg(long, value_name = "RULE")]
    pub alert: Vec<Alert>,
    /// What is recorded of the activations: full, counts (zeros, dead and dormant units; no distribution) or off
    #[arg(long, value_enum, default_value_t = Track::Full, hide_possible_values = true)]
    pub track: Track,
    /// Draw the training in the terminal while it runs, in place of the tables; Ctrl-C ends it, q leaves the view
    #[arg(long)]
    pub live: bool,
    /// Also draw the main curves as SVG, into plots/ of the output directory
    #[arg(long)]
    pub plots: bool,
    /// Print the comparison only
    #[arg(long, short)]
    pub quiet: bool,
}

impl Args {
    pub fn save_every(&self) -> SaveEvery {
        SaveEvery { epochs: self.checkpoint_every, steps: self.checkpoint_steps }
    }

    /// Why an alert could never fire, if so.
    fn could_never_fire(&self, alert: &Alert) -> Option<String> {
        let unknown = match self.track {
            Track::Full => false,
            Track::Counts => alert.asks_more_than_counts(),
            Track::Off => alert.asks_layers(),
        };
        let why = match alert.split() {
            _ if unknown => format!("--track {} leaves out what it asks for", name_of(self.track)),
            Some(Split::Validation) if self.validation.is_none() => {
                "nothing is held back: see --validation".to_string()
            }
            _ => return None,
        };
        Some(format!("--alert '{alert}' could never fire: {why}"))
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Mlp,
    Cnn,
    Linear,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Track {
    Full,
    Counts,
    Off,
}

impl Track {
    pub fn parts(self) -> Option<Parts> {
        match self {
            Self::Full => Some(Parts::FULL),
            Self::Counts => Some(Parts::COUNTS),
            Self::Off => None,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum DeviceKind {
    Cpu,
    Cuda,
    Metal,
}

/// What no option's own text has room for.
fn after_help() -> String {
    format!(
        "\
Activations:
  {}

Examples:
  mnist --act selu                                     one activation, without dropout and with it
  mnist --act relu,selu,tanh,sigmoid --dropout 0,0.5   a grid of eight runs and their comparison
  mnist --act relu,selu,tanh --seeds 4 --jobs 8        24 runs, eight at a time, each on one core
  mnist --model cnn --dropout 0.25 --target 99         fails if the best test accuracy is below 99 %
  mnist --dataset digits --widths 64 --epochs 20       the bundled 8×8 digits, no download
  mnist --resume runs/NAME                             goes on with what was interrupted",
        Activation::ALL
            .map(Activation::name)
            .chunks(10)
            .map(|row| row.join(", "))
            .collect::<Vec<_>>()
            .join(",\n  ")
    )
}

fn threads(text: &str) -> Result<usize, String> {
    number(text, "a whole number from 1 to 1024", |n| (1..=1024).contains(n))
}

fn schedule(text: &str) -> Result<String, train::Error> {
    Schedule::parse(text, 1, 1).map(|_| text.to_string())
}

fn optimizer(text: &str) -> Result<String, train::Error> {
    parse_rule(text, None).map(|_| text.to_string())
}

/// What `clap` calls a choice on the command line.
pub fn name_of(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
}

/// The options of `command`, which are those of a run that goes on and behind them those of `now`.
pub fn arguments(
    command: &[String],
    now: &[String],
    resumed: bool,
) -> Result<(OptimizerConfig, Args), clap::Error> {
    let conflict = |text: &str| Args::command().error(clap::error::ErrorKind::ArgumentConflict, text);
    let args = if resumed {
        let words = std::iter::once("mnist").chain(command.iter().map(String::as_str));
        // What is left twice are switches.
        let all = Args::command().args_override_self(true).try_get_matches_from(words)?;
        let force = now.iter().any(|word| word == "--force");
        Args { force, ..Args::from_arg_matches(&all)? }
    } else {
        Args::try_parse()?
    };
    let rule = parse_rule(&args.optimizer, args.weight_decay);
    let (rule, lr) = rule.map_err(|error| conflict(&error.to_string()))?;
    if args.jobs > 1 && args.threads.is_some_and(|threads| threads > 1) {
        return Err(conflict("with --jobs each run has one thread: leave out --threads"));
    }
    if let Some(why) = args.alert.iter().find_map(|alert| args.could_never_fire(alert)) {
        return Err(conflict(&why));
    }
    if args.jobs > 1 && args.live {
        return Err(conflict("--live shows one run at a time: leave out --jobs"));
    }
    Ok((OptimizerConfig::new(rule, args.lr.unwrap_or(lr)), args))
}
