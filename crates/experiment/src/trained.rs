use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::Args;
use taper_data::{Choice, Dataset, Scale};
use taper_frozen::{Scaling, Sequential};
use taper_nn::{Activation, Architecture, Layer, Layers, Network, Params};
use taper_report::read_config;
use taper_train::{LoadConfig, Origin, weight_origin, weight_shapes};

use crate::{Error, Result, Screen, load_images};

/// Options for a trained network: its weights, and properties that their file may lack.
#[derive(Args, Clone, Debug)]
pub struct WeightOptions {
    /// The weights, a safetensors file, or the directory of a run or a checkpoint
    #[arg(value_name = "WEIGHTS")]
    pub weights: PathBuf,
    /// The activation function after every layer except the last [default: that of the run, else prelu if the file has
    /// slopes]
    #[arg(long, value_name = "A", conflicts_with = "layers")]
    pub act: Option<Activation>,
    /// All layers, if they do not follow from the shapes: 'conv 5 pad 2, relu, max_pool 2, linear' (see below)
    #[arg(long, value_name = "LAYERS")]
    pub layers: Option<Layers>,
    /// Scale of the pixels: raw, 0 to 255; unit, [0, 1]; standard, [0, 1] minus the mean of the training set, divided
    /// by its standard deviation; MEAN,STD, the same with these numbers [default: that of the run]
    #[arg(long)]
    pub scale: Option<Scale>,
    /// mnist, fashion-mnist, kmnist, digits, emnist-SPLIT or idx [default: that of the run, else mnist]
    #[arg(long)]
    pub dataset: Option<Choice>,
    /// Directory with the data set's four files [default: $TAPER_DATA, else datasets/NAME, the cache or a download]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Accept weights in f16, bf16 or f64 and convert them to f32
    #[arg(long)]
    pub convert: bool,
}

/// What `--help` says about [`WeightOptions::layers`].
pub const LAYERS_HELP: &str = "\
Layers, separated by commas, in the order in which they are applied:
  conv K [pad P] [stride S]       K is 5 or 3x5        linear            flattens in front of it
  max_pool K [stride S]           stride K if none     batch_norm [eps E]
  avg_pool K [stride S]                                dropout P         does nothing here
  global_avg_pool                                      flatten           may be left out
  relu, tanh, leaky_relu:0.1, …   as in --act";

/// A trained network with its weights, and the data that it is for.
#[derive(Debug)]
pub struct Trained {
    /// The file of weights.
    pub weights: PathBuf,
    /// The activation function that all hidden layers share. `None` if `--layers` or the weight file lists the layers one
    /// by one.
    pub act: Option<Activation>,
    /// How pixels become inputs.
    pub scale: Scale,
    /// The data, scaled, on the device.
    pub data: Dataset,
    /// Layers and names.
    pub architecture: Architecture,
    /// Whether the layers were assumed, because no others fit.
    pub assumed: bool,
    /// The weights.
    pub params: Params,
    /// The network.
    pub model: Network,
}

impl Trained {
    /// The scaling as numbers, for pixels in `[0, 1]`.
    pub fn scaling(&self) -> Scaling {
        let Dataset { train, mean, std, .. } = &self.data;
        let (mean, std) = self.scale.mean_and_std(train.white(), *mean, *std);
        Scaling { mean, std }
    }

    /// The network as plain values, for pixels in `[0, 1]`.
    ///
    /// # Errors
    /// As [`Sequential::new`].
    pub fn sequential(&self) -> Result<Sequential> {
        let layers = self.architecture.layers();
        let network = Sequential::new(layers, &self.params, self.data.test.shape(), self.scaling());
        network.map_err(|error| at(&self.weights, error))
    }

