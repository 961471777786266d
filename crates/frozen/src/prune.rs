use taper_nn::Layer;

use crate::error::argument;
use crate::signals::Hidden;
use crate::{Result, Sequential, Signals};

/// The result of [`Sequential::fold_constants`].
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// The smaller network.
    pub network: Sequential,
    /// For each hidden layer and unit, whether it was removed.
    pub removed: Vec<Vec<bool>>,
    /// Number of constant units that stay, because the next layer has no bias or pads its input.
    pub kept: usize,
}

impl Sequential {
    /// Removes units of the hidden layers: their weights and biases, their values in batch normalisations, and the weights of
    /// the next layer that read them. For a channel before a linear layer these are the weights of all its pixels.
    ///
    /// If a unit is 0 for an image, removing it changes no bit of [`Frozen`](crate::Frozen)'s results for this image: each sum
    /// has the same additions without a term that is 0.
    ///
    /// ```
    /// use taper_frozen::{Part, Scaling, Sequential, Values};
    /// use taper_nn::{Activation, Layer};
    ///
    /// let linear = |name: &str, inputs, weight: &[f32], bias: &[f32]| Part {
    ///     layer: Layer::Linear,
    ///     values: Some(Values {
    ///         name: name.to_string(),
    ///         outputs: bias.len(),
    ///         inputs,
    ///         weight: weight.to_vec(),
    ///         bias: Some(bias.to_vec()),
    ///         statistics: None,
    ///     }),
    /// };
    /// let relu = Part { layer: Layer::Act(Activation::Relu), values: None };
    /// // The second unit is at most 0.5 − 1 for pixels up to 1, and the third is always 2.
    /// let fc1 = linear("fc1", 2, &[1.0, 1.0, 0.5, -1.0, 0.0, 0.0], &[0.0, -1.0, 2.0]);
    /// let fc2 = linear("fc2", 3, &[1.0, 2.0, 3.0], &[0.0]);
    /// let network = Sequential { input: (2, 1, 1), scaling: Scaling::default(), parts: vec![fc1, relu, fc2] };
    ///
    /// let bounds = network.bounds()?;
    /// assert_eq!(bounds[0].dead(), [false, true, false]);
    /// let network = network.without_dead(&bounds)?;
    /// let network = network.fold_constants(&network.bounds()?)?.network;
    /// let fc2 = network.parts[2].values.as_ref().expect("its tensors");
    /// assert_eq!((&fc2.weight[..], fc2.bias.as_deref()), (&[1.0][..], Some(&[6.0][..])));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Shapes
    /// `remove`: for each of the [`hidden`](Self::hidden) layers, a value for each unit.
    ///
    /// # Errors
    /// As [`check`](Self::check); when the number of layers or units is wrong, or all units of a layer would be removed, because
    /// the results would not depend on the image.
    pub fn without(&self, remove: &[Vec<bool>]) -> Result<Self> {
        self.fits(remove.iter().map(Vec::len))?;
        let all_removed = |(_, remove): &(Hidden<'_>, &Vec<bool>)| !remove.contains(&false);
        if let Some((Hidden { values, .. }, remove)) =
            self.hidden_parts().zip(remove).filter(all_removed).last()
        {
            return argument(format!(
                "layer '{}': expected at least one unit to stay, found all {} to be removed: the network without them gives \
                 every image the same answer",
                values.name,
                remove.len()
            ));
        }
        let mut network = self.clone();
        for (Hidden { at, next, values }, remove) in self.hidden_parts().zip(remove) {
            let stay = remove.iter().filter(|removed| !**removed).count();
            let units = values.outputs;
            for (i, part) in network.parts.iter_mut().enumerate().take(next + 1).skip(at) {
                let Some(values) = &mut part.values else { continue };
                if i == next {
                    let row = values.weight.len() / values.outputs;
                    values.weight =
                        values.weight.chunks_exact(row).flat_map(|row| left(row, remove)).collect();
                    values.inputs = values.inputs / units * stay;
                } else if i == at || matches!(part.layer, Layer::BatchNorm { .. }) {
                    values.outputs = values.outputs / units * stay;
                    values.weight = left(&values.weight, remove);
                    values.bias = values.bias.as_ref().map(|bias| left(bias, remove));
                    values.statistics =
                        values.statistics.as_ref().map(|both| both.each_ref().map(|of| left(of, remove)));
                }
            }
        }
        Ok(network)
    }

    /// Removes the units that cannot change a result by these signals: those that are always 0, and those with finite values
    /// that are read by weights of 0 only. No bit of a result changes: see [`without`](Self::without).
    ///
    /// # Shapes
    /// `signals`: those of this network's [`hidden`](Self::hidden) layers.
    ///
    /// # Errors
    /// As [`without`](Self::without).
    pub fn without_dead(&self, signals: &[Signals]) -> Result<Self> {
        self.fits(signals.iter().map(|signals| signals.units))?;
        let hidden: Vec<_> = self.hidden_parts().zip(signals).collect();
        let mut remove: Vec<Vec<bool>> = Vec::new();
        // The last layer first, because the weights of its removed units no longer read the layer before.
        for (Hidden { next, .. }, signals) in hidden.into_iter().rev() {
            let Some(reader) = &self.parts[next].values else { continue };
            let span = reader.weight.len() / reader.outputs / signals.units;
            let stays = |output: usize| !remove.last().is_some_and(|removed| removed[output]);
            let is_read = |unit: usize| {
                let weights =
                    |output: usize| &reader.weight[(output * signals.units + unit) * span..][..span];
                (0..reader.outputs).filter(|o| stays(*o)).any(|o| weights(o).iter().any(|w| *w != 0.0))
            };
            let is_finite = |unit| signals.of(unit).iter().all(|x| x.low.is_finite() && x.high.is_finite());
            let dead = signals.dead().into_iter().enumerate();
            let unused = dead.map(|(unit, dead)| dead || (!is_read(unit) && is_finite(unit))).collect();
            remove.push(unused);
        }
        remove.reverse();
        self.without(&remove)
    }

    /// Removes constant units. Their values `c` are folded into the biases of the layers that read them: `b + Σ w c` replaces
    /// `b`. The results change by rounding only.
    ///
    /// A constant channel that is not 0 stays before a convolution with padding, because the outputs at the border read fewer
    /// of its pixels. It also stays before a convolution if its pixels have different values, and before a layer without a bias.
    ///
    /// # Shapes
    /// `signals`: those of this network's [`hidden`](Self::hidden) layers.
    ///
    /// # Errors
    /// As [`without`](Self::without).
    pub fn fold_constants(&self, signals: &[Signals]) -> Result<Folded> {
        self.fits(signals.iter().map(|signals| signals.units))?;
        let mut network = self.clone();
        let (mut removed, mut kept) = (Vec::new(), 0);
        for (Hidden { next, .. }, signals) in self.hidden_parts().zip(signals) {
            let reader = &mut network.parts[next];
            let geometry = match reader.layer {
                Layer::Conv { geometry, .. } => Some(geometry),
                _ => None,
            };
            let Some(values) = &mut reader.values else { continue };
            let mut shifts = vec![0.0; values.outputs];
            let row = values.weight.len() / values.outputs;
            let span = row / signals.units;
            let mut of_layer = vec![false; signals.units];
            for (unit, is_removed) in of_layer.iter_mut().enumerate() {
                let Some(constants) = signals.constants(unit) else { continue };
                let is_uniform = constants.iter().all(|c| *c == constants[0]);
                *is_removed = match geometry {
                    _ if constants.iter().all(|c| *c == 0.0) => true,
                    _ if values.bias.is_none() => false,
                    Some(geometry) => is_uniform && geometry.padding == 0,
                    None => true,
                };
                if !*is_removed {
                    kept += 1;
                    continue;
                }
                // A linear layer has a weight for each place; a convolution multiplies one value with all weights of the kernel.
                for (shift, row) in shifts.iter_mut().zip(values.weight.chunks_exact(row)) {
                    let terms = row[unit * span..][..span].iter().zip(constants.iter().cycle());
                    *shift += terms.map(|(w, c)| f64::from(*w) * c).sum::<f64>();
                }
            }
            if let Some(bias) = &mut values.bias {
                bias.iter_mut().zip(shifts).for_each(|(b, shift)| *b = (f64::from(*b) + shift) as f32);
            }
            removed.push(of_layer);
        }
        Ok(Folded { network: network.without(&removed)?, removed, kept })
    }

    fn fits(&self, found: impl Iterator<Item = usize>) -> Result<()> {
        self.check()?;
        let (found, expected): (Vec<_>, Vec<_>) =
            (found.collect(), self.hidden().iter().map(|of| of.1).collect());
        match found == expected {
            true => Ok(()),
            false => argument(format!("expected hidden layers of {expected:?} units, found {found:?}")),
        }
    }
}

/// The values without those of removed units; every unit has the same number of values.
fn left(values: &[f32], remove: &[bool]) -> Vec<f32> {
    let of_units = values.chunks_exact(values.len() / remove.len()).zip(remove);
    of_units.filter(|(_, removed)| !**removed).flat_map(|(values, _)| values).copied().collect()
}
