use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use crate::activation::{Activation, per_activation};
use crate::autograd::{Backward, Gradient, Op, Scattered, apply, by_candle};
use crate::error::argument;
use crate::parallel::{CHUNK, filled, for_chunks};
use crate::simd::simd;
use crate::values::{is_fast, of_contiguous};

/// `f(xs)`, elementwise, with the gradient `f'(xs)`.
///
/// # Shapes
/// Any; the result has the shape of `xs`.
///
/// # Errors
/// For [`Activation::Custom`] anywhere but in `f32` on the CPU.
pub fn activate(xs: &Tensor, f: Activation) -> Result<Tensor> {
    match f {
        Activation::Identity => Ok(xs.clone()),
        _ if is_fast(&[xs]) => apply(Activate { f, shape: xs.shape().clone() }, &[xs]),
        _ => {
            #[cfg(feature = "cuda")]
            if crate::cuda::is_fast(&[xs])
                && let Some(code) = crate::cuda::code(f)
            {
                return by_candle(crate::cuda::layers::activate(xs, code));
            }
            by_candle(twin::activate(xs, f))
        }
    }
}

/// PReLU: `xs` above zero, `slope · xs` below, with gradients for both.
///
/// # Shapes
/// `xs`: any. `slope`: one element, as `(1)`; the result has the shape of `xs`.
///
/// # Errors
/// When `slope` has more than one element, or none.
pub fn prelu(xs: &Tensor, slope: &Tensor) -> Result<Tensor> {
    if slope.elem_count() != 1 {
        return argument(format!("prelu: expected a slope of one value, found shape {:?}", slope.dims()));
    }
    if is_fast(&[xs, slope]) {
        apply(Prelu(xs.shape().clone()), &[xs, slope])
    } else {
        by_candle(twin::prelu(xs, slope))
    }
}

/// Writes `f'(x)` for every `x` of `xs` to `slopes`, up to the shorter length.
#[inline(always)]
pub fn derivatives(f: Activation, xs: &[f32], slopes: &mut [f32]) {
    per_activation!(f, f => {
        for (slope, &x) in slopes.iter_mut().zip(xs) {
            *slope = f.derivative(x);
        }
    });
}

struct Activate {
    f: Activation,
    shape: Shape,
}

impl Op for Activate {
    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        map(self.f, inputs[0])
    }

    fn backward(&self, Backward { inputs, grad_ys, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        vec![Some(backward(self.f, inputs[0], grad_ys))]
    }
}

fn map(f: Activation, xs: &[f32]) -> Vec<f32> {
    // SAFETY: `xs` has a value for every element.
    unsafe {
        filled(xs.len(), CHUNK, |start, ys| {
            simd(
                #[inline(always)]
                || {
                    per_activation!(f, f => {
                        for (y, &x) in ys.iter_mut().zip(&xs[start..]) {
                            y.write(f.value(x));
                        }
                    })
                },
            )
        })
    }
}

/// `f'(xs) · grad_ys`, computed in place.
fn backward(f: Activation, xs: &[f32], grad_ys: Gradient) -> Gradient {
    let Gradient::Scattered(mut scattered) = grad_ys else {
        let mut grads = grad_ys.into_dense();
        for_chunks(&mut grads, |start, grads| scale(f, &xs[start..], grads));
        return Gradient::Dense(grads);
    };
    if let Some(ys) = scattered.ys.take()
        && f.slope_shows_in_value()
    {
        let values = &mut scattered.values;
        of_contiguous(&ys, |ys| for_chunks(values, |start, grads| scale(f, &ys[start..], grads)));
        return Gradient::Scattered(scattered);
    }
    let Scattered { windows, plane, .. } = scattered;
    let grads = scattered.values.par_chunks_mut(windows).zip(scattered.positions.par_chunks(windows));
    grads.zip(xs.par_chunks(plane)).for_each_init(
        || vec![0.0; windows],
        |own, ((grads, positions), xs)| {
            own.iter_mut().zip(positions).for_each(|(x, position)| *x = xs[*position as usize]);
            scale(f, own, grads);
        },
    );
    Gradient::Scattered(scattered)
}

