use candle_core::Result;
use taper_kernels::Activation;

use crate::Layer;
use crate::names::{LayerTensors, fault};

/// The shape of one sample between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleShape {
    /// Channels, height and width of feature maps.
    Maps(usize, usize, usize),
    /// Number of features.
    Features(usize),
}

impl SampleShape {
    /// Number of values.
    pub fn values(self) -> usize {
        match self {
            Self::Maps(c, h, w) => c * h * w,
            Self::Features(n) => n,
        }
    }

    /// The shape after a layer with these tensors.
    pub(crate) fn after(self, layer: &Layer, group: Option<&LayerTensors>) -> Result<Self> {
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
                    "{layer}: expected at least {rows}×{columns} pixels before it, found {h}×{w}"
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
                // Sizes come from a file, so their product may overflow.
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
            _ => return fault(format!("{layer}: expected maps before it, found features")),
        })
    }
}
