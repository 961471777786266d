use std::sync::Arc;

use candle_core::{Result, Tensor};
use taper_kernels::Activation;

use crate::{Error, Mode};

/// A named place in a model, right behind an activation function and before any dropout.
///
/// It has the name of the layer that feeds it, as its weights have: `fc1`, `conv2`. Clones are the same
/// place; two sites made apart are two places even if their names are equal, which observers may refuse.
#[derive(Clone, Debug)]
pub struct Site(Arc<Place>);

#[derive(Debug)]
struct Place {
    name: Box<str>,
    activation: Activation,
}

impl Site {
    /// A new place called `name` behind `activation`.
    pub fn new(name: impl Into<Box<str>>, activation: Activation) -> Self {
        Self(Arc::new(Place { name: name.into(), activation }))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The activation function, as the model was built with it.
    pub fn activation(&self) -> Activation {
        self.0.activation
    }

    /// That pre- and post-activations have one shape.
    pub(crate) fn check_shapes(&self, xs: &Tensor, ys: &Tensor) -> Result<()> {
        if xs.dims() == ys.dims() {
            return Ok(());
        }
        let (site, xs, ys) = (self.name().to_string(), xs.dims().to_vec(), ys.dims().to_vec());
        Err(Error::ShapesDiffer { site, xs, ys }.into())
    }

    /// Whether both are one place, not just two of one name.
    pub fn is_same_place(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What an observer is shown: one batch at one site.
pub struct Seen<'a> {
    /// Where.
    pub site: &'a Site,
    /// The function that was applied. It differs from the site's own where a parameter is learned: a PReLU
    /// carries its slope of this moment.
    pub activation: Activation,
    /// Train or evaluation mode.
    pub mode: Mode,
    /// Post-activations `f(xs)`, `(N, units, ..)`. In train mode part of the graph: keep what was `detach()`ed only.
    pub ys: &'a Tensor,
    pub(crate) xs: &'a dyn Fn() -> Result<Tensor>,
}

impl Seen<'_> {
    /// Pre-activations, of the shape of `ys`; in train mode part of the graph too.
    ///
    /// Where a layer computes its activation along with its products they were never written down: then they are
    /// computed here, which takes as long as the layer itself.
    ///
    /// # Errors
    /// Those of the layer; and when they have another shape than `ys`.
    pub fn xs(&self) -> Result<Tensor> {
        let xs = (self.xs)()?;
        self.site.check_shapes(&xs, self.ys)?;
        Ok(xs)
    }
}
