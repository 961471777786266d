use std::path::PathBuf;

use candle_core::Device;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use taper_hooks::Parts;
use taper_report::{Alert, Split};
use taper_train::{Keep, OnNonFinite, OptimizerConfig, SaveEvery, Schedule, parse_rule};

use crate::{Error, Result, at_least_one, not_negative, number, positive, size};

/// Options of every training program. A program flattens them into its own options, for clap and for serde:
///
/// ```
/// #[derive(clap::Parser, serde::Serialize, serde::Deserialize)]
/// struct Args {
///     /// Units of the hidden layer
///     #[arg(long, default_value_t = 64)]
///     width: usize,
///     #[command(flatten)]
///     #[serde(flatten)]
///     options: taper_experiment::Options,
/// }
/// ```
///
/// To change a default: `#[command(mut_arg("epochs", |arg| arg.default_value("20")))]` on the struct.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// How the network is trained.
    #[command(flatten)]
    #[serde(flatten)]
    pub training: Training,
    /// How the runs are executed. These options change no result, so a run can be resumed with other values.
    #[command(flatten)]
    pub running: Running,
    /// Which run is resumed.
    #[command(flatten)]
    #[serde(skip)]
    pub resuming: Resuming,
}

/// How a network is trained, and what is recorded.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Training")]
pub struct Training {
    /// Passes over the training data
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one::<u32>)]
    pub epochs: u32,
    /// Samples per step
    #[arg(long, value_name = "N", default_value = "128", value_parser = at_least_one::<usize>)]
    pub batch_size: usize,
    /// Learning rate [default: 0.001 for adam, adamw and rmsprop, 0.1 for sgd, 0.05 with momentum, 1 for adadelta]
    #[arg(long = "lr", value_name = "LR", value_parser = not_negative)]
    pub learning_rate: Option<f64>,
    /// sgd, momentum, nesterov, adam, adamw, rmsprop or adadelta
    #[arg(long, default_value = "adam", value_parser = optimizer)]
    pub optimizer: String,
    /// Pull weights towards zero [default: 0.01 for adamw, otherwise 0]
    #[arg(long, value_parser = not_negative)]
    pub weight_decay: Option<f64>,
    /// Learning rate over time.
    #[arg(
        long,
        help = "Learning rate over time: cosine[:WARM-UP EPOCHS], constant, step:EPOCHS[:FACTOR] or warmup:EPOCHS \
                [default: cosine]"
    )]
    #[arg(value_name = "S", value_parser = schedule)]
    pub schedule: Option<String>,
    /// Scale gradients down to this common norm
    #[arg(long, value_name = "NORM", value_parser = positive)]
    pub clip_norm: Option<f64>,
    /// Scale every unit's incoming weights down to this norm
    #[arg(long, value_name = "NORM", value_parser = positive)]
    pub max_norm: Option<f64>,
    /// If a loss, gradient or activation is NaN or infinite: stop, skip the step of that batch, or continue
    #[arg(long, value_name = "WHAT", default_value_t = OnNonFinite::Stop)]
    pub on_nonfinite: OnNonFinite,
    /// Parts of each batch whose gradients are computed one by one and then summed: a power of two. Processes of mpirun
    /// share them, and their number changes no bit (docs/scaling.md)
    #[arg(long, value_name = "N", default_value = "1", value_parser = shards, help_heading = "Several processes")]
    pub shards: usize,
    /// Seed of all random numbers; the same seed gives the same bits
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of seeds, from --seed upwards; the comparison then shows mean ± sd
    #[arg(long, value_name = "N", default_value = "1", value_parser = size)]
    pub seeds: usize,
    /// Start from these weights (safetensors, of Taper or PyTorch)
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
    /// Accept weights in f16, bf16 or f64 for --load and convert them to f32
    #[arg(long, requires = "load")]
    pub convert: bool,
    /// cpu, cuda or metal (the latter two if built with the feature of that name)
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    pub device: DeviceKind,
    /// What to record of the activations: full, counts (zeros, dead and dormant units; no distribution) or off
    #[arg(long, value_enum, default_value_t = Track::Full, hide_possible_values = true, help_heading = "Recording")]
    pub track: Track,
}

