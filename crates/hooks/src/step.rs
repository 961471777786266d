use candle_core::{Result, Tensor};
use taper_kernels::Gradients;

use crate::Site;

/// The arguments of [`Observer::step`](crate::Observer::step): a step of training, after the optimiser's step.
///
/// Tensors share memory with the model: keep copies only (`Tensor::copy`, or values).
pub struct StepSeen<'a> {
    /// The number of the optimiser's step, from 1.
    pub step: u64,
    /// The loss that was minimised, of the step's last batch.
    pub loss: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The parameters by name, after the step. The update is the difference to the previous step.
    pub parameters: &'a [(&'a str, &'a Tensor)],
    /// The outputs of the sites and the gradients of the loss with respect to them, of the same shape, in the order of
    /// the forward pass. Empty unless the observer [wants](crate::Observer::wants_site_gradients) them. A gradient is
    /// `None` if none reached the site, or if it passed within candle's own operations.
    pub sites: &'a [(Site, Tensor, Option<Tensor>)],
    /// The gradients of the parameters, before clipping.
    pub gradients: &'a Gradients,
}

impl StepSeen<'_> {
    /// The gradient of a parameter, of its shape; `None` if none reached it. Each call computes its values.
    ///
    /// # Errors
    /// When candle cannot make a tensor of them.
    pub fn gradient(&self, parameter: &Tensor) -> Result<Option<Tensor>> {
        self.gradients.get(parameter).map(|gradient| gradient.values()).transpose()
    }
}
