use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::linear::Product;

/// The gradient of the loss by a tensor.
pub(crate) enum Gradient {
    /// A value per element, in row-major order.
    Dense(Vec<f32>),
    /// Behind max-pooling: only the winner of each window has one.
    Winners(Winners),
    /// By the weights of a linear layer.
    Product(Product),
}

/// Gradients at the winners of pooling windows; everywhere else it is 0.
pub(crate) struct Winners {
    /// The gradient of every pooled value, `(N, C, H', W')` in row-major order. Many are 0 once they have gone back through a ReLU.
    pub values: Vec<f32>,
    /// The pooled values themselves, of the same shape: those of the winners. Contiguous, in f32, on the CPU.
    pub ys: Tensor,
    /// Where in its own plane of H·W values each belongs; the same place may come more than once (overlapping windows: they add).
    pub positions: Arc<Vec<u32>>,
    /// Pooled values per plane, H'·W'.
    pub windows: usize,
    /// Values per plane before pooling, H·W.
    pub plane: usize,
}

impl Gradient {
    /// A value per element.
    pub fn into_dense(self) -> Vec<f32> {
        match self {
            Self::Dense(values) => values,
            Self::Winners(winners) => winners.scatter(),
            Self::Product(product) => product.values(),
        }
    }

    /// The sum of two gradients of one tensor.
    pub fn plus(self, other: Self) -> Self {
        let (mut sum, other) = (self.into_dense(), other.into_dense());
        sum.par_iter_mut().zip(&other).with_min_len(crate::cpu::CHUNK).for_each(|(a, b)| *a += *b);
        Self::Dense(sum)
    }
}

impl Winners {
    fn scatter(self) -> Vec<f32> {
        let planes = self.values.len() / self.windows.max(1);
        let mut dense = vec![0.0; planes * self.plane];
        let sources = self.values.par_chunks(self.windows).zip(self.positions.par_chunks(self.windows));
        dense.par_chunks_mut(self.plane.max(1)).zip(sources).for_each(|(plane, (values, positions))| {
            for (&position, &value) in positions.iter().zip(values) {
                plane[position as usize] += value;
            }
        });
        dense
    }
}
