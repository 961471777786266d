//! Inputs most of whose values are the same, such as images with a background: products over the others alone.
//!
//! With the background b and u = x − b, most of which is 0: y = W·u + b·W·1 and dW = dyᵀ·u + b·Σdy.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::cpu::{Aligned, filled, sum};

/// Outputs that are computed together: their sums stay in registers.
const BLOCK: usize = 64;
/// Sums of that many lists are made together: a tile of them stays in the first-level cache.
const TILE: usize = 32;
/// The share of values that may differ from the background for sums over these alone to be the faster way.
const SPARSE: f64 = 0.35;
/// Turning the weights costs as much as this many samples gain.
const FEWEST: usize = 32;

/// A value other than the background, less the background.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// Its column in a list of a row, its row in a list of a column.
    at: u32,
    value: f32,
}

/// Entries, row by row or column by column.
#[derive(Default)]
struct Lists {
    entries: Vec<Entry>,
    /// Where each list ends in `entries`.
    ends: Vec<usize>,
}

impl Lists {
    fn list(&self, k: usize) -> &[Entry] {
        let start = if k == 0 { 0 } else { self.ends[k - 1] };
        &self.entries[start..self.ends[k]]
    }
}

/// The values of an input that are not its background.
pub(super) struct Sparse {
    background: f32,
    /// Columns.
    width: usize,
    /// Of [`TILE`] rows each, or fewer at the end.
    rows: Vec<Lists>,
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
        let rows = xs.par_chunks(TILE * i).map(|xs| {
            let mut lists = Lists::default();
            for row in xs.chunks_exact(i) {
                for (chunk, xs) in (0..).step_by(8).zip(row.chunks(8)) {
                    // Most stretches are background throughout.
                    if xs.iter().fold(false, |differs, x| differs | (*x != background)) {
                        let entries = (chunk..).zip(xs).filter(|(_, x)| **x != background);
                        lists.entries.extend(entries.map(|(at, x)| Entry { at, value: x - background }));
                    }
                }
                lists.ends.push(lists.entries.len());
            }
            lists
        });
        Some(Self { background, width: i, rows: rows.collect() })
    }

    /// `xs · weightᵀ + bias`, `(n, o)`.
    #[allow(unsafe_code)]
    pub fn product(&self, weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let i = self.width;
        let o = weight.len() / i;
        let blocks = turned(weight, i);
        let mut base = bias.map_or_else(|| vec![0.0; o], <[f32]>::to_vec);
        if self.background != 0.0 {
            let rows = base.par_iter_mut().zip(weight.par_chunks_exact(i)).with_min_len(BLOCK);
            rows.for_each(|(base, row)| *base += self.background * sum(row));
        }
        let n: usize = self.rows.iter().map(|lists| lists.ends.len()).sum();
        // SAFETY: the blocks cover all outputs of each row.
        unsafe {
            filled(n * o, TILE * o, |start, ys| {
                let lists = &self.rows[start / o / TILE];
                let mut tile = Aligned::new(TILE * BLOCK);
                for (b, block) in blocks.chunks_exact(i * BLOCK).enumerate() {
                    let own = b * BLOCK..((b + 1) * BLOCK).min(o);
                    let all = 0..lists.ends.len();
                    Arch::new().dispatch(Sums { lists, range: all, rows: block, out: &mut tile });
                    for (ys, sums) in ys.chunks_exact_mut(o).zip(tile.chunks_exact(BLOCK)) {
                        for ((y, sum), base) in ys[own.clone()].iter_mut().zip(sums).zip(&base[own.clone()]) {
                            y.write(sum + base);
                        }
                    }
                }
            })
        }
    }

    /// `gradsᵀ · xs`, `(o, i)`: the gradient of the weights from that of the result, `(n, o)`, and its sums over the
    /// batch.
    #[allow(unsafe_code)]
    pub fn grad_weight(&self, grads: &[f32], sums: &[f32]) -> Vec<f32> {
        let (o, i) = (sums.len(), self.width);
        let columns = self.columns();
        // SAFETY: the tiles cover all columns of each row.
        unsafe {
            filled(o * i, BLOCK * i, |start, rows| {
                let own = start / i..start / i + rows.len() / i;
                let mut block = Aligned::new(grads.len() / o * BLOCK);
                for (to, from) in block.chunks_exact_mut(BLOCK).zip(grads.chunks_exact(o)) {
                    to[..own.len()].copy_from_slice(&from[own.clone()]);
                }
                let mut tile = Aligned::new(TILE * BLOCK);
                for first in (0..i).step_by(TILE) {
                    let range = first..(first + TILE).min(i);
                    let lists = &columns;
                    Arch::new().dispatch(Sums { lists, range: range.clone(), rows: &block, out: &mut tile });
                    for ((k, row), sum) in rows.chunks_exact_mut(i).enumerate().zip(&sums[own.clone()]) {
                        let base = self.background * sum;
                        for (j, grad) in row[range.clone()].iter_mut().enumerate() {
                            grad.write(tile[j * BLOCK + k] + base);
                        }
                    }
                }
            })
        }
    }

    /// The same entries by column: sorted by counting.
    fn columns(&self) -> Lists {
        let mut ends = vec![0; self.width + 1];
        for entry in self.rows.iter().flat_map(|lists| &lists.entries) {
            ends[entry.at as usize + 1] += 1;
        }
        for j in 1..ends.len() {
            ends[j] += ends[j - 1];
        }
        // Now where each list starts; when all entries are in their places, where it ends.
        let mut entries = vec![Entry::default(); ends[self.width]];
        let rows = self.rows.iter().flat_map(|lists| (0..lists.ends.len()).map(|k| lists.list(k)));
        for (at, row) in (0..).zip(rows) {
            for entry in row {
                let end = &mut ends[entry.at as usize];
                entries[*end] = Entry { at, value: entry.value };
                *end += 1;
            }
        }
        ends.pop();
        Lists { entries, ends }
    }
}

