//! Matrix products in the tile registers of AMX, which hold numbers of 16 bits.
//!
//! A number of 24 significant bits is the sum of three bfloat16 of 8, exactly: v = a + b + c, each cut from what the ones
//! before left over. Of the nine products of the parts of two numbers the six largest are added up in f32,
//! aa' + ab' + ba' + bb' + ac' + ca'; what is left out is below 2⁻²¹ of the product of the two, on average below 2⁻²³
//! (Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision
//! computations"). Sums come out about as close to the true ones as `gemm`'s do, as a test shows.
//!
//! AMX takes subnormal numbers for zero, and the parts of infinity do not add up to it. So panels with a number that is
//! not finite, or so small that a part of it may be subnormal, are left to `gemm`. What comes out below 2⁻¹²⁶ on
//! the way becomes zero, so sums about that small are not as exact.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __m512, __m512i};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::LazyLock;

use pulp::bytemuck::cast;
use pulp::x86::V4;
use rayon::prelude::*;

use super::{Finish, Matrix, Product};
use crate::cpu::Aligned;
use crate::transpose::transpose;

/// Rows of a left and columns of a right panel, and the terms that go into one tile of them.
const SIDE: usize = 32;
/// A tile in dwords, each of which holds a pair of terms: sixteen rows of sixteen.
const TILE: usize = 256;
const PARTS: usize = 3;
/// Two tiles of each part: what of a panel belongs to the same terms.
const STEP: usize = 2 * PARTS * TILE;

/// This CPU has AMX, and Linux lets this process use it.
#[derive(Clone, Copy)]
pub(super) struct Amx {
    /// What panels are made with.
    simd: V4,
}

pub(super) fn available() -> Option<Amx> {
    static AVAILABLE: LazyLock<Option<Amx>> = LazyLock::new(|| {
        const TILES_AND_BFLOAT16: u32 = 1 << 24 | 1 << 22;
        const TILE_DATA: libc::c_long = 18;
        const REQUEST_PERMISSION: libc::c_long = 0x1023;
        let simd = V4::try_new()?;
        if __cpuid_count(7, 0).edx & TILES_AND_BFLOAT16 != TILES_AND_BFLOAT16 {
            return None;
        }
        // SAFETY: asks the kernel for room to save tile registers in; it refuses what it does not know.
        #[allow(unsafe_code)]
        let refused = unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) };
        (refused == 0).then_some(Amx { simd })
    });
    *AVAILABLE
}

/// Whether tile registers are the faster way for a product of this size, as measured: panels are full and stay in the
/// second-level cache, and there is enough to multiply for making them to pay.
pub(super) fn suits((m, n, k): (usize, usize, usize)) -> bool {
    const LONGEST: usize = 1024;
    const MULTIPLICATIONS: usize = 1 << 25;
    m.min(n).min(k) >= SIDE && k <= LONGEST && m.saturating_mul(n).saturating_mul(k) >= MULTIPLICATIONS
}

