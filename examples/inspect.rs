//! Statistics of a trained network's activations over a whole split, for the weights of a run or of another program,
//! without training.
//!
//!     cargo run --example inspect -- runs/2026-08-01T120000-mnist-mlp-relu
//!     cargo run --example inspect -- pytorch.safetensors --act tanh --scale unit --units
//!     cargo run --example inspect -- cnn.safetensors --scale unit --layers 'conv 5, relu, max_pool 2, linear'
//!
//! Exit code: 0, 1 when something failed, 2 for wrong usage.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use serde_json::json;
use taper::data::{Choice, Scale};
use taper::hooks::{Activation, Recorder, UnitStats};
use taper::nn::{Architecture, Layer, Layers, Params};
use taper::report::{
    ConsoleConfig, EpochReport, Run, RunDir, Sink, Split, SplitReport, count_text, fixed_text, layers_text,
    read_config,
};
use taper::train::{
    self, CROSS_ENTROPY, LoadConfig, Origin, classify, evaluate, weight_origin, weight_shapes,
};
use taper_experiment::{DeviceKind, Screen, at_least_one, load_images, prepare, start};
use taper_view::{html_report, load_runs};

/// Show what every layer's activations do in a trained network: how sparse they are, which units are dead, how they are
/// distributed. Nothing is trained: the network evaluates a whole split once.
///
/// Files of Taper's runs contain everything needed. For a file of another program (PyTorch:
/// safetensors.torch.save_file(model.state_dict(), FILE)) give the activation function (--act), the scale of the input
/// (--scale), and, if the shapes are ambiguous, the layers (--layers). A low accuracy is a sign that one of them is
/// wrong.
#[derive(Parser)]
#[command(after_help = "\
Layers, separated by commas, in the order in which they are applied:
  conv K [pad P] [stride S]       K is 5 or 3x5        linear            flattens in front of it
  max_pool K [stride S]           stride K if none     batch_norm [eps E]
  avg_pool K [stride S]                                dropout P         does nothing here
  global_avg_pool                                      flatten           may be left out
  relu, tanh, leaky_relu:0.1, …   as in --act

Examples:
  inspect runs/NAME                                        a run of ours, which says the rest
  inspect net.safetensors --act tanh --scale unit --units  PyTorch's, for pixels in [0, 1]; lists odd units
  inspect net.safetensors --scale unit --layers 'conv 5 pad 2, relu, max_pool 2, linear'
  inspect net.safetensors --split train --out runs/net     also writes layers.jsonl, for tools")]
