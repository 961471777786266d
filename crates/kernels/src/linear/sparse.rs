//! Inputs most of whose values are the same, such as images with a background or what lies behind ReLU: products over the
//! others alone.
//!
//! With the background b and u = x − b, most of which is 0: y = W·u + b·W·1 and dW = dyᵀ·u + b·Σdy.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::FEWEST;
use super::tiles::{BLOCK, SIDE, Tiles};
use crate::activate::apply_to;
use crate::activation::Activation;
use crate::cpu::{Aligned, sum};
use crate::product::Matrix;
use crate::transpose::transpose;

/// Inputs whose gradients are computed together.
const INPUTS: usize = 4 * SIDE;

/// The values of an input that are not its background.
pub(super) struct Sparse {
    background: f32,
    tiles: Tiles,
}

/// The share of values of a matrix in rows of `width` that are not `background`, by some of its rows.
pub(super) fn density(values: &[f32], width: usize, background: f32) -> f64 {
    let rows = values.chunks_exact(width);
    let some = rows.step_by((values.len() / width / 8).max(1));
    let (found, all) = some.fold((0, 0), |(found, all), row| {
        (found + row.iter().filter(|x| **x != background).count(), all + row.len())
    });
    found as f64 / all.max(1) as f64
}

impl Sparse {
    /// Of an input in rows of `i` values, of which at most a share of `most` is not 0, or not like its first value, the
    /// corner of an image.
    pub fn of(xs: &[f32], i: usize, most: f64) -> Option<Self> {
        let suits = |background: &f32| background.is_finite() && density(xs, i, *background) <= most;
        if xs.len() / i < FEWEST {
            return None;
        }
        let background = [*xs.first()?, 0.0].into_iter().find(suits)?;
        Some(Self { background, tiles: Tiles::of(xs, i, background) })
    }

    /// The share of values that are not the background.
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
        let turned = Matrix::new(weight, i).transposed();
        self.tiles.times(turned, weight.len() / i, base, |ys| apply_to(f, ys))
    }

    /// The same values by column.
    pub fn columns(&self) -> SparseColumns {
        SparseColumns { background: self.background, tiles: self.tiles.turned() }
    }
}

/// The values of an input that are not its background, by column.
pub(super) struct SparseColumns {
    background: f32,
    tiles: Tiles,
}

impl SparseColumns {
    /// At least as much as the largest magnitude of the input; infinite or NaN if one value is.
    pub fn largest(&self) -> f32 {
        self.tiles.largest() + self.background.abs()
    }

    /// `gradsᵀ · xs` for up to [`BLOCK`] outputs and some inputs, row by row: the gradient of their weights from that of the
    /// result, in rows of `o`, and its sums over the batch. The first input begins a tile, and the last one ends one.
    #[allow(unsafe_code)]
    pub fn products(
        &self,
        (grads, o): (&[f32], usize),
        sums: &[f32],
        (outputs, inputs): (Range<usize>, Range<usize>),
        out: &mut [MaybeUninit<f32>],
    ) {
        let mut base = [0.0; BLOCK];
        base.iter_mut().zip(&sums[outputs.clone()]).for_each(|(base, sum)| *base = self.background * sum);
        let width = inputs.len();
        for first in inputs.clone().step_by(INPUTS) {
            let together = first..(first + INPUTS).min(inputs.end);
            let size = (together.len(), outputs.len());
            // SAFETY: as many values as are asked for.
            let turned = unsafe {
                Aligned::filled(together.len() * BLOCK, |turned| {
                    self.tiles.product(together, Matrix::new(grads, o), outputs.clone(), &base, turned);
                })
            };
            transpose(size, &turned, BLOCK, &mut out[first - inputs.start..], width);
        }
    }
}
