use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use taper_nn::Params;
use taper_report::{Labels, Run, write_whole};

use crate::weight_file::WeightFile;
use crate::{Error, Result};

/// Writes all parameters and buffers to a safetensors file for `safetensors.torch.load_file` and `load_state_dict`:
/// PyTorch's names and layouts, each tensor in its own type, metadata `{"format": "pt"}`. Writes another file and
/// renames it, so the file is complete or as before.
///
/// # Errors
/// [`Error::Weights`] when the file cannot be written.
pub fn save_weights(params: &Params, path: &Path) -> Result<()> {
    write(params, None, path)
}

/// As [`save_weights`], with the [`Origin`] in the metadata.
pub(crate) fn save_weights_of(run: &Run, params: &Params, path: &Path) -> Result<()> {
    write(params, Some(&run.into()), path)
}

/// The SHA-256 of all parameters and buffers.
pub(crate) fn checksum(params: &Params) -> Result<String> {
    let bytes = pack(&tensors(params), None).map_err(Error::Config)?;
    Ok(hex::encode(Sha256::digest(bytes)))
}

fn write(params: &Params, origin: Option<&Origin>, path: &Path) -> Result<()> {
    let fault = |message: String| Error::Weights { path: path.to_path_buf(), message };
    let bytes = pack(&tensors(params), origin).map_err(fault)?;
    write_whole(path, &bytes).map_err(|e| fault(format!("cannot write weights: {e}")))
}

/// The origin of weights, which a [`Session`](crate::Session) writes into the metadata of its weight files, so that a
/// copy of the file is enough.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// [`Run::dataset`].
    pub dataset: String,
    /// [`Run::model`].
    pub model: String,
    /// [`Run::labels`], which have the activation function.
    pub labels: Labels,
    /// `scale` of [`Run::config`], the scale of the inputs, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<String>,
}

impl From<&Run> for Origin {
    fn from(run: &Run) -> Self {
        Self {
            dataset: run.dataset.clone(),
            model: run.model.clone(),
            labels: run.labels.clone(),
            scale: run.config["scale"].as_str().map(str::to_string),
        }
    }
}

/// The [`Origin`] in the metadata of a weight file; `None` for a file of another program, or of [`save_weights`].
///
/// # Errors
/// [`Error::Weights`] when the file is missing or not safetensors, or its metadata `taper` are invalid.
pub fn weight_origin(path: &Path) -> Result<Option<Origin>> {
    WeightFile::open(path)?.origin()
}

/// Reads parameters and buffers from a safetensors file of [`save_weights`] or PyTorch. The file must have exactly the
/// model's tensors; otherwise nothing is changed. [`LoadConfig`] has more options.
///
/// # Errors
/// [`Error::Weights`] when the file is missing, not safetensors, or has missing, extra or misshapen tensors, or tensors
/// of another type.
pub fn load_weights(params: &Params, path: &Path) -> Result<()> {
    LoadConfig::default().load(params, path).map(drop)
}

/// Reads the parameters and buffers whose shapes match the model, and returns which those are: for fine-tuning.
///
/// ```
/// # use candle_core::Device;
/// # use taper_nn::{Mlp, MlpConfig, Params};
/// # use taper_train::{load_matching, save_weights};
/// let net = |classes| {
///     let params = Params::new(1, &Device::Cpu);
///     let config = MlpConfig { inputs: 64, widths: vec![32], classes, ..Default::default() };
///     Mlp::new(&config, params.builder()).map(|net| (params, net))
/// };
/// # let dir = tempfile::tempdir().expect("a directory");
/// # let path = &dir.path().join("ten.safetensors");
/// let ((ten, _), (five, _)) = (net(10)?, net(5)?);
/// save_weights(&ten, path)?;
/// let loaded = load_matching(&five, path)?;
/// assert_eq!(loaded.loaded, ["fc1.weight", "fc1.bias"]);
/// assert_eq!(loaded.to_string(), "2 tensors loaded; of another shape: fc2.weight [5, 32] (file: [10, 32]), fc2.bias [5] (file: [10])");
/// # Ok::<(), taper_train::Error>(())
/// ```
///
/// # Errors
/// [`Error::Weights`] as [`load_weights`], and when nothing matches; nothing is changed then.
pub fn load_matching(params: &Params, path: &Path) -> Result<Loaded> {
    LoadConfig { matching: true, ..LoadConfig::default() }.load(params, path)
}

