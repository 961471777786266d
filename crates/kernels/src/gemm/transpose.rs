use std::mem::MaybeUninit;
use std::ops::Range;

use crate::parallel::filled;

/// Transposes a matrix of `rows` times `columns`: the element at `i * from_row + j` of `from` goes to `j * to_row + i` of
/// `to`.
///
/// Tiles are transposed in registers, 16×16 with AVX-512 and 8×8 with AVX2. Element by element, each store would hit
/// another cache line.
pub(crate) fn transpose(
    size: (usize, usize),
    from: &[f32],
    from_row: usize,
    to: &mut [MaybeUninit<f32>],
    to_row: usize,
) {
    let mut op = Transpose { size, from, from_row, to, to_row };
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        let (rows, columns) = match pulp::x86::V4::try_new() {
            Some(wide) => wide.vectorize(
                #[inline(always)]
                || op.by_wide_tiles(wide),
            ),
            None => (0, 0),
        };
        simd.vectorize(
            #[inline(always)]
            || {
                op.by_tiles(simd, 0..rows, columns..size.1);
                op.by_tiles(simd, rows..size.0, 0..size.1);
            },
        );
        return;
    }
    op.one_by_one(0..size.0, 0..size.1);
}

/// The transpose of a matrix of `rows` times `columns`, on all threads.
pub(crate) fn transposed((rows, columns): (usize, usize), from: &[f32]) -> Vec<f32> {
    const COLUMNS: usize = 64;
    assert!(
        from.len() >= rows.checked_mul(columns).expect("a matrix that fits into memory"),
        "transpose out of bounds"
    );
    // SAFETY: a chunk is a number of rows of the result, and `transpose` writes all their values.
    unsafe {
        filled(columns * rows, COLUMNS * rows, |start, to| {
            transpose((rows, to.len() / rows), &from[start / rows..], columns, to, rows);
        })
    }
}

/// [`transpose`] to initialised memory.
pub(crate) fn transpose_to(
    size: (usize, usize),
    from: &[f32],
    from_row: usize,
    to: &mut [f32],
    to_row: usize,
) {
    let (values, len) = (to.as_mut_ptr().cast::<MaybeUninit<f32>>(), to.len());
    // SAFETY: the same memory, borrowed as long; `transpose` only writes values, so all of it stays initialised.
    transpose(size, from, from_row, unsafe { std::slice::from_raw_parts_mut(values, len) }, to_row);
}

struct Transpose<'a> {
    size: (usize, usize),
    from: &'a [f32],
    from_row: usize,
    to: &'a mut [MaybeUninit<f32>],
    to_row: usize,
}

