use std::array::from_fn;
use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::ConvShape;
use super::backward::{Gradients, Maps, Wanted, add_up};
use crate::cpu::{Aligned, lanes, per_image, sum};
use crate::transpose::{transpose, transpose_to};

/// Gradients as sums over the values of `grad_ys` that are not 0. A 0 hides a NaN in what it would be multiplied
/// with; the forward pass has shown it.
#[allow(unsafe_code)]
pub(super) fn backward(
    s: &ConvShape,
    xs: &[f32],
    weight: &[f32],
    grad_ys: Maps<'_>,
    wanted: Wanted,
) -> Gradients {
    let plan = Plan::new(s);
    let (starts, packed) = (s.starts(), plan.pack(weight));
    let size = if wanted.xs { s.input() } else { 0 };
    let scratch = || Scratch::new(&plan, grad_ys, wanted);
    let op = |scratch: &mut Scratch, n: usize, grad_image: &mut [MaybeUninit<f32>]| {
        let Scratch { image, grads, scaled, nonzeros, grad_weight, grad_bias } = scratch;
        nonzeros.find(s, grad_ys, n, &starts, scaled, grad_bias);
        if wanted.weight {
            plan.interleave(&xs[n * s.input()..][..s.input()], image);
            Arch::new().dispatch(WeightGradient { plan: &plan, nonzeros, image, sums: grad_weight });
        }
        if wanted.xs {
            nonzeros.sort();
            grads.fill(0.0);
            Arch::new().dispatch(InputGradient { plan: &plan, nonzeros, weight: &packed, image: grads });
            plan.separate(grads, grad_image);
        }
    };
    // SAFETY: an image that is wanted is separated, channel by channel; one that is not has no values.
    let (grad_xs, sums) = unsafe { per_image(s.n, size, s.group(), scratch, op) };
    let grad_bias = add_up(s.o, sums.iter().map(|group| &group.grad_bias[..]));
    let grad_weight = wanted
        .weight
        .then(|| plan.unpack(&add_up(plan.weights, sums.iter().map(|group| &group.grad_weight[..]))));
    Gradients { xs: wanted.xs.then_some(grad_xs), weight: grad_weight, bias: grad_bias }
}

/// What one group of images needs, and what it adds up.
struct Scratch {
    image: Aligned,
    grads: Aligned,
    scaled: Vec<f32>,
    nonzeros: NonZeros,
    grad_weight: Aligned,
    grad_bias: Vec<f32>,
}

impl Scratch {
    fn new(plan: &Plan, grad_ys: Maps<'_>, wanted: Wanted) -> Self {
        let s = plan.s;
        let aligned = |wanted: bool, size: usize| Aligned::new(if wanted { size } else { 0 });
        Self {
            image: aligned(wanted.weight, plan.image()),
            grads: aligned(wanted.xs, plan.image()),
            scaled: Vec::new(),
            nonzeros: NonZeros::new(s.o * grad_ys.size, plan.area()),
            grad_weight: aligned(wanted.weight, plan.weights),
            grad_bias: vec![0.0; s.o],
        }
    }
}

/// A gradient other than 0.
#[derive(Clone, Copy, Default)]
struct NonZero {
    /// Start of its inputs among the padded pixels; sorted by that, the output channel.
    at: u32,
    value: f32,
}

/// The non-zero output gradients of one image.
struct NonZeros {
    by_channel: Vec<NonZero>,
    /// Where in `by_channel` each output channel ends.
    channel_ends: Vec<usize>,
    by_position: Vec<NonZero>,
    /// Where in `by_position` each start of inputs ends.
    position_ends: Vec<u32>,
}

impl NonZeros {
    fn new(most: usize, area: usize) -> Self {
        Self {
            by_channel: vec![NonZero::default(); most + 1],
            channel_ends: Vec::new(),
            by_position: vec![NonZero::default(); most],
            position_ends: vec![0; area],
        }
    }

    /// Lists those of image `n`, and adds the gradient of the bias.
    fn find(
        &mut self,
        s: &ConvShape,
        grad_ys: Maps<'_>,
        n: usize,
        starts: &[u32],
        scaled: &mut Vec<f32>,
        grad_bias: &mut [f32],
    ) {
        self.channel_ends.clear();
        for (o, grad_bias) in grad_bias.iter_mut().enumerate() {
            let map = n * s.o + o;
            let grads = grad_ys.by_input(map..map + 1, scaled);
            *grad_bias += sum(grads);
            match grad_ys.positions {
                None => self.list(starts.iter().copied().zip(grads)),
                Some(positions) => {
                    let positions = &positions[map * grad_ys.size..];
                    self.list(positions.iter().map(|p| starts[*p as usize]).zip(grads));
                }
            }
        }
    }

