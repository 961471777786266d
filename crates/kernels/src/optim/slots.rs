use std::sync::Mutex;

use candle_core::{DType, Result, Tensor, Var};

use super::in_place::{Parts, Step, summed};
use super::norms::{self, Norms};
use super::rule::Rule;
use super::twin;
use crate::autograd::{Form, VarGradient};
use crate::values::is_fast;

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

    /// Sets some indices of the parameter's dimension `axis` to 0, as at the start: of 0 the rows, of 1 the columns.
    ///
    /// # Errors
    /// When there is no such dimension or index, or candle cannot make the tensors.
    pub fn reset(&mut self, parameter: &Var, axis: usize, indices: &[usize]) -> Result<()> {
        let count = parameter.dim(axis)?;
        if let Some(index) = indices.iter().find(|index| **index >= count) {
            candle_core::bail!(
                "optimizer: expected an index below {count} of dimension {axis}, found {index}"
            );
        }
        let width: usize = parameter.dims()[axis + 1..].iter().product();
        match self {
            Self::Cpu(slots) => {
                for block in slots.iter_mut().flat_map(|slot| slot.chunks_mut((count * width).max(1))) {
                    indices.iter().for_each(|index| block[index * width..][..width].fill(0.0));
                }
            }
            Self::Device(slots) => {
                let kept: Vec<f32> = (0..count).map(|index| f32::from(!indices.contains(&index))).collect();
                let mut shape = vec![1; parameter.rank()];
                shape[axis] = count;
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
    /// `step` counts from 1; `rate` is the learning rate of this step. If `measure`, returns the norms of gradient, parameter
    /// and update, which are summed in the same pass; the parameter is the same to the bit.
    ///
    /// # Errors
    /// When the gradient has another shape than the parameter, the slots are those of another rule, or `step` is 0.
    pub fn step(
        &mut self,
        rule: &Rule,
        parameter: &Var,
        gradient: &VarGradient,
        rate: f64,
        step: u64,
        measure: bool,
    ) -> Result<Option<Norms>> {
        self.check(rule, parameter, gradient, &[step])?;
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
                Ok(squares.map(summed))
            }
            Self::Device(slots) => {
                let gradient = gradient.values()?;
                #[cfg(feature = "cuda")]
                if !measure && crate::cuda::is_fast(&[parameter]) && parameter.is_contiguous() {
                    crate::cuda::optim::step(rule, parameter, &gradient, slots, rate, step)?;
                    return Ok(None);
                }
                let new = twin::step(rule, parameter, &gradient, slots, rate, step)?;
                let norms = measure.then(|| norms::twin(parameter, &new, &gradient)).transpose()?;
                parameter.set(&new)?;
                Ok(norms)
            }
        }
    }

    /// As [`Slots::step`], with step counts for each row and column, for a parameter of which some were
    /// [reset](Slots::reset). A value has taken the smaller number of steps of its row and its column.
    ///
    /// # Shapes
    /// `rows`: as many as the parameter's first dimension, each at least 1; `columns`: as many as its second, or none.
    ///
    /// # Errors
    /// As [`Slots::step`], and when there are more or fewer counts.
    pub fn step_parts(
        &mut self,
        rule: &Rule,
        parameter: &Var,
        gradient: &VarGradient,
        rate: f64,
        (rows, columns): (&[u64], &[u64]),
        measure: bool,
    ) -> Result<Option<Norms>> {
        self.check(rule, parameter, gradient, rows)?;
        self.check(rule, parameter, gradient, columns)?;
        for (axis, steps) in
            [rows, columns].iter().enumerate().filter(|(i, steps)| *i == 0 || !steps.is_empty())
        {
            let count = parameter.dim(axis)?;
            if steps.len() != count {
                candle_core::bail!(
                    "optimizer: expected {count} step counts for dimension {axis}, found {}",
                    steps.len()
                );
            }
        }
        let gradient = gradient.values()?.contiguous()?;
        match self {
            Self::Cpu(slots) => {
                let of = |step: &u64| rule.constants(rate, *step);
                let columns = columns.iter().map(|step| of(step).correction).collect();
                let each = Parts { rows: rows.iter().map(of).collect(), columns };
                let (constants, slots) = (rule.constants(rate, 1), Mutex::new(slots));
                let squares = measure.then(|| Mutex::new(Vec::new()));
                let step = Step { constants, slots, of: &each, squares: squares.as_ref() };
                parameter.inplace_op2(&gradient, &step)?;
                Ok(squares.map(summed))
            }
            Self::Device(slots) => {
                let new = twin::step_parts(rule, parameter, &gradient, slots, rate, (rows, columns))?;
                let norms = measure.then(|| norms::twin(parameter, &new, &gradient)).transpose()?;
                parameter.set(&new)?;
                Ok(norms)
            }
        }
    }

    /// Whether gradient and slots are those of the parameter and the rule, and steps count from 1.
    fn check(&self, rule: &Rule, parameter: &Var, gradient: &VarGradient, steps: &[u64]) -> Result<()> {
        if steps.contains(&0) {
            candle_core::bail!("optimizer: expected steps that count from 1, found step 0");
        }
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
