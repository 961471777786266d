//! Trains networks on MNIST (or digits, Fashion-MNIST, KMNIST) and shows what every layer's activations do,
//! for one or several activation functions, without dropout and with it.
//!
//!     cargo run --example mnist -- --act selu
//!     cargo run --example mnist -- --model cnn --act relu --dropout 0.25 --target 99
//!     cargo run --example mnist -- --act relu,selu,tanh,sigmoid --dropout 0,0.5 --seeds 3
//!
//! Exit code: 0, 1 when something failed or `--target` was missed, 2 for wrong usage, 130 after Ctrl-C.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::{CommandFactory, Parser, ValueEnum, error::ErrorKind};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rand::Rng as _;
use serde_json::json;
use taper::data::{self, Choice, Dataset, Scale};
use taper::hooks::{Observer, Recorder, rng};
use taper::nn::{Activation, Cnn, CnnConfig, Init, Mlp, MlpConfig, Model, Params};
use taper::report::{
    ConsoleConfig, ConsoleSink, EpochReport, Run, RunDir, Sink, Split, SplitReport, Summary, TracingSink,
    comparison, fresh_dir,
};
use taper::train::{
    Optimizer, OptimizerConfig, Schedule, evaluate, load_weights, parse_rule, save_weights, train_epoch,
};

/// Keeps the memory of one step for the next.
#[global_allocator]
static ALLOCATOR: taper::kernels::Recycle = taper::kernels::Recycle::new();

/// Train on MNIST and see what every layer's activations do: how sparse they are, which units are dead, how
/// the distribution leans. Several activations, dropout rates or seeds are compared side by side.
#[derive(Parser, Clone, Debug)]
#[command(after_help = "\
Examples:
  mnist --act selu                                     one activation, without dropout and with it
  mnist --act relu,selu,tanh,sigmoid --dropout 0,0.5   a grid of eight runs and their comparison
  mnist --model cnn --dropout 0.25 --target 99         fails if the best test accuracy is below 99 %
  mnist --dataset digits --widths 64 --epochs 20       the bundled 8×8 digits, no download")]
struct Args {
    /// Network: fully connected, convolutional, or softmax regression
    #[arg(long, value_enum, default_value_t = Kind::Mlp)]
    model: Kind,
    /// Units of the hidden fully connected layers [default: 512,256 for mlp, 128 for cnn]
    #[arg(long, value_delimiter = ',', value_parser = at_least_one)]
    widths: Option<Vec<usize>>,
    /// Feature maps of the convolutions of a cnn
    #[arg(long, value_delimiter = ',', value_parser = at_least_one, default_value = "32,64")]
    channels: Vec<usize>,
    /// Activation functions, one run each: relu, selu, celu:0.5, tanh, gelu, ...
    #[arg(long, value_name = "A[,B...]", value_delimiter = ',', default_value = "relu")]
    act: Vec<Activation>,
    /// Dropout rates, one run each; behind selu it is alpha-dropout
    #[arg(long, value_name = "P[,P...]", value_delimiter = ',', value_parser = rate, default_value = "0,0.25")]
    dropout: Vec<f64>,
    /// Seed of everything random; the same seed gives the same bits
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of seeds, from --seed upwards; the comparison then shows mean ± sd
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one_u64)]
    seeds: u64,
    /// Passes over the training data
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Samples per step
    #[arg(long, default_value = "128", value_parser = at_least_one)]
    batch_size: usize,
    /// Learning rate [default: 0.001 for adam, adamw and rmsprop, 0.1 for sgd, 0.05 with momentum, 1 for adadelta]
    #[arg(long, value_parser = not_negative)]
    lr: Option<f64>,
    /// sgd, momentum, nesterov, adam, adamw, rmsprop or adadelta
    #[arg(long, default_value = "adam")]
    optimizer: String,
    /// Pull weights towards zero [default: 0.01 for adamw, otherwise 0]
    #[arg(long, value_parser = not_negative)]
    weight_decay: Option<f64>,
    /// Learning rate over time: cosine[:WARM-UP EPOCHS], constant, step:EPOCHS[:FACTOR] or warmup:EPOCHS
    #[arg(long, default_value = "cosine", value_parser = schedule)]
    schedule: String,
    /// Scale gradients down to this common norm
    #[arg(long, value_name = "NORM", value_parser = not_negative)]
    clip_norm: Option<f64>,
    /// Scale every unit's incoming weights down to this norm
    #[arg(long, value_name = "NORM", value_parser = not_negative)]
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
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Hold back the last N training samples and report on them too
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    validation: Option<usize>,
    /// Where to write what was measured; nothing there is overwritten [default: runs/TIME-NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Start from these weights (safetensors, ours or PyTorch's)
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    /// cpu, cuda or metal (the latter two if built with the feature of that name)
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    device: DeviceKind,
    /// Fail unless the best test accuracy of every run is at least this, in percent
    #[arg(long, value_name = "ACCURACY", value_parser = percent)]
    target: Option<f64>,
    /// Do not watch activations
    #[arg(long)]
    no_track: bool,
    /// Print the comparison only
    #[arg(long, short)]
    quiet: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq)]
