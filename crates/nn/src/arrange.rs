use candle_core::Result;
use taper_kernels::{Activation, Conv2dGeometry};

use crate::names::{Kind, LayerTensors, fault, place};
use crate::{Layer, Layers};

/// The places of max-pooling.
#[derive(Clone, Copy)]
enum Pooling {
    Nowhere,
    BehindLast(usize),
    BehindEach(usize),
}

/// The arrangements of a file's layers that [`Architecture::arrangements`](crate::Architecture::arrangements) tries,
/// whether or not their sizes fit; the simplest is the first.
///
/// # Errors
/// When there are no layers, or a number is missing among their names.
pub(crate) fn arrange(
    groups: &[LayerTensors],
    (_, h, w): (usize, usize, usize),
    activation: Activation,
) -> Result<Vec<Layers>> {
    let of =
        |kind: Kind| -> Vec<&LayerTensors> { groups.iter().filter(|group| group.kind == kind).collect() };
    let (convolutions, linears, norms) = (of(Kind::Conv), of(Kind::Linear), of(Kind::Norm));
    if linears.is_empty() {
        return fault("expected a fully connected layer at the end, found none".to_string());
    }
    numbered(&convolutions, 0)?;
    numbered(&linears, convolutions.len() as u64)?;
    let mut kernels = Vec::new();
    for group in &convolutions {
        match group.weight.as_deref() {
            Some(&[_, _, rows, columns]) => kernels.push((rows, columns)),
            _ => return fault(format!("layer '{}': expected a convolution", group.name)),
        }
    }
    let behind = norms_behind(&convolutions, &linears, &norms)?;

    let mut poolings = vec![Pooling::Nowhere];
    // A window that is larger than the padded image never fits.
    let windows = 2..=if convolutions.is_empty() { 1 } else { h.min(w) };
    poolings.extend(windows.clone().map(Pooling::BehindLast));
    if convolutions.len() > 1 {
        poolings.extend(windows.map(Pooling::BehindEach));
    }
    let keeps_size = kernels.iter().all(|(rows, columns)| rows == columns && rows % 2 == 1 && *rows > 1);
    let paddings = if keeps_size && !kernels.is_empty() { &[false, true][..] } else { &[false] };
    let orders = if norms.is_empty() { &[true][..] } else { &[true, false] };
    let mut found = Vec::new();
    for pooling in poolings {
        for &padded in paddings {
            for &norm_first in orders {
                let mut layers = Vec::new();
                let mut then = |i: usize, layer: Layer, is_last: bool| {
                    layers.push(layer);
                    let (norm, act) = (Layer::BatchNorm { eps: 1e-5 }, Layer::Act(activation));
                    match (behind[i], is_last) {
                        (true, false) if norm_first => layers.extend([norm, act]),
                        (true, false) => layers.extend([act, norm]),
                        (true, true) => layers.push(norm),
                        (false, false) => layers.push(act),
                        (false, true) => {}
                    }
                    let window = match pooling {
                        Pooling::BehindEach(window) if i < kernels.len() => window,
                        Pooling::BehindLast(window) if i + 1 == kernels.len() => window,
                        _ => return,
                    };
                    layers.push(Layer::MaxPool { window, stride: window });
                };
                for (i, &kernel) in kernels.iter().enumerate() {
                    let padding = if padded { kernel.0 / 2 } else { 0 };
                    let geometry = Conv2dGeometry { padding, ..Default::default() };
                    then(i, Layer::Conv { kernel, geometry }, false);
                }
                for i in 0..linears.len() {
                    then(kernels.len() + i, Layer::Linear, i + 1 == linears.len());
                }
                found.push(Layers(layers));
            }
        }
    }
    Ok(found)
}

/// An error if a layer's number is missing: `fc1`, `fc3`. Layers of `nn.Sequential`, whose names are numbers, may have
/// activations between them. A count may begin at 0, at 1, or after the `before` layers of another kind.
fn numbered(groups: &[&LayerTensors], before: u64) -> Result<()> {
    let mut before_it = None;
    for group in groups {
        let mut path = place(&group.name);
        let Some((word, number)) = path.pop() else { continue };
        if word.is_empty() || !group.name.ends_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let expected = match &before_it {
            Some((parent, last)) if *parent == path => last + 1,
            _ if number == 0 || number == before + 1 => number,
            _ => 1,
        };
        if number != expected {
            return fault(format!(
                "tensor '{}.weight': expected '{word}{expected}' to come next",
                group.name
            ));
        }
        before_it = Some((path, number));
    }
    Ok(())
}

/// Whether batch normalisation comes after each convolution and linear layer: each must match the next layer with as
/// many channels.
fn norms_behind(
    convolutions: &[&LayerTensors],
    linears: &[&LayerTensors],
    norms: &[&LayerTensors],
) -> Result<Vec<bool>> {
    let mut rest = norms.iter().peekable();
    let outputs = |group: &LayerTensors| group.weight.as_ref().map(|shape| shape[0]);
    let layers = convolutions.iter().chain(linears);
    let behind = layers.map(|layer| rest.next_if(|norm| outputs(norm) == outputs(layer)).is_some()).collect();
    match rest.next() {
        None => Ok(behind),
        Some(norm) => fault(format!(
            "batch normalisation '{}': expected a layer of {} outputs before it, found none",
            norm.name,
            outputs(norm).unwrap_or(0)
        )),
    }
}
