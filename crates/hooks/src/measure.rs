//! Statistics of a batch, computed by the vector code in `taper_kernels::stats`. A block that contains NaN or infinity falls
//! back to scalar code, which is also the reference that the tests compare the vector code with.

use rayon::prelude::*;
use taper_kernels::stats::{self, Block, FLAT, NEAR_ZERO, Slopes, UnitSums};
use taper_report::Histogram;

use crate::Parts;
use crate::moments::Moments;
use crate::tally::Tally;

/// Smallest block, in values: a second thread does not pay for fewer.
const BLOCK: usize = 16 * 1024;
/// Most blocks of a batch; each has a tally.
const BLOCKS: usize = 32;
/// Fewest observations of a unit in a block: with fewer, the traffic for the units' sums exceeds that for the values.
const OBSERVATIONS: usize = 64;

/// Adds a batch to its site's tallies, one per block of samples. Blocks run in parallel; their boundaries depend only on
/// the shape, so results do not depend on the number of threads.
pub(crate) fn add(batch: Block<'_>, parts: Parts, tallies: &mut Vec<Tally>) {
    if batch.ys.is_empty() {
        return;
    }
    let least = OBSERVATIONS.div_ceil(batch.positions);
    let samples = batch.ys.len() / batch.sample();
    let size = samples.div_ceil(BLOCKS).max(BLOCK / batch.sample()).max(least) * batch.sample();
    if tallies.len() * size < batch.ys.len() {
        tallies.resize_with(batch.ys.len().div_ceil(size), || Tally::new(batch.units));
    }
    let add = |((tally, ys), xs): ((&mut Tally, _), _)| {
        let block = Block { xs, ys, ..batch };
        if !add_finite(block, parts, tally) {
            add_any(block, parts, tally);
        }
    };
    let blocks = tallies.iter_mut().zip(batch.ys.chunks(size)).zip(batch.xs.chunks(size));
    if blocks.len() == 1 || rayon::current_num_threads() == 1 {
        // Waking a thread costs as much as measuring thousands of values.
        blocks.for_each(add);
    } else {
        blocks.collect::<Vec<_>>().into_par_iter().for_each(add);
    }
}

/// Adds a block in vector code. Adds nothing, and returns `false`, if one of `ys` is not finite.
fn add_finite(block: Block<'_>, parts: Parts, tally: &mut Tally) -> bool {
    let (units, bins) = (&mut tally.units, &mut tally.histogram);
    let units = UnitSums {
        fired: &mut units.fired,
        passed: &mut units.passed,
        sum: &mut units.sum,
        below: &mut units.below,
        sum_squares: parts.samples.then_some(&mut units.sum_squares),
    };
    let histogram = parts.histogram.then(|| stats::Histogram {
        first: Histogram::edges(1).0 as f32,
        positive: &mut bins.positive,
        negative: &mut bins.negative,
    });
    let Some(totals) = stats::measure(block, units, histogram, parts.moments) else { return false };
    let values = block.ys.len() as u64;
    tally.samples += totals.samples.len() as u64;
    tally.values += values;
    tally.zeros += totals.zeros;
    tally.negatives += totals.negatives;
    tally.positives += values - totals.zeros - totals.negatives;
    tally.near_zeros += totals.near_zeros;
    tally.flat_low += totals.flat_low;
    tally.flat_high += totals.flat_high;
    if parts.histogram {
        tally.histogram.zeros += totals.zeros;
    }
    if parts.moments {
        // Sums of powers about zero, which need no mean and to which zeros add nothing. If the mean is so large that the
        // variance would lose digits by cancellation, a second pass sums powers about the mean.
        let extremes = (totals.min, totals.max);
        let mut moments = Moments::about(0.0, totals.powers, values, extremes);
        if !moments.keeps_digits(totals.powers[1]) {
            moments = Moments::about(moments.mean, stats::powers(block.ys, moments.mean), values, extremes);
        }
        tally.moments.merge(&moments);
    }
    if parts.samples {
        for sample in totals.samples {
            tally.per_sample.add(block.sample() as u64, sample.active, sample.sum_abs, sample.sum_squares);
        }
    }
    true
}

/// Adds a block one value at a time, as the statistics are defined.
fn add_any(block: Block<'_>, parts: Parts, tally: &mut Tally) {
    let mut finite = Vec::new();
    for (xs, ys) in block.xs.chunks_exact(block.sample()).zip(block.ys.chunks_exact(block.sample())) {
        let (mut counted, mut active, mut sum_abs, mut sum_squares) = (0, 0, 0.0, 0.0);
        for (i, (&x, &y)) in xs.iter().zip(ys).enumerate() {
            let unit = if block.units_last { i % block.units } else { i / block.positions };
            let units = &mut tally.units;
            tally.values += 1;
            tally.nan += u64::from(y.is_nan());
            tally.infinite += u64::from(y.is_infinite());
            if !y.is_finite() {
                units.faulty[unit] += 1;
                continue;
            }
            tally.zeros += u64::from(y == 0.0);
            tally.negatives += u64::from(y < 0.0);
            tally.positives += u64::from(y > 0.0);
            tally.near_zeros += u64::from(y.abs() <= NEAR_ZERO);
            units.fired[unit] += u64::from(y > 0.0);
            if let Some(f) = block.slopes.map(Slopes::activation) {
                let slope = f.derivative(x);
                tally.flat_low += u64::from(slope.abs() < FLAT && x <= 0.0);
                tally.flat_high += u64::from(slope.abs() < FLAT && x > 0.0);
                units.passed[unit] += u64::from(slope != 0.0);
            }
            let y64 = y as f64;
            units.sum[unit] += y64;
            units.below[unit] += y64.min(0.0);
            if parts.samples {
                units.sum_squares[unit] += y64 * y64;
            }
            counted += 1;
            active += u64::from(y != 0.0);
            sum_abs += y64.abs();
            sum_squares += y64 * y64;
            if parts.histogram {
                tally.histogram.add(y);
            }
            finite.push(y);
        }
        tally.samples += 1;
        if parts.samples {
            tally.per_sample.add(counted, active, sum_abs, sum_squares);
        }
    }
    if parts.moments {
        tally.moments.merge(&Moments::of(&finite));
    }
}

#[cfg(test)]
mod tests;
