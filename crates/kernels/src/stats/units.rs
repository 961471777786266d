use pulp::{Simd, bytemuck};

use super::span::{count, widen};

/// Sums per unit, which `measure` adds to.
///
/// # Shapes
/// Each `(units)`.
pub struct UnitSums<'a> {
    /// Values above 0.
    pub fired: &'a mut [u64],
    /// Values with `f'(x) ≠ 0`.
    pub passed: &'a mut [u64],
    /// Sum of the values.
    pub sum: &'a mut [f64],
    /// Sum of the negative values.
    pub below: &'a mut [f64],
    /// Sum of the squares; `None` if not wanted.
    pub sum_squares: Option<&'a mut [f64]>,
}

impl UnitSums<'_> {
    /// Adds the sum, the sum of the negative values and the sum of the squares of each unit.
    pub(super) fn add_planes(&mut self, planes: &[[f64; 3]]) {
        for (u, [sum, below, sum_squares]) in planes.iter().enumerate() {
            self.sum[u] += sum;
            self.below[u] += below;
            if let Some(squares) = &mut self.sum_squares {
                squares[u] += sum_squares;
            }
        }
    }

    /// Adds rows of `(.., units)`, as many units at a time as a vector has lanes, so their sums stay in registers.
    /// Positive values are counted in `fired`.
    #[inline(always)]
    pub(super) fn add_rows<S: Simd>(&mut self, simd: S, ys: &[f32], fired: &mut [u64], has_negatives: bool) {
        let units = fired.len();
        let rest = units / S::F32_LANES * S::F32_LANES;
        for first in (0..rest).step_by(S::F32_LANES) {
            let own = first..first + S::F32_LANES;
            let (zero, nothing) = (simd.splat_f32s(0.0), [simd.splat_f64s(0.0); 2]);
            let (mut own_fired, mut sums, mut below, mut squares) =
                (simd.splat_u32s(0), nothing, nothing, nothing);
            for row in ys.chunks_exact(units) {
                let ys = S::as_simd_f32s(&row[own.clone()]).0[0];
                own_fired = count(simd, own_fired, simd.less_than_f32s(zero, ys));
                let ys: &[f32] = bytemuck::cast_slice(std::slice::from_ref(&ys));
                for (half, ys) in ys.chunks_exact(S::F64_LANES).enumerate() {
                    let ys = widen(simd, ys);
                    sums[half] = simd.add_f64s(sums[half], ys);
                    squares[half] = simd.mul_add_e_f64s(ys, ys, squares[half]);
                    if has_negatives {
                        below[half] = simd.add_f64s(below[half], simd.min_f64s(ys, nothing[0]));
                    }
                }
            }
            let own_fired: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&own_fired));
            fired[own.clone()].iter_mut().zip(own_fired).for_each(|(unit, n)| *unit = u64::from(*n));
            let add = |units: &mut [f64], sums: [S::f64s; 2]| {
                let units = S::as_mut_simd_f64s(&mut units[own.clone()]).0;
                units.iter_mut().zip(sums).for_each(|(unit, sum)| *unit = simd.add_f64s(*unit, sum));
            };
            add(self.sum, sums);
            if has_negatives {
                add(self.below, below);
            }
            if let Some(units) = &mut self.sum_squares {
                add(units, squares);
            }
        }
        for row in ys.chunks_exact(units) {
            for (u, y) in (rest..).zip(&row[rest..]) {
                let y64 = f64::from(*y);
                fired[u] += u64::from(*y > 0.0);
                self.sum[u] += y64;
                self.below[u] += y64.min(0.0);
                if let Some(squares) = &mut self.sum_squares {
                    squares[u] += y64 * y64;
                }
            }
        }
    }
}
