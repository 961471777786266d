//! Inference that skips zeros, with a trained network: time per image, multiplications, and the differences from the
//! model's own results.
//!
//!     cargo run --example infer -- runs/2026-08-01T120000-mnist-mlp-relu
//!     cargo run --example infer -- net.safetensors --act relu --scale unit digit.png
//!
//! Exit code: 0, 1 when something failed, 2 for wrong usage.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::Parser;
#[cfg(feature = "images")]
use taper::data::load_image;
use taper::data::{Batch, Dataset, ImageSet};
use taper::frozen::{Form, Frozen, Work};
use taper::nn::{Model, Pass, no_grad};
use taper::report::count_text;
use taper_examples::{alternately, argmax, pixels, quantile};
use taper_experiment::{LAYERS_HELP, Screen, Trained, WeightOptions, at_least_one, print, start};

/// Classify images with a trained network and skip the multiplications with zeros. The results have the same bits as without
/// skipping. Shows how much time this saves, on one thread.
#[derive(Parser)]
#[command(after_help = after_help())]
struct Args {
    #[command(flatten)]
    weights: WeightOptions,
    /// PNG or JPEG files to classify instead, of the size of the network's input; needs a build with --features images
    #[arg(value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Use the images of the training set too
    #[arg(long)]
    all: bool,
    /// Use only the first N images of each set
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    limit: Option<usize>,
    /// Write the network to one file, which `taper::frozen::Frozen::load` and PyTorch read
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

fn after_help() -> String {
    let examples = "\
Examples:
  infer runs/NAME                                 a run of Taper: accuracy, time and multiplications over the test set
  infer runs/NAME digit.png                       the class of this image
  infer runs/NAME --save net.safetensors          also writes a file that needs no run
  infer net.safetensors --act relu --scale unit   PyTorch's, for pixels in [0, 1]";
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
    let frozen = Frozen::new(&network).with_context(|| path.clone())?;
    let mut text = String::new();
    if let Some(to) = &args.save {
        trained.save(&network, to).context("--save")?;
        writeln!(text, "written to {}", to.display())?;
    }
    match args.images.is_empty() {
        true => test(&trained, &frozen, args, &mut text)?,
        false => classify(&trained, &frozen, &args.images, &mut text)?,
    }
    Ok(print(&text)?)
}

#[cfg(not(feature = "images"))]
fn load_image(path: &std::path::Path, _: (usize, usize, usize)) -> Result<Vec<u8>> {
    let path = path.display();
    bail!(
        "{path}: expected a build that reads PNG and JPEG files, found one that does not: build with --features images"
    )
}

/// Prints the class of each image.
fn classify(trained: &Trained, frozen: &Frozen, paths: &[PathBuf], text: &mut String) -> Result<()> {
    let mut scratch = frozen.scratch(1);
    let mut logits = vec![0.0; frozen.outputs()];
    for path in paths {
        let pixels = load_image(path, trained.data.test.shape())?;
        let xs: Vec<f32> = pixels.iter().map(|pixel| f32::from(*pixel) / 255.0).collect();
        frozen.run(&xs, &mut logits, &mut scratch)?;
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let Some([first, second]) = order.first_chunk().copied() else {
            bail!("{}: expected a network of at least two classes", path.display());
        };
        let ahead = logits[first] - logits[second];
        let (done, all) = scratch
            .work()
            .iter()
            .fold((0, 0), |(done, all), work| (done + work.done, all + work.multiplications));
        writeln!(
            text,
            "{}: {first}, {ahead:.1} ahead of {second}; {} of multiplications skipped",
            path.display(),
            share(all - done, all)
        )?;
    }
    Ok(())
}

/// Accuracy, time, multiplications and bytes over the test set, or all images.
fn test(trained: &Trained, frozen: &Frozen, args: &Args, text: &mut String) -> Result<()> {
    let Dataset { train, test, name: dataset, .. } = &trained.data;
    let splits = if args.all { vec![train, test] } else { vec![test] };
    let splits: Vec<ImageSet> =
        splits.into_iter().map(|split| split.clone().take(args.limit.unwrap_or(usize::MAX))).collect();
    let images = splits.iter().map(ImageSet::len).sum();
    let name = trained.weights.file_name().unwrap_or_default().to_string_lossy();
    writeln!(
        text,
        "{name}: {}, {} parameters, on {} images of {}, one thread",
        trained.architecture,
        count_text(trained.params.count() as u64),
        count_text(images as u64),
        if args.all { dataset } else { splits[0].name() }
    )?;
    let xs: Vec<f32> = splits.iter().flat_map(pixels).collect();
    let mut logits = vec![0.0; images * frozen.outputs()];
    let mut scratch = frozen.scratch(1);
    frozen.run_as(Form::Sparse, &xs, &mut logits, &mut scratch)?;
    let work = scratch.work().to_vec();
    answers(trained, frozen, &splits, &logits, text)?;
    let mut all = vec![0.0; logits.len()];
    frozen.run_as(Form::Dense, &xs, &mut all, &mut scratch)?;
    let same = logits.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits());
    let with = if same { "the same bits" } else { "other bits" };
    writeln!(text, "{with} with all multiplications as with zeros skipped")?;

