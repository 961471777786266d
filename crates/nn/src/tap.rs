use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};
use taper_hooks::{Pass, Site, Units};

use crate::act::site_name;
use crate::action::Action;

/// Records values without an activation function: logits, a residual stream, an embedding, the output of any layer.
///
/// It returns its input. Zeros, moments, the distribution and firing rates are recorded; numbers that need the slope of
/// an activation function (`flat`, `dead`, `rare`, `died`, `revived`) are null.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use taper_hooks::{Recorder, Units};
/// use taper_nn::{Pass, Tap};
///
/// let tap = Tap::new("residual").units(Units::Last);
/// let mut recorder = Recorder::new();
/// let xs = Tensor::ones((2, 28, 64), DType::F32, &Device::Cpu)?; // (N, T, F)
/// tap.forward(&mut Pass::eval(&mut recorder), &xs)?;
/// let stats = &recorder.finish()[0];
/// assert_eq!((stats.units, stats.samples, stats.dead), (64, 2, None));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tap {
    site: Site,
    action: Option<Action>,
}

impl Tap {
    /// A site called `name`.
    pub fn new(name: &str) -> Self {
        Self { site: Site::new(name), action: None }
    }

    /// A site with the name of the layer before it.
    ///
    /// # Errors
    /// When the prefix is empty.
    pub fn at(vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self::new(&site_name(&vb)?))
    }

    /// Sets the unit axis, which three axes need.
    pub fn units(mut self, units: Units) -> Self {
        self.site = self.site.units(units);
        self
    }

    /// Marks the site as the output of the network, which has no dormant units.
    pub fn output(mut self) -> Self {
        self.site = self.site.output();
        self
    }

    /// As [`Act::then`](crate::Act::then).
    pub fn then(
        mut self,
        action: impl Fn(&mut Pass<'_>, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        self.action = Some(Action::after(self.action.take(), action));
        self
    }

    /// Records `xs` and returns them.
    ///
    /// # Shapes
    /// `xs`: `(N, units, ..)` or `(N, .., units)`; the result has the same shape.
    ///
    /// # Errors
    /// As [`Pass::tap`].
    pub fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let ys = match &self.action {
            Some(action) => action.run(pass, xs)?,
            None => xs.clone(),
        };
        pass.tap(&self.site, &ys)?;
        Ok(ys)
    }
}

impl Module for Tap {
    /// Records within [`Pass::scope`]; elsewhere returns `xs`.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Pass::current(|pass| pass.map_or_else(|| Ok(xs.clone()), |pass| self.forward(pass, xs)))
    }
}
