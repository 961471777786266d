/// Counts per histogram bin of one block.
///
/// A bin is a sign, an exponent and three bits of the mantissa: the upper twelve bits of a value.
pub(super) struct Bins([u32; Self::SIZE]);

/// Counts of finite non-zero values by sign and magnitude, which `measure` adds to.
///
/// Bins have equal widths, eight per octave, from `first` on. Bin 0 of each sign is for smaller magnitudes, the last bin for
/// larger ones.
pub struct Histogram<'a> {
    /// Lower edge of bin 1, a power of two.
    pub first: f32,
    /// Of positive values, smallest magnitude first.
    pub positive: &'a mut [u64],
    /// Of negative values, smallest magnitude first.
    pub negative: &'a mut [u64],
}

impl Bins {
    const BITS: u32 = 1 + 8 + 3;
    const SIZE: usize = 1 << Self::BITS;

    /// No counts yet.
    #[inline(always)]
    pub fn new() -> Self {
        Self([0; Self::SIZE])
    }

    /// Counts values.
    #[inline(always)]
    pub fn add(&mut self, ys: &[f32]) {
        for &y in ys {
            self.0[Self::of(y)] += 1;
        }
    }

    /// Counts a value `n` times.
    #[inline(always)]
    pub fn add_many(&mut self, y: f32, n: usize) {
        self.0[Self::of(y)] += n as u32;
    }

    /// Adds all counts to a histogram.
    #[inline(always)]
    pub fn add_to(&self, histogram: Histogram<'_>) {
        let (positive, negative) = self.0.split_at(Self::SIZE / 2);
        let below = Self::of(histogram.first);
        for (counts, bins) in [(positive, histogram.positive), (negative, histogram.negative)] {
            let last = bins.len() - 1;
            let (small, counts) = counts.split_at(below);
            let (regular, large) = counts.split_at(last - 1);
            bins[0] += u64::from(small.iter().sum::<u32>());
            bins[last] += u64::from(large.iter().sum::<u32>());
            for (bin, n) in bins[1..last].iter_mut().zip(regular) {
                *bin += u64::from(*n);
            }
        }
    }

    #[inline(always)]
    fn of(y: f32) -> usize {
        (y.to_bits() >> (u32::BITS - Self::BITS)) as usize
    }
}
