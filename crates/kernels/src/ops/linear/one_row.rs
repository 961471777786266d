//! Products with a single row, as in online learning. Every weight is used once, so the time is that of reading the
//! weights.

use std::mem::MaybeUninit;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::activation::Activation;
use crate::gemm::Matrix;
use crate::ops::activate::apply_to;
use crate::parallel::filled;
use crate::simd::simd;

/// Rows of the weight that are used at once, so that shared values are loaded less often.
const ROWS: usize = 4;
/// With more weights, waking a thread is worth it.
pub(super) const SHARE: usize = 1 << 18;

/// `f(weight · x + bias)`, `o` values; `weight` is in rows as long as `x`.
pub(super) fn forward(x: &[f32], weight: &[f32], bias: Option<&[f32]>, o: usize, f: Activation) -> Vec<f32> {
    let i = x.len();
    let write = |first: usize, ys: &mut [MaybeUninit<f32>]| {
        let weight = &weight[first * i..][..ys.len() * i];
        let bias = bias.map(|bias| &bias[first..]);
        Arch::new().dispatch(Dots { x, weight, bias, ys });
        // SAFETY: `Dots` writes all of them.
        apply_to(f, unsafe { ys.assume_init_mut() });
    };
    // SAFETY: `Dots` writes every value.
    unsafe { filled(o, (SHARE / i.max(1)).max(1), write) }
}

/// Writes `weight · x + bias`.
struct Dots<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    ys: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let i = self.x.len();
        for (k, ys) in self.ys.chunks_mut(ROWS).enumerate() {
            let mut rows = [self.x; ROWS];
            for (r, row) in rows.iter_mut().enumerate() {
                // If fewer rows are left, the last is computed more than once.
                *row = &self.weight[(k * ROWS + r.min(ys.len() - 1)) * i..][..i];
            }
            let dots = dots(simd, self.x, rows);
            for (r, (y, dot)) in ys.iter_mut().zip(dots).enumerate() {
                y.write(dot + self.bias.map_or(0.0, |bias| bias[k * ROWS + r]));
            }
        }
    }
}

/// The scalar products of `x` with rows of the same length, each summed in the lanes of two vectors.
///
/// Methods, not closures: a closure that is not inlined is compiled without vector instructions.
#[inline(always)]
fn dots<S: Simd>(simd: S, x: &[f32], rows: [&[f32]; ROWS]) -> [f32; ROWS] {
    let (vectors, rest) = S::as_simd_f32s(x);
    let (pairs, last) = vectors.as_chunks::<2>();
    let mut weights = [vectors; ROWS];
    for (weights, row) in weights.iter_mut().zip(rows) {
        *weights = &S::as_simd_f32s(row).0[..vectors.len()];
    }
    let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
    for (j, [a, b]) in pairs.iter().enumerate() {
        for (sums, weights) in sums.iter_mut().zip(&weights) {
            sums[0] = simd.mul_add_e_f32s(*a, weights[2 * j], sums[0]);
            sums[1] = simd.mul_add_e_f32s(*b, weights[2 * j + 1], sums[1]);
        }
    }
    let mut dots = [0.0; ROWS];
    for (r, dot) in dots.iter_mut().enumerate() {
        for a in last {
            sums[r][0] = simd.mul_add_e_f32s(*a, weights[r][vectors.len() - 1], sums[r][0]);
        }
        *dot = simd.reduce_sum_f32s(simd.add_f32s(sums[r][0], sums[r][1]));
        for (x, w) in rest.iter().zip(&rows[r][x.len() - rest.len()..]) {
            *dot += x * w;
        }
    }
    dots
}

/// `grads · weight`. Rows of the weight whose gradient is 0 are not read.
pub(super) fn grad_xs(grads: &[f32], weight: Matrix<'_>) -> Vec<f32> {
    let i = weight.row;
    let rows: Vec<(f32, &[f32])> = grads.iter().copied().zip(weight.data.chunks_exact(i.max(1))).collect();
    let rows: Vec<(f32, &[f32])> = rows.into_iter().filter(|(grad, _)| *grad != 0.0).collect();
    let add = |first: usize, sums: &mut [f32]| {
        simd(
            #[inline(always)]
            || {
                let (chunks, rest) = rows.as_chunks::<ROWS>();
                for [(ga, a), (gb, b), (gc, c), (gd, d)] in chunks {
                    let n = first..first + sums.len();
                    let (a, b, c, d) = (&a[n.clone()], &b[n.clone()], &c[n.clone()], &d[n]);
                    for (j, sum) in sums.iter_mut().enumerate() {
                        *sum += ga * a[j] + gb * b[j] + (gc * c[j] + gd * d[j]);
                    }
                }
                for (grad, row) in rest {
                    sums.iter_mut().zip(&row[first..]).for_each(|(sum, w)| *sum += grad * w);
                }
            },
        );
    };
    let mut sums = vec![0.0; i];
    match rows.len() * i > SHARE {
        true => sums.par_chunks_mut(256).enumerate().for_each(|(k, sums)| add(k * 256, sums)),
        false => add(0, &mut sums),
    }
    sums
}
