use std::mem::MaybeUninit;

use pulp::bytemuck::{self, Pod, Zeroable};
use pulp::{Arch, Simd, WithSimd};

use super::compact::{compress, differs};

/// A value of a matrix, and its index.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct Entry {
    /// Its column in a list of a row, its row in a list of a column.
    pub at: u32,
    pub value: f32,
}

// SAFETY: two fields of four bytes, without padding; any bits are valid.
unsafe impl Zeroable for Entry {}
// SAFETY: as above.
unsafe impl Pod for Entry {}

/// The entries of a matrix, row by row (compressed sparse rows).
#[derive(Debug, Default)]
pub(crate) struct Lists {
    entries: Vec<Entry>,
    /// For every row, the end of its list in `entries`.
    ends: Vec<u32>,
    /// Every `Entry::at` is below this.
    width: usize,
}

impl Lists {
    /// An empty list for rows of up to `width` values.
    pub fn new(width: usize) -> Self {
        Self { width, ..Self::default() }
    }

    /// The values of these rows that differ from the background, less the background.
    pub fn of<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, width: usize, background: f32) -> Self {
        let entries = Vec::with_capacity(rows.len() * width + ROOM);
        let mut lists = Self { entries, ends: Vec::with_capacity(rows.len()), width };
        lists.extend(rows, background);
        lists
    }

    /// Removes all rows.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.ends.clear();
    }

    /// Appends the values of these rows that differ from the background, less the background.
    pub fn extend<'a>(&mut self, rows: impl Iterator<Item = &'a [f32]>, background: f32) {
        // Padding differs from NaN and would be listed.
        assert!(!background.is_nan(), "NaN as a background");
        Arch::new().dispatch(Append { rows, background, lists: self });
    }

    /// Appends one row whose value `i` is in column `columns[i]`.
    pub fn push_at(&mut self, row: &[f32], columns: impl Fn(usize) -> u32, background: f32) {
        let start = self.entries.len();
        self.extend(std::iter::once(row), background);
        for entry in &mut self.entries[start..] {
            let column = columns(entry.at as usize);
            // Checked before it is stored: unsafe code relies on every entry, also after a panic.
            assert!((column as usize) < self.width, "column {column} of {}", self.width);
            entry.at = column;
        }
    }

    /// The transpose: the entries column by column, in the order of the rows.
    pub fn transposed(&self) -> Self {
        let mut to = Self::default();
        self.transpose_to(&mut to);
        to
    }

    /// Writes the transpose to `to` and reuses its memory. A counting sort.
    pub fn transpose_to(&self, to: &mut Self) {
        to.width = self.ends.len();
        to.ends.clear();
        to.ends.resize(self.width, 0);
        for entry in &self.entries {
            to.ends[entry.at as usize] += 1;
        }
        // The start of each list, which becomes its end once all entries are in place.
        let mut start = 0;
        for end in &mut to.ends {
            (*end, start) = (start, start + *end);
        }
        to.entries.resize(self.entries.len(), Entry::default());
        for (row, list) in (0..).zip(self.iter()) {
            for entry in list {
                let end = &mut to.ends[entry.at as usize];
                to.entries[*end as usize] = Entry { at: row, value: entry.value };
                *end += 1;
            }
        }
    }

    /// Every [`Entry::at`] is below this.
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
        self.ends.iter().map(move |end| {
            let end = *end as usize;
            &self.entries[std::mem::replace(&mut start, end)..end]
        })
    }
}

/// The number of entries that one store writes, a whole vector; the next store overwrites the unused ones.
const ROOM: usize = 16;

struct Append<'a, Rows> {
    rows: Rows,
    background: f32,
    lists: &'a mut Lists,
}

impl<'a, Rows: Iterator<Item = &'a [f32]>> WithSimd for Append<'_, Rows> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, background, lists: Lists { entries, ends, width } } = self;
        for row in rows {
            assert!(row.len() <= *width, "a row of {} values in lists of {width}", row.len());
            entries.reserve(row.len() + ROOM);
            let n = entries.len() + compact(simd, row, background, entries.spare_capacity_mut());
            // SAFETY: `compact` returns the number of entries it wrote.
            unsafe { entries.set_len(n) };
            ends.push(u32::try_from(n).expect("fewer than 2^32 entries"));
        }
    }
}

/// Writes an entry for each value of a row that differs from the background to `room`, which has space for the row and
/// [`ROOM`] more. Returns how many.
#[inline(always)]
fn compact<S: Simd>(simd: S, row: &[f32], background: f32, room: &mut [MaybeUninit<Entry>]) -> usize {
    let (vectors, rest) = S::as_simd_f32s(row);
    let mut n = 0;
    for (i, values) in vectors.iter().enumerate() {
        n += compact_vector(simd, *values, i * S::F32_LANES, background, &mut room[n..]);
    }
    if !rest.is_empty() {
        let mut padded = [background; ROOM];
        padded[..rest.len()].copy_from_slice(rest);
        let values = S::as_simd_f32s(&padded).0[0];
        n += compact_vector(simd, values, row.len() - rest.len(), background, &mut room[n..]);
    }
    n
}

