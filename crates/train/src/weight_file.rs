use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use safetensors::tensor::{Dtype, Metadata};
use taper_nn::own_names;
use taper_report::warn;

use crate::weights::{LoadConfig, Loaded, Misshapen, Origin, listed, quoted, short};
use crate::{Error, Result};

/// Longer headers are refused: a layer takes a few hundred bytes, and parsing a header can take many times its size in
/// memory.
const MAX_HEADER: u64 = 256 << 10;

/// A safetensors file whose header was read, and matches the size of the file.
pub(crate) struct WeightFile<'a, R> {
    path: &'a Path,
    reader: R,
    header: Metadata,
    /// The offset of the values.
    start: u64,
}

impl<'a> WeightFile<'a, File> {
    pub fn open(path: &'a Path) -> Result<Self> {
        let fault = |message: String| Error::Weights { path: path.to_path_buf(), message };
        let cannot = |e: std::io::Error| fault(format!("cannot read weights: {e}"));
        // Checked before opening: opening a named pipe would wait for a writer, and a device need not end.
        let meta = std::fs::metadata(path).map_err(cannot)?;
        if !meta.is_file() {
            let found = if meta.is_dir() { "a directory" } else { "a device or a pipe" };
            return Err(fault(format!("cannot read weights: expected a file, found {found}")));
        }
        Self::header(path, File::open(path).map_err(cannot)?, meta.len(), MAX_HEADER)
    }
}

impl<'a> WeightFile<'a, Cursor<&'a [u8]>> {
    /// A file with a correct checksum may have a header of any length.
    pub fn in_memory(bytes: &'a [u8]) -> Result<Self> {
        let size = bytes.len() as u64;
        Self::header(Path::new("checkpoint"), Cursor::new(bytes), size, size)
    }
}

