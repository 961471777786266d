use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::lists::Lists;
use super::sums::{BLOCK, ListSums, Prefetch};
use crate::gemm::{Matrix, part, transpose};
use crate::parallel::filled_by_columns;
use crate::simd::{Aligned, simd};

/// Rows and columns of a tile. This many rows of [`BLOCK`] values fit the first-level cache.
pub(crate) const SIDE: usize = 64;
/// Rows of a product that are computed together.
const ROWS: usize = 16 * SIDE;

/// The values of a matrix that differ from its background, minus the background.
pub(crate) struct Tiles {
    rows: usize,
    columns: usize,
    /// Tiles of [`SIDE`] rows and columns, or fewer at the ends, row of tiles by row of tiles.
    tiles: Vec<Lists>,
}

impl Tiles {
    /// The number of columns of the matrix.
    pub fn of(matrix: &[f32], columns: usize, background: f32) -> Self {
        let rows = matrix.len() / columns;
        let (down, across) = (rows.div_ceil(SIDE), columns.div_ceil(SIDE));
        let tile = |t: usize| {
            let (row, column) = (t / across * SIDE, t % across * SIDE);
            let width = SIDE.min(columns - column);
            let rows = matrix[row * columns..].chunks_exact(columns).take(SIDE);
            Lists::of(rows.map(|row| &row[column..][..width]), width, background)
        };
        Self { rows, columns, tiles: (0..down * across).into_par_iter().map(tile).collect() }
    }

    /// The transpose.
    pub fn transposed(&self) -> Self {
        let (down, across) = (self.rows.div_ceil(SIDE), self.across());
        let tile = |t: usize| self.tiles[t % down * across + t / down].transposed();
        let tiles = (0..across * down).into_par_iter().map(tile).collect();
        Self { rows: self.columns, columns: self.rows, tiles }
    }

    fn across(&self) -> usize {
        self.columns.div_ceil(SIDE)
    }

    /// The share of values that differ from the background.
    pub fn density(&self) -> f64 {
        let entries: usize = self.tiles.iter().map(|lists| lists.entries().len()).sum();
        entries as f64 / (self.rows * self.columns) as f64
    }

    /// The largest magnitude.
    pub fn largest(&self) -> f32 {
        let bits = self.tiles.iter().flat_map(Lists::entries).map(|entry| entry.value.abs().to_bits());
        f32::from_bits(bits.max().unwrap_or(0))
    }

    /// The product with a matrix of `width` columns, in blocks of columns on all threads. `base(columns, values)` sets
    /// the initial sums, which are zeros before; `finish` gets the results while they are in the cache.
    pub fn times(
        &self,
        dense: Matrix<'_>,
        width: usize,
        base: impl Fn(Range<usize>, &mut [f32]) + Sync,
        finish: impl Fn(&mut [f32]) + Sync,
    ) -> Vec<f32> {
        let parts = self.parts(width);
        // SAFETY: all rows are written.
        unsafe {
            filled_by_columns((self.rows, width), BLOCK, |first, mut results| {
                let columns = first..(first + BLOCK).min(width);
                let mut start = [0.0; BLOCK];
                base(columns.clone(), &mut start[..columns.len()]);
                for row in (0..self.rows).step_by(ROWS) {
                    let rows = row..(row + ROWS).min(self.rows);
                    let sums = |p: usize| {
                        let (tiles, base) =
                            (part(self.across(), parts, 1, p), if p == 0 { &start } else { &[0.0; BLOCK] });
                        // SAFETY: `sums` writes `rows` times `BLOCK` values.
                        Aligned::filled(rows.len() * BLOCK, |sums| {
                            self.sums(rows.clone(), tiles, dense, columns.clone(), base, sums);
                        })
                    };
                    let mut sums: Vec<Aligned> = (0..parts).into_par_iter().map(sums).collect();
                    let (products, others) = sums.split_first_mut().expect("there is one part at least");
                    for other in others {
                        products.iter_mut().zip(other.iter()).for_each(|(sum, other)| *sum += other);
                    }
                    finish(products);
                    for (row, products) in rows.zip(products.chunks_exact(BLOCK)) {
                        results.row(row).write_copy_of_slice(&products[..columns.len()]);
                    }
                }
            })
        }
    }