impl Product<'_> {
    /// Whether tile registers are the faster way: the size [`suits`], and strides are those of rows or columns.
    pub fn suits_registers(&self) -> bool {
        let is_plain = |matrix: &Matrix<'_>| matrix.row == 1 || matrix.column == 1;
        suits(self.size) && is_plain(&self.lhs) && is_plain(&self.rhs)
    }

    /// In tile registers, by bands of the longer side; the panels of the shorter one are made once. Nothing is added.
    pub fn in_registers(&self, amx: Amx, finish: Finish<'_>) {
        let (m, n, k) = self.size;
        let by_rows = m >= n;
        let (long, short) = if by_rows { (m, n) } else { (n, m) };
        let side = |i: usize, len: usize| i * SIDE..((i + 1) * SIDE).min(len);
        let panel = |of_rows: bool, side: Range<usize>| match of_rows {
            true => Panel::of_rows(amx.simd, self.lhs, side, k),
            false => Panel::of_columns(amx.simd, self.rhs, side, k),
        };
        let others = (0..short.div_ceil(SIDE)).into_par_iter().with_max_len(1);
        let others: Vec<_> = others.map(|j| panel(!by_rows, side(j, short))).collect();
        (0..long.div_ceil(SIDE)).into_par_iter().with_max_len(1).for_each(|i| {
            let band = side(i, long);
            let own = panel(by_rows, band.clone());
            let registers = Registers::new(amx);
            for (j, other) in others.iter().enumerate() {
                let ((rows, lhs), (columns, rhs)) = if by_rows {
                    ((band.clone(), &own), (side(j, short), other))
                } else {
                    ((side(j, short), other), (band.clone(), &own))
                };
                let (Some(lhs), Some(rhs)) = (lhs, rhs) else {
                    self.tile(rows, columns);
                    continue;
                };
                // SAFETY: `dst` has room for these rows and columns, which nobody else writes.
                #[allow(unsafe_code)]
                unsafe {
                    let to = self.dst.pointer().add(rows.start * n + columns.start);
                    registers.product((lhs, rhs), (rows.len(), columns.len()), to, n);
                }
            }
            // `finish` may have this thread work on another band meanwhile.
            drop(registers);
            let (rows, columns) = if by_rows { (band, 0..n) } else { (0..m, band) };
            self.finish(rows, columns, finish);
        });
    }
}

/// Up to [`SIDE`] rows of a left matrix, or columns of a right one, in tiles of parts, step by step along the sum. For each
/// step there are the parts of the first sixteen, then those of the others; where there is no value, zeros.
struct Panel {
    tiles: Aligned,
    steps: usize,
}

impl Panel {
    /// Of rows of a left matrix, with sums of `k` terms; `None` if it has numbers that do not suit.
    fn of_rows(simd: V4, lhs: Matrix<'_>, rows: Range<usize>, k: usize) -> Option<Self> {
        let data = &lhs.data[rows.start * lhs.row..];
        if lhs.column == 1 {
            return Self::filled(
                simd,
                k,
                #[inline(always)]
                |split, tiles| {
                    for r in 0..SIDE {
                        let terms = if r < rows.len() { &data[r * lhs.row..][..k] } else { &[] };
                        for step in 0..k.div_ceil(SIDE) {
                            let at = step * SIDE;
                            split.pair(vector(terms, at), vector(terms, at + SIDE / 2), tiles, step, r);
                        }
                    }
                },
            );
        }
        let turned = turned((k, rows.len()), data, lhs.column);
        Self::of_rows(simd, Matrix::new(&turned, k), 0..rows.len(), k)
    }

    /// Of columns of a right matrix, with sums of `k` terms; `None` if it has numbers that do not suit.
    fn of_columns(simd: V4, rhs: Matrix<'_>, columns: Range<usize>, k: usize) -> Option<Self> {
        let data = &rhs.data[columns.start * rhs.column..];
        if rhs.column == 1 {
            let row = |k_: usize| if k_ < k { &data[k_ * rhs.row..][..columns.len()] } else { &[] };
            return Self::filled(
                simd,
                k,
                #[inline(always)]
                |split, tiles| {
                    for step in 0..k.div_ceil(SIDE) {
                        for r in 0..SIDE / 2 {
                            let (first, second) = (row(step * SIDE + r), row(step * SIDE + SIDE / 2 + r));
                            for half in [0, SIDE / 2] {
                                split.pair(vector(first, half), vector(second, half), tiles, step, half + r);
                            }
                        }
                    }
                },
            );
        }
        let turned = turned((columns.len(), k), data, rhs.column);
        Self::of_columns(simd, Matrix::new(&turned, columns.len()), 0..columns.len(), k)
    }

