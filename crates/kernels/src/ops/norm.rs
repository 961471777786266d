use std::sync::OnceLock;

use candle_core::{D, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::autograd::{Backward, Gradient, Op, apply, by_candle};
use crate::error::argument;
use crate::simd::{simd, sum_by};
use crate::values::is_fast;

/// Layer normalisation (Ba et al. 2016) over the last axis: `(x − mean) / √(variance + eps) · weight + bias`, with the
/// variance that divides by the number of values.
///
/// # Shapes
/// `xs`: `(.., F)`, `weight` and `bias`: `(F)`; the result has the shape of `xs`.
///
/// # Errors
/// When the shapes do not match.
pub fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let width = check("layer_norm", xs, &[("weight", weight), ("bias", bias)])?;
    if is_fast(&[xs, weight, bias]) && xs.elem_count() > 0 {
        apply(Norm::new(true, width, eps, xs), &[xs, weight, bias])
    } else {
        by_candle(twin::layer_norm(xs, weight, bias, eps))
    }
}

/// RMS normalisation (Zhang & Sennrich 2019) over the last axis: `x / √(mean of x² + eps) · weight`.
///
/// # Shapes
/// `xs`: `(.., F)`, `weight`: `(F)`; the result has the shape of `xs`.
///
/// # Errors
/// When the shapes do not match.
pub fn rms_norm(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let width = check("rms_norm", xs, &[("weight", weight)])?;
    if is_fast(&[xs, weight]) && xs.elem_count() > 0 {
        apply(Norm::new(false, width, eps, xs), &[xs, weight])
    } else {
        by_candle(twin::rms_norm(xs, weight, eps))
    }
}

/// The number of features, the length of every parameter.
fn check(name: &str, xs: &Tensor, parameters: &[(&str, &Tensor)]) -> Result<usize> {
    let Some(&width) = xs.dims().last() else {
        return argument(format!("{name}: expected inputs of at least one axis, found a scalar"));
    };
    for (what, parameter) in parameters {
        if parameter.dims() != [width] {
            return argument(format!(
                "{name}: expected a {what} of {width} values, as the last axis of the inputs, found shape {:?}",
                parameter.dims()
            ));
        }
    }
    Ok(width)
}

struct Norm {
    /// Whether the mean is subtracted.
    centred: bool,
    width: usize,
    eps: f32,
    shape: Shape,
    /// The mean (or 0) and the factor `1 / √(variance + eps)` of every row.
    rows: OnceLock<Vec<(f32, f32)>>,
}

/// Rows for one task; the sums over rows are added block by block.
const ROWS: usize = 64;

impl Norm {
    fn new(centred: bool, width: usize, eps: f64, xs: &Tensor) -> Self {
        Self { centred, width, eps: eps as f32, shape: xs.shape().clone(), rows: OnceLock::new() }
    }

    /// Mean, or 0, and factor of a row.
    #[inline(always)]
    fn measure(&self, xs: &[f32]) -> (f32, f32) {
        let n = self.width as f32;
        let mean = if self.centred {
            sum_by(
                xs,
                xs,
                #[inline(always)]
                |x, _| x,
            ) / n
        } else {
            0.0
        };
        let variance = sum_by(
            xs,
            xs,
            #[inline(always)]
            |x, _| (x - mean) * (x - mean),
        ) / n;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }

    #[inline(always)]
    fn forward_rows(
        &self,
        xs: &[f32],
        weight: &[f32],
        bias: &[f32],
        ys: &mut [f32],
        rows: &mut [(f32, f32)],
    ) {
        let xs = xs.chunks_exact(self.width);
        for ((xs, ys), row) in xs.zip(ys.chunks_exact_mut(self.width)).zip(rows) {
            *row = self.measure(xs);
            let (mean, scale) = *row;
            for (((y, x), w), b) in ys.iter_mut().zip(xs).zip(weight).zip(bias) {
                *y = (x - mean) * scale * w + b;
            }
        }
    }

