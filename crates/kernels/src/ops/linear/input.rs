//! Inputs with a background value in most places: products over the other values only.
//!
//! With the background b and the sparse u = x − b: y = W·u + b·W·1 and dW = dyᵀ·u + b·Σdy.

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::activation::Activation;
use crate::gemm::{Matrix, transpose};
use crate::ops::activate::apply_to;
use crate::simd::{Aligned, sum};
use crate::sparse::{BLOCK, SIDE, Tiles};

/// The values of an input that differ from its background.
pub(super) struct SparseInput {
    background: f32,
    tiles: Tiles,
}

impl SparseInput {
    /// For an input in rows of `i` values.
    pub fn of(xs: &[f32], i: usize, background: f32) -> Self {
        Self { background, tiles: Tiles::of(xs, i, background) }
    }

    /// The share of values that differ from the background.
    pub fn density(&self) -> f64 {
        self.tiles.density()
    }

    /// `f(xs · weightᵀ + bias)`, `(n, o)`; `weight` is in rows of `i`.
    pub fn product(&self, weight: &[f32], i: usize, bias: Option<&[f32]>, f: Activation) -> Vec<f32> {
        let base = |outputs: Range<usize>, base: &mut [f32]| {
            for (o, base) in outputs.zip(base) {
                *base = bias.map_or(0.0, |bias| bias[o]);
                if self.background != 0.0 {
                    *base += self.background * sum(&weight[o * i..][..i]);
                }
            }
        };
        let weight_t = Matrix::new(weight, i).transposed();
        self.tiles.times(weight_t, weight.len() / i, base, |ys| apply_to(f, ys))
    }

    /// The same values by column.
    pub fn columns(&self) -> SparseColumns {
        SparseColumns { background: self.background, tiles: self.tiles.transposed() }
    }
}

/// The values of an input that differ from its background, by column.
pub(super) struct SparseColumns {
    background: f32,
    tiles: Tiles,
}

impl SparseColumns {
    /// At least the largest magnitude of the input; infinite or NaN if one value is.
    pub fn largest(&self) -> f32 {
        self.tiles.largest() + self.background.abs()
    }

    /// Writes the gradient of the weights, `gradsᵀ · xs`, for up to [`BLOCK`] outputs and some inputs, row by row.
    /// `grads` is the gradient of the result in rows of `o`, `sums` its sum over the batch. The inputs are whole tiles.
    pub fn products(
        &self,
        (grads, o): (&[f32], usize),
        sums: &[f32],
        (outputs, inputs): (Range<usize>, Range<usize>),
        out: &mut [MaybeUninit<f32>],
    ) {
        /// Inputs that are computed together.
        const INPUTS: usize = 4 * SIDE;
        let mut base = [0.0; BLOCK];
        base.iter_mut().zip(&sums[outputs.clone()]).for_each(|(base, sum)| *base = self.background * sum);
        let width = inputs.len();
        for first in inputs.clone().step_by(INPUTS) {
            let together = first..(first + INPUTS).min(inputs.end);
            let size = (together.len(), outputs.len());
            // SAFETY: `product` writes a row of `BLOCK` values for every input.
            let by_input = unsafe {
                Aligned::filled(together.len() * BLOCK, |by_input| {
                    self.tiles.product(together, Matrix::new(grads, o), outputs.clone(), &base, by_input);
                })
            };
            transpose(size, &by_input, BLOCK, &mut out[first - inputs.start..], width);
        }
    }
}
