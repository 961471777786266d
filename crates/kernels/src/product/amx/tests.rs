use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::super::matmul;
use super::*;

type Size = (usize, usize, usize);

/// For tests of what this CPU may not have.
fn or_skip<T>(found: Option<T>) -> Option<T> {
    if found.is_none() {
        println!("skipped: this CPU lacks what is tested");
    }
    found
}

fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A matrix in rows or in columns.
fn matrix(data: &[f32], (rows, columns): (usize, usize), in_rows: bool) -> Matrix<'_> {
    if in_rows { Matrix::new(data, columns) } else { Matrix::new(data, rows).transposed() }
}

fn element(of: Matrix<'_>, row: usize, column: usize) -> f32 {
    of.data[row * of.row + column * of.column]
}

/// Calls `f` with a product whose results nobody has written yet.
#[allow(unsafe_code)]
fn with_product<R>(
    size: Size,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    f: impl FnOnce(Product<'_>) -> R,
) -> (Vec<f32>, R) {
    let mut dst = vec![f32::NAN; size.0 * size.1];
    // SAFETY: `dst` has room for all values.
    let result = f(unsafe { Product::new(size, dst.as_mut_ptr(), false, lhs, rhs) });
    (dst, result)
}

/// In tile registers, whatever the size.
fn in_registers(amx: Amx, size: Size, lhs: Matrix<'_>, rhs: Matrix<'_>) -> Vec<f32> {
    with_product(size, lhs, rhs, |product| product.in_registers(amx, &|_, _, _| ())).0
}

fn by_gemm(size: Size, lhs: Matrix<'_>, rhs: Matrix<'_>) -> Vec<f32> {
    let mut dst = vec![0.0; size.0 * size.1];
    matmul(size, &mut dst, false, lhs, rhs);
    dst
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The square root of the mean square of what results are off by.
fn error(size: Size, lhs: Matrix<'_>, rhs: Matrix<'_>, results: &[f32]) -> f64 {
    let (_, n, k) = size;
    let off = |(at, result): (usize, &f32)| {
        let term = |t: usize| f64::from(element(lhs, at / n, t)) * f64::from(element(rhs, t, at % n));
        let sum: f64 = (0..k).map(term).sum();
        (sum - f64::from(*result)).powi(2)
    };
    (results.iter().enumerate().map(off).sum::<f64>() / results.len() as f64).sqrt()
}

#[test]
fn products_are_about_as_close_to_the_true_ones_as_those_by_gemm() {
    let Some(amx) = or_skip(available()) else { return };
    let sizes = [(32, 32, 32), (33, 47, 65), (100, 35, 129), (64, 96, 300), (31, 70, 784), (257, 50, 1000)];
    for (seed, (m, n, k)) in (0..).zip(sizes) {
        for positive in [false, true] {
            let of_sign = |mut values: Vec<f32>| {
                values.iter_mut().filter(|_| positive).for_each(|value| *value = value.abs());
                values
            };
            let (a, b) = (of_sign(random(seed, m * k)), of_sign(random(seed + 100, k * n)));
            for (a_in_rows, b_in_rows) in [(true, true), (true, false), (false, true), (false, false)] {
                let (lhs, rhs) = (matrix(&a, (m, k), a_in_rows), matrix(&b, (k, n), b_in_rows));
                let own = error((m, n, k), lhs, rhs, &in_registers(amx, (m, n, k), lhs, rhs));
                let gemms = error((m, n, k), lhs, rhs, &by_gemm((m, n, k), lhs, rhs));
                println!("{m}×{k} by {k}×{n}, {positive}: off by {own:e}, gemm by {gemms:e}");
                // In which order a CPU adds up the terms of a tile is its own affair.
                assert!(own <= 4.0 * gemms, "{m}×{k} by {k}×{n}: off by {own:e}, gemm by {gemms:e}");
            }
        }
    }
}

#[test]
fn every_part_of_a_row_is_finished_once_and_after_it_was_written() {
    let Some(amx) = or_skip(available()) else { return };
    for (m, n, k) in [(70, 100, 40), (100, 70, 40)] {
        let (a, b) = (random(1, m * k), random(2, k * n));
        let (lhs, rhs) = (Matrix::new(&a, k), Matrix::new(&b, n));
        let finish = |row: usize, first: usize, values: &mut [f32]| {
            for (column, value) in (first..).zip(values) {
                *value = 2.0 * *value + (row * n + column) as f32;
            }
        };
        let (finished, ()) = with_product((m, n, k), lhs, rhs, |product| product.in_registers(amx, &finish));
        let mut expected = in_registers(amx, (m, n, k), lhs, rhs);
        expected.chunks_exact_mut(n).enumerate().for_each(|(row, values)| finish(row, 0, values));
        assert_eq!(bits(&finished), bits(&expected), "{m}×{k} by {k}×{n}");
    }
}

#[test]
fn panels_with_numbers_that_do_not_suit_are_left_to_gemm() {
    let Some(amx) = or_skip(available()) else { return };
    let (m, n, k) = (70, 101, 45);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-30, -1e-40] {
        for (in_rows, a_has_it) in [(true, true), (true, false), (false, true), (false, false)] {
            let (mut a, mut b) = (random(1, m * k), random(2, k * n));
            // In row 40 of the left, or column 40 of the right matrix: in the second panel.
            match (a_has_it, in_rows) {
                (true, true) => a[40 * k + 20] = value,
                (true, false) => a[20 * m + 40] = value,
                (false, true) => b[20 * n + 40] = value,
                (false, false) => b[40 * k + 20] = value,
            }
            let (lhs, rhs) = (matrix(&a, (m, k), in_rows), matrix(&b, (k, n), in_rows));
            let found = in_registers(amx, (m, n, k), lhs, rhs);
            for (i, j) in (0..m.div_ceil(SIDE)).flat_map(|i| (0..n.div_ceil(SIDE)).map(move |j| (i, j))) {
                let (rows, columns) = (i * SIDE..m.min((i + 1) * SIDE), j * SIDE..n.min((j + 1) * SIDE));
                let lhs = Matrix { data: &lhs.data[rows.start * lhs.row..], ..lhs };
                let rhs = Matrix { data: &rhs.data[columns.start * rhs.column..], ..rhs };
                let size = (rows.len(), columns.len(), k);
                let left_to_gemm = if a_has_it { i == 1 } else { j == 1 };
                let expected =
                    if left_to_gemm { by_gemm(size, lhs, rhs) } else { in_registers(amx, size, lhs, rhs) };
                for (row, expected) in rows.zip(expected.chunks_exact(columns.len())) {
                    let found = &found[row * n..][columns.clone()];
                    assert_eq!(bits(found), bits(expected), "{value:e}, row {row}, columns {columns:?}");
                }
            }
        }
    }
}

#[test]
fn the_same_bits_with_any_number_of_threads() {
    let Some(amx) = or_skip(available()) else { return };
    for (m, n, k) in [(300, 101, 70), (101, 300, 70), (64, 64, 64)] {
        let (a, b) = (random(1, m * k), random(2, k * n));
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            bits(&pool.install(|| {
                in_registers(amx, (m, n, k), matrix(&a, (m, k), true), matrix(&b, (k, n), false))
            }))
        };
        let one = with(1);
        assert!(one == with(2) && one == with(3), "{m}×{k} by {k}×{n}");
    }
}

