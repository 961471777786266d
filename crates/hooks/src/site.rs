use std::sync::Arc;

use candle_core::{Result, Tensor};
use taper_kernels::Activation;

use crate::{Error, Mode};

/// Which axis of the tensors at a site are the units. The first axis is the batch; all others are positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Units {
    /// The second: `(N, units)` and `(N, units, ..)`, as behind a convolution.
    Second,
    /// The last: `(N, units)` and `(N, .., units)`, as behind a linear layer.
    Last,
}

/// A named place in a model: behind an activation function, before any dropout, or anywhere else.
///
/// It has the name of the layer that feeds it, as its weights have: `fc1`, `conv2`. Clones are the same
/// place; two sites made apart are two places even if their names are equal, which is an error where both come in one
/// pass. Make a site once, with the model, not in every pass.
#[derive(Clone, Debug)]
pub struct Site(Arc<Place>);

#[derive(Clone, Debug)]
struct Place {
    name: Box<str>,
    activation: Option<Activation>,
    units: Option<Units>,
    output: bool,
}

impl Site {
    /// A new place called `name`, with no activation function.
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self(Arc::new(Place { name: name.into(), activation: None, units: None, output: false }))
    }

    /// The same, behind an activation function.
    pub fn behind(name: impl Into<Box<str>>, activation: Activation) -> Self {
        Self::new(name).with(|place| place.activation = Some(activation))
    }

    /// A copy of this site with another name: another place.
    pub fn named(&self, name: impl Into<Box<str>>) -> Self {
        self.clone().with(|place| place.name = name.into())
    }

    /// The site with a unit axis, whatever the layer in front of it implies. Another place than before.
    pub fn units(self, units: Units) -> Self {
        self.with(|place| place.units = Some(units))
    }

    /// The site as the output of the network, of which no unit is called dormant. Another place than before.
    pub fn output(self) -> Self {
        self.with(|place| place.output = true)
    }

    fn with(self, change: impl FnOnce(&mut Place)) -> Self {
        let mut place = (*self.0).clone();
        change(&mut place);
        Self(Arc::new(place))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The activation function, as the model was built with it; `None` if there is none.
    pub fn activation(&self) -> Option<Activation> {
        self.0.activation
    }

    /// Whether it is the output of the network.
    pub fn is_output(&self) -> bool {
        self.0.output
    }

    /// Whether both are one place, not just two of one name.
    pub fn is_same_place(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The unit axis of a tensor of this shape: as the site was told, else as the `layer` in front of it says, else
    /// the second. Of three axes the second and the last are equally likely, so one of these must say it.
    pub(crate) fn axis(&self, dims: &[usize], layer: Option<Units>) -> std::result::Result<Units, Error> {
        let (site, found) = (|| self.name().to_string(), || dims.to_vec());
        match (dims.len(), self.0.units.or(layer)) {
            (0 | 1, _) => Err(Error::Shape { site: site(), found: found() }),
            (_, Some(units)) => Ok(units),
            (3, None) => Err(Error::UnitsUnknown { site: site(), found: found() }),
            _ => Ok(Units::Second),
        }
    }

    /// That pre- and post-activations have one shape.
    pub(crate) fn check_shapes(&self, xs: &Tensor, ys: &Tensor) -> Result<()> {
        if xs.dims() == ys.dims() {
            return Ok(());
        }
        let (site, xs, ys) = (self.name().to_string(), xs.dims().to_vec(), ys.dims().to_vec());
        Err(Error::ShapesDiffer { site, xs, ys }.into())
    }
}

/// What an observer is shown: one batch at one site.
pub struct Seen<'a> {
    /// Where.
    pub site: &'a Site,
    /// The function that was applied; `None` where there is none, or its derivative is not that of `ys` any more.
    ///
    /// It differs from the site's own where a parameter is learned: a PReLU carries its slope of this moment.
    pub activation: Option<Activation>,
    /// Train or evaluation mode.
    pub mode: Mode,
    /// Which axis of `ys` the units are.
    pub units: Units,
    /// How often the site has come in this pass, this time included.
    pub uses: u32,
    /// The values at the site, post-activations `f(xs)` where there is a function: `(N, units, ..)` or `(N, .., units)`.
    /// In train mode part of the graph: keep what was `detach()`ed only.
    pub ys: &'a Tensor,
    pub(crate) xs: &'a dyn Fn() -> Result<Tensor>,
}

impl Seen<'_> {
    /// Pre-activations, of the shape of `ys`; in train mode part of the graph too. Where there is no activation
    /// function, `ys` itself.
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

    /// How many units there are, and how many positions each has in a sample.
    pub fn sizes(&self) -> (usize, usize) {
        let dims = &self.ys.dims()[1..];
        let units = match self.units {
            Units::Second => dims[0],
            Units::Last => dims[dims.len() - 1],
        };
        (units, dims.iter().product::<usize>() / units.max(1))
    }

    /// The unit of the value at `index` of `ys` in row-major order.
    pub fn unit(&self, index: usize) -> usize {
        let (units, positions) = self.sizes();
        match self.units {
            Units::Second => index / positions.max(1) % units.max(1),
            Units::Last => index % units.max(1),
        }
    }
}
