//! The sums of a window for activations on another device: they stay there until they are read.

use candle_core::{DType, Device, Result, Tensor};

use super::{FLAT, NEAR_ZERO};
use crate::Activation;

/// Bins of a histogram for each sign: underflow, 256 regular ones, overflow.
const MAGNITUDES: usize = 258;
/// Lower edge of the first regular bin.
const FIRST: f64 = 9.5367431640625e-07; // 2^-20
/// The layout of a window's counts and sums, the same as in `cuda/stats.cu`.
const MIN: usize = 7;
const COUNTED: usize = 9;
const MIN_ACTIVE: usize = 11;
const MAX_ACTIVE: usize = 12;
const BINS: usize = 15;
const UNIT_COUNTS: usize = BINS + 2 * MAGNITUDES;
const POWERS: usize = 1;
const UNIT_SUMS: usize = 7;

/// A batch at a site.
///
/// # Shapes
/// `xs` and `ys`: `(samples, positions, units)` if `units_last`, else `(samples, units, positions)`, flattened or not.
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    /// The activation function; `None` if there is no f'.
    pub f: Option<Activation>,
    /// Units of a sample.
    pub units: usize,
    /// Values of each unit in a sample.
    pub positions: usize,
    /// Whether units are the last axis.
    pub units_last: bool,
    /// Inputs of the activation function; `None` if f' [follows](Activation::slope_shows_in_value) from `ys`.
    pub xs: Option<&'a Tensor>,
    /// The measured values.
    pub ys: &'a Tensor,
}

/// The sums of all batches at one site, on their device. The size depends on the number of units only.
#[derive(Clone, Debug)]
pub struct Window {
    /// Samples so far.
    pub samples: u64,
    /// Values so far.
    pub values: u64,
    units: usize,
    /// Integers, `(15 + 516 + 3 · units)`.
    pub(crate) counts: Tensor,
    /// Sums in f64, `(7 + 3 · units)`.
    pub(crate) sums: Tensor,
}

/// The numbers of a window, on the CPU.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// Samples.
    pub samples: u64,
    /// Values, finite or not.
    pub values: u64,
    /// Values that are 0, negative, near 0, NaN, infinite, flat with `x <= 0`, and flat with `x > 0`.
    pub counts: [u64; 7],
    /// The smallest and the largest finite value.
    pub extremes: (f32, f32),
    /// Samples with a finite value; non-zero values in all samples, the fewest and the most in a sample; samples
    /// without any; samples that have a sparseness.
    pub per_sample: [u64; 6],
    /// Sums of the samples' population sparseness and Hoyer sparseness.
    pub sparseness: [f64; 2],
    /// The value from which the powers' deviations are taken.
    pub shift: f64,
    /// Sums of the first four powers of the finite values' deviations from `shift`.
    pub powers: [f64; 4],
    /// Counts of positive and of negative values by magnitude, smallest first.
    pub bins: [Vec<u64>; 2],
    /// By unit: values that are not finite, above 0, and with `f'(x) ≠ 0`.
    pub unit_counts: [Vec<u64>; 3],
    /// By unit: sums of the values, of the negative ones, and of the squares.
    pub unit_sums: [Vec<f64>; 3],
}

/// A count of non-finite values on a device, to which every window adds.
///
/// # Errors
/// When the device has no memory for it.
pub fn faults(device: &Device) -> Result<Tensor> {
    Tensor::zeros((), DType::I64, device)
}

