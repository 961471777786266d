//! Products with a single row, as in online learning: every weight is used once, so the time is that of reading them in order.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::activation::Activation;
use crate::gemm::Matrix;
use crate::ops::activate::apply_to;
use crate::parallel::filled;
use crate::simd::simd;

/// Weights that are worth waking a thread for.
const SHARE: usize = 1 << 18;

/// `f(weight · x + bias)`; `weight` is in rows as long as `x`.
pub(super) fn forward(x: &[f32], weight: &[f32], bias: Option<&[f32]>, o: usize, f: Activation) -> Vec<f32> {
    let i = x.len();
    let dots = |first: usize, ys: &mut [MaybeUninit<f32>]| {
        simd(
            #[inline(always)]
            || {
                for (k, y) in (first..).zip(ys.iter_mut()) {
                    y.write(dot(&weight[k * i..][..i], x) + bias.map_or(0.0, |bias| bias[k]));
                }
            },
        );
        // SAFETY: all of them have just been written.
        apply_to(f, unsafe { ys.assume_init_mut() });
    };
    // SAFETY: `dots` writes every value.
    unsafe { filled(o, (SHARE / i.max(1)).max(1), dots) }
}

/// `grads · weight`. Rows of the weight whose gradient is 0 are not read.
pub(super) fn grad_xs(grads: &[f32], weight: Matrix<'_>) -> Vec<f32> {
    /// Rows that are added at once, so that the sums are loaded and stored less often.
    const ROWS: usize = 4;
    let i = weight.row;
    let rows: Vec<(f32, &[f32])> = grads.iter().copied().zip(weight.data.chunks_exact(i.max(1))).collect();
    let rows: Vec<(f32, &[f32])> = rows.into_iter().filter(|(grad, _)| *grad != 0.0).collect();
    let add = |first: usize, sums: &mut [f32]| {
        simd(
            #[inline(always)]
            || {
                let (chunks, rest) = rows.as_chunks::<ROWS>();
                for chunk in chunks {
                    let [a, b, c, d] = chunk.map(|(_, row)| &row[first..][..sums.len()]);
                    let [ga, gb, gc, gd] = chunk.map(|(grad, _)| grad);
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

/// The scalar product, summed in 64 interleaved lanes.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 64];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<64>(), b.as_chunks::<64>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    let mut sums = [0.0_f32; 16];
    for lanes in lanes.as_chunks::<16>().0 {
        sums.iter_mut().zip(lanes).for_each(|(sum, lane)| *sum += lane);
    }
    sums.iter().sum()
}