/// Replaces every `x` by `f(x)`.
pub(crate) fn apply_to(f: Activation, xs: &mut [f32]) {
    if f == Activation::Identity {
        return;
    }
    simd(
        #[inline(always)]
        || {
            per_activation!(f, f => {
                for x in xs.iter_mut() {
                    *x = f.value(*x);
                }
            })
        },
    )
}

/// Multiplies gradients by f'(x) in place.
pub(crate) fn scale(f: Activation, xs: &[f32], grads: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            per_activation!(f, f => {
                for (grad, &x) in grads.iter_mut().zip(xs) {
                    *grad *= f.derivative(x);
                }
            })
        },
    )
}

struct Prelu(Shape);

/// The sum of `x · grad_y` over all `x <= 0`, in an order that does not depend on the number of threads.
fn grad_slope(xs: &[f32], grad_ys: &[f32]) -> f64 {
    let chunks = xs.par_chunks(CHUNK).zip(grad_ys.par_chunks(CHUNK));
    let sums: Vec<f64> = chunks
        .map(|(xs, grad_ys)| {
            simd(
                #[inline(always)]
                || {
                    let mut lanes = [0.0_f64; 16];
                    for (xs, grad_ys) in xs.chunks(16).zip(grad_ys.chunks(16)) {
                        for ((lane, &x), &grad_y) in lanes.iter_mut().zip(xs).zip(grad_ys) {
                            *lane += if x <= 0.0 { x as f64 * grad_y as f64 } else { 0.0 };
                        }
                    }
                    lanes.iter().sum()
                },
            )
        })
        .collect();
    sums.iter().sum()
}

impl Op for Prelu {
    fn name(&self) -> &'static str {
        "prelu"
    }

    fn shape(&self) -> Shape {
        self.0.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        map(Activation::Prelu { slope: inputs[1][0] as f64 }, inputs[0])
    }

    fn backward(&self, Backward { inputs, grad_ys, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let f = Activation::Prelu { slope: inputs[1][0] as f64 };
        let grad_ys = grad_ys.into_dense();
        let grad_slope = grad_slope(inputs[0], &grad_ys) as f32;
        let grad_xs = backward(f, inputs[0], Gradient::Dense(grad_ys));
        vec![Some(grad_xs), Some(Gradient::Dense(vec![grad_slope]))]
    }
}

pub(crate) mod twin {
    use super::*;
    use crate::{SELU_ALPHA, SELU_LAMBDA};

    /// `value` with the shape, dtype and device of `xs`. Through f64 only if `xs` is f64, because some devices have
    /// none.
    pub(in crate::ops) fn constant(value: f64, xs: &Tensor) -> Result<Tensor> {
        let constant = match xs.dtype() {
            candle_core::DType::F64 => Tensor::full(value, (), xs.device())?,
            dtype => Tensor::full(value as f32, (), xs.device())?.to_dtype(dtype)?,
        };
        constant.broadcast_as(xs.shape())
    }

    /// `where(xs <= bound, low, xs)`: NaN stays NaN, and `low` has no gradient.
    fn floor(xs: &Tensor, bound: f64) -> Result<Tensor> {
        let low = constant(bound, xs)?;
        xs.le(bound)?.where_cond(&low, xs)
    }

    /// `where(xs >= bound, bound, xs)`.
    fn ceiling(xs: &Tensor, bound: f64) -> Result<Tensor> {
        let high = constant(bound, xs)?;
        xs.ge(bound)?.where_cond(&high, xs)
    }

    /// `where(xs > 0, above, below)` with `below` computed from `min(xs, 0)`, so that it cannot overflow.
    fn split(xs: &Tensor, above: &Tensor, below: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let positive = xs.gt(0.0)?;
        positive.where_cond(above, &below(&positive.where_cond(&xs.zeros_like()?, xs)?)?)
    }

