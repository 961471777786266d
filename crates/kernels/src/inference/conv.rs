use pulp::{Arch, Simd, WithSimd};

use super::{Active, finish, finite, pack};
use crate::Conv2dGeometry;
use crate::error::Error;
use crate::simd::{Aligned, lanes};

/// A convolution. Its weights are stored by input, so that an input that is 0 can be skipped for all outputs.
///
/// The sum of an output takes the pixels of its window row by row, and the channels of each pixel in order.
#[derive(Clone)]
pub struct ConvRows {
    /// One block of weights for each [`Group`]: `(inputs, columns, width)`.
    weight: Aligned,
    /// Padded with zeros to whole vectors.
    bias: Aligned,
    shape: Shape,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    inputs: usize,
    outputs: usize,
    /// Rows and columns of the kernel.
    kernel: (usize, usize),
    geometry: Conv2dGeometry,
    /// The value of padding pixels.
    border: f32,
}

/// The most vectors of outputs and columns of the kernel in a [`Group`]. Their sums fit in the registers.
const VECTORS: usize = 4;
const COLUMNS: usize = 3;

impl ConvRows {
    /// A convolution with padding pixels of value `border`. That is 0, except in a first layer with the scaling `(x − mean) /
    /// std` folded in, where it is the mean.
    ///
    /// # Shapes
    /// `weight`: `(outputs, inputs, rows, columns)` with `kernel = (rows, columns)`, `bias`: `(outputs)`.
    ///
    /// # Errors
    /// When the sizes do not fit, or a value is not finite.
    pub fn new(
        weight: &[f32],
        bias: &[f32],
        kernel: (usize, usize),
        geometry: Conv2dGeometry,
        border: f32,
    ) -> Result<Self, Error> {
        let (outputs, taps) = (bias.len(), kernel.0 * kernel.1);
        let inputs = weight.len() / (outputs * taps).max(1);
        if inputs == 0 || inputs * outputs * taps != weight.len() || geometry.stride == 0 {
            let (n, (rows, columns)) = (weight.len(), kernel);
            return Err(Error::Argument(format!(
                "convolution: expected kernels of {rows}×{columns} for each of {outputs} outputs, found {n} weights"
            )));
        }
        finite("weight", weight)?;
        finite("bias", bias)?;
        finite("border", &[border])?;
        let padded = outputs.next_multiple_of(lanes());
        let (mut rows, mut biases) = (Aligned::new(inputs * taps * padded), Aligned::new(padded));
        biases[..outputs].copy_from_slice(bias);
        let shape = Shape { inputs, outputs, kernel, geometry, border };
        for group in shape.groups() {
            let block = &mut rows[group.start..][..group.len(inputs)];
            let Group { first, width, row, column, columns, .. } = group;
            for (i, block) in block.chunks_exact_mut(columns * width).enumerate() {
                for (t, block) in block.chunks_exact_mut(width).enumerate() {
                    for (w, o) in block.iter_mut().zip(first..outputs) {
                        *w = weight[((o * inputs + i) * kernel.0 + row) * kernel.1 + column + t];
                    }
                }
            }
        }
        Ok(Self { weight: rows, bias: biases, shape })
    }

    /// Output channels.
    pub fn outputs(&self) -> usize {
        self.shape.outputs
    }

    /// Number of pixels and of values in a padded row of an image of width `w`: the rows and values that [`run`](Self::run)
    /// lists at a time.
    pub fn listed(&self, w: usize) -> (usize, usize) {
        let pixels = w + 2 * self.shape.geometry.padding;
        (pixels, pixels * self.shape.inputs)
    }

    /// Length of an output pixel in the buffer of [`run`](Self::run), which is padded to whole vectors.
    pub fn padded(&self) -> usize {
        self.bias.len()
    }

    /// Height and width of the result for an image of height `h` and width `w`; `None` if the kernel does not fit.
    pub fn size(&self, (h, w): (usize, usize)) -> Option<(usize, usize)> {
        let Conv2dGeometry { stride, padding } = self.shape.geometry;
        let side = |n: usize, kernel: usize| Some((n + 2 * padding).checked_sub(kernel)? / stride + 1);
        Some((side(h, self.shape.kernel.0)?, side(w, self.shape.kernel.1)?))
    }

    /// Number of multiplications for an image of height `h` and width `w` without skipping. Zero padding is not multiplied.
    pub fn multiplications(&self, (h, w): (usize, usize)) -> u64 {
        let Shape { inputs, outputs, kernel, geometry, border } = self.shape;
        // Padding with another value is multiplied like pixels of the image.
        let around = if border == 0.0 { 0 } else { geometry.padding };
        let geometry = Conv2dGeometry { padding: geometry.padding - around, ..geometry };
        geometry.multiplications((h + 2 * around, w + 2 * around), kernel) * (inputs * outputs) as u64
    }

