use taper_nn::Layer;

use crate::Values;

/// The shape of a sample between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Channels, height and width.
    Maps(usize, usize, usize),
    Features(usize),
}

impl Shape {
    pub fn values(self) -> usize {
        match self {
            Self::Maps(c, h, w) => c * h * w,
            Self::Features(n) => n,
        }
    }

    /// Behind a layer that fits.
    pub fn behind(self, layer: &Layer, values: Option<&Values>) -> Self {
        let outputs = values.map_or(0, |values| values.outputs);
        let side = |n: usize, side: usize, stride: usize| n.saturating_sub(side) / stride + 1;
        match (self, layer) {
            (Self::Maps(_, h, w), Layer::Conv { kernel, geometry }) => {
                let padding = 2 * geometry.padding;
                let (h, w) = (h + padding, w + padding);
                Self::Maps(outputs, side(h, kernel.0, geometry.stride), side(w, kernel.1, geometry.stride))
            }
            (Self::Maps(c, h, w), Layer::MaxPool { window, stride } | Layer::AvgPool { window, stride }) => {
                Self::Maps(c, side(h, *window, *stride), side(w, *window, *stride))
            }
            (_, Layer::Linear) => Self::Features(outputs),
            (Self::Maps(c, ..), Layer::GlobalAvgPool) => Self::Features(c),
            (shape, Layer::Flatten) => Self::Features(shape.values()),
            (shape, _) => shape,
        }
    }
}