    fn exp_m1(xs: &Tensor) -> Result<Tensor> {
        xs.exp()? - 1.0
    }

    /// Computed from `e^-|x|`, which cannot overflow: `1 / (1 + e)` above zero, `e / (1 + e)` below.
    fn sigmoid(xs: &Tensor) -> Result<Tensor> {
        let e = xs.abs()?.neg()?.exp()?;
        xs.ge(0.0)?.where_cond(&e.ones_like()?, &e)? / (e + 1.0)?
    }

    fn tanh_softplus(xs: &Tensor) -> Result<Tensor> {
        let e = ceiling(xs, 20.0)?.exp()?;
        let n = (&e * (&e + 2.0)?)?;
        &n / (&n + 2.0)?
    }

    /// See [`crate::activate`].
    pub fn activate(xs: &Tensor, f: Activation) -> Result<Tensor> {
        match f {
            Activation::Identity => Ok(xs.clone()),
            Activation::Relu => floor(xs, 0.0),
            Activation::LeakyRelu { slope } | Activation::Prelu { slope } => split(xs, xs, |x| x * slope),
            Activation::Elu { alpha } => split(xs, xs, |x| exp_m1(x)? * alpha),
            Activation::Celu { alpha } => split(xs, xs, |x| exp_m1(&(x / alpha)?)? * alpha),
            Activation::Selu => split(xs, &(xs * SELU_LAMBDA)?, |x| exp_m1(x)? * (SELU_LAMBDA * SELU_ALPHA)),
            Activation::Tanh => xs.tanh(),
            Activation::Sigmoid => sigmoid(xs),
            Activation::Softplus => {
                // candle's |x| has the slope 1 at 0, so this part must have the slope 1 there too.
                let above = xs.ge(0.0)?.where_cond(xs, &xs.zeros_like()?)?;
                above + (xs.abs()?.neg()?.exp()? + 1.0)?.log()?
            }
            Activation::Softsign => xs / (xs.abs()? + 1.0)?,
            Activation::Hardtanh => ceiling(&floor(xs, -1.0)?, 1.0),
            Activation::Hardsigmoid => ceiling(&floor(&((xs / 6.0)? + 0.5)?, 0.0)?, 1.0),
            Activation::Hardswish => {
                let inner = ceiling(&floor(xs, -3.0)?, 3.0)?;
                let middle = ((xs * (inner + 3.0)?)? / 6.0)?;
                let above = xs.ge(3.0)?.where_cond(xs, &middle)?;
                xs.le(-3.0)?.where_cond(&xs.zeros_like()?, &above)
            }
            Activation::Relu6 => ceiling(&floor(xs, 0.0)?, 6.0),
            Activation::Relu2 => floor(xs, 0.0)?.sqr(),
            Activation::Gelu => xs.gelu_erf(),
            Activation::GeluTanh => {
                let near = ceiling(&floor(xs, -20.0)?, 20.0)?;
                let inner =
                    ((&near + (near.powf(3.0)? * 0.044715)?)? * (2.0 * (2.0 / std::f64::consts::PI).sqrt()))?;
                xs * sigmoid(&inner)?
            }
            Activation::Silu => xs * sigmoid(xs)?,
            Activation::Mish => xs * tanh_softplus(xs)?,
            Activation::Custom(custom) => argument(format!(
                "activation '{}': expected f32 on the CPU, found {:?} on {:?}: write it in candle operations",
                custom.name,
                xs.dtype(),
                xs.device().location()
            )),
        }
    }

    /// See [`crate::prelu`].
    pub fn prelu(xs: &Tensor, slope: &Tensor) -> Result<Tensor> {
        split(xs, xs, |x| x.broadcast_mul(&slope.flatten_all()?.get(0)?))
    }
}
