use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use taper_nn::Params;

use crate::{Error, Result};

/// Writes all parameters to a safetensors file that `safetensors.torch.load_file` and `load_state_dict` take
/// as it is: PyTorch's names and layouts, f32, metadata `{"format": "pt"}`. Written beside and renamed, so
/// that the file is either whole or as it was before.
///
/// # Errors
/// [`Error::Weights`] when the file cannot be written.
pub fn save_weights(params: &Params, path: &Path) -> Result<()> {
    let fault = |message: String| Error::Weights { path: path.to_path_buf(), message };
    let mut bytes = Vec::new();
    for (name, var) in params.vars() {
        let values = var.to_dtype(DType::F32)?.flatten_all()?.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
        let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes.push((name, var.dims().to_vec(), raw));
    }
    let mut views = Vec::new();
    for (name, shape, raw) in &bytes {
        let view = TensorView::new(Dtype::F32, shape.clone(), raw).map_err(|e| fault(e.to_string()))?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(|e| fault(e.to_string()))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let write = std::fs::write(&beside, file).and_then(|()| std::fs::rename(&beside, path));
    write.map_err(|e| {
        // A disk that is full should not stay so for a file that is of no use; it may not even be there.
        let _ = std::fs::remove_file(&beside);
        fault(format!("cannot write weights: {e}"))
    })
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
    let file = SafeTensors::deserialize(&bytes).map_err(|e| {
        fault(format!("expected a safetensors file, found something else or part of one: {e}"))
    })?;
    let vars = params.vars();
    let mut names = file.names();
    names.sort_unstable();
    for name in &names {
        if !vars.iter().any(|(own, _)| own == name) {
            let own = params.names().join(", ");
            return Err(fault(format!(
                "tensor '{name}' has no place in this model, whose parameters are {own}: is it another model or other sizes?"
            )));
        }
    }
    let mut loaded = Vec::new();
    for (name, var) in &vars {
        let view = file
            .tensor(name)
            .map_err(|_| fault(format!("expected a tensor '{name}', found only {}", names.join(", "))))?;
        if view.dtype() != Dtype::F32 {
            return Err(fault(format!(
                "tensor '{name}': expected f32, found {:?}: convert it first",
                view.dtype()
            )));
        }
        if view.shape() != var.dims() {
            return Err(fault(format!(
                "tensor '{name}': expected shape {:?}, found {:?}: is the model built with the sizes of the file?",
                var.dims(),
                view.shape()
            )));
        }
        let values: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        loaded.push((var, Tensor::from_vec(values, var.shape(), var.device())?.to_dtype(var.dtype())?));
    }
    for (var, tensor) in loaded {
        var.set(&tensor)?;
    }
    Ok(())
}
