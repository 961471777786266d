use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use crate::autograd::{Backward, Gradient, Op, apply, by_candle};
use crate::error::argument;
use crate::parallel::CHUNK;
use crate::simd::simd;
use crate::values::is_fast;
use crate::{SELU_ALPHA, SELU_LAMBDA};

/// The arguments of a random mask: a seed, and the position of its rows in the whole batch.
///
/// Each row (index of dimension 0) has its own mask, so the parts of a divided batch draw the masks of the whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Different seeds give independent masks.
    pub seed: u64,
    /// The index in the whole batch of the tensor's first row.
    pub first_row: u64,
}

impl Draw {
    /// For a whole batch, from a seed and other keys: a step, a layer. Two different lists of keys give independent
    /// masks.
    pub fn keyed(seed: u64, keys: impl IntoIterator<Item = u64>) -> Self {
        let add =
            |hash: u64, key: u64| scramble(hash.wrapping_add(GAMMA) ^ scramble(key.wrapping_add(GAMMA)));
        keys.into_iter().fold(seed, add).into()
    }
}

impl From<u64> for Draw {
    /// For a whole batch.
    fn from(seed: u64) -> Self {
        Self { seed, first_row: 0 }
    }
}

/// Inverted dropout: every value is set to 0 with probability `rate`, the others are divided by `1 − rate`, which keeps
/// the expectation (Srivastava et al. 2014). The mask is a function of `draw` and the shape of a row.
///
/// # Shapes
/// Any; the result has the shape of `xs`.
///
/// # Errors
/// When `rate` is outside `[0, 1)`.
pub fn dropout(xs: &Tensor, rate: f64, draw: impl Into<Draw>) -> Result<Tensor> {
    let mask = Mask::inverted(rate, draw.into())?;
    if rate == 0.0 { Ok(xs.clone()) } else { mask.apply(xs) }
}

/// Alpha-dropout: dropped values become SELU's lower limit `−λα`, and an affine map restores mean 0 and
/// variance 1 (Klambauer et al. 2017). It makes no exact zeros.
///
/// # Shapes
/// Any; the result has the shape of `xs`.
///
/// # Errors
/// When `rate` is outside `[0, 1)`.
pub fn alpha_dropout(xs: &Tensor, rate: f64, draw: impl Into<Draw>) -> Result<Tensor> {
    let mask = Mask::alpha(rate, draw.into())?;
    if rate == 0.0 { Ok(xs.clone()) } else { mask.apply(xs) }
}

/// A random mask and its effect: a kept `x` becomes `scale · x + shift`, a dropped one `dropped`.
#[derive(Clone, Copy)]
struct Mask {
    rate: f64,
    draw: Draw,
    scale: f64,
    shift: f64,
    dropped: f64,
}

impl Mask {
    fn inverted(rate: f64, draw: Draw) -> Result<Self> {
        let rate = check(rate)?;
        Ok(Self { rate, draw, scale: 1.0 / (1.0 - rate), shift: 0.0, dropped: 0.0 })
    }

    fn alpha(rate: f64, draw: Draw) -> Result<Self> {
        let rate = check(rate)?;
        let (keep, low) = (1.0 - rate, -SELU_LAMBDA * SELU_ALPHA);
        let a = (keep + low * low * keep * rate).powf(-0.5);
        let b = -a * rate * low;
        Ok(Self { rate, draw, scale: a, shift: b, dropped: a * low + b })
    }

    fn apply(self, xs: &Tensor) -> Result<Tensor> {
        match is_fast(&[xs]) {
            true => apply(Masked { mask: self, shape: xs.shape().clone() }, &[xs]),
            #[cfg(feature = "cuda")]
            false if crate::cuda::is_fast(&[xs]) => {
                by_candle(crate::cuda::layers::masked(xs, self.on_cuda(xs)))
            }
            false => by_candle(twin::masked(xs, self)),
        }
    }

    /// The mask in the form of the CUDA kernel's argument.
    #[cfg(feature = "cuda")]
    fn on_cuda(self, xs: &Tensor) -> crate::cuda::layers::Masked {
        crate::cuda::layers::Masked {
            width: width_of(xs.shape()),
            seed: self.draw.seed,
            first_row: self.draw.first_row,
            bound: self.bound(),
            scale: self.scale as f32,
            shift: self.shift as f32,
            dropped: self.dropped as f32,
        }
    }

    /// Values whose 32 bits are below this are dropped.
    fn bound(&self) -> u32 {
        (self.rate * (1_u64 << 32) as f64) as u32
    }

