use candle_core::{DType, Device, Result, Tensor};

use super::rule::Constants;
use crate::simd::WIDE;

/// L2 norms of one parameter in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Norms {
    /// Of the gradient that the rule was given.
    pub gradient: f64,
    /// Of the parameter behind the step.
    pub weight: f64,
    /// Of what the step changed.
    pub update: f64,
}

/// Sums of squares, from which [`Norms`] are the roots: in lanes, which are added up once, at the end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Squares {
    gradient: [f64; WIDE],
    weight: [f64; WIDE],
    update: [f64; WIDE],
}

impl Squares {
    pub fn plus(mut self, other: Self) -> Self {
        let pairs = [
            (&mut self.gradient, other.gradient),
            (&mut self.weight, other.weight),
            (&mut self.update, other.update),
        ];
        for (sums, others) in pairs {
            sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
        }
        self
    }

    pub fn norms(self) -> Norms {
        let [gradient, weight, update] =
            [self.gradient, self.weight, self.update].map(|lanes| lanes.iter().sum::<f64>().sqrt());
        Norms { gradient, weight, update }
    }
}

/// The norms in candle operations, of a parameter that `gradient` moves from `before` to `after`.
pub(super) fn twin(before: &Tensor, after: &Tensor, gradient: &Tensor) -> Result<Norms> {
    // On the CPU, as some devices have no f64.
    let wide = |t: &Tensor| t.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64);
    let norm = |t: Tensor| Ok::<_, candle_core::Error>(t.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt());
    let update = norm((wide(after)? - wide(before)?)?)?;
    Ok(Norms { gradient: norm(wide(gradient)?)?, weight: norm(wide(after)?)?, update })
}

impl Constants {
    /// As [`Constants::step`], and adds the squares of what it reads and writes, while they are in the cache.
    #[inline(always)]
    pub fn measured_step(
        self,
        p: &mut [f32],
        factor: f32,
        g: &[f32],
        mut a: &mut [f32],
        mut b: &mut [f32],
        squares: &mut Squares,
    ) {
        let mut before = [0.0; PIECE];
        for (p, g) in p.chunks_mut(PIECE).zip(g.chunks(PIECE)) {
            let before = &mut before[..p.len()];
            before.copy_from_slice(p);
            let (a_piece, b_piece);
            (a_piece, a) = a.split_at_mut(p.len().min(a.len()));
            (b_piece, b) = b.split_at_mut(p.len().min(b.len()));
            if factor != 0.0 || !self.ignores_zeros() {
                self.step(p, factor, g, a_piece, b_piece);
                before.iter_mut().zip(&*p).for_each(|(before, p)| *before = *p - *before);
                add(&mut squares.update, 1.0, before);
                add(&mut squares.gradient, factor, g);
            }
            add(&mut squares.weight, 1.0, p);
        }
    }
}

/// Values whose copies stay in the first-level cache.
const PIECE: usize = 256;

/// Adds the squares of `factor · xs`, in f64: those of f32 may be too large or too small for f32.
#[inline(always)]
fn add(lanes: &mut [f64; WIDE], factor: f32, xs: &[f32]) {
    let factor = f64::from(factor);
    let (chunks, rest) = xs.as_chunks::<WIDE>();
    let mut sums = *lanes;
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            let x = factor * f64::from(*x);
            *sum += x * x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        let x = factor * f64::from(*x);
        *sum += x * x;
    }
    *lanes = sums;
}
