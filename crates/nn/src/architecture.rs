use std::fmt;

use candle_core::Result;
use candle_nn::VarBuilder;
use taper_kernels::Activation;

use crate::names::{Layer, Place, fault, layers};
use crate::{Cnn, CnnConfig, Mlp, MlpConfig, Model};

/// The [`Mlp`] or [`Cnn`] that a file of weights belongs to, as its tensors' names and shapes tell.
///
/// They tell sizes and order, but not the activation function, whose choice is left to [`Architecture::build`].
/// Written as text it is `mlp 784-512-256-10`, `cnn 32-64-pool-128-10` or, without a hidden layer, `linear 784-10`.
///
/// ```
/// use taper_nn::Architecture;
///
/// // A PyTorch `nn.Sequential` of two linear layers with something in between.
/// let tensors = [("0.weight", vec![64, 784]), ("0.bias", vec![64]), ("2.weight", vec![10, 64]), ("2.bias", vec![10])];
/// let network = Architecture::infer(tensors, (1, 28, 28))?;
/// assert_eq!(network.to_string(), "mlp 784-64-10");
/// assert_eq!(network.layers()[1], ("fc2".to_string(), "2".to_string()));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Channels, height and width of an image.
    input: (usize, usize, usize),
    channels: Vec<usize>,
    kernel: usize,
    pool: usize,
    /// Inputs of the first fully connected layer, then the outputs of each.
    sizes: Vec<usize>,
    learns_slopes: bool,
    layers: Vec<(String, String)>,
}

impl Architecture {
    /// The network whose tensors have these names and shapes, for images of shape `input`, `(C, H, W)`.
    ///
    /// Layers are called as [`layer_names`](crate::layer_names) says. Each has a `weight`, a `bias` and, for PReLU, a
    /// `slope`. Convolutions have square kernels of one size, no padding
    /// and stride 1, and are followed by one pooling window; where several windows fit, the smallest that
    /// divides the feature maps without rest is taken.
    ///
    /// # Errors
    /// When no [`Mlp`] or [`Cnn`] has these tensors; the message names one that does not fit.
    pub fn infer<N: AsRef<str>, S: AsRef<[usize]>>(
        tensors: impl IntoIterator<Item = (N, S)>,
        input: (usize, usize, usize),
    ) -> Result<Self> {
        let found = layers(tensors)?;
        let slopes = found.values().filter(|(_, layer)| layer.slope.is_some()).count();
        let mut network = Self {
            input,
            channels: Vec::new(),
            kernel: 0,
            pool: 1,
            sizes: Vec::new(),
            learns_slopes: slopes > 0,
            layers: Vec::new(),
        };
        let last = found.len();
        for (i, (place, (name, layer))) in found.into_iter().enumerate() {
            network.push(place, &name, &layer)?;
            let wanted = slopes > 0 && i + 1 < last;
            match &layer.slope {
                None if wanted => {
                    return fault(format!("expected a tensor '{name}.slope' beside the others"));
                }
                Some(shape) if !wanted || shape[..] != [1] => {
                    return fault(format!(
                        "tensor '{name}.slope': expected one value and a layer behind it, found {shape:?}"
                    ));
                }
                _ => {}
            }
        }
        match network.sizes.len() {
            0 => fault("expected a fully connected layer at the end, found none".to_string()),
            _ => Ok(network),
        }
    }

