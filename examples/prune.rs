//! Removes units of a trained network that do not affect its results, and writes a smaller file of weights.
//!
//!     cargo run --example prune -- runs/2026-08-01T120000-mnist-mlp-relu --out small.safetensors
//!     cargo run --example prune -- net.safetensors --act relu --scale unit --dormant 0.025
//!
//! Exit code: 0, 1 when something failed, 2 for wrong usage.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::{Parser, ValueEnum};
use taper::data::ImageSet;
use taper::frozen::{Form, Frozen, Sequential};
use taper::nn::Layer;
use taper::report::count_text;
use taper_examples::{alternately, argmax, pixels, quantile};
use taper_experiment::{LAYERS_HELP, Screen, WeightOptions, not_negative, print, start};

/// Remove units that do not affect the results of a trained network: units that are 0 or constant, for every image or for the
/// given images. Shows the removed units, the changed results, and the size and time before and after.
#[derive(Parser)]
#[command(after_help = after_help())]
struct Args {
    #[command(flatten)]
    weights: WeightOptions,
    /// Write the smaller network to this file, which PyTorch, `infer` and `taper::frozen::Frozen::load` read
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Remove units that are dead or constant on these images; with none, only those that are so for every image
    #[arg(long, value_enum, default_value_t = Images::Train)]
    images: Images,
    /// Also remove units whose mean |activation| is at most T times the mean of their layer: this changes answers
    #[arg(long, value_name = "T", value_parser = not_negative)]
    dormant: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Images {
    Train,
    Test,
    All,
    None,
}

fn after_help() -> String {
    let examples = "\
Examples:
  prune runs/NAME                                 the units of a run that can be removed
  prune runs/NAME --out small.safetensors         also writes the smaller network
  prune runs/NAME --images none                   only units that are dead or constant for every image
  prune net.safetensors --act relu --scale unit   PyTorch's, for pixels in [0, 1]";
    format!("{LAYERS_HELP}\n\n{examples}")
}

fn main() -> ExitCode {
    start(run)
}

fn run(args: &Args) -> Result<()> {
    let screen = Screen::new(false);
    let trained = args.weights.open(&Device::Cpu, &screen)?;
    let path = trained.weights.display().to_string();
    let network = trained.sequential()?;
    can_be_pruned(&network, args.dormant.is_some()).with_context(|| path.clone())?;
    let (train, test) = (&trained.data.train, &trained.data.test);
    let (given, others) = match args.images {
        Images::Train => (vec![train], vec![test]),
        Images::Test => (vec![test], vec![train]),
        Images::All => (vec![train, test], vec![]),
        Images::None => (vec![], vec![test]),
    };
    let frozen = Frozen::new(&network).with_context(|| path.clone())?;
    let [given, others] = [given, others].map(|splits| Set::new(&splits, &frozen));
    let (given, others) = (given?, others?);

    let name = trained.weights.file_name().unwrap_or_default().to_string_lossy();
    let mut text = String::new();
    writeln!(text, "{name}: {}; {given} are given, {others} are others\n", trained.architecture)?;
    let (pruned, results) =
        prune(&network, args.dormant, &given, &others, &mut text).with_context(|| path.clone())?;
    compare([&network, &pruned], [&given, &others], &results, &mut text)?;
    if let Some(to) = &args.out {
        trained.save(&pruned, to).context("--out")?;
        writeln!(text, "\nwritten to {}", to.display())?;
    }
    Ok(print(&text)?)
}

/// An error if the network has no units that could be removed: no hidden layer, or no activation that can be 0.
fn can_be_pruned(network: &Sequential, dormant: bool) -> Result<()> {
    if network.hidden().is_empty() {
        bail!("expected a hidden layer, found none: there are no units to remove");
    }
    let acts = network.parts.iter().filter_map(|part| match part.layer {
        Layer::Act(f) => Some(f),
        _ => None,
    });
    let (can_be_dead, others): (Vec<_>, Vec<_>) = acts.partition(|f| f.value(f32::MIN) == 0.0);
    if can_be_dead.is_empty() && !dormant {
        let found = others.first().map_or("none".to_string(), ToString::to_string);
        bail!(
            "expected an activation that is 0 for some inputs, such as relu, found {found}: no unit can be dead; --dormant removes \
             units that do little"
        );
    }
    Ok(())
}

/// Some images and the network's results for them.
struct Set {
    name: String,
    pixels: Vec<f32>,
    labels: Vec<u32>,
    logits: Vec<f32>,
}

impl std::fmt::Display for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.labels.len() {
            0 => write!(f, "no images"),
            n => write!(f, "{} images of {}", count_text(n as u64), self.name),
        }
    }
}

