//! Gradients as sums over the non-zero values of the result's gradient. A zero gradient hides a NaN factor, which the
//! forward pass has shown.

use std::array::from_fn;

use pulp::{Arch, Simd, WithSimd};

use super::layout::Layout;
use super::maps::{ConvGradients, Maps, Wanted, by_groups};
use super::shape::ConvShape;
use crate::simd::{Aligned, sum};
use crate::sparse::{Entry, Lists};

/// The gradients of the inputs from the gradient of the result.
pub(super) fn backward(
    s: &ConvShape,
    xs: &[f32],
    weight: &[f32],
    grad_ys: Maps<'_>,
    wanted: Wanted,
) -> ConvGradients {
    let layout = Layout::new(s);
    let (starts, packed) = (s.starts(), layout.pack(weight));
    let aligned = |wanted: bool| Aligned::new(if wanted { layout.image() } else { 0 });
    let scratch = || Scratch {
        image: aligned(wanted.weight),
        grads: aligned(wanted.xs),
        scaled: Vec::new(),
        by_channel: Lists::new(layout.area()),
        by_position: Lists::default(),
    };
    // SAFETY: `separate` writes every pixel of every channel of a gradient that is wanted.
    let gradients = unsafe {
        by_groups(s, wanted, layout.weights, scratch, |scratch, sums, n, grad_image| {
            let Scratch { image, grads, scaled, by_channel, by_position } = scratch;
            by_channel.clear();
            for (o, grad_bias) in sums.bias.iter_mut().enumerate() {
                let map = n * s.o + o;
                let grads = grad_ys.by_input(map..map + 1, scaled);
                *grad_bias += sum(grads);
                match grad_ys.positions {
                    None => by_channel.push_at(grads, |i| starts[i], 0.0),
                    Some(positions) => {
                        let positions = &positions[map * grad_ys.size..];
                        by_channel.push_at(grads, |i| starts[positions[i] as usize], 0.0);
                    }
                }
            }
            if wanted.weight {
                layout.interleave(&xs[n * s.input()..][..s.input()], image);
                let sums = &mut sums.weight;
                Arch::new().dispatch(WeightGradient { layout: &layout, grads: by_channel, image, sums });
            }
            if wanted.xs {
                by_channel.transpose_to(by_position);
                grads.fill(0.0);
                let (weight, image) = (&packed, &mut *grads);
                Arch::new().dispatch(InputGradient { layout: &layout, grads: by_position, weight, image });
                layout.separate(grads, grad_image);
            }
        })
    };
    ConvGradients { weight: gradients.weight.map(|packed| layout.unpack(&packed)), ..gradients }
}

/// Buffers for the images of a group.
struct Scratch {
    image: Aligned,
    grads: Aligned,
    scaled: Vec<f32>,
    by_channel: Lists,
    by_position: Lists,
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
    layout: &'a Layout,
    /// By output channel; each entry is the index of the first input among the padded pixels.
    grads: &'a Lists,
    image: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (image, sums) = (S::as_simd_f32s(self.image).0, S::as_mut_simd_f32s(self.sums).0);
        for block in &self.layout.blocks {
            let (part, row) = self.layout.part(block);
            let image = &image[part];
            let sums = &mut sums[block.start / S::F32_LANES..];
            per_size!(block, add_products(simd, self.grads, image, self.layout.vectors, row, sums))
        }
    }
}

#[inline(always)]
fn add_products<S: Simd, const R: usize, const V: usize, const AT_ONCE: usize>(
    simd: S,
    channels: &Lists,
    image: &[S::f32s],
    vectors: usize,
    row: usize,
    sums: &mut [S::f32s],
) {
    // Rows of equal length need one bounds check for all.
    let n = image.len() - (R - 1) * row;
    let rows: [&[S::f32s]; R] = from_fn(|r| &image[r * row..][..n]);
    for (grads, own) in channels.iter().zip(sums.as_chunks_mut::<V>().0.as_chunks_mut::<R>().0) {
        let mut sums = [[[simd.splat_f32s(0.0); V]; R]; AT_ONCE];
        let add = |sums: &mut [[S::f32s; V]; R], grad: &Entry| {
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
    layout: &'a Layout,
    /// By the index of the first input; each entry is the output channel.
    grads: &'a Lists,
    weight: &'a [f32],
    image: &'a mut [f32],
}

impl WithSimd for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (weight, image) = (S::as_simd_f32s(self.weight).0, S::as_mut_simd_f32s(self.image).0);
        for block in &self.layout.blocks {
            let (part, row) = self.layout.part(block);
            let image = &mut image[part];
            let weight = &weight[block.start / S::F32_LANES..];
            per_size!(block, add_weights(simd, self.grads, weight, self.layout.vectors, row, image))
        }
    }
}

#[inline(always)]
fn add_weights<S: Simd, const R: usize, const V: usize, const AT_ONCE: usize>(
    simd: S,
    positions: &Lists,
    weight: &[S::f32s],
    vectors: usize,
    row: usize,
    image: &mut [S::f32s],
) {
    let weight = weight.as_chunks::<V>().0.as_chunks::<R>().0;
    for (at, grads) in positions.iter().enumerate() {
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
