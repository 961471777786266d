//! The layers between products, on maps that are stored pixel by pixel.

use crate::activation::Activation;
use crate::error::Error;
use crate::ops::activate::apply_to;
use crate::simd::simd;

/// Replaces every `x` by `f(x)`.
pub fn apply(f: Activation, xs: &mut [f32]) {
    apply_to(f, xs);
}

/// Replaces every `x` by `scale · x + shift`, with the scale and shift of its channel.
///
/// # Shapes
/// `xs`: `(…, C)`, `scale` and `shift`: `(C)`.
pub fn scale_shift(xs: &mut [f32], scale: &[f32], shift: &[f32]) {
    simd(
        #[inline(always)]
        || {
            for pixel in xs.chunks_exact_mut(scale.len().max(1)) {
                for ((x, scale), shift) in pixel.iter_mut().zip(scale).zip(shift) {
                    *x = *x * scale + shift;
                }
            }
        },
    );
}

/// The windows of a pooling layer without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Height, width and channels of the image.
    pub image: (usize, usize, usize),
    /// Height and width of a window.
    pub side: (usize, usize),
    /// Step between windows, in pixels.
    pub stride: usize,
}

impl Windows {
    /// Height and width of the result; `(0, 0)` if no window fits. Pixels at the end that fill no window are ignored.
    pub fn size(&self) -> (usize, usize) {
        let side = |n: usize, side: usize| n.checked_sub(side).map_or(0, |n| n / self.stride.max(1) + 1);
        match (side(self.image.0, self.side.0), side(self.image.1, self.side.1)) {
            (0, _) | (_, 0) => (0, 0),
            size => size,
        }
    }

    /// Max-pooling: writes the largest value of each window, or NaN if the window has one.
    ///
    /// # Shapes
    /// `xs`: `(H, W, C)`, `ys`: `(H', W', C)` with `(H', W') = size`.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn max(&self, xs: &[f32], ys: &mut [f32]) -> Result<(), Error> {
        self.fold(xs, ys, |y, x| if (x > y) | x.is_nan() { x } else { y })
    }

    /// Average pooling: writes the mean of each window.
    ///
    /// # Shapes
    /// As [`max`](Self::max).
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn mean(&self, xs: &[f32], ys: &mut [f32]) -> Result<(), Error> {
        self.fold(xs, ys, |y, x| y + x)?;
        let n = (self.side.0 * self.side.1) as f32;
        ys.iter_mut().for_each(|y| *y /= n);
        Ok(())
    }

    fn fold(&self, xs: &[f32], ys: &mut [f32], op: impl Fn(f32, f32) -> f32) -> Result<(), Error> {
        let (h, w, c) = self.image;
        let out = self.size();
        if xs.len() != h * w * c
            || ys.len() != out.0 * out.1 * c
            || ys.is_empty()
            || self.side.0 * self.side.1 == 0
        {
            let (n, m) = (xs.len(), ys.len());
            return Err(Error::Argument(format!("pooling: {n} inputs and {m} outputs do not fit {self:?}")));
        }
        simd(
            #[inline(always)]
            || {
                for (i, ys) in ys.chunks_exact_mut(c).enumerate() {
                    let (y, x) = (i / out.1 * self.stride, i % out.1 * self.stride);
                    for place in 0..self.side.0 * self.side.1 {
                        let (dy, dx) = (place / self.side.1, place % self.side.1);
                        let xs = &xs[((y + dy) * w + x + dx) * c..][..c];
                        match place {
                            0 => ys.copy_from_slice(xs),
                            _ => ys.iter_mut().zip(xs).for_each(|(y, x)| *y = op(*y, *x)),
                        }
                    }
                }
            },
        );
        Ok(())
    }
}