impl Window {
    /// An empty window for this many units.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn new(units: usize, device: &Device) -> Result<Self> {
        let mut counts = vec![0_i64; UNIT_COUNTS + 3 * units];
        (counts[MIN], counts[MIN + 1]) = (i64::MAX, i64::MIN);
        (counts[MIN_ACTIVE], counts[MAX_ACTIVE]) = (i64::MAX, 0);
        let counts = Tensor::from_vec(counts, UNIT_COUNTS + 3 * units, device)?;
        let sums = Tensor::zeros(UNIT_SUMS + 3 * units, DType::F64, device)?;
        Ok(Self { samples: 0, values: 0, units, counts, sums })
    }

    /// Units of the window.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Adds a batch to the window, and the number of its non-finite values to `faults`. Does not wait for a CUDA
    /// device.
    ///
    /// # Errors
    /// When the batch has another number of units, and errors of candle.
    pub fn add(&mut self, batch: &Observed<'_>, faults: &mut Tensor) -> Result<()> {
        let size = batch.units * batch.positions;
        let values = batch.ys.elem_count();
        if batch.units != self.units || !values.is_multiple_of(size.max(1)) {
            let (expected, found) = (self.units, batch.units);
            candle_core::bail!("statistics: expected {expected} units, found {found} of {values} values");
        }
        if values == 0 {
            return Ok(());
        }
        #[cfg(feature = "cuda")]
        let done = crate::cuda::is_fast(&[batch.ys])
            && batch.xs.is_none_or(|xs| crate::cuda::is_fast(&[xs]))
            && crate::cuda::stats::add(batch, self, faults)?;
        #[cfg(not(feature = "cuda"))]
        let done = false;
        if !done {
            twin::add(batch, self, faults)?;
        }
        self.samples += (values / size) as u64;
        self.values += values as u64;
        Ok(())
    }

    /// Reads the numbers. Waits for the device.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn fetch(&self) -> Result<Fetched> {
        let (counts, sums) = (self.counts.to_vec1::<i64>()?, self.sums.to_vec1::<f64>()?);
        let n = |i: usize| counts[i] as u64;
        let many = |first: usize, len: usize| (first..first + len).map(n).collect::<Vec<u64>>();
        let units = |i: usize| many(UNIT_COUNTS + i * self.units, self.units);
        let unit_sums = |i: usize| sums[UNIT_SUMS + i * self.units..][..self.units].to_vec();
        let none = counts[MIN] == i64::MAX;
        let mut per_sample = [0, 1, 2, 3, 4, 5].map(|i| n(COUNTED + i));
        if counts[MIN_ACTIVE] == i64::MAX {
            per_sample[2] = u64::MAX;
        }
        Ok(Fetched {
            samples: self.samples,
            values: self.values,
            counts: [0, 1, 2, 3, 4, 5, 6].map(n),
            extremes: match none {
                true => (f32::INFINITY, f32::NEG_INFINITY),
                false => (of_key(counts[MIN]), of_key(counts[MIN + 1])),
            },
            per_sample,
            sparseness: [sums[POWERS + 4], sums[POWERS + 5]],
            shift: sums[0],
            powers: [0, 1, 2, 3].map(|i| sums[POWERS + i]),
            bins: [many(BINS, MAGNITUDES), many(BINS + MAGNITUDES, MAGNITUDES)],
            unit_counts: [units(0), units(1), units(2)],
            unit_sums: [unit_sums(0), unit_sums(1), unit_sums(2)],
        })
    }
}

/// An integer with the same order as the floats.
fn key_of(x: f32) -> i64 {
    let bits = x.to_bits() as i32;
    i64::from(if bits < 0 { bits ^ i32::MAX } else { bits })
}

fn of_key(key: i64) -> f32 {
    let bits = key as i32;
    f32::from_bits((if bits < 0 { bits ^ i32::MAX } else { bits }) as u32)
}

/// The same in candle operations, in f64, to compare the kernels with. It reads extremes back, so it waits.
pub(crate) mod twin {
    use super::*;
    use candle_core::{D, Var};

