use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use crate::activate::{activate, apply_to, scale};
use crate::activation::Activation;
use crate::cpu::{CHUNK, Lent, filled, is_fast, of_contiguous, simd};
use crate::error::argument;
use crate::gradient::Gradient;
use crate::kernel::{Kernel, apply};
use crate::product::{Matrix, product, product_then, runs_in_registers};
use crate::transpose::transposed;

mod gradient;
mod lists;
mod sparse;
mod sums;
mod tiles;

use gradient::Factor;
pub(crate) use gradient::Product;
use sparse::{Sparse, density};
use tiles::Tiles;

/// `xs · weightᵀ + bias`, as PyTorch's `F.linear`. No gradient is computed for an `xs` that needs none.
///
/// Columns of `xs` that are constant over the batch, such as the margins of images or units that are dead or
/// dropped, take no part in the matrix products: they act like a bias. Where many of the values are zero, as behind ReLU, or
/// have the value of a background, only the others are multiplied; so are gradients.
/// A weight that is not finite shows through what it is multiplied with, and not through zeros.
///
/// # Shapes
/// `xs`: `(.., I)`, `weight`: `(O, I)`, `bias`: `(O)`; the result is `(.., O)`.
///
/// # Errors
/// When the shapes do not belong together.
pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    linear_act(xs, weight, bias, Activation::Identity)
}

/// [`activate`] of [`linear`]. To the bit the same; where the function's slope [shows in its
/// value](Activation::slope_shows_in_value), as ReLU's does, it is applied where the products are written, and the
/// pre-activations are neither written to memory nor kept for the way back.
///
/// # Shapes
/// As [`linear`].
///
/// # Errors
/// Those of both.
pub fn linear_act(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, f: Activation) -> Result<Tensor> {
    if !f.slope_shows_in_value() {
        return activate(&linear(xs, weight, bias)?, f);
    }
    let (o, i) = weight.dims2()?;
    let Some((_, rest)) = xs.dims().split_last().filter(|(last, _)| **last == i) else {
        return argument(format!("linear: expected inputs of {i} features, found shape {:?}", xs.dims()));
    };
    if let Some(bias) = bias
        && bias.dims() != [o]
    {
        return argument(format!("linear: expected a bias of {o} values, found shape {:?}", bias.dims()));
    }
    if !(is_fast(&[xs, weight]) && bias.is_none_or(|b| is_fast(&[b]))) {
        return activate(&twin::linear(xs, weight, bias)?, f);
    }
    let xs = xs.contiguous()?;
    let shape = [rest, &[o]].concat().into();
    let kernel = Linear { n: rest.iter().product(), i, o, f, shape, xs: xs.clone(), input: OnceLock::new() };
    match bias {
        Some(bias) => apply(kernel, &[&xs, weight, bias]),
        None => apply(kernel, &[&xs, weight]),
    }
}

/// `n` samples of `i` features to `o`.
struct Linear {
    n: usize,
    i: usize,
    o: usize,
    /// Applied to the result. Its slope shows in its value.
    f: Activation,
    shape: Shape,
    /// Contiguous.
    xs: Tensor,
    /// Found by the forward pass.
    input: OnceLock<Input>,
}

/// What of an input has to be multiplied.
enum Input {
    All,
    Varying(Arc<Compact>),
    Sparse(Sparse),
}

impl Input {
    fn of(xs: &[f32], n: usize, i: usize, o: usize) -> Self {
        if n < 2 || n.saturating_mul(i).saturating_mul(o) < SMALLEST {
            return Self::All;
        }
        match Sparse::of(xs, i, dense_from((o, n, i))) {
            Some(sparse) => {
                tracing::debug!(
                    density = sparse.density(),
                    "linear {i}→{o}: sums over what is not background"
                );
                Self::Sparse(sparse)
            }
            None => match Compact::of(xs, i) {
                Some(compact) => {
                    let varying = compact.width;
                    tracing::debug!(varying, "linear {i}→{o}: matrix products of the columns that vary");
                    Self::Varying(Arc::new(compact))
                }
                None => {
                    tracing::debug!("linear {i}→{o}: matrix products of all columns");
                    Self::All
                }
            },
        }
    }
}

