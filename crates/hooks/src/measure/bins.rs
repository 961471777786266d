use taper_report::{Histogram, MAGNITUDES};

/// A histogram that is being counted: by sign, exponent and three bits of the mantissa, so that a value's bits are
/// only shifted. Together these tell its bin.
pub(super) struct Bins([u32; Self::SIZE]);

impl Bins {
    const BITS: u32 = 1 + 8 + 3;
    const SIZE: usize = 1 << Self::BITS;

    /// No counts yet.
    pub fn new() -> Self {
        Self([0; Self::SIZE])
    }

    /// Counts values.
    #[inline(always)]
    pub fn add(&mut self, ys: &[f32]) {
        for &y in ys {
            self.0[Self::of(y) as usize % Self::SIZE] += 1;
        }
    }

    /// Counts a value `n` times.
    #[inline(always)]
    pub fn add_many(&mut self, y: f32, n: usize) {
        self.0[Self::of(y) as usize] += n as u32;
    }

    /// Adds the counts to a histogram.
    #[inline(always)]
    pub fn pour(&self, histogram: &mut Histogram) {
        let (positive, negative) = self.0.split_at(Self::SIZE / 2);
        let first = Self::of(Histogram::edges(1).0 as f32) as usize;
        for (counts, bins) in [(positive, &mut histogram.positive), (negative, &mut histogram.negative)] {
            let (below, counts) = counts.split_at(first);
            let (regular, above) = counts.split_at(MAGNITUDES - 2);
            bins[0] += sum(below);
            for (bin, n) in bins[1..].iter_mut().zip(regular) {
                *bin += u64::from(*n);
            }
            bins[MAGNITUDES - 1] += sum(above);
        }
    }

    #[inline(always)]
    fn of(y: f32) -> u32 {
        y.to_bits() >> (u32::BITS - Self::BITS)
    }
}

#[inline(always)]
fn sum(counts: &[u32]) -> u64 {
    counts.iter().map(|n| u64::from(*n)).sum()
}
