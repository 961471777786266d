use std::mem::MaybeUninit;

use super::{ConvShape, sparse};
use crate::cpu::{lanes, per_image, sum};
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
    /// Gradients of all inputs from that of the result, of which ReLU and max-pooling leave little that is not 0.
    pub(super) fn backward(
        &self,
        xs: &[f32],
        weight: &[f32],
        grad_ys: &Gradient,
        wanted: Wanted,
    ) -> Gradients {
        let multiplied_out;
        let grad_ys = match grad_ys {
            Gradient::Dense(values) => Maps::Dense(values),
            Gradient::Winners(winners) => {
                assert_eq!(winners.plane, self.p, "winners of another size of maps");
                Maps::Winners(winners)
            }
            Gradient::Product(product) => {
                multiplied_out = product.values();
                Maps::Dense(&multiplied_out)
            }
        };
        // The sums run over vectors of channels: few channels would leave them mostly empty.
        if self.c < lanes() || grad_ys.density(self) > DENSE {
            dense(self, xs, weight, grad_ys, wanted)
        } else {
            sparse::backward(self, xs, weight, grad_ys, wanted)
        }
    }
}

/// The gradient of a convolution's result, borrowed: see [`Gradient`].
#[derive(Clone, Copy)]
pub(super) enum Maps<'a> {
    Dense(&'a [f32]),
    Winners(&'a Winners),
}

impl<'a> Maps<'a> {
    /// Values of one map that may differ from 0.
    pub fn candidates(self, s: &ConvShape) -> usize {
        match self {
            Maps::Dense(_) => s.p,
            Maps::Winners(winners) => winners.windows,
        }
    }

    /// The share of values other than 0, in the first image of every group.
    fn density(self, s: &ConvShape) -> f64 {
        let values = match self {
            Maps::Dense(values) => values,
            Maps::Winners(winners) => &winners.values,
        };
        let size = s.o * self.candidates(s);
        let images = values.chunks_exact(size.max(1)).step_by(s.group());
        let nonzeros: usize = images.clone().map(|grads| grads.iter().filter(|g| **g != 0.0).count()).sum();
        nonzeros as f64 / (images.len() * s.output()).max(1) as f64
    }

    /// All values of image `n`: where they are, or else put into `maps`.
    fn dense(self, s: &ConvShape, n: usize, maps: &'a mut Vec<f32>) -> &'a [f32] {
        let winners = match self {
            Maps::Dense(values) => return &values[n * s.output()..][..s.output()],
            Maps::Winners(winners) => winners,
        };
        maps.clear();
        maps.resize(s.output(), 0.0);
        let size = s.o * winners.windows;
        let (grads, positions) =
            (&winners.values[n * size..][..size], &winners.positions[n * size..][..size]);
        for (i, (grad, position)) in grads.iter().zip(positions).enumerate() {
            maps[i / winners.windows * s.p + *position as usize] += grad;
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
        columns: zeros(wanted.weight, s.k * s.p),
        grad_columns: zeros(wanted.xs, s.k * s.p),
        grad_weight: zeros(wanted.weight, s.o * s.k),
        grad_bias: vec![0.0; s.o],
    };
    let op = |scratch: &mut Scratch, n: usize, grad_image: &mut [MaybeUninit<f32>]| {
        let Scratch { maps, columns, grad_columns, grad_weight, grad_bias } = scratch;
        let maps = grad_ys.dense(s, n, maps);
        for (grad, map) in grad_bias.iter_mut().zip(maps.chunks_exact(s.p)) {
            *grad += sum(map);
        }
        let maps = Matrix::new(maps, s.p);
        if wanted.weight {
            s.to_columns(&xs[n * s.input()..][..s.input()], columns);
            let columns = Matrix::new(columns, s.p).transposed();
            matmul((s.o, s.k, s.p), grad_weight, true, maps, columns, false);
        }
        if wanted.xs {
            let weight = Matrix::new(weight, s.k).transposed();
            matmul((s.k, s.p, s.o), grad_columns, false, weight, maps, false);
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
