//! Gradients many of which are zero, such as those behind ReLU or dropout: products over the others alone.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::lists::Lists;
use super::sums::{BLOCK, Sums};
use crate::cpu::{Aligned, filled_by_columns, simd};
use crate::transpose::transpose_to;

/// Samples, and outputs, that are looked at together: so many rows of [`BLOCK`] values stay in the first-level cache.
const SIDE: usize = 128;
/// Samples whose gradients by one block of inputs are computed together.
const SAMPLES: usize = 8 * SIDE;

/// The gradients of a layer's result that are not zero.
pub(super) struct Active {
    samples: usize,
    outputs: usize,
    /// Of [`SIDE`] samples and outputs, or fewer at the ends: all outputs of the first samples, then those of the next.
    blocks: Vec<Block>,
}

struct Block {
    by_sample: Lists,
    by_output: Lists,
}

/// The share of values other than 0 in a matrix in rows of `width`, by some of its rows.
pub(super) fn density(values: &[f32], width: usize) -> f64 {
    let rows = values.chunks_exact(width);
    let some = rows.step_by((values.len() / width / 8).max(1));
    let (found, all) = some.fold((0, 0), |(found, all), row| {
        (found + row.iter().filter(|x| **x != 0.0).count(), all + row.len())
    });
    found as f64 / all.max(1) as f64
}

impl Active {
    /// Of gradients in rows of `outputs`.
    pub fn of(grads: &[f32], outputs: usize) -> Self {
        let samples = grads.len() / outputs;
        let of_outputs = outputs.div_ceil(SIDE);
        let block = |b: usize| {
            let (sample, output) = (b / of_outputs * SIDE, b % of_outputs * SIDE);
            let (height, width) = (SIDE.min(samples - sample), SIDE.min(outputs - output));
            let grads = &grads[sample * outputs + output..];
            let mut turned = Aligned::new(SIDE * SIDE);
            transpose_to((height, width), grads, outputs, &mut turned, SIDE);
            Block {
                by_sample: Lists::of(grads.chunks(outputs).take(height).map(|row| &row[..width]), width, 0.0),
                by_output: Lists::of(turned.chunks(SIDE).take(width).map(|row| &row[..height]), height, 0.0),
            }
        };
        let blocks = (0..samples.div_ceil(SIDE) * of_outputs).into_par_iter().with_max_len(1);
        Self { samples, outputs, blocks: blocks.map(block).collect() }
    }

