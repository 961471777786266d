use std::fmt;

use candle_core::Result;
use candle_nn::VarBuilder;
use taper_kernels::{Activation, Error};

use crate::arrange::arrange;
use crate::names::{Kind, LayerTensors, fault, groups, own_and_theirs};
use crate::network::{Network, Part};
use crate::{
    Act, BatchNorm1d, BatchNorm2d, BatchNormConfig, CnnConfig, Conv2d, Conv2dConfig, Dropout, Init, Layer,
    Layers, Linear, LinearConfig, MlpConfig, SampleShape,
};

/// A network from its [`Layers`] and the names and shapes of its tensors, such as those of a file of weights.
///
/// Its text is `mlp 784-512-256-10`, `cnn 32-64-pool-128-10` or, without a hidden layer, `linear 784-10`, if it is an
/// [`Mlp`](crate::Mlp) or a [`Cnn`](crate::Cnn); otherwise its layers.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use taper_nn::{Architecture, Model, Params, Pass};
///
/// // A PyTorch `nn.Sequential` of a convolution, ReLU, pooling and a linear layer.
/// let tensors = [("0.weight", vec![8, 1, 5, 5]), ("0.bias", vec![8]), ("4.weight", vec![10, 8 * 14 * 14]), ("4.bias", vec![10])];
/// let layers = "conv 5 pad 2, relu, max_pool 2, linear".parse()?;
/// let network = Architecture::new(&layers, tensors, (1, 28, 28))?;
/// assert_eq!(network.names()[1], ("fc1".to_string(), "4".to_string()));
///
/// let params = Params::new(1, &Device::Cpu);
/// let model = network.build(params.builder())?;
/// assert_eq!(params.names(), ["0.weight", "0.bias", "4.weight", "4.bias"]);
/// let xs = Tensor::zeros((2, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// assert_eq!(model.forward(&mut Pass::eval(&mut ()), &xs)?.dims(), [2, 10]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    layers: Layers,
    /// The tensors of each of `layers`, if it has any.
    groups: Vec<Option<LayerTensors>>,
    names: Vec<(String, String)>,
    /// Before the first layer and after each layer.
    shapes: Vec<SampleShape>,
}

impl Architecture {
    /// The network of these layers and tensors, for images of shape `input`, `(C, H, W)`.
    ///
    /// The convolutions of `layers` use those of the file in the order of their names, and so do linear layers and
    /// batch normalisations: see [`layer_names`](crate::layer_names). A PReLU uses the `slope` of the layer before it,
    /// or the next layer with a single weight, as in PyTorch.
    ///
    /// # Errors
    /// When the tensors do not fit the layers; the message names the one that does not.
    pub fn new<N: AsRef<str>, S: AsRef<[usize]>>(
        layers: &Layers,
        tensors: impl IntoIterator<Item = (N, S)>,
        input: (usize, usize, usize),
    ) -> Result<Self> {
        Self::fit(layers, groups(tensors)?, input)
    }

