use crate::{ImageSet, Result, image_set::zero_batch_size};
use candle_core::Tensor;
use rand::{Rng, seq::SliceRandom};
use std::iter::FusedIterator;
use std::ops::Range;

/// A batch of samples for a model.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `(N, C, H, W)`, `f32`, scaled.
    pub images: Tensor,
    /// `(N)`, `u32`, on the CPU, because losses check them there.
    pub labels: Tensor,
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.elem_count()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Samples with random access by index; PyTorch calls this a map-style dataset. Implemented by [`ImageSet`] and
/// [`Table`](crate::Table). Implement it for your own type to augment images or to read them from files.
///
/// ```
/// use taper_data::{Batches, Result, Samples};
///
/// /// The numbers from 0, with their squares.
/// struct Squares(usize);
///
/// impl Samples for Squares {
///     type Batch = Vec<(usize, usize)>;
///
///     fn count(&self) -> usize {
///         self.0
///     }
///
///     fn gather(&self, rows: &[usize]) -> Result<Self::Batch> {
///         Ok(rows.iter().map(|&i| (i, i * i)).collect())
///     }
/// }
///
/// let batches: Result<Vec<_>> = Batches::in_order(Squares(3), 2).collect();
/// assert_eq!(batches?, [vec![(0, 0), (1, 1)], vec![(2, 4)]]);
/// # Ok::<(), taper_data::Error>(())
/// ```
pub trait Samples {
    /// The type of a batch.
    type Batch;

    /// Number of samples.
    fn count(&self) -> usize;

    /// Gathers the samples with indices `rows` into a batch, in that order. Each index is below [`count`](Samples::count).
    ///
    /// # Errors
    /// When a sample cannot be read.
    fn gather(&self, rows: &[usize]) -> Result<Self::Batch>;
}

impl<S: Samples + ?Sized> Samples for &S {
    type Batch = S::Batch;

    fn count(&self) -> usize {
        (**self).count()
    }

    fn gather(&self, rows: &[usize]) -> Result<Self::Batch> {
        (**self).gather(rows)
    }
}

/// A batch that can be split by samples: a tensor or a pair or triple of them, a [`Batch`], or a `Vec` of samples.
///
/// ```
/// use std::ops::Range;
/// use candle_core::{Result, Tensor};
/// use taper_data::Shard;
///
/// struct Scenes {
///     images: Tensor,
///     masks: Tensor,
/// }
///
/// impl Shard for Scenes {
///     fn samples(&self) -> usize {
///         self.images.samples()
///     }
///
///     fn narrow(&self, rows: Range<usize>) -> Result<Self> {
///         let (images, masks) = (Shard::narrow(&self.images, rows.clone())?, Shard::narrow(&self.masks, rows)?);
///         Ok(Self { images, masks })
///     }
/// }
/// ```
pub trait Shard: Sized {
    /// Number of samples.
    fn samples(&self) -> usize;

    /// The samples with these indices within the batch.
    ///
    /// # Errors
    /// When a tensor cannot be narrowed.
    fn narrow(&self, rows: Range<usize>) -> candle_core::Result<Self>;
}

/// The first axis counts the samples.
impl Shard for Tensor {
    fn samples(&self) -> usize {
        self.dims().first().copied().unwrap_or(1)
    }

    fn narrow(&self, rows: Range<usize>) -> candle_core::Result<Self> {
        Tensor::narrow(self, 0, rows.start, rows.len())
    }
}

impl Shard for Batch {
    fn samples(&self) -> usize {
        self.len()
    }

    fn narrow(&self, rows: Range<usize>) -> candle_core::Result<Self> {
        let images = Shard::narrow(&self.images, rows.clone())?;
        Ok(Self { images, labels: Shard::narrow(&self.labels, rows)? })
    }
}

impl<T: Clone> Shard for Vec<T> {
    fn samples(&self) -> usize {
        self.len()
    }

    fn narrow(&self, rows: Range<usize>) -> candle_core::Result<Self> {
        Ok(self[rows].to_vec())
    }
}

impl<A: Shard, B: Shard> Shard for (A, B) {
    fn samples(&self) -> usize {
        self.0.samples()
    }

    fn narrow(&self, rows: Range<usize>) -> candle_core::Result<Self> {
        Ok((self.0.narrow(rows.clone())?, self.1.narrow(rows)?))
    }
}

impl<A: Shard, B: Shard, C: Shard> Shard for (A, B, C) {
    fn samples(&self) -> usize {
        self.0.samples()
    }

    fn narrow(&self, rows: Range<usize>) -> candle_core::Result<Self> {
        Ok((self.0.narrow(rows.clone())?, self.1.narrow(rows.clone())?, self.2.narrow(rows)?))
    }
}

/// Iterates over a data set once, batch by batch. Each sample occurs exactly once; the last batch may be smaller.
///
/// An item is an error if the batch cannot be made: the device is out of memory, or the batch size is 0. The iterator
/// owns the samples and the order, so it borrows nothing. `len()` is the number of remaining batches.
#[derive(Debug, Clone)]
pub struct Batches<S = ImageSet> {
    samples: S,
    /// Sample indices, in iteration order.
    order: Vec<usize>,
    batch_size: usize,
    next: usize,
}

impl<S: Samples> Batches<S> {
    /// Batches in the order of the samples.
    pub fn in_order(samples: S, batch_size: usize) -> Self {
        Self { order: (0..samples.count()).collect(), samples, batch_size, next: 0 }
    }

    /// Batches in random order: shuffles the indices with `rng` (Fisher–Yates) before the first batch.
    pub fn shuffled<R: Rng + ?Sized>(samples: S, rng: &mut R, batch_size: usize) -> Self {
        let mut batches = Self::in_order(samples, batch_size);
        batches.order.shuffle(rng);
        batches
    }

    /// Number of remaining samples.
    pub fn samples(&self) -> usize {
        self.order.len() - self.next
    }
}

impl<S: Samples> Iterator for Batches<S> {
    type Item = Result<S::Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.order.len();
        if self.next >= end {
            return None;
        }
        if self.batch_size == 0 {
            self.next = end;
            return Some(Err(zero_batch_size()));
        }
        let start = self.next;
        self.next = end.min(start.saturating_add(self.batch_size));
        Some(self.samples.gather(&self.order[start..self.next]))
    }

    /// Skips batches without gathering them, so `skip(n)` costs nothing when a run resumes within an epoch.
    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        let samples = n.saturating_mul(self.batch_size);
        self.next = self.next.saturating_add(samples).min(self.order.len());
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

impl<S: Samples> ExactSizeIterator for Batches<S> {}
impl<S: Samples> FusedIterator for Batches<S> {}
