//! Matrix products that leave out what is zero: sums over lists of the rest.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::lists::{Entry, Lists};

/// Columns of a product that are computed together: their sums stay in registers.
pub(super) const BLOCK: usize = 64;

/// For every list of a range, the sum of its entries times the `rows` that they are at: [`BLOCK`] values each.
pub(super) struct Sums<'a> {
    pub lists: &'a Lists,
    pub range: Range<usize>,
    pub rows: &'a [f32],
}

impl Sums<'_> {
    /// Writes them to `out`, list by list, each with `base` added to it.
    pub fn write_to(self, base: &[f32], out: &mut [MaybeUninit<f32>]) {
        Arch::new().dispatch(Run { sums: self, base: Some(base), out });
    }

    /// Writes them in the place of values; without a `base` added to what is there.
    pub fn put(self, base: Option<&[f32]>, out: &mut [f32]) {
        let (first, len) = (out.as_mut_ptr().cast(), out.len());
        // SAFETY: the same memory, borrowed as long; only values are written to it, so all of it stays initialised.
        #[allow(unsafe_code)]
        let out = unsafe { std::slice::from_raw_parts_mut(first, len) };
        Arch::new().dispatch(Run { sums: self, base, out });
    }
}

struct Run<'a> {
    sums: Sums<'a>,
    /// Where all sums start. Without it they start at what `out` holds.
    base: Option<&'a [f32]>,
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many sums as hide the latency of an addition, and no more than there are registers.
        match S::F32_LANES {
            16.. => self.run::<S, 4, 2>(simd),
            8 => self.run::<S, 8, 1>(simd),
            _ => self.run::<S, 16, 1>(simd),
        }
    }
}

impl Run<'_> {
    /// `VECTORS` side by side, of `AT_ONCE` entries.
    #[inline(always)]
    #[allow(unsafe_code)]
    fn run<S: Simd, const VECTORS: usize, const AT_ONCE: usize>(self, simd: S) {
        let Sums { lists, range, rows } = self.sums;
        let parts = BLOCK / S::F32_LANES / VECTORS;
        let rows = S::as_simd_f32s(rows).0.as_chunks::<VECTORS>().0;
        assert!(lists.width() * parts <= rows.len(), "sums over rows that there are not");
        let out = S::as_uninit_mut_simd_f32s(self.out).0.as_chunks_mut::<VECTORS>().0;
        for (k, out) in range.zip(out.chunks_exact_mut(parts)) {
            for (part, out) in out.iter_mut().enumerate() {
                let mut sums = [[simd.splat_f32s(0.0); VECTORS]; AT_ONCE];
                sums[0] = match self.base {
                    Some(base) => S::as_simd_f32s(base).0.as_chunks().0[part],
                    // SAFETY: without a base, `out` is initialised.
                    None => out.map(|there| unsafe { there.assume_init() }),
                };
                let add = |sums: &mut [S::f32s; VECTORS], entry: &Entry| {
                    let value = simd.splat_f32s(entry.value);
                    // SAFETY: every entry is at less than the lists' width, and there are so many rows.
                    let row = unsafe { rows.get_unchecked(entry.at as usize * parts + part) };
                    for (sum, x) in sums.iter_mut().zip(row) {
                        *sum = simd.mul_add_f32s(value, *x, *sum);
                    }
                };
                let (chunks, rest) = lists.list(k).as_chunks::<AT_ONCE>();
                for entries in chunks {
                    sums.iter_mut().zip(entries).for_each(|(sums, entry)| add(sums, entry));
                }
                rest.iter().for_each(|entry| add(&mut sums[0], entry));
                let [first, others @ ..] = &mut sums[..] else { continue };
                for sums in others {
                    first.iter_mut().zip(sums).for_each(|(a, b)| *a = simd.add_f32s(*a, *b));
                }
                out.write_copy_of_slice(first);
            }
        }
    }
}
