use std::collections::VecDeque;
use std::fmt;

use candle_core::Result;
use candle_nn::VarBuilder;
use taper_kernels::{Activation, Conv2dGeometry, Error};

use crate::arrange::arrange;
use crate::names::{Group, Kind, fault, groups};
use crate::network::{Network, Part};
use crate::sample::Sample;
use crate::{
    Act, BatchNorm1d, BatchNorm2d, BatchNormConfig, Conv2d, Conv2dConfig, Dropout, Init, Layer, Layers,
    Linear, LinearConfig,
};

/// A network as its [`Layers`] and the names and shapes of its tensors tell it, such as those of a file of weights.
///
/// Written as text it is `mlp 784-512-256-10`, `cnn 32-64-pool-128-10` or, without a hidden layer, `linear 784-10`, where it
/// is an [`Mlp`](crate::Mlp) or a [`Cnn`](crate::Cnn); any other is written as its layers.
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
    /// Of each of `layers` its tensors, if it has some.
    groups: Vec<Option<Group>>,
    names: Vec<(String, String)>,
    classes: usize,
}

impl Architecture {
    /// The network of these layers, whose tensors have these names and shapes, for images of shape `input`, `(C, H, W)`.
    ///
    /// The convolutions of `layers` take those of the file in the order of their names, and so do linear layers and batch
    /// normalisations: see [`layer_names`](crate::layer_names). A PReLU takes the `slope` of the layer in front of it, or in
    /// order a layer of its own with one weight, as in PyTorch.
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

    /// The arrangements of layers that fit these names and shapes, for images of shape `input`, with `activation` behind every
    /// layer but the last. Shapes do not say how a network pools; where several fit, somebody who knows has to choose.
    ///
    /// Those are tried whose convolutions all have stride 1 and the same padding, none or that which keeps the size, with
    /// max-pooling nowhere, behind each of them, or behind the last; with batch normalisation in front of all activations or
    /// behind all of them.
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
    /// When none fits; the message says why the simplest does not.
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

    /// The activation function that names and shapes tell: PReLU where there are slopes, the identity where there is but one
    /// layer and so none; `None` where they do not tell it.
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

