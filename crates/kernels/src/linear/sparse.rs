//! Inputs most of whose values are the same, such as images with a background: products over the others alone.
//!
//! With the background b and u = x − b, most of which is 0: y = W·u + b·W·1 and dW = dyᵀ·u + b·Σdy.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::cpu::{Aligned, filled, simd, sum};
use crate::transpose::transpose;

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
    /// The entries of up to [`TILE`] rows of `i` values.
    fn of(xs: &[f32], i: usize, background: f32) -> Self {
        let mut lists = Self::default();
        // Stretches of eight are looked at together: most are background throughout.
        let mut found = vec![Entry::default(); i + 8];
        for row in xs.chunks_exact(i) {
            let mut n = 0;
            simd(
                #[inline(always)]
                || {
                    for (first, xs) in (0..).step_by(8).zip(row.chunks(8)) {
                        if xs.iter().fold(false, |differs, x| differs | (*x != background)) {
                            // Without a branch: nobody can predict where an image's edges are.
                            let room = &mut found[n..n + 8];
                            let mut here = 0;
                            for (at, x) in (first..).zip(xs) {
                                room[here] = Entry { at, value: x - background };
                                here += usize::from(*x != background);
                            }
                            n += here;
                        }
                    }
                },
            );
            lists.entries.extend_from_slice(&found[..n]);
            lists.ends.push(lists.entries.len());
        }
        lists
    }

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
        let rows = xs.par_chunks(TILE * i).map(|xs| Lists::of(xs, i, background));
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
        base.resize(blocks.len() / i, 0.0);
        let n: usize = self.rows.iter().map(|lists| lists.ends.len()).sum();
        // SAFETY: the blocks cover all outputs of each row.
        unsafe {
            filled(n * o, TILE * o, |start, ys| {
                let lists = &self.rows[start / o / TILE];
                let mut tile = Aligned::new(TILE * BLOCK);
                for (b, rows) in blocks.chunks_exact(i * BLOCK).enumerate() {
                    let (range, base) = (0..lists.ends.len(), &base[b * BLOCK..][..BLOCK]);
                    Arch::new().dispatch(Sums { lists, range, rows, base, out: &mut tile });
                    let own = b * BLOCK..((b + 1) * BLOCK).min(o);
                    for (ys, sums) in ys.chunks_exact_mut(o).zip(tile.chunks_exact(BLOCK)) {
                        ys[own.clone()].write_copy_of_slice(&sums[..own.len()]);
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
                let mut base = Aligned::new(BLOCK);
                base.iter_mut().zip(&sums[own]).for_each(|(base, sum)| *base = self.background * sum);
                let mut tile = Aligned::new(TILE * BLOCK);
                for first in (0..i).step_by(TILE) {
                    let range = first..(first + TILE).min(i);
                    let size = (range.len(), rows.len() / i);
                    let lists = &columns;
                    Arch::new().dispatch(Sums { lists, range, rows: &block, base: &base, out: &mut tile });
                    transpose(size, &tile, BLOCK, &mut rows[first..], i);
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
    let blocks = (weight.len() / i).div_ceil(BLOCK);
    // SAFETY: of each block, the outputs that there are are written first, then the others.
    unsafe {
        filled(blocks * i * BLOCK, i * BLOCK, |start, block: &mut [MaybeUninit<f32>]| {
            let rows = &weight[start..(start + i * BLOCK).min(weight.len())];
            let outputs = rows.len() / i;
            transpose((outputs, i), rows, i, block, BLOCK);
            if outputs < BLOCK {
                block.chunks_exact_mut(BLOCK).for_each(|line| line[outputs..].fill(MaybeUninit::new(0.0)));
            }
        })
    }
}

/// For every list of a range, `base` and the sum of the list's entries times the `rows` that they are at: [`BLOCK`]
/// values each.
struct Sums<'a> {
    lists: &'a Lists,
    range: Range<usize>,
    rows: &'a [f32],
    base: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many sums as hide the latency of an addition, and no more than there are registers.
        match S::F32_LANES {
            16.. => self.run::<S, 4, 2>(simd),
            8 => self.run::<S, 8, 1>(simd),
            _ => self.run::<S, 16, 1>(simd),
        }
    }
}

impl Sums<'_> {
    /// `VECTORS` side by side, of `AT_ONCE` entries.
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize, const AT_ONCE: usize>(self, simd: S) {
        let (rows, base) = (S::as_simd_f32s(self.rows).0, S::as_simd_f32s(self.base).0);
        let out = S::as_mut_simd_f32s(self.out).0;
        let vectors = BLOCK / S::F32_LANES;
        for (k, out) in self.range.zip(out.chunks_exact_mut(vectors)) {
            for (part, out) in out.chunks_exact_mut(VECTORS).enumerate() {
                let mut sums = [[simd.splat_f32s(0.0); VECTORS]; AT_ONCE];
                sums[0].copy_from_slice(&base[part * VECTORS..][..VECTORS]);
                let add = |sums: &mut [S::f32s; VECTORS], entry: &Entry| {
                    let value = simd.splat_f32s(entry.value);
                    let row = &rows[entry.at as usize * vectors + part * VECTORS..][..VECTORS];
                    for (sum, x) in sums.iter_mut().zip(row) {
                        *sum = simd.mul_add_f32s(value, *x, *sum);
                    }
                };
                let (chunks, rest) = self.lists.list(k).as_chunks::<AT_ONCE>();
                for entries in chunks {
                    sums.iter_mut().zip(entries).for_each(|(sums, entry)| add(sums, entry));
                }
                rest.iter().for_each(|entry| add(&mut sums[0], entry));
                let [first, others @ ..] = &mut sums[..] else { continue };
                for sums in others {
                    first.iter_mut().zip(sums).for_each(|(a, b)| *a = simd.add_f32s(*a, *b));
                }
                out.copy_from_slice(first);
            }
        }
    }
}