    let [dense, skipping] = alternately(both(frozen), &xs, 1)?;
    writeln!(text, "\n{:<22}  {:>9}  {:>9}", "microseconds an image", "median", "99 %")?;
    for (form, times) in [("all multiplications", &dense), ("zeros skipped", &skipping)] {
        writeln!(text, "{form:<22}  {:>9.1}  {:>9.1}", quantile(times, 0.5), quantile(times, 0.99))?;
    }
    multiplications(&work, images, text)?;
    bytes(&work, images, text)?;
    let worth = quantile(&dense, 0.5) / quantile(&skipping, 0.5);
    batches(frozen, &xs, worth, text)?;
    let (zeros, inputs) =
        work.iter().fold((0, 0), |(zeros, inputs), work| (zeros + work.zeros, inputs + work.inputs));
    match (zeros, worth) {
        (0, _) => writeln!(text, "\nnothing here: 0 % zeros")?,
        (_, ..1.05) => writeln!(text, "\nthese zeros, {}, are worth nothing", share(zeros, inputs))?,
        _ => writeln!(text, "\nthese zeros are worth {worth:.1}×")?,
    }
    Ok(())
}

/// Accuracy, and the differences from the results of the model, which adds in another order.
fn answers(
    trained: &Trained,
    frozen: &Frozen,
    splits: &[ImageSet],
    logits: &[f32],
    text: &mut String,
) -> Result<()> {
    const BATCH: usize = 512;
    let classes = frozen.outputs();
    let (mut right, mut own_right, mut changed, mut furthest) = (0, 0, 0, 0.0_f32);
    let mut rest = logits;
    for batch in splits.iter().flat_map(|split| split.batches(BATCH)) {
        let Batch { images, labels } = batch?;
        let labels = labels.to_vec1::<u32>()?;
        let (logits, others) = rest.split_at(labels.len() * classes);
        rest = others;
        let own = no_grad(|| trained.model.forward(&mut Pass::eval(&mut ()), &images))?;
        let own = own.flatten_all()?.to_vec1::<f32>()?;
        for ((logits, own), label) in logits.chunks(classes).zip(own.chunks(classes)).zip(labels) {
            let (answer, own_answer) = (argmax(logits), argmax(own));
            right += usize::from(answer == label as usize);
            own_right += usize::from(own_answer == label as usize);
            changed += usize::from(answer != own_answer);
            furthest = logits.iter().zip(own).fold(furthest, |max, (a, b)| max.max((a - b).abs()));
        }
    }
    let percent = |n: usize| 100.0 * n as f64 / (logits.len() / classes) as f64;
    writeln!(
        text,
        "accuracy {:.2} %, as the model evaluates itself {:.2} %; {changed} answers differ, largest difference of a logit {furthest:.1e}",
        percent(right),
        percent(own_right)
    )?;
    Ok(())
}

/// With all multiplications, and with zeros skipped.
fn both(frozen: &Frozen) -> [(&Frozen, Form); 2] {
    [(frozen, Form::Dense), (frozen, Form::Best)]
}

/// Multiplications per image of each layer, done and skipped, and the layer that its zeros come from.
fn multiplications(work: &[Work], images: usize, text: &mut String) -> Result<()> {
    let each = |n: u64| count_text(n / images as u64);
    writeln!(
        text,
        "\n{:<10} {:>8} {:>14} {:>12} {:>12}  of the zeros",
        "layer", "zeros", "multiplications", "done", "skipped"
    )?;
    let mut skipped = [0, 0];
    for (i, layer) in work.iter().enumerate() {
        let Work { name, inputs, zeros, multiplications, done } = layer;
        let whose = if i == 0 { "of the image".to_string() } else { format!("after {}", work[i - 1].name) };
        skipped[usize::from(i > 0)] += multiplications - done;
        let (zeros, all, left) =
            (share(*zeros, *inputs), each(*multiplications), each(multiplications - done));
        writeln!(text, "{name:<10} {zeros:>8} {all:>15} {:>12} {left:>12}  {whose}", each(*done))?;
    }
    let all = work.iter().map(|work| work.multiplications).sum();
    let [image, layers] = skipped.map(|skipped| share(skipped, all));
    writeln!(text, "zeros of the image save {image} of all multiplications, zeros of the layers {layers}")?;
    Ok(())
}

/// Bytes per image of the inputs of all layers but the first: as f32, and as a bitmap with the nonzero values.
fn bytes(work: &[Work], images: usize, text: &mut String) -> Result<()> {
    let hidden = work.iter().skip(1);
    let (values, zeros) =
        hidden.fold((0, 0), |(values, zeros), work| (values + work.inputs, zeros + work.zeros));
    if values > 0 {
        let (plain, packed) = (4 * values, values / 8 + 4 * (values - zeros));
        let each = |bytes: u64| count_text(bytes / images as u64);
        let ratio = plain as f64 / packed as f64;
        writeln!(
            text,
            "activations of an image: {} bytes as f32, {} as bitmap and values: {ratio:.2}×",
            each(plain),
            each(packed)
        )?;
    }
    Ok(())
}

/// The speed-up for several batch sizes, and the first batch size without one.
fn batches(frozen: &Frozen, xs: &[f32], alone: f64, text: &mut String) -> Result<()> {
    let most = xs.len() / frozen.inputs();
    let mut worths = vec![(1, alone)];
    for batch in [2, 4, 8, 16, 32, 64, 128, 256].into_iter().filter(|batch| *batch <= most) {
        let [dense, skipping] = alternately(both(frozen), xs, batch)?;
        worths.push((batch, quantile(&dense, 0.5) / quantile(&skipping, 0.5)));
    }
    let shown: Vec<String> = worths.iter().map(|(batch, worth)| format!("{batch}: {worth:.1}×")).collect();
    writeln!(text, "by images a call: {}", shown.join(", "))?;
    match worths.iter().find(|(_, worth)| *worth < 1.05) {
        Some((batch, _)) => writeln!(text, "skipping stops paying at {batch} images a call")?,
        None => writeln!(text, "skipping pays up to {} images a call", worths[worths.len() - 1].0)?,
    }
    Ok(())
}

fn share(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / (whole as f64).max(1.0))
}