    /// Writes a network that was made of this one to another file.
    ///
    /// # Errors
    /// As [`Sequential::save`]; when the file is the one that the weights were read from.
    pub fn save(&self, network: &Sequential, to: &Path) -> Result<()> {
        if let (Ok(own), Ok(other)) = (self.weights.canonicalize(), to.canonicalize())
            && own == other
        {
            return Err(at(to, "expected another file than that of the weights, which would be lost"));
        }
        network.save(to).map_err(|error| Error::Other(error.into()))
    }
}

impl WeightOptions {
    /// Loads the network and its data. Options that are not given come from the file, or from its run.
    ///
    /// # Errors
    /// When a property is missing, and when the tensors of the file fit no network for the data, or several.
    pub fn open(&self, device: &Device, screen: &Screen) -> Result<Trained> {
        let weights = file(&self.weights)?;
        let shapes = weight_shapes(&weights)?;
        let known = self.known(&weights, &shapes).map_err(|error| at(&weights, error))?;
        let data = load_images(known.dataset, self.data_dir.clone(), screen)?.scaled(known.scale).on(device);
        let found = architecture(&known, &shapes, data.test.shape(), &data.name);
        let (architecture, assumed) = found.map_err(|error| at(&weights, error))?;
        if architecture.classes() != data.classes {
            let (expected, found, name) = (data.classes, architecture.classes(), &data.name);
            let text = format!(
                "expected {expected} outputs, the classes of {name}, found {found}: another --dataset?"
            );
            return Err(at(&weights, text));
        }
        let params = Params::new(0, device);
        let model = architecture.build(params.builder());
        let model = model.map_err(|error| at(&weights, taper_train::Error::from(error)))?;
        LoadConfig { convert: self.convert, ..LoadConfig::default() }.load(&params, &weights)?;
        let Known { act, scale, contradictions, .. } = known;
        contradictions.iter().for_each(|text| screen.warn(text));
        Ok(Trained { weights, act, scale, data, architecture, assumed, params, model })
    }

    /// From the command line, else from the file, else from its run.
    fn known(&self, weights: &Path, shapes: &Shapes) -> Result<Known> {
        let origin = match weight_origin(weights)? {
            Some(origin) => Some(origin),
            None => of_run(weights, shapes),
        };
        let frozen = match Sequential::load(weights) {
            Ok(network) => Some((network.layers(), network.scaling)),
            Err(taper_frozen::Error::Foreign { .. }) => None,
            Err(error) => return Err(Error::Other(error.into())),
        };
        let (own_layers, own_scale) = match frozen {
            Some((layers, Scaling { mean, std })) => (Some(layers), Some(Scale::Normalize { mean, std })),
            None => (None, None),
        };
        let layers = self.layers.clone().or(own_layers.filter(|_| self.act.is_none()));
        let label = origin.as_ref().and_then(|of| of.labels.get("act")?.as_str()).map(str::parse).transpose();
        let label = label.map_err(|error: taper_kernels::Error| Error::Other(error.into()))?;
        let mut contradictions = Vec::new();
        if let (Some(given), Some(own)) = (self.act, label)
            && given != own
        {
            contradictions.push(format!("--act {given}: the network was trained with {own}"));
        }
        let told = Architecture::activation(shapes.iter().map(|(name, shape)| (name, shape)));
        let act = match (&layers, self.act.or(label)) {
            (Some(_), _) => None,
            (None, Some(act)) => Some(act),
            (None, None) => told?,
        };
        let of_scale = origin.as_ref().and_then(|of| of.scale.as_deref()).map(str::parse).transpose()?;
        if let (Some(given), Some(own)) = (self.scale, of_scale)
            && given != own
        {
            contradictions.push(format!("--scale {given}: the network was trained with {own}"));
        }
        let scale = self.scale.or(of_scale).or(own_scale);
        let mut asked = Vec::new();
        if act.is_none() && layers.is_none() {
            asked.push("the activation function with --act, such as relu, or all layers with --layers");
        }
        if scale.is_none() {
            asked.push(
                "the scale of its input with --scale: raw for pixels from 0 to 255, unit for [0, 1], standard, \
                 or their mean and standard deviation, such as 0.5,0.5",
            );
        }
        let (Some(scale), true) = (scale, asked.is_empty()) else {
            let asked = asked.join("; and ");
            return wrong(format!("a file of another program lacks some properties: give {asked}"));
        };
        let named = origin.as_ref().map(|of| of.dataset.parse()).transpose()?;
        let dataset = self.dataset.or(named).unwrap_or(Choice::Mnist);
        Ok(Known { act, layers, scale, dataset, model: origin.map(|of| of.model), contradictions })
    }
}

