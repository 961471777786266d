use std::mem::MaybeUninit;
use std::sync::{Arc, OnceLock};

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use crate::autograd::{Backward, Gradient, Op, Scattered, apply, by_candle};
use crate::error::argument;
use crate::parallel::{CHUNK, filled_both};
use crate::simd::simd;
use crate::values::is_fast;

/// The largest value of every window; its gradient goes to the first largest one, in row order. NaN wins.
///
/// # Shapes
/// `xs`: `(N, C, H, W)`; the result is `(N, C, H', W')` with `H' = (H − kernel) / stride + 1`, rounded down:
/// rows and columns that fill no window are left out. `kernel` and `stride` are (rows, columns), in pixels.
///
/// # Errors
/// When a size is 0 or the window does not fit the image.
pub fn max_pool2d(xs: &Tensor, kernel: (usize, usize), stride: (usize, usize)) -> Result<Tensor> {
    let shape = PoolShape::new(xs.dims4()?, kernel, stride)?;
    if !is_fast(&[xs]) {
        #[cfg(feature = "cuda")]
        if crate::cuda::is_fast(&[xs]) {
            return by_candle(crate::cuda::layers::max_pool2d(xs, kernel, stride, shape.out));
        }
        return by_candle(twin::max_pool2d(xs, kernel, stride));
    }
    apply(MaxPool2d { shape, winners: OnceLock::new() }, &[xs])
}

/// The mean of every window.
///
/// # Shapes
/// As [`max_pool2d`].
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d(xs: &Tensor, kernel: (usize, usize), stride: (usize, usize)) -> Result<Tensor> {
    let shape = PoolShape::new(xs.dims4()?, kernel, stride)?;
    if !is_fast(&[xs]) {
        return by_candle(twin::avg_pool2d(xs, kernel, stride));
    }
    apply(AvgPool2d(shape), &[xs])
}

/// The mean of every map.
///
/// # Shapes
/// `xs`: `(N, C, H, W)`; the result is `(N, C)`.
///
/// # Errors
/// When the maps are empty.
pub fn global_avg_pool2d(xs: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = xs.dims4()?;
    avg_pool2d(xs, (h, w), (h, w))?.flatten_from(1)
}

/// `new` if its value is larger than that of `best`, or NaN. Without a branch, because the result is unpredictable.
#[inline(always)]
fn larger(best: (f32, u32), new: (f32, u32)) -> (f32, u32) {
    let wins = (new.0 > best.0) | new.0.is_nan();
    (if wins { new.0 } else { best.0 }, if wins { new.1 } else { best.1 })
}

#[derive(Clone, Copy)]
struct PoolShape {
    n: usize,
    c: usize,
    w: usize,
    plane: usize,
    kernel: (usize, usize),
    stride: (usize, usize),
    out: (usize, usize),
}

impl PoolShape {
    fn new(
        (n, c, h, w): (usize, usize, usize, usize),
        kernel: (usize, usize),
        stride: (usize, usize),
    ) -> Result<Self> {
        let ((kh, kw), (sh, sw)) = (kernel, stride);
        if kh == 0 || kw == 0 || sh == 0 || sw == 0 || h < kh || w < kw {
            return argument(format!(
                "pooling: a window of {kh}×{kw} with stride {sh}×{sw} does not fit an input of {h}×{w}"
            ));
        }
        // Indices in a map have 32 bits.
        let Some(plane) = h.checked_mul(w).filter(|n| u32::try_from(*n).is_ok()) else {
            return argument(format!("pooling: expected maps of fewer than 2^32 pixels, found {h}×{w}"));
        };
        Ok(Self { n, c, w, plane, kernel, stride, out: ((h - kh) / sh + 1, (w - kw) / sw + 1) })
    }

    fn out_plane(&self) -> usize {
        self.out.0 * self.out.1
    }

    /// Planes for one task.
    fn group(&self) -> usize {
        (CHUNK / self.plane).max(1)
    }

