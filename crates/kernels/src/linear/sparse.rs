//! Inputs most of whose values are the same, such as images with a background: products over the others alone.
//!
//! With the background b and u = x − b, most of which is 0: y = W·u + b·W·1 and dW = dyᵀ·u + b·Σdy.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::activate::apply_to;
use crate::activation::Activation;
use crate::cpu::{Aligned, filled_by_columns, simd, sum};
use crate::transpose::transpose;

/// Outputs that are computed together: their sums stay in registers.
pub(super) const BLOCK: usize = 64;
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
        let rows = xs.par_chunks(TILE * i).map(|xs| Lists::of(xs, i, background));
        Some(Self { background, width: i, rows: rows.collect(), by_column: OnceLock::new() })
    }

    /// The share of values that are not the background.
    pub fn density(&self) -> f64 {
        let entries: usize = self.rows.iter().map(|lists| lists.entries.len()).sum();
        let samples: usize = self.rows.iter().map(|lists| lists.ends.len()).sum();
        entries as f64 / (samples * self.width) as f64
    }

    /// `f(xs · weightᵀ + bias)`, `(n, o)`: by blocks of outputs, whose weights stay in the second-level cache for all samples.
    #[allow(unsafe_code)]
    pub fn product(&self, weight: &[f32], bias: Option<&[f32]>, f: Activation) -> Vec<f32> {
        let i = self.width;
        let (n, o) = (self.rows.iter().map(|lists| lists.ends.len()).sum(), weight.len() / i);
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
                    let range = 0..lists.ends.len();
                    Arch::new().dispatch(Sums { lists, range, rows: &turned, base: &base, out: &mut tile });
                    apply_to(f, &mut tile);
                    for (k, sums) in tile.chunks_exact(BLOCK).take(lists.ends.len()).enumerate() {
                        ys.row(t * TILE + k).write_copy_of_slice(&sums[..outputs]);
                    }
                }
            })
        }
    }

    /// At least as much as the largest magnitude of the input; infinite or NaN if one value is.
    pub fn largest(&self) -> f32 {
        let bits = |entry: &Entry| entry.value.abs().to_bits();
        let largest = self.rows.iter().flat_map(|lists| &lists.entries).map(bits).max();
        f32::from_bits(largest.unwrap_or(0)) + self.background.abs()
    }

    /// The same entries by column.
    pub fn columns(&self) -> &SparseColumns {
        self.by_column.get_or_init(|| self.sorted())
    }

    /// Sorted by counting.
    fn sorted(&self) -> SparseColumns {
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
        SparseColumns { background: self.background, lists: Lists { entries, ends } }
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
        let i = self.lists.ends.len();
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
            Arch::new().dispatch(Sums {
                lists: &self.lists,
                range,
                rows: &block,
                base: &base,
                out: &mut tile,
            });
            transpose(size, &tile, BLOCK, &mut out[first..], i);
        }
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
