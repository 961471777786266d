use std::sync::OnceLock;

use candle_core::{D, Result, Shape, Tensor};
use rayon::prelude::*;

use super::softmax::softmax_row;
use crate::autograd::{Backward, Gradient, Op, apply, by_candle};
use crate::error::argument;
use crate::gemm::{Matrix, matmul_rows};
use crate::simd::{WIDE, simd, sum_by};
use crate::values::is_fast;

/// The keys that a query attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All.
    None,
    /// Keys up to the query: query `i` attends to the keys `0..=i`.
    Causal,
}

/// Scaled dot-product attention (Vaswani et al. 2017), `softmax(q · kᵀ / √d) · v`, as PyTorch's
/// `F.scaled_dot_product_attention`.
///
/// The probabilities are kept for the backward pass, `T·S` for every head. Threads share the samples of the batch.
///
/// # Shapes
/// `q`: `(B, heads, T, d)`, `k`: `(B, heads, S, d)`, `v`: `(B, heads, S, e)`; the result is `(B, heads, T, e)`, a view of
/// `(B, T, heads, e)`: `ys.transpose(1, 2)?.flatten_from(2)?` puts the heads side by side without a copy.
///
/// # Errors
/// When the shapes do not match, or there is no query, key or feature.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask) -> Result<Tensor> {
    let ((b, heads, t, d), (_, _, s, e)) = (q.dims4()?, v.dims4()?);
    if k.dims() != [b, heads, s, d] || v.dims() != [b, heads, s, e] || t * s * d * e * heads == 0 {
        return argument(format!(
            "attention: expected q (B, heads, T, d), k (B, heads, S, d) and v (B, heads, S, e), none empty, found {:?}, \
             {:?} and {:?}",
            q.dims(),
            k.dims(),
            v.dims()
        ));
    }
    if !is_fast(&[q, k, v]) {
        return by_candle(twin::attention(q, k, v, mask));
    }
    let part = |input, rows, width| Part {
        input,
        first: 0,
        sample: heads * rows * width,
        head: rows * width,
        row: width,
    };
    let parts = [part(0, t, d), part(1, s, d), part(2, s, e)];
    apply(Attention::new((b, heads), (t, s), (d, e), mask, parts), &[q, k, v])?.transpose(1, 2)
}

/// [`attention`] of a sequence to itself. Queries, keys and values are the output of one linear layer, in the order of
/// the rows of PyTorch's `MultiheadAttention.in_proj_weight`. Nothing is copied.
///
/// # Shapes
/// `qkv`: `(B, T, 3·F)` where `F` is `heads` times the features of a head; the result is `(B, T, F)`.
///
/// # Errors
/// When the last axis is not divisible by `3 · heads`, or an axis is empty.
pub fn self_attention(qkv: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
    let (b, t, width) = qkv.dims3()?;
    if heads == 0 || width == 0 || width % (3 * heads) != 0 || t == 0 {
        return argument(format!(
            "self_attention: expected (B, T, 3·F) with F a multiple of {heads} heads, none empty, found {:?}",
            qkv.dims()
        ));
    }
    if !is_fast(&[qkv]) {
        return by_candle(twin::self_attention(qkv, heads, mask));
    }
    let (f, d) = (width / 3, width / 3 / heads);
    let parts = [0, f, 2 * f].map(|first| Part { input: 0, first, sample: t * width, head: d, row: width });
    apply(Attention::new((b, heads), (t, t), (d, d), mask, parts), &[qkv])?.flatten_from(2)
}

/// The position of queries, keys or values.
#[derive(Clone, Copy)]
struct Part {
    /// The index of the input.
    input: usize,
    /// The first value in a sample.
    first: usize,
    /// The distances between samples, between heads, and between the rows of a head.
    sample: usize,
    head: usize,
    row: usize,
}

impl Part {
    /// The rows of a head.
    fn of<'a>(&self, inputs: &[&'a [f32]], sample: usize, head: usize) -> Matrix<'a> {
        Matrix::new(&inputs[self.input][sample * self.sample + self.first + head * self.head..], self.row)
    }
}

struct Attention {
    batch: usize,
    heads: usize,
    /// Queries, and keys.
    t: usize,
    s: usize,
    /// Features of a query or key, and of a value.
    d: usize,
    e: usize,
    mask: Mask,
    /// Of queries, keys and values.
    parts: [Part; 3],
    /// `(B, heads, T, S)`, in rows of [`Attention::row`] values.
    probabilities: OnceLock<Vec<f32>>,
}

impl Attention {
    fn new(
        (batch, heads): (usize, usize),
        (t, s): (usize, usize),
        (d, e): (usize, usize),
        mask: Mask,
        parts: [Part; 3],
    ) -> Self {
        Self { batch, heads, t, s, d, e, mask, parts, probabilities: OnceLock::new() }
    }

    fn scale(&self) -> f32 {
        (self.d as f32).sqrt().recip()
    }

    /// The distance between rows of scores: whole vectors. The padding has the probability 0.
    fn row(&self) -> usize {
        self.s.next_multiple_of(WIDE)
    }

    /// Turns scores into probabilities.
    #[inline(always)]
    fn softmax(&self, scores: &mut [f32]) {
        for (i, row) in scores.chunks_exact_mut(self.row()).enumerate() {
            let seen = match self.mask {
                Mask::None => self.s,
                Mask::Causal => (i + 1).min(self.s),
            };
            row[seen..].fill(f32::NEG_INFINITY);
            softmax_row(row, self.scale());
        }
    }