struct Args {
    /// The weights, a safetensors file, or the directory of a run or a checkpoint
    #[arg(value_name = "WEIGHTS")]
    weights: PathBuf,
    /// The activation function after every layer except the last [default: that of the run, else prelu if the file has
    /// slopes]
    #[arg(long, value_name = "A", conflicts_with = "layers")]
    act: Option<Activation>,
    /// All layers, if they do not follow from the shapes: 'conv 5 pad 2, relu, max_pool 2, linear' (see below)
    #[arg(long, value_name = "LAYERS")]
    layers: Option<Layers>,
    /// Scale of the pixels: raw, 0 to 255; unit, [0, 1]; standard, [0, 1] minus the mean of the training set, divided
    /// by its standard deviation; MEAN,STD, the same with these numbers [default: that of the run]
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

fn main() -> ExitCode {
    start(run)
}

fn run(args: &Args) -> Result<()> {
    prepare(None);
    let screen = Screen::new(false);
    let device = args.device.open()?;
    let weights = weights(&args.weights)?;
    let path = weights.display();
    let shapes = weight_shapes(&weights)?;
    let known = known(args, &weights, &shapes).with_context(|| path.to_string())?;
    let data = load_images(known.dataset, args.data_dir.clone(), &screen)?.scaled(known.scale).on(&device);
    let (split, samples) = match args.split {
        Part::Train => (Split::Train, &data.train),
        Part::Test => (Split::Test, &data.test),
    };
    let samples = samples.clone().take(args.limit.unwrap_or(usize::MAX));

    let found = network(&known, &shapes, samples.shape(), &data.name);
    let (network, assumed) = found.with_context(|| path.to_string())?;
    if network.classes() != data.classes {
        let (found, name) = (network.classes(), &data.name);
        bail!(
            "{path}: expected {} outputs, the classes of {name}, found {found}: another --dataset?",
            data.classes
        );
    }
    let params = Params::new(0, &device);
    let model =
        network.build(params.builder()).map_err(train::Error::from).with_context(|| path.to_string())?;
    LoadConfig { convert: args.convert, ..LoadConfig::default() }.load(&params, &weights)?;

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
    let act = known.act.map_or(String::new(), |act| format!(", {act}"));
    let mut text = format!(
        "{name}: {network}, {} parameters{act}, on {} samples of {}, {} scale",
        params.count(),
        samples.len(),
        samples.name(),
        known.scale
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
        let labels = known.act.map(|act| ("act".to_string(), act.to_string().into()));
        let run = Run {
            name,
            dataset: data.name.clone(),
            model: network.to_string(),
            labels: labels.into_iter().collect(),
            loss: CROSS_ENTROPY.into(),
            seed: 0,
            parameters: params.count() as u64,
            epochs: 1,
            config: json!({
                "inspected": weights,
                "layers": network.layers().to_string(),
                "mode": "evaluation",
                "scale": known.scale.to_string(),
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
        // Standard output is closed, so nothing more is printed.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

/// The file, or the file in the directory of a run or a checkpoint.
fn weights(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let file = path.join("model.safetensors");
    if !file.exists() {
        bail!(
            "{}: expected a run or a checkpoint, found a directory without model.safetensors: name the file of weights",
            path.display()
        );
    }
    Ok(file)
}

type Shapes = [(String, Vec<usize>)];

/// The properties of a weight file that do not follow from its shapes.
struct Known {
    act: Option<Activation>,
    layers: Option<Layers>,
    scale: Scale,
    dataset: Choice,
    /// The model, if the file belongs to a run of Taper.
    model: Option<String>,
}

/// From the command line, else from the file, else from its run.
///
/// # Errors
/// Names the missing properties.
fn known(args: &Args, weights: &Path, shapes: &Shapes) -> Result<Known> {
    let origin = match weight_origin(weights)? {
        Some(origin) => Some(origin),
        None => of_run(weights, shapes),
    };
    let label = origin.as_ref().and_then(|of| of.labels.get("act")?.as_str()).map(str::parse).transpose()?;
    let told = Architecture::activation(shapes.iter().map(|(name, shape)| (name, shape)));
    let act = match (&args.layers, args.act.or(label)) {
        (Some(_), _) => None,
        (None, Some(act)) => Some(act),
        (None, None) => told.map_err(train::Error::from)?,
    };
    let of_scale = origin.as_ref().and_then(|of| of.scale.as_deref()).map(str::parse).transpose()?;
    let scale = args.scale.or(of_scale);
    let mut asked = Vec::new();
    if act.is_none() && args.layers.is_none() {
        asked.push("the activation function with --act, such as relu, or all layers with --layers");
    }
    if scale.is_none() {
        asked.push(
            "the scale of its input with --scale: raw for pixels from 0 to 255, unit for [0, 1], standard, \
             or their mean and standard deviation, such as 0.5,0.5",
        );
    }
    let (Some(scale), true) = (scale, asked.is_empty()) else {
        bail!("a file of another program lacks some properties: give {}", asked.join("; and "));
    };
    let named = origin.as_ref().map(|of| of.dataset.parse()).transpose()?;
    let dataset = args.dataset.or(named).unwrap_or(Choice::Mnist);
    Ok(Known { act, layers: args.layers.clone(), scale, dataset, model: origin.map(|of| of.model) })
}

/// The run of a weight file's directory or checkpoint, if it has the same number of parameters.
fn of_run(weights: &Path, shapes: &Shapes) -> Option<Origin> {
    let parameters: usize = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let dirs = weights.ancestors().skip(1).take(3);
    let run = dirs.filter_map(|dir| read_config(dir.join("config.json")).ok()).next()?;
    (run.parameters == parameters as u64).then(|| (&run).into())
}

/// The network, and whether its layers were found by a search.
fn network(
    known: &Known,
    shapes: &Shapes,
    input: (usize, usize, usize),
    dataset: &str,
) -> Result<(Architecture, bool)> {
    let tensors = || shapes.iter().map(|(name, shape)| (name, shape));
    let found = match (&known.layers, known.act) {
        (Some(layers), _) => Architecture::new(layers, tensors(), input).map(|network| vec![network]),
        (None, act) => Architecture::arrangements(tensors(), input, act.unwrap_or(Activation::Identity)),
    };
    let found = found.map_err(train::Error::from).map_err(|error| match known.layers {
        Some(_) => anyhow!("no network for {dataset} by --layers: {error}"),
        None => anyhow!("no network for {dataset}: {error}: give another --act, or its layers with --layers"),
    })?;
    // The text of a Taper network has only one arrangement.
    if let Some(of_run) = found.iter().find(|network| Some(network.to_string()) == known.model) {
        return Ok((of_run.clone(), false));
    }
    match &found[..] {
        [only] => {
            let has_choice = only.layers().0.iter().any(|layer| matches!(layer, Layer::Conv { .. }));
            Ok((only.clone(), known.layers.is_none() && has_choice))
        }
        several => {
            const MOST: usize = 4;
            let shown: Vec<String> = several
                .iter()
                .rev()
                .take(MOST)
                .map(|network| format!("--layers '{}'", network.layers()))
                .collect();
            let more = several.len().saturating_sub(MOST);
            let more = if more > 0 { format!(", or {more} more") } else { String::new() };
            bail!(
                "its shapes fit several arrangements of layers: give the right one, such as {}{more}",
                shown.join(" or ")
            )
        }
    }
}

/// The kinds of a unit, as in the table above; a unit can have several.
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
