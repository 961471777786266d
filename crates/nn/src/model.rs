use candle_core::{Result, Tensor};
use taper_hooks::Pass;

use crate::Link;

/// A network: one tensor in, one tensor out. Another signature needs no trait, because a training step calls the
/// network directly.
pub trait Model {
    /// One forward pass.
    ///
    /// # Shapes
    /// Those of the model; the first axis is the batch.
    ///
    /// # Errors
    /// When `xs` has the wrong shape, or an observer fails.
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor>;

    /// Its hidden units with their incoming and outgoing weights, for methods that restart units. The default is none.
    fn links(&self) -> &[Link] {
        &[]
    }
}

impl<M: Model + ?Sized> Model for &M {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        (**self).forward(pass, xs)
    }

    fn links(&self) -> &[Link] {
        (**self).links()
    }
}

impl<M: Model + ?Sized> Model for Box<M> {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        (**self).forward(pass, xs)
    }

    fn links(&self) -> &[Link] {
        (**self).links()
    }
}