/// The columns of an input that vary over the batch.
struct Compact {
    /// In order. Short constant stretches between two that vary are taken along.
    runs: Vec<Range<usize>>,
    /// Columns in all runs.
    width: usize,
    /// These columns alone: `(n, width)`.
    xs: Vec<f32>,
    /// The first sample, which the others are like in all other columns.
    first: Vec<f32>,
}

/// Constant stretches shorter than this are not worth leaving out.
const SHORTEST: usize = 8;
/// Rows that one task of a loop over a matrix handles.
const ROWS: usize = 64;
/// The share of values that are not zero, or not the background, above which a matrix product of all is faster than sums
/// over these.
const DENSE: f64 = 0.4;
/// The same of products of at least [`LARGE`] multiplications, beside which making lists costs less.
const DENSE_IF_LARGE: f64 = 0.6;
const LARGE: usize = 1 << 26;
/// The same where the product would run in tile registers: an estimate, as it was not measured on such a CPU.
const DENSE_BESIDE_REGISTERS: f64 = 0.35;
/// The share of an input up to which sums over it give the gradient of the weights, and not those over the result's gradient.
const FEW: f64 = 0.35;
/// With fewer samples, sums over lists gain less than making these costs.
const FEWEST: usize = 32;
/// Products smaller than this (in multiplications) gain less than looking for constant columns costs.
const SMALLEST: usize = 1 << 20;

impl Compact {
    /// `None` if too few columns are constant for it to pay.
    fn of(xs: &[f32], i: usize) -> Option<Self> {
        let varies = varying(xs, i);
        let mut runs: Vec<Range<usize>> = Vec::new();
        let mut column = 0;
        for stretch in varies.chunk_by(|a, b| a == b) {
            let end = column + stretch.len();
            if stretch[0] {
                match runs.last_mut() {
                    Some(run) if column - run.end < SHORTEST => run.end = end,
                    _ => runs.push(column..end),
                }
            }
            column = end;
        }
        let width = runs.iter().map(Range::len).sum();
        // Copying costs, too.
        if width * 8 > i * 7 {
            return None;
        }
        let mut compact = Self { runs, width, xs: Vec::new(), first: xs[..i].to_vec() };
        compact.xs = compact.columns(xs, i);
        Some(compact)
    }

    /// The varying columns of a matrix in rows of `i` values.
    #[allow(unsafe_code)]
    fn columns(&self, matrix: &[f32], i: usize) -> Vec<f32> {
        let (rows, width) = (matrix.len() / i, self.width);
        // SAFETY: `width` is the length of all runs together, so they fill each row of `width`.
        unsafe {
            filled(rows * width, ROWS * width, |start, chunk| {
                let rows =
                    chunk.chunks_exact_mut(width.max(1)).zip(matrix[start / width * i..].chunks_exact(i));
                for (mut to, from) in rows {
                    for run in &self.runs {
                        to = write(to, &from[run.clone()]);
                    }
                }
            })
        }
    }

    /// The constant stretches of columns, in order.
    fn constant(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(0).chain(self.runs.iter().map(|run| run.end));
        let ends = self.runs.iter().map(|run| run.start).chain(std::iter::once(self.first.len()));
        starts.zip(ends).map(|(start, end)| start..end).filter(|run| !run.is_empty())
    }
}

/// Copies `values` to the front of `to`, and returns what is behind them.
fn write<'a>(to: &'a mut [MaybeUninit<f32>], values: &[f32]) -> &'a mut [MaybeUninit<f32>] {
    let (front, rest) = to.split_at_mut(values.len());
    front.write_copy_of_slice(values);
    rest
}

/// Which columns of a matrix of rows of `i` differ somewhere from the first row.
fn varying(xs: &[f32], i: usize) -> Vec<bool> {
    const COLUMNS: usize = 256;
    let (first, rest) = xs.split_at(i);
    let mut varies = vec![0_u32; i];
    varies.par_chunks_mut(COLUMNS).enumerate().for_each(|(block, varies)| {
        let start = block * COLUMNS;
        let first = &first[start..start + varies.len()];
        simd(
            #[inline(always)]
            || {
                for row in rest.chunks_exact(i) {
                    for ((varies, a), b) in varies.iter_mut().zip(first).zip(&row[start..]) {
                        *varies |= a.to_bits() ^ b.to_bits();
                    }
                }
            },
        );
    });
    varies.iter().map(|bits| *bits != 0).collect()
}

