use std::mem::MaybeUninit;

use pulp::bytemuck::{Pod, Zeroable};
use pulp::{Arch, Simd, WithSimd};

/// A value that is to be multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(super) struct Entry {
    /// Its column in a list of a row, its row in a list of a column.
    pub at: u32,
    pub value: f32,
}

// SAFETY: two fields of four bytes, in their order and without padding, whose bits may be any.
#[allow(unsafe_code)]
unsafe impl Zeroable for Entry {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Pod for Entry {}

/// Entries, row by row or column by column.
pub(super) struct Lists {
    entries: Vec<Entry>,
    /// Where each list ends in `entries`.
    ends: Vec<usize>,
    /// Every entry is at less.
    width: usize,
}

impl Lists {
    /// The values of rows of up to `width` that differ from the background, less the background.
    pub fn of<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, width: usize, background: f32) -> Self {
        let entries = Vec::with_capacity(rows.len() * width + ROOM);
        let lists = Self { entries, ends: Vec::with_capacity(rows.len()), width };
        Arch::new().dispatch(Pick { rows, background, lists })
    }

    /// The same entries by column, as there are rows. Sorted by counting.
    pub fn turned(&self) -> Self {
        let mut ends = vec![0; self.width + 1];
        for entry in &self.entries {
            ends[entry.at as usize + 1] += 1;
        }
        for j in 1..ends.len() {
            ends[j] += ends[j - 1];
        }
        // Now where each list starts; when all entries are in their places, where it ends.
        let mut entries = vec![Entry::default(); self.entries.len()];
        for (row, list) in (0..).zip(self.iter()) {
            for entry in list {
                let end = &mut ends[entry.at as usize];
                entries[*end] = Entry { at: row, value: entry.value };
                *end += 1;
            }
        }
        ends.pop();
        Self { entries, width: self.ends.len(), ends }
    }

    /// Every entry is at less than this.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All lists, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[Entry]> {
        let mut start = 0;
        self.ends.iter().map(move |end| &self.entries[std::mem::replace(&mut start, *end)..*end])
    }
}

/// So many entries may be written at once, whether they are kept or not.
const ROOM: usize = 16;

struct Pick<Rows> {
    rows: Rows,
    background: f32,
    lists: Lists,
}

impl<'a, Rows: Iterator<Item = &'a [f32]>> WithSimd for Pick<Rows> {
    type Output = Lists;

    #[inline(always)]
    #[allow(unsafe_code)]
    fn with_simd<S: Simd>(self, simd: S) -> Lists {
        let Self { rows, background, mut lists } = self;
        let mut n = 0;
        for row in rows {
            n += pick(simd, row, background, &mut lists.entries.spare_capacity_mut()[n..]);
            lists.ends.push(n);
        }
        // SAFETY: `pick` has written as many as it said.
        unsafe { lists.entries.set_len(n) };
        lists
    }
}

/// Writes an entry for each value of a row that differs from the background; `room` is for [`ROOM`] more. Returns how many.
#[inline(always)]
fn pick<S: Simd>(simd: S, row: &[f32], background: f32, room: &mut [MaybeUninit<Entry>]) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        let simd: &dyn std::any::Any = &simd;
        if let Some(v4) = simd.downcast_ref::<pulp::x86::V4>() {
            return avx512::pick(*v4, row, background, room);
        }
    }
    let _ = simd;
    let mut n = 0;
    for (at, value) in (0..).zip(row) {
        // No branch: nobody can foretell which are kept.
        room[n].write(Entry { at, value: value - background });
        n += usize::from(*value != background);
    }
    n
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{__m512, _CMP_NEQ_UQ};

    use pulp::bytemuck::cast;
    use pulp::x86::V4;

    use super::{Entry, MaybeUninit, ROOM};

    /// Sixteen values at once.
    #[inline(always)]
    pub fn pick(simd: V4, row: &[f32], background: f32, room: &mut [MaybeUninit<Entry>]) -> usize {
        let (chunks, rest) = row.as_chunks::<ROOM>();
        let mut n = 0;
        for (first, values) in (0..).step_by(ROOM).zip(chunks) {
            n += pick_of(simd, first, cast(*values), background, &mut room[n..]);
        }
        if !rest.is_empty() {
            let mut values = [background; ROOM];
            values[..rest.len()].copy_from_slice(rest);
            n += pick_of(simd, chunks.len() * ROOM, cast(values), background, &mut room[n..]);
        }
        n
    }

    #[inline(always)]
    fn pick_of(
        simd: V4,
        first: usize,
        values: __m512,
        background: f32,
        room: &mut [MaybeUninit<Entry>],
    ) -> usize {
        const LANES: [u32; ROOM] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        /// From the places of lanes and their values, by turns; of the values the numbers go on.
        const LOWER: [u32; ROOM] = [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23];
        const UPPER: [u32; ROOM] = [8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31];
        let f = simd.avx512f;
        let all = f._mm512_set1_ps(background);
        let differs = f._mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(values, all);
        let at = f._mm512_add_epi32(f._mm512_set1_epi32(first as i32), cast(LANES));
        let at = f._mm512_maskz_compress_epi32(differs, at);
        let values = f._mm512_maskz_compress_ps(differs, f._mm512_sub_ps(values, all));
        let lower: [Entry; ROOM / 2] = cast(f._mm512_permutex2var_epi32(at, cast(LOWER), cast(values)));
        let upper: [Entry; ROOM / 2] = cast(f._mm512_permutex2var_epi32(at, cast(UPPER), cast(values)));
        room[..ROOM / 2].write_copy_of_slice(&lower);
        room[ROOM / 2..ROOM].write_copy_of_slice(&upper);
        differs.count_ones() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_lists_what_is_not_background() {
        let kinds = [0.0, 0.5, -0.0, f32::MIN_POSITIVE, f32::INFINITY, -3.0];
        let values: Vec<f32> = (0..80_usize).map(|i| kinds[i * i / 3 % kinds.len()]).collect();
        for background in [0.0, 0.5] {
            for width in 1..=40 {
                let rows = || values.chunks_exact(width);
                let expected: Vec<Vec<Entry>> = rows()
                    .map(|row| {
                        let entries = (0..).zip(row).filter(|(_, value)| **value != background);
                        entries.map(|(at, value)| Entry { at, value: value - background }).collect()
                    })
                    .collect();
                let plain = {
                    let entries = Vec::with_capacity(values.len() + ROOM);
                    let lists = Lists { entries, ends: Vec::new(), width };
                    Pick { rows: rows(), background, lists }.with_simd(pulp::Scalar)
                };
                for found in [Lists::of(rows(), width, background), plain] {
                    let found: Vec<Vec<Entry>> = found.iter().map(<[Entry]>::to_vec).collect();
                    assert_eq!(found, expected, "{width} values, background {background}");
                }
            }
        }
    }
}
