use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{Result, Shape, Tensor};

use super::activate::{activate, apply_to, scale};
use crate::activation::Activation;
use crate::autograd::{Backward, Gradient, Op, apply, by_candle};
use crate::error::argument;
use crate::gemm::{Matrix, product, product_then, transposed};
use crate::parallel::{CHUNK, DisjointSlices};
use crate::simd::simd;
use crate::sparse::{Choice, Tiles};
use crate::values::{is_fast, of_contiguous};

mod input;
mod one_row;
mod weight_gradient;

use input::SparseInput;
use weight_gradient::{Factors, WeightGradient};

/// `xs · weightᵀ + bias`, as PyTorch's `F.linear`. No gradient is computed for an `xs` that needs none.
///
/// If many values of `xs` are zero, as after ReLU, or equal to a background, as in images, only the others are
/// multiplied; the same holds for gradients. So a NaN weight affects the result only where the input is not zero.
///
/// # Shapes
/// `xs`: `(.., I)`, `weight`: `(O, I)`, `bias`: `(O)`; the result is `(.., O)`.
///
/// # Errors
/// When the shapes do not match.
pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    linear_act(xs, weight, bias, Activation::Identity)
}

/// [`activate`] of [`linear`], with the same bits. If the function's slope [shows in its
/// value](Activation::slope_shows_in_value), as ReLU's does, the product applies it while it writes, and the
/// pre-activations are never in memory.
///
/// # Shapes
/// As [`linear`].
///
/// # Errors
/// As [`linear`] and [`activate`].
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
        #[cfg(feature = "cuda")]
        if crate::cuda::is_fast(&[xs, weight]) && bias.is_none_or(|b| crate::cuda::is_fast(&[b])) {
            return by_candle(crate::cuda::layers::linear_act(xs, weight, bias, f));
        }
        return by_candle(activate(&twin::linear(xs, weight, bias)?, f));
    }
    let xs = xs.contiguous()?;
    let shape = [rest, &[o]].concat().into();
    let op = Linear { n: rest.iter().product(), i, o, f, shape, xs: xs.clone(), input: OnceLock::new() };
    match bias {
        Some(bias) => apply(op, &[&xs, weight, bias]),
        None => apply(op, &[&xs, weight]),
    }
}

/// `n` samples of `i` features to `o`.
struct Linear {
    n: usize,
    i: usize,
    o: usize,
    /// Applied to the result; its slope shows in its value.
    f: Activation,
    shape: Shape,
    /// Contiguous.
    xs: Tensor,
    /// The listed values of the input if the forward pass chose the sparse product.
    input: OnceLock<Option<SparseInput>>,
}

/// The share of values other than the background above which a dense product is faster.
const DENSE: f64 = 0.4;
/// The same for products of at least [`LARGE`] multiplications, where the time to make the lists matters less.
const DENSE_IF_LARGE: f64 = 0.6;
const LARGE: usize = 1 << 26;
/// Up to this share the input's lists give the gradient of the weights; above it, the lists of the result's gradient.
const FEW: f64 = 0.35;
/// With fewer samples, making lists takes longer than it saves.
const FEWEST: usize = 32;
/// The same for products of fewer multiplications.
const SMALLEST: usize = 1 << 20;

impl Linear {
    /// The method for a product with `matrix`, `n` rows of `width` values.
    fn choose(&self, matrix: &[f32], width: usize, backgrounds: &[f32]) -> Choice {
        let multiplications = self.n.saturating_mul(self.i).saturating_mul(self.o);
        if self.n == 1 {
            return Choice::OneRow;
        }
        if self.n < FEWEST || multiplications < SMALLEST {
            return Choice::Small;
        }
        let limit = if multiplications >= LARGE { DENSE_IF_LARGE } else { DENSE };
        Choice::by_density(matrix, width, backgrounds, limit)
    }