    /// Computes the convolution of one image. With `skip` it skips inputs that are 0; the bits are the same.
    ///
    /// Returns the number of inputs used and of multiplications. `pixels` is working memory.
    ///
    /// # Shapes
    /// `xs`: `(H, W, inputs)` with `size = (H, W)`. `ys`: a buffer of at least `(H', W', padded)`; its beginning becomes the
    /// result, `(H', W', outputs)`.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn run(
        &self,
        xs: &[f32],
        size: (usize, usize),
        skip: bool,
        pixels: &mut Active,
        ys: &mut [f32],
    ) -> Result<(usize, u64), Error> {
        let out = self.size(size).filter(|out| {
            xs.len() == size.0 * size.1 * self.shape.inputs && ys.len() >= out.0 * out.1 * self.padded()
        });
        let Some(out) = out else {
            let (n, room) = (xs.len(), ys.len());
            return Err(Error::Argument(format!(
                "convolution: {n} inputs of {size:?} pixels do not fit {:?} or room for {room} outputs",
                self.shape
            )));
        };
        let sums = &mut ys[..out.0 * out.1 * self.padded()];
        let (active, products) = Arch::new().dispatch(Run { layer: self, xs, size, out, skip, pixels, sums });
        pack(ys, out.0 * out.1, self.padded(), self.shape.outputs);
        Ok((active, products * self.shape.outputs as u64))
    }
}

/// Some columns of one row of the kernel, and a block of outputs.
#[derive(Clone, Copy)]
struct Group {
    /// Index of its first weight.
    start: usize,
    /// The first output and the number of outputs, including padding.
    first: usize,
    width: usize,
    row: usize,
    /// The first column and the number of columns.
    column: usize,
    columns: usize,
}

impl Group {
    /// Number of weights.
    fn len(&self, inputs: usize) -> usize {
        inputs * self.columns * self.width
    }
}

impl Shape {
    /// All groups, in the order of the weights.
    fn groups(self) -> impl Iterator<Item = Group> {
        let Self { inputs, outputs, kernel: (rows, columns), .. } = self;
        let padded = outputs.next_multiple_of(lanes());
        let (mut start, mut first, mut row, mut column) = (0, 0, 0, 0);
        std::iter::from_fn(move || {
            if first == padded {
                return None;
            }
            let mut width = VECTORS * lanes();
            while width > padded - first {
                width /= 2;
            }
            let group = Group { start, first, width, row, column, columns: COLUMNS.min(columns - column) };
            start += group.len(inputs);
            column += group.columns;
            if column == columns {
                (column, row) = (0, row + 1);
            }
            if row == rows {
                (row, first) = (0, first + width);
            }
            Some(group)
        })
    }
}

struct Run<'a> {
    layer: &'a ConvRows,
    xs: &'a [f32],
    size: (usize, usize),
    out: (usize, usize),
    skip: bool,
    pixels: &'a mut Active,
    sums: &'a mut [f32],
}

impl WithSimd for Run<'_> {
    type Output = (usize, u64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (usize, u64) {
        let Self { layer: ConvRows { weight, bias, shape }, xs, size: (h, w), out, skip, pixels, sums } =
            self;
        let Conv2dGeometry { stride, padding } = shape.geometry;
        let row_len = out.1 * bias.len();
        let (mut active, mut done) = (0, 0);
        // Rows of the padded image.
        for y in 0..h + 2 * padding {
            if y % stride == 0 && y / stride < out.0 {
                let sums = &mut sums[y / stride * row_len..][..row_len];
                sums.chunks_exact_mut(bias.len()).for_each(|sums| sums.copy_from_slice(bias));
            }
            let row = y
                .checked_sub(padding)
                .filter(|y| *y < h)
                .map(|y| &xs[y * w * shape.inputs..][..w * shape.inputs]);
            if row.is_some() || shape.border != 0.0 {
                active += list(pixels, row, w, *shape, skip);
                let reached =
                    (0..shape.kernel.0).filter(|ky| out_of(y, *ky, stride, out.0).is_some()).count();
                done += reached as u64 * products(pixels, *shape, out.1);
                for group in shape.groups() {
                    if let Some(oy) = out_of(y, group.row, stride, out.0) {
                        let weight = &weight[group.start..][..group.len(shape.inputs)];
                        let sums = &mut sums[oy * row_len..][..row_len];
                        let to = Target { group, stride, width: out.1, padded: bias.len() };
                        match (group.width / S::F32_LANES, group.columns) {
                            (4, 3) => to.add::<S, 4, 3>(simd, weight, pixels, sums),
                            (4, 2) => to.add::<S, 4, 2>(simd, weight, pixels, sums),
                            (4, _) => to.add::<S, 4, 1>(simd, weight, pixels, sums),
                            (2, 3) => to.add::<S, 2, 3>(simd, weight, pixels, sums),
                            (2, 2) => to.add::<S, 2, 2>(simd, weight, pixels, sums),
                            (2, _) => to.add::<S, 2, 1>(simd, weight, pixels, sums),
                            (_, 3) => to.add::<S, 1, 3>(simd, weight, pixels, sums),
                            (_, 2) => to.add::<S, 1, 2>(simd, weight, pixels, sums),
                            (_, _) => to.add::<S, 1, 1>(simd, weight, pixels, sums),
                        }
                    }
                }
            }
            if let Some(oy) = out_of(y, shape.kernel.0 - 1, stride, out.0) {
                finish(&mut sums[oy * row_len..][..row_len]);
            }
        }
        (active, done)
    }
}

