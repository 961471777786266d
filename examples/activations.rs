//! What every activation function does to a symmetric input: the share of zeros, the mean, the asymmetry, next to the
//! analytic values. Also what many layers of it do, and what a network without any does.
//!
//!     cargo run --example activations
//!     cargo run --example activations -- --act relu,selu,tanh --samples 1000000
//!     cargo run --example activations -- --depth 20 --act relu --init pytorch
//!     cargo run --example activations -- --collapse
//!
//! Exit code: 0, 1 when something failed, 2 for wrong usage.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use clap::Parser;
use safetensors::SafeTensors;
use serde_json::json;
use taper::hooks::{Activation, Pass, Recorder, Site, Units, rng};
use taper::kernels::activate;
use taper::nn::{Init, Linear, Mlp, MlpConfig, Model, Params};
use taper::report::{FORMAT_VERSION, LayerStats, fresh_dir};
use taper::train;
use taper_examples::pictures::{self, Chart, Panel};
use taper_examples::{Distribution, Distributions, Law, Numbers, share};
use taper_experiment::{number, print, start};

/// Show what activation functions do to a symmetric input. ReLU sets the negative half to zero, so half of its output
/// is zero, and the rest is one-sided. What do the others do?
///
/// Every number is measured, and the row below it has the analytic value.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  activations                                        all functions, on one random image of 3×28×28
  activations --act relu,elu:0.5 --samples 1000000   more samples: measured and exact values meet
  activations --input uniform                        another symmetric input
  activations --depth 20                             20 random layers of relu, selu, tanh, gelu and sigmoid
  activations --depth 20 --act relu --init pytorch   an initialisation too small for relu: the signal is lost
  activations --depth 9 --width 3 --act relu         so narrow that relu often dies at birth
  activations --collapse                             two linear layers with nothing in between are one")]