impl Set {
    fn new(splits: &[&ImageSet], frozen: &Frozen) -> Result<Self> {
        let name = splits.iter().map(|split| split.name()).collect::<Vec<_>>().join(" and ");
        let pixels: Vec<f32> = splits.iter().flat_map(|split| pixels(split)).collect();
        let labels = splits.iter().flat_map(|split| split.labels()).copied().collect();
        let logits = logits(frozen, &pixels)?;
        Ok(Self { name, pixels, labels, logits })
    }

    /// The differences of other results for the same images.
    fn changes(&self, ys: &[f32]) -> String {
        if self.labels.is_empty() {
            return "-".to_string();
        }
        if ys.iter().zip(&self.logits).all(|(a, b)| a.to_bits() == b.to_bits()) {
            return "the same bits".to_string();
        }
        let changed = self.answers(&self.logits).zip(self.answers(ys)).filter(|(a, b)| a != b).count();
        let furthest = ys.iter().zip(&self.logits).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
        format!("{} changed, {furthest:.1e}", count_text(changed as u64))
    }

    fn accuracy(&self, ys: &[f32]) -> String {
        let right = self.answers(ys).zip(&self.labels).filter(|(a, label)| *a == **label as usize).count();
        format!("{:.2} %", 100.0 * right as f64 / self.labels.len() as f64)
    }

    fn answers(&self, ys: &[f32]) -> impl Iterator<Item = usize> {
        ys.chunks_exact(ys.len() / self.labels.len()).map(argmax)
    }
}

/// The network's results, computed on all threads. The bits do not depend on the division of the images.
fn logits(frozen: &Frozen, xs: &[f32]) -> Result<Vec<f32>> {
    let mut ys = vec![0.0; xs.len() / frozen.inputs() * frozen.outputs()];
    let images = (xs.len() / frozen.inputs()).div_ceil(thread::available_parallelism()?.get()).max(1);
    thread::scope(|scope| {
        let parts = xs.chunks(images * frozen.inputs()).zip(ys.chunks_mut(images * frozen.outputs()));
        let run = |(xs, ys)| scope.spawn(move || frozen.run(xs, ys, &mut frozen.scratch(1)));
        let threads: Vec<_> = parts.map(run).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("`run` does not panic"))
    })?;
    Ok(ys)
}

/// Removes units tier by tier and writes a line for each tier.
fn prune(
    network: &Sequential,
    dormant: Option<f64>,
    given: &Set,
    others: &Set,
    text: &mut String,
) -> Result<(Sequential, [Vec<f32>; 2])> {
    let results = [given.logits.clone(), others.logits.clone()];
    let mut table = Table { sets: [given, others], text, units: units(network), results };
    table.line(["", "units", "on the given", "on the others"])?;
    let mut pruned = network.without_dead(&network.bounds()?)?;
    table.tier("dead for every image in [0, 1]", &pruned)?;
    if !given.labels.is_empty() {
        pruned = pruned.without_dead(&pruned.observe(&given.pixels)?)?;
        table.tier("dead on the given images", &pruned)?;
    }
    let mut folded = pruned.fold_constants(&pruned.bounds()?)?;
    table.tier("constant for every image", &folded.network)?;
    if !given.labels.is_empty() {
        folded = folded.network.fold_constants(&folded.network.observe(&given.pixels)?)?;
        table.tier("constant on the given images", &folded.network)?;
    }
    pruned = folded.network;
    if let Some(limit) = dormant {
        let images = if given.labels.is_empty() { others } else { given };
        let is_dormant = |scores: Vec<f64>| scores.into_iter().map(|score| score <= limit).collect();
        let remove: Vec<Vec<bool>> = pruned.scores(&images.pixels)?.into_iter().map(is_dormant).collect();
        pruned = pruned.without(&remove).with_context(|| format!("--dormant {limit}"))?;
        table.tier(&format!("dormant at {limit}"), &pruned)?;
    }
    if folded.kept > 0 {
        let kept = folded.kept;
        writeln!(
            table.text,
            "constant units that stay, as the next layer pads its input or has no bias: {kept}"
        )?;
    }
    Ok((pruned, table.results))
}