/// Values of all exponents that suit, with all kinds of low bits.
fn of_all_sizes(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let patterns = [0, 1, 0x7f_ffff, 0x40_8081, 0x00_8000, 0x00_7fff];
    let mut value = |i: usize| {
        let exponent: u32 = rng.random_range(127 - 98..255);
        let fraction = patterns.get(i % 9).copied().unwrap_or_else(|| rng.random_range(0..1 << 23));
        let magnitude = if i % 10 == 7 { 0 } else { exponent << 23 | fraction };
        f32::from_bits(magnitude | u32::from(rng.random_bool(0.5)) << 31)
    };
    (0..n).map(&mut value).collect()
}

#[test]
fn the_parts_of_a_value_add_up_to_it_exactly_and_all_else_is_zero() {
    let Some(simd) = or_skip(V4::try_new()) else { return };
    // The parts of what is in row or column `r` of a panel and belongs to term `t`, added up.
    let of_row = |panel: &Panel, r: usize, t: usize| {
        let (tile, at) = (t / SIDE * STEP + r / 16 * PARTS * TILE, r % 16 * 16 + t % 16);
        sum_of_parts(panel, tile + at, t % SIDE >= 16)
    };
    let of_column = |panel: &Panel, r: usize, t: usize| {
        let (tile, at) = (t / SIDE * STEP + r / 16 * PARTS * TILE, t % 16 * 16 + r % 16);
        sum_of_parts(panel, tile + at, t % SIDE >= 16)
    };
    for (seed, (sides, k)) in (0..).zip([(32, 32), (33, 64), (47, 31), (70, 100), (64, 1000)]) {
        let values = of_all_sizes(seed, sides * k);
        for in_rows in [true, false] {
            let lhs = matrix(&values, (sides, k), in_rows);
            let rhs = matrix(&values, (k, sides), in_rows);
            for start in (0..sides).step_by(SIDE) {
                let side = start..sides.min(start + SIDE);
                let rows = Panel::of_rows(simd, lhs, side.clone(), k).unwrap();
                let columns = Panel::of_columns(simd, rhs, side.clone(), k).unwrap();
                let terms = k.next_multiple_of(SIDE);
                assert_eq!((rows.steps, columns.steps), (terms / SIDE, terms / SIDE));
                for (r, t) in (0..SIDE).flat_map(|r| (0..terms).map(move |t| (r, t))) {
                    let there_is_one = r < side.len() && t < k;
                    let (left, right) = match there_is_one {
                        true => (element(lhs, start + r, t), element(rhs, t, start + r)),
                        false => (0.0, 0.0),
                    };
                    assert_eq!(of_row(&rows, r, t), f64::from(left), "row {r}, term {t}");
                    assert_eq!(of_column(&columns, r, t), f64::from(right), "column {r}, term {t}");
                }
            }
        }
    }
}

