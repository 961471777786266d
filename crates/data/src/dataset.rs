use crate::{Error, ImageSet, Result, Scale};
use candle_core::Device;
use rayon::prelude::*;
use sha2::Digest;
use std::sync::Arc;

/// A training and a test split of the same kind of images.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The name of the set that was loaded, such as `mnist`.
    pub name: String,
    /// The training split.
    pub train: ImageSet,
    /// The test split.
    pub test: ImageSet,
    /// Number of classes; labels are below it.
    pub classes: usize,
    /// Mean of `pixel / white` over all pixels of the training split as loaded, before any limit.
    pub mean: f64,
    /// Standard deviation (divided by `n`) of `pixel / white` over the same pixels.
    pub std: f64,
}

impl Dataset {
    /// Measures the training pixels (exactly: in integers) and scales both splits by [`Scale::Standard`].
    ///
    /// # Errors
    ///
    /// An empty split, or two splits of different shape, white or number of classes.
    pub fn new(name: &str, train: ImageSet, test: ImageSet) -> Result<Self> {
        for split in [&train, &test] {
            if split.is_empty() {
                return Err(Error::Usage {
                    expected: format!("at least one sample in {}", split.name()),
                    found: "none".to_owned(),
                    cure: "check how the data set was read".to_owned(),
                });
            }
        }
        let kind = |split: &ImageSet| (split.shape(), split.white(), split.classes());
        if kind(&train) != kind(&test) {
            return Err(Error::Usage {
                expected: format!("(shape, white, classes) = {:?} in {}", kind(&train), test.name()),
                found: format!("{:?}", kind(&test)),
                cure: "check that both splits belong to one data set".to_owned(),
            });
        }
        let (mean, std) = moments(train.pixels(), train.white());
        let classes = train.classes();
        Ok(Self { name: name.to_owned(), train, test, classes, mean, std }.scaled(Scale::default()))
    }

    /// Sets the scale of the pixels in both splits.
    ///
    /// Splits that were taken out of the set before keep their scale.
    pub fn scaled(mut self, scale: Scale) -> Self {
        let table = Arc::new(scale.table(self.train.white(), self.mean, self.std));
        self.train.put_table(&table);
        self.test.put_table(&table);
        self
    }

    /// SHA-256 of both splits, in hexadecimal digits: shapes, white, number of classes, pixels and labels.
    ///
    /// A resumed run compares it to detect other samples. It does not depend on the files' location, the scale or the
    /// device.
    pub fn checksum(&self) -> String {
        let hash = self.train.add_labels(self.train.pixels_hash());
        let hash = self.test.add_labels(self.test.add_pixels(hash));
        hex::encode(hash.finalize())
    }

    /// Sets the device of both splits' batches; the default is the CPU. On a GPU all pixels are kept there as bytes,
    /// from the first batch.
    pub fn on(mut self, device: &Device) -> Self {
        self.train.put_on(device);
        self.test.put_on(device);
        self
    }
}

/// Mean and standard deviation of `pixels / white`; sums are integers, so only the last steps round.
fn moments(pixels: &[u8], white: u8) -> (f64, f64) {
    let counts = counts(pixels);
    let power = |p: u32| -> u128 {
        counts.iter().enumerate().map(|(value, &n)| (value as u128).pow(p) * u128::from(n)).sum()
    };
    let (n, sum, squares) = (pixels.len() as u128, power(1), power(2));
    let scale = n as f64 * f64::from(white);
    (sum as f64 / scale, ((n * squares - sum * sum) as f64).sqrt() / scale)
}

/// The count of each value.
fn counts(pixels: &[u8]) -> [u64; 256] {
    let add = |a: [u64; 256], b: [u64; 256]| std::array::from_fn(|value| a[value] + b[value]);
    let parts = pixels.par_chunks(1 << 20).map(|pixels| {
        // Several histograms in turn: adjacent pixels are often equal, and a count would wait for the one before.
        let mut counts = [[0_u32; 256]; 8];
        for pixels in pixels.chunks(8) {
            counts.iter_mut().zip(pixels).for_each(|(counts, &pixel)| counts[usize::from(pixel)] += 1);
        }
        std::array::from_fn(|value| counts.iter().map(|counts| u64::from(counts[value])).sum())
    });
    parts.reduce(|| [0; 256], add)
}
