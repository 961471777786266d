use rayon::prelude::*;

use crate::error::argument;
use crate::{Form, Frozen, Range, Result, Sequential, Signals};

/// Number of images in a task of one thread. Sums are added in the order of the tasks, so no result depends on the threads.
const BLOCK: usize = 512;

impl Sequential {
    /// Measures the smallest and largest outputs of every hidden layer over these images, as [`Frozen`] computes them.
    ///
    /// # Shapes
    /// `xs`: `(N, C, H, W)` or `(N, features)`, before the network's [`Scaling`](crate::Scaling).
    ///
    /// # Errors
    /// As [`check`](Self::check), and when `xs` has no image or an incomplete one, or a value becomes NaN.
    pub fn observe(&self, xs: &[f32]) -> Result<Vec<Signals>> {
        let start = |values: usize, _| vec![(f32::INFINITY, f32::NEG_INFINITY); values];
        let see = |ranges: &mut Vec<(f32, f32)>, values: &[f32], _: usize| {
            for ((low, high), x) in ranges.iter_mut().zip(values) {
                (*low, *high) = (low.min(*x), high.max(*x));
            }
        };
        let merge = |ranges: &mut Vec<(f32, f32)>, more: Vec<(f32, f32)>| {
            for ((low, high), more) in ranges.iter_mut().zip(more) {
                (*low, *high) = (low.min(more.0), high.max(more.1));
            }
        };
        let signals = |((layer, units), ranges): ((&str, usize), Vec<(f32, f32)>)| {
            // From `Frozen`'s order, pixel by pixel, to channel by channel.
            let places = ranges.len() / units;
            let at = |i: usize| ranges[i % places * units + i / places];
            let range = |(low, high): (f32, f32)| Range {
                low: f64::from(low),
                high: f64::from(high),
                is_fixed: low == high,
            };
            Signals {
                layer: layer.to_string(),
                units,
                ranges: (0..ranges.len()).map(|i| range(at(i))).collect(),
            }
        };
        Ok(self.hidden().into_iter().zip(self.gather(xs, start, see, merge)?).map(signals).collect())
    }

    /// The dormancy score of every unit of each hidden layer over these images: `s_i = E|h_i| / (mean_k E|h_k| + 1e−9)`, with
    /// the outputs `h` of the layer. The mean score of a layer is 1. A unit is dormant at τ if `s ≤ τ` (Sokar et al. 2023, "The
    /// Dormant Neuron Phenomenon in Deep Reinforcement Learning").
    ///
    /// # Shapes
    /// `xs` as in [`observe`](Self::observe).
    ///
    /// # Errors
    /// As [`observe`](Self::observe).
    pub fn scores(&self, xs: &[f32]) -> Result<Vec<Vec<f64>>> {
        let see = |sums: &mut Vec<f64>, values: &[f32], units: usize| {
            for pixel in values.chunks_exact(units) {
                sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += f64::from(x.abs()));
            }
        };
        let merge = |sums: &mut Vec<f64>, more: Vec<f64>| {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        };
        let mut layers = self.gather(xs, |_, units| vec![0.0; units], see, merge)?;
        let (c, h, w) = self.input;
        let images = (xs.len() / (c * h * w)) as f64;
        for sums in &mut layers {
            let mean = sums.iter().sum::<f64>() / sums.len() as f64 / images;
            sums.iter_mut().for_each(|sum| *sum = *sum / images / (mean + 1e-9));
        }
        Ok(layers)
    }

    /// Accumulates a `T` for each hidden layer over the images: `start(values, units)` makes one, `see(to, values, units)` adds
    /// the outputs of an image, stored pixel by pixel, and `merge` adds two.
    fn gather<T: Send>(
        &self,
        xs: &[f32],
        start: impl Fn(usize, usize) -> T + Sync,
        see: impl Fn(&mut T, &[f32], usize) + Sync,
        merge: impl Fn(&mut T, T),
    ) -> Result<Vec<T>> {
        let frozen = Frozen::new(self)?;
        let inputs = frozen.inputs();
        if xs.is_empty() || !xs.len().is_multiple_of(inputs) {
            let found = xs.len();
            return argument(format!(
                "expected one or more images of {inputs} values each, found {found} values"
            ));
        }
        let units: Vec<usize> = self.hidden().iter().map(|(_, units)| *units).collect();
        let block = |xs: &[f32]| {
            let mut scratch = frozen.scratch(1);
            let mut layers: Vec<Option<T>> = units.iter().map(|_| None).collect();
            let mut nan = None;
            let mut ys = vec![0.0; xs.len() / frozen.inputs() * frozen.outputs()];
            frozen.watch(Form::Best, xs, &mut ys, &mut scratch, |product, values| {
                let Some(layer) = product.checked_sub(1) else { return };
                if values.iter().any(|x| x.is_nan()) {
                    nan = nan.or(Some(layer));
                }
                let to = layers[layer].get_or_insert_with(|| start(values.len(), units[layer]));
                see(to, values, units[layer]);
            })?;
            match nan {
                Some(layer) => argument(format!(
                    "layer '{}': expected outputs that are numbers, found NaN: are all pixels finite?",
                    self.hidden()[layer].0
                )),
                None => Ok(layers.into_iter().flatten().collect::<Vec<T>>()),
            }
        };
        let blocks: Vec<_> = xs.par_chunks(BLOCK * inputs).map(block).collect();
        let mut blocks = blocks.into_iter();
        let mut all = blocks.next().expect("there is an image")?;
        for block in blocks {
            all.iter_mut().zip(block?).for_each(|(all, more)| merge(all, more));
        }
        Ok(all)
    }
}