/// How runs are executed.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Output")]
pub struct Running {
    /// Output directory; nothing in it is overwritten [default: runs/TIME-NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Draw the training in the terminal while it runs, instead of the tables; Ctrl-C ends it, q closes the view
    #[arg(long)]
    pub live: bool,
    /// Also draw the main curves as SVG, into plots/ of the output directory
    #[arg(long)]
    pub plots: bool,
    /// Print the comparison only
    #[arg(long, short)]
    pub quiet: bool,
    /// Print the table of all layers after every epoch, not only at the end of a run
    #[arg(long, short, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Fail unless the best value of every run's first metric is at least this (at most, if less is better); accuracy
    /// in percent
    #[arg(long, value_name = "VALUE", value_parser = finite)]
    pub target: Option<f64>,
    /// End a run, with exit code 3, at the first epoch in which this holds: 'fc2.dead_fraction>0.5',
    /// '*.dead_fraction>0.5', 'train:fc1.zero_fraction>=0.99', 'test.loss>2'; may be given several times
    #[arg(long, value_name = "RULE", help_heading = "Recording")]
    pub alert: Vec<Alert>,
    /// Threads of a run, at most 1024 [default: all cores; processes of mpirun share those of a machine]
    #[arg(long, value_name = "N", value_parser = threads, help_heading = "Training")]
    pub threads: Option<usize>,
    /// Runs at a time; with 2 or more each has one thread, and the whole grid is faster. Results are the same, bit for
    /// bit
    #[arg(long, value_name = "N", default_value = "1", value_parser = threads, help_heading = "Training")]
    pub jobs: usize,
    /// Each process of mpirun trains a share of the runs, alone, instead of a share of each batch
    #[arg(long, help_heading = "Several processes")]
    pub sweep_ranks: bool,
    /// Save a checkpoint every N epochs; 0 for none [default: every minute, and at the end]
    #[arg(long, value_name = "N", help_heading = "Resuming")]
    pub checkpoint_every: Option<u32>,
    /// Save a checkpoint every N batches too
    #[arg(long, value_name = "N", value_parser = at_least_one::<u64>, help_heading = "Resuming")]
    pub checkpoint_steps: Option<u64>,
    /// Which checkpoints to keep: the newest N, and optionally the N with the best score, as in last:3,best:1
    #[arg(long, value_name = "last:N[,best:N]", default_value_t = Keep::default(), help_heading = "Resuming")]
    pub keep: Keep,
}

/// The run to resume. No file stores this option.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Resuming")]
pub struct Resuming {
    /// Resume a run, or the unfinished runs of a grid, from its newest checkpoint, with its original options
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub resume: Option<PathBuf>,
    /// Resume although options, data or version have changed; config.json lists the changes
    #[arg(long, requires = "resume")]
    pub force: bool,
}

/// How much is recorded of the activations.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Track {
    /// Everything.
    Full,
    /// Counts only, no distributions.
    Counts,
    /// Nothing.
    Off,
}

/// The computing device.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
    /// The first Metal device.
    Metal,
}

impl Track {
    pub(crate) fn parts(self) -> Option<Parts> {
        match self {
            Self::Full => Some(Parts::FULL),
            Self::Counts => Some(Parts::COUNTS),
            Self::Off => None,
        }
    }
}

impl DeviceKind {
    /// The device.
    ///
    /// # Errors
    /// If it does not exist, or this build cannot use it.
    pub fn open(self) -> Result<Device> {
        let (option, device) = match self {
            Self::Cpu => return Ok(Device::Cpu),
            Self::Cuda => ("--device", taper_kernels::cuda(0)),
            Self::Metal => (
                "--device metal needs a Metal device and a build with --features metal",
                Device::new_metal(0),
            ),
        };
        device.map_err(taper_train::Error::from).map_err(Error::option(option))
    }
}