/// The output to which position `k` of the kernel adds the input `at` of the padded image, along one axis.
#[inline(always)]
fn out_of(at: usize, k: usize, stride: usize, outputs: usize) -> Option<usize> {
    let steps = at.checked_sub(k)?;
    // A division would take longer than the rest of this function.
    let (whole, rest) = if stride == 1 { (steps, 0) } else { (steps / stride, steps % stride) };
    (rest == 0 && whole < outputs).then_some(whole)
}

/// Lists the inputs of a padded row of pixels; `row` is `None` for a row outside the image. Returns the number of listed inputs
/// inside the image.
#[inline(always)]
fn list(pixels: &mut Active, row: Option<&[f32]>, w: usize, shape: Shape, skip: bool) -> usize {
    let Shape { inputs, border, geometry: Conv2dGeometry { padding, .. }, .. } = shape;
    let around = |pixels: &mut Active, n: usize| (0..n).for_each(|_| pixels.push_repeated(border, inputs));
    pixels.clear();
    match row {
        None => {
            around(pixels, w + 2 * padding);
            0
        }
        Some(row) => {
            around(pixels, padding);
            let before = pixels.len();
            match skip {
                true => pixels.push(row, inputs),
                false => pixels.push_all(row, inputs),
            }
            let inside = pixels.len() - before;
            around(pixels, padding);
            inside
        }
    }
}

/// Number of multiplications of the listed inputs with one row of the kernel, for one output channel.
fn products(pixels: &Active, shape: Shape, width: usize) -> u64 {
    let reached = |x: usize| {
        (0..shape.kernel.1).filter(|kx| out_of(x, *kx, shape.geometry.stride, width).is_some()).count()
    };
    (0..pixels.rows()).map(|x| (pixels.row(x).0.len() * reached(x)) as u64).sum()
}

/// The outputs to which a group of weights adds.
struct Target {
    group: Group,
    stride: usize,
    /// Width of the result, in pixels.
    width: usize,
    padded: usize,
}

impl Target {
    /// Adds the products of a row of pixels with `T` columns of the kernel to a row of outputs, `V` vectors wide.
    #[inline(always)]
    fn add<S: Simd, const V: usize, const T: usize>(
        &self,
        simd: S,
        weight: &[f32],
        pixels: &Active,
        sums: &mut [f32],
    ) {
        let Self { group: Group { first, column, .. }, stride, width, padded } = *self;
        let weight = S::as_simd_f32s(weight).0.as_chunks::<V>().0.as_chunks::<T>().0;
        if stride != 1 {
            for x in 0..pixels.rows() {
                for kx in column..column + T {
                    let Some(ox) = out_of(x, kx, stride, width) else { continue };
                    let sums = &mut S::as_mut_simd_f32s(&mut sums[ox * padded + first..]).0[..V];
                    let (at, values) = pixels.row(x);
                    for (at, value) in at.iter().zip(values) {
                        let value = simd.splat_f32s(*value);
                        for (sum, w) in sums.iter_mut().zip(&weight[*at as usize][kx - column]) {
                            *sum = simd.mul_add_e_f32s(value, *w, *sum);
                        }
                    }
                }
            }
            return;
        }
        // `taps[t]` has the sums of output `x − column − t` for input pixel `x`. They move to the next tap with each pixel, so
        // they stay in registers. Sums before the first and after the last output are computed but not stored.
        let mut taps = [[simd.splat_f32s(0.0); V]; T];
        for i in 0..width + T - 1 {
            if i < width {
                taps[0].copy_from_slice(&S::as_simd_f32s(&sums[i * padded + first..]).0[..V]);
            }
            let (at, values) = pixels.row(column + i);
            for (at, value) in at.iter().zip(values) {
                let value = simd.splat_f32s(*value);
                for (tap, weight) in taps.iter_mut().zip(&weight[*at as usize]) {
                    for (sum, w) in tap.iter_mut().zip(weight) {
                        *sum = simd.mul_add_e_f32s(value, *w, *sum);
                    }
                }
            }
            if i + 1 >= T {
                let sums = &mut sums[(i + 1 - T) * padded + first..];
                S::as_mut_simd_f32s(sums).0[..V].copy_from_slice(&taps[T - 1]);
            }
            for t in (1..T).rev() {
                taps[t] = taps[t - 1];
            }
        }
    }
}