type Shapes = [(String, Vec<usize>)];

/// The properties of a weight file that do not follow from its shapes.
struct Known {
    act: Option<Activation>,
    layers: Option<Layers>,
    scale: Scale,
    dataset: Choice,
    /// The model, if the file belongs to a run of Taper.
    model: Option<String>,
    /// Options that differ from the run of the file.
    contradictions: Vec<String>,
}

fn wrong<T>(text: String) -> Result<T> {
    Err(Error::Other(text.into()))
}

/// An error about a file.
fn at(path: &Path, error: impl std::fmt::Display) -> Error {
    let text = error.to_string();
    let path = path.display().to_string();
    // Some errors name it themselves.
    Error::Other(if text.starts_with(&path) { text.into() } else { format!("{path}: {text}").into() })
}

/// The file, or the file in the directory of a run or a checkpoint.
fn file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let file = path.join("model.safetensors");
    if !file.exists() {
        return wrong(format!(
            "{}: expected a run or a checkpoint, found a directory without model.safetensors: name the file of weights",
            path.display()
        ));
    }
    Ok(file)
}

/// The run of a weight file's directory or checkpoint, if it has the same number of parameters.
fn of_run(weights: &Path, shapes: &Shapes) -> Option<Origin> {
    let parameters: usize = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let dirs = weights.ancestors().skip(1).take(3);
    let run = dirs.filter_map(|dir| read_config(dir.join("config.json")).ok()).next()?;
    (run.parameters == parameters as u64).then(|| (&run).into())
}

/// The network, and whether its layers were found by a search.
fn architecture(
    known: &Known,
    shapes: &Shapes,
    input: (usize, usize, usize),
    dataset: &str,
) -> Result<(Architecture, bool)> {
    let tensors = || shapes.iter().map(|(name, shape)| (name, shape));
    let found = match (&known.layers, known.act) {
        (Some(layers), _) => Architecture::new(layers, tensors(), input).map(|network| vec![network]),
        (None, act) => Architecture::arrangements(tensors(), input, act.unwrap_or(Activation::Identity)),
    };
    let found = match found.map_err(taper_train::Error::from) {
        Ok(found) => found,
        Err(error) => {
            return wrong(match known.layers {
                Some(_) => format!("no network for {dataset} by --layers: {error}"),
                None => {
                    format!(
                        "no network for {dataset}: {error}: give another --act, or its layers with --layers"
                    )
                }
            });
        }
    };
    // The text of a Taper network has only one arrangement.
    if let Some(of_run) = found.iter().find(|network| Some(network.to_string()) == known.model) {
        return Ok((of_run.clone(), false));
    }
    match &found[..] {
        [only] => {
            let has_choice = only.layers().0.iter().any(|layer| matches!(layer, Layer::Conv { .. }));
            Ok((only.clone(), known.layers.is_none() && has_choice))
        }
        several => {
            const MOST: usize = 4;
            let shown: Vec<String> = several
                .iter()
                .rev()
                .take(MOST)
                .map(|network| format!("--layers '{}'", network.layers()))
                .collect();
            let more = several.len().saturating_sub(MOST);
            let more = if more > 0 { format!(", or {more} more") } else { String::new() };
            wrong(format!(
                "its shapes fit several arrangements of layers: give the right one, such as {}{more}",
                shown.join(" or ")
            ))
        }
    }
}
