use candle_core::shape::Dim;
use candle_core::{D, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::autograd::{Backward, Gradient, Op, apply, by_candle};
use crate::math::exp;
use crate::parallel::CHUNK;
use crate::simd::{WIDE, by_wide, simd, sum_by, total};
use crate::values::{is_fast, of_contiguous};

/// `e^x / Σ e^x` over an axis.
///
/// # Shapes
/// Any; the result has the shape of `xs`.
///
/// # Errors
/// When there is no such axis.
pub fn softmax<A: Dim>(xs: &Tensor, axis: A) -> Result<Tensor> {
    along(xs, axis, false)
}

/// `x − ln Σ e^x` over an axis, the logarithm of [`softmax`] without underflow.
///
/// # Shapes
/// Any; the result has the shape of `xs`.
///
/// # Errors
/// When there is no such axis.
pub fn log_softmax<A: Dim>(xs: &Tensor, axis: A) -> Result<Tensor> {
    along(xs, axis, true)
}

fn along<A: Dim>(xs: &Tensor, axis: A, log: bool) -> Result<Tensor> {
    let axis = axis.to_index(xs.shape(), "softmax")?;
    if !is_fast(&[xs]) || xs.elem_count() == 0 {
        return by_candle(twin::along(xs, axis, log));
    }
    let xs = xs.transpose(axis, D::Minus1)?;
    let width = xs.dim(D::Minus1)?;
    apply(Softmax { log, width, shape: xs.shape().clone() }, &[&xs])?.transpose(axis, D::Minus1)
}

/// Over the last axis.
struct Softmax {
    log: bool,
    width: usize,
    shape: Shape,
}

/// The largest value; NaN is ignored.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; WIDE];
    let (chunks, rest) = row.as_chunks::<WIDE>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(max, x)| *max = if *x > *max { *x } else { *max });
    }
    lanes.iter_mut().zip(rest).for_each(|(max, x)| *max = if *x > *max { *x } else { *max });
    lanes.iter().fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max })
}

/// Replaces every x of a row by `e^(scale · x) / Σ e^(scale · x)`; for use within [`simd`]. A NaN makes the whole row
/// NaN.
#[inline(always)]
pub(super) fn softmax_row(row: &mut [f32], scale: f32) {
    let max = largest(row);
    let mut sums = [0.0; WIDE];
    by_wide(
        row,
        f32::NEG_INFINITY,
        #[inline(always)]
        |xs| {
            for (x, sum) in xs.iter_mut().zip(&mut sums) {
                *x = exp((*x - max) * scale);
                *sum += *x;
            }
        },
    );
    let share = 1.0 / total(sums);
    row.iter_mut().for_each(|x| *x *= share);
}

#[inline(always)]
fn log_softmax_row(row: &mut [f32]) {
    let max = largest(row);
    let mut sums = [0.0; WIDE];
    let (chunks, rest) = row.as_chunks::<WIDE>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += exp(x - max));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += exp(x - max));
    let log_sum = max + total(sums).ln();
    row.iter_mut().for_each(|x| *x -= log_sum);
}

impl Softmax {
    /// Values for one task, in whole rows.
    fn chunk(&self) -> usize {
        (CHUNK / self.width).max(1) * self.width
    }

    /// Turns the gradients of a row's results `ys` into the gradients of its inputs.
    #[inline(always)]
    fn backward_row(&self, ys: &[f32], grads: &mut [f32]) {
        if self.log {
            let sum = sum_by(
                grads,
                grads,
                #[inline(always)]
                |grad, _| grad,
            );
            for (grad, y) in grads.iter_mut().zip(ys) {
                *grad -= exp(*y) * sum;
            }
        } else {
            let mean = sum_by(
                grads,
                ys,
                #[inline(always)]
                |grad, y| grad * y,
            );
            for (grad, y) in grads.iter_mut().zip(ys) {
                *grad = (*grad - mean) * y;
            }
        }
    }
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let mut ys = inputs[0].to_vec();
        ys.par_chunks_mut(self.chunk()).for_each(|rows| {
            simd(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact_mut(self.width) {
                        if self.log { log_softmax_row(row) } else { softmax_row(row, 1.0) }
                    }
                },
            );
        });
        ys
    }

    fn backward(&self, Backward { ys, grad_ys, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let mut grads = grad_ys.into_dense();
        of_contiguous(ys, |ys| {
            let chunks = grads.par_chunks_mut(self.chunk()).zip(ys.par_chunks(self.chunk()));
            chunks.for_each(|(grads, ys)| {
                simd(
                    #[inline(always)]
                    || {
                        let rows = grads.chunks_exact_mut(self.width).zip(ys.chunks_exact(self.width));
                        rows.for_each(|(grads, ys)| self.backward_row(ys, grads));
                    },
                );
            });
        });
        vec![Some(Gradient::Dense(grads))]
    }
}

pub(crate) mod twin {
    use super::*;

    /// See [`crate::softmax`].
    pub fn softmax<A: Dim>(xs: &Tensor, axis: A) -> Result<Tensor> {
        along(xs, axis, false)
    }

    /// See [`crate::log_softmax`].
    pub fn log_softmax<A: Dim>(xs: &Tensor, axis: A) -> Result<Tensor> {
        along(xs, axis, true)
    }

    pub(super) fn along<A: Dim>(xs: &Tensor, axis: A, log: bool) -> Result<Tensor> {
        let axis = axis.to_index(xs.shape(), "softmax")?;
        if xs.elem_count() == 0 {
            return Ok(xs.clone());
        }
        let xs = xs.broadcast_sub(&xs.detach().max_keepdim(axis)?)?;
        let powers = xs.exp()?;
        let sum = powers.sum_keepdim(axis)?;
        if log { xs.broadcast_sub(&sum.log()?) } else { powers.broadcast_div(&sum) }
    }
}