    /// Blocks of the same samples, in the order of their outputs.
    fn of_samples(&self) -> std::slice::Chunks<'_, Block> {
        self.blocks.chunks(self.outputs.div_ceil(SIDE))
    }

    /// `grads · weight`, `(samples, inputs)`, by blocks of inputs.
    #[allow(unsafe_code)]
    pub fn grad_xs(&self, weight: &[f32]) -> Vec<f32> {
        let i = weight.len() / self.outputs;
        // SAFETY: every row of the block is written, for the lists are those of all samples.
        unsafe {
            filled_by_columns((self.samples, i), BLOCK, |first, mut grads| {
                let columns = first..(first + BLOCK).min(i);
                for start in (0..self.samples).step_by(SAMPLES) {
                    let sums = self.grads_by(weight, i, columns.clone(), start);
                    for (k, sums) in sums.chunks_exact(BLOCK).take(self.samples - start).enumerate() {
                        grads.row(start + k).write_copy_of_slice(&sums[..columns.len()]);
                    }
                }
            })
        }
    }

    /// The gradients of up to [`SAMPLES`] samples from `start` on by these inputs, in rows of [`BLOCK`].
    #[allow(unsafe_code)]
    fn grads_by(&self, weight: &[f32], i: usize, inputs: Range<usize>, start: usize) -> Aligned {
        let samples = SAMPLES.min(self.samples - start);
        let blocks = || self.of_samples().skip(start / SIDE);
        let rows = |output: usize| {
            let end = (output + SIDE).min(self.outputs);
            gathered(&weight[output * i..end * i], i, inputs.clone())
        };
        // SAFETY: a sum is written for every sample.
        let mut sums = unsafe {
            Aligned::filled(samples * BLOCK, |sums| {
                let rows = rows(0);
                for (blocks, sums) in blocks().zip(sums.chunks_mut(SIDE * BLOCK)) {
                    let lists = &blocks[0].by_sample;
                    Sums { lists, range: 0..lists.len(), rows: &rows }.write_to(&NOTHING, sums);
                }
            })
        };
        for output in (SIDE..self.outputs).step_by(SIDE) {
            let rows = rows(output);
            for (blocks, sums) in blocks().zip(sums[..samples * BLOCK].chunks_mut(SIDE * BLOCK)) {
                let lists = &blocks[output / SIDE].by_sample;
                Sums { lists, range: 0..lists.len(), rows: &rows }.put(None, sums);
            }
        }
        sums
    }

    /// The tile of `gradsᵀ · xs` at these outputs and columns, row by row; `xs` is in rows of `width`.
    #[allow(unsafe_code)]
    pub fn grad_weight(
        &self,
        xs: &[f32],
        width: usize,
        (outputs, columns): (Range<usize>, Range<usize>),
        out: &mut [MaybeUninit<f32>],
    ) {
        let mut apart: Vec<f32> = Vec::with_capacity(SIDE * BLOCK);
        for first in columns.clone().step_by(BLOCK) {
            let block = first..(first + BLOCK).min(columns.end);
            let rows = gathered(xs, width, block.clone());
            let mut output = outputs.start;
            while output < outputs.end {
                let range = output % SIDE..SIDE.min(output % SIDE + outputs.end - output);
                let n = range.len();
                let from = (output - outputs.start) * columns.len();
                // Whole tiles are written where they are wanted.
                let tile = match columns.len() {
                    BLOCK => &mut out[from..][..n * BLOCK],
                    _ => &mut apart.spare_capacity_mut()[..n * BLOCK],
                };
                for (s, blocks) in self.of_samples().enumerate() {
                    let lists = &blocks[output / SIDE].by_output;
                    let sums = Sums { lists, range: range.clone(), rows: &rows[s * SIDE * BLOCK..] };
                    match s {
                        0 => sums.write_to(&NOTHING, tile),
                        // SAFETY: those of the first samples have been written.
                        _ => sums.put(None, unsafe { tile.assume_init_mut() }),
                    }
                }
                if columns.len() != BLOCK {
                    let rows = apart.spare_capacity_mut().chunks_exact(BLOCK).take(n);
                    for (to, from) in out[from..].chunks_mut(columns.len()).zip(rows) {
                        to[first - columns.start..][..block.len()].copy_from_slice(&from[..block.len()]);
                    }
                }
                output += n;
            }
        }
    }
}

/// Where sums start.
static NOTHING: [f32; BLOCK] = [0.0; BLOCK];

/// Up to [`BLOCK`] columns of a matrix in rows of `width`, in rows of [`BLOCK`].
#[allow(unsafe_code)]
fn gathered(matrix: &[f32], width: usize, columns: Range<usize>) -> Aligned {
    let gather = |to: &mut [MaybeUninit<f32>]| {
        let rows = matrix.chunks_exact(width).zip(to.as_chunks_mut::<BLOCK>().0);
        simd(
            #[inline(always)]
            || {
                for (from, to) in rows {
                    let from = &from[columns.clone()];
                    match from.as_array::<BLOCK>() {
                        Some(from) => *to = from.map(MaybeUninit::new),
                        None => {
                            to.fill(MaybeUninit::new(0.0));
                            to[..from.len()].write_copy_of_slice(from);
                        }
                    }
                }
            },
        );
    };
    // SAFETY: as many rows are written as there are.
    unsafe { Aligned::filled(matrix.len() / width * BLOCK, gather) }
}