    /// Adds the next layer, if it fits those before it.
    fn push(&mut self, place: Place, name: &str, layer: &Layer) -> Result<()> {
        let part = |part: &str, of: &Option<Vec<usize>>| match of {
            Some(shape) => Ok(shape.clone()),
            None => fault(format!("layer '{name}': expected a tensor '{name}.{part}', found none")),
        };
        let (weight, bias) = (part("weight", &layer.weight)?, part("bias", &layer.bias)?);
        let misfit = |expected: String| {
            fault(format!("tensor '{name}.weight': expected {expected}, found shape {weight:?}"))
        };
        let outputs = weight.first().copied().unwrap_or(0);
        if bias != [outputs] {
            return fault(format!("tensor '{name}.bias': expected shape [{outputs}], found {bias:?}"));
        }
        let (kind, number) = match (weight.len(), self.sizes.is_empty()) {
            (4, true) => ("conv", self.channels.len() + 1),
            (2, _) => ("fc", self.sizes.len().max(1)),
            _ => {
                return misfit("a linear layer, or a convolution in front of all linear layers".to_string());
            }
        };
        let named = match place {
            Place::Convolution(n) => ("conv", n),
            Place::Linear(n) => ("fc", n),
            Place::Number(_) | Place::Last => (kind, number as u64),
        };
        if named != (kind, number as u64) {
            return misfit(format!("'{kind}{number}' to come next"));
        }
        let (channels, h, w) = self.output();
        match weight[..] {
            [out, maps, kernel, other] => {
                if maps != channels {
                    return misfit(format!("{channels} input channels"));
                }
                if kernel != other || self.kernel != 0 && kernel != self.kernel {
                    return misfit("square kernels of one size".to_string());
                }
                if kernel > h.min(w) {
                    return misfit(format!("kernels that fit an input of {h}×{w}"));
                }
                self.kernel = kernel;
                self.channels.push(out);
            }
            [out, inputs] => {
                match self.sizes.last() {
                    Some(&before) if before != inputs => return misfit(format!("{before} inputs")),
                    Some(_) => {}
                    None => {
                        // As sizes come from a file, their product may be too large for any integer.
                        let values = |h: usize, w: usize| channels.checked_mul(h)?.checked_mul(w);
                        let fits = |p: &usize| values(h / p, w / p) == Some(inputs);
                        let windows = if self.channels.is_empty() { 1..=1 } else { 1..=h.min(w) };
                        let even = |p: &usize| h.is_multiple_of(*p) && w.is_multiple_of(*p);
                        let pool =
                            windows.clone().find(|p| fits(p) && even(p)).or(windows.clone().find(fits));
                        let Some(pool) = pool else {
                            let pooled = if self.channels.is_empty() {
                                ""
                            } else {
                                ", or what pooling leaves of them"
                            };
                            let product = values(h, w).map_or(String::new(), |n| format!(" = {n}"));
                            return misfit(format!("{channels}×{h}×{w}{product} inputs{pooled}"));
                        };
                        self.pool = pool;
                        self.sizes.push(inputs);
                    }
                }
                self.sizes.push(out);
            }
            _ => {}
        }
        self.layers.push((format!("{kind}{number}"), name.to_string()));
        Ok(())
    }

    /// Shape behind the last convolution, `(C, H, W)`.
    fn output(&self) -> (usize, usize, usize) {
        let lost = self.channels.len() * self.kernel.saturating_sub(1);
        (*self.channels.last().unwrap_or(&self.input.0), self.input.1 - lost, self.input.2 - lost)
    }

    /// A pooling window behind each convolution that would fit the file's sizes as well as the one behind all of them that is
    /// assumed: names and shapes do not tell which of both the network has. [`Cnn`] has the latter alone.
    pub fn also_fits_pooling_between(&self) -> Option<usize> {
        let (_, h, w) = self.input;
        let inputs = |pool: usize| {
            let side = |side: usize| {
                self.channels
                    .iter()
                    .try_fold(side, |n, _| Some(n.checked_sub(self.kernel.checked_sub(1)?)? / pool))
            };
            side(h)?.checked_mul(side(w)?)?.checked_mul(*self.channels.last()?)
        };
        let fits = |pool: &usize| inputs(*pool).is_some_and(|n| self.sizes.first() == Some(&n));
        (2..=h.min(w)).find(|pool| self.channels.len() > 1 && fits(pool))
    }

    /// Number of logits.
    pub fn classes(&self) -> usize {
        self.sizes.last().copied().unwrap_or(0)
    }

