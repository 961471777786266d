use crate::{Batch, Batches, Error, Result, Samples, Scale};
use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

/// Labelled images: a training, validation or test split.
///
/// A view: clones, [`take`](ImageSet::take) and [`split_last`](ImageSet::split_last) share the pixels.
#[derive(Debug, Clone)]
pub struct ImageSet {
    name: Arc<str>,
    pixels: Arc<Vec<u8>>,
    labels: Arc<[u32]>,
    rows: Range<usize>,
    shape: (usize, usize, usize),
    white: u8,
    classes: usize,
    /// The number for each pixel value.
    table: Arc<[f32; 256]>,
    device: Device,
    /// All pixels and the table on another device than the CPU, from the first batch.
    resident: Arc<OnceLock<[Tensor; 2]>>,
    /// The result of [`pixels_hash`](ImageSet::pixels_hash) for all rows, if it was computed while they were read.
    pub(crate) hash: Option<Sha256>,
}

impl ImageSet {
    /// Images in memory, scaled to `[0, 1]` and on the CPU until [`Dataset::new`](crate::Dataset::new) or the caller
    /// changes that.
    ///
    /// `name` is for messages (`mnist train`), `white` is the pixel value of full intensity.
    ///
    /// # Shapes
    ///
    /// `pixels` holds `N × C × H × W` values for `shape = (C, H, W)`, `labels` holds `N`.
    ///
    /// # Errors
    ///
    /// Inconsistent counts, an empty shape, a pixel above `white`, a label of `classes` or above.
    pub fn new(
        name: &str,
        shape: (usize, usize, usize),
        white: u8,
        classes: usize,
        pixels: Vec<u8>,
        labels: Vec<u32>,
    ) -> Result<Self> {
        let usage = |expected: String, found: String| Error::Usage {
            expected: format!("{expected} in {name}"),
            found,
            cure: "check how the images and labels were read".to_owned(),
        };
        let (c, h, w) = shape;
        let size = c.checked_mul(h).and_then(|n| n.checked_mul(w)).filter(|&n| n > 0 && white > 0);
        let Some(size) = size else {
            return Err(usage("a shape and white above zero".to_owned(), format!("{shape:?} and {white}")));
        };
        if labels.len().checked_mul(size) != Some(pixels.len()) {
            let expected = format!("{} images of {c} × {h} × {w} for as many labels", labels.len());
            return Err(usage(expected, format!("{} pixels", pixels.len())));
        }
        // No byte is above 255, so the check is skipped.
        if white < u8::MAX
            && let Some(pixel) = pixels.iter().find(|&&pixel| pixel > white)
        {
            return Err(usage(format!("pixels up to {white}"), pixel.to_string()));
        }
        if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
            return Err(usage(format!("labels below {classes}"), label.to_string()));
        }
        Ok(Self {
            name: name.into(),
            rows: 0..labels.len(),
            pixels: Arc::new(pixels),
            labels: labels.into(),
            shape,
            white,
            classes,
            table: Arc::new(Scale::Unit.table(white, 0.0, 1.0)),
            device: Device::Cpu,
            resident: Arc::default(),
            hash: None,
        })
    }

    /// Sets the scale of the pixels.
    pub(crate) fn put_table(&mut self, table: &Arc<[f32; 256]>) {
        (self.table, self.resident) = (Arc::clone(table), Arc::default());
    }

    /// Sets the device of the batches.
    pub(crate) fn put_on(&mut self, device: &Device) {
        (self.device, self.resident) = (device.clone(), Arc::default());
    }

    /// Gathers and scales images on the split's device. The first call copies all pixels there, as bytes.
    fn gather_there(&self, rows: &[usize]) -> Result<Tensor> {
        let ((c, h, w), size, device) =
            (self.shape, self.pixels.len() / self.labels.len().max(1), &self.device);
        let [pixels, table] = match self.resident.get() {
            Some(resident) => resident,
            None => {
                let pixels = Tensor::from_slice(&self.pixels[..], (self.labels.len(), size), device)?;
                let table = Tensor::from_slice(&self.table[..], 256, device)?;
                self.resident.get_or_init(|| [pixels, table])
            }
        };
        let rows: Vec<u32> = rows.iter().map(|row| (self.rows.start + row) as u32).collect();
        let pixels = pixels.index_select(&Tensor::from_slice(&rows, rows.len(), device)?, 0)?;
        // candle reads the largest index of a type as "no index", and 255 is the largest u8: hence u32.
        let values = table.index_select(&pixels.flatten_all()?.to_dtype(DType::U32)?, 0)?;
        Ok(values.reshape((rows.len(), c, h, w))?)
    }

    /// The name for messages, such as `mnist train`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of samples `N`.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// `(C, H, W)` of every image.
    pub fn shape(&self) -> (usize, usize, usize) {
        self.shape
    }

    /// The pixel value of full intensity.
    pub fn white(&self) -> u8 {
        self.white
    }

    /// Number of classes; labels are below it.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The unscaled pixels, `N × C × H × W`.
    pub fn pixels(&self) -> &[u8] {
        let (c, h, w) = self.shape;
        let size = c * h * w;
        &self.pixels[self.rows.start * size..self.rows.end * size]
    }

    /// A SHA-256 of the shape and the pixels, the beginning of a data set's checksum.
    pub(crate) fn pixels_hash(&self) -> Sha256 {
        match &self.hash {
            Some(hash) if self.len() == self.labels.len() => hash.clone(),
            _ => self.add_pixels(Sha256::new()),
        }
    }

    /// Adds the same to an existing checksum.
    pub(crate) fn add_pixels(&self, hash: Sha256) -> Sha256 {
        add_kind(hash, self.shape, self.white, self.classes, self.len()).chain_update(self.pixels())
    }

    /// Adds the labels, one byte each if that is enough.
    pub(crate) fn add_labels(&self, hash: Sha256) -> Sha256 {
        let bytes = if self.classes <= 256 { 1 } else { 4 };
        let labels = self.labels().iter().flat_map(|label| label.to_le_bytes().into_iter().take(bytes));
        hash.chain_update(labels.collect::<Vec<u8>>())
    }

    /// The labels, `N`.
    pub fn labels(&self) -> &[u32] {
        &self.labels[self.rows.clone()]
    }

    /// The number of samples of each class, for all [`classes`](ImageSet::classes).
    pub fn label_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes];
        self.labels().iter().for_each(|&label| counts[label as usize] += 1);
        counts
    }

    /// The first `n` samples, or all if there are fewer.
    pub fn take(mut self, n: usize) -> Self {
        self.rows.end = self.rows.start + n.min(self.len());
        self
    }

    /// Holds back the last `n` samples for validation: `(training, validation)`.
    ///
    /// Both keep the scale of the whole. The rows do not depend on the seed.
    ///
    /// # Errors
    ///
    /// If no training sample would be left.
    pub fn split_last(self, n: usize) -> Result<(Self, Self)> {
        if n >= self.len() {
            return Err(too_many(n, self.len(), &self.name));
        }
        let middle = self.rows.end - n;
        let mut training = self.clone();
        let mut validation = self;
        training.rows.end = middle;
        validation.rows.start = middle;
        Ok((training, validation))
    }

    /// Batches in the order of the file; the last may be smaller.
    ///
    /// A `batch_size` of 0 gives one item, an error.
    pub fn batches(&self, batch_size: usize) -> Batches {
        Batches::in_order(self.clone(), batch_size)
    }

    /// Batches in an order drawn from `rng` now (Fisher–Yates); the last may be smaller.
    ///
    /// A `batch_size` of 0 gives one item, an error.
    pub fn shuffled<R: Rng + ?Sized>(&self, rng: &mut R, batch_size: usize) -> Batches {
        Batches::shuffled(self.clone(), rng, batch_size)
    }

    /// Checks that this split can be used for training with this `batch_size`.
    ///
    /// # Errors
    ///
    /// A batch size of 0, fewer samples than one batch, samples of fewer than two classes.
    pub fn check(&self, batch_size: usize) -> Result<()> {
        if batch_size == 0 {
            return Err(zero_batch_size());
        }
        if self.len() < batch_size {
            return Err(Error::Usage {
                expected: format!("at least one batch of {batch_size} samples in {}", self.name),
                found: format!("{} samples", self.len()),
                cure: "use a smaller batch size or more samples".to_owned(),
            });
        }
        let classes = self.label_counts().iter().filter(|&&count| count > 0).count();
        if classes < 2 {
            return Err(Error::Usage {
                expected: format!("samples of at least 2 classes in {}", self.name),
                found: format!("{classes} among {} samples", self.len()),
                cure: "use more samples or another data set".to_owned(),
            });
        }
        Ok(())
    }
}