/// A table with a line for each tier: the removed units and the changed results.
struct Table<'a> {
    sets: [&'a Set; 2],
    text: &'a mut String,
    /// Number of units, and results for both sets, of the network after the last line.
    units: usize,
    results: [Vec<f32>; 2],
}

impl Table<'_> {
    fn line(&mut self, [tier, units, given, others]: [&str; 4]) -> Result<()> {
        Ok(writeln!(self.text, "{tier:<32} {units:>7}  {given:>18}  {others:>18}")?)
    }

    fn tier(&mut self, name: &str, network: &Sequential) -> Result<()> {
        let left = units(network);
        let removed = std::mem::replace(&mut self.units, left) - left;
        if removed > 0 {
            let frozen = Frozen::new(network)?;
            let [given, others] = self.sets;
            self.results = [logits(&frozen, &given.pixels)?, logits(&frozen, &others.pixels)?];
        }
        let [given, others] = [0, 1].map(|i| self.sets[i].changes(&self.results[i]));
        self.line([name, &format!("-{removed}"), &given, &others])
    }
}

fn units(network: &Sequential) -> usize {
    network.hidden().iter().map(|(_, units)| units).sum()
}

/// Writes sizes, time and accuracy before and after.
fn compare(
    networks: [&Sequential; 2],
    sets: [&Set; 2],
    results: &[Vec<f32>; 2],
    text: &mut String,
) -> Result<()> {
    let [before, after] = networks;
    let frozen = [Frozen::new(before)?, Frozen::new(after)?];
    let mut row =
        |name: &str, [before, after]: [String; 2]| writeln!(text, "{name:<32}  {before:>12}  {after:>12}");
    let count = |n: usize| count_text(n as u64);
    row("\n                                ", ["before", "after"].map(str::to_string))?;
    for ((name, n), (_, m)) in before.hidden().into_iter().zip(after.hidden()) {
        row(&format!("units of {name}"), [count(n), count(m)])?;
    }
    row("parameters", networks.map(|of| count(parameters(of))))?;
    row("bytes of the file", [count(before.to_bytes()?.len()), count(after.to_bytes()?.len())])?;
    let [given, others] = sets;
    let xs = if given.labels.is_empty() { &others.pixels } else { &given.pixels };
    let times = alternately([(&frozen[0], Form::Best), (&frozen[1], Form::Best)], xs, 1)?;
    row("microseconds an image", times.map(|times| format!("{:.1}", quantile(&times, 0.5))))?;
    for ((name, set), ys) in ["given", "others"].into_iter().zip(sets).zip(results) {
        if !set.labels.is_empty() {
            row(&format!("accuracy on the {name}"), [&set.logits, ys].map(|ys| set.accuracy(ys)))?;
        }
    }
    Ok(())
}

/// Number of trained values: weights, biases and slopes.
fn parameters(network: &Sequential) -> usize {
    let values = network.parts.iter().filter_map(|part| part.values.as_ref());
    values.map(|values| values.weight.len() + values.bias.as_ref().map_or(0, Vec::len)).sum()
}
