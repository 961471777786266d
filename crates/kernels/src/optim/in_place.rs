//! Steps of the optimisers on the CPU, in place.

use std::iter::repeat_n;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result};

use super::norms::{Norms, Squares};
use super::rule::Constants;
use crate::autograd::Pending;
use crate::parallel::{CHUNK, DisjointSlices};
use crate::simd::simd;
use crate::values::values;

/// The norms of squares that threads have added in any order.
pub(super) fn summed(squares: Mutex<Vec<(usize, Squares)>>) -> Norms {
    let mut squares = squares.into_inner().unwrap_or_else(PoisonError::into_inner);
    squares.sort_unstable_by_key(|(first, _)| *first);
    squares.iter().fold(Squares::default(), |sum, (_, squares)| sum.plus(*squares)).norms()
}

/// Constants of each row, and a correction of each column or none, for a parameter of which some rows or columns were reset.
pub(super) struct Parts {
    pub rows: Vec<Constants<'static>>,
    pub columns: Vec<(f32, f32)>,
}

/// A step of one parameter in place. Its gradient is candle's second argument, for `of: ()` and `of: &Parts`; or it is
/// `of: &dyn Pending`.
pub(super) struct Step<'a, P> {
    pub constants: Constants<'a>,
    /// In a lock because candle hands operations out by shared reference; taken once per step.
    pub slots: Mutex<&'a mut Vec<Vec<f32>>>,
    pub of: P,
    /// Where the squares go, each with the index of its first element; `None` if nobody asks for them.
    pub squares: Option<&'a Mutex<Vec<(usize, Squares)>>>,
}

impl<P> Step<'_, P> {
    /// Calls `step` with the values of the parameter and of both slots; those that the rule does not have are empty.
    fn with(
        &self,
        parameter: &mut CpuStorage,
        layout: &Layout,
        step: impl FnOnce(&mut [f32], &mut [f32], &mut [f32]),
    ) -> Result<()> {
        let (CpuStorage::F32(parameter), Some((start, end))) = (parameter, layout.contiguous_offsets())
        else {
            candle_core::bail!("expected a contiguous f32 parameter, found layout {layout:?}");
        };
        let mut slots = self.slots.lock().map_err(|_| {
            candle_core::Error::Msg("optimizer: an earlier step of this parameter panicked".into())
        })?;
        let (a, b): (&mut [f32], &mut [f32]) = match &mut slots[..] {
            [a, b] => (a, b),
            [a] => (a, &mut []),
            _ => (&mut [], &mut []),
        };
        step(&mut parameter[start..end], a, b);
        Ok(())
    }

    fn add(&self, start: usize, squares: Squares) {
        if let Some(all) = self.squares {
            // Poisoned by a panic, which is passed on.
            all.lock().unwrap_or_else(PoisonError::into_inner).push((start, squares));
        }
    }
}

impl InplaceOp2 for Step<'_, ()> {
    fn name(&self) -> &'static str {
        "optimizer step"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let gradient = values(gradient, gradient_layout)?;
        self.with(parameter, layout, |p, a, b| {
            self.add(0, step(self.constants, p, gradient, a, b, self.squares.is_some()));
        })
    }
}

impl InplaceOp2 for Step<'_, &Parts> {
    fn name(&self) -> &'static str {
        "optimizer step"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let gradient = values(gradient, gradient_layout)?;
        let Parts { rows, columns } = self.of;
        let width = gradient.len() / rows.len().max(1);
        // A column of a convolution is a kernel of several values.
        let each = width / columns.len().max(1);
        let columns: Vec<_> = columns.iter().flat_map(|own| repeat_n(*own, each)).collect();
        self.with(parameter, layout, |p, a, b| {
            for (row, constants) in rows.iter().enumerate() {
                let own = row * width..(row + 1) * width;
                // A slot that the rule does not have is empty.
                let (a, b) = (a.get_mut(own.clone()), b.get_mut(own.clone()));
                let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
                let (p, gradient) = (&mut p[own.clone()], &gradient[own.clone()]);
                let constants = constants.with_columns(&columns);
                self.add(own.start, step(constants, p, gradient, a, b, self.squares.is_some()));
            }
        })
    }
}

fn step(
    constants: Constants<'_>,
    parameter: &mut [f32],
    gradient: &[f32],
    a: &mut [f32],
    b: &mut [f32],
    measure: bool,
) -> Squares {
    if parameter.len() > CHUNK {
        let half = parameter.len() / 2 / 16 * 16;
        let split = |slot: &'_ [f32]| half.min(slot.len());
        let (a_split, b_split) = (split(a), split(b));
        let ((p0, p1), (g0, g1)) = (parameter.split_at_mut(half), gradient.split_at(half));
        let ((a0, a1), (b0, b1)) = (a.split_at_mut(a_split), b.split_at_mut(b_split));
        let columns = constants.columns.split_at(half.min(constants.columns.len()));
        let (first, second) = rayon::join(
            || step(constants.with_columns(columns.0), p0, g0, a0, b0, measure),
            || step(constants.with_columns(columns.1), p1, g1, a1, b1, measure),
        );
        return first.plus(second);
    }
    simd(
        #[inline(always)]
        || {
            let mut squares = Squares::default();
            match measure {
                true => constants.measured_step(parameter, 1.0, gradient, a, b, &mut squares),
                false => constants.step(parameter, 1.0, gradient, a, b),
            }
            squares
        },
    )
}

impl InplaceOp1 for Step<'_, &dyn Pending> {
    fn name(&self) -> &'static str {
        "optimizer step"
    }

    /// Computes the gradient tile by tile, and updates the tile's parameters while it is in the cache.
    fn cpu_fwd(&self, parameter: &mut CpuStorage, layout: &Layout) -> Result<()> {
        /// Rows from the one that is updated to the one that is prefetched.
        const AHEAD: usize = 8;
        self.with(parameter, layout, |p, a, b| {
            let (p, a, b) = (DisjointSlices::of(p), DisjointSlices::of(a), DisjointSlices::of(b));
            let (width, measure) = (self.of.size().1, self.squares.is_some());
            self.of.for_tiles(&|rows, columns, tile| {
                let first = rows.start * width + columns.start;
                let squares = simd(
                    #[inline(always)]
                    || {
                        let mut squares = Squares::default();
                        for (k, row) in rows.enumerate() {
                            let (factor, gradient) = tile.row(k, columns.len());
                            // Units that are off have no gradient.
                            if factor == 0.0 && self.constants.ignores_zeros() && !measure {
                                continue;
                            }
                            let own = row * width + columns.start..row * width + columns.end;
                            // Parts of rows lie in different pages, which the hardware does not prefetch.
                            if columns.len() < width {
                                let ahead = own.start + AHEAD * width..own.end + AHEAD * width;
                                [p, a, b].iter().for_each(|values| values.prefetch(ahead.clone()));
                            }
                            // SAFETY: `Pending::for_tiles` has every element in one tile, and all are initialised.
                            let (p, a, b) =
                                unsafe { (p.part(own.clone()), a.part(own.clone()), b.part(own)) };
                            match measure {
                                true => self.constants.measured_step(p, factor, gradient, a, b, &mut squares),
                                false => self.constants.step(p, factor, gradient, a, b),
                            }
                        }
                        squares
                    },
                );
                self.add(first, squares);
            });
        })
    }
}
