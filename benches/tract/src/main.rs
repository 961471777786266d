//! Inference with tract, one image a call, for the comparison of speeds.

#[path = "../../common/inference.rs"]
mod inference;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use tract_onnx::prelude::*;

fn main() -> ExitCode {
    inference::peer(load)
}

/// The network of an ONNX file.
fn load(path: &Path) -> Result<impl FnMut(&[f32]) -> Result<Vec<f32>> + use<>> {
    let mut net = tract_onnx::onnx().model_for_path(path)?.into_optimized()?.into_runnable()?.spawn()?;
    Ok(move |image: &[f32]| {
        let logits = net.run(tvec!(Tensor::from_shape(&inference::SHAPE, image)?.into()))?;
        Ok(logits[0].to_plain_array_view::<f32>()?.iter().copied().collect())
    })
}
