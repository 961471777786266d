use std::ops::Range;

use candle_core::{Result, Shape, Tensor};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use crate::cpu::{CHUNK, for_chunks, is_fast, simd};
use crate::error::argument;
use crate::gradient::Gradient;
use crate::kernel::{Kernel, apply};
use crate::{SELU_ALPHA, SELU_LAMBDA};

/// Inverted dropout: every value is set to 0 with probability `rate`, the others are divided by `1 − rate`,
/// so that the expectation stays (Srivastava et al. 2014). The mask is a function of `seed` alone.
///
/// # Shapes
/// Any; the result has the shape of `xs`.
///
/// # Errors
/// When `rate` is outside `[0, 1)`.
pub fn dropout(xs: &Tensor, rate: f64, seed: u64) -> Result<Tensor> {
    let mask = Mask::inverted(rate, seed)?;
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
pub fn alpha_dropout(xs: &Tensor, rate: f64, seed: u64) -> Result<Tensor> {
    let mask = Mask::alpha(rate, seed)?;
    if rate == 0.0 { Ok(xs.clone()) } else { mask.apply(xs) }
}

/// A random mask and what it does: a kept `x` becomes `scale · x + shift`, a dropped one `dropped`.
#[derive(Clone, Copy)]
struct Mask {
    rate: f64,
    seed: u64,
    scale: f64,
    shift: f64,
    dropped: f64,
}

impl Mask {
    fn inverted(rate: f64, seed: u64) -> Result<Self> {
        check(rate)?;
        Ok(Self { rate, seed, scale: 1.0 / (1.0 - rate), shift: 0.0, dropped: 0.0 })
    }

    fn alpha(rate: f64, seed: u64) -> Result<Self> {
        check(rate)?;
        let (keep, low) = (1.0 - rate, -SELU_LAMBDA * SELU_ALPHA);
        let a = (keep + low * low * keep * rate).powf(-0.5);
        let b = -a * rate * low;
        Ok(Self { rate, seed, scale: a, shift: b, dropped: a * low + b })
    }

    fn apply(self, xs: &Tensor) -> Result<Tensor> {
        match is_fast(&[xs]) {
            true => apply(Masked { mask: self, shape: xs.shape().clone() }, &[xs]),
            false => twin::masked(xs, self),
        }
    }

    /// Calls `write(elements, whether each is kept)` for runs of the `count` elements from `start` on, a
    /// multiple of [`CHUNK`]: each chunk has its own generator, so that chunks can be drawn in any order.
    fn draw(&self, start: usize, count: usize, mut write: impl FnMut(Range<usize>, &[bool])) {
        use rand::Rng;
        // Scrambled, because seeds at regular distances would start generators that share most of their state.
        let chunk = scramble((start / CHUNK) as u64);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(scramble(self.seed ^ chunk));
        let bound = (self.rate * (1_u64 << 32) as f64) as u64;
        // Drawing is scalar code; what is done with a run of results is vector code.
        let mut kept = [false; 1024];
        for first in (0..count).step_by(kept.len()) {
            for pair in kept.chunks_exact_mut(2) {
                let bits = rng.next_u64();
                pair[0] = bits >> 32 >= bound;
                pair[1] = bits & 0xffff_ffff >= bound;
            }
            let end = (first + kept.len()).min(count);
            write(first..end, &kept[..end - first]);
        }
    }
}

/// SplitMix64's output function: one to one, and every bit of the result depends on every bit of `z`.
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

fn check(rate: f64) -> Result<()> {
    if !(0.0..1.0).contains(&rate) {
        return argument(format!("dropout: expected a rate of at least 0 and below 1, found {rate}"));
    }
    Ok(())
}

struct Masked {
    mask: Mask,
    shape: Shape,
}

impl Kernel for Masked {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let (mask, xs) = (self.mask, inputs[0]);
        let (scale, shift, dropped) = (mask.scale as f32, mask.shift as f32, mask.dropped as f32);
        let mut ys = vec![0.0; xs.len()];
        for_chunks(&mut ys, |start, ys| {
            let xs = &xs[start..];
            mask.draw(start, ys.len(), |run, kept| {
                choose(kept, &xs[run.clone()], &mut ys[run], (scale, shift, dropped));
            });
        });
        ys
    }

    fn backward(&self, _: &[&[f32]], _ys: &Tensor, grad_ys: Gradient, _: &[bool]) -> Vec<Option<Gradient>> {
        let (mask, grad_ys) = (self.mask, grad_ys.into_dense());
        let mut grad_xs = vec![0.0; grad_ys.len()];
        for_chunks(&mut grad_xs, |start, grad_xs| {
            let grad_ys = &grad_ys[start..];
            mask.draw(start, grad_xs.len(), |run, kept| {
                choose(kept, &grad_ys[run.clone()], &mut grad_xs[run], (mask.scale as f32, 0.0, 0.0));
            });
        });
        vec![Some(Gradient::Dense(grad_xs))]
    }
}

pub(crate) mod twin {
    use super::*;

    pub(super) fn masked(xs: &Tensor, mask: Mask) -> Result<Tensor> {
        let mut keep = vec![0_u8; xs.elem_count()];
        for (chunk, keep) in keep.chunks_mut(CHUNK).enumerate() {
            mask.draw(chunk * CHUNK, keep.len(), |run, kept| {
                keep[run].iter_mut().zip(kept).for_each(|(keep, kept)| *keep = (*kept).into());
            });
        }
        let keep = Tensor::from_vec(keep, xs.shape(), xs.device())?;
        let dropped = Tensor::full(mask.dropped, (), xs.device())?.to_dtype(xs.dtype())?;
        keep.where_cond(&xs.affine(mask.scale, mask.shift)?, &dropped.broadcast_as(xs.shape())?)
    }

    /// See [`crate::dropout`].
    pub fn dropout(xs: &Tensor, rate: f64, seed: u64) -> Result<Tensor> {
        masked(xs, Mask::inverted(rate, seed)?)
    }

    /// See [`crate::alpha_dropout`].
    pub fn alpha_dropout(xs: &Tensor, rate: f64, seed: u64) -> Result<Tensor> {
        masked(xs, Mask::alpha(rate, seed)?)
    }
}