    /// See [`Window::add`].
    pub fn add(batch: &Observed<'_>, window: &mut Window, faults: &mut Tensor) -> Result<()> {
        let (units, positions) = (batch.units, batch.positions);
        let wide = |xs: &Tensor| -> Result<Tensor> {
            let xs = xs.detach().to_dtype(DType::F64)?;
            match batch.units_last {
                true => xs.reshape(((), positions, units))?.transpose(1, 2)?.contiguous(),
                false => xs.reshape(((), units, positions)),
            }
        };
        let ys = wide(batch.ys)?;
        let xs = batch.xs.map_or(Ok(ys.clone()), wide)?;
        let of = |mask: &Tensor| mask.to_dtype(DType::F64);
        let nan = of(&ys.ne(&ys)?)?;
        let infinite = of(&ys.abs()?.eq(f64::INFINITY)?)?;
        let faulty = (&nan + &infinite)?;
        let finite = faulty.affine(-1.0, 1.0)?;
        let is_finite = finite.ne(0.0)?;
        let zero = ys.zeros_like()?;
        // From here non-finite values are 0; the masks exclude them from counts.
        let ys = is_finite.where_cond(&ys, &zero)?;
        let within = |mask: Tensor| of(&mask)? * &finite;
        let zeros = within(ys.eq(0.0)?)?;
        let (negative, fired) = (of(&ys.lt(0.0)?)?, of(&ys.gt(0.0)?)?);
        let near = within(ys.abs()?.le(f64::from(NEAR_ZERO))?)?;
        let (mut low, mut high, mut passed) = (zero.clone(), zero.clone(), zero.clone());
        if let Some(f) = batch.f {
            // f' from candle's backward pass, of the values in f32.
            let own = Var::from_tensor(&xs.to_dtype(DType::F32)?)?;
            let slope = match f {
                Activation::Identity => own.ones_like()?,
                // candle's 1 - tanh² is 0 where f' is small but not 0.
                Activation::Tanh => {
                    let e = (own.abs()? * -2.0)?.exp()?;
                    ((&e * 4.0)? / (&e + 1.0)?.sqr()?)?
                }
                _ => {
                    let sum = crate::ops::activate::twin::activate(&own, f)?.sum_all()?;
                    let slopes = sum.backward()?;
                    slopes.get(&own).map_or_else(|| own.zeros_like(), |slope| Ok(slope.clone()))?
                }
            };
            let flat = within(slope.abs()?.lt(FLAT)?)?;
            low = (&flat * of(&xs.le(0.0)?)?)?;
            high = (&flat * of(&xs.gt(0.0)?)?)?;
            passed = within(slope.ne(0.0)?)?;
        }
        let total = |xs: &Tensor| xs.sum_all()?.to_scalar::<f64>();
        let by_unit = |xs: &Tensor| xs.sum((0, 2));
        let shift = match window.values {
            0 => ys.flatten_all()?.get(0)?.to_scalar::<f64>()?,
            _ => window.sums.get(0)?.to_scalar::<f64>()?,
        };
        let d = ((&ys - shift)? * &finite)?;
        let (square, cube) = (d.sqr()?, (d.sqr()? * &d)?);
        let powers = [total(&d)?, total(&square)?, total(&cube)?, total(&square.sqr()?)?];

        let mut counts = window.counts.to_vec1::<i64>()?;
        let mut sums = window.sums.to_vec1::<f64>()?;
        for (count, mask) in counts.iter_mut().zip([&zeros, &negative, &near, &nan, &infinite, &low, &high]) {
            *count += total(mask)? as i64;
        }
        let whole = total(&finite)?;
        if whole > 0.0 {
            let end = |sign: f64| -> Result<f32> {
                let outside = (ys.ones_like()? * (sign * f64::INFINITY))?;
                let all = is_finite.where_cond(&ys, &outside)?.flatten_all()?;
                let end = if sign > 0.0 { all.min(0)? } else { all.max(0)? };
                Ok(end.to_scalar::<f64>()? as f32)
            };
            counts[MIN] = counts[MIN].min(key_of(end(1.0)?));
            counts[MIN + 1] = counts[MIN + 1].max(key_of(end(-1.0)?));
        }
        // The count of a bin is the difference of the counts at or above its edges.
        for (sign, (own, first)) in [(1.0, (&fired, BINS)), (-1.0, (&negative, BINS + MAGNITUDES))] {
            let magnitudes = (&ys * sign)?;
            let mut above = total(own)?;
            for bin in 0..MAGNITUDES {
                let edge = FIRST * (bin as f64 / 8.0).floor().exp2() * (1.0 + (bin % 8) as f64 / 8.0);
                let next = match bin + 1 < MAGNITUDES {
                    true => total(&of(&magnitudes.ge(edge)?)?)?,
                    false => 0.0,
                };
                counts[first + bin] += (above - next) as i64;
                above = next;
            }
        }
        let flat = |xs: &Tensor| xs.flatten_from(1)?.sum(D::Minus1)?.to_vec1::<f64>();
        let active = flat(&(&finite - &zeros)?)?;
        let (sum_abs, squares, n) = (flat(&ys.abs()?)?, flat(&ys.sqr()?)?, flat(&finite)?);
        for (((n, active), sum_abs), squares) in n.into_iter().zip(active).zip(sum_abs).zip(squares) {
            if n == 0.0 {
                continue;
            }
            let own = active as i64;
            counts[COUNTED] += 1;
            counts[COUNTED + 1] += own;
            counts[MIN_ACTIVE] = counts[MIN_ACTIVE].min(own);
            counts[MAX_ACTIVE] = counts[MAX_ACTIVE].max(own);
            counts[COUNTED + 4] += i64::from(own == 0);
            if n >= 2.0 && squares > 0.0 {
                counts[COUNTED + 5] += 1;
                sums[POWERS + 4] += (1.0 - sum_abs * sum_abs / (n * squares)) / (1.0 - 1.0 / n);
                sums[POWERS + 5] += (n.sqrt() - sum_abs / squares.sqrt()) / (n.sqrt() - 1.0);
            }
        }
        sums[0] = shift;
        sums[POWERS..].iter_mut().zip(powers).for_each(|(sum, power)| *sum += power);
        for (i, mask) in [&faulty, &fired, &passed].into_iter().enumerate() {
            let own = by_unit(mask)?.to_vec1::<f64>()?;
            counts[UNIT_COUNTS + i * units..].iter_mut().zip(own).for_each(|(n, own)| *n += own as i64);
        }
        for (i, values) in [ys.clone(), ys.minimum(&zero)?, ys.sqr()?].iter().enumerate() {
            let own = by_unit(values)?.to_vec1::<f64>()?;
            sums[UNIT_SUMS + i * units..].iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
        let device = batch.ys.device();
        let (many, more) = (counts.len(), sums.len());
        window.counts = Tensor::from_vec(counts, many, device)?;
        window.sums = Tensor::from_vec(sums, more, device)?;
        let found = total(&faulty)? as i64;
        *faults = (&*faults + Tensor::new(found, device)?)?;
        Ok(())
    }
}
