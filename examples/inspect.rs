//! What the activations of a trained network do: statistics over a whole split, for any file of weights of an
//! MLP or a CNN, ours or PyTorch's, without training.
//!
//!     cargo run --example inspect -- runs/2026-08-01T120000-mnist-mlp-relu/model.safetensors
//!     cargo run --example inspect -- pytorch.safetensors --dataset mnist --act tanh --scale unit --units
//!
//! Exit code: 0, 1 when something failed, 2 for wrong usage.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use candle_nn::VarBuilder;
use clap::{Parser, ValueEnum};
use serde_json::json;
use taper::data::{self, Choice, Scale};
use taper::hooks::{Activation, Recorder, UnitStats};
use taper::nn::{Architecture, Model, Params};
use taper::report::{
    ConsoleConfig, ConsoleSink, EpochReport, Run, RunDir, Sink, Split, SplitReport, read_config,
};
use taper::train::{self, CROSS_ENTROPY, LoadConfig, classify, evaluate, weight_shapes};
use taper_examples::{Screen, at_least_one, start};
use taper_view::{html_report, load_runs};

/// Show what every layer's activations do in a trained network: how sparse they are, which units are dead, how
/// the distribution leans. Nothing is trained: the network sees a whole split once, in evaluation mode.
///
/// The sizes of the network come from the file, whose layers are called conv1, ..., fc1, ... (or linear1, ln1, fc, ...), or
/// 0, 1, ... as in PyTorch's nn.Sequential (in PyTorch: safetensors.torch.save_file(model.state_dict(), FILE)). A file does not
/// say which activation function the network was trained with, nor how its input was scaled: see --act and
/// --scale. A low accuracy is a sign that one of them is wrong.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  inspect runs/NAME/model.safetensors                      a run of the mnist example: config.json says the rest
  inspect net.safetensors --act tanh --scale unit --units  PyTorch's, for pixels in [0, 1]; lists odd units
  inspect net.safetensors --split train --out runs/net     also writes layers.jsonl, for tools")]
struct Args {
    /// The weights, a safetensors file
    #[arg(value_name = "WEIGHTS")]
    weights: PathBuf,
    /// The network's activation function [default: that of the run, else prelu if the file has slopes, else relu]
    #[arg(long, value_name = "A")]
    act: Option<Activation>,
    /// How pixels were scaled: unit, in [0, 1], or standard, that minus the mean, over the standard deviation
    /// [default: that of the run, else standard]
    #[arg(long)]
    scale: Option<Scale>,
    /// mnist, fashion-mnist, kmnist, digits, emnist-SPLIT or idx [default: that of the run, else mnist]
    #[arg(long)]
    dataset: Option<Choice>,
    /// Directory with the data set's four files [default: $TAPER_DATA, else datasets/NAME, the cache or a download]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Accept weights in f16, bf16 or f64 and convert them to f32
    #[arg(long)]
    convert: bool,
    /// Which samples the network sees
    #[arg(long, value_enum, default_value_t = Part::Test)]
    split: Part,
    /// Use only the first N samples
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    limit: Option<usize>,
    /// List the units that are dead, rare, dormant or always on, with their firing rates
    #[arg(long)]
    units: bool,
    /// Write layers.jsonl, metrics.jsonl and config.json there; nothing is overwritten
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// With --out, also make a page of what is written there, which needs no network
    #[arg(long, value_name = "FILE", requires = "out")]
    html: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy)]
enum Part {
    Train,
    Test,
}

fn main() -> ExitCode {
    start(run)
}

