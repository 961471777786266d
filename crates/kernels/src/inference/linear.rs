use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::{Active, finish, pack};
use crate::error::Error;
use crate::simd::{Aligned, lanes};

/// A fully connected layer. Its weights are stored by input, so that the weights of an input that is 0 are not read.
#[derive(Clone)]
pub struct LinearRows {
    /// `(inputs, padded)`: rows of outputs, padded with zeros to whole vectors.
    weight: Aligned,
    /// `(padded)`.
    bias: Aligned,
    inputs: usize,
    outputs: usize,
}

/// Number of rows of weights that are added in one pass over the sums, which are then loaded and stored less often.
const ROWS: usize = 4;
/// Bytes of weights that fit in the second-level cache, where several samples use them.
const CACHE: usize = 512 << 10;
/// Size of a tile of sums in registers, in samples and in vectors of outputs.
const SAMPLES: usize = 4;
const VECTORS: usize = 2;
/// Number of inputs whose weights for one tile fit in the first-level cache.
const DEPTH: usize = 64;

impl LinearRows {
    /// A layer with these weights and biases.
    ///
    /// # Shapes
    /// `weight`: `(outputs, inputs)`, `bias`: `(outputs)`.
    ///
    /// # Errors
    /// When the sizes do not fit, or a value is not finite.
    pub fn new(weight: &[f32], bias: &[f32]) -> Result<Self, Error> {
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len().max(1));
        if weight.is_empty() || outputs * inputs != weight.len() {
            let n = weight.len();
            return Err(Error::Argument(format!(
                "expected a row of weights for each of {outputs} outputs, found {n} weights"
            )));
        }
        super::finite("weight", weight)?;
        super::finite("bias", bias)?;
        let padded = outputs.next_multiple_of(lanes());
        let (mut rows, mut biases) = (Aligned::new(inputs * padded), Aligned::new(padded));
        biases[..outputs].copy_from_slice(bias);
        for (i, row) in rows.chunks_exact_mut(padded).enumerate() {
            for (w, column) in row.iter_mut().zip(weight.chunks_exact(inputs)) {
                *w = column[i];
            }
        }
        Ok(Self { weight: rows, bias: biases, inputs, outputs })
    }

    /// Input features.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Output features.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Length of a row of outputs in the buffer of [`dense`](Self::dense), which is padded to whole vectors.
    pub fn padded(&self) -> usize {
        self.bias.len()
    }

    /// Computes `weight · x + bias` for every row `x`, with all inputs.
    ///
    /// # Shapes
    /// `xs`: `(N, inputs)`. `ys`: a buffer of at least `(N, padded)`; its beginning becomes the result, `(N, outputs)`.
    ///
    /// # Errors
    /// When the inputs are not whole rows, or the buffer is too small.
    pub fn dense(&self, xs: &[f32], ys: &mut [f32]) -> Result<(), Error> {
        let samples = xs.len() / self.inputs;
        let sums = self.room(samples, xs.len() == samples * self.inputs, ys)?;
        Arch::new().dispatch(Dense { layer: self, xs, sums });
        self.finish(samples, ys);
        Ok(())
    }

    /// Computes the same from the listed inputs. Inputs that are not listed count as 0. The results have the same bits as those
    /// of [`dense`](Self::dense).
    ///
    /// # Shapes
    /// `xs`: `N` rows of at most `inputs` values. `ys` as in [`dense`](Self::dense).
    ///
    /// # Errors
    /// When a row is too wide, or the buffer is too small.
    pub fn sparse(&self, xs: &Active, ys: &mut [f32]) -> Result<(), Error> {
        let samples = xs.rows();
        let sums = self.room(samples, xs.width() <= self.inputs, ys)?;
        Arch::new().dispatch(Sparse { layer: self, xs, sums });
        self.finish(samples, ys);
        Ok(())
    }

    /// The sums in the buffer `ys`, set to the biases.
    fn room<'a>(&self, samples: usize, fits: bool, ys: &'a mut [f32]) -> Result<&'a mut [f32], Error> {
        let room = samples * self.padded();
        if !fits || ys.len() < room {
            let (inputs, n) = (self.inputs, ys.len());
            return Err(Error::Argument(format!(
                "linear layer: expected samples of {inputs} inputs and room for {room} outputs, found room for {n}"
            )));
        }
        let sums = &mut ys[..room];
        sums.chunks_exact_mut(self.padded()).for_each(|row| row.copy_from_slice(&self.bias));
        Ok(sums)
    }

    fn finish(&self, samples: usize, ys: &mut [f32]) {
        finish(&mut ys[..samples * self.padded()]);
        pack(ys, samples, self.padded(), self.outputs);
    }
}

struct Sparse<'a> {
    layer: &'a LinearRows,
    xs: &'a Active,
    sums: &'a mut [f32],
}

