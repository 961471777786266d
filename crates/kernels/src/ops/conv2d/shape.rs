use std::ops::Range;

use candle_core::Result;

use crate::error::argument;

/// Stride and zero padding of a convolution, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dGeometry {
    /// Step between neighbouring outputs, in pixels; at least 1.
    pub stride: usize,
    /// Zeros added on each side, in pixels.
    pub padding: usize,
}

impl Default for Conv2dGeometry {
    fn default() -> Self {
        Self { stride: 1, padding: 0 }
    }
}

impl Conv2dGeometry {
    /// Number of multiplications for one input channel of height `h` and width `w`, one output channel and a kernel of
    /// (rows, columns). Zero padding is not multiplied.
    pub fn multiplications(self, (h, w): (usize, usize), kernel: (usize, usize)) -> u64 {
        let Self { stride, padding } = self;
        let along = |n: usize, k: usize| -> u64 {
            let last = (n + 2 * padding).checked_sub(k).map(|last| last / stride);
            // The part of each window inside the image.
            let inside =
                |o: usize| (o * stride + k).min(n + padding).saturating_sub((o * stride).max(padding));
            last.map_or(0, |last| (0..=last).map(|o| inside(o) as u64).sum())
        };
        along(h, kernel.0).saturating_mul(along(w, kernel.1))
    }
}

/// All sizes of one convolution. One image's columns form a matrix of `k` rows (a row per input channel and
/// kernel position) and `p` columns (one per output position), so that the convolution is a matrix product.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConvShape {
    pub n: usize,
    pub c: usize,
    pub h: usize,
    pub w: usize,
    pub o: usize,
    pub kernel: (usize, usize),
    pub out: (usize, usize),
    pub geometry: Conv2dGeometry,
    pub k: usize,
    pub p: usize,
}

impl ConvShape {
    pub fn new(
        (n, c, h, w): (usize, usize, usize, usize),
        (o, wc, kh, kw): (usize, usize, usize, usize),
        geometry: Conv2dGeometry,
    ) -> Result<Self> {
        let Conv2dGeometry { stride, padding } = geometry;
        if wc != c {
            return argument(format!("conv2d: expected inputs of {wc} channels, found {c}"));
        }
        let padded = |side: usize| padding.checked_mul(2)?.checked_add(side);
        // Indices in a padded map have 32 bits.
        let is_small = |(h, w): &(usize, usize)| h.checked_mul(*w).is_some_and(|n| u32::try_from(n).is_ok());
        let Some((full_h, full_w)) = padded(h).zip(padded(w)).filter(is_small) else {
            return argument(format!(
                "conv2d: expected maps of fewer than 2^32 pixels, found {h}×{w} with a padding of {padding}"
            ));
        };
        if stride == 0 || kh == 0 || kw == 0 || full_h < kh || full_w < kw {
            return argument(format!(
                "conv2d: a kernel of {kh}×{kw} with stride {stride} does not fit an input of {full_h}×{full_w} \
                 (padding included)"
            ));
        }
        let out = ((full_h - kh) / stride + 1, (full_w - kw) / stride + 1);
        Ok(Self { n, c, h, w, o, kernel: (kh, kw), out, geometry, k: c * kh * kw, p: out.0 * out.1 })
    }

    pub fn input(&self) -> usize {
        self.c * self.h * self.w
    }

    pub fn output(&self) -> usize {
        self.o * self.p
    }

    /// Calls `visit(row of columns, range in it, first pixel of the image)` for every run of output positions
    /// whose input pixels lie inside the image; the pixels are `stride` apart.
    #[inline(always)]
    pub fn for_runs(&self, mut visit: impl FnMut(usize, Range<usize>, usize)) {
        let Conv2dGeometry { stride, padding } = self.geometry;
        let ((kh, kw), (out_h, out_w)) = (self.kernel, self.out);
        for c in 0..self.c {
            for dy in 0..kh {
                for dx in 0..kw {
                    let row = (c * kh + dy) * kw + dx;
                    // Output columns whose pixel `x * stride + dx - padding` is inside `0..w`.
                    let first = padding.saturating_sub(dx).div_ceil(stride);
                    let end = if self.w + padding > dx {
                        ((self.w + padding - dx - 1) / stride + 1).min(out_w)
                    } else {
                        0
                    };
                    if first >= end {
                        continue;
                    }
                    for y in 0..out_h {
                        let pixel_y = y * stride + dy;
                        if pixel_y < padding || pixel_y >= self.h + padding {
                            continue;
                        }
                        let pixel = (c * self.h + pixel_y - padding) * self.w + first * stride + dx - padding;
                        visit(row, y * out_w + first..y * out_w + end, pixel);
                    }
                }
            }
        }
    }

    /// Copies one image into its columns: `(k, p)`, zero for padding.
    pub fn to_columns(self, image: &[f32], columns: &mut [f32]) {
        let (p, stride) = (self.p, self.geometry.stride);
        if self.geometry.padding > 0 {
            columns.fill(0.0);
        }
        self.for_runs(|row, range, pixel| {
            let run = &mut columns[row * p + range.start..row * p + range.end];
            if stride == 1 {
                run.copy_from_slice(&image[pixel..pixel + range.len()]);
            } else {
                run.iter_mut().zip(image[pixel..].iter().step_by(stride)).for_each(|(to, from)| *to = *from);
            }
        });
    }

    /// Adds every column element to its pixel.
    pub fn add_columns(self, columns: &[f32], image: &mut [f32]) {
        let (p, stride) = (self.p, self.geometry.stride);
        self.for_runs(|row, range, pixel| {
            let run = &columns[row * p + range.start..row * p + range.end];
            if stride == 1 {
                image[pixel..pixel + range.len()].iter_mut().zip(run).for_each(|(to, from)| *to += *from);
            } else {
                image[pixel..].iter_mut().step_by(stride).zip(run).for_each(|(to, from)| *to += *from);
            }
        });
    }

    /// The number of images in a group, which one thread computes. It does not depend on the thread count, because
    /// weight gradients are summed by group.
    pub fn group(&self) -> usize {
        self.n.div_ceil(16).max(1)
    }

    /// Height and width with padding on both sides.
    pub fn padded_size(&self) -> (usize, usize) {
        let both = 2 * self.geometry.padding;
        (self.h + both, self.w + both)
    }

    pub fn padded_input(&self) -> usize {
        let (h, w) = self.padded_size();
        if self.geometry.padding == 0 { 0 } else { self.c * h * w }
    }

    /// The image with its padding: unchanged if it has none, else copied into `padded`, which has zeros around it.
    pub fn pad<'a>(&self, image: &'a [f32], padded: &'a mut [f32]) -> &'a [f32] {
        let ((h, w), padding) = (self.padded_size(), self.geometry.padding);
        if padding == 0 {
            return image;
        }
        let maps = padded.chunks_exact_mut(h * w).zip(image.chunks_exact((self.h * self.w).max(1)));
        for (padded, map) in maps {
            let rows = padded[padding * w..].chunks_exact_mut(w).zip(map.chunks_exact(self.w.max(1)));
            rows.for_each(|(padded, row)| padded[padding..padding + self.w].copy_from_slice(row));
        }
        padded
    }

    /// For every output, the index of its first input in a padded map.
    pub fn starts(&self) -> Vec<u32> {
        let (w, stride) = (self.padded_size().1, self.geometry.stride);
        let start = |p: usize| (p / self.out.1 * w + p % self.out.1) * stride;
        (0..self.p).map(|p| start(p) as u32).collect()
    }
}
