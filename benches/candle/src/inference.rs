//! Inference with plain candle, one image a call, for the comparison of speeds.

#[path = "../../common/inference.rs"]
mod inference;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use candle_core::{Device, Tensor, safetensors};
use candle_nn::{Conv2d, Conv2dConfig, Linear, Module as _, seq};
use serde_json::Value;

fn main() -> ExitCode {
    inference::peer(load)
}

/// The network of a file that `infer RUN --save FILE` wrote.
fn load(path: &Path) -> Result<impl FnMut(&[f32]) -> Result<Vec<f32>> + use<>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let (length, rest) = bytes.split_first_chunk().context("expected safetensors")?;
    let header = rest.get(..u64::from_le_bytes(*length) as usize).context("expected safetensors")?;
    let header: Value = serde_json::from_slice(header)?;
    let metadata = |key| header["__metadata__"][key].as_str().with_context(|| format!("no metadata '{key}'"));
    let frozen: Value = serde_json::from_str(metadata("taper_frozen")?)?;
    let mut units = serde_json::from_str::<Vec<(String, usize)>>(metadata("units")?)?.into_iter();
    let mut tensors = safetensors::load_buffer(&bytes, &Device::Cpu)?;
    let mut next = || {
        let (name, _) = units.next().context("fewer tensors than layers")?;
        let mut tensor = |part| tensors.remove(&format!("{name}.{part}")).context("a tensor is missing");
        anyhow::Ok((tensor("weight")?, Some(tensor("bias")?)))
    };
    let mut net = seq();
    for layer in frozen["layers"].as_str().context("expected layers")?.split(", ") {
        net = match layer.split(' ').collect::<Vec<_>>()[..] {
            ["linear"] => {
                let (weight, bias) = next()?;
                net.add_fn(|xs| xs.flatten_from(1)).add(Linear::new(weight, bias))
            }
            ["conv", _] => {
                let (weight, bias) = next()?;
                net.add(Conv2d::new(weight, bias, Conv2dConfig::default()))
            }
            ["max_pool", side] => {
                let side: usize = side.parse()?;
                net.add_fn(move |xs| xs.max_pool2d(side))
            }
            ["relu"] => net.add_fn(Tensor::relu),
            ["selu"] => net.add_fn(|xs| xs.elu(1.673_263_242_354_377_2)? * 1.050_700_987_355_480_5),
            _ => bail!("expected linear, conv, max_pool, relu or selu, found '{layer}'"),
        };
    }
    Ok(move |image: &[f32]| {
        let logits = net.forward(&Tensor::from_slice(image, &inference::SHAPE, &Device::Cpu)?)?;
        Ok(logits.flatten_all()?.to_vec1()?)
    })
}