    /// Turns the gradients of the result into those of the input, and adds the gradients of weight and bias to `sums`.
    ///
    /// With x̂ = (x − mean) · scale and g = dy · weight: dx = (g − mean(g) − x̂ · mean(g · x̂)) · scale.
    #[inline(always)]
    fn backward_rows(
        &self,
        xs: &[f32],
        weight: &[f32],
        rows: &[(f32, f32)],
        grads: &mut [f32],
        sums: &mut [f32],
    ) {
        let n = self.width as f32;
        let (grad_weight, grad_bias) = sums.split_at_mut(self.width);
        let xs = xs.chunks_exact(self.width);
        for ((xs, grads), &(mean, scale)) in xs.zip(grads.chunks_exact_mut(self.width)).zip(rows) {
            let parameters = grad_weight.iter_mut().zip(grad_bias.iter_mut());
            for (((w, b), (grad, x)), weight) in parameters.zip(grads.iter_mut().zip(xs)).zip(weight) {
                *w += *grad * ((x - mean) * scale);
                *b += *grad;
                *grad *= weight;
            }
            let mean_grad = if self.centred {
                sum_by(
                    grads,
                    grads,
                    #[inline(always)]
                    |grad, _| grad,
                ) / n
            } else {
                0.0
            };
            let slope = sum_by(
                grads,
                xs,
                #[inline(always)]
                |grad, x| grad * ((x - mean) * scale),
            ) / n;
            for (grad, x) in grads.iter_mut().zip(xs) {
                *grad = (*grad - mean_grad - (x - mean) * scale * slope) * scale;
            }
        }
    }
}

impl Op for Norm {
    fn name(&self) -> &'static str {
        if self.centred { "layer_norm" } else { "rms_norm" }
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let (xs, weight, block) = (inputs[0], inputs[1], ROWS * self.width);
        let none = vec![0.0; self.width];
        let bias = inputs.get(2).copied().unwrap_or(&none);
        let mut ys = vec![0.0; xs.len()];
        let mut rows = vec![(0.0, 0.0); xs.len() / self.width];
        let blocks = ys.par_chunks_mut(block).zip(rows.par_chunks_mut(ROWS)).zip(xs.par_chunks(block));
        blocks.for_each(|((ys, rows), xs)| {
            simd(
                #[inline(always)]
                || self.forward_rows(xs, weight, bias, ys, rows),
            );
        });
        self.rows.get_or_init(|| rows);
        ys
    }

    fn backward(&self, Backward { inputs, grad_ys, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let (xs, weight, block) = (inputs[0], inputs[1], ROWS * self.width);
        let rows = self.rows.get().map_or(&[][..], |rows| rows);
        let mut grads = grad_ys.into_dense();
        let blocks = grads.par_chunks_mut(block).zip(rows.par_chunks(ROWS)).zip(xs.par_chunks(block));
        let parts: Vec<Vec<f32>> = blocks
            .map(|((grads, rows), xs)| {
                let mut sums = vec![0.0; 2 * self.width];
                simd(
                    #[inline(always)]
                    || self.backward_rows(xs, weight, rows, grads, &mut sums),
                );
                sums
            })
            .collect();
        let mut grad_weight = vec![0.0; 2 * self.width];
        for part in parts {
            grad_weight.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        let grad_bias = grad_weight.split_off(self.width);
        let gradients = [grads, grad_weight, grad_bias].map(|grads| Some(Gradient::Dense(grads)));
        gradients.into_iter().take(inputs.len()).collect()
    }
}

pub(crate) mod twin {
    use super::*;

    /// See [`crate::layer_norm`].
    pub fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
        rms_norm(&xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?, weight, eps)?.broadcast_add(bias)
    }

    /// See [`crate::rms_norm`].
    pub fn rms_norm(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        let scale = (xs.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
        xs.broadcast_div(&scale)?.broadcast_mul(weight)
    }
}