impl Transpose<'_> {
    #[inline(always)]
    fn one_by_one(&mut self, rows: Range<usize>, columns: Range<usize>) {
        for i in rows {
            for j in columns.clone() {
                self.to[j * self.to_row + i].write(self.from[i * self.from_row + j]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::__m256;

    use pulp::bytemuck::cast;
    use pulp::x86::V3;

    use super::{Range, Transpose};

    /// Rows and columns of a tile: the values of a vector.
    const SIDE: usize = 8;

    impl Transpose<'_> {
        #[inline(always)]
        pub fn by_tiles(&mut self, simd: V3, rows: Range<usize>, columns: Range<usize>) {
            let whole = |range: &Range<usize>| range.start + range.len() / SIDE * SIDE;
            let (last_row, last_column) = (whole(&rows), whole(&columns));
            // Two tiles side by side share cache lines.
            for j in (columns.start..last_column).step_by(2 * SIDE) {
                for i in (rows.start..last_row).step_by(SIDE) {
                    self.tile(simd, i, j);
                    if j + SIDE < last_column {
                        self.tile(simd, i, j + SIDE);
                    }
                }
            }
            self.one_by_one(rows.start..last_row, last_column..columns.end);
            self.one_by_one(last_row..rows.end, columns);
        }

        #[inline(always)]
        fn tile(&mut self, simd: V3, i: usize, j: usize) {
            let mut rows = [[0.0; SIDE]; SIDE];
            for (k, row) in rows.iter_mut().enumerate() {
                row.copy_from_slice(&self.from[(i + k) * self.from_row + j..][..SIDE]);
            }
            for (k, column) in transposed(simd, rows).iter().enumerate() {
                self.to[(j + k) * self.to_row + i..][..SIDE].write_copy_of_slice(column);
            }
        }
    }

    /// Exchanges values, then pairs of values, then halves of the vectors.
    ///
    /// Methods, not closures: a closure that is not inlined is compiled without AVX.
    #[inline(always)]
    fn transposed(simd: V3, rows: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
        let [a, b, c, d, e, f, g, h] = rows;
        let (top, bottom) = (quads(simd, a, b, c, d), quads(simd, e, f, g, h));
        let mut columns = [[0.0; SIDE]; SIDE];
        for k in 0..4 {
            columns[k] = cast(simd.avx._mm256_permute2f128_ps::<0x20>(top[k], bottom[k]));
            columns[k + 4] = cast(simd.avx._mm256_permute2f128_ps::<0x31>(top[k], bottom[k]));
        }
        columns
    }

    type Row = [f32; SIDE];

    /// Transposes four rows: columns 0 to 3 in the lower halves, columns 4 to 7 in the upper halves.
    #[inline(always)]
    fn quads(simd: V3, a: Row, b: Row, c: Row, d: Row) -> [__m256; 4] {
        let avx = simd.avx;
        let (a, b, c, d): (__m256, __m256, __m256, __m256) = (cast(a), cast(b), cast(c), cast(d));
        let (ab, ab_high) = (avx._mm256_unpacklo_ps(a, b), avx._mm256_unpackhi_ps(a, b));
        let (cd, cd_high) = (avx._mm256_unpacklo_ps(c, d), avx._mm256_unpackhi_ps(c, d));
        [
            avx._mm256_shuffle_ps::<0b01_00_01_00>(ab, cd),
            avx._mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
            avx._mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
            avx._mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
        ]
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{__m512, __m512d};

    use pulp::bytemuck::cast;
    use pulp::x86::V4;

    use super::Transpose;

    /// Rows and columns of a tile: the values of a vector.
    const SIDE: usize = 16;

    impl Transpose<'_> {
        /// Transposes the part that full tiles cover, and returns its rows and columns.
        #[inline(always)]
        pub fn by_wide_tiles(&mut self, simd: V4) -> (usize, usize) {
            let (rows, columns) = (self.size.0 / SIDE * SIDE, self.size.1 / SIDE * SIDE);
            for j in (0..columns).step_by(SIDE) {
                for i in (0..rows).step_by(SIDE) {
                    let mut tile = [[0.0; SIDE]; SIDE];
                    for (k, row) in tile.iter_mut().enumerate() {
                        row.copy_from_slice(&self.from[(i + k) * self.from_row + j..][..SIDE]);
                    }
                    for (k, column) in transposed(simd, tile).iter().enumerate() {
                        self.to[(j + k) * self.to_row + i..][..SIDE].write_copy_of_slice(column);
                    }
                }
            }
            (rows, columns)
        }
    }

    type Quads = [__m512; 4];

    /// Exchanges values, then pairs of values, then quarters of the vectors.
    ///
    /// Methods, not closures, as above.
    #[inline(always)]
    fn transposed(simd: V4, rows: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
        let (rows, _) = rows.as_chunks::<4>();
        let (a, b, c, d) =
            (quads(simd, rows[0]), quads(simd, rows[1]), quads(simd, rows[2]), quads(simd, rows[3]));
        let mut columns = [[0.0; SIDE]; SIDE];
        for k in 0..4 {
            let f = simd.avx512f;
            // The first and third quarters of the rows' columns, and the others.
            let (top, top_odd) =
                (f._mm512_shuffle_f32x4::<0x88>(a[k], b[k]), f._mm512_shuffle_f32x4::<0xdd>(a[k], b[k]));
            let (bottom, bottom_odd) =
                (f._mm512_shuffle_f32x4::<0x88>(c[k], d[k]), f._mm512_shuffle_f32x4::<0xdd>(c[k], d[k]));
            columns[k] = cast(f._mm512_shuffle_f32x4::<0x88>(top, bottom));
            columns[k + 4] = cast(f._mm512_shuffle_f32x4::<0x88>(top_odd, bottom_odd));
            columns[k + 8] = cast(f._mm512_shuffle_f32x4::<0xdd>(top, bottom));
            columns[k + 12] = cast(f._mm512_shuffle_f32x4::<0xdd>(top_odd, bottom_odd));
        }
        columns
    }

    /// Of four rows, in every quarter its four columns: the first of each, the second, the third and the fourth.
    #[inline(always)]
    fn quads(simd: V4, rows: [[f32; SIDE]; 4]) -> Quads {
        let f = simd.avx512f;
        let [a, b, c, d]: [__m512; 4] = [cast(rows[0]), cast(rows[1]), cast(rows[2]), cast(rows[3])];
        let (ab, ab_high): (__m512d, __m512d) =
            (cast(f._mm512_unpacklo_ps(a, b)), cast(f._mm512_unpackhi_ps(a, b)));
        let (cd, cd_high): (__m512d, __m512d) =
            (cast(f._mm512_unpacklo_ps(c, d)), cast(f._mm512_unpackhi_ps(c, d)));
        [
            cast(f._mm512_unpacklo_pd(ab, cd)),
            cast(f._mm512_unpackhi_pd(ab, cd)),
            cast(f._mm512_unpacklo_pd(ab_high, cd_high)),
            cast(f._mm512_unpackhi_pd(ab_high, cd_high)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns_in_matrices_of_any_size() {
        for (rows, columns) in
            [(1, 1), (8, 8), (64, 784), (7, 17), (16, 8), (33, 40), (48, 30), (0, 3), (3, 0)]
        {
            let (from_row, to_row) = (columns + 3, rows + 5);
            let from: Vec<f32> = (0..rows * from_row).map(|i| i as f32).collect();
            let mut to = vec![MaybeUninit::new(-1.0); columns * to_row];
            transpose((rows, columns), &from, from_row, &mut to, to_row);
            for (at, value) in to.iter().enumerate() {
                let (j, i) = (at / to_row, at % to_row);
                let expected = if i < rows { from[i * from_row + j] } else { -1.0 };
                // SAFETY: all values were initialised before.
                let found = unsafe { value.assume_init() };
                assert_eq!(found, expected, "{rows}×{columns} at {i}, {j}");
            }
            let from = &from[..rows * columns];
            for (at, value) in transposed((rows, columns), from).iter().enumerate() {
                assert_eq!(*value, from[at % rows * columns + at / rows], "{rows}×{columns} at {at}");
            }
        }
    }
}