/// The same for one vector, whose first value is at `first`.
#[inline(always)]
fn compact_vector<S: Simd>(
    simd: S,
    values: S::f32s,
    first: usize,
    background: f32,
    room: &mut [MaybeUninit<Entry>],
) -> usize {
    const LANES: [u32; ROOM] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let background = simd.splat_f32s(background);
    let keep = differs(simd, values, background);
    let at = simd.add_u32s(simd.splat_u32s(first as u32), S::as_simd_u32s(&LANES).0[0]);
    let at = compress(simd, bytemuck::cast(at), keep);
    let values = compress(simd, simd.sub_f32s(values, background), keep);
    interleave(simd, at, values, &mut room[..S::F32_LANES]);
    keep.count_ones() as usize
}

/// Writes an entry for each lane; the bits of `at` are the bits of an index.
#[inline(always)]
fn interleave<S: Simd>(simd: S, at: S::f32s, values: S::f32s, room: &mut [MaybeUninit<Entry>]) {
    #[cfg(target_arch = "x86_64")]
    {
        let simd: &dyn std::any::Any = &simd;
        if let Some(v4) = simd.downcast_ref::<pulp::x86::V4>() {
            /// A permutation that interleaves the lanes of `at` (0 and up) with those of `values` (16 and up).
            const LOWER: [u32; 16] = [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23];
            const UPPER: [u32; 16] = [8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31];
            let (f, at, values) = (v4.avx512f, bytemuck::cast(at), bytemuck::cast(values));
            let lower: [Entry; 8] =
                bytemuck::cast(f._mm512_permutex2var_ps(at, bytemuck::cast(LOWER), values));
            let upper: [Entry; 8] =
                bytemuck::cast(f._mm512_permutex2var_ps(at, bytemuck::cast(UPPER), values));
            room[..8].write_copy_of_slice(&lower);
            room[8..].write_copy_of_slice(&upper);
            return;
        }
    }
    let _ = simd;
    let (at, values) = ([at], [values]);
    let (at, values): (&[u32], &[f32]) = (bytemuck::cast_slice(&at), bytemuck::cast_slice(&values));
    for ((room, at), value) in room.iter_mut().zip(at).zip(values) {
        room.write(Entry { at: *at, value: *value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [f32; 6] = [0.0, 0.5, -0.0, f32::MIN_POSITIVE, f32::INFINITY, -3.0];

    fn values() -> Vec<f32> {
        (0..80_usize).map(|i| KINDS[i * i / 3 % KINDS.len()]).collect()
    }

    #[test]
    fn every_instruction_set_lists_the_foreground_values() {
        let values = values();
        for background in [0.0, 0.5] {
            for width in 1..=40 {
                let rows = || values.chunks_exact(width);
                let expected: Vec<Vec<Entry>> = rows()
                    .map(|row| {
                        let entries = (0..).zip(row).filter(|(_, value)| **value != background);
                        entries.map(|(at, value)| Entry { at, value: value - background }).collect()
                    })
                    .collect();
                let mut plain = Lists::new(width);
                Append { rows: rows(), background, lists: &mut plain }.with_simd(pulp::Scalar);
                for found in [Lists::of(rows(), width, background), plain] {
                    let found: Vec<Vec<Entry>> = found.iter().map(<[Entry]>::to_vec).collect();
                    assert_eq!(found, expected, "{width} values, background {background}");
                }
            }
        }
    }

    #[test]
    fn the_transpose_has_every_entry_in_its_column_and_in_the_order_of_the_rows() {
        let (values, mut reused) = (values(), Lists::default());
        for width in 1..=40 {
            let lists = Lists::of(values.chunks_exact(width), width, 0.0);
            lists.transpose_to(&mut reused);
            for (column, found) in reused.iter().enumerate() {
                let rows = (0..).zip(values.chunks_exact(width)).filter(|(_, row)| row[column] != 0.0);
                let expected: Vec<Entry> = rows.map(|(at, row)| Entry { at, value: row[column] }).collect();
                assert_eq!(found, expected, "column {column} of {width}");
            }
            assert_eq!((reused.len(), reused.width()), (width, lists.len()));
        }
    }

    #[test]
    fn a_row_may_say_where_its_values_are() {
        let mut lists = Lists::new(10);
        lists.push_at(&[0.0, 2.0, 3.0], |i| [7, 9, 1][i], 0.0);
        assert_eq!(lists.entries(), [Entry { at: 9, value: 2.0 }, Entry { at: 1, value: 3.0 }]);
    }

    #[test]
    #[should_panic(expected = "a row of 3 values in lists of 2")]
    fn a_row_wider_than_the_lists_is_refused() {
        let _ = Lists::of([&[1.0_f32; 3][..]].into_iter(), 2, 0.0);
    }
}
