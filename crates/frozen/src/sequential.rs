use std::collections::HashMap;

use taper_kernels::Activation;
use taper_nn::{Architecture, Layer, Layers, Params, SampleShape};

use crate::Result;
use crate::error::argument;

/// A sequential network as plain values: its layers in the order in which they are applied, each with its tensors in
/// PyTorch's layout.
///
/// A [`Frozen`](crate::Frozen) is made from it. Its file holds these values. A program can change them, for example to
/// remove units.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequential {
    /// Channels, height and width of a sample; `(features, 1, 1)` for a sample without pixels.
    pub input: (usize, usize, usize),
    /// The scaling of the inputs before the first layer.
    pub scaling: Scaling,
    /// The layers. A fully connected layer after feature maps reads them flattened, channel by channel.
    pub parts: Vec<Part>,
}

/// The scaling of a network's inputs: `(x − mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// The value that is subtracted.
    pub mean: f64,
    /// The divisor, above 0.
    pub std: f64,
}

impl Default for Scaling {
    /// No scaling: mean 0, standard deviation 1.
    fn default() -> Self {
        Self { mean: 0.0, std: 1.0 }
    }
}

/// A layer with its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The layer. A PReLU has its trained slope.
    pub layer: Layer,
    /// Its tensors, if it has any.
    pub values: Option<Values>,
}

/// The tensors of one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    /// The name of the layer, with which the names of its tensors begin: `fc1` of `fc1.weight`.
    pub name: String,
    /// Number of units or output channels; the channels of a batch normalisation; 1 for a PReLU.
    pub outputs: usize,
    /// Number of input features or channels; 1 for a batch normalisation or a PReLU.
    pub inputs: usize,
    /// `(outputs, inputs)`; for a convolution `(outputs, inputs, rows, columns)`; for a batch normalisation `(channels)`; for a
    /// PReLU `(1)`.
    pub weight: Vec<f32>,
    /// `(outputs)`; `None` if the layer has no bias.
    pub bias: Option<Vec<f32>>,
    /// Running mean and variance of a batch normalisation, `(channels)` each.
    pub statistics: Option<[Vec<f32>; 2]>,
}

impl Values {
    /// Running mean and variance.
    pub(crate) fn moments(&self) -> Result<&[Vec<f32>; 2]> {
        match &self.statistics {
            Some(moments) => Ok(moments),
            None => {
                argument(format!("layer '{}': expected running_mean and running_var, found none", self.name))
            }
        }
    }
}

impl Sequential {
    /// A network with these layers and the current values of `params`, for inputs of shape `input`, `(C, H, W)`.
    ///
    /// ```
    /// use candle_core::Device;
    /// use taper_frozen::{Scaling, Sequential};
    /// use taper_nn::{Mlp, MlpConfig, Params};
    ///
    /// let (params, config) = (Params::new(1, &Device::Cpu), MlpConfig::default());
    /// let net = Mlp::new(&config, params.builder())?;
    /// let network = Sequential::new(&config.layers(), &params, (1, 28, 28), Scaling::default())?;
    /// assert_eq!(network.layers().to_string(), "linear, relu, linear, relu, linear");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When the parameters do not fit the layers. The message names the tensor.
    pub fn new(
        layers: &Layers,
        params: &Params,
        input: (usize, usize, usize),
        scaling: Scaling,
    ) -> Result<Self> {
        let mut values = HashMap::new();
        for (name, var) in params.state() {
            let var = var.as_tensor().to_dtype(candle_core::DType::F32)?;
            values.insert(name, var.flatten_all()?.to_vec1::<f32>()?);
        }
        Self::of(&Architecture::new(layers, params.shapes(), input)?, values, input, scaling)
    }