    #[allow(unsafe_code)]
    fn filled(simd: V4, k: usize, fill: impl FnOnce(&mut Split, &mut [MaybeUninit<f32>])) -> Option<Self> {
        let steps = k.div_ceil(SIDE);
        let mut split = Split::new(simd);
        // SAFETY: each pair of rows of each step is written.
        let tiles = unsafe {
            Aligned::filled(steps * STEP, |tiles| {
                simd.vectorize(
                    #[inline(always)]
                    || fill(&mut split, tiles),
                );
            })
        };
        split.suits().then_some(Self { tiles, steps })
    }
}

/// A matrix in rows of `row` values with rows and columns exchanged.
#[allow(unsafe_code)]
fn turned((rows, columns): (usize, usize), data: &[f32], row: usize) -> Aligned {
    // SAFETY: the result is as large as the matrix.
    unsafe { Aligned::filled(rows * columns, |to| transpose((rows, columns), data, row, to, rows)) }
}

/// Sixteen values from `at` on, with zeros where there are none.
#[inline(always)]
fn vector(values: &[f32], at: usize) -> __m512 {
    match values.get(at..at + SIDE / 2).and_then(<[f32]>::as_array::<{ SIDE / 2 }>) {
        Some(values) => cast(*values),
        None => {
            let mut filled = [0.0; SIDE / 2];
            let rest = values.get(at..).unwrap_or_default();
            filled[..rest.len()].copy_from_slice(rest);
            cast(filled)
        }
    }
}

/// Numbers of a panel have magnitudes from 2⁻⁹⁸ on, so that no part is subnormal; or they are zero.
const LEAST: u32 = (127 - 98) << 23;

/// Splits values, and watches whether they can be.
struct Split {
    simd: V4,
    /// Of the bits of all magnitudes, less one, as those of zero are no matter.
    smallest: __m512i,
    largest: __m512i,
}

impl Split {
    fn new(simd: V4) -> Self {
        Self { simd, smallest: cast([u32::MAX; 16]), largest: cast([0_u32; 16]) }
    }

    /// Writes the parts of a row of a tile: of each value of `first` beside that of `second`, which is so many terms
    /// further on.
    #[inline(always)]
    fn pair(
        &mut self,
        first: __m512,
        second: __m512,
        tiles: &mut [MaybeUninit<f32>],
        step: usize,
        row: usize,
    ) {
        let f = self.simd.avx512f;
        let (upper, sign): (__m512i, __m512i) = (cast([0xffff_0000_u32; 16]), cast([0x7fff_ffff_u32; 16]));
        let tile = step * STEP + row / 16 * PARTS * TILE + row % 16 * 16;
        let (mut first, mut second): (__m512i, __m512i) = (cast(first), cast(second));
        for values in [first, second] {
            let magnitude = f._mm512_and_si512(values, sign);
            self.smallest =
                f._mm512_min_epu32(self.smallest, f._mm512_sub_epi32(magnitude, cast([1_u32; 16])));
            self.largest = f._mm512_max_epu32(self.largest, magnitude);
        }
        for part in 0..PARTS {
            // The upper halves of both, side by side: (first >> 16) | (second & upper).
            let pair = f._mm512_ternarylogic_epi32::<0xf8>(f._mm512_srli_epi32::<16>(first), second, upper);
            tiles[tile + part * TILE..][..16].write_copy_of_slice(&cast::<_, [f32; 16]>(pair));
            first = cast(f._mm512_sub_ps(cast(first), cast(f._mm512_and_si512(first, upper))));
            second = cast(f._mm512_sub_ps(cast(second), cast(f._mm512_and_si512(second, upper))));
        }
    }

    fn suits(&self) -> bool {
        let (smallest, largest): ([u32; 16], [u32; 16]) = (cast(self.smallest), cast(self.largest));
        smallest.iter().all(|bits| *bits >= LEAST - 1)
            && largest.iter().all(|bits| *bits < f32::INFINITY.to_bits())
    }
}

/// This thread's tile registers, while they are in use.
struct Registers(PhantomData<*const ()>);