    /// The number of parts of the sums of a product with too few blocks of columns; each part is worth waking a thread.
    /// It depends on the size only, so the result has the same bits with any number of threads.
    fn parts(&self, width: usize) -> usize {
        const BLOCKS: usize = 4;
        const TILES: usize = 16;
        (BLOCKS / width.div_ceil(BLOCK).max(1)).min(self.across() / TILES).max(1)
    }

    /// Writes `base` plus the product of these rows with up to [`BLOCK`] columns of a matrix, in rows of [`BLOCK`]. The
    /// rows are whole tiles.
    pub fn product(
        &self,
        rows: Range<usize>,
        dense: Matrix<'_>,
        columns: Range<usize>,
        base: &[f32; BLOCK],
        out: &mut [MaybeUninit<f32>],
    ) {
        self.sums(rows, 0..self.across(), dense, columns, base, out);
    }

    /// The same for some tiles of these rows.
    fn sums(
        &self,
        rows: Range<usize>,
        tiles: Range<usize>,
        dense: Matrix<'_>,
        columns: Range<usize>,
        base: &[f32; BLOCK],
        out: &mut [MaybeUninit<f32>],
    ) {
        let (across, mut panel) = (self.across(), Panel([MaybeUninit::uninit(); SIDE * BLOCK]));
        let ends_tile = rows.end.is_multiple_of(SIDE) || rows.end == self.rows;
        assert!(
            !tiles.is_empty() && rows.start.is_multiple_of(SIDE) && ends_tile && rows.end <= self.rows,
            "{rows:?} are not whole tiles"
        );
        for t in tiles.clone() {
            let below = self.columns_of(t);
            let panel = panel.fill(dense, below, columns.clone());
            let mut next = Prefetch::of(dense, self.columns_of(t + 1), columns.clone());
            let lists = self.tiles[rows.start / SIDE * across + t..].iter().step_by(across);
            for (lists, out) in lists.zip(out[..rows.len() * BLOCK].chunks_mut(SIDE * BLOCK)) {
                let sums = ListSums { lists, rows: panel, next: std::mem::take(&mut next) };
                if t == tiles.start {
                    sums.write(base, out);
                } else {
                    // SAFETY: the first tiles have written them.
                    sums.add(unsafe { out.assume_init_mut() });
                }
            }
        }
    }

    /// The columns of tile `t` of a row of tiles.
    fn columns_of(&self, t: usize) -> Range<usize> {
        let end = |t: usize| (t * SIDE).min(self.columns);
        end(t)..end(t + 1)
    }
}

/// The rows of a dense matrix that one tile is multiplied with; on the stack, so no other thread has it in its cache.
#[repr(align(64))]
struct Panel([MaybeUninit<f32>; SIDE * BLOCK]);

impl Panel {
    /// These rows and columns of a row-major or column-major matrix, in rows of [`BLOCK`] with zero padding.
    fn fill(&mut self, matrix: Matrix<'_>, rows: Range<usize>, columns: Range<usize>) -> &[f32] {
        let to = &mut self.0[..rows.len() * BLOCK];
        if matrix.column == 1 {
            gather(matrix, rows, columns, to);
        } else {
            if columns.len() < BLOCK {
                to.fill(MaybeUninit::new(0.0));
            }
            assert_eq!(matrix.row, 1, "a matrix in columns");
            let from = &matrix.data[columns.start * matrix.column + rows.start..];
            transpose((columns.len(), rows.len()), from, matrix.column, to, BLOCK);
        }
        // SAFETY: all of it is written above.
        unsafe { to.assume_init_ref() }
    }
}

/// Writes these rows and columns of a row-major matrix, with zero padding.
fn gather(matrix: Matrix<'_>, rows: Range<usize>, columns: Range<usize>, to: &mut [MaybeUninit<f32>]) {
    let from = rows.map(|row| &matrix.data[row * matrix.row..][columns.clone()]);
    let rows = from.zip(to.as_chunks_mut::<BLOCK>().0);
    simd(
        #[inline(always)]
        || {
            for (from, to) in rows {
                match from.as_array::<BLOCK>() {
                    Some(from) => *to = from.map(MaybeUninit::new),
                    None => {
                        to.fill(MaybeUninit::new(0.0));
                        to[..from.len()].write_copy_of_slice(from);
                    }
                }
            }
        },
    );
}