    /// The background is the first value, the corner of an image, or 0.
    fn choose_input(&self, xs: &[f32]) -> Choice {
        self.choose(xs, self.i, &[xs.first().copied().unwrap_or(0.0), 0.0])
    }

    fn log(&self, choice: Choice, what: &str) -> Choice {
        choice.log(format_args!("linear {}→{} {what}", self.i, self.o))
    }

    /// The listed values of the input, if they are few enough for the gradient of the weights.
    fn few_inputs(&self) -> Option<&SparseInput> {
        self.input.get()?.as_ref().filter(|input| input.density() <= FEW)
    }

    /// The non-zero gradients, if sums over them are faster than dense products.
    fn list_gradients(&self, grads: &[f32], wanted: &[bool]) -> Option<Tiles> {
        if !(wanted[0] || wanted[1] && self.few_inputs().is_none()) {
            return None;
        }
        match self.log(self.choose(grads, self.o, &[0.0]), "backward") {
            Choice::Sparse { .. } => Some(Tiles::of(grads, self.o, 0.0)),
            _ => None,
        }
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let Self { n, i, o, f, .. } = *self;
        let (xs, weight, bias) = (inputs[0], inputs[1], inputs.get(2).copied());
        let input = match self.log(self.choose_input(xs), "forward") {
            Choice::OneRow => return one_row::forward(xs, weight, bias, o, f),
            Choice::Sparse { background, .. } => Some(SparseInput::of(xs, i, background)),
            _ => None,
        };
        // Listed before it is stored: nothing parallel may run within the initialisation of a `OnceLock`.
        match self.input.get_or_init(|| input) {
            Some(input) => input.product(weight, i, bias, f),
            None => dense((n, o, i), xs, weight, bias, f),
        }
    }

    fn backward(&self, Backward { inputs, ys, grad_ys, wanted }: Backward<'_>) -> Vec<Option<Gradient>> {
        let Self { n, i, o, .. } = *self;
        let weight = Matrix::new(inputs[1], i);
        let mut grads = grad_ys.into_dense();
        let grad_bias = of_contiguous(ys, |ys| activation_backward(self.f, ys, &mut grads, o));
        let listed = self.list_gradients(&grads, wanted);
        let grad_xs = wanted[0].then(|| {
            Gradient::Dense(match &listed {
                _ if n == 1 => one_row::grad_xs(&grads, weight),
                Some(listed) => listed.times(weight, i, |_, _| (), |_| ()),
                None => product((n, i, o), Matrix::new(&grads, o), weight),
            })
        });
        let grad_weight = wanted[1].then(|| {
            let factors = match (self.few_inputs(), listed) {
                _ if n == 1 => Factors::OneRow(inputs[0].to_vec()),
                (Some(input), _) => Factors::SparseInput(input.columns(), grad_bias.clone()),
                (None, Some(listed)) => Factors::SparseGradients(listed.transposed(), self.xs.clone()),
                (None, None) => Factors::Dense(self.xs.clone()),
            };
            Gradient::Pending(Box::new(WeightGradient { n, i, o, grads, factors }))
        });
        let gradients = [grad_xs, grad_weight, Some(Gradient::Dense(grad_bias))];
        gradients.into_iter().take(inputs.len()).collect()
    }
}

/// `f(xs · weightᵀ + bias)`; `xs` is n×k, `weight` o×k.
fn dense(
    (n, o, k): (usize, usize, usize),
    xs: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    f: Activation,
) -> Vec<f32> {
    if n * (k + o) > o * k {
        let (xs, weight) = (Matrix::new(xs, k), Matrix::new(weight, k).transposed());
        return product_then((n, o, k), xs, weight, &|_, first, ys| {
            if let Some(bias) = bias {
                ys.iter_mut().zip(&bias[first..]).for_each(|(y, bias)| *y += bias);
            }
            apply_to(f, ys);
        });
    }
    // `gemm` would copy the weights to have those of one input in a row. With fewer samples than outputs, transposing
    // the samples and the result is less work.
    let xs = transposed((n, k), xs);
    let ys = product_then((o, n, k), Matrix::new(weight, k), Matrix::new(&xs, n), &|output, _, ys| {
        if let Some(bias) = bias {
            ys.iter_mut().for_each(|y| *y += bias[output]);
        }
        apply_to(f, ys);
    });
    transposed((o, n), &ys)
}

