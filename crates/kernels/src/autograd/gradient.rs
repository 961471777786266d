use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::parallel::CHUNK;

/// The gradient of the loss with respect to a tensor.
pub(crate) enum Gradient {
    /// A value per element, in row-major order.
    Dense(Vec<f32>),
    /// Only some elements have one, as after max-pooling.
    Scattered(Scattered),
    /// Not computed yet.
    Pending(Box<dyn Pending>),
}

/// A matrix gradient that is computed when its values are needed. The gradient of a weight is often the largest tensor
/// of a step, and writing and reading it again costs memory bandwidth.
///
/// # Safety
/// [`Pending::for_tiles`] calls `op` with ranges within [`Pending::size`] and with each element in at most one tile: the
/// optimiser's step writes the parameters of a tile without a lock.
pub(crate) unsafe trait Pending: Send + Sync {
    /// Rows and columns.
    fn size(&self) -> (usize, usize);

    /// All values, in row-major order.
    fn values(&self) -> Vec<f32>;

    /// Calls `op(rows, columns, tile)` for tiles that cover the matrix, on all threads. Each element is in one tile; the
    /// tiles depend on the size only.
    fn for_tiles(&self, op: &TileOp<'_>);

    /// Whether the factors are small enough that no value can be NaN or infinite. Otherwise the values must be checked.
    fn is_surely_finite(&self) -> bool;

    /// A tensor that is read when values are computed, and must not change until then.
    fn reads(&self) -> Option<&Tensor>;
}

/// A function of rows, columns and the gradient there.
pub(crate) type TileOp<'a> = dyn Fn(Range<usize>, Range<usize>, Tile<'_>) + Sync + 'a;

/// Some rows and columns of a gradient.
#[derive(Clone, Copy)]
pub(crate) enum Tile<'a> {
    /// All values, row by row.
    Values(&'a [f32]),
    /// The outer product of a value per row and a value per column.
    Outer(&'a [f32], &'a [f32]),
}

impl<'a> Tile<'a> {
    /// The `k`-th row of `width` values: a factor, and the values it multiplies.
    #[inline(always)]
    pub fn row(self, k: usize, width: usize) -> (f32, &'a [f32]) {
        match self {
            Self::Values(values) => (1.0, &values[k * width..][..width]),
            Self::Outer(rows, columns) => (rows[k], columns),
        }
    }
}

/// Gradients at some positions of each plane of `(N, C, H, W)`; everywhere else they are 0.
pub(crate) struct Scattered {
    /// The gradients, `(N, C, windows)`. After a backward step through ReLU many are 0.
    pub values: Vec<f32>,
    /// The elements with these gradients, of the same shape: contiguous, in f32, on the CPU. `None` after a backward
    /// step through an activation function, whose inputs are other elements.
    pub ys: Option<Tensor>,
    /// The index of each in its plane. An index may appear several times (overlapping windows); its gradients add.
    pub positions: Arc<Vec<u32>>,
    /// Gradients per plane.
    pub windows: usize,
    /// Elements per plane, H·W.
    pub plane: usize,
}

impl Gradient {
    /// A value per element.
    pub fn into_dense(self) -> Vec<f32> {
        match self {
            Self::Dense(values) => values,
            other => other.to_dense(),
        }
    }

    /// A copy with a value per element.
    pub fn to_dense(&self) -> Vec<f32> {
        match self {
            Self::Dense(values) => values.clone(),
            Self::Scattered(scattered) => scattered.to_dense(),
            Self::Pending(pending) => pending.values(),
        }
    }

    /// The sum of two gradients of one tensor.
    pub fn plus(self, other: Self) -> Self {
        let (mut sum, other) = (self.into_dense(), other.into_dense());
        sum.par_iter_mut().zip(&other).with_min_len(CHUNK).for_each(|(a, b)| *a += *b);
        Self::Dense(sum)
    }
}

impl Scattered {
    fn to_dense(&self) -> Vec<f32> {
        let planes = self.values.len() / self.windows.max(1);
        let mut dense = vec![0.0; planes * self.plane];
        let sources =
            self.values.par_chunks(self.windows.max(1)).zip(self.positions.par_chunks(self.windows.max(1)));
        dense.par_chunks_mut(self.plane.max(1)).zip(sources).for_each(|(plane, (values, positions))| {
            for (&position, &value) in positions.iter().zip(values) {
                plane[position as usize] += value;
            }
        });
        dense
    }
}
