use std::mem::MaybeUninit;
use std::ops::Range;

use super::{ConvShape, sparse};
use crate::activate::scale;
use crate::activation::Activation;
use crate::cpu::{Values, lanes, per_image, sum};
use crate::gradient::{Gradient, Winners};
use crate::product::{Matrix, matmul};

/// Which gradients to compute; that of the bias costs next to nothing and always is.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub xs: bool,
    pub weight: bool,
}

/// Gradients in the layouts of what they belong to.
pub(super) struct Gradients {
    pub xs: Option<Vec<f32>>,
    pub weight: Option<Vec<f32>>,
    pub bias: Vec<f32>,
}

/// Above this share of values other than 0, a matrix product of all is faster than sums over these: measured with
/// 32 channels to 64 and kernels of 3×3, on AVX2.
const DENSE: f64 = 0.7;

impl ConvShape {
    /// Gradients of all inputs from that of the result `f(..)`, `ys`, of which ReLU and max-pooling leave little that is
    /// not 0.
    pub(super) fn backward(
        &self,
        xs: &[f32],
        weight: &[f32],
        (f, ys): (Activation, &[f32]),
        grad_ys: &Gradient,
        wanted: Wanted,
    ) -> Gradients {
        let (multiplied_out, pooled);
        let all = |values| Maps { f, values, ys, size: self.p, positions: None };
        let grad_ys = match grad_ys {
            Gradient::Dense(values) => all(values),
            Gradient::Product(product) => {
                multiplied_out = product.values();
                all(&multiplied_out)
            }
            Gradient::Winners(winners) => {
                assert_eq!(winners.plane, self.p, "winners of another size of maps");
                pooled = Values::of(&winners.ys).expect("what pooling gave");
                let Winners { values, positions, windows, .. } = winners;
                Maps { f, values, ys: &pooled, size: *windows, positions: Some(positions) }
            }
        };
        let (c, o) = (self.c, self.o);
        // The sums run over vectors of channels: few channels would leave them mostly empty.
        if c < lanes() {
            tracing::debug!("conv2d {c}→{o}: gradient by matrix products, as there are few input channels");
            return dense(self, xs, weight, grad_ys, wanted);
        }
        let density = grad_ys.density(self);
        if density > DENSE {
            tracing::debug!(density, "conv2d {c}→{o}: gradient by matrix products");
            dense(self, xs, weight, grad_ys, wanted)
        } else {
            tracing::debug!(density, "conv2d {c}→{o}: gradient by sums over what is not 0");
            sparse::backward(self, xs, weight, grad_ys, wanted)
        }
    }
}

/// The gradient of a convolution's result, through its activation function.
#[derive(Clone, Copy)]
pub(super) struct Maps<'a> {
    pub f: Activation,
    /// By what `f` gave, map by map.
    pub values: &'a [f32],
    /// What `f` gave, likewise.
    pub ys: &'a [f32],
    /// Values of one map here: all that it has, or those at `positions`.
    pub size: usize,
    /// Where in its map each value belongs; everywhere else it has none. See [`Winners`].
    pub positions: Option<&'a [u32]>,
}

impl<'a> Maps<'a> {
    /// The gradient by what `f` was given, of the maps in a range; in `scaled` if it is another than by what it gave.
    pub fn by_input(self, maps: Range<usize>, scaled: &'a mut Vec<f32>) -> &'a [f32] {
        let own = maps.start * self.size..maps.end * self.size;
        let values = &self.values[own.clone()];
        if self.f == Activation::Identity {
            return values;
        }
        scaled.clear();
        scaled.extend_from_slice(values);
        scale(self.f, &self.ys[own], scaled);
        scaled
    }

    /// The share of values other than 0, in the first image of every group.
    fn density(self, s: &ConvShape) -> f64 {
        let mut scaled = Vec::new();
        let images = (0..s.n).step_by(s.group());
        let mut nonzeros = 0;
        for n in images.clone() {
            let grads = self.by_input(n * s.o..(n + 1) * s.o, &mut scaled);
            nonzeros += grads.iter().filter(|g| **g != 0.0).count();
        }
        nonzeros as f64 / (images.len() * s.output()).max(1) as f64
    }

    /// All values of image `n`: where they are, or else put into `maps`.
    fn dense(self, s: &ConvShape, n: usize, maps: &'a mut Vec<f32>, scaled: &'a mut Vec<f32>) -> &'a [f32] {
        let grads = self.by_input(n * s.o..(n + 1) * s.o, scaled);
        let Some(positions) = self.positions else { return grads };
        maps.clear();
        maps.resize(s.output(), 0.0);
        let positions = &positions[n * s.o * self.size..];
        for (i, (grad, position)) in grads.iter().zip(positions).enumerate() {
            maps[i / self.size * s.p + *position as usize] += grad;
        }
        maps
    }
}

