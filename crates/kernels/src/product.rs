//! The matrix product: `gemm`'s, cut into tiles; large ones in the tile registers of CPUs that have them.

use std::mem::MaybeUninit;
use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use crate::cpu::Lent;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod amx;

/// A matrix in memory: element `(i, j)` is `data[i * row + j * column]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `width` values, one after the other.
    pub fn new(data: &'a [f32], width: usize) -> Self {
        Self { data, row: width, column: 1 }
    }

    /// The same values with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        let last = |n: usize, stride: usize| (n - 1).checked_mul(stride);
        let index = |rows, columns| last(rows, self.row)?.checked_add(last(columns, self.column)?);
        rows == 0 || columns == 0 || index(rows, columns).is_some_and(|last| last < self.data.len())
    }
}

/// `dst = lhs · rhs`, or `dst += lhs · rhs`, by this thread alone; `lhs` is m×k, `rhs` k×n, `dst` m×n in rows of n.
#[allow(unsafe_code)]
pub(crate) fn matmul(
    size: (usize, usize, usize),
    dst: &mut [f32],
    accumulate: bool,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    assert!(size.0.checked_mul(size.1).is_some_and(|size| size <= dst.len()), "matrix product out of bounds");
    // SAFETY: `dst` has room for m×n values, all of them initialised.
    unsafe { alone(size, dst.as_mut_ptr(), accumulate, lhs, rhs) }
}