fn run(args: &Args) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn"))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .init();
    let screen = Screen::new(false);
    let path = args.weights.display();
    let shapes = weight_shapes(&args.weights)?;

    // Whatever the file itself cannot say: from the command line, else from the run that wrote it.
    let run = read_config(args.weights.with_file_name("config.json")).ok();
    let of_run = |field: &dyn Fn(&Run) -> Option<String>| run.as_ref().and_then(field);
    let act = args.act.or_else(|| of_run(&|run| Some(run.labels.get("act")?.as_str()?.into()))?.parse().ok());
    let scale =
        args.scale.or_else(|| of_run(&|run| Some(run.config["scale"].as_str()?.into()))?.parse().ok());
    let dataset = args.dataset.or_else(|| of_run(&|run| Some(run.dataset.clone()))?.parse().ok());
    let data = load_data(args, dataset.unwrap_or(Choice::Mnist), scale.unwrap_or_default(), &screen)?;
    let samples = match args.split {
        Part::Train => &data.train,
        Part::Test => &data.test,
    };
    let samples = samples.clone().take(args.limit.unwrap_or(usize::MAX));

    let network = Architecture::infer(shapes, samples.shape()).map_err(train::Error::from);
    let network = network.with_context(|| format!("{path}: no network for {}", data.name))?;
    if network.classes() != data.classes {
        let (found, name) = (network.classes(), &data.name);
        bail!(
            "{path}: expected {} outputs, the classes of {name}, found {found}: another --dataset?",
            data.classes
        );
    }
    let slopes = network.learns_slopes().then_some(Activation::Prelu { slope: 0.25 });
    let act = act.or(slopes).unwrap_or(Activation::Relu);
    let params = Params::new(0, &Device::Cpu);
    let model = build(&network, act, params.builder()).with_context(|| format!("{path}: --act"))?;
    LoadConfig { convert: args.convert, ..LoadConfig::default() }.load(&params, &args.weights)?;

    let split = match args.split {
        Part::Train => Split::Train,
        Part::Test => Split::Test,
    };
    let mut recorder = Recorder::new();
    let report = evaluate(&classify(&*model), split, samples.batches(512), &mut recorder)?;

    let mut units = String::new();
    if args.units {
        units = odd_units(&recorder, network.layers(), act)?;
    }
    let report = EpochReport { epoch: 1, splits: vec![SplitReport { layers: recorder.finish(), ..report }] };
    let name = args.weights.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let scale = scale.unwrap_or_default();
    let mut text = format!(
        "{name}: {network}, {} parameters, {act}, on {} samples of {}, {scale} scale\n",
        params.count(),
        samples.len(),
        samples.name()
    );
    if network.layers().iter().any(|(own, theirs)| own != theirs) {
        let names: Vec<String> =
            network.layers().iter().map(|(own, theirs)| format!("{own} is {theirs}")).collect();
        writeln!(text, "layers of the file: {}", names.join(", "))?;
    }
    if let Some(pool) = network.also_fits_pooling_between() {
        writeln!(
            text,
            "assumed: pooling behind all convolutions; {pool}×{pool} behind each of them fits these sizes too, and cannot be run here"
        )?;
    }
    let mut console =
        ConsoleSink::new(Vec::new(), ConsoleConfig { color: screen.color, ..Default::default() });
    console.epoch(&report)?;
    // There is but one pass, and no epoch that it would be the first of.
    text += &String::from_utf8(console.into_inner())?.replacen("epoch 1  ", "", 1);
    text += &units;
    if let Some(out) = &args.out {
        let mut dir = RunDir::create(out).context("--out")?;
        let run = Run {
            name,
            dataset: data.name.clone(),
            model: network.to_string(),
            labels: [("act".into(), act.to_string().into())].into(),
            loss: CROSS_ENTROPY.into(),
            seed: 0,
            parameters: params.count() as u64,
            epochs: 1,
            config: json!({
                "inspected": args.weights,
                "mode": "evaluation",
                "scale": scale.to_string(),
                "taper": env!("CARGO_PKG_VERSION"),
            }),
        };
        dir.begin(&run).and_then(|()| dir.epoch(&report)).and_then(|()| dir.finish()).context("--out")?;
        writeln!(text, "written to {}", dir.path().display())?;
        if let Some(path) = &args.html {
            let (runs, _) = load_runs(&[dir.path().to_path_buf()]);
            let written = std::fs::write(path, html_report(&runs));
            written.with_context(|| format!("{}: cannot write", path.display()))?;
            writeln!(text, "written to {}", path.display())?;
        }
    }
    match (&screen).write_all(text.as_bytes()).and_then(|()| (&screen).flush()) {
        // Whoever closed standard output has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

fn build(
    network: &Architecture,
    act: Activation,
    vb: VarBuilder<'static>,
) -> train::Result<Box<dyn Model + Send + Sync>> {
    Ok(network.build(act, vb)?)
}

fn load_data(args: &Args, choice: Choice, scale: Scale, screen: &Screen) -> Result<data::Dataset> {
    let options = data::Options {
        data_dir: args.data_dir.clone(),
        env_dir: std::env::var_os("TAPER_DATA").filter(|dir| !dir.is_empty()).map(PathBuf::from),
        ..Default::default()
    };
    let bar = screen.download_bar();
    let loaded = data::load(choice, &options, &mut |progress| {
        bar.set_length(progress.total.unwrap_or(progress.received));
        bar.set_position(progress.received);
        bar.set_message(progress.file.to_string());
    });
    bar.finish_and_clear();
    Ok(loaded?.scaled(scale))
}

/// What a unit can be, as in the table above; several of these at once too.
const KINDS: [&str; 4] = ["dead", "rare", "dormant", "always on"];

/// A line for every unit that is any of [`KINDS`]; dormant is a score of at most 0.025.
fn odd_units(recorder: &Recorder, layers: &[(String, String)], act: Activation) -> Result<String> {
    let mut text = String::new();
    // The last layer has no activation behind it, and no units.
    for (site, units) in layers.iter().filter_map(|(site, _)| Some((site, recorder.units(site)?))) {
        let mut counts = [0; 4];
        let mut rows = String::new();
        for (i, unit) in units.iter().enumerate().filter(|(_, unit)| unit.observations > 0) {
            let UnitStats { observations, fired, mean_abs, dormancy: score, .. } = *unit;
            let rate = fired as f64 / observations as f64;
            let rare = act.is_zero_floored() && unit.is_rare();
            let kinds = [unit.is_dead(), rare, unit.is_dormant(0.025), unit.is_always_on()];
            let named = KINDS.into_iter().zip(kinds).filter(|(_, is)| *is).map(|(kind, _)| kind);
            let named = named.collect::<Vec<_>>().join(", ");
            counts.iter_mut().zip(kinds).for_each(|(count, is)| *count += u64::from(is));
            if !named.is_empty() {
                let (fires, rate) = (format!("{fired} of {observations}"), few(100.0 * rate) + "%");
                let (mean_abs, score) = (few(mean_abs), few(score));
                writeln!(rows, "  {i:>4}  {fires:>22}  {rate:>8}  {mean_abs:>8}  {score:>7}  {named}")?;
            }
        }
        let counts: Vec<String> = KINDS.iter().zip(counts).map(|(kind, n)| format!("{n} {kind}")).collect();
        writeln!(text, "{site}: {} of {} units", counts.join(", "), units.len())?;
        if !rows.is_empty() {
            let [unit, fires, rate, mean, score] = ["unit", "fires on", "rate", "mean |y|", "score"];
            write!(text, "  {unit:>4}  {fires:>22}  {rate:>8}  {mean:>8}  {score:>7}\n{rows}")?;
        }
    }
    Ok(text)
}

/// A number in few characters; only nothing at all is `0`.
fn few(x: f64) -> String {
    match x {
        0.0 => "0".to_string(),
        x if x < 1e-3 => format!("{x:.0e}"),
        x => format!("{x:.3}"),
    }
}
