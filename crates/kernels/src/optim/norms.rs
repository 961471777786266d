use candle_core::{DType, Device, Result, Tensor};

use super::rule::Constants;
use crate::simd::{WIDE, total};

/// L2 norms of one parameter in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Norms {
    /// Of the gradient that the rule was given.
    pub gradient: f64,
    /// Of the parameter after the step.
    pub weight: f64,
    /// Of what the step changed. Infinite where a value changed by more than about 1e10.
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

impl Constants<'_> {
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
        let (mut before, mut columns) = ([0.0; PIECE], self.columns);
        for (p, g) in p.chunks_mut(PIECE).zip(g.chunks(PIECE)) {
            let before = &mut before[..p.len()];
            before.copy_from_slice(p);
            // Empty slots and columns stay empty.
            let (a_piece, b_piece, own);
            (a_piece, a) = a.split_at_mut(p.len().min(a.len()));
            (b_piece, b) = b.split_at_mut(p.len().min(b.len()));
            (own, columns) = columns.split_at(p.len().min(columns.len()));
            if factor != 0.0 || !self.ignores_zeros() {
                self.with_columns(own).step(p, factor, g, a_piece, b_piece);
            }
            squares.add(before, p, factor, g);
        }
    }
}

impl Squares {
    /// Adds the squares of a piece. Each lane sums its few squares in f32, which costs half as much as f64.
    #[inline(always)]
    fn add(&mut self, before: &[f32], after: &[f32], factor: f32, g: &[f32]) {
        let [mut gradient, mut weight, mut update] = [[0.0; WIDE]; 3];
        let mut add = |before: &[f32; WIDE], after: &[f32; WIDE], g: &[f32; WIDE]| {
            for lane in 0..WIDE {
                let change = (after[lane] - before[lane]) * SCALE;
                gradient[lane] += g[lane] * g[lane];
                weight[lane] += after[lane] * after[lane];
                update[lane] += change * change;
            }
        };
        let ((befores, last), (afters, last_after), (gs, last_g)) =
            (before.as_chunks(), after.as_chunks(), g.as_chunks());
        for ((before, after), g) in befores.iter().zip(afters).zip(gs) {
            add(before, after, g);
        }
        add(&padded(last), &padded(last_after), &padded(last_g));
        widen(&mut self.gradient, gradient, f64::from(factor), g);
        widen(&mut self.weight, weight, 1.0, after);
        widen(&mut self.update, update, f64::from(SCALE).recip(), &[]);
    }
}

/// Values whose copies stay in the first-level cache.
const PIECE: usize = 1024;

/// Of updates, which cannot be read again: those of 1e-28 to 1e10 have squares that f32 holds.
const SCALE: f32 = 1e9;

/// Fewer than [`WIDE`] values, and zeros.
#[inline(always)]
fn padded(xs: &[f32]) -> [f32; WIDE] {
    let mut padded = [0.0; WIDE];
    padded[..xs.len()].copy_from_slice(xs);
    padded
}

/// Adds squares of `factor · xs` to the lanes, of which `sums` has those of `xs`; if f32 does not hold their sum, they are
/// computed anew.
#[inline(always)]
fn widen(lanes: &mut [f64; WIDE], sums: [f32; WIDE], factor: f64, xs: &[f32]) {
    if xs.is_empty() || (1e-25..1e25).contains(&total(sums)) {
        for lane in 0..WIDE {
            lanes[lane] += factor * factor * f64::from(sums[lane]);
        }
    } else {
        lanes[0] += xs.iter().map(|x| (factor * f64::from(*x)).powi(2)).sum::<f64>();
    }
}
