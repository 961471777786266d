use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, DType, InplaceOp1, InplaceOp2, Layout, Result, Tensor, Var};

use super::norms::{self, Norms, Squares};
use super::rule::{Constants, Rule};
use super::twin;
use crate::autograd::{Form, Pending, VarGradient};
use crate::parallel::{CHUNK, DisjointSlices};
use crate::simd::simd;
use crate::values::{is_fast, values};

/// What a rule remembers about one parameter between steps: for every slot, a value per element.
#[derive(Clone, Debug)]
pub enum Slots {
    /// Beside a parameter on the CPU, in f32.
    Cpu(Vec<Vec<f32>>),
    /// Beside any other parameter, on its device.
    Device(Vec<Tensor>),
}

impl Slots {
    /// Slots at zero, as every rule starts.
    pub fn new(rule: &Rule, parameter: &Var) -> Result<Self> {
        let slots = rule.slots();
        if is_fast(&[parameter]) {
            Ok(Self::Cpu(vec![vec![0.0; parameter.elem_count()]; slots.len()]))
        } else {
            Ok(Self::Device(slots.iter().map(|_| parameter.zeros_like()).collect::<Result<_>>()?))
        }
    }

    /// The slots as tensors of the parameter's shape, on its device, in the order of [`Rule::slots`]: to be written
    /// down.
    pub fn tensors(&self, parameter: &Var) -> Result<Vec<Tensor>> {
        match self {
            Self::Cpu(slots) => {
                let tensor =
                    |slot: &Vec<f32>| Tensor::from_slice(slot, parameter.shape(), parameter.device());
                slots.iter().map(tensor).collect()
            }
            // Copies, as a step changes the slots in place.
            Self::Device(slots) => slots.iter().map(Tensor::copy).collect(),
        }
    }

    /// Sets some rows (indices of the parameter's first dimension) to 0, as at the start.
    ///
    /// # Errors
    /// When candle cannot make the tensors.
    pub fn reset_rows(&mut self, parameter: &Var, rows: &[usize]) -> Result<()> {
        let count = parameter.dims().first().copied().unwrap_or(1);
        let width = parameter.elem_count() / count.max(1);
        match self {
            Self::Cpu(slots) => {
                for slot in slots {
                    rows.iter().for_each(|row| slot[row * width..][..width].fill(0.0));
                }
            }
            Self::Device(slots) => {
                let kept: Vec<f32> = (0..count).map(|row| f32::from(!rows.contains(&row))).collect();
                let mut shape = vec![1; parameter.rank()];
                shape[0] = count;
                let kept = Tensor::from_vec(kept, shape, parameter.device())?.to_dtype(parameter.dtype())?;
                for slot in slots {
                    *slot = slot.broadcast_mul(&kept)?;
                }
            }
        }
        Ok(())
    }

    fn len(&self) -> usize {
        match self {
            Self::Cpu(slots) => slots.len(),
            Self::Device(slots) => slots.len(),
        }
    }

    /// Slots from tensors that [`Slots::tensors`] gave.
    ///
    /// # Errors
    /// When a tensor has another shape than the parameter.
    pub fn from_tensors(parameter: &Var, tensors: &[Tensor]) -> Result<Self> {
        for tensor in tensors {
            if tensor.shape() != parameter.shape() {
                candle_core::bail!(
                    "optimizer state: expected shape {:?}, found {:?}",
                    parameter.shape(),
                    tensor.shape()
                );
            }
        }
        if is_fast(&[parameter]) {
            let values = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
            Ok(Self::Cpu(tensors.iter().map(values).collect::<Result<_>>()?))
        } else {
            let own = |t: &Tensor| t.to_device(parameter.device())?.to_dtype(parameter.dtype())?.copy();
            Ok(Self::Device(tensors.iter().map(own).collect::<Result<_>>()?))
        }
    }

    /// Updates `parameter` with `gradient` by one step: parameter, gradient and slots are read once.
    ///
    /// `step` counts from 1; `rate` is the learning rate of this step.
    ///
    /// # Errors
    /// When the gradient has another shape than the parameter, or the slots are those of another rule.
    pub fn step(
        &mut self,
        rule: &Rule,
        parameter: &Var,
        gradient: &VarGradient,
        rate: f64,
        step: u64,
    ) -> Result<()> {
        self.update(rule, parameter, gradient, (rate, step), false).map(drop)
    }

    /// As [`Slots::step`], and returns the norms of gradient, parameter and update, which are summed up as they pass. The
    /// parameter is the same to the bit.
    ///
    /// # Errors
    /// As [`Slots::step`].
    pub fn measured_step(
        &mut self,
        rule: &Rule,
        parameter: &Var,
        gradient: &VarGradient,
        rate: f64,
        step: u64,
    ) -> Result<Norms> {
        self.update(rule, parameter, gradient, (rate, step), true)
    }

    /// Norms of 0 unless `measure`.
    fn update(
        &mut self,
        rule: &Rule,
        parameter: &Var,
        gradient: &VarGradient,
        (rate, step): (f64, u64),
        measure: bool,
    ) -> Result<Norms> {
        self.check(rule, parameter, gradient)?;
        match self {
            Self::Cpu(slots) => {
                let (constants, slots) = (rule.constants(rate, step), Mutex::new(slots));
                let squares = measure.then(|| Mutex::new(Vec::new()));
                match &gradient.0 {
                    Form::Values(tensor) => {
                        let step = Step { constants, slots, of: (), squares: squares.as_ref() };
                        parameter.inplace_op2(&tensor.contiguous()?, &step)?;
                    }
                    Form::Pending(pending) => {
                        let (of, squares) = (&**pending, squares.as_ref());
                        parameter.inplace_op1(&Step { constants, slots, of, squares })?;
                    }
                }
                Ok(summed(squares))
            }
            Self::Device(slots) => {
                let gradient = gradient.values()?;
                #[cfg(feature = "cuda")]
                if !measure && crate::cuda::is_fast(&[parameter]) && parameter.is_contiguous() {
                    crate::cuda::optim::step(rule, parameter, &gradient, slots, rate, step)?;
                    return Ok(Norms::default());
                }
                let new = twin::step(rule, parameter, &gradient, slots, rate, step)?;
                let norms = match measure {
                    true => norms::twin(parameter, &new, &gradient)?,
                    false => Norms::default(),
                };
                parameter.set(&new)?;
                Ok(norms)
            }
        }
    }