impl Training {
    pub(crate) fn schedule_text(&self) -> &str {
        self.schedule.as_deref().unwrap_or("cosine")
    }

    fn schedule(&self, steps_per_epoch: u64) -> taper_train::Result<Schedule> {
        Schedule::parse(self.schedule_text(), self.epochs, steps_per_epoch)
    }
}

impl Options {
    pub(crate) fn save_every(&self) -> SaveEvery {
        SaveEvery { epochs: self.running.checkpoint_every, steps: self.running.checkpoint_steps }
    }

    /// The optimiser, for epochs with this many steps.
    pub(crate) fn optimizer(&self, steps: u64) -> taper_train::Result<OptimizerConfig> {
        let of = &self.training;
        let (rule, learning_rate) = parse_rule(&of.optimizer, of.weight_decay)?;
        Ok(OptimizerConfig {
            schedule: of.schedule(steps)?,
            clip_norm: of.clip_norm,
            max_norm: of.max_norm,
            on_nonfinite: of.on_nonfinite,
            ..OptimizerConfig::new(rule, of.learning_rate.unwrap_or(learning_rate))
        })
    }

    /// Checks combinations of options, as far as possible without data, for this number of processes.
    pub(crate) fn check(&self, processes: usize) -> Result<()> {
        let Running { jobs, threads, live, alert, sweep_ranks, .. } = &self.running;
        let of = &self.training;
        parse_rule(&of.optimizer, of.weight_decay)
            .and(of.schedule(LONG))
            .map_err(|error| Error::Usage(error.to_string()))?;
        if *jobs > 1 && threads.is_some_and(|threads| threads > 1) {
            return Err(Error::Usage("with --jobs each run has one thread: leave out --threads".into()));
        }
        if *jobs > 1 && processes > 1 && !sweep_ranks {
            return Err(Error::Usage("several processes train one run at a time: leave out --jobs".into()));
        }
        if *jobs > 1 && *live {
            return Err(Error::Usage("--live shows one run at a time: leave out --jobs".into()));
        }
        let track = self.training.track;
        let left_out = |alert: &&Alert| match track {
            Track::Full => false,
            Track::Counts => alert.asks_more_than_counts(),
            Track::Off => alert.asks_layers(),
        };
        match alert.iter().find(left_out) {
            Some(alert) => {
                let track = format!("{track:?}").to_lowercase();
                let why = format!("--track {track} does not record it");
                Err(never(alert, &why))
            }
            None => Ok(()),
        }
    }

    /// Checks that every alert is about a measured split.
    pub(crate) fn check_splits(&self, measured: &[Split]) -> Result<()> {
        let unmeasured = |alert: &&Alert| {
            alert.split().is_some_and(|split| split != Split::Train && !measured.contains(&split))
        };
        match self.running.alert.iter().find(unmeasured) {
            Some(alert) => Err(never(alert, "this split does not exist (--validation holds one back)")),
            None => Ok(()),
        }
    }
}

fn never(alert: &Alert, why: &str) -> Error {
    Error::Usage(format!("--alert '{alert}' could never fire: {why}"))
}

fn finite(text: &str) -> Result<f64, String> {
    number(text, "a finite number", |x: &f64| x.is_finite())
}

fn threads(text: &str) -> Result<usize, String> {
    number(text, "a whole number from 1 to 1024", |n| (1..=1024).contains(n))
}

fn shards(text: &str) -> Result<usize, String> {
    number(text, "a power of two from 1 to 1024", |n: &usize| n.is_power_of_two() && *n <= 1024)
}

/// Steps of an epoch, while nobody knows how many there will be.
const LONG: u64 = 1_000_000;

/// [`Options::check`] compares it with the number of epochs.
fn schedule(text: &str) -> Result<String, taper_train::Error> {
    Schedule::parse(text, u32::MAX, LONG).map(|_| text.to_string())
}

fn optimizer(text: &str) -> Result<String, taper_train::Error> {
    parse_rule(text, None).map(|_| text.to_string())
}
