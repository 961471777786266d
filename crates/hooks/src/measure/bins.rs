use taper_report::{Histogram, MAGNITUDES};

use crate::moments::CHUNK;

/// A histogram that is being counted.
///
/// Four counters a bin take turns: when many values fall into one bin, each count would otherwise wait for the one
/// before.
pub(super) struct Bins(Vec<u32>);

impl Bins {
    const SIZE: usize = 1024;
    /// Added to the bin of a negative value.
    const SIGN: u32 = 512;
    /// Where values go that are counted elsewhere: into sixteen bins in turn.
    const NOWHERE: u32 = 992;

    /// No counts yet, and room for none unless `wanted`.
    pub fn new(wanted: bool) -> Self {
        Self(vec![0; if wanted { 4 * Self::SIZE } else { 0 }])
    }

    /// Counts a span's values, none of them zero: the background so many times and, of `others`, all that differ from it.
    #[inline(always)]
    pub fn add(&mut self, others: &[f32], background: f32, backgrounds: u64) {
        let counts: &mut [u32; 4 * Self::SIZE] =
            self.0.first_chunk_mut().expect("there is room where a histogram is wanted");
        counts[4 * Self::of(background) as usize % (4 * Self::SIZE)] += backgrounds as u32;
        let mut own = [0_u32; CHUNK / 4];
        for others in others.chunks(own.len()) {
            for (i, (own, &y)) in (0..).zip(own.iter_mut().zip(others)) {
                let bin = if y == background { Self::NOWHERE + (i >> 2) % 16 } else { Self::of(y) };
                *own = 4 * bin + i % 4;
            }
            for counter in &own[..others.len()] {
                counts[*counter as usize % (4 * Self::SIZE)] += 1;
            }
        }
    }

    /// Adds the counts to a histogram.
    pub fn pour(&self, histogram: &mut Histogram) {
        let (positive, negative) = self.0.split_at(4 * Self::SIGN as usize);
        for (counts, bins) in [(positive, &mut histogram.positive), (negative, &mut histogram.negative)] {
            for (bin, counters) in bins.iter_mut().zip(counts.as_chunks::<4>().0) {
                *bin += counters.iter().map(|n| u64::from(*n)).sum::<u64>();
            }
        }
    }

    #[inline(always)]
    fn of(y: f32) -> u32 {
        Histogram::magnitude(y) as u32 + if y.is_sign_negative() { Self::SIGN } else { 0 }
    }
}

const _: () =
    assert!(MAGNITUDES <= Bins::SIGN as usize && Bins::SIGN as usize + MAGNITUDES <= Bins::NOWHERE as usize);