/// `lhs · rhs` in rows of n, written to `dst` by this thread alone; `lhs` is m×k, `rhs` k×n.
#[allow(unsafe_code)]
pub(crate) fn product_to(
    size: (usize, usize, usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    dst: &mut [MaybeUninit<f32>],
) {
    assert!(size.0.checked_mul(size.1).is_some_and(|size| size <= dst.len()), "matrix product out of bounds");
    if size.2 == 0 {
        return dst.fill(MaybeUninit::new(0.0));
    }
    // SAFETY: `dst` has room for m×n values, and nothing is added to them.
    unsafe { alone(size, dst.as_mut_ptr().cast(), false, lhs, rhs) }
}

/// `lhs · rhs` in rows of n; `lhs` is m×k, `rhs` k×n.
pub(crate) fn product(size: (usize, usize, usize), lhs: Matrix<'_>, rhs: Matrix<'_>) -> Vec<f32> {
    product_then(size, lhs, rhs, &|_, _, _| ())
}

/// The same, of which every part of a row is finished while it is in the cache: `finish(row, first column, values)`.
#[allow(unsafe_code)]
pub(crate) fn product_then(
    (m, n, k): (usize, usize, usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    finish: Finish<'_>,
) -> Vec<f32> {
    if k == 0 {
        let mut zeros = vec![0.0; m * n];
        zeros.chunks_exact_mut(n.max(1)).enumerate().for_each(|(row, values)| finish(row, 0, values));
        return zeros;
    }
    let mut dst = Vec::with_capacity(m * n);
    // SAFETY: `dst` has room for m×n values, and the product writes them all.
    unsafe {
        shared((m, n, k), dst.as_mut_ptr(), lhs, rhs, finish);
        dst.set_len(m * n);
    }
    dst
}

/// Whether a product of this size that all threads share runs in tile registers on this CPU.
pub(crate) fn runs_in_registers(size: (usize, usize, usize)) -> bool {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    return amx::suits(size) && amx::available().is_some();
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    {
        let _ = size;
        false
    }
}

/// What is done with a part of a row: `(row, first column, values)`.
type Finish<'a> = &'a (dyn Fn(usize, usize, &mut [f32]) + Sync);

/// Into how many tiles a product is cut that all threads share: `(of rows, of columns)`.
///
/// `gemm`'s own way to share one leaves a second thread next to nothing to do at the sizes of a batch. A tile is worth
/// waking a thread for, and wide enough for vectors to be full and for what is packed to be used; the longer side is cut. The
/// number of threads plays no part, and so not a bit depends on it.
pub(crate) fn tiles((m, n, k): (usize, usize, usize)) -> (usize, usize) {
    const OPERATIONS: usize = 1 << 22;
    let worth = m.saturating_mul(n).saturating_mul(k) / OPERATIONS;
    // Of an even number two threads get as much each.
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

/// `dst = lhs · rhs`, or `dst += lhs · rhs`, by this thread.
///
/// # Safety
/// `dst` is valid for writing m×n values; when adding, they are initialised.
#[allow(unsafe_code)]
unsafe fn alone(
    size: (usize, usize, usize),
    dst: *mut f32,
    accumulate: bool,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    // SAFETY: the caller vouches for it.
    unsafe { Product::new(size, dst, accumulate, lhs, rhs) }.tile(0..size.0, 0..size.1);
}

/// `dst = lhs · rhs`, by all threads, who finish what they have written.
///
/// # Safety
/// `dst` is valid for writing m×n values.
#[allow(unsafe_code)]
unsafe fn shared(
    (m, n, k): (usize, usize, usize),
    dst: *mut f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    finish: Finish<'_>,
) {
    // SAFETY: the caller vouches for it, and nothing is added.
    let to = unsafe { Product::new((m, n, k), dst, false, lhs, rhs) };
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if to.suits_registers()
        && let Some(amx) = amx::available()
    {
        return to.in_registers(amx, finish);
    }
    let (of_rows, of_columns) = tiles((m, n, k));
    let tile = |rows: Range<usize>, columns: Range<usize>| {
        to.tile(rows.clone(), columns.clone());
        to.finish(rows, columns, finish);
    };
    if of_rows * of_columns == 1 {
        return tile(0..m, 0..n);
    }
    // Columns are those of vectors, of which sixteen values fill the longest; rows are multiplied six at a time.
    let cut = |i: usize| (part(m, of_rows, 6, i / of_columns), part(n, of_columns, 16, i % of_columns));
    (0..of_rows * of_columns).into_par_iter().with_max_len(1).for_each(|i| {
        let (rows, columns) = cut(i);
        tile(rows, columns)
    });
}

/// A product that is being made: `dst` is valid for writing m×n values, and when adding, they are initialised; the
/// operands hold as many values as the size says.
struct Product<'a> {
    size: (usize, usize, usize),
    dst: Lent<'a>,
    accumulate: bool,
    lhs: Matrix<'a>,
    rhs: Matrix<'a>,
}

impl<'a> Product<'a> {
    /// # Safety
    /// `dst` is valid for writing m×n values; when adding, they are initialised.
    #[allow(unsafe_code)]
    unsafe fn new(
        (m, n, k): (usize, usize, usize),
        dst: *mut f32,
        accumulate: bool,
        lhs: Matrix<'a>,
        rhs: Matrix<'a>,
    ) -> Self {
        assert!(lhs.holds(m, k) && rhs.holds(k, n), "matrix product out of bounds");
        Self { size: (m, n, k), dst: Lent::at(dst, m * n), accumulate, lhs, rhs }
    }

    /// A tile by `gemm`. No tile is made by two threads.
    #[allow(unsafe_code)]
    fn tile(&self, rows: Range<usize>, columns: Range<usize>) {
        let ((_, n, k), Self { dst, lhs, rhs, .. }) = (self.size, self);
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        // SAFETY: the operands hold every element that the strides reach, and `dst` all that are written, which overlaps
        // neither, as both are borrowed; and no element of it is in two tiles.
        unsafe {
            gemm::gemm(
                rows.len(),
                columns.len(),
                k,
                dst.pointer().add(rows.start * n + columns.start),
                1,
                n as isize,
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

    /// Finishes a tile that this thread has written.
    #[allow(unsafe_code)]
    fn finish(&self, rows: Range<usize>, columns: Range<usize>, finish: Finish<'_>) {
        for row in rows {
            let own = row * self.size.1 + columns.start..row * self.size.1 + columns.end;
            // SAFETY: the tile has been written, and nobody else has it.
            finish(row, columns.start, unsafe { self.dst.part(own) });
        }
    }
}
