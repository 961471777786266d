use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::lists::Lists;
use crate::gemm::Matrix;
use crate::simd::prefetch;

/// Columns of a product that are computed together: their sums stay in registers.
pub(crate) const BLOCK: usize = 128;

/// For every list the sum of its entries, each times its row of `rows`: [`BLOCK`] values.
pub(super) struct ListSums<'a> {
    pub lists: &'a Lists,
    pub rows: &'a [f32],
    /// Prefetched meanwhile, because it is read next.
    pub next: Prefetch<'a>,
}

/// A part of a matrix that is prefetched while another part is computed. Each row is in another page, which the
/// hardware does not prefetch.
#[derive(Clone, Copy, Default)]
pub(super) struct Prefetch<'a> {
    values: &'a [f32],
    /// The distance between rows.
    row: usize,
    /// The number of values of each row.
    width: usize,
    rows: usize,
}

impl<'a> Prefetch<'a> {
    /// These rows and columns of a row-major or column-major matrix.
    pub fn of(matrix: Matrix<'a>, rows: Range<usize>, columns: Range<usize>) -> Self {
        let first = rows.start * matrix.row + columns.start * matrix.column;
        let values = matrix.data.get(first..).unwrap_or_default();
        match matrix.column {
            1 => Self { values, row: matrix.row, width: columns.len(), rows: rows.len() },
            column => Self { values, row: column, width: rows.len(), rows: columns.len() },
        }
    }

    /// Prefetches the `i`-th `share` of the rows.
    #[inline(always)]
    fn issue(&self, i: usize, share: usize) {
        for row in i * share..((i + 1) * share).min(self.rows) {
            prefetch(self.values.as_ptr().wrapping_add(row * self.row), self.width);
        }
    }
}

impl ListSums<'_> {
    /// Writes the sums to `out`, list by list, with `base` added to each.
    pub fn write(self, base: &[f32; BLOCK], out: &mut [MaybeUninit<f32>]) {
        Arch::new().dispatch(SumKernel { sums: self, base: Some(base), out });
    }

    /// Adds the sums to `out`, list by list.
    pub fn add(self, out: &mut [f32]) {
        let (first, len) = (out.as_mut_ptr().cast(), out.len());
        // SAFETY: the same memory, borrowed as long; `Run` only writes values, so all of it stays initialised.
        let out = unsafe { std::slice::from_raw_parts_mut(first, len) };
        Arch::new().dispatch(SumKernel { sums: self, base: None, out });
    }
}

struct SumKernel<'a> {
    sums: ListSums<'a>,
    /// The initial value of all sums. `None`: the values of `out`, which are initialised.
    base: Option<&'a [f32; BLOCK]>,
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for SumKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Enough sums to hide the latency of an addition, but not more than registers.
        match S::F32_LANES {
            8.. => self.run::<S, 8>(simd),
            _ => self.run::<S, 16>(simd),
        }
    }
}

impl SumKernel<'_> {
    /// `VECTORS` vectors side by side.
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize>(self, simd: S) {
        let ListSums { lists, rows, next } = self.sums;
        let parts = BLOCK / S::F32_LANES / VECTORS;
        let rows = S::as_simd_f32s(rows).0.as_chunks::<VECTORS>().0;
        assert!(lists.width() <= rows.len() / parts, "entries refer to rows beyond the panel");
        let share = next.rows.div_ceil(lists.len().max(1));
        let out = S::as_uninit_mut_simd_f32s(self.out).0.as_chunks_mut::<VECTORS>().0;
        for (k, (list, out)) in lists.iter().zip(out.chunks_exact_mut(parts)).enumerate() {
            next.issue(k, share);
            for (part, out) in out.iter_mut().enumerate() {
                let mut sums: [S::f32s; VECTORS] = match self.base {
                    Some(base) => S::as_simd_f32s(base).0.as_chunks().0[part],
                    // SAFETY: `add` sets no base, and its `out` is initialised.
                    None => out.map(|there| unsafe { there.assume_init() }),
                };
                for entry in list {
                    let value = simd.splat_f32s(entry.value);
                    // SAFETY: `Lists` ensures that every entry is below its width, which the assertion compares with the rows.
                    let row = unsafe { rows.get_unchecked(entry.at as usize * parts + part) };
                    for (sum, x) in sums.iter_mut().zip(row) {
                        *sum = simd.mul_add_e_f32s(value, *x, *sum);
                    }
                }
                out.write_copy_of_slice(&sums);
            }
        }
    }
}