/// Options for loading weights. The default is strict: all tensors, no others, of the same shapes and types.
///
/// Names of other programs are accepted: with the prefix `module.`, `_orig_mod.` or another common one; and, for an
/// [`Mlp`](taper_nn::Mlp) or [`Cnn`](taper_nn::Cnn), the names of [`layer_names`](taper_nn::layer_names) (`0.weight`,
/// `linear1.weight`, `fc.weight`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadConfig {
    /// Load tensors whose name and shape match, and leave the others of the model unchanged.
    pub matching: bool,
    /// Convert tensors of other types: f16 and bf16 to f32 exactly, f64 rounded.
    pub convert: bool,
}

/// The result of loading a file of weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The model's tensors that were set, in its order.
    pub loaded: Vec<String>,
    /// The model's tensors that the file does not have.
    pub missing: Vec<String>,
    /// The file's tensors that the model does not have, with the names of the file.
    pub unexpected: Vec<String>,
    /// Tensors of the model with another shape in the file.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor with different shapes in a file and in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name in the model.
    pub name: String,
    /// Its shape in the model.
    pub expected: Vec<usize>,
    /// Its shape in the file.
    pub found: Vec<usize>,
}

impl fmt::Display for Loaded {
    /// One line for any number of names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors loaded", self.loaded.len())?;
        let shapes = |of: &Misshapen| format!("{} {:?} (file: {:?})", of.name, of.expected, of.found);
        let misshapen: Vec<String> = self.misshapen.iter().map(shapes).collect();
        let parts = [
            ("not in the file", &self.missing),
            ("not in the model", &self.unexpected),
            ("of another shape", &misshapen),
        ];
        let mut parts = parts.into_iter().filter(|(_, names)| !names.is_empty());
        parts.try_for_each(|(what, names)| write!(f, "; {what}: {}", listed(names)))
    }
}

impl LoadConfig {
    /// Reads parameters from a safetensors file.
    ///
    /// Reads the header first, and at most as much of the file as the model needs. NaN and infinite values are loaded,
    /// with a [warning](taper_report::warn) that names them.
    ///
    /// # Errors
    /// [`Error::Weights`] as [`load_weights`] and [`load_matching`]; nothing is changed then.
    pub fn load(self, params: &Params, path: &Path) -> Result<Loaded> {
        let (values, loaded) = WeightFile::open(path)?.read(&variables(params), self)?;
        set(&values)?;
        Ok(loaded)
    }
}

/// The content of a file of weights, in the order of the file.
fn variables(params: &Params) -> Vec<(String, Var)> {
    params.state()
}

/// Parameters and buffers.
pub(crate) fn tensors(params: &Params) -> Vec<(String, Tensor)> {
    variables(params).into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect()
}

/// A safetensors file of tensors, each in its own type.
pub(crate) fn pack(tensors: &[(String, Tensor)], origin: Option<&Origin>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        bytes.push((name, tensor.dims(), raw(tensor).map_err(|e| Error::from(e).to_string())?));
    }
    let mut views = Vec::with_capacity(bytes.len());
    for (name, shape, (dtype, raw)) in &bytes {
        views.push((name, TensorView::new(*dtype, shape.to_vec(), raw).map_err(|e| e.to_string())?));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(|e| e.to_string())?;
    match origin {
        Some(origin) => described(&file, origin),
        None => Ok(file),
    }
}