    /// A network with this architecture and the values of its tensors by name.
    pub(crate) fn of(
        network: &Architecture,
        mut values: HashMap<String, Vec<f32>>,
        input: (usize, usize, usize),
        scaling: Scaling,
    ) -> Result<Self> {
        let part = |(layer, tensors): (Layer, Option<(&str, &[usize])>)| {
            let Some((name, shape)) = tensors else { return Ok(Part { layer, values: None }) };
            let mut take = |part: &str| values.remove(&format!("{name}.{part}"));
            if let Layer::Act(Activation::Prelu { .. }) = layer {
                let weight = take("slope").or_else(|| take("weight")).unwrap_or_default();
                let Some(&slope) = weight.first() else {
                    return argument(format!("layer '{name}': expected the slope of prelu, found none"));
                };
                let layer = Layer::Act(Activation::Prelu { slope: f64::from(slope) });
                let values =
                    Values { name: name.to_string(), outputs: 1, inputs: 1, weight, ..Default::default() };
                return Ok(Part { layer, values: Some(values) });
            }
            let (weight, bias) = (take("weight").unwrap_or_default(), take("bias"));
            let statistics = take("running_mean").zip(take("running_var")).map(|(mean, var)| [mean, var]);
            let (outputs, inputs) = (shape[0], shape.get(1).copied().unwrap_or(1));
            let values = Values { name: name.to_string(), outputs, inputs, weight, bias, statistics };
            Ok(Part { layer, values: Some(values) })
        };
        let parts = network.tensors().map(part).collect::<Result<_>>()?;
        Ok(Self { input, scaling, parts })
    }

    /// The layers without their tensors.
    pub fn layers(&self) -> Layers {
        Layers(self.parts.iter().map(|part| part.layer).collect())
    }

    /// Every tensor with its name and shape, in the order of the layers.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        let mut tensors = Vec::new();
        for (i, Part { layer, values }) in self.parts.iter().enumerate() {
            let Some(values) = values else { continue };
            let Values { name, outputs, inputs, .. } = values;
            let shape = match layer {
                Layer::Conv { kernel, .. } => vec![*outputs, *inputs, kernel.0, kernel.1],
                Layer::Linear => vec![*outputs, *inputs],
                _ => vec![*outputs],
            };
            // A PReLU's slope can belong to the layer before it: `fc1.slope` beside `fc1.weight`.
            let is_slope = matches!(layer, Layer::Act(_))
                && self.parts[..i]
                    .iter()
                    .any(|part| part.values.as_ref().is_some_and(|other| other.name == *name));
            let weight = if is_slope { "slope" } else { "weight" };
            tensors.push((format!("{name}.{weight}"), shape, &values.weight[..]));
            let [mean, var] = match &values.statistics {
                Some([mean, var]) => [Some(&mean[..]), Some(&var[..])],
                None => [None, None],
            };
            for (part, values) in
                [("bias", values.bias.as_deref()), ("running_mean", mean), ("running_var", var)]
            {
                tensors.extend(values.map(|values| (format!("{name}.{part}"), vec![*outputs], values)));
            }
        }
        tensors
    }

    /// Checks that layers, sizes and tensors fit each other.
    ///
    /// # Errors
    /// When they do not, or a value is not finite. The message names the tensor.
    pub fn check(&self) -> Result<()> {
        self.shapes().map(drop)
    }

    /// [`check`](Self::check); then the shape of a sample before the first layer and after each layer.
    pub(crate) fn shapes(&self) -> Result<Vec<SampleShape>> {
        let Scaling { mean, std } = self.scaling;
        if !(std > 0.0 && std.is_finite() && mean.is_finite()) {
            return argument(format!(
                "scaling: expected a finite mean and a standard deviation above 0, found {mean} and {std}"
            ));
        }
        let tensors = self.tensors();
        for (name, shape, values) in &tensors {
            let size = shape.iter().try_fold(1_usize, |size, n| size.checked_mul(*n));
            if values.is_empty() {
                return argument(format!(
                    "tensor '{name}': expected at least one value, found shape {shape:?}"
                ));
            }
            if size != Some(values.len()) {
                let n = values.len();
                return argument(format!(
                    "tensor '{name}': expected the values of shape {shape:?}, found {n}"
                ));
            }
            if let Some(x) = values.iter().find(|x| !x.is_finite()) {
                return argument(format!(
                    "tensor '{name}': expected finite values, found {x}: train again, or take a checkpoint from before"
                ));
            }
        }
        let tensors = tensors.iter().map(|(name, shape, _)| (name, shape));
        Ok(Architecture::new(&self.layers(), tensors, self.input)?.shapes().to_vec())
    }
}
