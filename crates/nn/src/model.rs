use candle_core::{Result, Tensor};
use taper_hooks::Pass;

/// A network: one tensor in, one tensor out. One of other inputs or outputs needs no trait: a training step calls it
/// as it is.
pub trait Model {
    /// One forward pass.
    ///
    /// # Shapes
    /// Those of the model; the first axis is the batch.
    ///
    /// # Errors
    /// When `xs` does not have the shape that the model is made for, or an observer fails.
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor>;
}

impl<M: Model + ?Sized> Model for &M {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        (**self).forward(pass, xs)
    }
}

impl<M: Model + ?Sized> Model for Box<M> {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        (**self).forward(pass, xs)
    }
}