    /// The next channel's.
    #[inline(always)]
    fn list<'a>(&mut self, grads: impl Iterator<Item = (u32, &'a f32)>) {
        let mut end = self.channel_ends.last().copied().unwrap_or(0);
        let list = &mut self.by_channel[..];
        for (at, &value) in grads {
            // Without a branch: nobody can predict where the zeros are.
            list[end] = NonZero { at, value };
            end += usize::from(value != 0.0);
        }
        self.channel_ends.push(end);
    }

    fn channels(&self) -> impl Iterator<Item = &[NonZero]> {
        let mut start = 0;
        self.channel_ends.iter().map(move |&end| &self.by_channel[std::mem::replace(&mut start, end)..end])
    }

    /// Fills `by_position`, channels in order: a counting sort.
    fn sort(&mut self) {
        let Self { by_channel, channel_ends, by_position, position_ends } = self;
        let n = channel_ends.last().copied().unwrap_or(0);
        position_ends.fill(0);
        for grad in &by_channel[..n] {
            position_ends[grad.at as usize] += 1;
        }
        let mut start = 0;
        for end in position_ends.iter_mut() {
            (*end, start) = (start, start + *end);
        }
        let mut first = 0;
        for (o, &end) in channel_ends.iter().enumerate() {
            for grad in &by_channel[first..end] {
                let next = &mut position_ends[grad.at as usize];
                by_position[*next as usize] = NonZero { at: o as u32, value: grad.value };
                *next += 1;
            }
            first = end;
        }
    }
}

/// Rows of a kernel, and vectors in a row, that are summed at once.
const ROWS: usize = 3;
const VECTORS: usize = 4;

/// How images and weights are laid out for the sums over non-zeros.
///
/// The channels come in slices of `width`, a few vectors; an image has slice after slice, and in a slice the
/// channels of one pixel lie side by side. In a row of a kernel the inputs of one output are then neighbours. A
/// slice of a small image and of the weights fits the first-level cache.
struct Plan {
    s: ConvShape,
    lanes: usize,
    /// Vectors of channels in a slice.
    vectors: usize,
    slices: usize,
    blocks: Vec<Block>,
    /// Values of all weights, with the channels that fill the last slice.
    weights: usize,
}

/// A part of the kernel in one slice, for all output channels.
struct Block {
    slice: usize,
    /// First kernel row, and how many.
    row: usize,
    rows: usize,
    /// First vector of each row, and how many.
    vector: usize,
    vectors: usize,
    /// Where its weights begin: `(O, rows, vectors, lanes)`.
    start: usize,
}

