use candle_core::{DType, Device, Result, Tensor};

use super::rule::Constants;

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

/// Sums of squares, from which [`Norms`] are the roots.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Squares {
    gradient: f64,
    weight: f64,
    update: f64,
}

impl Squares {
    pub fn plus(self, other: Self) -> Self {
        Self {
            gradient: self.gradient + other.gradient,
            weight: self.weight + other.weight,
            update: self.update + other.update,
        }
    }

    pub fn norms(self) -> Norms {
        let Self { gradient, weight, update } = self;
        Norms { gradient: gradient.sqrt(), weight: weight.sqrt(), update: update.sqrt() }
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
    /// As [`Constants::step`], and the squares of what it read and wrote, while they are in the cache.
    #[inline(always)]
    pub fn measured_step(
        self,
        p: &mut [f32],
        factor: f32,
        g: &[f32],
        mut a: &mut [f32],
        mut b: &mut [f32],
    ) -> Squares {
        let mut squares = Squares::default();
        let mut update = [0.0; PIECE];
        for (p, g) in p.chunks_mut(PIECE).zip(g.chunks(PIECE)) {
            let update = &mut update[..p.len()];
            update.copy_from_slice(p);
            let (a_piece, b_piece);
            (a_piece, a) = a.split_at_mut(p.len().min(a.len()));
            (b_piece, b) = b.split_at_mut(p.len().min(b.len()));
            if factor != 0.0 || !self.ignores_zeros() {
                self.step(p, factor, g, a_piece, b_piece);
            }
            for (update, p) in update.iter_mut().zip(&*p) {
                *update = *p - *update;
            }
            squares.weight += sum_of_squares(p);
            squares.update += sum_of_squares(update);
            squares.gradient += sum_of_squares(g) * (factor as f64 * factor as f64);
        }
        squares
    }
}

/// Values that are summed up in f32.
const PIECE: usize = 256;

/// In f32, which is twice as fast, where no square can be too large or too small for it.
#[inline(always)]
fn sum_of_squares(xs: &[f32]) -> f64 {
    let (chunks, rest) = xs.as_chunks::<16>();
    let mut lanes = [0.0_f32; 16];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    // As a tree: added up one by one, the lanes would take longer than the values.
    for half in [8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
    }
    let sum = lanes[0] + rest.iter().map(|x| x * x).sum::<f32>();
    if (1e-28..=1e37).contains(&sum) {
        return sum as f64;
    }
    let mut lanes = [0.0_f64; 16];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += *x as f64 * *x as f64;
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|x| *x as f64 * *x as f64).sum::<f64>()
}
