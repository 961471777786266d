//! Trains networks on MNIST (or digits, Fashion-MNIST, KMNIST) and shows what every layer's activations do,
//! for one or several activation functions, without dropout and with it.
//!
//!     cargo run --example mnist -- --act selu
//!     cargo run --example mnist -- --model cnn --act relu --dropout 0.25 --target 99
//!     cargo run --example mnist -- --act relu,selu,tanh,sigmoid --dropout 0,0.5 --seeds 3
//!
//!     cargo run --example mnist -- --resume runs/NAME
//!
//! Exit code: 0, 1 when something failed or `--target` was missed, 2 for wrong usage, 3 when an `--alert` fired, 130
//! after Ctrl-C, 143 after SIGTERM.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use indicatif::HumanCount;
use rand::Rng as _;
use serde_json::json;
use taper::data::{self, Batches, Choice, Dataset, Scale};
use taper::hooks::{Parts, Recorder, Rng, fork, observer_fn, rng};
use taper::nn::{Activation, Cnn, CnnConfig, Init, Mlp, MlpConfig, Model, Params};
use taper::report::{
    self, Alert, ConsoleConfig, ConsoleSink, EpochReport, Lengths, Run, RunDir, RunLock, Sink, Split,
    SplitReport, Summary, TensorBoard, TracingSink, comparison, fresh_dir, read_config, read_reports,
    sink_fn, write_whole,
};
use taper::train::{
    self, Checkpoint, Keep, OnNonFinite, Optimizer, OptimizerConfig, Progress, Schedule, evaluate,
    load_weights, not_finite, parse_rule, save_weights, train_batches,
};
use taper_examples::{
    Bars, CaughtUp, INTERRUPTED, InOrder, Often, Place, Saves, Screen, State, Stop, Stored, at_least_one,
    changes, colors_wanted, file_time, locked_version, not_negative, number, on_signal, percent, positive,
    rate, size, usage,
};
use taper_view::{HeldStderr, html_report, load_runs, restore_terminal, static_plots};

/// Keeps the memory of one step for the next.
#[global_allocator]
static ALLOCATOR: taper::kernels::Recycle = taper::kernels::Recycle::new();