/// Multiplies gradients in rows of `width` by f'(x) in place; `ys` are the outputs of `f`. Returns the sum of all rows.
/// Each thread takes blocks of columns.
fn activation_backward(f: Activation, ys: &[f32], grads: &mut [f32], width: usize) -> Vec<f32> {
    use rayon::prelude::*;
    const COLUMNS: usize = 128;
    let mut sums = vec![0.0; width];
    let grads = DisjointSlices::of(grads);
    let block = |(b, sums): (usize, &mut [f32])| {
        simd(
            #[inline(always)]
            || {
                for row in (0..ys.len()).step_by(width) {
                    let own: Range<usize> = row + b * COLUMNS..row + b * COLUMNS + sums.len();
                    // SAFETY: no column is in two blocks, and the gradients are initialised.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn layer(n: usize, i: usize, o: usize) -> Linear {
        let xs = Tensor::zeros((n, i), candle_core::DType::F32, &Device::Cpu).unwrap();
        Linear { n, i, o, f: Activation::Identity, shape: (n, o).into(), xs, input: OnceLock::new() }
    }

    /// Every `1 / share`-th value differs from the background.
    fn values(n: usize, share: f64, background: f32) -> Vec<f32> {
        let differs = |i: usize| ((i + 1) as f64 * share) as usize > (i as f64 * share) as usize;
        (0..n).map(|i| if differs(i) { 1.0 + i as f32 } else { background }).collect()
    }

    #[test]
    fn lists_are_chosen_by_density_size_and_samples() {
        let choose = |n: usize, share: f64, background: f32| {
            layer(n, 400, 128).choose_input(&values(n * 400, share, background))
        };
        for background in [0.0, 0.5] {
            let chosen = choose(64, 0.1, background);
            assert!(
                matches!(chosen, Choice::Sparse { density, background: b } if (density - 0.1).abs() < 0.01 && b == background),
                "{chosen:?}"
            );
        }
        assert!(
            matches!(choose(64, 0.5, 0.0), Choice::Dense { density, .. } if (density - 0.5).abs() < 0.05)
        );
        assert_eq!(choose(FEWEST - 1, 0.1, 0.0), Choice::Small);
        assert_eq!(choose(1, 0.1, 0.0), Choice::OneRow);
        assert_eq!(layer(64, 40, 12).choose_input(&values(64 * 40, 0.1, 0.0)), Choice::Small);
        // A non-finite background would turn everything into NaN.
        assert!(matches!(choose(64, 0.0, f32::INFINITY), Choice::Dense { .. }));
    }

    #[test]
    fn large_products_use_lists_up_to_a_higher_density() {
        let half = |o: usize| layer(128, 1000, o).choose_input(&values(128 * 1000, 0.5, 0.0));
        assert!(matches!(half(1000), Choice::Sparse { .. }));
        assert!(matches!(half(400), Choice::Dense { .. }));
    }

    #[test]
    fn gradients_are_listed_only_if_their_lists_are_used() {
        let layer = layer(64, 400, 128);
        let grads = values(64 * 128, 0.1, 0.0);
        assert!(layer.list_gradients(&grads, &[false, true]).is_some());
        assert!(layer.list_gradients(&grads, &[false, false]).is_none());
        // The lists of a sparse input give the gradient of the weights.
        let xs = values(64 * 400, 0.1, 0.0);
        assert!(layer.input.set(Some(SparseInput::of(&xs, 400, 0.0))).is_ok());
        assert!(layer.list_gradients(&grads, &[false, true]).is_none());
        assert!(layer.list_gradients(&grads, &[true, true]).is_some());
    }
}
