//! Matrix products with the columns of an image (im2col).

use std::mem::MaybeUninit;

use super::maps::{ConvGradients, Maps, Wanted, by_groups};
use super::shape::ConvShape;
use crate::activation::Activation;
use crate::gemm::{Matrix, matmul, product_to};
use crate::ops::activate::apply_to;
use crate::parallel::per_image;
use crate::simd::sum;

/// `f` of the convolution.
pub(super) fn forward(
    s: &ConvShape,
    xs: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    f: Activation,
) -> Vec<f32> {
    let (columns, size) = (|| vec![0.0; s.k * s.p], (s.o, s.p, s.k));
    assert!(bias.is_none_or(|bias| bias.len() == s.o), "a bias for every output channel");
    let op = |columns: &mut Vec<f32>, n: usize, ys: &mut [MaybeUninit<f32>]| {
        s.to_columns(&xs[n * s.input()..][..s.input()], columns);
        let (weight, columns) = (Matrix::new(weight, s.k), Matrix::new(columns, s.p));
        match bias {
            Some(bias) => {
                ys.chunks_exact_mut(s.p).zip(bias).for_each(|(map, b)| map.fill(MaybeUninit::new(*b)));
                // SAFETY: all maps are filled above.
                matmul(size, unsafe { ys.assume_init_mut() }, true, weight, columns);
            }
            None => product_to(size, weight, columns, ys),
        }
        // SAFETY: the product writes all values.
        apply_to(f, unsafe { ys.assume_init_mut() });
    };
    // SAFETY: the product has the size of the image's result.
    unsafe { per_image(s.n, s.output(), s.group(), columns, op).0 }
}

/// The gradients of the inputs from the gradient of the result.
pub(super) fn backward(
    s: &ConvShape,
    xs: &[f32],
    weight: &[f32],
    grad_ys: Maps<'_>,
    wanted: Wanted,
) -> ConvGradients {
    let columns = |wanted: bool| vec![0.0; if wanted { s.k * s.p } else { 0 }];
    let scratch = || Scratch {
        maps: Vec::new(),
        scaled: Vec::new(),
        columns: columns(wanted.weight),
        grad_columns: columns(wanted.xs),
    };
    // SAFETY: the gradient of an image is filled with zeros first.
    unsafe {
        by_groups(s, wanted, s.o * s.k, scratch, |scratch, sums, n, grad_image| {
            let Scratch { maps, scaled, columns, grad_columns } = scratch;
            let maps = grad_ys.dense(s, n, maps, scaled);
            for (grad, map) in sums.bias.iter_mut().zip(maps.chunks_exact(s.p)) {
                *grad += sum(map);
            }
            let maps = Matrix::new(maps, s.p);
            if wanted.weight {
                s.to_columns(&xs[n * s.input()..][..s.input()], columns);
                let columns = Matrix::new(columns, s.p).transposed();
                matmul((s.o, s.k, s.p), &mut sums.weight[..s.o * s.k], true, maps, columns);
            }
            if wanted.xs {
                let weight = Matrix::new(weight, s.k).transposed();
                matmul((s.k, s.p, s.o), grad_columns, false, weight, maps);
                grad_image.fill(MaybeUninit::new(0.0));
                // Filled above.
                s.add_columns(grad_columns, grad_image.assume_init_mut());
            }
        })
    }
}

/// Buffers for the images of a group.
struct Scratch {
    maps: Vec<f32>,
    scaled: Vec<f32>,
    columns: Vec<f32>,
    grad_columns: Vec<f32>,
}