/// Train on MNIST and see what every layer's activations do: how sparse they are, which units are dead, how
/// the distribution leans. Several activations, dropout rates or seeds are compared side by side.
#[derive(Parser, Clone, Debug)]
#[command(name = "mnist", version, allow_negative_numbers = true, after_help = after_help())]
struct Args {
    /// Network: fully connected, convolutional, or softmax regression
    #[arg(long, value_enum, default_value_t = Kind::Mlp)]
    model: Kind,
    /// Units of the hidden fully connected layers [default: 512,256 for mlp, 128 for cnn]
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', value_parser = size)]
    widths: Option<Vec<usize>>,
    /// Feature maps of the convolutions of a cnn
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', value_parser = size, default_value = "32,64")]
    channels: Vec<usize>,
    /// Activation functions, one run each; some take a number: celu:0.5
    #[arg(long, value_name = "A[,B...]", value_delimiter = ',', default_value = "relu")]
    act: Vec<Activation>,
    /// Dropout rates, one run each; behind selu it is alpha-dropout
    #[arg(long, value_name = "P[,P...]", value_delimiter = ',', value_parser = rate, default_value = "0,0.25")]
    dropout: Vec<f64>,
    /// Seed of everything random; the same seed gives the same bits
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of seeds, from --seed upwards; the comparison then shows mean ± sd
    #[arg(long, value_name = "N", default_value = "1", value_parser = size)]
    seeds: usize,
    /// Passes over the training data
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one::<u32>)]
    epochs: u32,
    /// Samples per step
    #[arg(long, value_name = "N", default_value = "128", value_parser = at_least_one::<usize>)]
    batch_size: usize,
    /// Learning rate [default: 0.001 for adam, adamw and rmsprop, 0.1 for sgd, 0.05 with momentum, 1 for adadelta]
    #[arg(long, value_parser = not_negative)]
    lr: Option<f64>,
    /// sgd, momentum, nesterov, adam, adamw, rmsprop or adadelta
    #[arg(long, default_value = "adam", value_parser = optimizer)]
    optimizer: String,
    /// Pull weights towards zero [default: 0.01 for adamw, otherwise 0]
    #[arg(long, value_parser = not_negative)]
    weight_decay: Option<f64>,
    /// Learning rate over time: cosine[:WARM-UP EPOCHS], constant, step:EPOCHS[:FACTOR] or warmup:EPOCHS
    #[arg(long, default_value = "cosine", value_name = "S", value_parser = schedule)]
    schedule: String,
    /// Scale gradients down to this common norm
    #[arg(long, value_name = "NORM", value_parser = positive)]
    clip_norm: Option<f64>,
    /// Scale every unit's incoming weights down to this norm
    #[arg(long, value_name = "NORM", value_parser = positive)]
    max_norm: Option<f64>,
    /// he, lecun, glorot or pytorch [default: what suits the activation]
    #[arg(long)]
    init: Option<Init>,
    /// unit: pixels in [0, 1]; standard: the same minus their mean, over their standard deviation
    #[arg(long, default_value_t = Scale::Standard)]
    scale: Scale,
    /// auto (mnist, or digits where it cannot be had), mnist, fashion-mnist, kmnist or digits
    #[arg(long, default_value_t = Choice::Auto)]
    dataset: Choice,
    /// Directory with the data set's four files; then $TAPER_DATA, datasets/NAME, the cache and a download
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Use only the first N training and N test samples
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    limit: Option<usize>,
    /// Hold back the last N training samples and report on them too
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    validation: Option<usize>,
    /// Where to write what was measured; nothing there is overwritten [default: runs/TIME-NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with a run, or with the unfinished ones of a grid, from the newest checkpoint, with the options of then
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    resume: Option<PathBuf>,
    /// Go on although options, data or version are others than they were; that is recorded in config.json
    #[arg(long, requires = "resume")]
    force: bool,
    /// Save a checkpoint every N epochs; 0 for none [default: whenever a minute has gone by, and at the end]
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u32>,
    /// Save a checkpoint every N batches too
    #[arg(long, value_name = "N", value_parser = at_least_one::<u64>)]
    checkpoint_steps: Option<u64>,
    /// Which checkpoints to keep: the newest N, and perhaps the N of the highest accuracy, as in last:3,best:1
    #[arg(long, value_name = "last:N[,best:N]", default_value_t = Keep::default())]
    keep: Keep,
    /// Start from these weights (safetensors, ours or PyTorch's)
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Threads of a run, at most 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
    /// Runs at a time; from 2 on each has one thread, and all are faster together. Results are the same to the bit
    #[arg(long, value_name = "N", default_value = "1", value_parser = threads)]
    jobs: usize,
    /// cpu, cuda or metal (the latter two if built with the feature of that name)
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    device: DeviceKind,
    /// Fail unless the best test accuracy of every run is at least this, in percent
    #[arg(long, value_name = "ACCURACY", value_parser = percent)]
    target: Option<f64>,
    /// Where a loss, gradient or activation is NaN or infinite: stop, skip the step of that batch, or continue
    #[arg(long, value_name = "WHAT", default_value_t = OnNonFinite::Stop)]
    on_nonfinite: OnNonFinite,
    /// End a run, with exit code 3, at the first epoch at which this holds: 'fc2.dead_fraction>0.5',
    /// '*.dead_fraction>0.5', 'train:fc1.zero_fraction>=0.99', 'test.loss>2'; may be given several times
    #[arg(long, value_name = "RULE")]
    alert: Vec<Alert>,
    /// What is recorded of the activations: full, counts (zeros, dead and dormant units; no distribution) or off
    #[arg(long, value_enum, default_value_t = Track::Full, hide_possible_values = true)]
    track: Track,
    /// Draw the training in the terminal while it runs, in place of the tables; Ctrl-C ends it, q leaves the view
    #[arg(long)]
    live: bool,
    /// Also draw the main curves as SVG and PNG, into plots/ of the output directory
    #[arg(long)]
    plots: bool,
    /// Print the comparison only
    #[arg(long, short)]
    quiet: bool,
}

impl Args {
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
enum Kind {
    Mlp,
    Cnn,
    Linear,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq)]