    /// The arrangements of layers that fit these names and shapes, for images of shape `input`, with `activation` after
    /// every layer except the last. Shapes do not show how a network pools; if several fit, the user must choose.
    ///
    /// All convolutions have stride 1 and the same padding: none, or half the kernel, which keeps the size. Max-pooling
    /// is nowhere, after each convolution, or after the last. Batch normalisation is before all activations or after
    /// all of them.
    ///
    /// ```
    /// use taper_nn::{Activation, Architecture};
    ///
    /// let tensors = [("conv1.weight", vec![4, 1, 5, 5]), ("conv1.bias", vec![4]), ("fc1.weight", vec![10, 4 * 12 * 12]), ("fc1.bias", vec![10])];
    /// let found = Architecture::arrangements(tensors, (1, 28, 28), Activation::Relu)?;
    /// assert_eq!(found.len(), 1);
    /// assert_eq!(found[0].layers().to_string(), "conv 5, relu, max_pool 2, linear");
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// When none fits; the message gives the reason for the simplest.
    pub fn arrangements<N: AsRef<str>, S: AsRef<[usize]>>(
        tensors: impl IntoIterator<Item = (N, S)>,
        input: (usize, usize, usize),
        activation: Activation,
    ) -> Result<Vec<Self>> {
        let groups = groups(tensors)?;
        let mut found: Vec<Self> = Vec::new();
        let mut first = None;
        for layers in arrange(&groups, input, activation)? {
            match Self::fit(&layers, groups.clone(), input) {
                Ok(network) => found.push(network),
                Err(error) => first = first.or(Some(error)),
            }
        }
        match first {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    /// The activation function that follows from names and shapes: PReLU if there are slopes, the identity if there is
    /// only one layer; otherwise `None`.
    ///
    /// # Errors
    /// As [`layer_names`](crate::layer_names).
    pub fn activation<N: AsRef<str>, S: AsRef<[usize]>>(
        tensors: impl IntoIterator<Item = (N, S)>,
    ) -> Result<Option<Activation>> {
        let groups = groups(tensors)?;
        let slopes = groups.iter().any(|group| group.kind == Kind::Slope || group.slope.is_some());
        let layers = groups.iter().filter(|group| matches!(group.kind, Kind::Conv | Kind::Linear)).count();
        Ok(match layers {
            _ if slopes => Some(Activation::Prelu { slope: 0.25 }),
            0 | 1 => Some(Activation::Identity),
            _ => None,
        })
    }

    fn fit(layers: &Layers, groups: Vec<LayerTensors>, (c, h, w): (usize, usize, usize)) -> Result<Self> {
        // Linear layers come after all convolutions, in the order of the groups.
        let names = own_and_theirs(&groups);
        let mut left = groups;
        let mut shape = SampleShape::Maps(c, h, w);
        let mut shapes = vec![shape];
        let mut groups = Vec::new();
        // The layer whose slope a PReLU uses.
        let mut slope: Option<LayerTensors> = None;
        for (i, layer) in layers.0.iter().enumerate() {
            let of_layer = if let Layer::Act(Activation::Prelu { .. }) = layer { slope.take() } else { None };
            let kind = match layer {
                Layer::Conv { .. } => Some(Kind::Conv),
                Layer::Linear => Some(Kind::Linear),
                Layer::BatchNorm { .. } => Some(Kind::Norm),
                Layer::Act(Activation::Prelu { .. }) if of_layer.is_none() => Some(Kind::Slope),
                _ => None,
            };
            let group = match kind {
                None => of_layer,
                Some(kind) => match left.iter().position(|group| group.kind == kind) {
                    Some(at) => Some(left.remove(at)),
                    None if kind == Kind::Slope => {
                        return fault(
                            "activation prelu: the file has no slopes, which prelu needs".to_string(),
                        );
                    }
                    None => {
                        return fault(format!(
                            "layer {}, {layer}: expected its tensors in the file, found none left",
                            i + 1
                        ));
                    }
                },
            };
            shape = shape.after(layer, group.as_ref())?;
            shapes.push(shape);
            if has_width(layer) {
                let own = group.clone().filter(|group| group.slope.is_some());
                if let Some(unused) = std::mem::replace(&mut slope, own) {
                    return Err(slopes(&unused.name));
                }
            }
            groups.push(group);
        }
        if let Some(unused) = slope {
            return Err(slopes(&unused.name));
        }
        match (left.first(), shape) {
            (Some(group), _) if group.kind == Kind::Slope => Err(slopes(&group.name)),
            (Some(group), _) => {
                let shape = group.weight.as_deref().unwrap_or_default();
                fault(format!(
                    "tensor '{}.weight' {shape:?}: expected no more layers than {layers}",
                    group.name
                ))
            }
            (None, SampleShape::Features(_)) if !names.is_empty() => {
                Ok(Self { layers: layers.clone(), groups, names, shapes })
            }
            _ => fault("expected a fully connected layer at the end, found none".to_string()),
        }
    }

    /// The layers.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// The name of every convolution and linear layer in the network, which is that of its site, and in the file.
    pub fn names(&self) -> &[(String, String)] {
        &self.names
    }

    /// Every layer in order, with the name in the file of what has its tensors and the shape of its weight: `features.0` for
    /// `features.0.weight` and `features.0.bias`. A PReLU whose slope is part of the layer in front of it has that layer's.
    pub fn tensors(&self) -> impl Iterator<Item = (Layer, Option<(&str, &[usize])>)> {
        let tensors = self.groups.iter().map(|group| {
            group.as_ref().map(|group| (group.name.as_str(), group.weight.as_deref().unwrap_or_default()))
        });
        self.layers.0.iter().copied().zip(tensors)
    }

    /// The shape of a sample before the first layer and after each layer.
    pub fn shapes(&self) -> &[SampleShape] {
        &self.shapes
    }

    /// Number of logits.
    pub fn classes(&self) -> usize {
        self.shapes.last().map_or(0, |shape| shape.values())
    }

    /// The model; it reads its parameters from `vb` under the names of the file. The site after the convolution `conv1`
    /// has the name `conv1`; a second one is `conv1-2`, and one before all layers `input`.
    ///
    /// # Errors
    /// When `vb` has no such parameters.
    pub fn build(&self, vb: VarBuilder<'static>) -> Result<Network> {
        let mut parts = Vec::new();
        let layers = self.layers.0.iter().zip(&self.groups).zip(&self.shapes).zip(self.site_names());
        for (((layer, group), before), site) in layers {
            let own = group.as_ref().map(|group| vb.pp(&group.name));
            let (shape, bias) = group.as_ref().map_or((&[][..], false), |group| {
                (group.weight.as_deref().unwrap_or_default(), group.bias.is_some())
            });
            let init = Init::He;
            parts.push(match (*layer, own, shape) {
                (Layer::Conv { kernel, geometry }, Some(vb), &[outputs, inputs, ..]) => {
                    let config = Conv2dConfig { kernel, geometry, init, bias };
                    Part::Conv(Conv2d::new(inputs, outputs, config, vb)?)
                }
                (Layer::Linear, Some(vb), &[outputs, inputs]) => {
                    Part::Linear(Linear::new(inputs, outputs, LinearConfig { init, bias }, vb)?)
                }
                (Layer::BatchNorm { eps }, Some(vb), &[channels]) => {
                    let config = BatchNormConfig { eps, ..Default::default() };
                    match before {
                        SampleShape::Maps(..) => Part::BatchNorm2d(BatchNorm2d::new(channels, config, vb)?),
                        SampleShape::Features(_) => {
                            Part::BatchNorm1d(BatchNorm1d::new(channels, config, vb)?)
                        }
                    }
                }
                (Layer::Act(activation), ..) => {
                    let theirs = group.as_ref().map_or(String::new(), |group| {
                        let part = if group.slope.is_some() { "slope" } else { "weight" };
                        format!("{}.{part}", group.name)
                    });
                    Part::Act(Act::new(activation, vb.clone().rename_f(move |_| theirs.clone()).pp(site))?)
                }
                (Layer::MaxPool { window, stride }, ..) => Part::MaxPool { window, stride },
                (Layer::AvgPool { window, stride }, ..) => Part::AvgPool { window, stride },
                (Layer::GlobalAvgPool, ..) => Part::GlobalAvgPool,
                (Layer::Flatten, ..) => Part::Flatten,
                (Layer::Dropout { rate }, ..) => Part::Dropout(Dropout::new(rate)?),
                (layer, ..) => return fault(format!("{layer}: expected tensors, found none")),
            });
        }
        Ok(Network::new(parts))
    }

    /// For each activation the name of its site, and for each convolution or linear layer its name in the network.
    pub(crate) fn site_names(&self) -> Vec<String> {
        let mut names = self.names.iter().map(|(own, _)| own.as_str());
        let (mut of, mut n) = ("input", 0);
        let name = |layer: &Layer| {
            if has_width(layer) {
                (of, n) = (names.next().unwrap_or_default(), 0);
            }
            n += usize::from(matches!(layer, Layer::Act(_)));
            if n > 1 { format!("{of}-{n}") } else { of.to_string() }
        };
        self.layers.0.iter().map(name).collect()
    }

    /// The text of an [`Mlp`](crate::Mlp) or [`Cnn`](crate::Cnn) with these sizes, if it has these layers.
    fn short(&self) -> Option<String> {
        let layers = &self.layers.0;
        let activation = layers.iter().find_map(|layer| match layer {
            Layer::Act(activation) => Some(*activation),
            _ => None,
        });
        let activation = activation.unwrap_or(Activation::Identity);
        let of_layers = layers.iter().zip(&self.groups).filter(|(layer, _)| has_width(layer));
        let shapes = of_layers.filter_map(|(_, group)| group.as_ref()?.weight.as_deref());
        let (convolutions, linears): (Vec<&[usize]>, Vec<&[usize]>) =
            shapes.partition(|shape| shape.len() == 4);
        let outputs = |shapes: &[&[usize]]| shapes.iter().map(|shape| shape[0]).collect::<Vec<_>>();
        let (channels, mut widths) = (outputs(&convolutions), outputs(&linears));
        let classes = widths.pop()?;
        let (text, own) = match convolutions.first() {
            None => {
                let inputs = linears[0][1];
                let config = MlpConfig { inputs, widths, classes, activation, ..Default::default() };
                (config.to_string(), config.layers())
            }
            Some(first) => {
                let pool = layers.iter().find_map(|layer| match layer {
                    Layer::MaxPool { window, .. } => Some(*window),
                    _ => None,
                });
                let (kernel, pool) = (first[2], pool.unwrap_or(1));
                let sizes = CnnConfig { channels, kernel, pool, widths, classes, ..Default::default() };
                let config = CnnConfig { activation, ..sizes };
                (config.to_string(), config.layers())
            }
        };
        (own == self.layers).then_some(text)
    }
}

/// Whether a layer's number of outputs matches its weights.
fn has_width(layer: &Layer) -> bool {
    matches!(layer, Layer::Conv { .. } | Layer::Linear)
}

fn slopes(layer: &str) -> candle_core::Error {
    let message = format!("layer '{layer}': the file has slopes, which only prelu has");
    Error::Argument(message).into()
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.short() {
            Some(text) => f.write_str(&text),
            None => self.layers.fmt(f),
        }
    }
}
