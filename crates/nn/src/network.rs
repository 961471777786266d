use candle_core::{Result, Tensor};
use taper_hooks::Pass;
use taper_kernels::{avg_pool2d, global_avg_pool2d, max_pool2d};

use crate::{Act, BatchNorm1d, BatchNorm2d, Conv2d, Dropout, Linear, Model};

/// The layers of an [`Architecture`](crate::Architecture) with their parameters, applied one after the other.
///
/// # Shapes
/// Images `(N, C, H, W)` of the architecture's input shape; the result is `(N, classes)`.
#[derive(Clone, Debug)]
pub struct Network {
    parts: Vec<Part>,
}

/// A layer with its parameters.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Conv(Conv2d),
    Linear(Linear),
    BatchNorm1d(BatchNorm1d),
    BatchNorm2d(BatchNorm2d),
    MaxPool { window: usize, stride: usize },
    AvgPool { window: usize, stride: usize },
    GlobalAvgPool,
    Flatten,
    Dropout(Dropout),
    Act(Act),
}

impl Network {
    pub(crate) fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }
}

impl Model for Network {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.clone();
        let mut rest = &self.parts[..];
        while let [part, more @ ..] = rest {
            rest = more;
            if let Part::Linear(_) = part {
                xs = xs.flatten_from(1)?;
            }
            // A layer and its activation are computed together if possible.
            if let [Part::Act(act), behind @ ..] = more {
                let fused = match part {
                    Part::Conv(conv) => Some(conv.forward_act(pass, &xs, act)?),
                    Part::Linear(linear) => Some(linear.forward_act(pass, &xs, act)?),
                    Part::BatchNorm1d(norm) => Some(norm.forward_act(pass, &xs, act)?),
                    Part::BatchNorm2d(norm) => Some(norm.forward_act(pass, &xs, act)?),
                    _ => None,
                };
                if let Some(ys) = fused {
                    (xs, rest) = (ys, behind);
                    continue;
                }
            }
            xs = match part {
                Part::Conv(conv) => conv.forward(&xs)?,
                Part::Linear(linear) => linear.forward(&xs)?,
                Part::BatchNorm1d(norm) => norm.forward(pass, &xs)?,
                Part::BatchNorm2d(norm) => norm.forward(pass, &xs)?,
                Part::MaxPool { window, stride } => max_pool2d(&xs, (*window, *window), (*stride, *stride))?,
                Part::AvgPool { window, stride } => avg_pool2d(&xs, (*window, *window), (*stride, *stride))?,
                Part::GlobalAvgPool => global_avg_pool2d(&xs)?,
                Part::Flatten => xs.flatten_from(1)?,
                Part::Dropout(dropout) => dropout.forward(pass, &xs)?,
                Part::Act(act) => act.forward(pass, &xs)?,
            };
        }
        Ok(xs)
    }
}
