use std::sync::Arc;

use candle_core::Tensor;
use taper_kernels::Activation;

use crate::Mode;

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
    /// Pre-activations, `(N, units, ..)`. In train mode part of the graph: keep what was `detach()`ed only.
    pub xs: &'a Tensor,
    /// Post-activations `f(xs)`, of the same shape.
    pub ys: &'a Tensor,
}
