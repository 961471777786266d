use std::ops::Range;

use pulp::bytemuck;
use taper_report::{Histogram, MAGNITUDES};

/// A histogram that is being counted: by sign, exponent and three bits of the mantissa, so that a value's bits are
/// only shifted. Together these tell its bin.
///
/// There are two counts of each, which values use in turn: a CPU that counts up what it has just stored waits for it.
#[repr(C)]
pub(super) struct Bins {
    even: [u32; Self::SIZE],
    /// See `Spans` on where counts lie.
    between: [u32; 128],
    odd: [u32; Self::SIZE],
}

impl Bins {
    const BITS: u32 = 1 + 8 + 3;
    const SIZE: usize = 1 << Self::BITS;

    /// No counts yet.
    pub fn new() -> Self {
        Self { even: [0; Self::SIZE], between: [0; 128], odd: [0; Self::SIZE] }
    }

    /// Counts values.
    #[inline(always)]
    pub fn add(&mut self, ys: &[f32]) {
        let (pairs, rest) = ys.as_chunks::<2>();
        for pair in pairs {
            // Read at once, as loads and stores are what this waits for.
            let bits: u64 = bytemuck::pod_read_unaligned(bytemuck::bytes_of(pair));
            self.even[Self::of(f32::from_bits((bits >> 32) as u32))] += 1;
            self.odd[Self::of(f32::from_bits(bits as u32))] += 1;
        }
        for &y in rest {
            self.even[Self::of(y)] += 1;
        }
    }

    /// Counts a value `n` times.
    #[inline(always)]
    pub fn add_many(&mut self, y: f32, n: usize) {
        self.even[Self::of(y)] += n as u32;
    }

    /// Moves all counts, which are of so many values, to a histogram. Where values are likely to be it looks first, and
    /// ends when it has found all.
    #[inline(always)]
    pub fn pour(&mut self, mut values: u64, histogram: &mut Histogram) {
        let first = Self::of(Histogram::edges(1).0 as f32);
        let (last, half) = (MAGNITUDES - 1, Self::SIZE / 2);
        let mut signs = [(0, &mut histogram.positive), (half, &mut histogram.negative)];
        for (sign, bins) in &mut signs {
            self.move_to(&mut bins[1..last], *sign + first, &mut values);
        }
        for (sign, bins) in signs {
            bins[0] += self.take(sign..sign + first, &mut values);
            bins[last] += self.take(sign + first + last - 1..sign + half, &mut values);
        }
    }

    /// Adds as many counts, from one on, to as many bins.
    #[inline(always)]
    fn move_to(&mut self, bins: &mut [u64], from: usize, values: &mut u64) {
        if *values == 0 {
            return;
        }
        let all = from..from + bins.len();
        let counts = self.even[all.clone()].iter_mut().zip(&mut self.odd[all]);
        let mut moved = 0;
        for (bin, (even, odd)) in bins.iter_mut().zip(counts) {
            let n = u64::from(*even) + u64::from(*odd);
            (*even, *odd) = (0, 0);
            *bin += n;
            moved += n;
        }
        *values -= moved;
    }

    /// What these counts add up to.
    #[inline(always)]
    fn take(&mut self, all: Range<usize>, values: &mut u64) -> u64 {
        if *values == 0 {
            return 0;
        }
        let mut taken = 0;
        for counts in [&mut self.even[all.clone()], &mut self.odd[all]] {
            taken += counts.iter().map(|n| u64::from(*n)).sum::<u64>();
            counts.fill(0);
        }
        *values -= taken;
        taken
    }

    #[inline(always)]
    fn of(y: f32) -> usize {
        (y.to_bits() >> (u32::BITS - Self::BITS)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_poured_once_wherever_values_lie() {
        let everywhere = [1.0, -1.0, 0.3, 1e-9, -1e-9, 1e-45, 255.9, 256.0, -1e30, f32::MAX, -0.7, 1.0, 1.0];
        let mut bins = Bins::new();
        for ys in [&everywhere[..], &everywhere[..3], &[], &everywhere[3..8]] {
            let (mut poured, mut expected) = (Histogram::default(), Histogram::default());
            bins.add(ys);
            bins.add_many(-0.01, 3);
            ys.iter().chain(&[-0.01; 3]).for_each(|y| expected.add(*y));
            bins.pour(ys.len() as u64 + 3, &mut poured);
            assert_eq!(poured, expected, "{ys:?}");
            assert!(bins.even.iter().chain(&bins.odd).all(|n| *n == 0), "{ys:?}");
        }
    }
}
