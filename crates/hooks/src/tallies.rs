use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Result, Tensor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use taper_kernels::stats::device::{Fetched, Observed, Window, faults};
use taper_report::Histogram;

use crate::moments::Moments;
use crate::tally::{PerSample, Tally, Units};

/// The sums of a site's window: in memory, one tally for every block of a batch, at least one; and those of batches on
/// a GPU, which stay there until they are read.
///
/// Saved and cloned with the sums on the GPU.
#[derive(Debug)]
pub(crate) struct Tallies {
    /// Blocks add to them in parallel.
    pub host: Vec<Tally>,
    device: Option<Window>,
    /// Whether reading from the GPU failed when the sums were cloned.
    lost: bool,
}

impl Tallies {
    pub fn new(units: usize) -> Self {
        Self { host: vec![Tally::new(units)], device: None, lost: false }
    }

    pub fn units(&self) -> usize {
        self.host[0].units.len()
    }

    /// All sums. Waits for a GPU.
    pub fn read(&self) -> Result<Cow<'_, [Tally]>> {
        if self.lost {
            candle_core::bail!("recorder: the sums on the GPU could not be read");
        }
        match &self.device {
            None => Ok(Cow::Borrowed(&self.host)),
            Some(window) => {
                let mut all = self.host.clone();
                all.push(of(window.fetch()?));
                Ok(Cow::Owned(all))
            }
        }
    }

    /// Adds a batch on its device.
    pub fn add(&mut self, batch: &Observed<'_>, faults: &mut Faults) -> Result<()> {
        let device = batch.ys.device();
        let window = match &mut self.device {
            Some(window) => window,
            none => none.insert(Window::new(batch.units, device)?),
        };
        faults.add(device, |faults| window.add(batch, faults))
    }
}

impl Clone for Tallies {
    fn clone(&self) -> Self {
        // The kernels change a window in place, so two tallies must not share one.
        match self.read() {
            Ok(all) => Self { host: all.into_owned(), device: None, lost: false },
            Err(_) => Self { host: self.host.clone(), device: None, lost: true },
        }
    }
}

impl Serialize for Tallies {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.read().map_err(serde::ser::Error::custom)?.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Tallies {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        Ok(Self { host: Vec::deserialize(from)?, device: None, lost: false })
    }
}

/// The numbers of a window on a device, as a tally.
fn of(window: Fetched) -> Tally {
    let [zeros, negatives, near_zeros, nan, infinite, flat_low, flat_high] = window.counts;
    let finite = window.values - nan - infinite;
    let moments = match finite {
        0 => Moments::default(),
        _ => Moments::about(window.shift, window.powers, finite, window.extremes),
    };
    let [positive, negative] = window.bins;
    let [faulty, fired, passed] = window.unit_counts;
    let [sum, below, sum_squares] = window.unit_sums;
    let [counted, active, min_active, max_active, all_zero, scored] = window.per_sample;
    let [population, hoyer] = window.sparseness;
    Tally {
        samples: window.samples,
        values: window.values,
        zeros,
        negatives,
        positives: finite - zeros - negatives,
        near_zeros,
        nan,
        infinite,
        flat_low,
        flat_high,
        moments,
        histogram: Histogram { zeros, positive, negative },
        units: Units { faulty, fired, passed, sum, below, sum_squares },
        per_sample: PerSample {
            counted,
            active,
            min_active,
            max_active,
            all_zero,
            scored,
            population,
            hoyer,
        },
    }
}

/// The number of non-finite values of all sites on a GPU: one number there, so a batch costs one reading.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    count: Option<Tensor>,
    /// The number at the last reading; [`Faults::UNKNOWN`] if more was added since.
    known: AtomicU64,
}

impl Faults {
    const UNKNOWN: u64 = u64::MAX;

    fn add(
        &mut self,
        device: &candle_core::Device,
        add: impl FnOnce(&mut Tensor) -> Result<()>,
    ) -> Result<()> {
        let count = match &mut self.count {
            Some(count) => count,
            none => none.insert(faults(device)?),
        };
        *self.known.get_mut() = Self::UNKNOWN;
        add(count)
    }

    /// Waits for the GPU. If it cannot be read, the result is large, so training looks for the fault and finds the
    /// error.
    pub fn read(&self) -> u64 {
        let Some(count) = &self.count else { return 0 };
        match self.known.load(Ordering::Relaxed) {
            Self::UNKNOWN => {
                let Ok(read) = count.to_scalar::<i64>() else { return i64::MAX as u64 };
                self.known.store(read as u64, Ordering::Relaxed);
                read as u64
            }
            known => known,
        }
    }
}

impl Clone for Faults {
    /// Empty, because [`Tallies`] are cloned with the sums on the GPU.
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::Device;
    use taper_kernels::Activation;
    use taper_kernels::stats::{Block, Slopes};

    use super::*;
    use crate::{Parts, measure};

