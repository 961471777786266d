//! What the peers written in Rust share in the comparison of inference: arguments, the clock and output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// Shape of an image: `(N, C, H, W)`.
pub const SHAPE: [usize; 4] = [1, 1, 28, 28];

/// The main function of a benchmark. `load` reads the network's file and returns a function from the pixels of one image
/// to its logits. Calls it for each image and prints the seconds of each call and the predicted classes as JSON.
pub fn peer<Net: FnMut(&[f32]) -> Result<Vec<f32>>>(load: impl FnOnce(&Path) -> Result<Net>) -> ExitCode {
    match measured(load) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measured<Net: FnMut(&[f32]) -> Result<Vec<f32>>>(load: impl FnOnce(&Path) -> Result<Net>) -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [network, images] = &arguments[..] else { bail!("expected two files: network and images") };
    let mut net = load(network)?;
    let images = fs::read(images).with_context(|| images.display().to_string())?;
    let pixels: Vec<f32> = images.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect();
    let (mut seconds, mut answers) = (Vec::new(), Vec::new());
    for image in pixels.chunks_exact(SHAPE.iter().product()) {
        let start = Instant::now();
        let logits = net(image)?;
        seconds.push(start.elapsed().as_secs_f64());
        let answer = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        answers.push(answer.context("expected logits, found none")?);
    }
    println!(r#"{{"seconds": {seconds:?}, "answers": {answers:?}}}"#);
    Ok(())
}
