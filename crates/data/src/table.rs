use crate::{Batches, Error, Result, Samples, image_set::too_many};
use candle_core::Tensor;
use rand::{Rng, seq::SliceRandom};
use sha2::{Digest, Sha256};

/// Tensors whose first axes index the same samples: a `Tensor`, a pair or triple of [`Columns`], or a custom struct.
///
/// ```
/// use candle_core::{Result, Tensor};
/// use taper_data::Columns;
///
/// #[derive(Clone)]
/// struct Scene {
///     image: Tensor,
///     mask: Tensor,
/// }
///
/// impl Columns for Scene {
///     fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
///         Ok(Self { image: f(&self.image)?, mask: f(&self.mask)? })
///     }
/// }
/// ```
pub trait Columns: Clone {
    /// Applies `f` to every tensor, in a fixed order.
    ///
    /// # Errors
    /// As `f`.
    fn map(&self, f: &mut dyn FnMut(&Tensor) -> candle_core::Result<Tensor>) -> candle_core::Result<Self>;
}

impl Columns for Tensor {
    fn map(&self, f: &mut dyn FnMut(&Tensor) -> candle_core::Result<Tensor>) -> candle_core::Result<Self> {
        f(self)
    }
}

impl<A: Columns, B: Columns> Columns for (A, B) {
    fn map(&self, f: &mut dyn FnMut(&Tensor) -> candle_core::Result<Tensor>) -> candle_core::Result<Self> {
        Ok((self.0.map(f)?, self.1.map(f)?))
    }
}

impl<A: Columns, B: Columns, C: Columns> Columns for (A, B, C) {
    fn map(&self, f: &mut dyn FnMut(&Tensor) -> candle_core::Result<Tensor>) -> candle_core::Result<Self> {
        Ok((self.0.map(f)?, self.1.map(f)?, self.2.map(f)?))
    }
}

/// Samples in memory: tensors of any type and shape whose first axis counts the samples.
///
/// A batch has the type of the columns, so `Table::new((xs, ys))` yields pairs `(xs, ys)`, on the same device. Clones share
/// memory. Values are not checked for NaN and infinity here; training reports them with the sample.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
/// use taper_data::Table;
///
/// let xs = Tensor::arange(0_f32, 30.0, &Device::Cpu)?.reshape((10, 3))?;
/// let ys = Tensor::arange(0_u32, 10, &Device::Cpu)?;
/// let (train, validation) = Table::new((xs, ys))?.split_last(2)?;
///
/// let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
/// for batch in train.shuffled(&mut rng, 4) {
///     let (xs, ys) = batch?;
///     assert_eq!((xs.dims(), ys.dims()), (&[4, 3][..], &[4][..]));
/// }
/// assert_eq!(validation.columns().1.to_vec1::<u32>()?, [8, 9]);
/// # Ok::<(), taper_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Table<C> {
    columns: C,
    len: usize,
}

impl<C: Columns> Table<C> {
    /// Samples of `columns`, detached from the graph that computed them.
    ///
    /// # Shapes
    /// Every tensor is `(N, ..)`, with the same `N`.
    ///
    /// # Errors
    /// A tensor without an axis, tensors of different `N`, no tensor, no sample.
    pub fn new(columns: C) -> Result<Self> {
        let mut shapes = Vec::new();
        let columns = columns.map(&mut |column| {
            shapes.push(column.dims().to_vec());
            column.detach().contiguous()
        })?;
        let wrong = |expected: &str, found: String| Error::Usage {
            expected: format!("{expected} in a table"),
            found,
            cure: "make the first axis of every tensor the samples".to_owned(),
        };
        let lengths: Option<Vec<usize>> = shapes.iter().map(|shape| shape.first().copied()).collect();
        let Some(lengths) = lengths else {
            return Err(wrong("tensors with at least one axis", format!("shapes {shapes:?}")));
        };
        match lengths[..] {
            [] => Err(wrong("at least one tensor", "none".to_owned())),
            [0, ..] => Err(wrong("at least one sample", format!("shapes {shapes:?}"))),
            [len, ref others @ ..] if others.iter().all(|&other| other == len) => Ok(Self { columns, len }),
            _ => Err(wrong("tensors with the same number of samples", format!("shapes {shapes:?}"))),
        }
    }

    /// Number of samples `N`.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All samples, as one batch.
    pub fn columns(&self) -> &C {
        &self.columns
    }

    /// The first `n` samples, or all if there are fewer.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn take(self, n: usize) -> Result<Self> {
        let n = n.min(self.len);
        self.rows(0, n)
    }

    /// Holds back the last `n` samples, for example for validation: `(training, validation)`.
    ///
    /// # Errors
    /// If no training sample would be left.
    pub fn split_last(self, n: usize) -> Result<(Self, Self)> {
        if n >= self.len {
            return Err(too_many(n, self.len, "the table"));
        }
        let rest = self.len - n;
        Ok((self.rows(0, rest)?, self.rows(rest, n)?))
    }

    /// The same with `n` random samples, for sorted data: `(training, validation)`, each shuffled.
    ///
    /// # Errors
    /// If no training sample would be left.
    pub fn split_random<R: Rng + ?Sized>(self, n: usize, rng: &mut R) -> Result<(Self, Self)> {
        let mut order: Vec<usize> = (0..self.len).collect();
        order.shuffle(rng);
        Self { columns: self.gather(&order)?, len: self.len }.split_last(n)
    }

    /// Batches in the order of the samples; the last may be smaller.
    ///
    /// A `batch_size` of 0 gives one item, an error.
    pub fn batches(&self, batch_size: usize) -> Batches<Self> {
        Batches::in_order(self.clone(), batch_size)
    }

    /// Batches in an order drawn from `rng` now (Fisher–Yates); the last may be smaller.
    ///
    /// A `batch_size` of 0 gives one item, an error.
    pub fn shuffled<R: Rng + ?Sized>(&self, rng: &mut R, batch_size: usize) -> Batches<Self> {
        Batches::shuffled(self.clone(), rng, batch_size)
    }

    /// SHA-256 of the samples in hexadecimal digits: type, shape and values of every column, for a resumed run to
    /// compare. It does not depend on the device.
    ///
    /// # Errors
    /// A type whose values candle cannot write (those with less than 8 bits).
    pub fn checksum(&self) -> Result<String> {
        let mut hash = Hash(Sha256::new());
        self.columns.map(&mut |column| {
            hash.0.update(format!("{} {:?}\n", column.dtype().as_str(), column.dims()));
            column.write_bytes(&mut hash)?;
            Ok(column.clone())
        })?;
        Ok(hex::encode(hash.0.finalize()))
    }

    fn rows(&self, start: usize, len: usize) -> Result<Self> {
        Ok(Self { columns: self.columns.map(&mut |column| column.narrow(0, start, len))?, len })
    }
}

impl<C: Columns> Samples for Table<C> {
    type Batch = C;

    fn count(&self) -> usize {
        self.len
    }

    fn gather(&self, rows: &[usize]) -> Result<C> {
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        Ok(self
            .columns
            .map(&mut |column| column.index_select(&Tensor::new(&rows[..], column.device())?, 0))?)
    }
}

/// A checksum of the written bytes.
struct Hash(Sha256);

impl std::io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