    fn close(a: f64, b: f64, what: &str) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1e-3), "{what}: {a} against {b}");
    }

    /// Values around 0, some of them 0, within the range where candle's slope of GELU does not round to 0.
    fn values(n: usize, offset: f32) -> Vec<f32> {
        let at = |i: usize| ((i as f64 * 0.618_033_988_75).fract() as f32 - 0.5) * 4.0;
        (0..n).map(|i| if i % 7 == 3 { 0.0 } else { at(i) * at(i).abs() + offset }).collect()
    }

    #[test]
    fn a_window_on_a_device_agrees_with_the_vectorised_pass() {
        for f in Activation::ALL.into_iter().map(Some).chain([None]) {
            for (units, positions, units_last) in [(5, 12, false), (5, 12, true), (7, 1, false)] {
                let mut faults = Faults::default();
                let (mut own, mut host) = (Tallies::new(units), vec![Tally::new(units)]);
                let slopes = f.map(Slopes::of);
                for batch in [9, 4] {
                    let xs = values(batch * units * positions, 0.0);
                    let ys: Vec<f32> = xs.iter().map(|x| f.map_or(*x, |f| f.value(*x))).collect();
                    let block =
                        Block { slopes: slopes.as_ref(), units, positions, units_last, xs: &xs, ys: &ys };
                    measure::add(block, Parts::FULL, &mut host);
                    let tensor = |v: &[f32]| Tensor::new(v, &Device::Cpu).unwrap();
                    let (xs, ys) = (tensor(&xs), tensor(&ys));
                    let observed = Observed { f, units, positions, units_last, xs: Some(&xs), ys: &ys };
                    own.add(&observed, &mut faults).unwrap();
                }
                let (a, b) = (Tally::of(&own.read().unwrap()), Tally::of(&host));
                let what = format!("{f:?} {units}x{positions} {units_last}");
                let counts = |t: &Tally| {
                    [t.samples, t.values, t.zeros, t.negatives, t.positives, t.near_zeros, t.nan, t.infinite]
                };
                assert_eq!(counts(&a), counts(&b), "{what}");
                // The twin's slopes are candle's, whose rounding may differ where f' is almost flat.
                assert!(
                    a.flat_low.abs_diff(b.flat_low) <= 2 && a.flat_high.abs_diff(b.flat_high) <= 2,
                    "{what}"
                );
                assert_eq!(a.histogram, b.histogram, "{what}");
                assert_eq!((&a.units.fired, &a.units.faulty), (&b.units.fired, &b.units.faulty), "{what}");
                assert_eq!(a.units.passed, b.units.passed, "{what}");
                let sums = |t: &Tally| {
                    [t.units.sum.clone(), t.units.below.clone(), t.units.sum_squares.clone()].concat()
                };
                sums(&a).iter().zip(sums(&b)).for_each(|(a, b)| close(*a, b, &what));
                let (m, n) = (a.moments, b.moments);
                assert_eq!((m.count, m.min, m.max), (n.count, n.min, n.max), "{what}");
                close(m.mean, n.mean, &what);
                close(m.m2, n.m2, &what);
                close(m.skewness().unwrap_or(0.0), n.skewness().unwrap_or(0.0), &what);
                close(m.excess_kurtosis().unwrap_or(0.0), n.excess_kurtosis().unwrap_or(0.0), &what);
                let (s, t) = (&a.per_sample, &b.per_sample);
                let counted =
                    |s: &PerSample| [s.counted, s.active, s.min_active, s.max_active, s.all_zero, s.scored];
                assert_eq!(counted(s), counted(t), "{what}");
                close(s.population, t.population, &what);
                close(s.hoyer, t.hoyer, &what);
                assert_eq!(faults.read(), 0);
            }
        }
    }

    #[test]
    fn values_that_are_not_finite_are_counted_and_left_out() {
        let mut faults = Faults::default();
        let ys = [1.0, f32::NAN, -2.0, f32::INFINITY, 0.0, 3.0, f32::NAN, f32::NAN, f32::NEG_INFINITY];
        let (mut own, mut host) = (Tallies::new(3), vec![Tally::new(3)]);
        let block = Block { slopes: None, units: 3, positions: 1, units_last: false, xs: &ys, ys: &ys };
        measure::add(block, Parts::FULL, &mut host);
        let tensor = Tensor::new(&ys, &Device::Cpu).unwrap();
        let observed = Observed { f: None, units: 3, positions: 1, units_last: false, xs: None, ys: &tensor };
        own.add(&observed, &mut faults).unwrap();
        assert_eq!((faults.read(), faults.read()), (5, 5));
        assert_eq!(Tally::of(&own.read().unwrap()), Tally::of(&host));
        let copied = own.clone();
        own.add(&observed, &mut faults).unwrap();
        assert_eq!((faults.read(), Tally::of(&copied.read().unwrap()).values), (10, 9));
        assert_eq!(Tally::of(&own.read().unwrap()).values, 18);
    }
}
