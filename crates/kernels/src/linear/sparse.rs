//! Inputs most of whose values are the same, such as images with a background: products over the others alone.
//!
//! With the background b and u = x − b, most of which is 0: y = W·u + b·W·1 and dW = dyᵀ·u + b·Σdy.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::FEWEST;
use super::lists::Lists;
use super::sums::{BLOCK, Sums};
use crate::activate::apply_to;
use crate::activation::Activation;
use crate::cpu::{Aligned, filled_by_columns, sum};
use crate::transpose::transpose;

/// Sums of that many lists are made together: a tile of them stays in the first-level cache.
const TILE: usize = 32;
/// The share of values that may differ from the background for sums over these alone to be the faster way.
const SPARSE: f64 = 0.35;

/// The values of an input that are not its background.
pub(super) struct Sparse {
    background: f32,
    /// Columns.
    width: usize,
    /// Of [`TILE`] rows each, or fewer at the end.
    rows: Vec<Lists>,
    by_column: OnceLock<SparseColumns>,
}

impl Sparse {
    /// Of an input in rows of `i` values, if its first value, the corner of an image, is that of most.
    pub fn of(xs: &[f32], i: usize) -> Option<Self> {
        let background = *xs.first()?;
        let n = xs.len() / i;
        let sample = xs.chunks_exact(i).step_by((n / 8).max(1));
        let differing: usize =
            sample.clone().map(|row| row.iter().filter(|x| **x != background).count()).sum();
        let is_sparse = differing as f64 <= SPARSE * (sample.len() * i) as f64;
        if n < FEWEST || !background.is_finite() || !is_sparse {
            return None;
        }
        let rows = xs.par_chunks(TILE * i).map(|xs| Lists::of(xs.chunks_exact(i), i, background));
        Some(Self { background, width: i, rows: rows.collect(), by_column: OnceLock::new() })
    }

    /// The share of values that are not the background.
    pub fn density(&self) -> f64 {
        let entries: usize = self.rows.iter().map(|lists| lists.entries().len()).sum();
        let samples: usize = self.rows.iter().map(|lists| lists.len()).sum();
        entries as f64 / (samples * self.width) as f64
    }

    /// `f(xs · weightᵀ + bias)`, `(n, o)`: by blocks of outputs, whose weights stay in the second-level cache for all samples.
    #[allow(unsafe_code)]
    pub fn product(&self, weight: &[f32], bias: Option<&[f32]>, f: Activation) -> Vec<f32> {
        let i = self.width;
        let (n, o) = (self.rows.iter().map(|lists| lists.len()).sum(), weight.len() / i);
        // SAFETY: every row of the block is written, for the lists are those of all rows; and so is what is turned.
        unsafe {
            filled_by_columns((n, o), BLOCK, |first, mut ys| {
                let weight = &weight[first * i..(first + BLOCK).min(o) * i];
                let outputs = weight.len() / i;
                // Written as a whole, or filled with zeros first.
                let turned = Aligned::filled(i * BLOCK, |turned| {
                    if outputs < BLOCK {
                        turned.fill(MaybeUninit::new(0.0));
                    }
                    transpose((outputs, i), weight, i, turned, BLOCK);
                });
                let mut base = Aligned::new(BLOCK);
                for (o, base) in base[..outputs].iter_mut().enumerate() {
                    *base = bias.map_or(0.0, |bias| bias[first + o]);
                    if self.background != 0.0 {
                        *base += self.background * sum(&weight[o * i..][..i]);
                    }
                }
                let mut tile = Aligned::new(TILE * BLOCK);
                for (t, lists) in self.rows.iter().enumerate() {
                    let range = 0..lists.len();
                    Sums { lists, range, rows: &turned }.put(Some(&base), &mut tile);
                    apply_to(f, &mut tile);
                    for (k, sums) in tile.chunks_exact(BLOCK).take(lists.len()).enumerate() {
                        ys.row(t * TILE + k).write_copy_of_slice(&sums[..outputs]);
                    }
                }
            })
        }
    }

    /// At least as much as the largest magnitude of the input; infinite or NaN if one value is.
    pub fn largest(&self) -> f32 {
        let bits = self.rows.iter().flat_map(Lists::entries).map(|entry| entry.value.abs().to_bits());
        f32::from_bits(bits.max().unwrap_or(0)) + self.background.abs()
    }

    /// The same entries by column.
    pub fn columns(&self) -> &SparseColumns {
        let lists = || SparseColumns { background: self.background, lists: Lists::turned(&self.rows) };
        self.by_column.get_or_init(lists)
    }
}

/// The values of an input that are not its background, by column.
pub(super) struct SparseColumns {
    background: f32,
    lists: Lists,
}

impl SparseColumns {
    /// `gradsᵀ · xs` for up to [`BLOCK`] outputs, row by row: the gradient of their weights from that of the result,
    /// `(n, o)`, and its sums over the batch.
    pub fn products(
        &self,
        grads: &[f32],
        o: usize,
        outputs: Range<usize>,
        sums: &[f32],
        out: &mut [MaybeUninit<f32>],
    ) {
        let i = self.lists.len();
        let mut block = Aligned::new(grads.len() / o * BLOCK);
        for (to, from) in block.chunks_exact_mut(BLOCK).zip(grads.chunks_exact(o)) {
            to[..outputs.len()].copy_from_slice(&from[outputs.clone()]);
        }
        let mut base = Aligned::new(BLOCK);
        base.iter_mut().zip(&sums[outputs.clone()]).for_each(|(base, sum)| *base = self.background * sum);
        let mut tile = Aligned::new(TILE * BLOCK);
        for first in (0..i).step_by(TILE) {
            let range = first..(first + TILE).min(i);
            let size = (range.len(), outputs.len());
            Sums { lists: &self.lists, range, rows: &block }.put(Some(&base), &mut tile);
            transpose(size, &tile, BLOCK, &mut out[first..], i);
        }
    }
}
