use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorView};
use serde::{Deserialize, Serialize};
use taper_nn::{Architecture, Layers};
use taper_report::{one_line, write_whole};

use crate::signals::is_product;
use crate::{Error, Result, Scaling, Sequential};

/// The version of [`Header`].
const VERSION: u32 = 1;
/// The name of [`Header`] in the metadata.
const KEY: &str = "taper_frozen";
/// The name of the metadata with the units of each linear layer and convolution: `[["fc1",490],["fc2",10]]`. PyTorch code
/// needs these sizes to build the network.
const UNITS: &str = "units";

/// Longer headers are not read.
const MAX_HEADER: u64 = 256 << 10;

/// The properties of a network that its tensors do not show, as JSON in the metadata of the file.
#[derive(Serialize, Deserialize)]
struct Header {
    v: u32,
    /// The text of [`Layers`].
    layers: String,
    /// `(C, H, W)`.
    input: (usize, usize, usize),
    mean: f64,
    std: f64,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

impl Sequential {
    /// Writes a safetensors file that PyTorch's `load_file` and `load_state_dict` accept. Its metadata have layers, input shape
    /// and scaling (`taper_frozen`), and the number of units of each layer (`units`: `[["fc1",490],["fc2",10]]`). The file is
    /// replaced as a whole; if writing fails, the old file stays.
    ///
    /// # Errors
    /// As [`check`](Self::check); [`Error::File`] when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_whole(path, &self.to_bytes()?).map_err(|e| Error::File {
            path: path.to_path_buf(),
            message: format!("cannot write the network: {e}"),
        })
    }

    /// The bytes of the file that [`save`](Self::save) writes.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.check()?;
        let fault = |e: &dyn std::fmt::Display| Error::Argument(format!("cannot write the network: {e}"));
        let Scaling { mean, std } = self.scaling;
        let header = Header { v: VERSION, layers: self.layers().to_string(), input: self.input, mean, std };
        let header = serde_json::to_string(&header).map_err(|e| fault(&e))?;
        let units = self.parts.iter().filter(|part| is_product(part)).filter_map(|part| part.values.as_ref());
        let units: Vec<_> = units.map(|values| (&values.name, values.outputs)).collect();
        let units = serde_json::to_string(&units).map_err(|e| fault(&e))?;
        let metadata = [(KEY, header), (UNITS, units), ("format", "pt".to_string())];
        let metadata = HashMap::from(metadata.map(|(key, value)| (key.to_string(), value)));
        let tensors = self.tensors().into_iter().map(|(name, shape, values)| {
            (name, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        });
        let tensors: Vec<_> = tensors.collect();
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
        let views = views.collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>();
        views.and_then(|views| safetensors::serialize(views, Some(metadata))).map_err(|e| fault(&e))
    }

    /// Reads a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a file of another program; [`Error::File`] when the file cannot be read, has another version, or
    /// its tensors do not fit its layers.
    pub fn load(path: &Path) -> Result<Self> {
        let fault = |message: String| Error::File { path: path.to_path_buf(), message };
        let foreign = |found: String| Error::Foreign { path: path.to_path_buf(), found };
        let cannot = |e: std::io::Error| fault(format!("cannot read the network: {e}"));
        // Checked before opening, because opening a named pipe would wait for a writer.
        let about = fs::metadata(path).map_err(cannot)?;
        if !about.is_file() {
            return Err(foreign("no file".to_string()));
        }
        let mut file = File::open(path).map_err(cannot)?;
        let other = |why: &str| foreign(format!("no safetensors file ({})", one_line(why, 100)));
        let mut bytes = vec![0; 8];
        file.read_exact(&mut bytes).map_err(|_| other("it is too short"))?;
        let length = bytes[..].try_into().map_or(0, u64::from_le_bytes);
        if length > MAX_HEADER.min(about.len()) {
            return Err(other(&format!("a header of {length} bytes")));
        }
        file.by_ref().take(length).read_to_end(&mut bytes).map_err(cannot)?;
        let metadata: Metadata = serde_json::from_slice(&bytes[8..]).map_err(|e| other(&e.to_string()))?;
        let Some(header) = metadata.metadata().as_ref().and_then(|of| of.get(KEY)) else {
            return Err(foreign(format!("no metadata '{KEY}'")));
        };
        let json =
            |e: serde_json::Error| fault(format!("metadata '{KEY}': {}", one_line(&e.to_string(), 200)));
        let Version { v } = serde_json::from_str(header).map_err(json)?;
        if v != VERSION {
            return Err(fault(format!(
                "expected version {VERSION} of '{KEY}', found {v}: read it with the version of Taper that wrote it"
            )));
        }
        let Header { layers, input, mean, std, .. } = serde_json::from_str(header).map_err(json)?;
        let layers: Layers = layers.parse().map_err(|e| fault(format!("metadata '{KEY}': {e}")))?;
        let mut shapes = Vec::new();
        let mut values = HashMap::new();
        file.read_to_end(&mut bytes).map_err(cannot)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| fault(one_line(&e.to_string(), 200)))?;
        for (name, view) in file.iter() {
            if view.dtype() != Dtype::F32 {
                let (name, found) = (one_line(name, 100), view.dtype());
                return Err(fault(format!(
                    "tensor '{name}': expected F32, found {found:?}: convert it in PyTorch with .float()"
                )));
            }
            shapes.push((name.to_string(), view.shape().to_vec()));
            let floats = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            values.insert(name.to_string(), floats.collect());
        }
        let in_file = |error: Error| fault(error.to_string());
        let network = Architecture::new(&layers, shapes, input).map_err(|e| in_file(e.into()))?;
        let network = Self::of(&network, values, input, Scaling { mean, std }).map_err(in_file)?;
        network.check().map_err(in_file)?;
        Ok(network)
    }
}