    /// Whether the file has slopes of PReLUs, so that no other activation is possible.
    pub fn learns_slopes(&self) -> bool {
        self.learns_slopes
    }

    /// Every layer's name in the model, which is that of its site, and in the file.
    pub fn layers(&self) -> &[(String, String)] {
        &self.layers
    }

    /// The model, with `activation` behind every layer but the last; it asks `vb` for parameters under the names
    /// of the file.
    ///
    /// # Errors
    /// When `vb` has no such parameters, or `activation` contradicts [`Architecture::learns_slopes`].
    pub fn build(
        &self,
        activation: Activation,
        vb: VarBuilder<'static>,
    ) -> Result<Box<dyn Model + Send + Sync>> {
        if self.learns_slopes != matches!(activation, Activation::Prelu { .. }) && !self.has_no_activation() {
            let slopes =
                if self.learns_slopes { "slopes, as only prelu has" } else { "no slopes, which prelu needs" };
            return fault(format!("activation {activation}: the file has {slopes}"));
        }
        let layers = self.layers.clone();
        let vb = vb.rename_f(move |own| {
            let theirs = own.rsplit_once('.').and_then(|(layer, part)| {
                let (_, name) = layers.iter().find(|(own, _)| own == layer)?;
                Some(format!("{name}.{part}"))
            });
            theirs.unwrap_or_else(|| own.to_string())
        });
        let [inputs, widths @ .., classes] = &self.sizes[..] else {
            return fault("expected a fully connected layer".to_string());
        };
        let (widths, classes) = (widths.to_vec(), *classes);
        Ok(match self.channels.is_empty() {
            true => {
                let config = MlpConfig { inputs: *inputs, widths, classes, activation, ..Default::default() };
                Box::new(Mlp::new(&config, vb)?)
            }
            false => {
                let (input, channels) = (self.input, self.channels.clone());
                let (kernel, pool) = (self.kernel, self.pool);
                let config = CnnConfig {
                    input,
                    channels,
                    kernel,
                    pool,
                    widths,
                    classes,
                    activation,
                    ..Default::default()
                };
                Box::new(Cnn::new(&config, vb)?)
            }
        })
    }

