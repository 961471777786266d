use std::collections::BTreeMap;

use candle_core::Result;
use taper_kernels::Error;

/// The layers with their names in this crate's models and in a file with tensors of these names and shapes, in the
/// order of the network: `("conv1", "features.0")`, `("fc1", "features.3")`.
///
/// Convolutions have the names `conv1`, `conv2`, … and linear layers `fc1`, `fc2`, …. In the file a name is a word and
/// ascending numbers (`fc1`, `linear2`, `l3`), a number, as in PyTorch's `nn.Sequential`, or several of these
/// (`features.0`, `layer1.0`, `classifier.2`). The last linear layer needs no number: `fc`, `linear`, `out`, `output`,
/// `head` or `classifier`.
///
/// # Errors
/// When a tensor does not belong to such a layer, a batch normalisation or a PReLU, or the names give no order; the
/// message names it.
pub fn layer_names<N: AsRef<str>, S: AsRef<[usize]>>(
    tensors: impl IntoIterator<Item = (N, S)>,
) -> Result<Vec<(String, String)>> {
    Ok(own_and_theirs(&groups(tensors)?))
}

/// As [`layer_names`].
pub(crate) fn own_and_theirs(groups: &[LayerTensors]) -> Vec<(String, String)> {
    let (mut convolutions, mut linears) = (0, 0);
    let number = |group: &LayerTensors| {
        let (kind, number) = match group.kind {
            Kind::Conv => ("conv", &mut convolutions),
            Kind::Linear => ("fc", &mut linears),
            _ => return None,
        };
        *number += 1;
        Some((format!("{kind}{number}"), group.name.clone()))
    };
    groups.iter().filter_map(number).collect()
}

/// Maps every tensor of a file to a name in a model with the names `own`: unchanged; without `module.` and
/// `_orig_mod.`, the prefixes of PyTorch's wrappers; or by [`layer_names`]. The mapping that finds the most names is
/// used, the first of equals.
pub fn own_names(file: &[(String, Vec<usize>)], own: &[String]) -> Vec<String> {
    let plain: Vec<String> = file.iter().map(|(name, _)| name.clone()).collect();
    let mut bare = plain.clone();
    for wrapper in ["module.", "_orig_mod."].into_iter().cycle().take(4) {
        let stripped = |name: &String| name.strip_prefix(wrapper).map(str::to_string);
        bare = bare.iter().map(stripped).collect::<Option<_>>().unwrap_or(bare);
    }
    let mut ways = vec![plain, bare];
    if let Ok(layers) = layer_names(file.iter().map(|(name, shape)| (name, shape))) {
        let renamed = |(name, _): &(String, Vec<usize>)| {
            let (layer, part) = name.rsplit_once('.')?;
            let (own, _) = layers.iter().find(|(_, theirs)| theirs == layer)?;
            Some(format!("{own}.{part}"))
        };
        ways.extend(file.iter().map(renamed).collect::<Option<Vec<_>>>());
    }
    let known = |names: &Vec<String>| names.iter().filter(|name| own.contains(name)).count();
    // `max_by_key` returns the last of equals.
    ways.into_iter().rev().max_by_key(known).unwrap_or_default()
}

/// The tensors of a file that belong to one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LayerTensors {
    /// Its name in the file.
    pub name: String,
    pub kind: Kind,
    pub weight: Option<Vec<usize>>,
    pub bias: Option<Vec<usize>>,
    pub slope: Option<Vec<usize>>,
    /// Whether there are running statistics.
    is_norm: bool,
}

/// The kind of a layer, from its shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    #[default]
    Conv,
    Linear,
    Norm,
    /// A PReLU as its own layer, as in PyTorch.
    Slope,
}

/// The layers of a file, those of each kind in their order.
pub(crate) fn groups<N: AsRef<str>, S: AsRef<[usize]>>(
    tensors: impl IntoIterator<Item = (N, S)>,
) -> Result<Vec<LayerTensors>> {
    let mut found: BTreeMap<String, LayerTensors> = BTreeMap::new();
    for (name, shape) in tensors {
        let (name, shape) = (name.as_ref(), shape.as_ref().to_vec());
        // From here names can be printed in messages and tables.
        if name.len() > 256 || name.chars().any(char::is_control) {
            let start: String = name.chars().take(32).collect();
            return fault(format!(
                "tensor '{}…': expected a name of at most 256 bytes without control characters",
                start.escape_debug()
            ));
        }
        let Some((layer, part)) = name.rsplit_once('.') else { return unknown(name) };
        if shape.contains(&0) {
            return fault(format!("tensor '{name}': expected sizes of at least 1, found {shape:?}"));
        }
        let group = found.entry(layer.to_string()).or_default();
        match part {
            "weight" => group.weight = Some(shape),
            "bias" => group.bias = Some(shape),
            "slope" => group.slope = Some(shape),
            "running_mean" | "running_var" | "num_batches_tracked" => group.is_norm = true,
            // Without k-winners the network would compute other values.
            "duty_cycle" | "samples_tracked" => {
                return fault(format!(
                    "tensor '{name}': expected a network without k-winners, which layers cannot describe, found a \
                     buffer of KWinners: build the model in your own program"
                ));
            }
            _ => return unknown(name),
        }
    }
    let named = |(name, group): (String, LayerTensors)| {
        let Some(weight) = &group.weight else {
            return fault(format!("layer '{name}': expected a tensor '{name}.weight', found none"));
        };
        let kind = match (weight.len(), group.is_norm, &group.bias) {
            (1, true, _) => Kind::Norm,
            (4, false, _) => Kind::Conv,
            (2, false, _) => Kind::Linear,
            (1, false, None) => Kind::Slope,
            _ => {
                return fault(format!(
                    "tensor '{name}.weight': expected a linear layer, a convolution, batch normalisation or one slope, \
                     found shape {weight:?}"
                ));
            }
        };
        Ok(LayerTensors { name, kind, ..group })
    };
    let mut groups: Vec<LayerTensors> = found.into_iter().map(named).collect::<Result<_>>()?;
    groups.sort_by_cached_key(|group| (group.kind, is_last(&group.name), place(&group.name)));
    for pair in groups.windows(2).filter(|pair| pair[0].kind == pair[1].kind) {
        let [one, other] = [&pair[0].name, &pair[1].name];
        let words = |name: &str| place(name).into_iter().map(|(word, _)| word).collect::<Vec<_>>();
        let is_in_order = match is_last(other) {
            true => !is_last(one),
            false => words(one) == words(other),
        };
        if !is_in_order {
            return fault(format!(
                "tensor '{other}.weight': expected layers that numbers put in order, found '{one}' there too"
            ));
        }
    }
    Ok(groups)
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether a layer comes after those with numbers.
fn is_last(name: &str) -> bool {
    ["fc", "linear", "out", "output", "head", "classifier"].contains(&last(name))
}

/// The sort key of a name: the word and the number of every part of its path, so that 10 comes after 9.
pub(crate) fn place(name: &str) -> Vec<(String, u64)> {
    let part = |part: &str| {
        let word = part.trim_end_matches(|c: char| c.is_ascii_digit());
        (word.to_string(), part[word.len()..].parse().unwrap_or(0))
    };
    name.split('.').map(part).collect()
}

fn unknown<T>(name: &str) -> Result<T> {
    fault(format!(
        "tensor '{name}': expected layers called conv1, fc1, … or 0, 1, … with a weight and a bias each"
    ))
}

pub(crate) fn fault<T>(message: String) -> Result<T> {
    Err(Error::Argument(message).into())
}