    /// Writes which of the values of row `row` are kept.
    ///
    /// SplitMix64 (Steele, Lea & Flood 2014) as a counter-based generator: the bits of a value follow from its index,
    /// so the loop is vector code. Its start is scrambled, because rows, or seeds at regular distances, must not share
    /// a sequence.
    fn draw_row(&self, row: u64, kept: &mut [bool]) {
        let start = scramble(self.draw.seed ^ scramble(self.draw.first_row.wrapping_add(row)));
        let bound = self.bound();
        simd(
            #[inline(always)]
            move || {
                let (pairs, last) = kept.as_chunks_mut::<2>();
                let n = pairs.len() as u64;
                let mut counter = start;
                for pair in pairs {
                    counter = counter.wrapping_add(GAMMA);
                    let bits = scramble(counter);
                    *pair = [(bits >> 32) as u32 >= bound, bits as u32 >= bound];
                }
                let bits = scramble(start.wrapping_add(GAMMA.wrapping_mul(n + 1)));
                last.iter_mut().for_each(|kept| *kept = (bits >> 32) as u32 >= bound);
            },
        );
    }

    /// Applies the mask to `xs`, rows of `width` values: `scale · x + shift` for a kept `x`, else `dropped`.
    fn choose(&self, width: usize, xs: &[f32], (scale, shift, dropped): (f32, f32, f32)) -> Vec<f32> {
        let mut ys = vec![0.0; xs.len()];
        let rows = (CHUNK / width.max(1)).max(1);
        let parts = ys.par_chunks_mut(rows * width.max(1)).zip(xs.par_chunks(rows * width.max(1)));
        let op = |kept: &mut Vec<bool>, (part, (ys, xs)): (usize, (&mut [f32], &[f32]))| {
            for (i, (ys, xs)) in ys.chunks_mut(width).zip(xs.chunks(width)).enumerate() {
                self.draw_row((part * rows + i) as u64, kept);
                choose(kept, xs, ys, (scale, shift, dropped));
            }
        };
        parts.enumerate().for_each_init(|| vec![false; width], op);
        ys
    }
}

/// SplitMix64's increment.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function: one to one, and every bit of the result depends on every bit of `z`.
#[inline(always)]
fn scramble(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `scale · x + shift` for every kept `x`, `dropped` for the others.
fn choose(kept: &[bool], xs: &[f32], ys: &mut [f32], (scale, shift, dropped): (f32, f32, f32)) {
    simd(
        #[inline(always)]
        move || {
            for ((y, &x), &kept) in ys.iter_mut().zip(xs).zip(kept) {
                *y = if kept { scale * x + shift } else { dropped };
            }
        },
    );
}

/// Values of a row, an index of dimension 0.
fn width_of(shape: &Shape) -> usize {
    shape.dims().iter().skip(1).product()
}

/// The rate in units of 2^-32, in which bits are compared with it, so the scale matches the real rate.
fn check(rate: f64) -> Result<f64> {
    const STEPS: f64 = (1_u64 << 32) as f64;
    if !(0.0..1.0).contains(&rate) {
        return argument(format!("dropout: expected a rate of at least 0 and below 1, found {rate}"));
    }
    Ok((rate * STEPS).floor() / STEPS)
}

struct Masked {
    mask: Mask,
    shape: Shape,
}

impl Op for Masked {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let mask = self.mask;
        let map = (mask.scale as f32, mask.shift as f32, mask.dropped as f32);
        mask.choose(width_of(&self.shape), inputs[0], map)
    }

    fn backward(&self, args: Backward<'_>) -> Vec<Option<Gradient>> {
        let (mask, grad_ys) = (self.mask, args.grad_ys.into_dense());
        let grad_xs = mask.choose(width_of(&self.shape), &grad_ys, (mask.scale as f32, 0.0, 0.0));
        vec![Some(Gradient::Dense(grad_xs))]
    }
}

pub(crate) mod twin {
    use super::*;
    use crate::ops::activate::twin::constant;

    pub(super) fn masked(xs: &Tensor, mask: Mask) -> Result<Tensor> {
        let (mut keep, width) = (Vec::with_capacity(xs.elem_count()), width_of(xs.shape()));
        let mut kept = vec![false; width];
        for row in 0..xs.dims().first().copied().unwrap_or(1) {
            mask.draw_row(row as u64, &mut kept);
            keep.extend(kept.iter().map(|kept| u8::from(*kept)));
        }
        let keep = Tensor::from_vec(keep, xs.shape(), xs.device())?;
        keep.where_cond(&xs.affine(mask.scale, mask.shift)?, &constant(mask.dropped, xs)?)
    }

    /// See [`crate::dropout`].
    pub fn dropout(xs: &Tensor, rate: f64, draw: impl Into<Draw>) -> Result<Tensor> {
        masked(xs, Mask::inverted(rate, draw.into())?)
    }

    /// See [`crate::alpha_dropout`].
    pub fn alpha_dropout(xs: &Tensor, rate: f64, draw: impl Into<Draw>) -> Result<Tensor> {
        masked(xs, Mask::alpha(rate, draw.into())?)
    }
}
