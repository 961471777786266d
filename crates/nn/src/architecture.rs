use std::collections::VecDeque;
use std::fmt;

use candle_core::Result;
use candle_nn::VarBuilder;
use taper_kernels::{Activation, Conv2dGeometry, Error};

use crate::arrange::arrange;
use crate::names::{Group, Kind, fault, groups};
use crate::network::{Network, Part};
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

/// The shape of one sample between two layers.
#[derive(Clone, Copy)]
enum Sample {
    /// Channels, height and width.
    Maps(usize, usize, usize),
    Features(usize),
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

impl Sample {
    /// The shape behind a layer with these tensors.
    fn behind(self, layer: &Layer, group: Option<&Group>) -> Result<Self> {
        let name = group.map_or("", |group| group.name.as_str());
        let shape = group.and_then(|group| group.weight.as_deref()).unwrap_or_default();
        let misfit = |expected: String| {
            fault(format!("tensor '{name}.weight': expected {expected}, found shape {shape:?}"))
        };
        if let Some(bias) = group.and_then(|group| group.bias.as_ref())
            && bias[..] != shape[..1]
        {
            return fault(format!("tensor '{name}.bias': expected shape [{}], found {bias:?}", shape[0]));
        }
        let windows = |(h, w): (usize, usize), (rows, columns): (usize, usize), stride: usize| {
            if h < rows || w < columns {
                return fault(format!(
                    "{layer}: expected at least {rows}×{columns} pixels in front of it, found {h}×{w}"
                ));
            }
            Ok(((h - rows) / stride + 1, (w - columns) / stride + 1))
        };
        Ok(match (self, layer, shape) {
            (Self::Maps(c, h, w), Layer::Conv { kernel, geometry }, &[outputs, inputs, rows, columns]) => {
                if inputs != c {
                    return misfit(format!("{c} input channels"));
                }
                if (rows, columns) != *kernel {
                    return misfit(format!("kernels of {}×{}", kernel.0, kernel.1));
                }
                let around = 2 * geometry.padding;
                let (h, w) = windows((h + around, w + around), *kernel, geometry.stride)?;
                Self::Maps(outputs, h, w)
            }
            (_, Layer::Linear, &[outputs, inputs]) => {
                // As sizes come from a file, their product may be too large for any integer.
                let (values, text) = match self {
                    Self::Features(n) => (Some(n), n.to_string()),
                    Self::Maps(c, h, w) => {
                        let values = c.checked_mul(h).and_then(|n| n.checked_mul(w));
                        (
                            values,
                            format!("{c}×{h}×{w} = {}", values.map_or("too many".into(), |n| n.to_string())),
                        )
                    }
                };
                if values != Some(inputs) {
                    return misfit(format!("{text} inputs"));
                }
                Self::Features(outputs)
            }
            (Self::Maps(c, ..) | Self::Features(c), Layer::BatchNorm { .. }, &[channels]) => {
                if channels != c {
                    return misfit(format!("{c} channels"));
                }
                self
            }
            (_, Layer::Act(Activation::Prelu { .. }), _) => {
                let slope = group.and_then(|group| group.slope.as_deref()).unwrap_or(shape);
                if slope != [1] {
                    return fault(format!("layer '{name}': expected one slope, found {slope:?}"));
                }
                self
            }
            (
                Self::Maps(c, h, w),
                Layer::MaxPool { window, stride } | Layer::AvgPool { window, stride },
                _,
            ) => {
                let (h, w) = windows((h, w), (*window, *window), *stride)?;
                Self::Maps(c, h, w)
            }
            (Self::Maps(c, ..), Layer::GlobalAvgPool, _) => Self::Features(c),
            (Self::Maps(c, h, w), Layer::Flatten, _) => match c.checked_mul(h).and_then(|n| n.checked_mul(w))
            {
                Some(n) => Self::Features(n),
                None => return fault(format!("flatten: {c}×{h}×{w} are too many values")),
            },
            (_, Layer::Dropout { .. } | Layer::Act(_) | Layer::Flatten, _) => self,
            _ => return fault(format!("{layer}: expected maps in front of it, found features")),
        })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Cnn, CnnConfig, Mlp, MlpConfig, Model, Params};
    use candle_core::Device;

    type Tensors = Vec<(String, Vec<usize>)>;

    fn tensors(layers: &[(&str, &[usize])]) -> Tensors {
        let both = |(name, weight): &(&str, &[usize])| {
            [(format!("{name}.weight"), weight.to_vec()), (format!("{name}.bias"), vec![weight[0]])]
        };
        layers.iter().flat_map(both).collect()
    }

    const INPUT: (usize, usize, usize) = (1, 28, 28);

