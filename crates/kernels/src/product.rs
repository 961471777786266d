//! The matrix product: `gemm`'s, cut into tiles.

use std::mem::MaybeUninit;
use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use crate::cpu::Lent;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod amx;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use amx::Panel;

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
    unsafe { gemm(size, dst.as_mut_ptr(), accumulate, lhs, rhs, None) }
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
    unsafe { gemm(size, dst.as_mut_ptr().cast(), false, lhs, rhs, None) }
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
        gemm((m, n, k), dst.as_mut_ptr(), false, lhs, rhs, Some(finish));
        dst.set_len(m * n);
    }
    dst
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

/// `dst = lhs · rhs`, or `dst += lhs · rhs`: by this thread, or by all, who finish what they have written.
///
/// # Safety
/// `dst` is valid for writing m×n values; when adding, they are initialised.
#[allow(unsafe_code)]
unsafe fn gemm(
    (m, n, k): (usize, usize, usize),
    dst: *mut f32,
    accumulate: bool,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    finish: Option<Finish<'_>>,
) {
    assert!(lhs.holds(m, k) && rhs.holds(k, n), "matrix product out of bounds");
    let to = Product { size: (m, n, k), dst: Lent::at(dst, m * n), accumulate, lhs, rhs };
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if let Some(simd) = amx::available()
        && to.suits_registers()
    {
        return to.in_registers(simd, finish);
    }
    let (of_rows, of_columns) = if finish.is_some() { tiles((m, n, k)) } else { (1, 1) };
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
#[derive(Clone, Copy)]
struct Product<'a> {
    size: (usize, usize, usize),
    dst: Lent<'a>,
    accumulate: bool,
    lhs: Matrix<'a>,
    rhs: Matrix<'a>,
}

impl Product<'_> {
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
    fn finish(&self, rows: Range<usize>, columns: Range<usize>, finish: Option<Finish<'_>>) {
        let Some(finish) = finish else { return };
        for row in rows {
            let own = row * self.size.1 + columns.start..row * self.size.1 + columns.end;
            // SAFETY: the tile has been written, and nobody else has it.
            finish(row, columns.start, unsafe { self.dst.part(own) });
        }
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
impl Product<'_> {
    /// Whether tile registers are the faster way: panels are full, and strides those of rows or columns.
    fn suits_registers(&self) -> bool {
        let (m, n, k) = self.size;
        let is_plain = |matrix: &Matrix<'_>| matrix.row == 1 || matrix.column == 1;
        m.min(n).min(k) >= amx::SIDE
            && m.saturating_mul(n).saturating_mul(k) >= 1 << 20
            && is_plain(&self.lhs)
            && is_plain(&self.rhs)
    }

    /// In tile registers, by bands of the longer side; the panels of the shorter one are made once.
    fn in_registers(self, simd: pulp::x86::V4, finish: Option<Finish<'_>>) {
        /// Longer panels would not stay in the second-level cache.
        const LONGEST: usize = 1024;
        let (m, n, k) = self.size;
        if k > LONGEST {
            for start in (0..k).step_by(LONGEST) {
                let k = LONGEST.min(k - start);
                let lhs = Matrix { data: &self.lhs.data[start * self.lhs.column..], ..self.lhs };
                let rhs = Matrix { data: &self.rhs.data[start * self.rhs.row..], ..self.rhs };
                let accumulate = self.accumulate || start > 0;
                let part = Product { size: (m, n, k), accumulate, lhs, rhs, dst: self.dst };
                // Everybody helps with every part, and the last one is finished.
                let nothing: Finish<'_> = &|_, _, _| ();
                part.in_registers(
                    simd,
                    finish.map(|finish| if start + LONGEST < self.size.2 { nothing } else { finish }),
                );
            }
            return;
        }
        let (by_rows, shared) = (m >= n, finish.is_some());
        let side = |i: usize, len: usize| i * amx::SIDE..((i + 1) * amx::SIDE).min(len);
        let rows_of = |i: usize| Panel::of_rows(simd, self.lhs, side(i, m), k);
        let columns_of = |i: usize| Panel::of_columns(simd, self.rhs, side(i, n), k);
        let (short, long) = if by_rows { (n, m) } else { (m, n) };
        let panel = |i: usize| if by_rows { columns_of(i) } else { rows_of(i) };
        let panels: Vec<Option<Panel>> = match (0..short.div_ceil(amx::SIDE), shared) {
            (all, true) => all.into_par_iter().with_max_len(1).map(panel).collect(),
            (all, false) => all.map(panel).collect(),
        };
        let band = |i: usize| {
            let own = if by_rows { rows_of(i) } else { columns_of(i) };
            let registers = amx::Registers::new(simd);
            for (j, other) in panels.iter().enumerate() {
                let (own_side, other_side) = (side(i, long), side(j, short));
                let (rows, columns) = if by_rows { (own_side, other_side) } else { (other_side, own_side) };
                let pair =
                    if by_rows { (own.as_ref(), other.as_ref()) } else { (other.as_ref(), own.as_ref()) };
                let (Some(lhs), Some(rhs)) = pair else {
                    self.tile(rows, columns);
                    continue;
                };
                // SAFETY: as for tiles by `gemm`.
                #[allow(unsafe_code)]
                unsafe {
                    let to = self.dst.pointer().add(rows.start * n + columns.start);
                    registers.product((lhs, rhs), (rows.len(), columns.len()), to, n, self.accumulate);
                }
            }
            let (rows, columns) = if by_rows { (side(i, m), 0..n) } else { (0..m, side(i, n)) };
            self.finish(rows, columns, finish);
        };
        match (0..long.div_ceil(amx::SIDE), shared) {
            (all, true) => all.into_par_iter().with_max_len(1).for_each(band),
            (all, false) => all.into_iter().for_each(band),
        }
    }
}
