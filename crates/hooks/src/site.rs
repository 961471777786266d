use std::sync::Arc;

use candle_core::{Result, Tensor};
use taper_kernels::Activation;

use crate::{Error, Mode};

/// The unit axis of the tensors at a site. The first axis is the batch; all others are positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Units {
    /// The second: `(N, units)` and `(N, units, ..)`, as after a convolution.
    Second,
    /// The last: `(N, units)` and `(N, .., units)`, as after a linear layer.
    Last,
}

/// A named place in a model: after an activation function, before any dropout, or anywhere else.
///
/// It has the name of the layer that feeds it: `fc1`, `conv2`. Sites are compared by identity: clones are the same
/// site, and two sites made separately differ even with the same name, which is an error in one pass. Make a site once,
/// with the model, not in every pass.
#[derive(Clone, Debug)]
pub struct Site(Arc<SiteData>);

#[derive(Clone, Debug)]
struct SiteData {
    name: Box<str>,
    activation: Option<Activation>,
    units: Option<Units>,
    output: bool,
}

impl Site {
    /// A new site without an activation function.
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self(Arc::new(SiteData { name: name.into(), activation: None, units: None, output: false }))
    }

    /// A new site after an activation function.
    pub fn behind(name: impl Into<Box<str>>, activation: Activation) -> Self {
        Self::new(name).with(|place| place.activation = Some(activation))
    }

    /// A copy with another name, which is another site.
    pub fn named(&self, name: impl Into<Box<str>>) -> Self {
        self.clone().with(|place| place.name = name.into())
    }

    /// The site with a unit axis, which overrides that of the layer before it. Another site than before.
    pub fn units(self, units: Units) -> Self {
        self.with(|place| place.units = Some(units))
    }

    /// The site as the output of the network, which has no dormant units. Another site than before.
    pub fn output(self) -> Self {
        self.with(|place| place.output = true)
    }

    fn with(self, change: impl FnOnce(&mut SiteData)) -> Self {
        let mut place = (*self.0).clone();
        change(&mut place);
        Self(Arc::new(place))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The activation function that the model was built with; `None` if there is none.
    pub fn activation(&self) -> Option<Activation> {
        self.0.activation
    }

    /// Whether it is the output of the network.
    pub fn is_output(&self) -> bool {
        self.0.output
    }

    /// Whether both are the same site, not just sites with the same name.
    pub fn is_same_place(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The unit axis of a tensor of this shape: that of the site, else that of the `layer` before it, else the second.
    /// With three axes the second and the last are equally likely, so the site or the layer must say it.
    pub(crate) fn axis(&self, dims: &[usize], layer: Option<Units>) -> std::result::Result<Units, Error> {
        let (site, found) = (|| self.name().to_string(), || dims.to_vec());
        match (dims.len(), self.0.units.or(layer)) {
            (0 | 1, _) => Err(Error::Shape { site: site(), found: found() }),
            (_, Some(units)) => Ok(units),
            (3, None) => Err(Error::UnitsUnknown { site: site(), found: found() }),
            _ => Ok(Units::Second),
        }
    }

    /// Checks that pre- and post-activations have the same shape.
    pub(crate) fn check_shapes(&self, xs: &Tensor, ys: &Tensor) -> Result<()> {
        if xs.dims() == ys.dims() {
            return Ok(());
        }
        let (site, xs, ys) = (self.name().to_string(), xs.dims().to_vec(), ys.dims().to_vec());
        Err(Error::ShapesDiffer { site, xs, ys }.into())
    }
}

/// The arguments of an observer: one batch at one site.
pub struct Seen<'a> {
    /// The site.
    pub site: &'a Site,
    /// The function that was applied; `None` if there is none, or if its derivative is not that of `ys` any more.
    ///
    /// It differs from the site's function if a parameter is learned: a PReLU has its current slope.
    pub activation: Option<Activation>,
    /// Train or evaluation mode.
    pub mode: Mode,
    /// The unit axis of `ys`.
    pub units: Units,
    /// The number of uses of the site so far in this pass, including this one.
    pub uses: u32,
    /// The values at the site, post-activations `f(xs)` if there is a function: `(N, units, ..)` or `(N, .., units)`.
    /// In train mode they are part of the graph: keep only `detach()`ed tensors.
    pub ys: &'a Tensor,
    pub(crate) xs: &'a dyn Fn() -> Result<Tensor>,
}

impl Seen<'_> {
    /// Pre-activations, of the shape of `ys`; in train mode part of the graph too. `ys` itself if there is no
    /// activation function.
    ///
    /// A layer that applies its activation while it writes never stores them. Then they are computed here, which takes
    /// as long as the layer.
    ///
    /// # Errors
    /// Errors of the layer, and when they have another shape than `ys`.
    pub fn xs(&self) -> Result<Tensor> {
        let xs = (self.xs)()?;
        self.site.check_shapes(&xs, self.ys)?;
        Ok(xs)
    }

    /// The number of units, and the number of positions of each in a sample.
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
