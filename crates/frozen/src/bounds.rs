use taper_nn::{Layer, SampleShape};

use crate::bound::Bound;
use crate::error::argument;
use crate::signals::is_product;
use crate::{Range, Result, Scaling, Sequential, Signals, Values};

impl Sequential {
    /// Bounds the outputs of every hidden layer over all images with pixels in `[0, 1]`, by interval arithmetic from layer to
    /// layer (Moore 1966).
    ///
    /// The bounds include the largest rounding error of `f32`, so they hold for every implementation: in any order of
    /// additions, and with batch normalisation and scaling folded into the weights or not. Convolutions
    /// that are computed with a Winograd or Fourier transform are an exception. The bounds are not tight, because they treat the values of a layer as
    /// independent: more units can be dead than the bounds show.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn bounds(&self) -> Result<Vec<Signals>> {
        let shapes = self.shapes()?;
        let ((c, h, w), Scaling { mean, std }) = (self.input, self.scaling);
        let (black, white) = (-mean / std, (1.0 - mean) / std);
        let pixel = Bound::new(black, white, false).sized((1.0 + mean.abs()) / std).widened();
        let mut xs = vec![pixel; c * h * w];
        // A padding pixel is 0. An implementation that folds the scaling into the weights computes it as `mean − mean`, with a
        // rounding error.
        let mut border = Bound::new(0.0, 0.0, true).sized(mean.abs() / std);
        let mut last: Option<&Values> = None;
        let mut hidden = Vec::new();
        for (part, &[before, after]) in self.parts.iter().zip(shapes.array_windows()) {
            let values = part.values.as_ref();
            if is_product(part) {
                hidden.extend(last.map(|last| signals(last, &xs)));
            }
            xs = match (part.layer, values) {
                (Layer::Flatten | Layer::Dropout { .. }, _) => xs,
                (Layer::Act(f), _) => xs.into_iter().map(|x| x.activated(f)).collect(),
                (Layer::Linear, Some(values)) => {
                    let row = |o: usize| values.weight[o * xs.len()..][..xs.len()].iter().zip(&xs);
                    let sum = |o| Bound::sum(bias(values, o), row(o).map(|(w, x)| (f64::from(*w), *x)));
                    (0..values.outputs).map(sum).collect()
                }
                (Layer::Conv { kernel, geometry }, Some(values)) => {
                    let windows = windows([before, after], kernel, geometry.stride, geometry.padding);
                    let (taps, plane) = (kernel.0 * kernel.1, xs.len() / values.inputs);
                    let xs = &xs;
                    let sum = |o: usize, window: &[Option<usize>]| {
                        let kernels = values.weight.chunks_exact(taps).skip(o * values.inputs);
                        let planes = kernels.zip(xs.chunks_exact(plane));
                        let terms = planes.flat_map(|(kernel, xs)| {
                            let at = |at: &Option<usize>| at.map_or(border, |at| xs[at]);
                            kernel.iter().zip(window).map(move |(w, tap)| (f64::from(*w), at(tap)))
                        });
                        Bound::sum(bias(values, o), terms)
                    };
                    (0..values.outputs)
                        .flat_map(|o| windows.iter().map(move |window| (o, window)))
                        .map(|(o, window)| sum(o, window))
                        .collect()
                }
                (Layer::BatchNorm { eps }, Some(values)) => {
                    let [mean, var] = values.moments()?;
                    let places = xs.len() / values.outputs;
                    let norm = |(i, x): (usize, Bound)| {
                        let c = i / places;
                        let scale = f64::from(values.weight[c]) / (f64::from(var[c]) + eps).sqrt();
                        x.normalised(f64::from(mean[c]), scale, bias(values, c))
                    };
                    xs.into_iter().enumerate().map(norm).collect()
                }
                (Layer::MaxPool { window, stride }, _) => {
                    pool([before, after], &xs, (window, window), stride, |xs| xs.reduce(Bound::largest))
                }
                (Layer::AvgPool { window, stride }, _) => {
                    pool([before, after], &xs, (window, window), stride, mean_of)
                }
                (Layer::GlobalAvgPool, _) => pool([before, after], &xs, pixels(before), 1, mean_of),
                (layer, None) => return argument(format!("{layer}: expected its tensors, found none")),
            };
            if is_product(part) {
                last = values;
                border = Bound::new(0.0, 0.0, true);
            }
        }
        Ok(hidden)
    }
}

fn bias(values: &Values, output: usize) -> f64 {
    values.bias.as_ref().map_or(0.0, |bias| f64::from(bias[output]))
}

fn signals(values: &Values, xs: &[Bound]) -> Signals {
    let range = |&Bound { low, high, is_fixed, .. }: &Bound| Range { low, high, is_fixed };
    Signals { layer: values.name.clone(), units: values.outputs, ranges: xs.iter().map(range).collect() }
}

/// Height and width.
fn pixels(shape: SampleShape) -> (usize, usize) {
    match shape {
        SampleShape::Maps(_, h, w) => (h, w),
        SampleShape::Features(_) => (1, 1),
    }
}

/// For each output pixel of a layer between two shapes, the input pixels of its window, `None` outside the image.
fn windows(
    shapes: [SampleShape; 2],
    side: (usize, usize),
    stride: usize,
    padding: usize,
) -> Vec<Vec<Option<usize>>> {
    let [(h, w), (rows, columns)] = shapes.map(pixels);
    let place = |out: usize, tap: usize| {
        let y = (out / columns * stride + tap / side.1).checked_sub(padding).filter(|y| *y < h)?;
        let x = (out % columns * stride + tap % side.1).checked_sub(padding).filter(|x| *x < w)?;
        Some(y * w + x)
    };
    let window = |out| (0..side.0 * side.1).map(|tap| place(out, tap)).collect();
    (0..rows * columns).map(window).collect()
}

/// `f` of each window of each channel.
fn pool(
    shapes: [SampleShape; 2],
    xs: &[Bound],
    side: (usize, usize),
    stride: usize,
    f: impl Fn(&mut dyn Iterator<Item = Bound>) -> Option<Bound>,
) -> Vec<Bound> {
    let windows = windows(shapes, side, stride, 0);
    let (h, w) = pixels(shapes[0]);
    let of_plane = |xs: &[Bound]| {
        let window = |window: &Vec<Option<usize>>| f(&mut window.iter().flatten().map(|at| xs[*at]));
        windows.iter().filter_map(window).collect::<Vec<_>>()
    };
    xs.chunks_exact(h * w).flat_map(of_plane).collect()
}

fn mean_of(xs: &mut dyn Iterator<Item = Bound>) -> Option<Bound> {
    let xs: Vec<Bound> = xs.collect();
    let share = 1.0 / xs.len() as f64;
    Some(Bound::sum(0.0, xs.into_iter().map(|x| (share, x))))
}
