use taper_nn::Layer;

use crate::{Part, Sequential, Values};

/// The range of one value over a set of images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The smallest value, or a lower bound of it.
    pub low: f64,
    /// The largest value, or an upper bound of it.
    pub high: f64,
    /// Whether the value is the same for every image. Even then `low` and `high` can differ, because they include the
    /// rounding error.
    pub is_fixed: bool,
}

/// The ranges of a hidden layer's outputs over a set of images. They are the inputs of the next linear layer or convolution,
/// after activation, normalisation and pooling.
#[derive(Clone, Debug, PartialEq)]
pub struct Signals {
    /// The name of the layer, as in its file.
    pub layer: String,
    /// Number of units or channels.
    pub units: usize,
    /// `(units, places)`: one place for each pixel of a channel, one for a unit.
    pub ranges: Vec<Range>,
}

impl Signals {
    /// The ranges of a unit, one for each place.
    ///
    /// # Panics
    /// When there is no such unit.
    pub fn of(&self, unit: usize) -> &[Range] {
        let places = self.ranges.len() / self.units.max(1);
        &self.ranges[unit * places..][..places]
    }

    /// For each unit, whether it is 0 for every image, in all its pixels.
    pub fn dead(&self) -> Vec<bool> {
        (0..self.units)
            .map(|u| self.of(u).iter().all(|range| range.low == 0.0 && range.high == 0.0))
            .collect()
    }

    /// The value of each place, if none of them depends on the image.
    pub(crate) fn constants(&self, unit: usize) -> Option<Vec<f64>> {
        let middle = |range: &Range| range.is_fixed.then_some((range.low + range.high) / 2.0);
        self.of(unit).iter().map(middle).collect()
    }
}

/// A linear layer or a convolution that is not the last one.
pub(crate) struct Hidden<'a> {
    /// Its index in `parts`.
    pub at: usize,
    /// The index of the linear layer or convolution that reads its outputs.
    pub next: usize,
    pub values: &'a Values,
}

impl Sequential {
    /// Name and number of units or channels of every hidden layer: of all linear layers and convolutions but the last.
    pub fn hidden(&self) -> Vec<(&str, usize)> {
        self.hidden_parts().map(|Hidden { values, .. }| (&values.name[..], values.outputs)).collect()
    }

    pub(crate) fn hidden_parts(&self) -> impl Iterator<Item = Hidden<'_>> {
        let products = || self.parts.iter().enumerate().filter(|(_, part)| is_product(part));
        products().zip(products().skip(1)).filter_map(|((at, part), (next, _))| {
            part.values.as_ref().map(|values| Hidden { at, next, values })
        })
    }
}

pub(crate) fn is_product(part: &Part) -> bool {
    matches!(part.layer, Layer::Linear | Layer::Conv { .. })
}
