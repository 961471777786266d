use std::array::from_fn;
use std::mem::MaybeUninit;

use pulp::bytemuck::{cast_slice, cast_slice_mut};
use pulp::{Arch, Simd, WithSimd};

use super::shape::ConvShape;
use crate::activation::Activation;
use crate::ops::activate::apply_to;
use crate::parallel::per_image;
use crate::simd::{lanes, simd};

/// Output positions and vectors of output channels that are summed at once: twelve sums hide the latency of an addition
/// and leave registers for the factors.
const POSITIONS: usize = 6;
const VECTORS: usize = 2;

/// The forward pass, computed directly from the image without `im2col`.
///
/// Images and feature maps often have a constant background. All outputs whose windows contain only background are equal,
/// so they are computed once per image. The order of additions does not change, so the results have the same bits.
pub(super) fn forward(
    s: &ConvShape,
    xs: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    f: Activation,
) -> Vec<f32> {
    let (weights, starts) = (&Weights::new(s, weight, bias), &s.starts());
    let scratch = || (vec![0.0; s.padded_input()], Foreground::new(s));
    let op = |(padded, foreground): &mut (Vec<f32>, Foreground), n: usize, ys: &mut [MaybeUninit<f32>]| {
        let image = s.pad(&xs[n * s.input()..][..s.input()], padded);
        foreground.find(s, image);
        let compute = |positions: &[u32], ys: &mut [MaybeUninit<f32>]| {
            Arch::new().dispatch(Outputs { weights, f, image, starts, positions, ys, p: s.p });
        };
        if let Some(background) = foreground.background {
            compute(&[background], ys);
            ys.chunks_exact_mut(s.p).for_each(|map| map.fill(map[background as usize]));
        }
        compute(&foreground.outputs, ys);
    };
    // SAFETY: every output is either computed or filled with the background's.
    unsafe { per_image(s.n, s.output(), s.group(), scratch, op).0 }
}

/// Which outputs of an image see more than its background, the value of its first pixel.
struct Foreground {
    /// Not 0 for each padded pixel that differs from the background.
    pixels: Vec<u32>,
    /// Not 0 for each output that sees such a pixel.
    seen: Vec<u32>,
    /// The outputs that see such a pixel.
    outputs: Vec<u32>,
    /// The first output that sees only background.
    background: Option<u32>,
}

impl Foreground {
    fn new(s: &ConvShape) -> Self {
        let (h, w) = s.padded_size();
        Self {
            pixels: vec![0; h * w],
            seen: vec![0; s.p],
            outputs: Vec::with_capacity(s.p),
            background: None,
        }
    }

    fn find(&mut self, s: &ConvShape, image: &[f32]) {
        let (w, stride) = (s.padded_size().1, s.geometry.stride);
        let first = s.geometry.padding * (w + 1);
        let Self { pixels, seen, .. } = self;
        simd(
            #[inline(always)]
            || {
                pixels.fill(0);
                for map in image.chunks_exact(pixels.len()) {
                    let background = map[first].to_bits();
                    for (pixel, x) in pixels.iter_mut().zip(map) {
                        *pixel |= x.to_bits() ^ background;
                    }
                }
                seen.fill(0);
                for (y, seen) in seen.chunks_exact_mut(s.out.1).enumerate() {
                    for dy in 0..s.kernel.0 {
                        for dx in 0..s.kernel.1 {
                            let row = &pixels[(y * stride + dy) * w + dx..];
                            if stride == 1 {
                                seen.iter_mut().zip(row).for_each(|(seen, pixel)| *seen |= pixel);
                            } else {
                                let row = row.iter().step_by(stride);
                                seen.iter_mut().zip(row).for_each(|(seen, pixel)| *seen |= pixel);
                            }
                        }
                    }
                }
            },
        );
        self.outputs.clear();
        self.outputs.extend((0..s.p as u32).filter(|p| self.seen[*p as usize] != 0));
        self.background = self.seen.iter().position(|seen| *seen == 0).map(|p| p as u32);
    }
}

