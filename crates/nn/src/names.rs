use std::collections::BTreeMap;

use candle_core::Result;
use taper_kernels::Error;

/// The layers of a network as this crate's models call them, and as the file does whose tensors have these names and shapes,
/// in the order in which they are applied: `("conv1", "features.0")`, `("fc1", "features.3")`.
///
/// Convolutions are called `conv1`, `conv2`, … and linear layers `fc1`, `fc2`, …, as here; or `linear1`, `lin1`, `ln1`,
/// `dense1`; or by ascending numbers, as in PyTorch's `nn.Sequential`. A last linear layer may go without a number: `fc`,
/// `linear`, `out`, `output`, `head` or `classifier`. All may stand behind one prefix (`module.fc1.weight`).
///
/// # Errors
/// When a tensor is not the `weight`, `bias` or `slope` of such a layer; the message names it.
pub fn layer_names<N: AsRef<str>, S: AsRef<[usize]>>(
    tensors: impl IntoIterator<Item = (N, S)>,
) -> Result<Vec<(String, String)>> {
    let (mut convolutions, mut linears) = (0, 0);
    let own = |(theirs, layer): (String, Layer)| {
        let (kind, number) = match layer.weight.as_ref().map_or(0, Vec::len) {
            4 => ("conv", &mut convolutions),
            _ => ("fc", &mut linears),
        };
        *number += 1;
        (format!("{kind}{number}"), theirs)
    };
    Ok(layers(tensors)?.into_values().map(own).collect())
}

/// The name in a model, whose names are `own`, of every tensor of a file: as it stands; without `module.` and `_orig_mod.`,
/// which wrappers of PyTorch put in front of all names; or by [`layer_names`]. The way that finds the most names is taken, the
/// first of them if several do.
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
    // Of equal ones `max_by_key` takes the last.
    ways.into_iter().rev().max_by_key(known).unwrap_or_default()
}

/// What one layer of a file has.
#[derive(Default)]
pub(crate) struct Layer {
    pub weight: Option<Vec<usize>>,
    pub bias: Option<Vec<usize>>,
    pub slope: Option<Vec<usize>>,
}

/// The layers of a file, each with its name there, in the order in which they are applied.
pub(crate) fn layers<N: AsRef<str>, S: AsRef<[usize]>>(
    tensors: impl IntoIterator<Item = (N, S)>,
) -> Result<BTreeMap<Place, (String, Layer)>> {
    let mut found: BTreeMap<Place, (String, Layer)> = BTreeMap::new();
    let mut prefix: Option<String> = None;
    for (name, shape) in tensors {
        let (name, shape) = (name.as_ref(), shape.as_ref().to_vec());
        // From here on names can stand in messages and tables.
        if name.len() > 256 || name.chars().any(char::is_control) {
            let start: String = name.chars().take(32).collect();
            return fault(format!(
                "tensor '{}…': expected a name of at most 256 bytes without control characters",
                start.escape_debug()
            ));
        }
        let Some((layer, part)) = name.rsplit_once('.') else { return unknown(name) };
        if ["running_mean", "running_var", "num_batches_tracked"].contains(&part) {
            return fault(format!(
                "tensor '{name}': expected an mlp or cnn without normalisation, found batch normalisation '{layer}': build \
                 the model in Rust and load it there"
            ));
        }
        let (lead, last) = layer.rsplit_once('.').unwrap_or(("", layer));
        let Some(place) = Place::of(last) else { return unknown(name) };
        if prefix.get_or_insert(lead.to_string()) != lead {
            return fault(format!("tensor '{name}': expected all layers behind one prefix"));
        }
        if shape.contains(&0) {
            return fault(format!("tensor '{name}': expected sizes of at least 1, found {shape:?}"));
        }
        let (known, parts) = found.entry(place).or_insert_with(|| (layer.to_string(), Layer::default()));
        if known != layer {
            return fault(format!(
                "tensor '{name}': expected one layer at its place, found '{known}' there too"
            ));
        }
        match part {
            "weight" => parts.weight = Some(shape),
            "bias" => parts.bias = Some(shape),
            "slope" => parts.slope = Some(shape),
            _ => return unknown(name),
        }
    }
    Ok(found)
}

/// Where a layer comes, by its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Number(u64),
    Convolution(u64),
    Linear(u64),
    /// A linear layer without a number.
    Last,
}

impl Place {
    fn of(name: &str) -> Option<Self> {
        if ["fc", "linear", "out", "output", "head", "classifier"].contains(&name) {
            return Some(Self::Last);
        }
        let number = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
            text.parse().ok().filter(|_| plain)
        };
        let linear = Self::Linear as fn(u64) -> Self;
        let kinds = [
            ("conv", Self::Convolution as fn(u64) -> Self),
            ("fc", linear),
            ("linear", linear),
            ("lin", linear),
            ("ln", linear),
            ("dense", linear),
            ("", Self::Number),
        ];
        kinds.iter().find_map(|(kind, place)| Some(place(number(name.strip_prefix(kind)?)?)))
    }
}

fn unknown<T>(name: &str) -> Result<T> {
    fault(format!(
        "tensor '{name}': expected layers called conv1, fc1, … or 0, 1, … with a weight and a bias each, as those of an mlp or cnn"
    ))
}

pub(crate) fn fault<T>(message: String) -> Result<T> {
    Err(Error::Argument(message).into())
}
