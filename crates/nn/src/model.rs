use candle_core::{Result, Tensor};
use taper_hooks::Pass;

/// A network: images in, logits out. Training may run it on another thread.
pub trait Model: Send + Sync {
    /// One forward pass.
    ///
    /// # Shapes
    /// `xs`: `(N, C, H, W)`; the result is `(N, K)`, a logit per class.
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