impl Linear {
    /// What every sample gets beside the product: the bias, and what the constant columns give.
    fn base(&self, inputs: &[&[f32]], compact: &Compact) -> Vec<f32> {
        let mut base = self.bias(inputs);
        let (row, weight) = (&compact.first, inputs[1]);
        let outputs = base.par_iter_mut().zip(weight.par_chunks_exact(self.i));
        outputs.with_min_len(ROWS).for_each(|(base, weight)| {
            for run in compact.constant().filter(|run| row[run.clone()].iter().any(|x| *x != 0.0)) {
                *base += dot(&row[run.clone()], &weight[run]);
            }
        });
        base
    }

    fn bias(&self, inputs: &[&[f32]]) -> Vec<f32> {
        inputs.get(2).map_or_else(|| vec![0.0; self.o], |bias| bias.to_vec())
    }

    /// The gradients that are not zero, if sums over these alone are the faster way.
    fn active(&self, grads: &[f32], wanted: &[bool]) -> Option<Tiles> {
        let Self { n, i, o, .. } = *self;
        let of_use = wanted[0] || wanted[1] && self.few_inputs().is_none();
        if !of_use || n < FEWEST || n.saturating_mul(i).saturating_mul(o) < SMALLEST {
            return None;
        }
        let density = density(grads, o, 0.0);
        if density > dense_from((n, i, o)) {
            tracing::debug!(density, "linear {i}→{o}: gradient by matrix products");
            return None;
        }
        tracing::debug!(density, "linear {i}→{o}: gradient by sums over what is not 0");
        Some(Tiles::of(grads, o, 0.0))
    }

    /// The input, if little of it has to be multiplied.
    fn few_inputs(&self) -> Option<&Sparse> {
        match self.input.get() {
            Some(Input::Sparse(sparse)) if sparse.density() <= FEW => Some(sparse),
            _ => None,
        }
    }

    /// What is to be multiplied for the gradient of the weights, from that of the result and its sums over the batch.
    fn grad_weight(&self, grads: Vec<f32>, active: Option<Tiles>, sums: &[f32]) -> Product {
        let factor = match (self.few_inputs(), self.input.get()) {
            (Some(sparse), _) => Factor::Sparse(sparse.columns()),
            (None, Some(Input::Varying(compact))) => Factor::Varying(Arc::clone(compact)),
            _ => Factor::All(self.xs.clone()),
        };
        let active = match &factor {
            Factor::Sparse(_) => None,
            _ => active.map(|active| active.turned()),
        };
        Product { n: self.n, i: self.i, o: self.o, factor, grads, active, sums: sums.to_vec() }
    }
}

/// The density above which a product of this size is made of all values.
fn dense_from((m, n, k): (usize, usize, usize)) -> f64 {
    match m.saturating_mul(n).saturating_mul(k) {
        _ if runs_in_registers((m, n, k)) => DENSE_BESIDE_REGISTERS,
        LARGE.. => DENSE_IF_LARGE,
        _ => DENSE,
    }
}

/// `f(xs · weightᵀ + base)`, with the base added to every row; `xs` is n×k, `weight` o×k.
fn dense(
    (n, o, k): (usize, usize, usize),
    xs: &[f32],
    weight: &[f32],
    base: &[f32],
    f: Activation,
) -> Vec<f32> {
    if n * (k + o) > o * k {
        let (xs, weight) = (Matrix::new(xs, k), Matrix::new(weight, k).transposed());
        return product_then((n, o, k), xs, weight, &|_, first, ys| {
            ys.iter_mut().zip(&base[first..]).for_each(|(y, base)| *y += base);
            apply_to(f, ys);
        });
    }
    // The product would copy the weights first, to have those of one input side by side. With fewer samples than outputs it
    // is less work to turn the samples and the result.
    let xs = transposed((n, k), xs);
    let turned = product_then((o, n, k), Matrix::new(weight, k), Matrix::new(&xs, n), &|output, _, ys| {
        ys.iter_mut().for_each(|y| *y += base[output]);
        apply_to(f, ys);
    });
    transposed((o, n), &turned)
}