enum Track {
    Full,
    Counts,
    Off,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum DeviceKind {
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
fn name_of(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
}

fn main() -> ExitCode {
    let now: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let stored = match Args::try_parse() {
        Err(error) => return usage(&error),
        Ok(Args { resume: None, .. }) => Ok(None),
        Ok(Args { resume: Some(dir), .. }) => Stored::find(&dir).map(Some),
    };
    let outcome = stored.and_then(|stored| {
        let command = stored.as_ref().map_or(now.clone(), |stored| stored.with(&now));
        match arguments(&command, &now, stored.is_some()) {
            Err(error) => Ok(usage(&error)),
            Ok((optimizer, args)) => run(&args, optimizer, &command, stored.as_ref()),
        }
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The options of `command`, which are those of a run that goes on and behind them those of `now`.
fn arguments(
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

/// What all runs of a grid share.
struct Shared<'a> {
    args: &'a Args,
    data: &'a Dataset,
    held_back: Option<data::Split>,
    optimizer: OptimizerConfig,
    device: &'a Device,
    screen: &'a Screen,
    stop: Arc<Stop>,
    checksum: String,
    /// The options that lead to these runs.
    command: &'a [String],
    /// What `--resume` found.
    stored: Option<&'a Stored>,
    /// When the program was started, and whether a batch was trained on since.
    started: Instant,
    first_batch: Once,
}

/// Makes all runs, compares them and says how it went.
fn run(
    args: &Args,
    optimizer: OptimizerConfig,
    command: &[String],
    stored: Option<&Stored>,
) -> Result<ExitCode> {
    use tracing_subscriber::EnvFilter;
    let started = Instant::now();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(|| HeldStderr)
        .with_ansi(std::io::stderr().is_terminal() && colors_wanted())
        .with_target(false)
        .without_time()
        .init();
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let device = match args.device {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda => Device::new_cuda(0),
        DeviceKind::Metal => Device::new_metal(0),
    };
    let name = name_of(args.device);
    let device = device
        .map_err(train::Error::from)
        .with_context(|| format!("--device {name} needs such a device and a build with --features {name}"))?;

    let screen = Screen::new(args.quiet);
    let mut data = load_data(args, &device, &screen)?;
    let held_back = match args.validation {
        Some(n) => {
            let rest;
            (data.train, rest) = data.train.split_last(n).context("--validation")?;
            Some(rest)
        }
        None => None,
    };
    data.train.check(args.batch_size)?;
    let steps = data.train.len().div_ceil(args.batch_size) as u64;
    let schedule = Schedule::parse(&args.schedule, args.epochs, steps)?;
    let optimizer = OptimizerConfig {
        schedule,
        clip_norm: args.clip_norm,
        max_norm: args.max_norm,
        on_nonfinite: args.on_nonfinite,
        ..optimizer
    };
    let samples = data.train.len() + held_back.as_ref().map_or(0, |set| set.len()) + data.test.len();
    let samples = (samples as u64).saturating_mul(u64::from(args.epochs));

    let mut cells = grid(args);
    // A run of a grid may be gone on with by itself.
    if let Some(name) = stored.and_then(|stored| stored.only.as_ref()).filter(|_| cells.len() > 1) {
        cells.retain(|cell| cell.name == *name);
        if cells.is_empty() {
            bail!("--resume: with these options no run is called {name}: leave them out");
        }
    }
    // A single run is written into `out` itself, a grid into a directory per run below it.
    let alone = stored.map_or(cells.len() == 1, |stored| stored.only.is_some());
    let stop = Arc::new(Stop::default());
    let shared = Shared {
        args,
        data: &data,
        held_back,
        optimizer,
        device: &device,
        checksum: data.checksum(),
        screen: &screen,
        stop,
        command,
        stored,
        started,
        first_batch: Once::new(),
    };
    let dropped = args.dropout.iter().any(|rate| *rate > 0.0) && args.dropout != [0.0, 0.25];
    let changed = args.widths.is_some() || args.act != [Activation::Relu] || dropped;
    if args.model == Kind::Linear && changed {
        screen.warn("softmax regression has no hidden layer: --act, --dropout and --widths do nothing");
    }
    // All of them once before the first is trained: the last must not fail after hours on what is known now.
    let place = |out: &Path, cell: &Cell| if alone { out.to_path_buf() } else { out.join(&cell.name) };
    for cell in &cells {
        let network = network(&shared, cell)?;
        if let Err(error) = check_alerts(args, &network, &data) {
            return Ok(usage(
                &Args::command().error(clap::error::ErrorKind::ValueValidation, error.to_string()),
            ));
        }
        match stored {
            Some(stored) => drop(same_run(&place(&stored.dir, cell), &network.run, args.force)?),
            None => load_start(args, &network.params)?,
        }
    }
    let seen = shared.stop.clone();
    let stop = move |code: u8| {
        if seen.ask(code) {
            restore_terminal();
            std::process::exit(code.into()); // asked twice
        }
    };
    on_signal(stop.clone())?;

    let wanted = args.out.clone().unwrap_or_else(|| default_out(args, &cells, &data));
    let out = match stored {
        Some(stored) => stored.dir.clone(),
        None if alone => wanted.clone(),
        None => fresh_dir(&wanted).context("--out")?,
    };
    if args.live {
        screen.open_live(move || stop(INTERRUPTED));
    }
    let config = ConsoleConfig { color: screen.color, ..Default::default() };
    let console: Box<dyn Sink + Send> = match args.quiet {
        true => Box::new(sink_fn(|_| Ok(()))),
        false => Box::new(ConsoleSink::new(&screen, config)),
    };
    let order = InOrder::new(cells.len(), console);
    let jobs = args.jobs.min(cells.len());
    let bars = screen.bars(samples.saturating_mul(cells.len() as u64), jobs);
    let (next, ended) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // One run after the other, until there are none left or something is wrong with more than one of them.
    let work = |bars: &Bars| -> Result<()> {
        loop {
            let i = next.fetch_add(1, Ordering::SeqCst);
            let Some(cell) = cells.get(i) else {
                bars.rest();
                return Ok(());
            };
            let begun = begin(&shared, cell, &place(&out, cell))?;
            if i == 0 && args.out.is_some() && stored.is_none() {
                let written = if alone { begun.dir.path() } else { &out };
                if written != wanted {
                    screen.warn(&format!("{} is taken: writing to {}", wanted.display(), written.display()));
                }
            }
            bars.run(i + 1, cells.len(), samples);
            let run = one(&shared, begun, bars, &mut order.place(i))?;
            bars.ended();
            match &run.result {
                // Whoever closed standard output has seen enough.
                Err(error) if is_closed(error) => {
                    shared.stop.ask(1);
                }
                Err(error) => screen.warn(&format!("error: {}: {error}", cell.name)),
                Ok(()) => {}
            }
            ended.lock().unwrap_or_else(PoisonError::into_inner).push((i, run));
            if shared.stop.is_asked() {
                return Ok(());
            }
        }
    };
    let began = Instant::now();
    let made = if jobs == 1 { work(&bars[0]) } else { side_by_side(&bars, &shared.stop, work) };
    let took = began.elapsed();
    bars.iter().for_each(Bars::clear);
    made?;
    let mut ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.sort_by_key(|(i, _)| *i);
    let written = if alone { ended[0].1.path.clone() } else { out };
    let on = match args.checkpoint_every {
        Some(0) if args.checkpoint_steps.is_none() => String::new(),
        _ => format!("; go on with --resume {}", written.display()),
    };
    if ended.iter().any(|(_, run)| run.result.as_ref().is_err_and(is_closed)) {
        eprintln!("standard output was closed; what was done is in {}{on}", written.display());
        return Ok(ExitCode::FAILURE);
    }
    let page = written.join("report.html");
    if ended.iter().all(|(_, run)| run.was_finished) && page.exists() {
        let text = format!("{0} is finished: {1} of {1} epochs\n", written.display(), args.epochs);
        (&screen).write_all(text.as_bytes()).context("standard output")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut failed = ended.iter().any(|(_, run)| run.result.is_err());
    let alerted = ended.iter().any(|(_, run)| run.result.as_ref().is_err_and(is_alert));
    let summaries: Vec<_> = ended.into_iter().map(|(_, run)| run.summary).collect();
    // What it showed last, as it would have been printed without it.
    if let Some((run, report)) = screen.close_live().filter(|_| !args.quiet) {
        let mut console = ConsoleSink::new(&screen, config);
        console.begin(&run).and_then(|()| console.epoch(&report)).context("standard output")?;
    }

    let mut text = comparison(&summaries);
    if !alone {
        let trained: u64 = summaries.iter().map(|of| of.train_samples).sum();
        let (n, took) = (summaries.len(), took.as_secs_f64());
        let speed = HumanCount((trained as f64 / took) as u64);
        text +=
            &format!("\n{n} runs in {took:.1} s, {jobs} at a time: {speed} samples/s of training in all\n");
    }
    let (runs, _) = load_runs(std::slice::from_ref(&written));
    if !runs.is_empty() {
        let draw = || -> Result<()> {
            write_whole(&page, html_report(&runs).as_bytes()).with_context(|| page.display().to_string())?;
            if args.plots {
                static_plots(&runs, written.join("plots"))?;
            }
            Ok(())
        };
        // A full disk has been mentioned by then.
        draw().or_else(|error| if failed { Ok(()) } else { Err(error) })?;
    }
    if !args.quiet {
        text = format!("\n{text}\nwritten to {}; look at {}\n", written.display(), page.display());
    }
    (&screen).write_all(text.as_bytes()).and_then(|()| (&screen).flush()).context("standard output")?;
    if shared.stop.is_asked() {
        eprintln!("stopped on request; what was done is in {}{on}", written.display());
        return Ok(ExitCode::from(shared.stop.code()));
    }
    for summary in &summaries {
        let (best, target) = (summary.best_accuracy.unwrap_or(0.0), args.target.unwrap_or(0.0));
        // In percent, and not by the last bit.
        if 100.0 * best < target - 1e-9 {
            let (run, best) = (&summary.run, 100.0 * best);
            eprintln!(
                "error: {}: best {} accuracy {best:.2} % is below the target of {target} %",
                run.name, run.dataset
            );
            failed = true;
        }
    }
    Ok(match (alerted, failed) {
        (true, _) => ExitCode::from(3),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    })
}

/// Whether every site that an alert names is one of the network's, which one sample is enough to learn.
fn check_alerts(args: &Args, network: &Network, data: &Dataset) -> train::Result<()> {
    if args.alert.iter().any(Alert::asks_layers) {
        let mut sites = Vec::new();
        let note = observer_fn(|seen| {
            sites.push(seen.site.name().to_string());
            Ok(())
        });
        evaluate(&*network.model, data.test.clone().take(1).batches(1), &mut { note })?;
        args.alert.iter().try_for_each(|alert| alert.check_site(&sites))?;
    }
    Ok(())
}

/// Does `work` on a thread for each of `bars`, which has no other to share its work with. What ends one of them ends
/// all.
fn side_by_side(bars: &[Bars], stop: &Stop, work: impl Fn(&Bars) -> Result<()> + Sync) -> Result<()> {
    let job = |bars: &Bars| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        pool.install(|| work(bars)).inspect_err(|_| {
            stop.ask(1);
        })
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = bars.iter().map(|bars| scope.spawn(|| job(bars))).collect();
        let join = |job: ScopedJoinHandle<'_, Result<()>>| {
            job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        // All are waited for, whatever the first came to.
        let made: Vec<_> = jobs.into_iter().map(join).collect();
        made.into_iter().collect()
    })
}

/// Whether nobody reads standard output any more.
fn is_closed(error: &train::Error) -> bool {
    matches!(error, train::Error::Report(report::Error::Io { cause, .. }) if cause.kind() == ErrorKind::BrokenPipe)
}

fn is_alert(error: &train::Error) -> bool {
    matches!(error, train::Error::Report(report::Error::Alert(_)))
}

/// What a run came to.
struct Ended {
    summary: Summary,
    path: PathBuf,
    result: train::Result<()>,
    /// There was nothing left to do.
    was_finished: bool,
}

/// A run that can begin, or go on.
struct Begun {
    network: Network,
    dir: RunDir,
    saves: Saves,
    /// Where it goes on from.
    found: Option<Checkpoint<State>>,
}

/// The run as its directory has it, if it has, or as it is from now on with `--force`.
///
/// # Errors
/// When it is another run than the one that began there.
fn same_run(path: &Path, run: &Run, force: bool) -> Result<Option<Run>> {
    let config = path.join("config.json");
    if !config.exists() {
        return Ok(None);
    }
    let stored = read_config(&config)?;
    let changes = changes(&stored, run);
    if changes.is_empty() {
        return Ok(Some(stored));
    }
    let changes = changes.join("; ");
    if !force {
        bail!(
            "{}: {changes}: leave the change out, or accept it with --force, and with it another result",
            path.display()
        );
    }
    let mut forced = stored.config["forced"].as_array().cloned().unwrap_or_default();
    forced.push(changes.into());
    let mut run = run.clone();
    run.config["forced"] = forced.into();
    Ok(Some(run))
}

/// Makes the directory of a run, or finds where the run that is in it goes on.
fn begin(shared: &Shared<'_>, cell: &Cell, path: &Path) -> Result<Begun> {
    let args = shared.args;
    let often = Often { epochs: args.checkpoint_every, steps: args.checkpoint_steps };
    let mut network = network(shared, cell)?;
    if shared.stored.is_none() || !path.exists() {
        load_start(args, &network.params)?;
        let dir = RunDir::create(path).context("--out")?;
        let saves = Saves::open(dir.path(), args.keep, often)?;
        return Ok(Begun { network, dir, saves, found: None });
    }
    let lock = RunLock::take(path)?;
    if let Some(run) = same_run(path, &network.run, args.force)? {
        network.run = run;
    }
    let mut saves = Saves::open(path, args.keep, often)?;
    let found = saves.newest()?;
    match &found {
        None => load_start(args, &network.params)?,
        Some(found) => {
            for error in &found.passed_over {
                shared.screen.warn(&format!("{error}: going on from {} instead", found.at));
            }
            let edited = changes(&found.state.run, &network.run);
            if !edited.is_empty() && network.run.config["forced"].is_null() {
                bail!(
                    "{}: config.json is not that of the checkpoint: {}: put it right, or accept it with --force",
                    path.display(),
                    edited.join("; ")
                );
            }
        }
    }
    let files = found.as_ref().map_or(Lengths::default(), |found| found.state.files);
    Ok(Begun { network, dir: RunDir::resume(lock, &files)?, saves, found })
}

/// Trains the network of one cell and writes down what it came to.
///
/// # Errors
/// When it cannot begin. What goes wrong later is part of what it came to.
fn one(shared: &Shared<'_>, begun: Begun, bars: &Bars, console: &mut Place<'_, '_>) -> Result<Ended> {
    let Begun { network, mut dir, mut saves, found } = begun;
    let path = dir.path().to_path_buf();
    let weights = path.join("model.safetensors");
    let mut summary = Summary::new(network.run.clone());
    let epoch = found.as_ref().map_or(0, |found| found.at.epoch);
    let past = if shared.stored.is_some() { read_reports(&path)? } else { Vec::new() };
    if let Some(found) = found.as_ref().filter(|found| found.at.epoch >= network.run.epochs)
        && std::fs::read(&weights).is_ok_and(|bytes| bytes == found.model())
    {
        CaughtUp::new(&mut summary, past).begin(&network.run)?;
        return Ok(Ended { summary, path, result: Ok(()), was_finished: true });
    }
    let board = match shared.stored {
        Some(_) => TensorBoard::resume(&path, epoch),
        None => TensorBoard::create(&path),
    };
    let mut sinks: Vec<Box<dyn Sink + '_>> = vec![
        Box::new(CaughtUp::new(&mut summary, past.clone())),
        Box::new(&mut dir),
        Box::new(board.context("--out")?),
        Box::new(TracingSink),
    ];
    sinks.push(Box::new(console));
    if let Some(live) = shared.screen.live() {
        sinks.push(Box::new(CaughtUp::new(live, past)));
    }
    // Behind the others: what fires is on disk by then.
    let alerts = shared.args.alert.iter().cloned();
    sinks.extend(alerts.map(|alert| Box::new(alert) as Box<dyn Sink + '_>));
    let result = train(shared, bars, &network, &mut saves, found, &mut sinks);
    // Whatever ended the run, what it came to is kept.
    let result = result.and(sinks.finish().map_err(train::Error::from));
    let result = result.and(save_weights(&network.params, &weights));
    drop(sinks);
    Ok(Ended { summary, path, result, was_finished: false })
}

/// Trains one network from its seed, or from where a checkpoint found it, and reports every epoch.
fn train(
    shared: &Shared<'_>,
    bars: &Bars,
    network: &Network,
    saves: &mut Saves,
    found: Option<Checkpoint<State>>,
    sinks: &mut dyn Sink,
) -> train::Result<()> {
    let Shared { args, data, .. } = shared;
    let Network { run, params, model, rng } = network;
    let model = &**model;
    let stopped = || shared.stop.is_asked();
    // Bars move with every batch, and after Ctrl-C there is none.
    let tested = |batches: Batches, epoch: u32, split: Split| {
        bars.pass(batches.samples(), run, epoch, split);
        batches.take_while(|_| !stopped()).inspect(|batch| bars.advance(batch))
    };
    let recorder = || match args.track {
        Track::Full => Some(Recorder::new()),
        Track::Counts => Some(Recorder::of(Parts::COUNTS)),
        Track::Off => None,
    };
    let mut optimizer = Optimizer::new(params.vars(), shared.optimizer)?;
    let (done, mut state) = match found {
        Some(found) => {
            found.restore(params, &mut optimizer)?;
            (found.at.epoch, State { run: run.clone(), ..found.state })
        }
        None => {
            // Dropout draws from a generator of its own: with it or without, samples come in the same order.
            let (order, masks, progress) = (rng.clone(), fork(rng), Progress::default());
            let (live, validation, test) = (recorder(), recorder(), recorder());
            let (best, files, run) = (None, Lengths::default(), run.clone());
            (0, State { order, masks, progress, live, validation, test, best, files, run })
        }
    };
    sinks.begin(run)?;
    let per_epoch = data.train.len() + shared.held_back.as_ref().map_or(0, |set| set.len()) + data.test.len();
    bars.skip(per_epoch as u64 * u64::from(done) + state.progress.samples());
    for epoch in done + 1..=args.epochs {
        let mut next = state.order.clone();
        let mut batches = data.train.shuffled(&mut next, args.batch_size);
        batches.skip_batches(state.progress.batches() as usize);
        bars.pass(batches.samples(), run, epoch, Split::Train);
        while batches.len() > 0 && !stopped() {
            let piece = usize::try_from(saves.batches_to_go(optimizer.steps())).unwrap_or(usize::MAX);
            let piece = batches.by_ref().take(piece).take_while(|_| !stopped());
            // For whoever measures: RUST_LOG=mnist=debug.
            let piece = piece.inspect(|batch| {
                bars.advance(batch);
                shared.first_batch.call_once(|| {
                    let seconds = shared.started.elapsed().as_secs_f64();
                    tracing::debug!(seconds, "first batch");
                });
            });
            let State { live, masks, progress, .. } = &mut state;
            train_batches(model, &mut optimizer, piece, live, masks, progress)
                .map_err(|error| error.in_epoch(epoch))?;
            if batches.len() > 0 && !stopped() {
                saves.save(epoch - 1, None, params, &optimizer, &mut state)?;
            }
        }
        let mut splits = vec![state.progress.report()];
        // An evaluation that is cut short is made again.
        let before = (state.validation.clone(), state.test.clone());
        if let Some(set) = shared.held_back.as_ref().filter(|_| !stopped()) {
            let batches = tested(set.batches(args.batch_size), epoch, Split::Validation);
            let report = evaluate(model, batches, &mut state.validation)?;
            splits
                .push(SplitReport { split: Split::Validation, ..with_layers(report, &mut state.validation) });
        }
        if !stopped() {
            let batches = tested(data.test.batches(args.batch_size), epoch, Split::Test);
            let report = evaluate(model, batches, &mut state.test)?;
            splits.push(with_layers(report, &mut state.test));
        }
        if stopped() {
            (state.validation, state.test) = before;
            saves.save(epoch - 1, None, params, &optimizer, &mut state)?;
            // No window of it is whole, so only the score of what was trained on is worth showing. Whoever goes on
            // cuts it away and makes the epoch whole.
            splits.truncate(1);
            return match state.progress.samples() {
                0 => Ok(()),
                _ => Ok(sinks.epoch(&EpochReport { epoch, splits })?),
            };
        }
        splits[0].layers = state.live.as_mut().map(Recorder::finish).unwrap_or_default();
        let stop = args.on_nonfinite == OnNonFinite::Stop;
        let lost = splits.iter().find(|of| stop && of.nonfinite.is_some()).map(|of| of.score.loss);
        let report = EpochReport { epoch, splits };
        let told = sinks.epoch(&report).map_err(train::Error::from);
        if let Some(loss) = lost {
            told?;
            let batch = data.train.len().div_ceil(args.batch_size);
            return Err(not_finite(model, data.test.batches(args.batch_size), loss, batch).in_epoch(epoch));
        }
        // Where nobody reads standard output any more, or an alert has fired, the files have what they should.
        let end = match told {
            Err(error) if is_closed(&error) || is_alert(&error) => Some(error),
            told => told.map(|()| None)?,
        };
        (state.order, state.progress) = (next, Progress::default());
        let score = state.score(&report);
        if end.is_some() || epoch == args.epochs || saves.is_due(epoch, optimizer.steps()) {
            saves.save(epoch, score, params, &optimizer, &mut state)?;
        }
        if let Some(error) = end {
            return Err(error);
        }
    }
    Ok(())
}

fn with_layers(report: SplitReport, recorder: &mut Option<Recorder>) -> SplitReport {
    SplitReport { layers: recorder.as_mut().map(Recorder::finish).unwrap_or_default(), ..report }
}

/// One run of the grid.
struct Cell {
    name: String,
    activation: Activation,
    dropout: f64,
    seed: u64,
}

/// Every activation at every dropout rate with every seed.
fn grid(args: &Args) -> Vec<Cell> {
    // Softmax regression has no hidden layer that either could act on.
    let (acts, rates) = match args.model {
        Kind::Linear => (&[Activation::Identity][..], &[0.0][..]),
        _ => (&args.act[..], &args.dropout[..]),
    };
    let mut cells: Vec<Cell> = Vec::new();
    for &activation in acts {
        for &dropout in rates {
            for i in 0..args.seeds as u64 {
                let seed = args.seed.wrapping_add(i);
                let name = file_name(&format!("{activation}-dropout{dropout}-seed{seed}"));
                if cells.iter().all(|cell| cell.name != name) {
                    cells.push(Cell { name, activation, dropout, seed });
                }
            }
        }
    }
    cells
}

/// A network before training, and what is written down about it.
struct Network {
    run: Run,
    params: Params,
    model: Box<dyn Model>,
    /// What is left of the seed for the order of the samples and for dropout.
    rng: Rng,
}

/// The network of one cell.
fn network(shared: &Shared<'_>, cell: &Cell) -> train::Result<Network> {
    let (args, data) = (shared.args, shared.data);
    let input @ (c, h, w) = data.train.shape();
    let (inputs, classes) = (c * h * w, data.classes);
    let widths = match args.model {
        Kind::Mlp => args.widths.clone().unwrap_or(vec![512, 256]),
        Kind::Cnn => args.widths.clone().unwrap_or(vec![128]),
        Kind::Linear => vec![],
    };
    let join = |sizes: &[usize]| sizes.iter().map(|n| format!("{n}-")).collect::<String>();
    let (activation, init, dropout) = (cell.activation, args.init, cell.dropout);
    let text = match args.model {
        Kind::Cnn => format!("cnn {}pool-{}{classes}", join(&args.channels), join(&widths)),
        kind => format!("{} {inputs}-{}{classes}", name_of(kind), join(&widths)),
    };
    let mut rng = rng(cell.seed);
    let params = Params::new(rng.next_u64(), shared.device);
    let model: Box<dyn Model> = match args.model {
        Kind::Cnn => {
            let channels = args.channels.clone();
            let rest = CnnConfig::default();
            let config = CnnConfig { input, channels, widths, classes, activation, init, dropout, ..rest };
            Box::new(Cnn::new(&config, params.builder())?)
        }
        _ => {
            let config = MlpConfig { inputs, widths, classes, activation, init, dropout };
            Box::new(Mlp::new(&config, params.builder())?)
        }
    };
    let run = Run {
        name: cell.name.clone(),
        dataset: data.name.clone(),
        model: text,
        activation: activation.to_string(),
        dropout,
        seed: cell.seed,
        parameters: params.count() as u64,
        epochs: args.epochs,
        config: config(shared),
    };
    Ok(Network { run, params, model, rng })
}

/// Sets the weights that a run starts from, if they come from a file.
fn load_start(args: &Args, params: &Params) -> train::Result<()> {
    args.load.as_ref().map_or(Ok(()), |path| load_weights(params, path))
}

/// Everything that is needed to repeat a run and that a [`Run`] does not say itself.
fn config(shared: &Shared<'_>) -> serde_json::Value {
    let Shared { args, data, optimizer, .. } = shared;
    json!({
        "command": shared.command,
        "batch_size": args.batch_size,
        "optimizer": format!("{:?}", optimizer.rule),
        "learning_rate": optimizer.learning_rate,
        "schedule": args.schedule,
        "clip_norm": optimizer.clip_norm,
        "max_norm": optimizer.max_norm,
        "on_nonfinite": optimizer.on_nonfinite.to_string(),
        "init": args.init.map_or("by activation".to_string(), |init| init.to_string()),
        "scale": args.scale.to_string(),
        "data": { "mean": data.mean, "std": data.std, "train": data.train.len(), "test": data.test.len(), "sha256": shared.checksum },
        "validation": args.validation,
        "load": args.load,
        "device": name_of(args.device),
        "threads": rayon::current_num_threads(),
        "track": name_of(args.track),
        "taper": env!("CARGO_PKG_VERSION"),
        "candle": locked_version("candle-core"),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
    })
}

fn load_data(args: &Args, device: &Device, screen: &Screen) -> Result<Dataset> {
    let options = data::Options {
        data_dir: args.data_dir.clone(),
        env_dir: std::env::var_os("TAPER_DATA").filter(|dir| !dir.is_empty()).map(PathBuf::from),
        ..Default::default()
    };
    let bar = screen.download_bar();
    let loaded = data::load(args.dataset, &options, &mut |progress| {
        bar.set_length(progress.total.unwrap_or(progress.received));
        bar.set_position(progress.received);
        bar.set_message(progress.file.to_string());
    });
    bar.finish_and_clear();
    let mut data = loaded?.scaled(args.scale).on(device);
    if let Some(n) = args.limit {
        (data.train, data.test) = (data.train.take(n), data.test.take(n));
    }
    Ok(data)
}

/// `runs/2026-08-01T120000-mnist-mlp-relu-selu`
fn default_out(args: &Args, cells: &[Cell], data: &Dataset) -> PathBuf {
    let mut acts: Vec<String> = cells.iter().map(|cell| cell.activation.to_string()).collect();
    acts.dedup();
    let name = file_name(&format!("{}-{}-{}", data.name, name_of(args.model), acts.join("-")));
    PathBuf::from("runs").join(format!("{}-{name}", file_time(SystemTime::now())))
}

/// Letters, digits and a few signs: a name that every file system takes.
fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}