/// The weights in the order of their use: by blocks of up to `VECTORS` vectors of output channels, and in a block by
/// input, `k` times the block's width. Padding channels are 0.
struct Weights {
    values: Vec<f32>,
    bias: Vec<f32>,
    /// Output channels.
    o: usize,
    k: usize,
    /// The offsets, in a padded image, of the `k` inputs of the output at its start.
    offsets: Vec<usize>,
    /// The distance between the first and the last of these inputs.
    reach: usize,
}

impl Weights {
    fn new(s: &ConvShape, weight: &[f32], bias: Option<&[f32]>) -> Self {
        let (lanes, (h, w)) = (lanes(), s.padded_size());
        let filled = s.o.next_multiple_of(lanes);
        let width = VECTORS * lanes;
        let mut values = vec![0.0; filled * s.k];
        for (o, weight) in weight.chunks_exact(s.k.max(1)).enumerate() {
            let first = o - o % width;
            let width = width.min(filled - first);
            for (i, w) in weight.iter().enumerate() {
                values[first * s.k + i * width + o % width] = *w;
            }
        }
        let mut padded_bias = vec![0.0; filled];
        if let Some(bias) = bias {
            padded_bias[..s.o].copy_from_slice(bias);
        }
        let (kh, kw) = s.kernel;
        let offsets: Vec<usize> = (0..s.k).map(|i| (i / (kh * kw) * h + i / kw % kh) * w + i % kw).collect();
        let reach = offsets.last().map_or(0, |last| last + 1);
        Self { values, bias: padded_bias, o: s.o, k: s.k, offsets, reach }
    }
}

/// Computes all channels of the outputs at `positions`.
struct Outputs<'a> {
    weights: &'a Weights,
    f: Activation,
    /// Padded.
    image: &'a [f32],
    /// See [`ConvShape::starts`].
    starts: &'a [u32],
    positions: &'a [u32],
    ys: &'a mut [MaybeUninit<f32>],
    /// Values per output channel.
    p: usize,
}

impl WithSimd for Outputs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let weights = self.weights;
        let width = VECTORS * S::F32_LANES;
        for (i, bias) in weights.bias.chunks(width).enumerate() {
            let first = i * width;
            let block = &weights.values[first * weights.k..][..bias.len() * weights.k];
            if bias.len() == width {
                self.block::<S, VECTORS>(simd, first, block, bias);
            } else {
                self.block::<S, 1>(simd, first, block, bias);
            }
        }
    }
}

impl Outputs<'_> {
    /// All outputs of the `V` vectors of channels from `first` on.
    #[inline(always)]
    fn block<S: Simd, const V: usize>(&mut self, simd: S, first: usize, weight: &[f32], bias: &[f32]) {
        let Weights { o, offsets, reach, .. } = self.weights;
        let (weight, bias) = (S::as_simd_f32s(weight).0, S::as_simd_f32s(bias).0);
        for positions in self.positions.chunks(POSITIONS) {
            // If fewer are left, the last is computed more than once.
            let positions: [usize; POSITIONS] = from_fn(|i| positions[i.min(positions.len() - 1)] as usize);
            let windows = positions.map(|p| &self.image[self.starts[p] as usize..][..*reach]);
            let mut sums: [[S::f32s; V]; POSITIONS] = [from_fn(|v| bias[v]); POSITIONS];
            for (&offset, weight) in offsets.iter().zip(weight.chunks_exact(V)) {
                for (sums, window) in sums.iter_mut().zip(&windows) {
                    let x = simd.splat_f32s(window[offset]);
                    for (sum, w) in sums.iter_mut().zip(weight) {
                        *sum = simd.mul_add_e_f32s(x, *w, *sum);
                    }
                }
            }
            // A copy keeps the sums in registers: 1.5 times as fast.
            let mut results = sums;
            apply_to(self.f, cast_slice_mut(results.as_flattened_mut()));
            let results = results.each_ref().map(|results| cast_slice::<S::f32s, f32>(results));
            let maps = self.ys[first * self.p..].chunks_exact_mut(self.p).take(o - first);
            for (channel, map) in maps.take(V * S::F32_LANES).enumerate() {
                for (p, results) in positions.iter().zip(&results) {
                    map[*p].write(results[channel]);
                }
            }
        }
    }
}
