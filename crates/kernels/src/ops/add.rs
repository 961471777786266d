use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use crate::autograd::{Backward, Gradient, Op, apply, by_candle};
use crate::error::argument;
use crate::parallel::{CHUNK, filled};
use crate::simd::simd;
use crate::values::is_fast;

/// `xs + ys`: a residual connection, or a position embedding that is added to every sample.
///
/// candle's own `+` gives the same values; its backward pass costs several copies.
///
/// # Shapes
/// `xs`: any; `ys`: the last axes of `xs`, or all of them. The result has the shape of `xs`.
///
/// # Errors
/// When the shape of `ys` is not the last axes of `xs`.
pub fn add(xs: &Tensor, ys: &Tensor) -> Result<Tensor> {
    if !xs.dims().ends_with(ys.dims()) {
        return argument(format!(
            "add: expected a second tensor of shape {:?} or its last axes, found {:?}",
            xs.dims(),
            ys.dims()
        ));
    }
    if is_fast(&[xs, ys]) {
        apply(Add { shape: xs.shape().clone() }, &[xs, ys])
    } else {
        by_candle(twin::add(xs, ys))
    }
}

struct Add {
    shape: Shape,
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let (xs, ys) = (inputs[0], inputs[1]);
        let width = ys.len().max(1);
        // Whole repetitions of `ys`, or a part of a single one.
        let chunk = if width == xs.len() { CHUNK } else { (CHUNK / width).max(1) * width };
        // SAFETY: every element of the chunk has a value in `xs` and one in `ys`.
        unsafe {
            filled(xs.len(), chunk, |start, sums| {
                simd(
                    #[inline(always)]
                    || {
                        for (sums, xs) in sums.chunks_mut(width).zip(xs[start..].chunks(width)) {
                            for ((sum, x), y) in sums.iter_mut().zip(xs).zip(&ys[start % width..]) {
                                sum.write(x + y);
                            }
                        }
                    },
                )
            })
        }
    }

    fn backward(&self, Backward { inputs, grad_ys, wanted, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let grads = grad_ys.into_dense();
        let (width, len) = (inputs[1].len(), grads.len());
        let grad_ys = wanted[1]
            .then(|| Gradient::Dense(if width == len { grads.clone() } else { sum_of_rows(&grads, width) }));
        vec![Some(Gradient::Dense(grads)), grad_ys]
    }
}

/// The sum of all rows of `width` values. Each thread takes blocks of columns.
fn sum_of_rows(rows: &[f32], width: usize) -> Vec<f32> {
    const COLUMNS: usize = 128;
    let mut sums = vec![0.0; width];
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(b, sums)| {
        simd(
            #[inline(always)]
            || {
                for row in rows.chunks_exact(width) {
                    sums.iter_mut().zip(&row[b * COLUMNS..]).for_each(|(sum, x)| *sum += x);
                }
            },
        );
    });
    sums
}

pub(crate) mod twin {
    use super::*;

    /// See [`crate::add`].
    pub fn add(xs: &Tensor, ys: &Tensor) -> Result<Tensor> {
        xs.broadcast_add(ys)
    }
}
