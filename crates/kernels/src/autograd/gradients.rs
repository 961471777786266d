use std::collections::HashMap;
use std::fmt;

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Shape, Tensor, TensorId};

use super::gradient::Pending;
use crate::parallel::for_chunks;
use crate::values::{is_fast, with_values};

/// The gradients of a loss with respect to the variables that it was computed from.
///
/// The result of [`Tape::backward`](crate::Tape::backward). Those of candle's own backward pass convert with `into()`.
/// They can be added and scaled, as for a mean over several batches:
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use taper_kernels::{Gradients, linear, record};
///
/// let weight = Var::new(&[[1.0_f32, 1.0]], &Device::Cpu)?;
/// let mut mean = Gradients::default();
/// for batch in [[[1.0_f32, 0.0]], [[3.0, 2.0]]] {
///     let (loss, tape) = record(|| linear(&Tensor::new(&batch, &Device::Cpu)?, &weight, None)?.sum_all());
///     mean.add_scaled(&tape.backward(&loss?)?, 0.5)?;
/// }
/// assert_eq!(mean.get(&weight).unwrap().values()?.to_vec2::<f32>()?, [[2.0, 1.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Gradients(HashMap<TensorId, VarGradient>);

impl Gradients {
    /// The gradient of a variable, if there is one.
    pub fn get(&self, variable: &Tensor) -> Option<&VarGradient> {
        self.0.get(&variable.id())
    }

    /// All gradients, each with the [`Tensor::id`] of its variable, in no particular order. If the order matters, as in
    /// a sum of floats, go through the parameters and use [`Gradients::get`].
    pub fn iter(&self) -> impl Iterator<Item = (TensorId, &VarGradient)> {
        self.0.iter().map(|(id, gradient)| (*id, gradient))
    }

    /// Adds to the gradient of a variable.
    ///
    /// # Errors
    /// When it has another shape than the variable.
    pub fn add(&mut self, variable: &Tensor, gradient: Tensor) -> Result<()> {
        if gradient.shape() != variable.shape() {
            let (expected, found) = (variable.shape(), gradient.shape());
            candle_core::bail!("gradient: expected the shape of the variable, {expected:?}, found {found:?}");
        }
        self.add_to(variable.id(), gradient.into())
    }

    /// Adds `factor · other`, variable by variable. A missing gradient counts as 0.
    ///
    /// # Errors
    /// When the gradients of a variable differ in shape, dtype or device.
    pub fn add_scaled(&mut self, other: &Self, factor: f64) -> Result<()> {
        for (id, gradient) in &other.0 {
            let values = gradient.values()?.detach();
            let values = if factor == 1.0 { values } else { (values * factor)? };
            self.add_to(*id, values.into())?;
        }
        Ok(())
    }

    /// Multiplies all gradients by `factor`.
    ///
    /// # Errors
    /// When candle cannot make a tensor of them.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        for gradient in self.0.values_mut() {
            *gradient = (gradient.values()? * factor)?.into();
        }
        Ok(())
    }

    pub(crate) fn add_to(&mut self, variable: TensorId, gradient: VarGradient) -> Result<()> {
        let sum = match self.0.remove(&variable) {
            Some(before) => sum(&before.values()?, &gradient.values()?)?.into(),
            None => gradient,
        };
        self.0.insert(variable, sum);
        Ok(())
    }
}

/// The values of candle's `+`, which starts threads of its own: for 100,000 values it takes a millisecond.
fn sum(xs: &Tensor, ys: &Tensor) -> Result<Tensor> {
    if xs.shape() != ys.shape() || !is_fast(&[xs, ys]) {
        return xs + ys;
    }
    let mut sums = with_values(xs, <[f32]>::to_vec)?;
    with_values(ys, |ys| {
        for_chunks(&mut sums, |start, sums| sums.iter_mut().zip(&ys[start..]).for_each(|(sum, y)| *sum += y));
    })?;
    Tensor::from_vec(sums, xs.shape(), &Device::Cpu)
}

impl From<GradStore> for Gradients {
    fn from(gradients: GradStore) -> Self {
        let of = |id: &TensorId| Some((*id, gradients.get_id(*id)?.clone().into()));
        Self(gradients.get_ids().filter_map(of).collect())
    }
}

/// The gradient of a loss with respect to one variable.
///
/// The gradient of a linear layer's weights is kept as two factors. [`VarGradient::values`] multiplies them;
/// [`Slots::step`](crate::Slots::step) does so tile by tile and never stores the whole.
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

impl fmt::Debug for VarGradient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gradient of shape {:?}", self.shape())
    }
}

impl From<Tensor> for VarGradient {
    fn from(values: Tensor) -> Self {
        Self(Form::Values(values))
    }
}