impl Registers {
    /// Eight of sixteen rows of 64 bytes.
    #[allow(unsafe_code)]
    fn new(_: Amx) -> Self {
        #[repr(C, align(64))]
        struct Palette([u8; 64]);
        let mut palette = Palette([0; 64]);
        palette.0[0] = 1;
        for register in 0..8 {
            palette.0[16 + 2 * register] = 64;
            palette.0[48 + register] = 16;
        }
        // SAFETY: there are tile registers, and this is one of the ways to lay them out.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &palette.0, options(nostack, readonly)) };
        Self(PhantomData)
    }

    /// Writes the product of two panels, [`SIDE`] rows of [`SIDE`] values, the rows `row` values apart.
    ///
    /// # Safety
    /// All of these may be written; the panels have equally many steps, and at least one.
    #[allow(unsafe_code)]
    unsafe fn multiply(&self, lhs: &Panel, rhs: &Panel, to: *mut f32, row: usize) {
        // Registers 0 to 3 are the sums, by halves of rows and columns; 4 and 5 hold a part of the left panel's halves, 6
        // and 7 one of the right's. Each is used four times before the next is loaded.
        //
        // SAFETY: as the caller says; a step of a panel is 6144 bytes, of which each part of a half is 1024.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                // aa'
                "tileloadd tmm4, [{a} + {line}]", "tileloadd tmm6, [{b} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {line} + 3072]", "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line} + 3072]", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                // ab'
                "tileloadd tmm6, [{b} + {line} + 1024]", "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {line} + 4096]", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm3, tmm5, tmm7",
                // ac'
                "tileloadd tmm6, [{b} + {line} + 2048]", "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {line} + 5120]", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm3, tmm5, tmm7",
                // bb'
                "tileloadd tmm4, [{a} + {line} + 1024]", "tileloadd tmm6, [{b} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {line} + 4096]", "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line} + 4096]", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                // ba'
                "tileloadd tmm6, [{b} + {line}]", "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {line} + 3072]", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm3, tmm5, tmm7",
                // ca'
                "tileloadd tmm4, [{a} + {line} + 2048]", "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line} + 5120]", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 6144", "add {b}, 6144", "dec {steps}", "jnz 2b",
                "tilestored [{top} + {row}], tmm0", "tilestored [{top} + {row} + 64], tmm1",
                "tilestored [{bottom} + {row}], tmm2", "tilestored [{bottom} + {row} + 64], tmm3",
                a = inout(reg) lhs.tiles.as_ptr() => _,
                b = inout(reg) rhs.tiles.as_ptr() => _,
                steps = inout(reg) lhs.steps => _,
                line = in(reg) 64_usize,
                top = in(reg) to,
                bottom = in(reg) to.add(SIDE / 2 * row),
                row = in(reg) row * size_of::<f32>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Writes the first rows and columns of the product of two panels; the rows are `row` values apart.
    ///
    /// # Safety
    /// All of these may be written.
    #[allow(unsafe_code)]
    unsafe fn product(
        &self,
        (lhs, rhs): (&Panel, &Panel),
        (rows, columns): (usize, usize),
        to: *mut f32,
        row: usize,
    ) {
        assert!(lhs.steps == rhs.steps && lhs.steps > 0 && rows <= SIDE && columns <= SIDE);
        if (rows, columns) == (SIDE, SIDE) {
            // SAFETY: the caller vouches for it.
            return unsafe { self.multiply(lhs, rhs, to, row) };
        }
        let mut all = Sums([0.0; SIDE * SIDE]);
        // SAFETY: there is room for all; of `to` no more is written than the caller vouches for.
        unsafe {
            self.multiply(lhs, rhs, all.0.as_mut_ptr(), SIDE);
            for (i, sums) in all.0.chunks_exact(SIDE).take(rows).enumerate() {
                to.add(i * row).copy_from_nonoverlapping(sums.as_ptr(), columns);
            }
        }
    }
}

#[repr(C, align(64))]
struct Sums([f32; SIDE * SIDE]);

impl Drop for Registers {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: nobody but `self` uses them. Registers that are not in use need not be saved.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
