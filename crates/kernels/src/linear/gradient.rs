use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::sparse::SparseColumns;
use super::tiles::{BLOCK, SIDE, Tiles};
use super::{Compact, write};
use crate::cpu::{Aligned, filled, of_contiguous};
use crate::finite::largest;
use crate::product::{Matrix, part, product, product_to, tiles};

/// The gradient of a weight, `(o, i)`, that is yet to be multiplied out: `gradsᵀ · xs`.
pub(crate) struct Product {
    pub(super) n: usize,
    pub(super) i: usize,
    pub(super) o: usize,
    pub(super) factor: Factor,
    /// Of the result, `(n, o)`.
    pub(super) grads: Vec<f32>,
    /// Those that are not zero, by output, if many are zero.
    pub(super) active: Option<Tiles>,
    /// The same, summed up over the batch.
    pub(super) sums: Vec<f32>,
}

/// `xs`, or what of it has to be multiplied.
pub(super) enum Factor {
    /// Contiguous.
    All(Tensor),
    Varying(Arc<Compact>),
    Sparse(SparseColumns),
}

/// Outputs whose gradients are computed together where a product takes whole rows.
const ROWS: usize = 128;
/// The same where it is made by sums over gradients that are not zero.
const HEIGHT: usize = 4 * SIDE;
/// Inputs whose gradients are computed together where sums over these make it.
const WIDTH: usize = 18 * SIDE;

impl Product {
    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        (self.o, self.i)
    }

    /// The tensor that is read when it is multiplied out, unless what is needed was copied.
    pub fn xs(&self) -> Option<&Tensor> {
        match &self.factor {
            Factor::All(xs) => Some(xs),
            Factor::Varying(_) | Factor::Sparse(_) => None,
        }
    }

    /// Multiplied out, in row-major order.
    #[allow(unsafe_code)]
    pub fn values(&self) -> Vec<f32> {
        let Self { n, i, o, .. } = *self;
        match &self.factor {
            Factor::All(xs) if self.active.is_none() => {
                of_contiguous(xs, |xs| product((o, i, n), self.turned(0), Matrix::new(xs, i)))
            }
            // SAFETY: a chunk is a number of whole rows, and a tile is written with all its values.
            _ => unsafe {
                let rows = self.rows();
                filled(o * i, rows * i, |start, out| {
                    self.tile(start / i..start / i + out.len() / i, 0..i, out);
                })
            },
        }
    }

    /// Calls `op(rows, columns, values of these)` for tiles that cover it all, on all threads. They depend on nothing but
    /// the size.
    pub fn for_tiles(&self, op: impl Fn(Range<usize>, Range<usize>, &[f32]) + Sync) {
        let Self { n, i, o, .. } = *self;
        let ((of_rows, row), (of_columns, column)) = match &self.factor {
            Factor::All(_) if self.active.is_some() => {
                ((o.div_ceil(HEIGHT), HEIGHT), (i.div_ceil(BLOCK), BLOCK))
            }
            // Along the longer side.
            Factor::All(_) if o < i => {
                let (of_rows, of_columns) = tiles((o, i, n));
                ((of_rows, 1), (of_columns, 16))
            }
            Factor::All(_) => ((tiles((i, o, n)).1, 1), (1, 1)),
            Factor::Sparse(_) => ((o.div_ceil(BLOCK), BLOCK), (i.div_ceil(WIDTH), SIDE)),
            Factor::Varying(_) => ((o.div_ceil(ROWS), ROWS), (1, 1)),
        };
        let run = |t: usize| {
            let rows = part(o, of_rows, row, t / of_columns);
            let columns = part(i, of_columns, column, t % of_columns);
            let size = rows.len() * columns.len();
            let mut values = Vec::with_capacity(size);
            self.tile(rows.clone(), columns.clone(), &mut values.spare_capacity_mut()[..size]);
            // SAFETY: a tile is written with all its values.
            #[allow(unsafe_code)]
            unsafe {
                values.set_len(size);
            }
            op(rows, columns, &values);
        };
        match of_rows * of_columns {
            1 => run(0),
            tiles => (0..tiles).into_par_iter().with_max_len(1).for_each(run),
        }
    }

    /// How many rows are computed together where whole rows are.
    fn rows(&self) -> usize {
        match &self.factor {
            Factor::Sparse(_) => BLOCK,
            _ => ROWS,
        }
    }

    /// `gradsᵀ`, from output `first` on.
    fn turned(&self, first: usize) -> Matrix<'_> {
        Matrix::new(&self.grads[first..], self.o).transposed()
    }

    /// Writes all values of a tile, row by row; its columns are all that there are if the factor is [`Factor::Varying`].
    fn tile(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [MaybeUninit<f32>]) {
        let Self { n, i, o, .. } = *self;
        if out.is_empty() {
            return;
        }
        let grads = self.turned(rows.start);
        match &self.factor {
            Factor::All(xs) => of_contiguous(xs, |xs| match &self.active {
                Some(active) => sums_of_rows(active, xs, i, (rows, columns), out),
                None => {
                    let xs = Matrix::new(&xs[columns.start..], i);
                    product_to((rows.len(), columns.len(), n), grads, xs, out);
                }
            }),
            Factor::Varying(compact) => {
                let width = compact.width;
                let mut varying = Vec::with_capacity(rows.len() * width);
                let room = &mut varying.spare_capacity_mut()[..rows.len() * width];
                match &self.active {
                    Some(active) => sums_of_rows(active, &compact.xs, width, (rows.clone(), 0..width), room),
                    None => product_to((rows.len(), width, n), grads, Matrix::new(&compact.xs, width), room),
                }
                // SAFETY: the product has written all of it.
                #[allow(unsafe_code)]
                unsafe {
                    varying.set_len(rows.len() * width);
                }
                compact.spread(&varying, &self.sums[rows], out);
            }
            Factor::Sparse(sparse) => sparse.products((&self.grads, o), &self.sums, (rows, columns), out),
        }
    }

    /// Whether no value can be NaN or infinite, as the factors are so small. They are few beside the values.
    pub fn is_surely_finite(&self) -> bool {
        let largest_x = match &self.factor {
            Factor::All(xs) => of_contiguous(xs, largest),
            // A sum, because a maximum would lose NaN.
            Factor::Varying(compact) => largest(&compact.xs) + largest(&compact.first),
            Factor::Sparse(sparse) => sparse.largest(),
        };
        // Sums over the batch in any order, of products and of gradients alone, also where a background is set apart.
        let bound = 4.0 * self.n as f64 * f64::from(largest(&self.grads)) * (1.0 + f64::from(largest_x));
        bound < f64::from(f32::MAX)
    }
}