    /// The only arrangement.
    fn infer(layers: &[(&str, &[usize])]) -> Result<Architecture> {
        let mut found = Architecture::arrangements(tensors(layers), INPUT, Activation::Relu)?;
        assert_eq!(found.len(), 1, "{layers:?}");
        Ok(found.remove(0))
    }

    fn arrangements(layers: &[(&str, &[usize])]) -> Vec<String> {
        let found = Architecture::arrangements(tensors(layers), INPUT, Activation::Relu).unwrap();
        found.iter().map(|network| network.layers().to_string()).collect()
    }

    fn error(layers: &[(&str, &[usize])]) -> String {
        Architecture::arrangements(tensors(layers), INPUT, Activation::Relu).unwrap_err().to_string()
    }

    #[test]
    fn what_a_model_is_made_of_gives_the_model_back() {
        for activation in [Activation::Relu, Activation::Prelu { slope: 0.25 }] {
            for (channels, kernel, pool, widths) in [
                (vec![], 3, 2, vec![]),
                (vec![], 3, 2, vec![30, 20]),
                (vec![8, 16], 3, 2, vec![32]),
                (vec![4], 5, 1, vec![]),
                (vec![4, 4, 4], 3, 11, vec![9; 11]),
            ] {
                let params = Params::new(1, &Device::Cpu);
                let (input, classes) = ((1, 28, 28), 10);
                match channels.is_empty() {
                    true => {
                        let config = MlpConfig { widths, activation, ..Default::default() };
                        Mlp::new(&config, params.builder()).map(drop).unwrap();
                    }
                    false => {
                        let config = CnnConfig {
                            input,
                            channels: channels.clone(),
                            kernel,
                            pool,
                            widths,
                            classes,
                            activation,
                            init: None,
                            dropout: 0.0,
                        };
                        Cnn::new(&config, params.builder()).map(drop).unwrap();
                    }
                }
                let shapes = |params: &Params| -> Tensors {
                    params.vars().into_iter().map(|(name, var)| (name, var.dims().to_vec())).collect()
                };
                let found = Architecture::arrangements(shapes(&params), input, activation).unwrap();
                let text = match (&channels[..], kernel, pool) {
                    ([], ..) => "",
                    ([8, 16], ..) => "cnn 8-16-pool-32-10",
                    ([4], ..) => "cnn 4-pool1-10, kernels 5×5",
                    _ => "cnn 4-4-4-pool11-9-9-9-9-9-9-9-9-9-9-9-10",
                };
                let is_it = |network: &&Architecture| text.is_empty() || network.to_string() == text;
                let network = found.iter().find(is_it).unwrap();
                let again = Params::new(2, &Device::Cpu);
                network.build(again.builder()).map(drop).unwrap();
                assert_eq!(shapes(&again), shapes(&params), "{network}");
            }
        }
    }

    #[test]
    fn numbers_and_prefixes_are_names_too_and_ten_comes_after_nine() {
        let mut layers: Vec<(String, Vec<usize>)> =
            (1..=10).map(|i| (format!("net.{i}"), vec![5, 5])).collect();
        layers[0].1 = vec![5, 784];
        layers[9].1 = vec![10, 5];
        let layers: Vec<(&str, &[usize])> = layers.iter().map(|(n, s)| (&n[..], &s[..])).collect();
        let network = infer(&layers).unwrap();
        assert_eq!(network.to_string(), "mlp 784-5-5-5-5-5-5-5-5-5-10");
        let params = Params::new(1, &Device::Cpu);
        network.build(params.builder()).map(drop).unwrap();
        assert_eq!(params.names()[18], "net.10.weight");
        let cnn = infer(&[("0", &[8, 1, 5, 5]), ("4", &[32, 8 * 12 * 12]), ("6", &[10, 32])]).unwrap();
        assert_eq!(cnn.to_string(), "cnn 8-pool-32-10, kernels 5×5");
        assert_eq!(cnn.names()[1], ("fc1".to_string(), "4".to_string()));
    }

