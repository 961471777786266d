use std::collections::HashMap;

use taper_kernels::Activation;
use taper_nn::{Architecture, Layer, Layers, Params};

use crate::Result;
use crate::error::argument;

/// A sequential network as plain values: its layers in the order in which they are applied, each with its tensors in
/// PyTorch's layout.
///
/// This is what a [`Frozen`](crate::Frozen) is made of, what its file holds, and what a program edits that removes units.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequential {
    /// Channels, height and width of a sample; `(features, 1, 1)` if it has no pixels.
    pub input: (usize, usize, usize),
    /// How inputs become what the first layer was trained on.
    pub scaling: Scaling,
    /// The layers. A fully connected layer behind maps takes them flattened, channel by channel.
    pub parts: Vec<Part>,
}

/// `(x − mean) / std`, which a network's inputs go through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// What is subtracted.
    pub mean: f64,
    /// What the difference is divided by; above 0.
    pub std: f64,
}

impl Default for Scaling {
    /// Inputs as they are.
    fn default() -> Self {
        Self { mean: 0.0, std: 1.0 }
    }
}

/// A layer with its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What is computed. A PReLU has its trained slope.
    pub layer: Layer,
    /// Its tensors, if it has some.
    pub values: Option<Values>,
}

/// The tensors of one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    /// What the names of the tensors begin with: `fc1` of `fc1.weight`.
    pub name: String,
    /// Units, output channels, or channels of a batch normalisation; 1 for a PReLU.
    pub outputs: usize,
    /// Input features or channels; 1 for a batch normalisation or a PReLU.
    pub inputs: usize,
    /// `(outputs, inputs)`; `(outputs, inputs, rows, columns)` of a convolution; `(channels)` of a batch normalisation; `(1)`
    /// of a PReLU.
    pub weight: Vec<f32>,
    /// `(outputs)`; `None` if the layer was trained without.
    pub bias: Option<Vec<f32>>,
    /// Running mean and variance of a batch normalisation, `(channels)` each.
    pub statistics: Option<[Vec<f32>; 2]>,
}

impl Sequential {
    /// The network of these layers with the values that `params` has now, for inputs of shape `input`, `(C, H, W)`.
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
    /// When the parameters do not fit the layers; the message names the tensor.
    pub fn new(
        layers: &Layers,
        params: &Params,
        input: (usize, usize, usize),
        scaling: Scaling,
    ) -> Result<Self> {
        let mut values = HashMap::new();
        let mut shapes = Vec::new();
        for (name, var) in params.state() {
            shapes.push((name.clone(), var.dims().to_vec()));
            let var = var.as_tensor().to_dtype(candle_core::DType::F32)?;
            values.insert(name, var.flatten_all()?.to_vec1::<f32>()?);
        }
        Self::of(&Architecture::new(layers, shapes, input)?, values, input, scaling)
    }

    /// The network of an architecture and the values of its tensors.
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

    /// The layers as text has them.
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
            // A slope that is part of the layer in front of it.
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

    /// # Errors
    /// When the layers, the sizes and the tensors do not fit each other, or a value is not finite; the message names the tensor.
    pub fn check(&self) -> Result<()> {
        let Scaling { mean, std } = self.scaling;
        if !(std > 0.0 && std.is_finite() && mean.is_finite()) {
            return argument(format!(
                "scaling: expected a finite mean and a standard deviation above 0, found {mean} and {std}"
            ));
        }
        let tensors = self.tensors();
        for (name, shape, values) in &tensors {
            let size = shape.iter().try_fold(1_usize, |size, n| size.checked_mul(*n));
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
        Architecture::new(&self.layers(), tensors.iter().map(|(name, shape, _)| (name, shape)), self.input)?;
        Ok(())
    }
}