/// The tile of `active · xs` at these rows and columns, row by row; `xs` is in rows of `width`.
#[allow(unsafe_code)]
fn sums_of_rows(
    active: &Tiles,
    xs: &[f32],
    width: usize,
    (rows, columns): (Range<usize>, Range<usize>),
    out: &mut [MaybeUninit<f32>],
) {
    let product = |columns: Range<usize>, out: &mut [_]| {
        active.product(rows.clone(), Matrix::new(xs, width), columns, &[0.0; BLOCK], out);
    };
    if columns.len() == BLOCK {
        return product(columns, out);
    }
    for first in columns.clone().step_by(BLOCK) {
        let block = first..(first + BLOCK).min(columns.end);
        // SAFETY: as many values as are asked for.
        let apart = unsafe { Aligned::filled(rows.len() * BLOCK, |apart| product(block.clone(), apart)) };
        for (to, from) in out.chunks_exact_mut(columns.len()).zip(apart.chunks_exact(BLOCK)) {
            to[first - columns.start..][..block.len()].write_copy_of_slice(&from[..block.len()]);
        }
    }
}

impl Compact {
    /// Puts the gradients of varying columns in their places, in rows as long as those of the weights. Those of a constant
    /// column are the sums over the batch times the constant.
    fn spread(&self, varying: &[f32], sums: &[f32], out: &mut [MaybeUninit<f32>]) {
        let i = self.first.len();
        for (row, (sum, out)) in sums.iter().zip(out.chunks_exact_mut(i)).enumerate() {
            let (mut varying, mut column, mut rest) = (&varying[row * self.width..], 0, out);
            for run in self.runs.iter().chain([&(i..i)]) {
                let (constant, behind) = rest.split_at_mut(run.start - column);
                for (grad, x) in constant.iter_mut().zip(&self.first[column..]) {
                    grad.write(sum * x);
                }
                rest = write(behind, &varying[..run.len()]);
                (varying, column) = (&varying[run.len()..], run.end);
            }
        }
    }
}
