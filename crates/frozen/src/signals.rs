use taper_nn::Layer;

use crate::{Part, Sequential, Values};

/// What one value can be, over a set of images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The lowest value, or a bound below it.
    pub low: f64,
    /// The highest value, or a bound above it.
    pub high: f64,
    /// Whether the value is the same for every image. The bounds of such a value need not be equal.
    pub is_fixed: bool,
}

/// What the units of a hidden layer hand to the next linear layer or convolution, over a set of images: behind activation,
/// normalisation and pooling.
#[derive(Clone, Debug, PartialEq)]
pub struct Signals {
    /// The name of the layer, as in its file.
    pub layer: String,
    /// Units or channels.
    pub units: usize,
    /// `(units, places)`: a channel has a place for each of its pixels, a unit one.
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

    /// For each unit whether all its values are 0 for every image.
    pub fn dead(&self) -> Vec<bool> {
        (0..self.units)
            .map(|u| self.of(u).iter().all(|range| range.low == 0.0 && range.high == 0.0))
            .collect()
    }

    /// The value of each place if the unit is constant: every place has the same value for every image.
    pub(crate) fn constants(&self, unit: usize) -> Option<Vec<f64>> {
        let middle = |range: &Range| range.is_fixed.then_some((range.low + range.high) / 2.0);
        self.of(unit).iter().map(middle).collect()
    }
}

/// A linear layer or a convolution that is not the last one.
pub(crate) struct Hidden<'a> {
    /// Its place among the parts.
    pub at: usize,
    /// The place of the linear layer or convolution that reads it.
    pub next: usize,
    pub values: &'a Values,
}

impl Sequential {
    /// The hidden layers with their number of units or channels: all linear layers and convolutions but the last.
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