    fn fit(layers: &Layers, groups: Vec<Group>, (c, h, w): (usize, usize, usize)) -> Result<Self> {
        let mut left: VecDeque<Group> = groups.into();
        let mut sample = Sample::Maps(c, h, w);
        let mut network = Self { layers: layers.clone(), groups: Vec::new(), names: Vec::new(), classes: 0 };
        let (mut convolutions, mut linears) = (0, 0);
        // The layer whose slope a PReLU may take.
        let mut slope = None;
        for (i, layer) in layers.0.iter().enumerate() {
            let mut take = |kind: Kind| match left.iter().position(|group| group.kind == kind) {
                Some(at) => Ok(left.remove(at)),
                None => fault(format!(
                    "layer {}, {layer}: expected its tensors in the file, found none left",
                    i + 1
                )),
            };
            let group = match layer {
                Layer::Conv { .. } => take(Kind::Conv)?,
                Layer::Linear => take(Kind::Linear)?,
                Layer::BatchNorm { .. } => take(Kind::Norm)?,
                Layer::Act(Activation::Prelu { .. }) => match slope.take() {
                    Some(group) => Some(group),
                    None => match left.iter().position(|group| group.kind == Kind::Slope) {
                        Some(at) => left.remove(at),
                        None => {
                            return fault(
                                "activation prelu: the file has no slopes, which prelu needs".to_string(),
                            );
                        }
                    },
                },
                _ => None,
            };
            sample = sample.behind(layer, group.as_ref())?;
            if let Some(group) =
                group.as_ref().filter(|_| matches!(layer, Layer::Conv { .. } | Layer::Linear))
            {
                let (kind, number) = match layer {
                    Layer::Linear => ("fc", &mut linears),
                    _ => ("conv", &mut convolutions),
                };
                *number += 1;
                network.names.push((format!("{kind}{number}"), group.name.clone()));
                if let Some(group) = slope.replace(group.clone()).filter(|group| group.slope.is_some()) {
                    return Err(slopes(&group.name));
                }
                slope = slope.filter(|group| group.slope.is_some());
            }
            network.groups.push(group);
        }
        if let Some(group) = slope {
            return Err(slopes(&group.name));
        }
        match (left.front(), sample) {
            (Some(group), _) if group.kind == Kind::Slope => Err(slopes(&group.name)),
            (Some(group), _) => {
                let shape = group.weight.as_deref().unwrap_or_default();
                fault(format!(
                    "tensor '{}.weight' {shape:?}: expected no more layers than {layers}",
                    group.name
                ))
            }
            (None, Sample::Features(classes)) if linears > 0 || convolutions > 0 => {
                Ok(Self { classes, ..network })
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

    /// Number of logits.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The model; it asks `vb` for parameters under the names of the file. The site behind the convolution `conv1` is called
    /// `conv1`; a second one behind it is `conv1-2`, and one in front of all layers `input`.
    ///
    /// # Errors
    /// When `vb` has no such parameters.
    pub fn build(&self, vb: VarBuilder<'static>) -> Result<Network> {
        let mut names = self.names.iter().map(|(own, _)| own);
        let mut site = ("input".to_string(), 0);
        let mut sample_has_maps = true;
        let mut parts = Vec::new();
        for (layer, group) in self.layers.0.iter().zip(&self.groups) {
            let own = group.as_ref().map(|group| vb.pp(&group.name));
            let (shape, bias) = group.as_ref().map_or((&[][..], false), |group| {
                (group.weight.as_deref().unwrap_or_default(), group.bias.is_some())
            });
            let init = Init::He;
            if matches!(layer, Layer::Conv { .. } | Layer::Linear) {
                site = (names.next().cloned().unwrap_or_default(), 0);
            }
            sample_has_maps &= !matches!(layer, Layer::Linear | Layer::GlobalAvgPool | Layer::Flatten);
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
                    match sample_has_maps {
                        true => Part::BatchNorm2d(BatchNorm2d::new(channels, config, vb)?),
                        false => Part::BatchNorm1d(BatchNorm1d::new(channels, config, vb)?),
                    }
                }
                (Layer::Act(activation), ..) => {
                    site.1 += 1;
                    let name = match &site {
                        (layer, 1) => layer.clone(),
                        (layer, n) => format!("{layer}-{n}"),
                    };
                    let theirs = group.as_ref().map_or(String::new(), |group| {
                        let part = if group.slope.is_some() { "slope" } else { "weight" };
                        format!("{}.{part}", group.name)
                    });
                    Part::Act(Act::new(activation, vb.clone().rename_f(move |_| theirs.clone()).pp(name))?)
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

    /// What it is as an [`Mlp`](crate::Mlp) or [`Cnn`](crate::Cnn), if it is one.
    fn short(&self) -> Option<String> {
        let mut rest = &self.layers.0[..];
        let has_width = |layer: &Layer| matches!(layer, Layer::Conv { .. } | Layer::Linear);
        let mut outputs = self.layers.0.iter().zip(&self.groups).filter(|(layer, _)| has_width(layer));
        let mut width = || Some(outputs.next()?.1.as_ref()?.weight.as_ref()?.first()?.to_string());
        let mut act = None;
        let mut same = |f: &Activation| act.get_or_insert(*f) == f;
        let (mut kernel, mut sizes) = (None, Vec::new());
        let plain = Conv2dGeometry::default();
        while let [Layer::Conv { kernel: k, geometry }, Layer::Act(f), more @ ..] = rest {
            if *kernel.get_or_insert(*k) != *k || k.0 != k.1 || *geometry != plain || !same(f) {
                return None;
            }
            sizes.push(width()?);
            rest = more;
        }
        let text = match (kernel, rest) {
            (Some(_), [Layer::MaxPool { window, stride }, more @ ..]) if window == stride => {
                rest = more;
                sizes.push(if *window == 2 { "pool".into() } else { format!("pool{window}") });
                "cnn"
            }
            (Some(_), _) => {
                sizes.push("pool1".into());
                "cnn"
            }
            (None, [Layer::Linear]) => "linear",
            (None, _) => "mlp",
        };
        if kernel.is_none() {
            let first = self.groups.iter().flatten().next()?;
            sizes.push(first.weight.as_ref()?.get(1)?.to_string());
        }
        loop {
            match rest {
                [Layer::Linear] => {
                    sizes.push(width()?);
                    break;
                }
                [Layer::Linear, Layer::Act(f), more @ ..] if same(f) => {
                    sizes.push(width()?);
                    rest = more;
                }
                _ => return None,
            }
        }
        let kernels = match kernel {
            Some((k, _)) if k != 3 => format!(", kernels {k}×{k}"),
            _ => String::new(),
        };
        Some(format!("{text} {}{kernels}", sizes.join("-")))
    }
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
