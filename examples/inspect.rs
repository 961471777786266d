//! Statistics of a trained network's activations over a whole split, for the weights of a run or of another program,
//! without training.
//!
//!     cargo run --example inspect -- runs/2026-08-01T120000-mnist-mlp-relu
//!     cargo run --example inspect -- pytorch.safetensors --act tanh --scale unit --units
//!     cargo run --example inspect -- cnn.safetensors --scale unit --layers 'conv 5, relu, max_pool 2, linear'
//!
//! Exit code: 0, 1 when something failed, 2 for wrong usage.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use serde_json::json;
use taper::hooks::{Recorder, UnitStats};
use taper::report::{
    ConsoleConfig, EpochReport, Run, RunDir, Sink, Split, SplitReport, count_text, fixed_text, layers_text,
};
use taper::train::{CROSS_ENTROPY, classify, evaluate};
use taper_experiment::{DeviceKind, LAYERS_HELP, Screen, Trained, WeightOptions, at_least_one, print, start};
use taper_view::{html_report, load_runs};

/// Show what every layer's activations do in a trained network: how sparse they are, which units are dead, how they are
/// distributed. Nothing is trained: the network evaluates a whole split once.
///
/// Files of Taper's runs contain everything needed. For a file of another program (PyTorch:
/// safetensors.torch.save_file(model.state_dict(), FILE)) give the activation function (--act), the scale of the input
/// (--scale), and, if the shapes are ambiguous, the layers (--layers). A low accuracy is a sign that one of them is
/// wrong.
#[derive(Parser)]
#[command(after_help = after_help())]
struct Args {
    #[command(flatten)]
    weights: WeightOptions,
    /// The samples that the network evaluates
    #[arg(long, value_enum, default_value_t = Part::Test)]
    split: Part,
    /// Use only the first N samples
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    limit: Option<usize>,
    /// Device of the computation; cuda and metal need a build with that feature
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    device: DeviceKind,
    /// List units that are dead, rare, dormant or always on, with their firing rates
    #[arg(long)]
    units: bool,
    /// Write layers.jsonl, metrics.jsonl and config.json to this directory; nothing is overwritten
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// With --out, also make a page of these files, which needs no network
    #[arg(long, value_name = "FILE", requires = "out")]
    html: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy)]
enum Part {
    Train,
    Test,
}

fn after_help() -> String {
    let examples = "\
Examples:
  inspect runs/NAME                                        a run of ours, which says the rest
  inspect net.safetensors --act tanh --scale unit --units  PyTorch's, for pixels in [0, 1]; lists odd units
  inspect net.safetensors --scale unit --layers 'conv 5 pad 2, relu, max_pool 2, linear'
  inspect net.safetensors --split train --out runs/net     also writes layers.jsonl, for tools";
    format!("{LAYERS_HELP}\n\n{examples}")
}

fn main() -> ExitCode {
    start(run)
}

fn run(args: &Args) -> Result<()> {
    let screen = Screen::new(false);
    let device = args.device.open()?;
    let trained = args.weights.open(&device, &screen)?;
    let Trained { weights, act, scale, data, architecture: network, assumed, params, model } = trained;
    let (split, samples) = match args.split {
        Part::Train => (Split::Train, &data.train),
        Part::Test => (Split::Test, &data.test),
    };
    let samples = samples.clone().take(args.limit.unwrap_or(usize::MAX));

    let mut recorder = Recorder::new();
    let report = evaluate(&classify(&model), split, samples.batches(512), &mut recorder)?;

    // `finish` empties the units, so they are read first.
    let layers = recorder.clone().finish();
    let mut units = String::new();
    if args.units {
        for layer in &layers {
            units += &odd_units(&recorder, &layer.site, layer.rare.is_some())?;
        }
    }
    let name = weights.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let activation = act.map_or(String::new(), |act| format!(", {act}"));
    let mut text = format!(
        "{name}: {network}, {} parameters{activation}, on {} samples of {}, {} scale",
        params.count(),
        samples.len(),
        samples.name(),
        scale
    );
    if assumed {
        write!(text, "; assumed layers, the only ones with max_pool that fit: {}", network.layers())?;
    }
    text.push('\n');
    if network.names().iter().any(|(own, theirs)| own != theirs) {
        let names: Vec<String> =
            network.names().iter().map(|(own, theirs)| format!("{own} is {theirs}")).collect();
        writeln!(text, "layers of the file: {}", names.join(", "))?;
    }
    let metrics: String = report.score.metrics.iter().map(|metric| format!(" {metric}")).collect();
    let (loss, speed) = (fixed_text(report.score.loss, 4), count_text(report.samples_per_second() as u64));
    writeln!(text, "{} loss {loss}{metrics}  {speed} samples/s", split.name())?;
    let report = EpochReport { epoch: 1, splits: vec![SplitReport { layers, ..report }] };
    text += &layers_text(
        &report,
        ConsoleConfig { color: screen.color, width: screen.width, ..Default::default() },
    );
    text += &units;
    if let Some(out) = &args.out {
        let mut dir = RunDir::create(out).context("--out")?;
        let labels = act.map(|act| ("act".to_string(), act.to_string().into()));
        let run = Run {
            name,
            dataset: data.name.clone(),
            model: network.to_string(),
            labels: labels.into_iter().collect(),
            loss: CROSS_ENTROPY.into(),
            seed: 0,
            parameters: params.count() as u64,
            epochs: 1,
            consumers: network.consumers(),
            config: json!({
                "inspected": weights,
                "layers": network.layers().to_string(),
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
    Ok(print(&text)?)
}

/// What a unit can be, as in the table above; several of these at once too.
const KINDS: [&str; 4] = ["dead", "rare", "dormant", "always on"];

/// A line for every unit of a site with any of [`KINDS`]; dormant is a score of at most 0.025, and only functions with
/// exact zeros have rare units.
fn odd_units(recorder: &Recorder, site: &str, can_be_rare: bool) -> Result<String> {
    let mut text = String::new();
    if let Some(units) = recorder.units(site) {
        let mut counts = [0; 4];
        let mut rows = String::new();
        for (i, unit) in units.iter().enumerate().filter(|(_, unit)| unit.observations > 0) {
            let UnitStats { observations, fired, mean_abs, dormancy: score, .. } = *unit;
            let rate = fired as f64 / observations as f64;
            let rare = can_be_rare && unit.is_rare();
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

/// A number in few characters; only an exact zero is `0`.
fn few(x: f64) -> String {
    match x {
        0.0 => "0".to_string(),
        x if x < 1e-3 => format!("{x:.0e}"),
        x => format!("{x:.3}"),
    }
}