impl Samples for ImageSet {
    type Batch = Batch;

    fn count(&self) -> usize {
        self.len()
    }

    /// Reads the bytes once, on all threads. Scaling is a table lookup: no arithmetic, and the same rounding on every CPU.
    fn gather(&self, rows: &[usize]) -> Result<Batch> {
        let ((c, h, w), n) = (self.shape, rows.len());
        // Labels stay on the CPU, because losses check them there.
        let labels_of = |rows: &[usize]| {
            let labels: Vec<u32> = rows.iter().map(|&row| self.labels()[row]).collect();
            Tensor::from_vec(labels, n, &Device::Cpu)
        };
        // `gather_there` stores indices in 32 bits.
        if !self.device.is_cpu() && self.labels.len() <= u32::MAX as usize {
            return Ok(Batch { images: self.gather_there(rows)?, labels: labels_of(rows)? });
        }
        let (pixels, size) = (self.pixels(), c * h * w);
        let table: &[f32; 256] = &self.table;
        let mut xs = vec![0.0; n * size];
        xs.par_chunks_exact_mut(size).zip(rows).with_min_len(16).for_each(|(xs, &row)| {
            let (eights, rest) = pixels[row * size..][..size].as_chunks::<8>();
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
        Ok(Batch { images: Tensor::from_vec(xs, (n, c, h, w), &self.device)?, labels: labels_of(rows)? })
    }
}

/// Adds the format of the following pixels to a checksum.
pub(crate) fn add_kind(
    hash: Sha256,
    (c, h, w): (usize, usize, usize),
    white: u8,
    classes: usize,
    len: usize,
) -> Sha256 {
    let add = |hash: Sha256, n: usize| hash.chain_update((n as u64).to_le_bytes());
    [c, h, w, usize::from(white), classes, len].into_iter().fold(hash, add)
}

/// More samples are held back than exist.
pub(crate) fn too_many(n: usize, len: usize, name: &str) -> Error {
    Error::Usage {
        expected: format!("a validation split below the {len} samples of {name}"),
        found: n.to_string(),
        cure: "hold back fewer samples".to_owned(),
    }
}

pub(crate) fn zero_batch_size() -> Error {
    Error::Usage {
        expected: "a batch size of at least 1".to_owned(),
        found: "0".to_owned(),
        cure: "choose the number of samples per step, such as 128".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_a_device_gathers_have_the_bits_of_those_of_the_cpu() {
        let pixels = (0..6 * 2 * 3).map(|i| (i * 7 % 256) as u8).chain([0, 255, 1, 254, 128, 127]).collect();
        let split = ImageSet::new("images", (1, 2, 3), 255, 3, pixels, vec![0, 1, 2, 0, 1, 2, 0]).unwrap();
        let mut split = split.split_last(4).unwrap().1;
        for scale in [Scale::Unit, Scale::Standard] {
            split.put_table(&Arc::new(scale.table(255, 0.3, 0.2)));
            for rows in [&[0, 1, 2, 3][..], &[3, 0, 3]] {
                let (there, here) = (split.gather_there(rows).unwrap(), split.gather(rows).unwrap().images);
                assert_eq!(there.dims(), here.dims());
                let bits = |xs: Tensor| -> Vec<u32> {
                    let values = xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    values.into_iter().map(f32::to_bits).collect()
                };
                assert_eq!(bits(there), bits(here), "{scale:?}, {rows:?}");
            }
        }
    }
}
