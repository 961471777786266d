use std::mem::MaybeUninit;
use std::ops::Range;

use ::gemm::Parallelism;
use rayon::prelude::*;

use super::matrix::Matrix;
use crate::parallel::DisjointSlices;

/// `dst = lhs · rhs`, or `dst += lhs · rhs`, on this thread; `lhs` is m×k, `rhs` k×n, `dst` m×n in rows of n.
pub(crate) fn matmul(
    (m, n, k): (usize, usize, usize),
    dst: &mut [f32],
    accumulate: bool,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    let product = Product::new((m, n, k), DisjointSlices::of(dst), accumulate, lhs, rhs);
    // SAFETY: `dst` is initialised and borrowed mutably; this is the only tile.
    unsafe { product.tile(0..m, 0..n) };
}

/// `dst = lhs · rhs` on this thread, as [`matmul`]; rows of `dst` are `row` values apart.
pub(crate) fn matmul_rows(
    (m, n, k): (usize, usize, usize),
    dst: &mut [f32],
    row: usize,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    assert!(row >= n && Matrix::new(dst, row).holds(m, n), "matrix product out of bounds");
    let product = Product { row, ..Product::new((m, n, k), DisjointSlices::of(dst), false, lhs, rhs) };
    // SAFETY: `dst` is initialised and borrowed mutably, and holds all rows; this is the only tile.
    unsafe { product.tile(0..m, 0..n) };
}

/// `lhs · rhs` in rows of n, written to `dst` on this thread; `lhs` is m×k, `rhs` k×n.
pub(crate) fn product_to(
    (m, n, k): (usize, usize, usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    dst: &mut [MaybeUninit<f32>],
) {
    if k == 0 {
        return dst.fill(MaybeUninit::new(0.0));
    }
    // SAFETY: `dst` is borrowed mutably.
    let dst = unsafe { DisjointSlices::at(dst.as_mut_ptr().cast(), dst.len()) };
    let product = Product::new((m, n, k), dst, false, lhs, rhs);
    // SAFETY: `dst` is only written; this is the only tile.
    unsafe { product.tile(0..m, 0..n) };
}

/// `lhs · rhs` in rows of n, by all threads; `lhs` is m×k, `rhs` k×n.
pub(crate) fn product(size: (usize, usize, usize), lhs: Matrix<'_>, rhs: Matrix<'_>) -> Vec<f32> {
    product_then(size, lhs, rhs, &|_, _, _| ())
}

/// The same; `finish(row, first column, values)` is called with every part of a row while it is in the cache.
pub(crate) fn product_then(
    (m, n, k): (usize, usize, usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    finish: &(dyn Fn(usize, usize, &mut [f32]) + Sync),
) -> Vec<f32> {
    if k == 0 {
        let mut zeros = vec![0.0; m * n];
        zeros.chunks_exact_mut(n.max(1)).enumerate().for_each(|(row, values)| finish(row, 0, values));
        return zeros;
    }
    let size = m.checked_mul(n).expect("a product that fits into memory");
    let mut values = Vec::with_capacity(size);
    // SAFETY: there is room for m×n values, and `values` outlives the tiles.
    let dst = unsafe { DisjointSlices::at(values.as_mut_ptr(), size) };
    let product = Product::new((m, n, k), dst, false, lhs, rhs);
    let run = |rows: Range<usize>, columns: Range<usize>| {
        // SAFETY: there is room for m×n values, which are only written, and no element is in two tiles.
        unsafe { product.tile(rows.clone(), columns.clone()) };
        for row in rows {
            // SAFETY: the tile is written, and no other thread has it.
            let own = unsafe { dst.part(row * n + columns.start..row * n + columns.end) };
            finish(row, columns.start, own);
        }
    };
    let (of_rows, of_columns) = tiles((m, n, k));
    match of_rows * of_columns {
        1 => run(0..m, 0..n),
        // `gemm` multiplies six rows at a time, by vectors of up to sixteen columns.
        count => (0..count).into_par_iter().with_max_len(1).for_each(|i| {
            run(part(m, of_rows, 6, i / of_columns), part(n, of_columns, 16, i % of_columns));
        }),
    }
    // SAFETY: the tiles cover all of it, and each has been written.
    unsafe { values.set_len(size) };
    values
}

/// The number of tiles into which a product is cut for all threads: `(of rows, of columns)`.
///
/// `gemm`'s own parallelism gains almost nothing at the sizes of a batch. A tile must be worth waking a thread, and
/// wide enough to fill vectors and to reuse what `gemm` packs; the longer side is cut. The tiles depend on the size
/// only, so the result has the same bits with any number of threads.
pub(crate) fn tiles((m, n, k): (usize, usize, usize)) -> (usize, usize) {
    const OPERATIONS: usize = 1 << 22;
    let worth = m.saturating_mul(n).saturating_mul(k) / OPERATIONS;
    // An even number of columns gives two threads equal shares.
    let even = |tiles: usize| if tiles > 2 { tiles.next_multiple_of(2) } else { tiles.max(1) };
    match (m, n) {
        (_, 256..) => (1, even(worth.min(n / 128))),
        (256.., _) | (_, ..128) => (even(worth.min(m / 64)), 1),
        _ => (1, worth.clamp(1, 2)),
    }
}

/// The `i`-th of `parts` nearly equal parts of `0..len`; all but the last end at a multiple of `unit`.
pub(crate) fn part(len: usize, parts: usize, unit: usize, i: usize) -> Range<usize> {
    let end = |i: usize| (len.div_ceil(unit) * i / parts * unit).min(len);
    end(i)..end(i + 1)
}

/// `dst = lhs · rhs`, or `dst += lhs · rhs`, computed tile by tile.
struct Product<'a> {
    /// m, n and k.
    size: (usize, usize, usize),
    dst: DisjointSlices<'a>,
    /// The distance between rows of `dst`.
    row: usize,
    accumulate: bool,
    lhs: Matrix<'a>,
    rhs: Matrix<'a>,
}

impl<'a> Product<'a> {
    fn new(
        (m, n, k): (usize, usize, usize),
        dst: DisjointSlices<'a>,
        accumulate: bool,
        lhs: Matrix<'a>,
        rhs: Matrix<'a>,
    ) -> Self {
        let fits = m.checked_mul(n).is_some_and(|size| size <= dst.len());
        assert!(fits && lhs.holds(m, k) && rhs.holds(k, n), "matrix product out of bounds");
        Self { size: (m, n, k), dst, row: n, accumulate, lhs, rhs }
    }

    /// Computes these rows and columns.
    ///
    /// # Safety
    /// No other thread has an element of the tile; for adding, the elements are initialised.
    unsafe fn tile(&self, rows: Range<usize>, columns: Range<usize>) {
        let ((m, n, k), Self { dst, row, lhs, rhs, .. }) = (self.size, self);
        assert!(rows.end <= m && columns.end <= n, "tile {rows:?}, {columns:?} of a product of {m}×{n}");
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        // SAFETY: `new` has checked that the operands and `dst` contain every element that the strides reach. The
        // operands are borrowed, so they do not overlap `dst`; the caller ensures the rest.
        unsafe {
            ::gemm::gemm(
                rows.len(),
                columns.len(),
                k,
                dst.pointer().add(rows.start * row + columns.start),
                1,
                *row as isize,
                self.accumulate,
                lhs.data.as_ptr().add(rows.start * lhs.row),
                lhs.column as isize,
                lhs.row as isize,
                rhs.data.as_ptr().add(columns.start * rhs.column),
                rhs.column as isize,
                rhs.row as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}
