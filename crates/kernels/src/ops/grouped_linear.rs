use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use crate::autograd::{Backward, Gradient, Op, apply, by_candle};
use crate::error::argument;
use crate::parallel::CHUNK;
use crate::simd::{simd, sum_by};
use crate::values::is_fast;

/// `weight[g] · xs[n, g] + bias[g]` for every group `g`: a linear layer for each of `G` networks of one shape, which are
/// trained together. The networks share nothing. PyTorch has this as `torch.func.vmap` of `F.linear`.
///
/// In a training step of a tiny network the overhead of function calls and allocations takes longer than the arithmetic.
/// With `G` networks in one step, this overhead occurs once instead of `G` times.
///
/// # Shapes
/// `xs`: `(N, G, I)`, `weight`: `(G, O, I)`, `bias`: `(G, O)`; the result is `(N, G, O)`.
///
/// # Errors
/// When the shapes do not match.
pub fn grouped_linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let ((n, g, i), (groups, o, inputs)) = (xs.dims3()?, weight.dims3()?);
    if (g, i) != (groups, inputs) {
        return argument(format!(
            "grouped_linear: expected {groups} groups of {inputs} features, found shape {:?}",
            xs.dims()
        ));
    }
    if let Some(bias) = bias
        && bias.dims() != [g, o]
    {
        return argument(format!(
            "grouped_linear: expected a bias of shape [{g}, {o}], found shape {:?}",
            bias.dims()
        ));
    }
    if !(is_fast(&[xs, weight]) && bias.is_none_or(|bias| is_fast(&[bias]))) {
        return by_candle(twin::grouped_linear(xs, weight, bias));
    }
    let op = GroupedLinear { n, g, i, o };
    match bias {
        Some(bias) => apply(op, &[xs, weight, bias]),
        None => apply(op, &[xs, weight]),
    }
}

/// `g` layers of `i` features to `o`, for `n` samples each.
struct GroupedLinear {
    n: usize,
    g: usize,
    i: usize,
    o: usize,
}

impl Op for GroupedLinear {
    fn name(&self) -> &'static str {
        "grouped_linear"
    }

    fn shape(&self) -> Shape {
        (self.n, self.g, self.o).into()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let &Self { n, g, i, o } = self;
        let (xs, weight, bias) = (inputs[0], inputs[1], inputs.get(2));
        let mut ys = vec![0.0; n * g * o];
        for_rows(
            &mut ys,
            o,
            #[inline(always)]
            |row, ys| {
                let x = &xs[row * i..][..i];
                let first = row % g * o;
                for (unit, y) in (first..).zip(ys) {
                    let product = sum_by(x, &weight[unit * i..][..i], |x, w| x * w);
                    *y = product + bias.map_or(0.0, |bias| bias[unit]);
                }
            },
        );
        ys
    }

    fn backward(&self, Backward { inputs, grad_ys, wanted, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let &Self { n, g, i, o } = self;
        let (xs, weight, grads) = (inputs[0], inputs[1], grad_ys.into_dense());
        let grad_xs = wanted[0].then(|| {
            let mut sums = vec![0.0; n * g * i];
            for_rows(
                &mut sums,
                i,
                #[inline(always)]
                |row, sums| {
                    for (unit, grad) in (row % g * o..).zip(&grads[row * o..][..o]) {
                        add_scaled(sums, *grad, &weight[unit * i..][..i]);
                    }
                },
            );
            Gradient::Dense(sums)
        });
        let grad_weight = wanted[1].then(|| {
            let mut sums = vec![0.0; g * o * i];
            for_rows(
                &mut sums,
                i,
                #[inline(always)]
                |unit, sums| {
                    for sample in 0..n {
                        let x = &xs[(sample * g + unit / o) * i..][..i];
                        add_scaled(sums, grads[sample * g * o + unit], x);
                    }
                },
            );
            Gradient::Dense(sums)
        });
        let mut all = vec![grad_xs, grad_weight];
        if let Some(true) = wanted.get(2) {
            let mut sums = vec![0.0; g * o];
            for grads in grads.chunks_exact((g * o).max(1)) {
                add_scaled(&mut sums, 1.0, grads);
            }
            all.push(Some(Gradient::Dense(sums)));
        } else if wanted.len() > 2 {
            all.push(None);
        }
        all
    }
}

/// Calls `op(index, row)` for each row of `width` values, in parallel if there are many rows. As in [`simd`], `op` becomes
/// vector code if everything it calls is `#[inline(always)]`.
fn for_rows(values: &mut [f32], width: usize, op: impl Fn(usize, &mut [f32]) + Sync) {
    if values.is_empty() {
        return;
    }
    let some = (CHUNK / width).max(1);
    let rows = |(k, rows): (usize, &mut [f32])| {
        simd(
            #[inline(always)]
            || {
                for (row, values) in (k * some..).zip(rows.chunks_exact_mut(width)) {
                    op(row, values);
                }
            },
        );
    };
    match values.len() <= some * width {
        true => rows((0, values)),
        false => values.par_chunks_mut(some * width).enumerate().for_each(rows),
    }
}

/// `sums += factor · values`.
#[inline(always)]
fn add_scaled(sums: &mut [f32], factor: f32, values: &[f32]) {
    for (sum, x) in sums.iter_mut().zip(values) {
        *sum += factor * x;
    }
}

pub(crate) mod twin {
    use super::*;

    /// See [`crate::grouped_linear`].
    pub fn grouped_linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let ys = xs.unsqueeze(2)?.broadcast_mul(weight)?.sum(3)?;
        match bias {
            Some(bias) => ys.broadcast_add(bias),
            None => Ok(ys),
        }
    }
}