struct Args {
    /// Activation functions: relu, selu, celu:0.5, tanh, gelu, ... [default: all; for --depth and --collapse a few]
    #[arg(long, value_name = "A[,B...]", value_delimiter = ',')]
    act: Vec<Activation>,
    /// Number of values; with --depth and --collapse, number of samples of --width values each [default: one image of
    /// 3×28×28; 512 with --depth and --collapse]
    #[arg(long, value_name = "N", value_parser = samples)]
    samples: Option<usize>,
    /// normal, N(0,1); uniform, between ±√3, so that the variance is 1 too; or a safetensors file with one tensor
    #[arg(long, value_name = "INPUT", default_value = "normal")]
    input: String,
    /// Send the input through this many random layers
    #[arg(long, value_name = "LAYERS", value_parser = layers, conflicts_with = "collapse")]
    depth: Option<usize>,
    /// Units of each layer, for --depth and --collapse
    #[arg(long, value_name = "UNITS", value_parser = units, default_value = "256")]
    width: usize,
    /// he, lecun, glorot or pytorch, for --depth [default: depends on the activation]
    #[arg(long, requires = "depth")]
    init: Option<Init>,
    /// Show that two linear layers are one linear layer without an activation between them
    #[arg(long)]
    collapse: bool,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Output directory for page, picture and numbers; nothing in it is overwritten [default: runs/TIME-activations]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// File for the page; without --out nothing else is written
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// File for the picture; without --out nothing else is written
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Args {
    /// `None` for a file.
    fn law(&self) -> Option<Law> {
        match self.input.as_str() {
            "normal" => Some(Law::Normal),
            "uniform" => Some(Law::Uniform),
            _ => None,
        }
    }

    fn acts<'a>(&'a self, default: &'a [Activation]) -> &'a [Activation] {
        if self.act.is_empty() { default } else { &self.act }
    }
}

fn samples(text: &str) -> Result<usize, String> {
    number(text, "a whole number from 1 to 100000000", |n| (1..=100_000_000).contains(n))
}

fn layers(text: &str) -> Result<usize, String> {
    number(text, "a whole number from 1 to 1000", |n| (1..=1000).contains(n))
}

fn units(text: &str) -> Result<usize, String> {
    number(text, "a whole number from 1 to 8192", |n| (1..=8192).contains(n))
}

fn main() -> ExitCode {
    start(run)
}

fn run(args: &Args) -> Result<()> {
    // A size that does not fit into memory would end in an abort.
    let (samples, depth) = (args.samples.unwrap_or(512), args.depth.unwrap_or(2));
    let (values, most) = (args.width * samples.max(args.width * depth), 1 << 28);
    if (args.depth.is_some() || args.collapse) && values > most {
        bail!("--width, --depth and --samples: expected at most {most} values at once, found {values}");
    }
    let text = match args.depth {
        _ if args.collapse => collapse(args)?,
        Some(depth) => deep(args, depth)?,
        None => single(args)?,
    };
    Ok(print(&text)?)
}

/// Titles of the table and their meanings.
const TITLES: [(&str, &str); 8] = [
    ("mean", "mean of the values"),
    ("std", "standard deviation"),
    ("skew", "skewness: above 0 where the long tail is on the right"),
    ("kurt", "excess kurtosis: 0 for N(0,1), above it where tails are heavy"),
    ("zeros", "share of values that are exactly 0"),
    ("negative", "share of values below 0"),
    (
        "asym",
        "distance from the mirror image: 0 symmetric, 0.5 ReLU of that, 1 one-sided; few values lean by chance",
    ),
    ("flat", "share of values where the slope is below 0.01: almost no gradient passes"),
];

/// Applies every function to the same input.
fn single(args: &Args) -> Result<String> {
    // The input has its own row, so the identity is left out.
    let acts = args.acts(&Activation::ALL[1..]);
    let xs = input(args, &args.samples.map_or([1, 3, 28, 28], |n| [1, 1, 1, n]))?;
    // A small sample needs wide bins.
    let nines = if xs.elem_count() < 20_000 { 3 } else { 8 };
    let (stats, _) = see(Activation::Identity, &xs, &Distribution::new(1.0, 1))?;
    let Some(of) = stats.quantiles else {
        bail!("--input {}: expected at least one finite number", args.input)
    };
    let edge = 1.2 * of.q01.abs().max(of.q99.abs()).max(1e-3);
    let empty = Distribution::new(if args.law().is_some() { 3.5 } else { edge }, nines);
    let (_, before) = see(Activation::Identity, &xs, &empty)?;
    let nodes = args.law().map(Law::nodes);

    let (mut text, mut lines, mut panels, mut rows) = (String::new(), String::new(), Vec::new(), Vec::new());
    let mut symmetric = Vec::new();
    let input = (args.input.clone(), Activation::Identity);
    for (name, f) in [input].into_iter().chain(acts.iter().map(|f| (f.to_string(), *f))) {
        let (stats, after) = see(f, &xs, &empty)?;
        let is_input = rows.is_empty();
        let measured = Numbers::measured(&stats);
        let analytic = nodes.as_ref().map(|nodes| Numbers::analytic(f, nodes));
        let row = |text: &mut String, name: &str, of: &Numbers, picture: &str| {
            let cells: String = of.cells().iter().map(|cell| format!("{cell:>9}")).collect();
            *text += format!("{name:<16}{cells}  {picture}").trim_end();
            text.push('\n');
        };
        row(&mut text, &name, &measured, &after.picture());
        rows.push((false, [vec![name.clone()], measured.cells().to_vec()].concat()));
        if let Some(analytic) = &analytic {
            row(&mut text, "  analytic", analytic, "");
            rows.push((true, [vec!["analytic".to_string()], analytic.cells().to_vec()].concat()));
            if analytic.asymmetry < 1e-3 && !is_input {
                symmetric.push(name.clone());
            }
        }
        if stats.nan + stats.infinite > 0 {
            eprintln!(
                "warning: {name}: {} NaN and {} infinite values were left out",
                stats.nan, stats.infinite
            );
        }
        if is_input {
            continue;
        }
        let object =
            |of: &Numbers| serde_json::Map::from_iter(of.named().map(|(key, x)| (key.to_string(), json!(x))));
        let record = json!({
            "v": FORMAT_VERSION,
            "activation": name,
            "input": args.input,
            "analytic": analytic.as_ref().map(object),
            "measured": stats,
        });
        lines += &format!("{record}\n");
        let [mean, std, skew, _, zeros, ..] = measured.cells();
        let caption = format!("mean {mean}, std {std}, skew {skew}, zeros {zeros}");
        panels.push(Panel { title: name, caption, after });
    }
    let titles: String = TITLES.iter().map(|(title, _)| format!("{title:>9}")).collect();
    text =
        format!("{:<16}{titles}  {}\n{text}", format!("{} values", xs.elem_count()), empty.picture_title());
    for (title, meaning) in TITLES.iter().skip(4) {
        text += &format!("  {title:<10}{meaning}\n");
    }
    text += "  =0        the exact zeros, on their own scale: full is all\n";
    if nodes.is_some() {
        let those = if symmetric.is_empty() { "none of these".to_string() } else { symmetric.join(", ") };
        text += &format!("A symmetric input stays symmetric after {those}.\n");
    }
    let title = format!("What activation functions do to {}", input_name(args));
    let page = format!(
        "<p>{} values go through each function by itself. ReLU throws the negative half away: it makes exact zeros, \
        moves the mean up and skews what is left. In grey below each function: the value that integration gives.</p>\n{}{}",
        xs.elem_count(),
        pictures::panels_html(&before, &panels),
        pictures::table(&[&[("", "")], &TITLES[..]].concat(), &rows)
    );
    let svg = pictures::panels_svg(&title, &before, &panels)?;
    Ok(text + &write(args, &pictures::page(&title, &page), &svg, &lines)?)
}

/// The result of a function for `xs`: statistics, and the distribution in the bins of `empty`.
fn see(f: Activation, xs: &Tensor, empty: &Distribution) -> train::Result<(LayerStats, Distribution)> {
    let mut both = (Recorder::new(), Distributions::like(empty.clone()));
    Pass::eval(&mut both).see(&Site::behind(f.to_string(), f).units(Units::Second), xs, &activate(xs, f)?)?;
    Ok((both.0.finish().remove(0), both.1.sites.remove(0).1))
}

/// Sends the input through a deep random network of each function.
fn deep(args: &Args, depth: usize) -> Result<String> {
    use Activation as A;
    let acts = args.acts(&[A::Relu, A::Selu, A::Tanh, A::Gelu, A::Sigmoid]);
    let xs = input(args, &[args.samples.unwrap_or(512), args.width])?;
    let (samples, inputs) = xs.flatten_from(1).and_then(|xs| xs.dims2()).map_err(train::Error::from)?;
    let mut charts: Vec<Chart> = [
        ("mean", "of all values", false),
        ("standard deviation", "of all values", true),
        ("signal", "standard deviation of a unit over the samples: how much samples still differ", true),
        ("asymmetry", "distance from the mirror image: 0 symmetric, 1 one-sided", false),
        ("share of exact zeros", "among all values", false),
        (
            "share of dead units",
            "units that no gradient reaches: for ReLU, those that fire for none of the samples",
            false,
        ),
    ]
    .map(|(title, meaning, log)| Chart { title, axis: "layer", meaning, log, lines: Vec::new() })
    .into();
    let (mut text, mut lines, mut maps) = (String::new(), String::new(), Vec::new());
    for &f in acts {
        let init = args.init.unwrap_or(Init::of(f));
        let (layers, signal, distributions) = send(args, f, init, depth, inputs, &xs)?;
        let name = format!("{f}, {init} initialisation");
        let picture = distributions.first().map(Distribution::picture_title).unwrap_or_default();
        text += &format!(
            "{name}: {samples} samples of {inputs} values, {depth} layers of {} units\n{:>7}{:>10}{:>10}{:>10}{:>8}{:>11}{:>9}{:>7}  {picture}\n",
            args.width, "layer", "mean", "std", "signal", "zeros", "dead", "dormant", "asym"
        );
        for (i, (stats, distribution)) in layers.iter().zip(&distributions).enumerate() {
            let of = Numbers::measured(stats);
            let record = json!({ "v": FORMAT_VERSION, "activation": f.to_string(), "init": init.to_string(), "layer": i + 1, "signal": signal[i], "measured": stats });
            lines += &format!("{record}\n");
            // At most twenty lines per network, always with the first and the last layer.
            if i + 1 == depth || i.is_multiple_of(depth.div_ceil(20)) {
                let number =
                    |x: f64| if x != 0.0 && x.abs() < 1e-2 { format!("{x:.1e}") } else { format!("{x:.3}") };
                text += &format!(
                    "{:>7}{:>10}{:>10}{:>10}{:>8}{:>11}{:>9}{:>7}  {}\n",
                    i + 1,
                    number(of.mean),
                    number(of.std),
                    number(signal[i]),
                    share(of.zero_fraction),
                    format!("{}/{}", stats.dead.unwrap_or(0), stats.units),
                    stats.dormant_0_025.unwrap_or(0),
                    format!("{:.2}", of.asymmetry),
                    distribution.picture()
                );
            }
        }
        let of = |number: fn(&LayerStats) -> f64| (name.clone(), layers.iter().map(number).collect());
        charts[0].lines.push(of(|l| l.mean.unwrap_or(f64::NAN)));
        charts[1].lines.push(of(|l| l.std().unwrap_or(f64::NAN)));
        charts[2].lines.push((name.clone(), signal));
        charts[3].lines.push(of(|l| l.asymmetry.unwrap_or(f64::NAN)));
        charts[4].lines.push(of(|l| l.zero_fraction));
        charts[5].lines.push(of(|layer| layer.dead_fraction().unwrap_or(f64::NAN)));
        maps.push((name, distributions));
    }
    text += "  signal    standard deviation of a unit over the samples: how much samples still differ\n";
    text += "  dead      units that no gradient reaches, at none of the samples\n";
    text += "  dormant   units whose mean |y| is at most 2.5% of their layer's mean\n";
    let title = format!("{depth} random layers of {} units, inputs: {}", args.width, input_name(args));
    let page = format!(
        "<p>{samples} samples go through untrained networks. Where the signal falls from layer to layer, all samples \
        come to look alike, and what could be learned from their differences is lost; where it rises, numbers explode. \
        SELU holds mean 0 and variance 1.</p>\n{}<h2>Distributions</h2>\n<p>Values against layers; the colour is the \
        logarithm to base 10 of the density, exact zeros left out.</p>\n{}",
        pictures::charts_html(&charts),
        pictures::heat_maps_html(&maps)
    );
    Ok(text + &write(args, &pictures::page(&title, &page), &pictures::charts_svg(&title, &charts)?, &lines)?)
}

/// Statistics and distribution after every layer of one random network.
fn send(
    args: &Args,
    activation: Activation,
    init: Init,
    depth: usize,
    inputs: usize,
    xs: &Tensor,
) -> train::Result<(Vec<LayerStats>, Vec<f64>, Vec<Distribution>)> {
    let config = MlpConfig {
        inputs,
        widths: vec![args.width; depth],
        classes: 1,
        activation,
        init: Some(init),
        ..Default::default()
    };
    // Another seed than the input's: weights must not be copies of the input.
    let net = Mlp::new(&config, Params::new(!args.seed, &Device::Cpu).builder())?;
    let mut both = (Recorder::new(), Distributions::like(Distribution::new(3.6, 4)));
    net.forward(&mut Pass::eval(&mut both), xs)?;
    let (recorder, distributions) = &mut both;
    let distributions: Vec<(String, Distribution)> = std::mem::take(&mut distributions.sites);
    let means: Vec<Vec<f64>> = distributions
        .iter()
        .map(|(site, _)| recorder.units(site).unwrap_or_default().iter().map(|unit| unit.mean).collect())
        .collect();
    let layers = recorder.finish();
    // The variance within units is the total variance minus that between the units' means.
    let within = |(layer, means): (&LayerStats, &Vec<f64>)| {
        let (mean, n) = (layer.mean.unwrap_or(f64::NAN), means.len() as f64);
        let between = means.iter().map(|unit| (unit - mean).powi(2)).sum::<f64>() / n;
        layer.variance.map_or(f64::NAN, |all| (all - between).max(0.0).sqrt())
    };
    let signal = layers.iter().zip(&means).map(within).collect();
    Ok((layers, signal, distributions.into_iter().map(|(_, of)| of).collect()))
}

/// Compares two linear layers, with and without a function between them, to the single layer with the product of the
/// weights.
fn collapse(args: &Args) -> Result<String> {
    use Activation as A;
    let acts = args.acts(&[A::Identity, A::Relu, A::Selu, A::Tanh, A::Gelu, A::Sigmoid]);
    let xs = input(args, &[args.samples.unwrap_or(512), args.width])?;
    let mut text = format!(
        "Two linear layers of {} units with f between them, y = W2 f(W1 x + b1) + b2, for {}:\n\
        {:<16}{:>11}{:>11}\n",
        args.width,
        input_name(args),
        "f",
        "one layer",
        "any layer"
    );
    let apart = collapsed(args, acts, &xs)?;
    for (f, [one, any]) in acts.iter().zip(apart) {
        let verdict = if any < 1e-5 { "one layer does the same" } else { "no single linear layer does this" };
        text += &format!("{:<16}{one:>11.1e}{any:>11.1e}  {verdict}\n", f.to_string());
    }
    text += "  one layer  largest difference to W x + b with W = W2 W1 and b = W2 b1 + b2\n";
    text += "  any layer  largest |y((u + v) / 2) - (y(u) + y(v)) / 2|: 0, but for rounding, for every linear layer\n";
    Ok(text)
}

/// For every function, the largest difference to the single layer, and to the middle of two outputs.
fn collapsed(args: &Args, acts: &[Activation], xs: &Tensor) -> train::Result<Vec<[f32; 2]>> {
    let us = xs.flatten_from(1)?;
    let vs = us.roll(1, 1)?;
    let (_, inputs) = us.dims2()?;
    let vb = Params::new(!args.seed, &Device::Cpu).builder();
    let first = Linear::new(inputs, args.width, Init::PyTorch, vb.pp("fc1"))?;
    let second = Linear::new(args.width, args.width, Init::PyTorch, vb.pp("fc2"))?;
    let bias = second.forward(&first.bias.as_ref().expect("made with one").unsqueeze(0)?)?.squeeze(0)?;
    let one = Linear { weight: second.weight.matmul(&first.weight)?, bias: Some(bias) };
    let largest = |apart: Tensor| apart.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
    let of = |f: &Activation| {
        let two = |xs: &Tensor| second.forward(&activate(&first.forward(xs)?, *f)?);
        let halfway = ((two(&us)? + two(&vs)?)? / 2.0)?;
        let middle = two(&((&us + &vs)? / 2.0)?)?;
        Ok([largest((two(&us)? - one.forward(&us)?)?)?, largest((middle - halfway)?)?])
    };
    acts.iter().map(of).collect()
}

fn input_name(args: &Args) -> String {
    match args.law() {
        Some(Law::Normal) => "a normal input, N(0,1)".to_string(),
        Some(Law::Uniform) => "a uniform input, between ±√3".to_string(),
        None => args.input.clone(),
    }
}

/// Random values of a shape, or those of a file in the file's own shape, `(N, ..)`.
fn input(args: &Args, shape: &[usize]) -> Result<Tensor> {
    if let Some(law) = args.law() {
        let values = law.sample(shape.iter().product(), &mut rng(args.seed));
        return Ok(Tensor::from_vec(values, shape, &Device::Cpu).map_err(train::Error::from)?);
    }
    let name = &args.input;
    if args.samples.is_some() {
        bail!("--samples: a file has as many as it has: leave it out");
    }
    let expected = || format!("--input: expected normal, uniform or a file: {name}: cannot read");
    // A device need not end, and a pipe would block.
    if !std::fs::metadata(name).with_context(expected)?.is_file() {
        bail!("{}: it is no file", expected());
    }
    let bytes = std::fs::read(Path::new(name)).with_context(expected)?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| {
        format!("{name}: expected a safetensors file, found another or an incomplete file")
    })?;
    if file.len() != 1 {
        let names: Vec<String> = file.names().iter().take(9).map(|name| format!("{name:?}")).collect();
        bail!("{name}: expected one tensor, found {}: {}", file.len(), names.join(", "));
    }
    let read = || -> train::Result<Tensor> {
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
        let xs = tensors.into_values().next().ok_or_else(|| train::Error::Config("no tensor".to_string()))?;
        let xs = xs.to_dtype(DType::F32)?;
        // Without dimensions for samples and units, all values belong to one unit of one sample.
        Ok(if xs.rank() < 2 { xs.reshape((1, 1, xs.elem_count()))? } else { xs })
    };
    let xs = read().with_context(|| name.clone())?;
    match xs.elem_count() {
        0 => bail!("{name}: expected at least one value, found shape {:?}", xs.dims()),
        _ => Ok(xs),
    }
}

/// Writes the requested files and prints their names.
fn write(args: &Args, page: &str, svg: &str, lines: &str) -> Result<String> {
    let dir = match &args.out {
        Some(dir) => Some(dir.clone()),
        None if args.html.is_some() || args.svg.is_some() => None,
        None => {
            let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
            Some(
                PathBuf::from("runs")
                    .join(format!("{}-activations", time.trim_end_matches('Z').replace(':', ""))),
            )
        }
    };
    let dir = dir.map(fresh_dir).transpose().context("--out")?;
    let beside = |name: &str| dir.as_ref().map(|dir| dir.join(name));
    let mut written = String::new();
    for (path, content) in [
        (args.html.clone().or(beside("activations.html")), page),
        (args.svg.clone().or(beside("activations.svg")), svg),
        (beside("activations.jsonl"), lines),
    ] {
        let Some(path) = path else { continue };
        std::fs::write(&path, content).with_context(|| format!("{}: cannot write", path.display()))?;
        written += &format!("written to {}\n", path.display());
    }
    Ok(written)
}
