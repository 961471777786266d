use pulp::bytemuck::cast;
use pulp::{Arch, Simd, WithSimd};

use crate::sparse::{compress, differs};

/// The inputs of a product as rows of (index, value): only the nonzero values of each row, or all, in the order of the
/// indices.
///
/// [`clear`](Self::clear) keeps the memory for the next rows.
#[derive(Clone, Debug, Default)]
pub struct Active {
    /// The index of every value in its row. This and `values` are longer than needed, because whole vectors are written.
    at: Vec<u32>,
    values: Vec<f32>,
    /// The end of each row in both.
    ends: Vec<usize>,
    /// Width of the widest row.
    width: usize,
}

/// Number of values after the last one that a whole vector can overwrite: the lanes of the widest vector.
const ROOM: usize = 16;

impl Active {
    /// No rows yet, with memory for this many rows and this many values in total.
    pub fn with_capacity(rows: usize, values: usize) -> Self {
        Self {
            at: vec![0; values + ROOM],
            values: vec![0.0; values + ROOM],
            ends: Vec::with_capacity(rows),
            width: 0,
        }
    }

    /// Removes all rows.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.width = 0;
    }

    /// Appends the nonzero values of rows of `width` values. NaN counts as nonzero, −0 as zero.
    pub fn push(&mut self, rows: &[f32], width: usize) {
        self.reserve(rows.len(), width);
        Arch::new().dispatch(Push { rows, width, to: self });
    }

    /// Appends all values of rows of `width` values.
    pub fn push_all(&mut self, rows: &[f32], width: usize) {
        self.reserve(rows.len(), width);
        for row in rows.chunks_exact(width.max(1)) {
            let (start, end) = (self.len(), self.len() + width);
            self.values[start..end].copy_from_slice(row);
            self.at[start..end].iter_mut().zip(0..).for_each(|(at, i)| *at = i);
            self.ends.push(end);
        }
    }

    /// Appends a row of `width` equal values; the row is empty if the value is 0.
    pub fn push_repeated(&mut self, value: f32, width: usize) {
        let (start, mut end) = (self.len(), self.len());
        if value != 0.0 {
            self.reserve(width, width);
            end += width;
            self.values[start..end].fill(value);
            self.at[start..end].iter_mut().zip(0..).for_each(|(at, i)| *at = i);
        }
        self.ends.push(end);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// Width of the widest row. All indices are below it.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of listed values in all rows.
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether no values are listed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Indices and values of a row; empty if there is no such row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let start = if row == 0 { 0 } else { self.ends.get(row - 1).copied().unwrap_or(0) };
        let end = self.ends.get(row).copied().unwrap_or(start);
        (&self.at[start..end], &self.values[start..end])
    }

    fn reserve(&mut self, more: usize, width: usize) {
        self.width = self.width.max(width);
        let needed = self.len() + more + ROOM;
        if self.at.len() < needed {
            self.at.resize(needed, 0);
            self.values.resize(needed, 0.0);
        }
    }
}

struct Push<'a> {
    rows: &'a [f32],
    width: usize,
    to: &'a mut Active,
}

impl WithSimd for Push<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        const FIRST: [u32; ROOM] = {
            let mut first = [0; ROOM];
            let mut i = 0;
            while i < ROOM {
                first[i] = i as u32;
                i += 1;
            }
            first
        };
        let lanes = S::F32_LANES;
        let (zero, step) = (simd.splat_f32s(0.0), simd.splat_u32s(lanes as u32));
        let first = S::as_simd_u32s(&FIRST).0[0];
        let Active { at, values, ends, .. } = self.to;
        let mut n = ends.last().copied().unwrap_or(0);
        if self.width == 1 {
            // Pixels of one channel: a row is too short for vectors.
            for x in self.rows {
                (at[n], values[n]) = (0, *x);
                n += usize::from(*x != 0.0);
                ends.push(n);
            }
            return;
        }
        for row in self.rows.chunks_exact(self.width.max(1)) {
            let (vectors, rest) = S::as_simd_f32s(row);
            let mut places = first;
            for xs in vectors {
                let keep = differs(simd, *xs, zero);
                S::as_mut_simd_f32s(&mut values[n..n + lanes]).0[0] = compress(simd, *xs, keep);
                S::as_mut_simd_u32s(&mut at[n..n + lanes]).0[0] = cast(compress(simd, cast(places), keep));
                n += keep.count_ones() as usize;
                places = simd.add_u32s(places, step);
            }
            for (i, x) in (row.len() - rest.len()..).zip(rest) {
                // Without a branch, because zeros are hard to predict.
                (at[n], values[n]) = (i as u32, *x);
                n += usize::from(*x != 0.0);
            }
            ends.push(n);
        }
    }
}