    /// Turns gradients of the probabilities into gradients of the scores.
    #[inline(always)]
    fn softmax_backward(&self, probabilities: &[f32], grads: &mut [f32]) {
        let rows = probabilities.chunks_exact(self.row()).zip(grads.chunks_exact_mut(self.row()));
        for (probabilities, grads) in rows {
            let mean = sum_by(
                probabilities,
                grads,
                #[inline(always)]
                |p, grad| p * grad,
            );
            for (p, grad) in probabilities.iter().zip(grads) {
                *grad = (*grad - mean) * p * self.scale();
            }
        }
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn shape(&self) -> Shape {
        (self.batch, self.t, self.heads, self.e).into()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let Self { batch, heads, t, s, d, e, parts: [q, k, v], .. } = self;
        let row = self.row();
        let mut ys = vec![0.0; batch * t * heads * e];
        let mut probabilities = vec![0.0; batch * heads * t * row];
        let samples =
            ys.par_chunks_exact_mut(t * heads * e).zip(probabilities.par_chunks_exact_mut(heads * t * row));
        samples.enumerate().for_each(|(n, (ys, probabilities))| {
            for (h, scores) in probabilities.chunks_exact_mut(t * row).enumerate() {
                let keys = k.of(inputs, n, h).transposed();
                matmul_rows((*t, *s, *d), scores, row, q.of(inputs, n, h), keys);
                simd(
                    #[inline(always)]
                    || self.softmax(scores),
                );
                let values = v.of(inputs, n, h);
                matmul_rows((*t, *e, *s), &mut ys[h * e..], heads * e, Matrix::new(scores, row), values);
            }
        });
        self.probabilities.get_or_init(|| probabilities);
        ys
    }

    fn backward(&self, Backward { inputs, grad_ys, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let Self { batch, heads, t, s, d, e, parts: [q, k, v], .. } = self;
        let row = self.row();
        let grad_ys = grad_ys.into_dense();
        let probabilities = self.probabilities.get().map_or(&[][..], |values| values);
        let mut grads: Vec<Vec<f32>> = inputs.iter().map(|xs| vec![0.0; xs.len()]).collect();
        // For every sample the parts of all inputs.
        let mut samples: Vec<Vec<&mut [f32]>> = (0..*batch).map(|_| Vec::new()).collect();
        for grads in &mut grads {
            let chunk = (grads.len() / batch.max(&1)).max(1);
            samples.iter_mut().zip(grads.chunks_exact_mut(chunk)).for_each(|(own, chunk)| own.push(chunk));
        }
        let samples = samples.into_par_iter().zip(probabilities.par_chunks_exact(heads * t * row));
        samples.enumerate().for_each_init(
            || vec![0.0; t * row],
            |scores, (n, (mut grads, probabilities))| {
                for (h, probabilities) in probabilities.chunks_exact(t * row).enumerate() {
                    let grad_ys = Matrix::new(&grad_ys[n * t * heads * e + h * e..], heads * e);
                    let mut write = |part: &Part, size, lhs, rhs| {
                        matmul_rows(
                            size,
                            &mut grads[part.input][part.first + h * part.head..],
                            part.row,
                            lhs,
                            rhs,
                        );
                    };
                    write(v, (*s, *e, *t), Matrix::new(probabilities, row).transposed(), grad_ys);
                    matmul_rows((*t, *s, *e), scores, row, grad_ys, v.of(inputs, n, h).transposed());
                    simd(
                        #[inline(always)]
                        || self.softmax_backward(probabilities, scores),
                    );
                    let scores = Matrix::new(scores, row);
                    write(q, (*t, *d, *s), scores, k.of(inputs, n, h));
                    write(k, (*s, *d, *t), scores.transposed(), q.of(inputs, n, h));
                }
            },
        );
        grads.into_iter().map(|grads| Some(Gradient::Dense(grads))).collect()
    }
}

pub(crate) mod twin {
    use super::*;
    use crate::twin::softmax;

    /// See [`crate::attention`].
    pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask) -> Result<Tensor> {
        let (_, _, t, d) = q.dims4()?;
        let s = k.dim(2)?;
        let [q, k, v] = [q, &k.t()?, v].map(|part| part.contiguous());
        let mut scores = (q?.matmul(&k?)? * (d as f64).powf(-0.5))?;
        if mask == Mask::Causal {
            let hidden = |i| (0..s).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 });
            let hidden = Tensor::from_iter((0..t).flat_map(hidden), scores.device())?.reshape((t, s))?;
            scores = scores.broadcast_add(&hidden.to_dtype(scores.dtype())?)?;
        }
        softmax(&scores, D::Minus1)?.matmul(&v?)
    }

    /// See [`crate::self_attention`].
    pub fn self_attention(qkv: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
        let (b, t, width) = qkv.dims3()?;
        let parts = qkv.reshape((b, t, 3, heads, width / 3 / heads))?.permute((2, 0, 3, 1, 4))?;
        let ys = attention(&parts.get(0)?, &parts.get(1)?, &parts.get(2)?, mask)?;
        ys.transpose(1, 2)?.reshape((b, t, width / 3))
    }
}