impl Plan {
    fn new(s: &ConvShape) -> Self {
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
    fn area(&self) -> usize {
        let (h, w) = self.s.padded_size();
        h * w
    }

    fn width(&self) -> usize {
        self.vectors * self.lanes
    }

    /// Values of a padded image.
    fn image(&self) -> usize {
        self.slices * self.area() * self.width()
    }

    /// The part of an image in which a block's first row and vector are at the start of its inputs, and the
    /// distance of its rows, in vectors.
    fn part(&self, block: &Block) -> (Range<usize>, usize) {
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

    fn pack(&self, weight: &[f32]) -> Vec<f32> {
        let mut packed = vec![0.0; self.weights];
        self.for_weights(|to, from| packed[to] = weight[from]);
        packed
    }

    fn unpack(&self, packed: &[f32]) -> Vec<f32> {
        let mut weight = vec![0.0; self.s.o * self.s.k];
        self.for_weights(|from, to| weight[to] = packed[from]);
        weight
    }

    /// Brings the channels of every pixel together. What pads the image stays as it is.
    fn interleave(&self, image: &[f32], slices: &mut [f32]) {
        self.for_rows(|channels, pixels, at, to| {
            transpose_to((channels, pixels), &image[at..], self.plane(), &mut slices[to..], self.width());
        });
    }

    /// The way back: writes every pixel of every channel.
    fn separate(&self, slices: &[f32], image: &mut [MaybeUninit<f32>]) {
        self.for_rows(|channels, pixels, at, from| {
            transpose((pixels, channels), &slices[from..], self.width(), &mut image[at..], self.plane());
        });
    }

    /// Pixels of an image.
    fn plane(&self) -> usize {
        self.s.h * self.s.w
    }

    /// Calls `visit(channels, pixels, index in image, index in slices)` for every row of every slice: in the image a
    /// channel of it has the pixels side by side, in the slices a pixel has the channels so.
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

/// Calls a function of `<S, ROWS, VECTORS, AT_ONCE>` with the sizes of a block.
macro_rules! per_size {
    ($block:expr, $f:ident($($arg:expr),*)) => {
        match ($block.rows, $block.vectors) {
            (1, 1) => $f::<S, 1, 1, 4>($($arg),*),
            (1, 2) => $f::<S, 1, 2, 4>($($arg),*),
            (1, 3) => $f::<S, 1, 3, 2>($($arg),*),
            (1, 4) => $f::<S, 1, 4, 2>($($arg),*),
            (2, 1) => $f::<S, 2, 1, 4>($($arg),*),
            (2, 2) => $f::<S, 2, 2, 2>($($arg),*),
            (2, 3) => $f::<S, 2, 3, 2>($($arg),*),
            (2, 4) => $f::<S, 2, 4, 1>($($arg),*),
            (3, 1) => $f::<S, 3, 1, 2>($($arg),*),
            (3, 2) => $f::<S, 3, 2, 2>($($arg),*),
            (3, 3) => $f::<S, 3, 3, 1>($($arg),*),
            _ => $f::<S, 3, 4, 1>($($arg),*),
        }
    };
}

struct WeightGradient<'a> {
    plan: &'a Plan,
    nonzeros: &'a NonZeros,
    image: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (image, sums) = (S::as_simd_f32s(self.image).0, S::as_mut_simd_f32s(self.sums).0);
        for block in &self.plan.blocks {
            let (part, row) = self.plan.part(block);
            let image = &image[part];
            let sums = &mut sums[block.start / S::F32_LANES..];
            per_size!(block, add_products(simd, self.nonzeros, image, self.plan.vectors, row, sums))
        }
    }
}

#[inline(always)]
fn add_products<S: Simd, const R: usize, const V: usize, const AT_ONCE: usize>(
    simd: S,
    nonzeros: &NonZeros,
    image: &[S::f32s],
    vectors: usize,
    row: usize,
    sums: &mut [S::f32s],
) {
    // Rows of one length, so that one check of bounds does for all.
    let n = image.len() - (R - 1) * row;
    let rows: [&[S::f32s]; R] = from_fn(|r| &image[r * row..][..n]);
    for (grads, own) in nonzeros.channels().zip(sums.as_chunks_mut::<V>().0.as_chunks_mut::<R>().0) {
        let mut sums = [[[simd.splat_f32s(0.0); V]; R]; AT_ONCE];
        let add = |sums: &mut [[S::f32s; V]; R], grad: &NonZero| {
            let value = simd.splat_f32s(grad.value);
            let at = grad.at as usize * vectors;
            for (sums, xs) in sums.iter_mut().zip(&rows) {
                for (sum, x) in sums.iter_mut().zip(&xs[at..at + V]) {
                    *sum = simd.mul_add_e_f32s(value, *x, *sum);
                }
            }
        };
        let (chunks, rest) = grads.as_chunks::<AT_ONCE>();
        for grads in chunks {
            for (sums, grad) in sums.iter_mut().zip(grads) {
                add(sums, grad);
            }
        }
        for grad in rest {
            add(&mut sums[0], grad);
        }
        for sums in &sums {
            for r in 0..R {
                for v in 0..V {
                    own[r][v] = simd.add_f32s(own[r][v], sums[r][v]);
                }
            }
        }
    }
}

struct InputGradient<'a> {
    plan: &'a Plan,
    nonzeros: &'a NonZeros,
    weight: &'a [f32],
    image: &'a mut [f32],
}

impl WithSimd for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (weight, image) = (S::as_simd_f32s(self.weight).0, S::as_mut_simd_f32s(self.image).0);
        for block in &self.plan.blocks {
            let (part, row) = self.plan.part(block);
            let image = &mut image[part];
            let weight = &weight[block.start / S::F32_LANES..];
            per_size!(block, add_weights(simd, self.nonzeros, weight, self.plan.vectors, row, image))
        }
    }
}

#[inline(always)]
fn add_weights<S: Simd, const R: usize, const V: usize, const AT_ONCE: usize>(
    simd: S,
    nonzeros: &NonZeros,
    weight: &[S::f32s],
    vectors: usize,
    row: usize,
    image: &mut [S::f32s],
) {
    let weight = weight.as_chunks::<V>().0.as_chunks::<R>().0;
    let mut start = 0;
    for (at, &end) in nonzeros.position_ends.iter().enumerate() {
        let grads = &nonzeros.by_position[start..end as usize];
        start = end as usize;
        if grads.is_empty() {
            continue;
        }
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&image[at * vectors + r * row..][..V]);
        }
        for grad in grads {
            let value = simd.splat_f32s(grad.value);
            for (sums, weight) in sums.iter_mut().zip(&weight[grad.at as usize]) {
                for (sum, w) in sums.iter_mut().zip(weight) {
                    *sum = simd.mul_add_e_f32s(value, *w, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            image[at * vectors + r * row..][..V].copy_from_slice(sums);
        }
    }
}
