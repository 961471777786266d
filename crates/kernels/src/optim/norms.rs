use candle_core::{DType, Device, Result, Tensor};

use super::rule::Constants;
use crate::simd::{WIDE, total};

/// L2 norms of one parameter in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Norms {
    /// Of the gradient that the rule was given.
    pub gradient: f64,
    /// Of the parameter behind the step.
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

impl Constants {
    /// As [`Constants::step`], and adds the squares of what it reads and writes, while they are in registers.
    #[inline(always)]
    pub fn measured_step(
        self,
        p: &mut [f32],
        factor: f32,
        g: &[f32],
        a: &mut [f32],
        b: &mut [f32],
        squares: &mut Squares,
    ) {
        for start in (0..p.len()).step_by(PIECE) {
            let own = start..p.len().min(start + PIECE);
            let (p, g) = (&mut p[own.clone()], &g[own.clone()]);
            let mut weights = [0.0; WIDE];
            if factor == 0.0 && self.ignores_zeros() {
                add(&mut weights, p);
            } else {
                // A slot that the rule does not have is empty.
                let (a, b) = (a.get_mut(own.clone()), b.get_mut(own));
                let (mut a, mut b) = (a.unwrap_or_default(), b.unwrap_or_default());
                let [mut gradients, mut updates] = [[0.0; WIDE]; 2];
                let (p_blocks, p_rest) = p.as_chunks_mut::<BLOCK>();
                let (g_blocks, g_rest) = g.as_chunks::<BLOCK>();
                for (p, g) in p_blocks.iter_mut().zip(g_blocks) {
                    let (a_block, b_block);
                    (a_block, a) = a.split_at_mut(BLOCK.min(a.len()));
                    (b_block, b) = b.split_at_mut(BLOCK.min(b.len()));
                    let before = *p;
                    self.step(p, factor, g, a_block, b_block);
                    for start in (0..BLOCK).step_by(WIDE) {
                        for lane in 0..WIDE {
                            let (g, p, before) = (g[start + lane], p[start + lane], before[start + lane]);
                            let change = (p - before) * SCALE;
                            gradients[lane] += g * g;
                            weights[lane] += p * p;
                            updates[lane] += change * change;
                        }
                    }
                }
                if !p_rest.is_empty() {
                    let (n, mut padded) = (p_rest.len(), [0.0; BLOCK]);
                    padded[..n].copy_from_slice(p_rest);
                    self.step(p_rest, factor, g_rest, a, b);
                    padded.iter_mut().zip(&*p_rest).for_each(|(change, p)| *change = (p - *change) * SCALE);
                    add(&mut gradients, g_rest);
                    add(&mut weights, p_rest);
                    add(&mut updates, &padded[..n]);
                }
                widen(&mut squares.gradient, gradients, f64::from(factor), g);
                widen(&mut squares.update, updates, f64::from(SCALE).recip(), &[]);
            }
            widen(&mut squares.weight, weights, 1.0, p);
        }
    }
}

/// Values that stay in registers.
const BLOCK: usize = 4 * WIDE;

/// Values whose squares are summed in f32 before they are added up in f64.
const PIECE: usize = 1024;

/// Of updates, which cannot be read again: those of 1e-28 to 1e10 have squares that f32 holds.
const SCALE: f32 = 1e9;

/// Adds squares to the sums of their lanes.
#[inline(always)]
fn add(sums: &mut [f32; WIDE], xs: &[f32]) {
    let (chunks, rest) = xs.as_chunks::<WIDE>();
    for chunk in chunks {
        for i in 0..WIDE {
            sums[i] += chunk[i] * chunk[i];
        }
    }
    sums.iter_mut().zip(rest).for_each(
        #[inline(always)]
        |(sum, x)| *sum += x * x,
    );
}

/// Adds the squares of `factor · xs` to the lanes, of which `sums` has those of `xs`; if f32 does not hold them, they are
/// computed anew.
#[inline(always)]
fn widen(lanes: &mut [f64; WIDE], sums: [f32; WIDE], factor: f64, xs: &[f32]) {
    if xs.is_empty() || (1e-25..1e25).contains(&total(sums)) {
        lanes.iter_mut().zip(sums).for_each(
            #[inline(always)]
            |(lane, sum)| *lane += factor * factor * f64::from(sum),
        );
    } else {
        lanes[0] += xs.iter().map(|x| (factor * f64::from(*x)).powi(2)).sum::<f64>();
    }
}