    /// Whether no activation is anywhere.
    fn has_no_activation(&self) -> bool {
        self.layers.len() == 1
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |sizes: &[usize]| sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("-");
        let (channels, sizes) = (join(&self.channels), &self.sizes);
        match (self.channels.is_empty(), sizes.len()) {
            (true, 2) => write!(f, "linear {}", join(sizes)),
            (true, _) => write!(f, "mlp {}", join(sizes)),
            (false, _) => {
                let pool = if self.pool == 2 { String::new() } else { self.pool.to_string() };
                let sizes = join(sizes.get(1..).unwrap_or_default());
                write!(f, "cnn {channels}-pool{pool}-{sizes}")?;
                if self.kernel != 3 {
                    write!(f, ", kernels {0}×{0}", self.kernel)?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Params;
    use candle_core::Device;

    type Tensors = Vec<(String, Vec<usize>)>;

    fn tensors(layers: &[(&str, &[usize])]) -> Tensors {
        let both = |(name, weight): &(&str, &[usize])| {
            [(format!("{name}.weight"), weight.to_vec()), (format!("{name}.bias"), vec![weight[0]])]
        };
        layers.iter().flat_map(both).collect()
    }

    fn infer(layers: &[(&str, &[usize])]) -> Result<Architecture> {
        Architecture::infer(tensors(layers), (1, 28, 28))
    }

    fn error(layers: &[(&str, &[usize])]) -> String {
        infer(layers).unwrap_err().to_string()
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
                            channels,
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
                let network = Architecture::infer(shapes(&params), input).unwrap();
                let again = Params::new(2, &Device::Cpu);
                network.build(activation, again.builder()).map(drop).unwrap();
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
        network.build(Activation::Tanh, params.builder()).map(drop).unwrap();
        assert_eq!(params.names()[18], "net.10.weight");
        let cnn = infer(&[("0", &[8, 1, 5, 5]), ("4", &[32, 8 * 12 * 12]), ("6", &[10, 32])]).unwrap();
        assert_eq!(cnn.to_string(), "cnn 8-pool-32-10, kernels 5×5");
        assert_eq!(cnn.layers()[1], ("fc1".to_string(), "4".to_string()));
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
            let names: Vec<_> = network.layers().iter().map(|(_, theirs)| theirs.as_str()).collect();
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
    fn a_batch_normalisation_is_named() {
        let tensors = [("2.num_batches_tracked", vec![]), ("0.weight", vec![8, 784])];
        let error = Architecture::infer(tensors, (1, 28, 28)).unwrap_err().to_string();
        assert!(error.contains("batch normalisation '2'"), "{error}");
    }

    #[test]
    fn pooling_behind_each_convolution_is_named_where_it_fits_too() {
        let pools = |layers: &[(&str, &[usize])]| infer(layers).unwrap().also_fits_pooling_between();
        let between: [(&str, &[usize]); 3] =
            [("conv1", &[4, 1, 5, 5]), ("conv2", &[6, 4, 5, 5]), ("fc1", &[10, 96])];
        assert_eq!(pools(&between), Some(2));
        assert_eq!(pools(&[("conv1", &[3, 1, 3, 3]), ("conv2", &[4, 3, 3, 3]), ("fc1", &[10, 576])]), None);
        assert_eq!(pools(&[("conv1", &[3, 1, 3, 3]), ("fc1", &[10, 3 * 13 * 13])]), None);
        assert_eq!(pools(&[("fc1", &[10, 784])]), None);
    }

    #[test]
    fn what_is_no_such_network_is_answered_with_the_tensor_that_does_not_fit() {
        assert!(error(&[]).contains("found none"));
        assert!(error(&[("encoder.attention", &[8, 784])]).contains("'encoder.attention.weight'"));
        assert!(error(&[("fc1", &[8, 100])]).contains("expected 1×28×28 = 784 inputs, found shape [8, 100]"));
        assert!(error(&[("fc1", &[8, 784]), ("fc2", &[10, 9])]).contains("expected 8 inputs"));
        assert!(
            error(&[("fc1", &[8, 784]), ("fc3", &[10, 8])]).contains("'fc3.weight': expected 'fc2' to come")
        );
        assert!(error(&[("fc2", &[8, 784])]).contains("'fc1' to come next"));
        assert!(error(&[("fc01", &[8, 784])]).contains("'fc01.weight'"));
        assert!(error(&[("conv1", &[8, 3, 3, 3])]).contains("1 input channels"));
        assert!(error(&[("conv1", &[8, 1, 3, 5])]).contains("square"));
        assert!(error(&[("conv1", &[8, 1, 29, 29])]).contains("fit an input of 28×28"));
        assert!(error(&[("conv1", &[8, 1, 3, 3])]).contains("fully connected layer at the end"));
        assert!(error(&[("0", &[8, 784]), ("1", &[8])]).contains("'1.weight'"));
        assert!(error(&[("0", &[8, 784]), ("1", &[4, 8, 3, 3])]).contains("in front of"));
        assert!(error(&[("fc1", &[0, 784])]).contains("at least 1"));
        assert!(error(&[("a.fc1", &[8, 784]), ("b.fc2", &[10, 8])]).contains("prefix"));
        let infer = |tensors: &[(&str, Vec<usize>)]| Architecture::infer(tensors.to_vec(), (1, 28, 28));
        assert!(
            infer(&[("fc1.weight", vec![8, 784])])
                .unwrap_err()
                .to_string()
                .contains("'fc1.bias', found none")
        );
        assert!(infer(&[("fc1.weight", vec![]), ("fc1.bias", vec![])]).is_err());
        assert!(infer(&[("fc1", vec![8, 784])]).is_err());
    }
}