impl<'a, R: Read + Seek> WeightFile<'a, R> {
    /// Reads the header of a file of `size` bytes, if it has at most `most` bytes.
    fn header(path: &'a Path, mut reader: R, size: u64, most: u64) -> Result<Self> {
        let fault = |message: String| Error::Weights { path: path.to_path_buf(), message };
        let cannot = |e: std::io::Error| fault(format!("cannot read weights: {e}"));
        let wrong = |what: &str| {
            fault(format!("expected a safetensors file, found another or an incomplete file: {what}"))
        };
        let mut length = [0; 8];
        if size < 8 {
            return Err(wrong(&format!("{size} bytes")));
        }
        reader.read_exact(&mut length).map_err(cannot)?;
        let length = u64::from_le_bytes(length);
        if length > most || length > size - 8 {
            return Err(match kind(&length.to_le_bytes()) {
                Some(kind) => fault(format!("expected a safetensors file, found {kind}")),
                None => wrong(&format!("a header of {length} bytes, in a file of {size}")),
            });
        }
        let mut header = Vec::new();
        (&mut reader).take(length).read_to_end(&mut header).map_err(cannot)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|e| wrong(&short(&e.to_string())))?;
        let claimed = u64::try_from(header.data_len()).ok().and_then(|n| n.checked_add(8 + length));
        if claimed != Some(size) {
            let claimed = claimed.map_or("more than there can be".to_string(), |n| n.to_string());
            return Err(wrong(&format!("{size} bytes where the header says {claimed}")));
        }
        Ok(Self { path, reader, header, start: 8 + length })
    }

    /// Names and shapes, in the order of the file.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let shape = |name: String| self.header.info(&name).map(|info| (name, info.shape.clone()));
        self.header.offset_keys().into_iter().filter_map(shape).collect()
    }

    /// The origin of the weights in the metadata.
    pub fn origin(&self) -> Result<Option<Origin>> {
        let Some(text) = self.header.metadata().as_ref().and_then(|of| of.get("taper")) else {
            return Ok(None);
        };
        let origin = serde_json::from_str(text);
        origin.map(Some).map_err(|e| self.fault(format!("metadata 'taper': {}", short(&e.to_string()))))
    }

    /// All tensors.
    pub fn all(&mut self, device: &Device) -> Result<Vec<(String, Tensor)>> {
        let names = self.header.offset_keys();
        names.into_iter().map(|name| Ok((name.clone(), self.tensor(&name)?.to_device(device)?))).collect()
    }

    /// The values of a model's variables, in their order.
    pub fn read(
        &mut self,
        vars: &[(String, Var)],
        config: LoadConfig,
    ) -> Result<(Vec<(Var, Tensor)>, Loaded)> {
        let own: Vec<String> = vars.iter().map(|(name, _)| name.clone()).collect();
        let shapes = self.shapes();
        let mapped = own_names(&shapes, &own);
        let names: Vec<&str> = shapes.iter().map(|(name, _)| name.as_str()).collect();
        let mut report = Loaded::default();
        for (name, mapped) in names.iter().zip(&mapped) {
            // A counter of PyTorch's batch normalisation, which a model may leave out.
            let counts = mapped.strip_suffix("num_batches_tracked").map(|norm| format!("{norm}running_mean"));
            if !own.contains(mapped) && !counts.is_some_and(|beside| own.contains(&beside)) {
                report.unexpected.push(name.to_string());
            }
        }
        if let Some(name) = report.unexpected.first().filter(|_| !config.matching) {
            return Err(self.fault(format!(
                "tensor {} is not part of this model, whose parameters are {}: is it another model or other sizes?",
                quoted(name),
                listed(&own)
            )));
        }
        let mut found = Vec::new();
        for (name, var) in vars {
            let Some(at) = mapped.iter().position(|mapped| mapped == name) else {
                // Old versions of PyTorch did not write this counter, which evaluation does not use.
                if name.ends_with("num_batches_tracked") {
                    continue;
                }
                if !config.matching {
                    return Err(
                        self.fault(format!("expected a tensor '{name}', found only {}", listed(&names)))
                    );
                }
                report.missing.push(name.clone());
                continue;
            };
            let (theirs, shape) = &shapes[at];
            if shape != var.dims() {
                if !config.matching {
                    return Err(self.fault(format!(
                        "tensor '{name}': expected shape {:?}, found {shape:?}: is the model built with the sizes of the \
                         file?",
                        var.dims()
                    )));
                }
                let (expected, shape) = (var.dims().to_vec(), shape.clone());
                report.misshapen.push(Misshapen { name: name.clone(), expected, found: shape });
                continue;
            }
            self.check_type(theirs, var.dtype(), config.convert)?;
            found.push((name, theirs, var));
        }
        if found.is_empty() && !vars.is_empty() {
            return Err(self.fault(format!(
                "expected a tensor of the model's names and shapes, {}, found only {}",
                listed(&own),
                listed(&names)
            )));
        }
        let mut values = Vec::new();
        for (name, theirs, var) in found {
            let tensor = self.tensor(theirs)?.to_dtype(var.dtype())?;
            self.warn_of_non_finite(name, &tensor)?;
            values.push((var.clone(), tensor.to_device(var.device())?));
            report.loaded.push(name.clone());
        }
        Ok((values, report))
    }

    /// An error unless a tensor has the wanted type, or a type that may be converted to it.
    fn check_type(&self, name: &str, wanted: DType, convert: bool) -> Result<()> {
        let Some(info) = self.header.info(name) else { return Ok(()) };
        let found = candle_type(info.dtype);
        let is_float = |dtype: DType| !dtype.is_int();
        match found {
            Some(found) if found == wanted => Ok(()),
            // If all tensors of a file are converted, this counter is too.
            Some(_) if name.ends_with("num_batches_tracked") => Ok(()),
            // f32 is acceptable for a model in any float type.
            Some(DType::F32) if is_float(wanted) => Ok(()),
            Some(found) if convert && is_float(found) => Ok(()),
            _ => {
                let (name, found) = (quoted(name), info.dtype);
                let cure = match candle_type(found).is_some_and(is_float) {
                    true => "set the option convert to accept its rounding",
                    false => "is it another kind of tensor?",
                };
                Err(self
                    .fault(format!("tensor {name}: expected {}, found {found:?}: {cure}", wanted.as_str())))
            }
        }
    }

    fn warn_of_non_finite(&self, name: &str, tensor: &Tensor) -> Result<()> {
        if tensor.dtype().is_int() {
            return Ok(());
        }
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            let faulty = values.iter().filter(|x| !x.is_finite()).count();
            let row = at / (values.len() / tensor.dims().first().copied().unwrap_or(1).max(1)).max(1);
            warn(&format!(
                "{}: tensor '{name}': {faulty} of {} values are NaN or infinite, the first in row {row}",
                self.path.display(),
                values.len()
            ));
        }
        Ok(())
    }

    /// One tensor of the header, in its own type.
    fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let info = self.header.info(name).ok_or_else(|| self.fault(format!("no tensor {}", quoted(name))))?;
        let (shape, (from, to)) = (info.shape.clone(), info.data_offsets);
        let dtype = candle_type(info.dtype).ok_or_else(|| {
            self.fault(format!("tensor {}: type {:?} is not supported", quoted(name), info.dtype))
        })?;
        let mut raw = vec![0; to - from];
        let read = self.reader.seek(SeekFrom::Start(self.start + from as u64));
        read.and_then(|_| self.reader.read_exact(&mut raw))
            .map_err(|e| self.fault(format!("cannot read weights: {e}")))?;
        Ok(Tensor::from_raw_buffer(&raw, dtype, &shape, &Device::Cpu)?)
    }

    fn fault(&self, message: String) -> Error {
        Error::Weights { path: self.path.to_path_buf(), message }
    }
}

/// The types of weights, counters and masks.
fn candle_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F64 => Some(DType::F64),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::I64 => Some(DType::I64),
        Dtype::U32 => Some(DType::U32),
        Dtype::U8 => Some(DType::U8),
        _ => None,
    }
}

/// The kind of a file with this beginning, and the cure.
fn kind(start: &[u8; 8]) -> Option<&'static str> {
    match start {
        [b'P', b'K', 3, 4, ..] => Some(
            "a zip archive, as torch.save writes: convert it in Python with \
             safetensors.torch.save_file(model.state_dict(), FILE)",
        ),
        [0x80, 2..=5, ..] => Some(
            "a Python pickle, as torch.save wrote before 1.6: convert it in Python with \
             safetensors.torch.save_file(model.state_dict(), FILE)",
        ),
        b"version " => Some("a Git LFS pointer: fetch the file itself with git lfs pull"),
        _ => None,
    }
}