/// A file with the metadata `taper` after `format`. They are inserted by hand, because two entries of a hash map have
/// no fixed order, and the same run must write the same bytes.
fn described(file: &[u8], origin: &Origin) -> Result<Vec<u8>, String> {
    const START: &[u8] = br#"{"__metadata__":{"format":"pt""#;
    let text = serde_json::to_string(origin).and_then(|json| serde_json::to_string(&json));
    let text = text.map_err(|e| e.to_string())?;
    let length = file.first_chunk().map_or(0, |length| u64::from_le_bytes(*length) as usize);
    let (Some(rest), true) =
        (file.get(8..8 + length).and_then(|header| header.strip_prefix(START)), text.len() <= MAX_ORIGIN)
    else {
        return Ok(file.to_vec());
    };
    let mut header = [START, b",\"taper\":", text.as_bytes(), rest.trim_ascii_end()].concat();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes()[..], &header, &file[8 + length..]].concat())
}

/// Longer ones are left out, because a longer header is not read.
const MAX_ORIGIN: usize = 64 << 10;

/// The bytes of a tensor, little-endian.
fn raw(tensor: &Tensor) -> candle_core::Result<(Dtype, Vec<u8>)> {
    macro_rules! bytes {
        ($tensor:expr, $of:ty) => {
            $tensor.to_vec1::<$of>()?.iter().flat_map(|x| x.to_le_bytes()).collect()
        };
    }
    let flat = tensor.detach().flatten_all()?.to_device(&Device::Cpu)?;
    Ok(match flat.dtype() {
        DType::F64 => (Dtype::F64, bytes!(flat, f64)),
        DType::I64 => (Dtype::I64, bytes!(flat, i64)),
        DType::U32 => (Dtype::U32, bytes!(flat, u32)),
        DType::U8 => (Dtype::U8, bytes!(flat, u8)),
        // candle's half floats have no bytes here; PyTorch widens them exactly too.
        _ => (Dtype::F32, bytes!(flat.to_dtype(DType::F32)?, f32)),
    })
}

/// All tensors of a safetensors file, by name.
pub(crate) fn unpack(bytes: &[u8], device: &Device) -> Result<Vec<(String, Tensor)>, String> {
    WeightFile::in_memory(bytes).and_then(|mut file| file.all(device)).map_err(message)
}

/// The values of each parameter and buffer in a checkpoint.
pub(crate) fn values(params: &Params, bytes: &[u8]) -> Result<Vec<(Var, Tensor)>, String> {
    let read = |mut file: WeightFile<'_, _>| file.read(&variables(params), LoadConfig::default());
    WeightFile::in_memory(bytes).and_then(read).map(|(values, _)| values).map_err(message)
}

/// Without the path, which callers with only the bytes do not have.
fn message(error: Error) -> String {
    match error {
        Error::Weights { message, .. } => message,
        other => other.to_string(),
    }
}

/// Sets parameters and buffers.
pub(crate) fn set(values: &[(Var, Tensor)]) -> Result<()> {
    Ok(values.iter().try_for_each(|(var, value)| var.set(value))?)
}

/// Name and shape of every tensor of a safetensors file, in the order of the file, for
/// [`Architecture::new`](taper_nn::Architecture::new). Reads only the header.
///
/// # Errors
/// [`Error::Weights`] when the file is missing or not safetensors.
pub fn weight_shapes(path: &Path) -> Result<Vec<(String, Vec<usize>)>> {
    Ok(WeightFile::open(path)?.shapes())
}

/// A name from a file, in quotes and on one line.
pub(crate) fn quoted(name: &str) -> String {
    format!("'{}'", short(name))
}

pub(crate) fn short(text: &str) -> String {
    taper_report::one_line(text, 200)
}

/// Names of a file or a model, as many as fit on one line.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    const MOST: usize = 40;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| short(name.as_ref())).collect();
    match names.len().saturating_sub(MOST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