    #[test]
    fn names_of_other_programs_are_layers_in_order() {
        for (first, second) in [
            ("fc1", "fc2"),
            ("linear1", "linear2"),
            ("ln1", "ln2"),
            ("m.fc1", "m.fc"),
            ("fc1", "out"),
            ("0", "3"),
        ] {
            let network = infer(&[(second, &[10, 8]), (first, &[8, 784])]).unwrap();
            let names: Vec<_> = network.names().iter().map(|(_, theirs)| theirs.as_str()).collect();
            assert_eq!((network.to_string().as_str(), &names[..]), ("mlp 784-8-10", &[first, second][..]));
            let file = tensors(&[(second, &[10, 8]), (first, &[8, 784])]);
            let own = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"].map(String::from);
            assert_eq!(crate::own_names(&file, &own), ["fc2.weight", "fc2.bias", "fc1.weight", "fc1.bias"]);
        }
        // A wrapper around any model; where names fit as they are, they stay.
        let file = tensors(&[("module._orig_mod.encoder.up", &[4, 4])]);
        assert_eq!(crate::own_names(&file, &["encoder.up.weight".into()])[0], "encoder.up.weight");
        let file = tensors(&[("0", &[4, 4]), ("2", &[4, 4])]);
        assert_eq!(crate::own_names(&file, &["0.weight".into()])[0], "0.weight");
        assert!(error(&[("fc1", &[8, 784]), ("linear1", &[10, 8])]).contains("'fc1' there too"));
    }

    #[test]
    fn batch_normalisation_may_be_on_either_side_of_the_activation() {
        let tensors = [
            ("2.num_batches_tracked", vec![]),
            ("2.running_mean", vec![8]),
            ("2.running_var", vec![8]),
            ("2.weight", vec![8]),
            ("2.bias", vec![8]),
            ("1.weight", vec![8, 784]),
            ("4.weight", vec![10, 8]),
            ("4.bias", vec![10]),
        ];
        let found = Architecture::arrangements(tensors.clone(), INPUT, Activation::Relu).unwrap();
        let texts: Vec<String> = found.iter().map(|network| network.layers().to_string()).collect();
        assert_eq!(texts, ["linear, batch_norm, relu, linear", "linear, relu, batch_norm, linear"]);
        let params = Params::new(1, &Device::Cpu);
        found[0].build(params.builder()).map(drop).unwrap();
        // A layer without a bias in the file has none here.
        assert_eq!(params.names(), ["1.weight", "2.weight", "2.bias", "4.weight", "4.bias"]);
        let without = Architecture::new(&"linear, relu, linear".parse().unwrap(), tensors, INPUT);
        assert!(without.unwrap_err().to_string().contains("'2.weight' [8]: expected no more layers"));
    }

    #[test]
    fn of_several_arrangements_that_fit_none_is_left_out() {
        let between: [(&str, &[usize]); 3] =
            [("conv1", &[4, 1, 5, 5]), ("conv2", &[6, 4, 5, 5]), ("fc1", &[10, 96])];
        assert_eq!(
            arrangements(&between),
            [
                "conv 5, relu, conv 5, relu, max_pool 5, linear",
                "conv 5 pad 2, relu, conv 5 pad 2, relu, max_pool 6, linear",
                "conv 5 pad 2, relu, conv 5 pad 2, relu, max_pool 7, linear",
                "conv 5, relu, max_pool 2, conv 5, relu, max_pool 2, linear",
            ]
        );
        let behind: [(&str, &[usize]); 3] =
            [("conv1", &[3, 1, 3, 3]), ("conv2", &[4, 3, 3, 3]), ("fc1", &[10, 576])];
        assert_eq!(arrangements(&behind), ["conv 3, relu, conv 3, relu, max_pool 2, linear"]);
    }

    #[test]
    fn layers_that_are_given_take_the_files_tensors_in_order() {
        let layers = "conv 5 pad 2, relu, max_pool 2, conv 3x5 stride 2, relu, global_avg_pool, dropout 0.5, linear, relu, linear";
        let file = tensors(&[
            ("features.10", &[6, 4, 3, 5]),
            ("features.2", &[4, 1, 5, 5]),
            ("classifier.1", &[10, 7]),
            ("classifier.0", &[7, 6]),
        ]);
        let network = Architecture::new(&layers.parse().unwrap(), file, INPUT).unwrap();
        assert_eq!((network.to_string().as_str(), network.classes()), (layers, 10));
        let names: Vec<&str> = network.names().iter().map(|(_, theirs)| theirs.as_str()).collect();
        assert_eq!(names, ["features.2", "features.10", "classifier.0", "classifier.1"]);
        let params = Params::new(1, &Device::Cpu);
        let model = network.build(params.builder()).unwrap();
        let mut recorder = taper_hooks::Recorder::new();
        let xs = candle_core::Tensor::ones((2, 1, 28, 28), candle_core::DType::F32, &Device::Cpu).unwrap();
        let ys = model.forward(&mut taper_hooks::Pass::eval(&mut recorder), &xs).unwrap();
        let sites: Vec<String> = recorder.finish().iter().map(|layer| layer.site.clone()).collect();
        assert_eq!((ys.dims(), sites), (&[2, 10][..], ["conv1", "conv2", "fc1"].map(String::from).to_vec()));
    }