    fn result_shape(&self) -> Shape {
        (self.n, self.c, self.out.0, self.out.1).into()
    }

    /// The largest value of every window of a plane, and its index.
    fn max_of_windows(&self, xs: &[f32], ys: &mut [MaybeUninit<f32>], winners: &mut [MaybeUninit<u32>]) {
        self.for_windows(|out, first| {
            let mut best = (xs[first], first as u32);
            for dy in 0..self.kernel.0 {
                let row = first + dy * self.w;
                for (i, &x) in xs[row..row + self.kernel.1].iter().enumerate() {
                    best = larger(best, (x, (row + i) as u32));
                }
            }
            ys[out].write(best.0);
            winners[out].write(best.1);
        });
    }

    /// The same in vector code for adjacent windows of 2×2, the most common case.
    fn max_of_pairs(&self, xs: &[f32], ys: &mut [MaybeUninit<f32>], winners: &mut [MaybeUninit<u32>]) {
        let (w, out_w) = (self.w, self.out.1);
        simd(
            #[inline(always)]
            || {
                let rows = ys.chunks_exact_mut(out_w).zip(winners.chunks_exact_mut(out_w)).enumerate();
                for (y, (ys, winners)) in rows {
                    let (top, bottom) = xs[2 * y * w..][..2 * w].split_at(w);
                    let windows = top.chunks_exact(2).zip(bottom.chunks_exact(2));
                    let outs = ys.iter_mut().zip(winners);
                    for (x, ((y_out, winner), (top, bottom))) in outs.zip(windows).enumerate() {
                        let at = (2 * y * w + 2 * x) as u32;
                        let best = larger((top[0], at), (top[1], at + 1));
                        let best = larger(best, (bottom[0], at + w as u32));
                        let best = larger(best, (bottom[1], at + w as u32 + 1));
                        y_out.write(best.0);
                        winner.write(best.1);
                    }
                }
            },
        );
    }

    /// Calls `visit(output index, index of the window's first input)` for every window of a plane.
    #[inline(always)]
    fn for_windows(&self, mut visit: impl FnMut(usize, usize)) {
        for y in 0..self.out.0 {
            for x in 0..self.out.1 {
                visit(y * self.out.1 + x, y * self.stride.0 * self.w + x * self.stride.1);
            }
        }
    }
}

struct MaxPool2d {
    shape: PoolShape,
    /// For every output, the index of the largest value in its input plane; written by the forward pass.
    winners: OnceLock<Arc<Vec<u32>>>,
}

impl Op for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn shape(&self) -> Shape {
        self.shape.result_shape()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let (s, xs) = (self.shape, inputs[0]);
        let size = s.group() * s.out_plane();
        assert_eq!(xs.len(), s.n * s.c * s.plane, "values of max_pool2d");
        // SAFETY: there is an input plane for every output plane, and `max_of_pairs` and `max_of_windows` write all its
        // values.
        let (ys, winners) = unsafe {
            filled_both(s.n * s.c * s.out_plane(), size, |start, ys, winners| {
                let xs = &xs[start / s.out_plane() * s.plane..];
                let planes = ys.chunks_exact_mut(s.out_plane()).zip(winners.chunks_exact_mut(s.out_plane()));
                for ((ys, winners), xs) in planes.zip(xs.chunks_exact(s.plane)) {
                    match (s.kernel, s.stride) {
                        ((2, 2), (2, 2)) => s.max_of_pairs(xs, ys, winners),
                        _ => s.max_of_windows(xs, ys, winners),
                    }
                }
            })
        };
        // The operation is made for one call, so the cell is empty.
        let _ = self.winners.set(Arc::new(winners));
        ys
    }

    fn backward(&self, Backward { ys, grad_ys, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let s = self.shape;
        let winners = self.winners.get().map(|positions| Scattered {
            values: grad_ys.into_dense(),
            ys: Some(ys.clone()),
            positions: Arc::clone(positions),
            windows: s.out_plane(),
            plane: s.plane,
        });
        vec![winners.map(Gradient::Scattered)]
    }
}

