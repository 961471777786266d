use crate::{Result, Split, split::zero_batch_size};
use candle_core::Tensor;
use rayon::prelude::*;
use std::iter::FusedIterator;

/// Some samples, ready for a model.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `(N, C, H, W)`, `f32`, scaled.
    pub images: Tensor,
    /// `(N)`, `u32`.
    pub labels: Tensor,
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.elem_count()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An iterator over the batches of a [`Split`], each sample once.
///
/// An item is an error where a tensor cannot be made, as on a device without memory, or the batch size is 0.
/// Owns what it needs: neither the split nor the generator stays borrowed. Its `len()` is the number of batches to come.
#[derive(Debug, Clone)]
pub struct Batches {
    split: Split,
    /// The samples in the order in which they come; `None` is the order of the file.
    order: Option<Vec<usize>>,
    batch_size: usize,
    next: usize,
}

impl Batches {
    pub(crate) fn new(split: Split, order: Option<Vec<usize>>, batch_size: usize) -> Self {
        Self { split, order, batch_size, next: 0 }
    }

    /// Number of samples still to come.
    pub fn samples(&self) -> usize {
        self.split.len() - self.next
    }

    /// One pass over bytes, on all threads; scaling is a table lookup, so it costs no arithmetic and rounds the same everywhere.
    fn gather(&self, positions: std::ops::Range<usize>) -> Result<Batch> {
        let (c, h, w) = self.split.shape();
        let (pixels, labels, size, n) =
            (self.split.pixels(), self.split.labels(), c * h * w, positions.len());
        let start = positions.start;
        let row = |i: usize| self.order.as_ref().map_or(start + i, |order| order[start + i]);
        let table: &[f32; 256] = &self.split.table;
        let mut xs = vec![0.0; n * size];
        xs.par_chunks_exact_mut(size).enumerate().with_min_len(16).for_each(|(i, xs)| {
            let (eights, rest) = pixels[row(i) * size..][..size].as_chunks::<8>();
            let (own, behind) = xs.as_chunks_mut::<8>();
            for (xs, pixels) in own.iter_mut().zip(eights) {
                // Most of an image is background.
                match u64::from_ne_bytes(*pixels) {
                    0 => *xs = [table[0]; 8],
                    _ => *xs = pixels.map(|pixel| table[usize::from(pixel)]),
                }
            }
            behind.iter_mut().zip(rest).for_each(|(x, pixel)| *x = table[usize::from(*pixel)]);
        });
        let ys = (0..n).map(|i| u32::from(labels[row(i)])).collect();
        let device = &self.split.device;
        Ok(Batch {
            images: Tensor::from_vec(xs, (n, c, h, w), device)?,
            labels: Tensor::from_vec::<_, u32>(ys, n, device)?,
        })
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.split.len();
        if self.next >= end {
            return None;
        }
        if self.batch_size == 0 {
            self.next = end;
            return Some(Err(zero_batch_size()));
        }
        let start = self.next;
        self.next = end.min(start.saturating_add(self.batch_size));
        Some(self.gather(start..self.next))
    }

    /// Without gathering the batches that are left out: `skip(n)` is free, for a run that is resumed within an epoch.
    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        let samples = n.saturating_mul(self.batch_size);
        self.next = self.next.saturating_add(samples).min(self.split.len());
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = match self.batch_size {
            0 => usize::from(self.samples() > 0),
            size => self.samples().div_ceil(size),
        };
        (n, Some(n))
    }
}

impl ExactSizeIterator for Batches {}
impl FusedIterator for Batches {}
