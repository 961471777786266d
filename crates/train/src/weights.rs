use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorView};
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
/// The header is read first, and no more of the file than the model has room for. Values that are NaN or infinite
/// are loaded as they are; a warning (`tracing`) says where they are.
///
/// # Errors
/// [`Error::Weights`] when the file is missing, not safetensors, or has missing, extra, misshapen or non-f32
/// tensors.
pub fn load_weights(params: &Params, path: &Path) -> Result<()> {
    let mut file = WeightFile::open(path)?;
    let vars = params.vars();
    let own: Vec<&str> = vars.iter().map(|(name, _)| name.as_str()).collect();
    let names = file.header.offset_keys();
    if let Some(name) = names.iter().find(|name| !own.contains(&name.as_str())) {
        return Err(file.fault(format!(
            "tensor {} has no place in this model, whose parameters are {}: is it another model or other sizes?",
            quoted(name),
            listed(&own)
        )));
    }
    for (name, var) in &vars {
        let Some(info) = file.header.info(name) else {
            return Err(file.fault(format!("expected a tensor '{name}', found only {}", listed(&names))));
        };
        if info.shape != var.dims() {
            return Err(file.fault(format!(
                "tensor '{name}': expected shape {:?}, found {:?}: is the model built with the sizes of the file?",
                var.dims(),
                info.shape
            )));
        }
    }
    let mut loaded = Vec::new();
    for (name, var) in &vars {
        let values = file.values(name)?;
        let faulty = values.iter().filter(|x| !x.is_finite()).count();
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            let row = at / (values.len() / var.dims().first().copied().unwrap_or(1).max(1)).max(1);
            tracing::warn!(
                "{}: tensor '{name}': {faulty} of {} values are NaN or infinite, the first in row {row}",
                path.display(),
                values.len()
            );
        }
        loaded.push((var, Tensor::from_vec(values, var.shape(), var.device())?.to_dtype(var.dtype())?));
    }
    for (var, tensor) in loaded {
        var.set(&tensor)?;
    }
    Ok(())
}

/// Name and shape of every tensor of a safetensors file, all of f32, in the order of the file: what
/// [`Architecture::infer`](taper_nn::Architecture::infer) asks for. Only the header is read.
///
/// # Errors
/// [`Error::Weights`] when the file is missing, not safetensors, or has tensors of another type.
pub fn weight_shapes(path: &Path) -> Result<Vec<(String, Vec<usize>)>> {
    let header = WeightFile::open(path)?.header;
    let shape = |name: String| header.info(&name).map(|info| (name, info.shape.clone()));
    Ok(header.offset_keys().into_iter().filter_map(shape).collect())
}

/// Longer headers are not read: one layer takes a few hundred bytes, and what a header says can take many times its
/// own size in memory.
const MAX_HEADER: u64 = 256 << 10;

/// A safetensors file whose header has been read, and fits the size of the file.
struct WeightFile<'a> {
    path: &'a Path,
    file: File,
    header: Metadata,
    /// Where the values begin.
    start: u64,
}

impl<'a> WeightFile<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let fault = |message: String| Error::Weights { path: path.to_path_buf(), message };
        let cannot = |e: std::io::Error| fault(format!("cannot read weights: {e}"));
        // Asked before opening: opening a named pipe would wait for a writer, and a device need not end.
        let meta = std::fs::metadata(path).map_err(cannot)?;
        if !meta.is_file() {
            let found = if meta.is_dir() { "a directory" } else { "a device or a pipe" };
            return Err(fault(format!("cannot read weights: expected a file, found {found}")));
        }
        let wrong = |what: &str| {
            fault(format!("expected a safetensors file, found something else or part of one: {what}"))
        };
        let mut file = File::open(path).map_err(cannot)?;
        let (mut length, size) = ([0; 8], meta.len());
        if size < 8 {
            return Err(wrong(&format!("{size} bytes")));
        }
        file.read_exact(&mut length).map_err(cannot)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || length > size - 8 {
            return Err(wrong(&format!("a header of {length} bytes, in a file of {size}")));
        }
        let mut header = Vec::new();
        (&mut file).take(length).read_to_end(&mut header).map_err(cannot)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|e| wrong(&short(&e.to_string())))?;
        let claimed = u64::try_from(header.data_len()).ok().and_then(|n| n.checked_add(8 + length));
        if claimed != Some(size) {
            let claimed = claimed.map_or("more than there can be".to_string(), |n| n.to_string());
            return Err(wrong(&format!("{size} bytes where the header says {claimed}")));
        }
        for name in header.offset_keys() {
            if let Some(info) = header.info(&name).filter(|info| info.dtype != Dtype::F32) {
                let name = quoted(&name);
                let found = info.dtype;
                return Err(fault(format!("tensor {name}: expected f32, found {found:?}: convert it first")));
            }
        }
        Ok(Self { path, file, header, start: 8 + length })
    }

    /// The values of one tensor, which the header has.
    fn values(&mut self, name: &str) -> Result<Vec<f32>> {
        let (from, to) = self.header.info(name).map_or((0, 0), |info| info.data_offsets);
        let mut raw = vec![0; to - from];
        let read = self.file.seek(SeekFrom::Start(self.start + from as u64));
        read.and_then(|_| self.file.read_exact(&mut raw))
            .map_err(|e| self.fault(format!("cannot read weights: {e}")))?;
        Ok(raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn fault(&self, message: String) -> Error {
        Error::Weights { path: self.path.to_path_buf(), message }
    }
}

/// A name from a file, in quotes and on one line whatever it holds.
fn quoted(name: &str) -> String {
    format!("'{}'", short(name))
}

fn short(text: &str) -> String {
    const MOST: usize = 200;
    let cut: String = text.chars().take(MOST).collect();
    format!("{}{}", cut.escape_debug(), if cut.len() < text.len() { "…" } else { "" })
}

/// Names from a file or of a model, as many as one line holds.
fn listed<S: AsRef<str>>(names: &[S]) -> String {
    const MOST: usize = 40;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| short(name.as_ref())).collect();
    match names.len().saturating_sub(MOST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