/// Weights `(o, i)` in blocks of [`BLOCK`] outputs, each `(i, BLOCK)`.
#[allow(unsafe_code)]
fn turned(weight: &[f32], i: usize) -> Vec<f32> {
    const LINE: usize = 16;
    let blocks = (weight.len() / i).div_ceil(BLOCK);
    // SAFETY: of each block, the outputs that there are are written in the first loop, the others in the second.
    unsafe {
        filled(blocks * i * BLOCK, i * BLOCK, |start, block: &mut [MaybeUninit<f32>]| {
            let rows = &weight[start..(start + i * BLOCK).min(weight.len())];
            for first in (0..i).step_by(LINE) {
                let columns = first..(first + LINE).min(i);
                let block = &mut block[first * BLOCK..columns.end * BLOCK];
                for (k, row) in rows.chunks_exact(i).enumerate() {
                    for (line, x) in block.chunks_exact_mut(BLOCK).zip(&row[columns.clone()]) {
                        line[k].write(*x);
                    }
                }
                for line in block.chunks_exact_mut(BLOCK) {
                    line[rows.len() / i..].fill(MaybeUninit::new(0.0));
                }
            }
        })
    }
}

/// For every list of a range, the sum of its entries times the `rows` of [`BLOCK`] values that they are at.
struct Sums<'a> {
    lists: &'a Lists,
    range: Range<usize>,
    rows: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many accumulators as hide the latency of an addition, and no more than there are registers.
        match S::F32_LANES {
            16.. => self.run::<S, 4>(simd),
            8 => self.run::<S, 8>(simd),
            _ => self.run::<S, 16>(simd),
        }
    }
}

impl Sums<'_> {
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize>(self, simd: S) {
        let (rows, _) = S::as_simd_f32s(self.rows);
        let (out, _) = S::as_mut_simd_f32s(self.out);
        let vectors = BLOCK / S::F32_LANES;
        for (k, out) in self.range.zip(out.chunks_exact_mut(vectors)) {
            for (part, out) in out.chunks_exact_mut(VECTORS).enumerate() {
                let mut sums = [simd.splat_f32s(0.0); VECTORS];
                for entry in self.lists.list(k) {
                    let value = simd.splat_f32s(entry.value);
                    let row = &rows[entry.at as usize * vectors + part * VECTORS..][..VECTORS];
                    for (sum, x) in sums.iter_mut().zip(row) {
                        *sum = simd.mul_add_f32s(value, *x, *sum);
                    }
                }
                out.copy_from_slice(&sums);
            }
        }
    }
}