    #[test]
    fn layers_that_do_not_fit_are_answered_with_the_tensor_or_the_layer() {
        let file = || tensors(&[("conv1", &[4, 1, 5, 5]), ("fc1", &[10, 4 * 14 * 14])]);
        for (layers, says) in [
            ("conv 3, relu, linear", "'conv1.weight': expected kernels of 3×3"),
            (
                "conv 5, relu, max_pool 2, linear",
                "'fc1.weight': expected 4×12×12 = 576 inputs, found shape [10, 784]",
            ),
            ("conv 5 pad 2, relu, max_pool 29, linear", "max_pool 29: expected at least 29×29 pixels"),
            ("linear, conv 5", "conv 5: expected maps in front of it"),
            ("conv 5 pad 2, relu, max_pool 2", "expected no more layers"),
            ("conv 5 pad 2, relu, max_pool 2, linear, relu, linear", "layer 6, linear: expected its tensors"),
            ("conv 5 pad 2, flatten, max_pool 2, linear", "max_pool 2: expected maps in front of it"),
            ("conv 5 pad 2, prelu, max_pool 2, linear", "no slopes"),
        ] {
            let error = Architecture::new(&layers.parse().unwrap(), file(), INPUT).unwrap_err().to_string();
            assert!(error.contains(says), "{layers}: {error}");
        }
        let slopes: Tensors =
            [tensors(&[("0", &[8, 784]), ("2", &[10, 8])]), vec![("1.weight".into(), vec![1])]].concat();
        let prelu =
            Architecture::new(&"linear, prelu, linear".parse().unwrap(), slopes.clone(), INPUT).unwrap();
        let params = Params::new(1, &Device::Cpu);
        prelu.build(params.builder()).map(drop).unwrap();
        assert_eq!(params.names()[2], "1.weight");
        let error =
            Architecture::new(&"linear, relu, linear".parse().unwrap(), slopes.clone(), INPUT).unwrap_err();
        assert!(error.to_string().contains("'1': the file has slopes"), "{error}");
        assert_eq!(Architecture::activation(slopes).unwrap(), Some(Activation::Prelu { slope: 0.25 }));
        assert_eq!(Architecture::activation(file()).unwrap(), None);
        assert_eq!(
            Architecture::activation(tensors(&[("fc", &[10, 784])])).unwrap(),
            Some(Activation::Identity)
        );
    }

    #[test]
    fn what_is_no_such_network_is_answered_with_the_tensor_that_does_not_fit() {
        assert!(error(&[]).contains("found none"));
        assert!(error(&[("encoder", &[8, 784]), ("fc2", &[10, 8])]).contains("'encoder' there too"));
        assert!(error(&[("fc1", &[8, 100])]).contains("expected 1×28×28 = 784 inputs, found shape [8, 100]"));
        assert!(error(&[("fc1", &[8, 784]), ("fc2", &[10, 9])]).contains("expected 8 inputs"));
        assert!(
            error(&[("fc1", &[8, 784]), ("fc3", &[10, 8])]).contains("'fc3.weight': expected 'fc2' to come")
        );
        assert!(error(&[("fc2", &[8, 784])]).contains("'fc1' to come next"));
        assert!(error(&[("conv1", &[8, 3, 3, 3]), ("fc1", &[10, 8])]).contains("1 input channels"));
        assert!(error(&[("conv1", &[8, 1, 30, 30]), ("fc1", &[10, 8])]).contains("at least 30×30 pixels"));
        assert!(error(&[("conv1", &[8, 1, 3, 3])]).contains("fully connected layer at the end"));
        assert!(error(&[("0", &[8, 784]), ("1", &[8])]).contains("'1.weight'"));
        assert!(error(&[("fc1", &[0, 784])]).contains("at least 1"));
        assert!(error(&[("a.fc1", &[8, 784]), ("b.fc2", &[10, 8])]).contains("in order"));
        assert!(error(&[("fc", &[8, 784]), ("out", &[10, 8])]).contains("in order"));
        let infer = |tensors: &[(&str, Vec<usize>)]| {
            Architecture::arrangements(tensors.to_vec(), INPUT, Activation::Relu).map_err(|e| e.to_string())
        };
        assert!(infer(&[("fc1.bias", vec![8])]).unwrap_err().contains("'fc1.weight', found none"));
        assert!(
            infer(&[("fc1.weight", vec![8, 784]), ("fc1.bias", vec![7])])
                .unwrap_err()
                .contains("[8], found [7]")
        );
        assert!(infer(&[("fc1.weight", vec![]), ("fc1.bias", vec![])]).is_err());
        assert!(infer(&[("fc1", vec![8, 784])]).is_err());
    }
}