/// Brings gradients in rows of `width` back through `f`, which gave `ys`, in their place. Returns the sum of all rows. By
/// blocks of columns on all threads.
#[allow(unsafe_code)]
fn through(f: Activation, ys: &[f32], grads: &mut [f32], width: usize) -> Vec<f32> {
    const COLUMNS: usize = 128;
    let mut sums = vec![0.0; width];
    let grads = Lent::of(grads);
    let block = |(b, sums): (usize, &mut [f32])| {
        simd(
            #[inline(always)]
            || {
                for row in (0..ys.len()).step_by(width) {
                    let own = row + b * COLUMNS..row + b * COLUMNS + sums.len();
                    // SAFETY: no column is in two blocks.
                    let grads = unsafe { grads.part(own.clone()) };
                    if f != Activation::Identity {
                        scale(f, &ys[own], grads);
                    }
                    for (sum, grad) in sums.iter_mut().zip(grads) {
                        *sum += *grad;
                    }
                }
            },
        );
    };
    match ys.len() > CHUNK {
        true => sums.par_chunks_mut(COLUMNS).enumerate().for_each(block),
        false => sums.chunks_mut(COLUMNS).enumerate().for_each(block),
    }
    sums
}

/// The scalar product, summed up in eight interleaved lanes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    simd(
        #[inline(always)]
        || {
            let mut lanes = [0.0_f32; 8];
            let (a, a_rest) = a.as_chunks::<8>();
            let (b, b_rest) = b.as_chunks::<8>();
            for (a, b) in a.iter().zip(b) {
                for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                    *lane += a * b;
                }
            }
            let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
            lanes.iter().sum::<f32>() + rest
        },
    )
}

impl Kernel for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let Self { n, i, o, f, .. } = *self;
        let (xs, weight) = (inputs[0], inputs[1]);
        // Found before the lock is taken, as it is found on all threads. The operation was made for this one call, so nothing has
        // been stored before.
        let found = Input::of(xs, n, i, o);
        let input = self.input.get_or_init(|| found);
        match input {
            Input::Sparse(sparse) => sparse.product(weight, i, inputs.get(2).copied(), f),
            Input::Varying(compact) => {
                let weight = compact.columns(weight, i);
                dense((n, o, compact.width), &compact.xs, &weight, &self.base(inputs, compact), f)
            }
            Input::All => dense((n, o, i), xs, weight, &self.bias(inputs), f),
        }
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        ys: &Tensor,
        grad_ys: Gradient,
        wanted: &[bool],
    ) -> Vec<Option<Gradient>> {
        let Self { n, i, o, .. } = *self;
        let weight = inputs[1];
        let mut grad_ys = grad_ys.into_dense();
        let grad_bias = of_contiguous(ys, |ys| through(self.f, ys, &mut grad_ys, o));
        let active = self.active(&grad_ys, wanted);
        let grad_xs = wanted[0].then(|| {
            Gradient::Dense(match &active {
                Some(active) => active.times(Matrix::new(weight, i), i, |_, _| (), |_| ()),
                None => product((n, i, o), Matrix::new(&grad_ys, o), Matrix::new(weight, i)),
            })
        });
        let grad_weight = wanted[1].then(|| Gradient::Product(self.grad_weight(grad_ys, active, &grad_bias)));
        let gradients = [grad_xs, grad_weight, Some(Gradient::Dense(grad_bias))];
        gradients.into_iter().take(inputs.len()).collect()
    }
}

pub(crate) mod twin {
    use super::*;

    /// See [`crate::linear`].
    pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let i = weight.dim(1)?;
        let ys = xs.reshape(((), i))?.matmul(&weight.t()?)?;
        let ys = match bias {
            Some(bias) => ys.broadcast_add(bias)?,
            None => ys,
        };
        let mut shape = xs.dims().to_vec();
        shape.pop();
        shape.push(weight.dim(0)?);
        ys.reshape(shape)
    }
}
