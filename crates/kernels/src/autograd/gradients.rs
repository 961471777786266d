use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Shape, Tensor, TensorId};

use super::gradient::Pending;

/// The gradients of a loss with respect to the variables that it was computed from.
///
/// What [`Tape::backward`](crate::Tape::backward) gives; those of candle's own backward pass become the same with `into()`.
#[derive(Default)]
pub struct Gradients(HashMap<TensorId, VarGradient>);

impl Gradients {
    /// The gradient of a variable, if there is one.
    pub fn get(&self, variable: &Tensor) -> Option<&VarGradient> {
        self.0.get(&variable.id())
    }

    /// Adds to the gradient of a variable.
    pub(crate) fn add(&mut self, variable: TensorId, gradient: VarGradient) -> Result<()> {
        let sum = match self.0.remove(&variable) {
            Some(before) => (before.values()? + gradient.values()?)?.into(),
            None => gradient,
        };
        self.0.insert(variable, sum);
        Ok(())
    }
}

impl From<GradStore> for Gradients {
    fn from(gradients: GradStore) -> Self {
        let of = |id: &TensorId| Some((*id, gradients.get_id(*id)?.clone().into()));
        Self(gradients.get_ids().filter_map(of).collect())
    }
}

/// The gradient of a loss with respect to one variable.
///
/// The gradient of a linear layer's weights is kept as the two factors of a matrix product. [`VarGradient::values`] multiplies
/// them; [`Slots::step`](crate::Slots::step) does so tile by tile and never writes the whole to memory.
pub struct VarGradient(pub(crate) Form);

pub(crate) enum Form {
    Values(Tensor),
    Pending(Box<dyn Pending>),
}

impl VarGradient {
    /// The shape of the variable.
    pub fn shape(&self) -> Shape {
        match &self.0 {
            Form::Values(tensor) => tensor.shape().clone(),
            Form::Pending(pending) => pending.size().into(),
        }
    }

    /// The values, in the shape of the variable. Each call computes them.
    ///
    /// # Errors
    /// When candle cannot make a tensor of them.
    pub fn values(&self) -> Result<Tensor> {
        match &self.0 {
            Form::Values(tensor) => Ok(tensor.clone()),
            Form::Pending(pending) => Tensor::from_vec(pending.values(), pending.size(), &Device::Cpu),
        }
    }
}

impl From<Tensor> for VarGradient {
    fn from(values: Tensor) -> Self {
        Self(Form::Values(values))
    }
}
