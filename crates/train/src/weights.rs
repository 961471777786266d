use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use taper_nn::Params;
use taper_report::write_whole;

use crate::{Error, Result};

/// Writes all parameters to a safetensors file that `safetensors.torch.load_file` and `load_state_dict` take
/// as it is: PyTorch's names and layouts, f32, metadata `{"format": "pt"}`. Written beside and renamed, so
/// that the file is either whole or as it was before.
///
/// # Errors
/// [`Error::Weights`] when the file cannot be written.
pub fn save_weights(params: &Params, path: &Path) -> Result<()> {
    let fault = |message: String| Error::Weights { path: path.to_path_buf(), message };
    let bytes = pack(&tensors(params)).map_err(fault)?;
    write_whole(path, &bytes).map_err(|e| fault(format!("cannot write weights: {e}")))
}

/// Reads parameters from a safetensors file, written by [`save_weights`] or by PyTorch. The file must have
/// exactly the model's tensors; if it does not, nothing is changed.
///
/// # Errors
/// [`Error::Weights`] when the file is missing, not safetensors, or has missing, extra, misshapen or non-f32
/// tensors.
pub fn load_weights(params: &Params, path: &Path) -> Result<()> {
    let fault = |message: String| Error::Weights { path: path.to_path_buf(), message };
    let bytes = std::fs::read(path).map_err(|e| fault(format!("cannot read weights: {e}")))?;
    set(params, &values(params, &bytes).map_err(fault)?)
}

/// The parameters as they are.
pub(crate) fn tensors(params: &Params) -> Vec<(String, Tensor)> {
    params.vars().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect()
}

/// A safetensors file of tensors, in f32.
pub(crate) fn pack(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, String> {
    let raw = |tensor: &Tensor| -> candle_core::Result<Vec<u8>> {
        let values = tensor.detach().to_dtype(DType::F32)?.flatten_all()?.to_device(&Device::Cpu)?;
        Ok(values.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect())
    };
    let mut bytes = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        bytes.push((name, tensor.dims(), raw(tensor).map_err(|e| Error::from(e).to_string())?));
    }
    let mut views = Vec::with_capacity(bytes.len());
    for (name, shape, raw) in &bytes {
        views.push((name, TensorView::new(Dtype::F32, shape.to_vec(), raw).map_err(|e| e.to_string())?));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata)).map_err(|e| e.to_string())
}

fn parse(bytes: &[u8]) -> Result<SafeTensors<'_>, String> {
    SafeTensors::deserialize(bytes)
        .map_err(|e| format!("expected a safetensors file, found something else or part of one: {e}"))
}

/// One tensor of a file, which must be f32.
fn tensor(name: &str, view: &TensorView<'_>, device: &Device) -> Result<Tensor, String> {
    if view.dtype() != Dtype::F32 {
        return Err(format!("tensor '{name}': expected f32, found {:?}: convert it first", view.dtype()));
    }
    let values: Vec<f32> =
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Tensor::from_vec(values, view.shape(), device).map_err(|e| Error::from(e).to_string())
}

/// All tensors of a safetensors file, by name.
pub(crate) fn unpack(bytes: &[u8], device: &Device) -> Result<Vec<(String, Tensor)>, String> {
    let named = |(name, view): (&str, TensorView<'_>)| Ok((name.to_string(), tensor(name, &view, device)?));
    parse(bytes)?.iter().map(named).collect()
}

/// What a safetensors file says about each parameter, in their order.
pub(crate) fn values(params: &Params, bytes: &[u8]) -> Result<Vec<Tensor>, String> {
    let file = parse(bytes)?;
    let vars = params.vars();
    let mut names = file.names();
    names.sort_unstable();
    for name in &names {
        if !vars.iter().any(|(own, _)| own == name) {
            let own = params.names().join(", ");
            return Err(format!(
                "tensor '{name}' has no place in this model, whose parameters are {own}: is it another model or other sizes?"
            ));
        }
    }
    let value = |(name, var): &(String, Var)| {
        let view = file
            .tensor(name)
            .map_err(|_| format!("expected a tensor '{name}', found only {}", names.join(", ")))?;
        let loaded = tensor(name, &view, var.device())?;
        if view.shape() != var.dims() {
            return Err(format!(
                "tensor '{name}': expected shape {:?}, found {:?}: is the model built with the sizes of the file?",
                var.dims(),
                view.shape()
            ));
        }
        loaded.to_dtype(var.dtype()).map_err(|e| Error::from(e).to_string())
    };
    vars.iter().map(value).collect()
}

/// Sets all parameters, in their order.
pub(crate) fn set(params: &Params, values: &[Tensor]) -> Result<()> {
    for ((_, var), value) in params.vars().iter().zip(values) {
        var.set(value)?;
    }
    Ok(())
}
