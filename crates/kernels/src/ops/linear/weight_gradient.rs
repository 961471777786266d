use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use super::input::SparseColumns;
use super::one_row::SHARE;
use crate::autograd::{Pending, Tile, TileOp};
use crate::gemm::{Matrix, part, product, product_to, tiles};
use crate::parallel::{filled, largest};
use crate::simd::{Aligned, simd};
use crate::sparse::{BLOCK, SIDE, Tiles};
use crate::values::of_contiguous;

/// The gradient of a weight, `(o, i)`, as factors: `gradsᵀ · xs`.
pub(super) struct WeightGradient {
    pub n: usize,
    pub i: usize,
    pub o: usize,
    /// The gradient of the result, `(n, o)`.
    pub grads: Vec<f32>,
    pub factors: Factors,
}

/// The factors.
pub(super) enum Factors {
    /// All gradients with all inputs, a contiguous tensor.
    Dense(Tensor),
    /// The gradients of one sample with a copy of its inputs: an outer product.
    OneRow(Vec<f32>),
    /// The non-zero gradients, by output, and all inputs.
    SparseGradients(Tiles, Tensor),
    /// All gradients and their sums over the batch, and the inputs that differ from the background.
    SparseInput(SparseColumns, Vec<f32>),
}

/// Outputs whose gradients are computed together, as sums over non-zero gradients.
const HEIGHT: usize = 4 * SIDE;
/// Inputs whose gradients are computed together by sums over the input.
const WIDTH: usize = 18 * SIDE;

impl WeightGradient {
    /// The number of tiles of the rows, each a multiple of `unit` rows, and the same for columns.
    fn grid(&self) -> ((usize, usize), (usize, usize)) {
        let Self { n, i, o, .. } = *self;
        match &self.factors {
            // Along the longer side.
            Factors::Dense(_) if o < i => {
                let (of_rows, of_columns) = tiles((o, i, n));
                ((of_rows, 1), (of_columns, 16))
            }
            Factors::Dense(_) | Factors::OneRow(_) => ((tiles((i, o, n)).1, 1), (1, 1)),
            Factors::SparseGradients(..) => ((o.div_ceil(HEIGHT), HEIGHT), (i.div_ceil(BLOCK), BLOCK)),
            Factors::SparseInput(..) => ((o.div_ceil(BLOCK), BLOCK), (i.div_ceil(WIDTH), SIDE)),
        }
    }

    /// Writes all values of a tile, row by row.
    fn tile(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [MaybeUninit<f32>]) {
        let Self { n, i, o, .. } = *self;
        if out.is_empty() {
            return;
        }
        match &self.factors {
            Factors::Dense(xs) => of_contiguous(xs, |xs| {
                let grads = Matrix::new(&self.grads[rows.start..], o).transposed();
                let xs = Matrix::new(&xs[columns.start..], i);
                product_to((rows.len(), columns.len(), n), grads, xs, out);
            }),
            Factors::OneRow(x) => {
                let rows = self.grads[rows].iter().zip(out.chunks_exact_mut(columns.len()));
                simd(
                    #[inline(always)]
                    || {
                        for (grad, out) in rows {
                            for (out, x) in out.iter_mut().zip(&x[columns.clone()]) {
                                out.write(grad * x);
                            }
                        }
                    },
                );
            }
            Factors::SparseGradients(grads, xs) => {
                of_contiguous(xs, |xs| sums_of_rows(grads, Matrix::new(xs, i), (rows, columns), out));
            }
            Factors::SparseInput(xs, sums) => xs.products((&self.grads, o), sums, (rows, columns), out),
        }
    }
}

// SAFETY: `for_tiles` cuts rows and columns by `part` or by steps, which do not overlap and end at `o` and `i`.
unsafe impl Pending for WeightGradient {
    fn size(&self) -> (usize, usize) {
        (self.o, self.i)
    }

    fn values(&self) -> Vec<f32> {
        let Self { n, i, o, .. } = *self;
        if let Factors::Dense(xs) = &self.factors {
            let grads = Matrix::new(&self.grads, o).transposed();
            return of_contiguous(xs, |xs| product((o, i, n), grads, Matrix::new(xs, i)));
        }
        // SAFETY: a chunk is a number of rows, and `tile` writes all their values.
        unsafe {
            filled(o * i, BLOCK * i, |start, out| {
                self.tile(start / i..start / i + out.len() / i, 0..i, out);
            })
        }
    }

    fn for_tiles(&self, op: &TileOp<'_>) {
        let Self { i, o, .. } = *self;
        if let Factors::OneRow(x) = &self.factors {
            let some = |rows: Range<usize>| op(rows.clone(), 0..i, Tile::Outer(&self.grads[rows], x));
            return match i * o > SHARE {
                true => (0..o.div_ceil(BLOCK))
                    .into_par_iter()
                    .for_each(|k| some(k * BLOCK..((k + 1) * BLOCK).min(o))),
                false => some(0..o),
            };
        }
        let ((of_rows, row), (of_columns, column)) = self.grid();
        let run = |values: &mut Vec<f32>, t: usize| {
            let rows = part(o, of_rows, row, t / of_columns);
            let columns = part(i, of_columns, column, t % of_columns);
            let size = rows.len() * columns.len();
            values.clear();
            values.reserve(size);
            self.tile(rows.clone(), columns.clone(), &mut values.spare_capacity_mut()[..size]);
            // SAFETY: `tile` writes all values.
            unsafe { values.set_len(size) };
            op(rows, columns, Tile::Values(values));
        };
        match of_rows * of_columns {
            1 => run(&mut Vec::new(), 0),
            count => (0..count).into_par_iter().with_max_len(1).for_each_init(Vec::new, run),
        }
    }

    fn is_surely_finite(&self) -> bool {
        let largest_x = match &self.factors {
            Factors::Dense(xs) | Factors::SparseGradients(_, xs) => of_contiguous(xs, largest),
            Factors::OneRow(x) => largest(x),
            Factors::SparseInput(xs, _) => xs.largest(),
        };
        // A bound of the sums over the batch, in any order, of products and of gradients, with a background too.
        let bound = 4.0 * self.n as f64 * f64::from(largest(&self.grads)) * (1.0 + f64::from(largest_x));
        bound < f64::from(f32::MAX)
    }

    fn reads(&self) -> Option<&Tensor> {
        match &self.factors {
            Factors::Dense(xs) | Factors::SparseGradients(_, xs) => Some(xs),
            Factors::OneRow(_) | Factors::SparseInput(..) => None,
        }
    }
}

/// Writes the tile of `grads · xs` at these rows and columns, row by row.
fn sums_of_rows(
    grads: &Tiles,
    xs: Matrix<'_>,
    (rows, columns): (Range<usize>, Range<usize>),
    out: &mut [MaybeUninit<f32>],
) {
    let product = |columns: Range<usize>, out: &mut [_]| {
        grads.product(rows.clone(), xs, columns, &[0.0; BLOCK], out);
    };
    if columns.len() == BLOCK {
        return product(columns, out);
    }
    for first in columns.clone().step_by(BLOCK) {
        let block = first..(first + BLOCK).min(columns.end);
        // SAFETY: `product` writes a row of `BLOCK` values for every row.
        let padded = unsafe { Aligned::filled(rows.len() * BLOCK, |padded| product(block.clone(), padded)) };
        for (to, from) in out.chunks_exact_mut(columns.len()).zip(padded.chunks_exact(BLOCK)) {
            to[first - columns.start..][..block.len()].write_copy_of_slice(&from[..block.len()]);
        }
    }
}