/// Of a number in the lower or the upper halves of dwords.
fn sum_of_parts(panel: &Panel, at: usize, is_upper: bool) -> f64 {
    let part = |part: usize| {
        let pair = panel.tiles[at + part * TILE].to_bits();
        let part = f32::from_bits(if is_upper { pair & 0xffff_0000 } else { pair << 16 });
        assert!(part == 0.0 || part.is_normal(), "{part:e} counts as zero");
        f64::from(part)
    };
    (0..PARTS).map(part).sum()
}

#[test]
fn panels_suit_unless_a_number_is_not_finite_or_too_small() {
    let Some(simd) = or_skip(V4::try_new()) else { return };
    let least = f32::from_bits(LEAST);
    let suitable = [0.0, -0.0, least, -least, 1.0, f32::MAX, f32::MIN];
    let others = [
        f32::NAN,
        -f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        least.next_down(),
        -least.next_down(),
        f32::MIN_POSITIVE,
        -1e-40,
        f32::from_bits(1),
    ];
    let (sides, k) = (33, 50);
    for (value, suits) in suitable.map(|value| (value, true)).into_iter().chain(others.map(|v| (v, false))) {
        for at in [0, 37, sides * k - 1] {
            let mut values = random(3, sides * k);
            values[at] = value;
            for in_rows in [true, false] {
                let (lhs, rhs) = (matrix(&values, (sides, k), in_rows), matrix(&values, (k, sides), in_rows));
                let panels = [0..SIDE, SIDE..sides].map(|side| {
                    let has_it = |of_rows: bool| {
                        let found = |t: usize, r: usize| {
                            let found = if of_rows { element(lhs, r, t) } else { element(rhs, t, r) };
                            found.to_bits() == value.to_bits()
                        };
                        side.clone().any(|r| (0..k).any(|t| found(t, r)))
                    };
                    let rows =
                        Panel::of_rows(simd, lhs, side.clone(), k).is_some() == (suits || !has_it(true));
                    rows && Panel::of_columns(simd, rhs, side.clone(), k).is_some()
                        == (suits || !has_it(false))
                });
                assert_eq!(panels, [true, true], "{value:e} at {at}");
            }
        }
    }
}

#[test]
fn products_that_suit_are_large_with_sums_that_are_not_long_of_matrices_in_rows_or_columns() {
    let data = vec![0.0; 1 << 21];
    let suits = |(m, n, k): Size, column: Option<usize>| {
        let (mut lhs, rhs) = (Matrix::new(&data, k), Matrix::new(&data, n));
        lhs.column = column.unwrap_or(lhs.column);
        with_product((m, n, k), lhs, rhs, |product| product.suits_registers()).1
    };
    let sizes = [
        ((1024, 1024, 32), true),
        ((1023, 1024, 32), false),
        ((32, 1024, 1024), true),
        ((1024, 32, 1024), true),
        ((64, 1024, 1024), true),
        ((64, 1024, 1025), false),
        ((31, 2048, 1024), false),
        ((2048, 31, 1024), false),
        ((1024, 2048, 31), false),
        ((128, 1000, 784), true),
        ((128, 10, 1000), false),
        ((128, 128, 9216), false),
    ];
    for (size, expected) in sizes {
        assert_eq!(suits(size, None), expected, "{size:?}");
    }
    assert!(!suits((1024, 1024, 32), Some(2)), "neither in rows nor in columns");
}
