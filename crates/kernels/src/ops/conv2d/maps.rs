use std::mem::MaybeUninit;
use std::ops::Range;

use super::shape::ConvShape;
use crate::activation::Activation;
use crate::ops::activate::scale;
use crate::parallel::per_image;
use crate::simd::Aligned;

/// Which gradients to compute; that of the bias is cheap and always computed.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub xs: bool,
    pub weight: bool,
}

/// Gradients in the layout of their tensors.
pub(super) struct ConvGradients {
    pub xs: Option<Vec<f32>>,
    pub weight: Option<Vec<f32>>,
    pub bias: Vec<f32>,
}

/// The gradient of a convolution's result, before its activation function is differentiated.
#[derive(Clone, Copy)]
pub(super) struct Maps<'a> {
    pub f: Activation,
    /// The gradient with respect to the output of `f`, map by map.
    pub values: &'a [f32],
    /// The output of `f`, map by map. Not read if `f` is the identity.
    pub ys: &'a [f32],
    /// Values per map in `grads`: all of a map, or those at `positions`.
    pub size: usize,
    /// The index of each value in its map; all others have gradient 0. See `Scattered`.
    pub positions: Option<&'a [u32]>,
}

impl<'a> Maps<'a> {
    /// The gradient with respect to the input of `f`, of the maps in a range; computed into `scaled` unless `f` is the identity.
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

    /// The share of non-zero values in the first image of every group.
    pub fn density(self, s: &ConvShape) -> f64 {
        let mut scaled = Vec::new();
        let images = (0..s.n).step_by(s.group());
        let mut nonzeros = 0;
        for n in images.clone() {
            let grads = self.by_input(n * s.o..(n + 1) * s.o, &mut scaled);
            nonzeros += grads.iter().filter(|g| **g != 0.0).count();
        }
        nonzeros as f64 / (images.len() * s.output()).max(1) as f64
    }

    /// All values of image `n`: in place, or scattered into `maps`.
    pub fn dense(
        self,
        s: &ConvShape,
        n: usize,
        maps: &'a mut Vec<f32>,
        scaled: &'a mut Vec<f32>,
    ) -> &'a [f32] {
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

/// The sums of one group of images.
pub(super) struct GroupSums {
    /// The gradient of the weights, in a layout of the caller's.
    pub weight: Aligned,
    pub bias: Vec<f32>,
}

/// Calls `image(scratch, sums, n, gradient of image n)` for every image, and adds up the groups' sums in the order of
/// the groups, so the result does not depend on the number of threads. `weights` is the number of sums for the weight.
///
/// # Safety
/// `image` writes every value of its gradient, which is empty unless the gradient of `xs` is wanted.
pub(super) unsafe fn by_groups<T: Send>(
    s: &ConvShape,
    wanted: Wanted,
    weights: usize,
    scratch: impl Fn() -> T + Sync,
    image: impl Fn(&mut T, &mut GroupSums, usize, &mut [MaybeUninit<f32>]) + Sync,
) -> ConvGradients {
    let (size, weights) = (if wanted.xs { s.input() } else { 0 }, if wanted.weight { weights } else { 0 });
    let start = || (scratch(), GroupSums { weight: Aligned::new(weights), bias: vec![0.0; s.o] });
    let op = |(scratch, sums): &mut (T, GroupSums), n: usize, grad_image: &mut [MaybeUninit<f32>]| {
        image(scratch, sums, n, grad_image);
    };
    // SAFETY: the caller ensures it.
    let (xs, groups) = unsafe { per_image(s.n, size, s.group(), start, op) };
    let (mut weight, mut bias) = (vec![0.0; weights], vec![0.0; s.o]);
    for (_, group) in &groups {
        weight.iter_mut().zip(&*group.weight).for_each(|(sum, x)| *sum += *x);
        bias.iter_mut().zip(&group.bias).for_each(|(sum, x)| *sum += *x);
    }
    ConvGradients { xs: wanted.xs.then_some(xs), weight: wanted.weight.then_some(weight), bias }
}