enum Kind {
    Mlp,
    Cnn,
    Linear,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq)]
enum DeviceKind {
    Cpu,
    Cuda,
    Metal,
}

fn number(text: &str, expected: &str, good: impl Fn(f64) -> bool) -> Result<f64, String> {
    text.parse().ok().filter(|x| good(*x)).ok_or_else(|| format!("expected {expected}"))
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, "a rate of at least 0 and below 1", |x| (0.0..1.0).contains(&x))
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, "a finite number of at least 0", |x| x.is_finite() && x >= 0.0)
}

fn percent(text: &str) -> Result<f64, String> {
    number(text, "percent, above 1 and at most 100", |x| x > 1.0 && x <= 100.0)
}

fn schedule(text: &str) -> Result<String, taper::train::Error> {
    Schedule::parse(text, 1, 1).map(|_| text.to_string())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a whole number of at least 1".to_string())
}

fn at_least_one_u64(text: &str) -> Result<u64, String> {
    at_least_one(text).map(|n| n as u64)
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && colors_wanted())
        .without_time()
        .init();
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let (rule, default_lr) = parse_rule(&args.optimizer, args.weight_decay)
        .unwrap_or_else(|e| Args::command().error(ErrorKind::InvalidValue, e).exit());
    let device = match args.device {
        DeviceKind::Cpu => Device::Cpu,
        DeviceKind::Cuda => {
            Device::new_cuda(0).map_err(taper::train::Error::from).context("--device cuda")?
        }
        DeviceKind::Metal => {
            Device::new_metal(0).map_err(taper::train::Error::from).context("--device metal")?
        }
    };

    let screen = Screen::new(args.quiet);
    let data = load_data(args, &device, &screen)?;
    let steps = (data.train.len() - args.validation.unwrap_or(0)).div_ceil(args.batch_size) as u64;
    let schedule = Schedule::parse(&args.schedule, args.epochs, steps)?;
    let optimizer = OptimizerConfig {
        rule,
        learning_rate: args.lr.unwrap_or(default_lr),
        schedule,
        clip_norm: args.clip_norm,
        max_norm: args.max_norm,
    };

    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::SeqCst) {
            std::process::exit(130); // asked twice
        }
    })?;

    let grid = grid(args);
    let acts: Vec<String> = args.act.iter().map(|a| a.to_string()).collect();
    let name = file_name(&format!("{}-{}-{}", data.name, args.model.name(), acts.join("-")));
    let out = args.out.clone().unwrap_or_else(|| {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        PathBuf::from("runs").join(format!("{}-{name}", time.trim_end_matches('Z').replace(':', "")))
    });
    // A single run is written into `out` itself, a grid into a directory per run below it.
    let out = if grid.len() > 1 { fresh_dir(&out)? } else { out };
    let console = ConsoleConfig { color: screen.color, ..Default::default() };
    let mut console = (!args.quiet).then(|| ConsoleSink::new(&screen, console));
    let (mut summaries, mut failure, mut last_dir) = (Vec::new(), None, out.clone());
    for cell in &grid {
        let dir = if grid.len() > 1 { out.join(&cell.name) } else { out.clone() };
        let mut dir = RunDir::create(dir)?;
        last_dir = dir.path().to_path_buf();
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(&mut dir), Box::new(TracingSink::default())];
        if let Some(console) = &mut console {
            sinks.push(Box::new(console));
        }
        let weights = last_dir.join("model.safetensors");
        let (summary, result) =
            train(args, cell, &data, optimizer, &device, &mut sinks, &weights, &screen, &stop)?;
        summaries.push(summary);
        if let Err(error) = result {
            screen.warn(&format!("error: {}: {error}", cell.name));
            failure.get_or_insert(error);
        }
        if stop.load(Ordering::SeqCst) {
            break;
        }
    }
    screen.clear();

    print(&comparison(&summaries))?;
    print(&format!("written to {}\n", if grid.len() > 1 { &out } else { &last_dir }.display()))?;
    if stop.load(Ordering::SeqCst) {
        eprintln!("stopped by Ctrl-C; what was done is written down");
        return Ok(ExitCode::from(130));
    }
    if failure.is_some() {
        return Ok(ExitCode::FAILURE);
    }
    if let Some(target) = args.target {
        for summary in &summaries {
            let best = summary.best_accuracy.unwrap_or(0.0) * 100.0;
            if best < target {
                bail!(
                    "{}: best {} accuracy {best:.2} % is below the target of {target} %",
                    summary.run.name,
                    data.name
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
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
            for seed in args.seed..args.seed.saturating_add(args.seeds) {
                let name = file_name(&format!("{activation}-dropout{dropout}-seed{seed}"));
                if cells.iter().all(|cell| cell.name != name) {
                    cells.push(Cell { name, activation, dropout, seed });
                }
            }
        }
    }
    cells
}

/// Trains one network from its seed and reports every epoch. The inner result is the run's own failure, after
/// which other runs can still be made; the outer one is a fault of the surroundings.
#[allow(clippy::too_many_arguments)]
fn train(
    args: &Args,
    cell: &Cell,
    data: &Dataset,
    optimizer: OptimizerConfig,
    device: &Device,
    sinks: &mut dyn Sink,
    weights: &Path,
    screen: &Screen,
    stop: &AtomicBool,
) -> Result<(Summary, Result<(), taper::train::Error>)> {
    let mut rng = rng(cell.seed);
    let params = Params::new(rng.next_u64(), device);
    let (model, text) = build(args, cell, data, &params)?;
    if let Some(path) = &args.load {
        load_weights(&params, path)?;
    }
    let run = Run {
        name: cell.name.clone(),
        dataset: data.name.clone(),
        model: text,
        activation: cell.activation.to_string(),
        dropout: cell.dropout,
        seed: cell.seed,
        parameters: params.count() as u64,
        epochs: args.epochs,
        config: config(args, &optimizer, data),
    };
    let mut summary = Summary::new(run.clone());
    sinks.begin(&run)?;

    let mut optimizer = Optimizer::new(params.vars(), optimizer)?;
    let (train_set, held_back) = match args.validation {
        Some(n) => data.train.clone().split_last(n).map(|(train, rest)| (train, Some(rest)))?,
        None => (data.train.clone(), None),
    };
    let mut recorders: [Option<Recorder>; 3] = std::array::from_fn(|_| (!args.no_track).then(Recorder::new));
    let [live, validation, test] = &mut recorders;
    let bars = screen.bars(&cell.name, args.epochs, train_set.len());
    let mut result = Ok(());
    for epoch in 1..=args.epochs {
        bars.start(epoch);
        let batches = train_set
            .shuffled(&mut rng, args.batch_size)
            .take_while(|_| !stop.load(Ordering::SeqCst))
            .inspect(|batch| bars.advance(batch));
        let report = match train_epoch(&*model, &mut optimizer, batches, live as &mut dyn Observer, &mut rng)
        {
            Ok(report) => report,
            Err(error) => {
                result = Err(error.in_epoch(epoch));
                break;
            }
        };
        let stopped = stop.load(Ordering::SeqCst);
        if report.score.samples == 0 {
            break;
        }
        let mut splits = vec![with_layers(report, live)];
        if !stopped {
            if let Some(rest) = &held_back {
                let report = evaluate(&*model, rest.batches(512), validation)?;
                splits.push(SplitReport { split: Split::Validation, ..with_layers(report, validation) });
            }
            let report = evaluate(&*model, data.test.batches(512), test)?;
            splits.push(with_layers(report, test));
        }
        let report = EpochReport { epoch, splits };
        summary.epoch(&report)?;
        sinks.epoch(&report)?;
        if stopped {
            break;
        }
    }
    bars.finish();
    sinks.finish()?;
    save_weights(&params, weights)?;
    Ok((summary, result))
}

fn with_layers(report: SplitReport, recorder: &mut Option<Recorder>) -> SplitReport {
    SplitReport { layers: recorder.as_mut().map(Recorder::finish).unwrap_or_default(), ..report }
}

/// The network of one cell, and its description.
fn build(args: &Args, cell: &Cell, data: &Dataset, params: &Params) -> Result<(Box<dyn Model>, String)> {
    let (c, h, w) = data.train.shape();
    let widths = args.widths.clone().unwrap_or(match args.model {
        Kind::Mlp => vec![512, 256],
        Kind::Cnn => vec![128],
        Kind::Linear => vec![],
    });
    let join = |sizes: &[usize]| sizes.iter().map(|n| format!("{n}-")).collect::<String>();
    let (activation, init, dropout, classes) = (cell.activation, args.init, cell.dropout, data.classes);
    let vb = params.builder();
    let built = || -> taper::train::Result<(Box<dyn Model>, String)> {
        Ok(match args.model {
            Kind::Cnn => {
                let text = format!("cnn {}pool-{}{classes}", join(&args.channels), join(&widths));
                let input = (c, h, w);
                let channels = args.channels.clone();
                let config = CnnConfig {
                    input,
                    channels,
                    widths,
                    classes,
                    activation,
                    init,
                    dropout,
                    ..Default::default()
                };
                (Box::new(Cnn::new(&config, vb)?), text)
            }
            kind => {
                let inputs = c * h * w;
                let widths = if kind == Kind::Linear { vec![] } else { widths };
                let text = format!("{} {inputs}-{}{classes}", kind.name(), join(&widths));
                let config = MlpConfig { inputs, widths, classes, activation, init, dropout };
                (Box::new(Mlp::new(&config, vb)?), text)
            }
        })
    };
    Ok(built()?)
}

/// Everything that is needed to repeat a run and that a [`Run`] does not say itself.
fn config(args: &Args, optimizer: &OptimizerConfig, data: &Dataset) -> serde_json::Value {
    json!({
        "command": std::env::args().skip(1).collect::<Vec<_>>(),
        "batch_size": args.batch_size,
        "optimizer": format!("{:?}", optimizer.rule),
        "learning_rate": optimizer.learning_rate,
        "schedule": args.schedule,
        "clip_norm": optimizer.clip_norm,
        "max_norm": optimizer.max_norm,
        "init": args.init.map_or("by activation".to_string(), |init| init.to_string()),
        "scale": args.scale.to_string(),
        "data": { "mean": data.mean, "std": data.std, "train": data.train.len(), "test": data.test.len() },
        "validation": args.validation,
        "load": args.load,
        "device": format!("{:?}", args.device).to_lowercase(),
        "threads": rayon::current_num_threads(),
        "tracked": !args.no_track,
        "taper": env!("CARGO_PKG_VERSION"),
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
    let rest = args.validation.unwrap_or(0);
    if rest >= data.train.len() {
        bail!(
            "--validation {rest}: expected fewer than the {} training samples of {}",
            data.train.len(),
            data.name
        );
    }
    data.train.clone().take(data.train.len() - rest).check(args.batch_size)?;
    Ok(data)
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::Cnn => "cnn",
            Self::Linear => "linear",
        }
    }
}

/// Where people look: bars on standard error, text on standard output, neither in the other's way.
struct Screen {
    bars: MultiProgress,
    color: bool,
}

/// The bars of one run.
struct Bars {
    epochs: ProgressBar,
    samples: ProgressBar,
}

impl Screen {
    fn new(quiet: bool) -> Self {
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let target =
            if terminal && !quiet { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            bars: MultiProgress::with_draw_target(target),
            color: std::io::stdout().is_terminal() && colors_wanted(),
        }
    }

    fn bar(&self, template: &str, length: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bars.add(ProgressBar::new(length).with_style(style.progress_chars("━╸─")))
    }

    fn bars(&self, run: &str, epochs: u32, samples: usize) -> Bars {
        let bars = Bars {
            epochs: self.bar("{msg} {bar:24} epoch {pos}/{len}  {elapsed} gone, {eta} left", epochs.into()),
            samples: self
                .bar("epoch {msg} {bar:24} {human_pos}/{human_len} samples  {per_sec}", samples as u64),
        };
        bars.epochs.set_message(run.to_string());
        bars
    }

    fn download_bar(&self) -> ProgressBar {
        self.bar("downloading {msg} {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left", 0)
    }

    fn warn(&self, text: &str) {
        self.bars.suspend(|| eprintln!("{text}"));
    }

    fn clear(&self) {
        // Nothing can be done about a terminal that does not take it.
        let _ = self.bars.clear();
    }
}

impl Write for &Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bars.suspend(|| std::io::stdout().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

impl Bars {
    fn start(&self, epoch: u32) {
        self.samples.reset();
        self.samples.set_message(epoch.to_string());
        self.epochs.set_position((epoch - 1).into());
    }

    fn advance(&self, batch: &data::Result<data::Batch>) {
        if let Ok(batch) = batch {
            self.samples.inc(batch.labels.elem_count() as u64);
        }
    }

    fn finish(&self) {
        self.samples.finish_and_clear();
        self.epochs.finish_and_clear();
    }
}

/// `NO_COLOR` set to anything asks for none: see no-color.org.
fn colors_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints to standard output; whoever closed it has seen enough.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output")
}

/// Letters, digits and a few signs: a name that every file system takes.
fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}
