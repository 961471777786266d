use std::mem::MaybeUninit;
use std::ops::Range;

use super::shape::ConvShape;
use crate::gemm::{transpose, transpose_to};
use crate::simd::lanes;

/// Rows of a kernel, and vectors in a row, that are summed at once.
const ROWS: usize = 3;
const VECTORS: usize = 4;

/// How images and weights are laid out for the sums over non-zeros.
///
/// The channels are cut into slices of `width`, a few vectors. An image is stored slice by slice, and a slice pixel by
/// pixel with its channels side by side. So the inputs of one output in a kernel row are contiguous, and a slice of a
/// small image and of the weights fits the first-level cache.
pub(super) struct Layout {
    pub s: ConvShape,
    lanes: usize,
    /// Vectors of channels in a slice.
    pub vectors: usize,
    slices: usize,
    pub blocks: Vec<Block>,
    /// The number of packed weights, with padding channels in the last slice.
    pub weights: usize,
}

/// A part of the kernel in one slice, for all output channels.
pub(super) struct Block {
    slice: usize,
    /// First kernel row, and the number of rows.
    row: usize,
    pub rows: usize,
    /// First vector of each row, and the number of vectors.
    vector: usize,
    pub vectors: usize,
    /// The offset of its weights: `(O, rows, vectors, lanes)`.
    pub start: usize,
}

impl Layout {
    pub fn new(s: &ConvShape) -> Self {
        let (lanes, (kh, kw)) = (lanes(), s.kernel);
        let total = s.c.div_ceil(lanes);
        let vectors = (VECTORS / kw).clamp(1, total.max(1));
        let slices = total.div_ceil(vectors);
        let (mut blocks, mut start) = (Vec::new(), 0);
        for slice in 0..slices {
            for row in (0..kh).step_by(ROWS) {
                for vector in (0..kw * vectors).step_by(VECTORS) {
                    let (rows, vectors) = (ROWS.min(kh - row), VECTORS.min(kw * vectors - vector));
                    blocks.push(Block { slice, row, rows, vector, vectors, start });
                    start += s.o * rows * vectors * lanes;
                }
            }
        }
        Self { s: *s, lanes, vectors, slices, blocks, weights: start }
    }

    /// Pixels of a padded image.
    pub fn area(&self) -> usize {
        let (h, w) = self.s.padded_size();
        h * w
    }

    fn width(&self) -> usize {
        self.vectors * self.lanes
    }

    /// Values of a padded image.
    pub fn image(&self) -> usize {
        self.slices * self.area() * self.width()
    }

    /// The part of an image that starts at the first row and vector of a block's inputs, and the distance of its rows,
    /// in vectors.
    pub fn part(&self, block: &Block) -> (Range<usize>, usize) {
        let row = self.s.padded_size().1 * self.vectors;
        let area = self.area() * self.vectors;
        let slice = block.slice * area;
        (slice + block.row * row + block.vector..slice + area, row)
    }

    /// Calls `visit(index in packed weights, index in weights)` for every weight.
    fn for_weights(&self, mut visit: impl FnMut(usize, usize)) {
        let (kh, kw) = self.s.kernel;
        for b in &self.blocks {
            let size = b.rows * b.vectors * self.lanes;
            for i in 0..self.s.o * size {
                let (o, row, vector) = (
                    i / size,
                    b.row + i / (b.vectors * self.lanes) % b.rows,
                    i / self.lanes % b.vectors + b.vector,
                );
                let (dx, lane) = (vector / self.vectors, vector % self.vectors * self.lanes + i % self.lanes);
                let c = b.slice * self.width() + lane;
                if c < self.s.c {
                    visit(b.start + i, ((o * self.s.c + c) * kh + row) * kw + dx);
                }
            }
        }
    }

    pub fn pack(&self, weight: &[f32]) -> Vec<f32> {
        let mut packed = vec![0.0; self.weights];
        self.for_weights(|to, from| packed[to] = weight[from]);
        packed
    }

    pub fn unpack(&self, packed: &[f32]) -> Vec<f32> {
        let mut weight = vec![0.0; self.s.o * self.s.k];
        self.for_weights(|from, to| weight[to] = packed[from]);
        weight
    }

    /// Writes an image with the channels of every pixel side by side. The padding is not written.
    pub fn interleave(&self, image: &[f32], slices: &mut [f32]) {
        self.for_rows(|channels, pixels, at, to| {
            transpose_to((channels, pixels), &image[at..], self.plane(), &mut slices[to..], self.width());
        });
    }

    /// The inverse: writes every pixel of every channel.
    pub fn separate(&self, slices: &[f32], image: &mut [MaybeUninit<f32>]) {
        self.for_rows(|channels, pixels, at, from| {
            transpose((pixels, channels), &slices[from..], self.width(), &mut image[at..], self.plane());
        });
    }

    /// Pixels of an image.
    fn plane(&self) -> usize {
        self.s.h * self.s.w
    }

    /// Calls `visit(channels, pixels, index in image, index in slices)` for every row of every slice. In the image the
    /// pixels of a channel are contiguous, in a slice the channels of a pixel.
    fn for_rows(&self, mut visit: impl FnMut(usize, usize, usize, usize)) {
        let (s, padding, width) = (&self.s, self.s.geometry.padding, self.width());
        // Without padding an image is one long row.
        let (h, w, padded_w) =
            if padding == 0 { (1, s.h * s.w, s.h * s.w) } else { (s.h, s.w, s.padded_size().1) };
        for slice in 0..self.slices {
            let first = slice * width;
            for y in 0..h {
                let pixel = slice * self.area() + (y + padding) * padded_w + padding;
                visit(width.min(s.c - first), w, first * self.plane() + y * w, pixel * width);
            }
        }
    }
}
