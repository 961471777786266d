use taper_kernels::inference::{ConvRows, LinearRows, Windows};
use taper_nn::{Layer, SampleShape};

use crate::error::argument;
use crate::frozen::Step;
use crate::{Error, Frozen, Part, Result, Scaling, Sequential, Values};

impl Frozen {
    /// Prepares a network for inference.
    ///
    /// # Errors
    /// As [`Sequential::check`], and when a folded batch normalisation or scaling makes a weight infinite.
    pub fn new(network: &Sequential) -> Result<Self> {
        let shapes = network.shapes()?;
        let (c, h, w) = network.input;
        let mut steps = Vec::new();
        let mut products = Vec::new();
        if c > 1 && h * w > 1 {
            steps.push(Step::Transpose(c, h * w));
        }
        // Channels, height and width of the feature maps before the next layer, also after flattening. Memory layout: (H, W, C).
        let mut maps = Some((c, h, w));
        // The scaling of the inputs, until a layer applies it.
        let mut scaling = Some(network.scaling).filter(|scaling| *scaling != Scaling::default());
        let mut parts = network.parts.iter().zip(shapes.array_windows()).peekable();
        while let Some((part, &[before, after])) = parts.next() {
            if !matches!(
                part.layer,
                Layer::Flatten | Layer::Dropout { .. } | Layer::Linear | Layer::Conv { .. }
            ) && let Some(Scaling { mean, std }) = scaling.take()
            {
                let (scale, shift) = (vec![(1.0 / std) as f32], vec![(-mean / std) as f32]);
                steps.push(Step::ScaleShift { scale, shift });
            }
            let windows = |side: (usize, usize), stride: usize| match before {
                SampleShape::Maps(c, h, w) => Windows { image: (h, w, c), side, stride },
                SampleShape::Features(n) => Windows { image: (1, 1, n), side, stride },
            };
            match (part.layer, &part.values) {
                (Layer::Flatten | Layer::Dropout { .. }, _) => {}
                (Layer::Act(f), _) => steps.push(Step::Act(f)),
                (Layer::MaxPool { window, stride }, _) => {
                    steps.push(Step::MaxPool(windows((window, window), stride)));
                }
                (Layer::AvgPool { window, stride }, _) => {
                    steps.push(Step::AvgPool(windows((window, window), stride)));
                }
                (Layer::GlobalAvgPool, _) => {
                    if let SampleShape::Maps(_, h, w) = before {
                        steps.push(Step::AvgPool(windows((h, w), 1)));
                    }
                }
                (Layer::BatchNorm { eps }, Some(values)) => {
                    let Affine { scale, shift } = Affine::of(values, eps)?;
                    let channels = |xs: Vec<f64>| match (before, maps) {
                        (SampleShape::Features(_), Some(maps)) => by_pixel(&xs, maps, |x| *x as f32),
                        _ => xs.iter().map(|x| *x as f32).collect(),
                    };
                    steps.push(Step::ScaleShift { scale: channels(scale), shift: channels(shift) });
                }
                (Layer::Linear | Layer::Conv { .. }, Some(values)) => {
                    let (mut weight, mut bias) = doubles(values);
                    // Weights per output.
                    let inputs = weight.len() / values.outputs;
                    let mut border = 0.0;
                    if let Some(Scaling { mean, std }) = scaling.take() {
                        // W (x − mean) / std + b. Zero padding of the scaled image is padding with `mean` here.
                        weight.iter_mut().for_each(|w| *w /= std);
                        for (b, row) in bias.iter_mut().zip(weight.chunks_exact(inputs)) {
                            *b -= mean * row.iter().sum::<f64>();
                        }
                        border = mean as f32;
                    }
                    if let Some((Part { layer: Layer::BatchNorm { eps }, values: Some(norm) }, _)) =
                        parts.peek()
                    {
                        let Affine { scale, shift } = Affine::of(norm, *eps)?;
                        for (o, row) in weight.chunks_exact_mut(inputs).enumerate() {
                            row.iter_mut().for_each(|w| *w *= scale[o]);
                            bias[o] = bias[o] * scale[o] + shift[o];
                        }
                        parts.next();
                    }
                    let bias: Vec<f32> = bias.iter().map(|b| *b as f32).collect();
                    let singles = |xs: &[f64]| xs.iter().map(|x| *x as f32).collect::<Vec<_>>();
                    let named = |error: taper_kernels::Error| {
                        let name = &values.name;
                        Error::Argument(format!(
                            "layer '{name}' with scaling and batch normalisation folded in: {error}"
                        ))
                    };
                    steps.push(match (part.layer, before) {
                        (Layer::Conv { kernel, geometry }, SampleShape::Maps(_, h, w)) => {
                            let rows = ConvRows::new(&singles(&weight), &bias, kernel, geometry, border);
                            Step::Conv { rows: rows.map_err(named)?, size: (h, w) }
                        }
                        _ => {
                            let row = |row: &[f64]| match maps {
                                Some(maps) => by_pixel(row, maps, |w| *w as f32),
                                None => singles(row),
                            };
                            let rows: Vec<f32> = weight.chunks_exact(inputs).flat_map(row).collect();
                            Step::Linear(LinearRows::new(&rows, &bias).map_err(named)?)
                        }
                    });
                    products.push(values.name.clone());
                }
                (layer, None) => return argument(format!("{layer}: expected its tensors, found none")),
            }
            maps = match (after, part.layer) {
                (SampleShape::Maps(c, h, w), _) => Some((c, h, w)),
                (_, Layer::Linear | Layer::GlobalAvgPool) => None,
                _ => maps,
            };
        }
        if let Some((c, h, w)) = maps.filter(|(c, h, w)| *c > 1 && h * w > 1) {
            steps.push(Step::Transpose(h * w, c));
        }
        let outputs = shapes.last().map_or(0, |shape| shape.values());
        Ok(Self { steps, input: network.input, outputs, products })
    }
}

/// Weight and bias; a bias of zeros if the layer has none.
fn doubles(values: &Values) -> (Vec<f64>, Vec<f64>) {
    let doubles = |xs: &[f32]| xs.iter().map(|x| f64::from(*x)).collect();
    let bias = values.bias.as_deref().map_or_else(|| vec![0.0; values.outputs], doubles);
    (doubles(&values.weight), bias)
}

/// Reorders a value for each element of `(C, H, W)` maps to `(H, W, C)`.
fn by_pixel<T>(xs: &[f64], (c, h, w): (usize, usize, usize), to: impl Fn(&f64) -> T) -> Vec<T> {
    (0..h * w).flat_map(|pixel| (0..c).map(move |c| c * h * w + pixel)).map(|at| to(&xs[at])).collect()
}

/// `scale · x + shift` of each channel.
struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Affine {
    /// Batch normalisation in evaluation mode: `(x − mean) / √(variance + eps) · weight + bias`.
    fn of(values: &Values, eps: f64) -> Result<Self> {
        let [mean, variance] = values.moments()?;
        let (mut scale, mut shift) = doubles(values);
        for (i, scale) in scale.iter_mut().enumerate() {
            *scale /= (f64::from(variance[i]) + eps).sqrt();
            shift[i] -= f64::from(mean[i]) * *scale;
        }
        Ok(Self { scale, shift })
    }
}