struct AvgPool2d(PoolShape);

impl Op for AvgPool2d {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn shape(&self) -> Shape {
        self.0.result_shape()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let (s, xs) = (self.0, inputs[0]);
        let scale = 1.0 / (s.kernel.0 * s.kernel.1) as f32;
        let mut ys = vec![0.0; s.n * s.c * s.out_plane()];
        let groups = ys.par_chunks_mut(s.group() * s.out_plane());
        groups.zip(xs.par_chunks(s.group() * s.plane)).for_each(|(ys, xs)| {
            for (ys, xs) in ys.chunks_exact_mut(s.out_plane()).zip(xs.chunks_exact(s.plane)) {
                s.for_windows(|out, first| {
                    let rows = (0..s.kernel.0).map(|dy| &xs[first + dy * s.w..][..s.kernel.1]);
                    ys[out] = rows.flatten().sum::<f32>() * scale;
                });
            }
        });
        ys
    }

    fn backward(&self, args: Backward<'_>) -> Vec<Option<Gradient>> {
        let (s, grad_ys) = (self.0, args.grad_ys.into_dense());
        let scale = 1.0 / (s.kernel.0 * s.kernel.1) as f32;
        let mut grad_xs = vec![0.0; s.n * s.c * s.plane];
        let groups = grad_ys.par_chunks(s.group() * s.out_plane());
        grad_xs.par_chunks_mut(s.group() * s.plane).zip(groups).for_each(|(grad_xs, grad_ys)| {
            let planes = grad_xs.chunks_exact_mut(s.plane).zip(grad_ys.chunks_exact(s.out_plane()));
            for (grad_xs, grad_ys) in planes {
                s.for_windows(|out, first| {
                    for dy in 0..s.kernel.0 {
                        for grad_x in &mut grad_xs[first + dy * s.w..][..s.kernel.1] {
                            *grad_x += grad_ys[out] * scale;
                        }
                    }
                });
            }
        });
        vec![Some(Gradient::Dense(grad_xs))]
    }
}

pub(crate) mod twin {
    use super::*;

    /// For every kernel position in row order, its input values: `(N, C, H', W')` each.
    fn taps(xs: &Tensor, kernel: (usize, usize), stride: (usize, usize)) -> Result<Vec<Tensor>> {
        let s = PoolShape::new(xs.dims4()?, kernel, stride)?;
        let every = |first: usize, step: usize, n: usize| -> Result<Tensor> {
            let indices: Vec<u32> = (0..n).map(|i| (first + i * step) as u32).collect();
            Tensor::from_vec(indices, n, xs.device())
        };
        let mut taps = Vec::new();
        for dy in 0..kernel.0 {
            let rows = xs.index_select(&every(dy, stride.0, s.out.0)?, 2)?;
            for dx in 0..kernel.1 {
                taps.push(rows.index_select(&every(dx, stride.1, s.out.1)?, 3)?);
            }
        }
        Ok(taps)
    }

    /// See [`crate::max_pool2d`].
    pub fn max_pool2d(xs: &Tensor, kernel: (usize, usize), stride: (usize, usize)) -> Result<Tensor> {
        let mut taps = taps(xs, kernel, stride)?.into_iter();
        let Some(mut best) = taps.next() else {
            return argument("pooling: a window of 0 values".to_string());
        };
        for tap in taps {
            // Above the best so far, or NaN, the only value that differs from itself.
            let wins = (tap.gt(&best)? + tap.ne(&tap)?)?;
            best = wins.where_cond(&tap, &best)?;
        }
        Ok(best)
    }

    /// See [`crate::avg_pool2d`].
    pub fn avg_pool2d(xs: &Tensor, kernel: (usize, usize), stride: (usize, usize)) -> Result<Tensor> {
        let taps = taps(xs, kernel, stride)?;
        Tensor::stack(&taps, 0)?.mean(0)
    }
}