impl WithSimd for Sparse<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let LinearRows { weight, inputs, .. } = self.layer;
        let padded = self.layer.padded();
        // With one sample every weight is used once, so there is nothing to keep in the cache.
        let depth = if self.xs.rows() == 1 { *inputs } else { (CACHE / size_of::<f32>() / padded).max(ROWS) };
        for first in (0..*inputs).step_by(depth) {
            for (row, sums) in self.sums.chunks_exact_mut(padded).enumerate() {
                let (at, values) = self.xs.row(row);
                let place = |i: usize| at.partition_point(|at| (*at as usize) < i);
                let range = if depth == *inputs { 0..at.len() } else { place(first)..place(first + depth) };
                let (at, values) = (&at[range.clone()], &values[range]);
                let ((at, last_at), (values, last_values)) =
                    (at.as_chunks::<ROWS>(), values.as_chunks::<ROWS>());
                for (at, values) in at.iter().zip(values) {
                    add(simd, weight, at, values, sums);
                }
                for (at, value) in last_at.iter().zip(last_values) {
                    add(simd, weight, &[*at], &[*value], sums);
                }
            }
        }
    }
}

/// Adds the rows `at` of `weight`, times `values`, to `sums`, in this order.
#[inline(always)]
fn add<S: Simd, const N: usize>(simd: S, weight: &[f32], at: &[u32; N], values: &[f32; N], sums: &mut [f32]) {
    let padded = sums.len();
    let sums = S::as_mut_simd_f32s(sums).0;
    let mut rows = [S::as_simd_f32s(weight).0; N];
    let mut factors = [simd.splat_f32s(0.0); N];
    for n in 0..N {
        let row = &weight[at[n] as usize * padded..][..padded];
        rows[n] = &S::as_simd_f32s(row).0[..sums.len()];
        factors[n] = simd.splat_f32s(values[n]);
    }
    for (j, sum) in sums.iter_mut().enumerate() {
        for n in 0..N {
            *sum = simd.mul_add_e_f32s(factors[n], rows[n][j], *sum);
        }
    }
}

struct Dense<'a> {
    layer: &'a LinearRows,
    xs: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Dense<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let LinearRows { weight, inputs, .. } = self.layer;
        let padded = self.layer.padded();
        let depth = if self.xs.len() == *inputs { *inputs } else { DEPTH };
        for first in (0..*inputs).step_by(depth) {
            let depth = first..(first + depth).min(*inputs);
            let samples = self.xs.chunks_exact(*inputs * SAMPLES);
            let last = samples.remainder().chunks_exact(*inputs);
            let mut sums = self.sums.chunks_exact_mut(padded * SAMPLES);
            for (xs, sums) in samples.zip(sums.by_ref()) {
                tiles(simd, weight, xs, depth.clone(), sums);
            }
            for (xs, sums) in last.zip(sums.into_remainder().chunks_exact_mut(padded)) {
                let (values, last) = xs[depth.clone()].as_chunks::<ROWS>();
                for (k, values) in values.iter().enumerate() {
                    let mut at = [(first + k * ROWS) as u32; ROWS];
                    at.iter_mut().zip(0..).for_each(|(at, n)| *at += n);
                    add(simd, weight, &at, values, sums);
                }
                for (i, value) in (depth.end - last.len()..).zip(last) {
                    add(simd, weight, &[i as u32], &[*value], sums);
                }
            }
        }
    }
}

/// Adds the products of [`SAMPLES`] samples with the rows `depth` of `weight` to their sums.
#[inline(always)]
fn tiles<S: Simd>(simd: S, weight: &[f32], xs: &[f32], depth: Range<usize>, sums: &mut [f32]) {
    let padded = sums.len() / SAMPLES;
    let width = VECTORS * S::F32_LANES;
    for column in (0..padded).step_by(width) {
        match padded - column < width {
            false => tile::<S, VECTORS>(simd, weight, xs, depth.clone(), column, sums),
            true => tile::<S, 1>(simd, weight, xs, depth.clone(), column, sums),
        }
    }
}

/// [`tiles`] for `V` vectors of outputs from `column` on.
#[inline(always)]
fn tile<S: Simd, const V: usize>(
    simd: S,
    weight: &[f32],
    xs: &[f32],
    depth: Range<usize>,
    column: usize,
    sums: &mut [f32],
) {
    let (inputs, padded) = (xs.len() / SAMPLES, sums.len() / SAMPLES);
    let mut tile = [[simd.splat_f32s(0.0); V]; SAMPLES];
    for (tile, sums) in tile.iter_mut().zip(sums.chunks_exact(padded)) {
        tile.copy_from_slice(&S::as_simd_f32s(&sums[column..]).0[..V]);
    }
    for i in depth {
        let row = &S::as_simd_f32s(&weight[i * padded + column..]).0[..V];
        for (s, tile) in tile.iter_mut().enumerate() {
            let x = simd.splat_f32s(xs[s * inputs + i]);
            for (sum, w) in tile.iter_mut().zip(row) {
                *sum = simd.mul_add_e_f32s(x, *w, *sum);
            }
        }
    }
    for (tile, sums) in tile.iter().zip(sums.chunks_exact_mut(padded)) {
        S::as_mut_simd_f32s(&mut sums[column..]).0[..V].copy_from_slice(tile);
    }
}
