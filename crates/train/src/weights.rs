use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorView};
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
/// The header is read first, and no more of the file than the model has room for. Values that are NaN or infinite
/// are loaded as they are; a warning (`tracing`) says where they are.
///
/// # Errors
/// [`Error::Weights`] when the file is missing, not safetensors, or has missing, extra, misshapen or non-f32
/// tensors.
pub fn load_weights(params: &Params, path: &Path) -> Result<()> {
    set(params, &WeightFile::open(path)?.parameters(params)?)
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

/// All tensors of a safetensors file, by name.
pub(crate) fn unpack(bytes: &[u8], device: &Device) -> Result<Vec<(String, Tensor)>, String> {
    let mut file = WeightFile::in_memory(bytes).map_err(message)?;
    let names = file.header.offset_keys();
    let named = |name: String| -> Result<_> {
        let shape = file.header.info(&name).map(|info| info.shape.clone()).unwrap_or_default();
        let tensor = Tensor::from_vec(file.values(&name)?, shape, device)?;
        Ok((name, tensor))
    };
    names.into_iter().map(named).collect::<Result<_>>().map_err(message)
}

/// What a safetensors file says about each parameter, in their order.
pub(crate) fn values(params: &Params, bytes: &[u8]) -> Result<Vec<Tensor>, String> {
    WeightFile::in_memory(bytes).and_then(|mut file| file.parameters(params)).map_err(message)
}

/// Without the path, which those who have the bytes alone know.
fn message(error: Error) -> String {
    match error {
        Error::Weights { message, .. } => message,
        other => other.to_string(),
    }
}

/// Sets all parameters, in their order.
pub(crate) fn set(params: &Params, values: &[Tensor]) -> Result<()> {
    for ((_, var), value) in params.vars().iter().zip(values) {
        var.set(value)?;
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
struct WeightFile<'a, R> {
    path: &'a Path,
    reader: R,
    header: Metadata,
    /// Where the values begin.
    start: u64,
}

impl<'a> WeightFile<'a, File> {
    fn open(path: &'a Path) -> Result<Self> {
        let fault = |message: String| Error::Weights { path: path.to_path_buf(), message };
        let cannot = |e: std::io::Error| fault(format!("cannot read weights: {e}"));
        // Asked before opening: opening a named pipe would wait for a writer, and a device need not end.
        let meta = std::fs::metadata(path).map_err(cannot)?;
        if !meta.is_file() {
            let found = if meta.is_dir() { "a directory" } else { "a device or a pipe" };
            return Err(fault(format!("cannot read weights: expected a file, found {found}")));
        }
        Self::read(path, File::open(path).map_err(cannot)?, meta.len(), MAX_HEADER)
    }
}

impl<'a> WeightFile<'a, Cursor<&'a [u8]>> {
    /// One whose checksum was right: its header is as long as it has to be.
    fn in_memory(bytes: &'a [u8]) -> Result<Self> {
        let size = bytes.len() as u64;
        Self::read(Path::new("checkpoint"), Cursor::new(bytes), size, size)
    }
}

impl<'a, R: Read + Seek> WeightFile<'a, R> {
    /// Reads the header of a file of `size` bytes, unless it is longer than `most`.
    fn read(path: &'a Path, mut reader: R, size: u64, most: u64) -> Result<Self> {
        let fault = |message: String| Error::Weights { path: path.to_path_buf(), message };
        let cannot = |e: std::io::Error| fault(format!("cannot read weights: {e}"));
        let wrong = |what: &str| {
            fault(format!("expected a safetensors file, found something else or part of one: {what}"))
        };
        let mut length = [0; 8];
        if size < 8 {
            return Err(wrong(&format!("{size} bytes")));
        }
        reader.read_exact(&mut length).map_err(cannot)?;
        let length = u64::from_le_bytes(length);
        if length > most || length > size - 8 {
            return Err(wrong(&format!("a header of {length} bytes, in a file of {size}")));
        }
        let mut header = Vec::new();
        (&mut reader).take(length).read_to_end(&mut header).map_err(cannot)?;
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
        Ok(Self { path, reader, header, start: 8 + length })
    }

    /// What the file says about each parameter, in their order: it must have these and no others.
    fn parameters(&mut self, params: &Params) -> Result<Vec<Tensor>> {
        let vars = params.vars();
        let own: Vec<&str> = vars.iter().map(|(name, _)| name.as_str()).collect();
        let names = self.header.offset_keys();
        if let Some(name) = names.iter().find(|name| !own.contains(&name.as_str())) {
            return Err(self.fault(format!(
                "tensor {} has no place in this model, whose parameters are {}: is it another model or other sizes?",
                quoted(name),
                listed(&own)
            )));
        }
        for (name, var) in &vars {
            let Some(info) = self.header.info(name) else {
                return Err(self.fault(format!("expected a tensor '{name}', found only {}", listed(&names))));
            };
            if info.shape != var.dims() {
                return Err(self.fault(format!(
                    "tensor '{name}': expected shape {:?}, found {:?}: is the model built with the sizes of the file?",
                    var.dims(),
                    info.shape
                )));
            }
        }
        let mut loaded = Vec::new();
        for (name, var) in &vars {
            let values = self.values(name)?;
            let faulty = values.iter().filter(|x| !x.is_finite()).count();
            if let Some(at) = values.iter().position(|x| !x.is_finite()) {
                let row = at / (values.len() / var.dims().first().copied().unwrap_or(1).max(1)).max(1);
                tracing::warn!(
                    "{}: tensor '{name}': {faulty} of {} values are NaN or infinite, the first in row {row}",
                    self.path.display(),
                    values.len()
                );
            }
            loaded.push(Tensor::from_vec(values, var.shape(), var.device())?.to_dtype(var.dtype())?);
        }
        Ok(loaded)
    }

    /// The values of one tensor, which the header has.
    fn values(&mut self, name: &str) -> Result<Vec<f32>> {
        let (from, to) = self.header.info(name).map_or((0, 0), |info| info.data_offsets);
        let mut raw = vec![0; to - from];
        let read = self.reader.seek(SeekFrom::Start(self.start + from as u64));
        read.and_then(|_| self.reader.read_exact(&mut raw))
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
    taper_report::one_line(text, 200)
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