/// Gradients as matrix products with an image's columns.
#[allow(unsafe_code)]
pub(super) fn dense(
    s: &ConvShape,
    xs: &[f32],
    weight: &[f32],
    grad_ys: Maps<'_>,
    wanted: Wanted,
) -> Gradients {
    let size = if wanted.xs { s.input() } else { 0 };
    let zeros = |wanted: bool, size: usize| vec![0.0; if wanted { size } else { 0 }];
    let scratch = || Scratch {
        maps: Vec::new(),
        scaled: Vec::new(),
        columns: zeros(wanted.weight, s.k * s.p),
        grad_columns: zeros(wanted.xs, s.k * s.p),
        grad_weight: zeros(wanted.weight, s.o * s.k),
        grad_bias: vec![0.0; s.o],
    };
    let op = |scratch: &mut Scratch, n: usize, grad_image: &mut [MaybeUninit<f32>]| {
        let Scratch { maps, scaled, columns, grad_columns, grad_weight, grad_bias } = scratch;
        let maps = grad_ys.dense(s, n, maps, scaled);
        for (grad, map) in grad_bias.iter_mut().zip(maps.chunks_exact(s.p)) {
            *grad += sum(map);
        }
        let maps = Matrix::new(maps, s.p);
        if wanted.weight {
            s.to_columns(&xs[n * s.input()..][..s.input()], columns);
            let columns = Matrix::new(columns, s.p).transposed();
            matmul((s.o, s.k, s.p), grad_weight, true, maps, columns);
        }
        if wanted.xs {
            let weight = Matrix::new(weight, s.k).transposed();
            matmul((s.k, s.p, s.o), grad_columns, false, weight, maps);
            grad_image.fill(MaybeUninit::new(0.0));
            // SAFETY: all of it has just been filled.
            s.add_columns(grad_columns, unsafe { grad_image.assume_init_mut() });
        }
    };
    // SAFETY: an image that is wanted is filled with zeros first; one that is not has no values.
    let (grad_xs, sums) = unsafe { per_image(s.n, size, s.group(), scratch, op) };
    let grad_weight =
        wanted.weight.then(|| add_up(s.o * s.k, sums.iter().map(|group| &group.grad_weight[..])));
    let grad_bias = add_up(s.o, sums.iter().map(|group| &group.grad_bias[..]));
    Gradients { xs: wanted.xs.then_some(grad_xs), weight: grad_weight, bias: grad_bias }
}

/// What one group of images needs, and what it adds up.
struct Scratch {
    maps: Vec<f32>,
    scaled: Vec<f32>,
    columns: Vec<f32>,
    grad_columns: Vec<f32>,
    grad_weight: Vec<f32>,
    grad_bias: Vec<f32>,
}

/// The sum of the groups' sums of `n` values: in their order, so that it does not depend on which thread was first.
pub(super) fn add_up<'a>(n: usize, groups: impl Iterator<Item = &'a [f32]>) -> Vec<f32> {
    let mut total = vec![0.0; n];
    for group in groups {
        total.iter_mut().zip(group).for_each(|(sum, x)| *sum += *x);
    }
    total
}