    /// As [`Slots::step`], with a step count for each row: for parameters some rows of which were reset.
    ///
    /// Norms are 0 unless `measure`.
    ///
    /// # Shapes
    /// `steps`: as many as the parameter's first dimension, each at least 1.
    ///
    /// # Errors
    /// As [`Slots::step`], and when there are more or fewer steps.
    pub fn step_rows(
        &mut self,
        rule: &Rule,
        parameter: &Var,
        gradient: &VarGradient,
        rate: f64,
        steps: &[u64],
        measure: bool,
    ) -> Result<Norms> {
        self.check(rule, parameter, gradient)?;
        let rows = parameter.dims().first().copied().unwrap_or(1);
        if steps.len() != rows {
            candle_core::bail!("optimizer: expected steps of {rows} rows, found {}", steps.len());
        }
        let gradient = gradient.values()?.contiguous()?;
        match self {
            Self::Cpu(slots) => {
                let each: Vec<Constants> = steps.iter().map(|step| rule.constants(rate, *step)).collect();
                let (constants, slots) = (rule.constants(rate, 1), Mutex::new(slots));
                let squares = measure.then(|| Mutex::new(Vec::new()));
                let step = Step { constants, slots, of: &each[..], squares: squares.as_ref() };
                parameter.inplace_op2(&gradient, &step)?;
                Ok(summed(squares))
            }
            Self::Device(slots) => {
                let (mut moved, mut new) = (Vec::new(), vec![Vec::new(); slots.len()]);
                for (row, step) in steps.iter().enumerate() {
                    let of = |tensor: &Tensor| tensor.narrow(0, row, 1);
                    let mut own = slots.iter().map(of).collect::<Result<Vec<_>>>()?;
                    moved.push(twin::step(rule, &of(parameter)?, &of(&gradient)?, &mut own, rate, *step)?);
                    new.iter_mut().zip(own).for_each(|(new, own)| new.push(own));
                }
                *slots = new.iter().map(|rows| Tensor::cat(rows, 0)).collect::<Result<_>>()?;
                let new = Tensor::cat(&moved, 0)?;
                let norms = if measure { norms::twin(parameter, &new, &gradient)? } else { Norms::default() };
                parameter.set(&new)?;
                Ok(norms)
            }
        }
    }

    /// Whether gradient and slots are those of the parameter and the rule.
    fn check(&self, rule: &Rule, parameter: &Var, gradient: &VarGradient) -> Result<()> {
        if gradient.shape() != *parameter.shape() {
            candle_core::bail!(
                "optimizer: expected a gradient of shape {:?}, found {:?}",
                parameter.shape(),
                gradient.shape()
            );
        }
        let (expected, found) = (rule.slots().len(), self.len());
        if found != expected {
            candle_core::bail!("optimizer state: expected {expected} slots, found {found}");
        }
        if let Self::Cpu(slots) = self
            && let Some(slot) = slots.iter().find(|slot| slot.len() != parameter.elem_count())
        {
            let (expected, found) = (parameter.elem_count(), slot.len());
            candle_core::bail!("optimizer state: expected slots of {expected} values, found {found}");
        }
        Ok(())
    }
}

/// The norms of squares that threads have added in any order.
fn summed(squares: Option<Mutex<Vec<(usize, Squares)>>>) -> Norms {
    let squares = squares.map(|all| all.into_inner().unwrap_or_else(PoisonError::into_inner));
    let mut squares = squares.unwrap_or_default();
    squares.sort_unstable_by_key(|(first, _)| *first);
    squares.iter().fold(Squares::default(), |sum, (_, squares)| sum.plus(*squares)).norms()
}

/// A step of one parameter in place. Its gradient is candle's second argument, for `of: ()` and `of: &[Constants]`, which are
/// those of each row; or it is `of: &dyn Pending`.
struct Step<'a, P> {
    constants: Constants,
    /// Behind a lock because candle hands operations out by shared reference; taken once per step.
    slots: Mutex<&'a mut Vec<Vec<f32>>>,
    of: P,
    /// Where the squares go, each with the index of its first element; `None` if nobody asks for them.
    squares: Option<&'a Mutex<Vec<(usize, Squares)>>>,
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

impl InplaceOp2 for Step<'_, &[Constants]> {
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
        let width = gradient.len() / self.of.len().max(1);
        self.with(parameter, layout, |p, a, b| {
            for (row, constants) in self.of.iter().enumerate() {
                let own = row * width..(row + 1) * width;
                // A slot that the rule does not have is empty.
                let (a, b) = (a.get_mut(own.clone()), b.get_mut(own.clone()));
                let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
                let (p, gradient) = (&mut p[own.clone()], &gradient[own.clone()]);
                self.add(own.start, step(*constants, p, gradient, a, b, self.squares.is_some()));
            }
        })
    }
}

fn step(
    constants: Constants,
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
        let (first, second) = rayon::join(
            || step(constants, p0, g0, a0, b0, measure),
            || step(constants, p1, g1, a1, b1, measure),
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
