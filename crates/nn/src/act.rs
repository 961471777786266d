use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};
use taper_hooks::{Pass, Site, Units};
use taper_kernels::{Activation, Error, activate, prelu};

use crate::action::Action;

/// An activation function whose results are recorded under a name: it computes them and passes them to the [`Pass`].
///
/// Put it after a layer and before any dropout, and give it the layer's builder: its [`Site`] then has the name of the
/// layer.
///
/// It is also a [`Module`], to replace an activation in a model for plain candle: within [`Pass::scope`] its results
/// are recorded; elsewhere it only computes them.
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use taper_nn::{Act, Activation, Params, Pass};
///
/// let params = Params::new(1, &Device::Cpu);
/// let vb = params.builder();
/// let net = candle_nn::seq()
///     .add(candle_nn::linear(4, 8, vb.pp("fc1"))?)
///     .add(Act::new(Activation::Relu, vb.pp("fc1"))?)
///     .add(candle_nn::linear(8, 2, vb.pp("fc2"))?);
/// let xs = Tensor::ones((3, 4), DType::F32, &Device::Cpu)?;
/// let mut recorder = taper_hooks::Recorder::new();
/// Pass::eval(&mut recorder).scope(|| net.forward(&xs))?;
/// assert_eq!(recorder.finish()[0].units, 8);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Act {
    activation: Activation,
    site: Site,
    /// PReLU's parameter, `(1)`.
    slope: Option<Tensor>,
    action: Option<Action>,
}

impl Act {
    /// `activation` at the site named by `vb`'s prefix. A PReLU's slope is the parameter `<prefix>.slope`.
    ///
    /// # Errors
    /// When the prefix is empty, because the site needs a name.
    pub fn new(activation: Activation, vb: VarBuilder<'_>) -> Result<Self> {
        let name = site_name(&vb)?;
        let slope = match activation {
            Activation::Prelu { slope } => {
                Some(vb.get_with_hints(1, "slope", candle_nn::Init::Const(slope))?)
            }
            _ => None,
        };
        Ok(Self { activation, site: Site::behind(name, activation), slope, action: None })
    }

    /// Sets the axis of the units. `Linear::forward_act` (last) and `Conv2d::forward_act` (second) set it themselves.
    pub fn units(mut self, units: Units) -> Self {
        self.site = self.site.units(units);
        self
    }

    /// The same function with the same parameter under another name, for a network that uses one activation at several
    /// places. Call it once, when the model is built.
    pub fn named(&self, name: &str) -> Self {
        Self { site: self.site.named(name), ..self.clone() }
    }

    /// Runs `action` on the results before they are recorded: it may add a term to the loss ([`Pass::add_to_loss`]) or
    /// return other values. It also runs in evaluation mode; see [`Pass::mode`].
    ///
    /// A second action gets the values that the first returned. The values of the last action are recorded. `dead` and
    /// `flat` are then null, unless f' follows from the value, as for ReLU.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use taper_nn::{Act, Activation, Params, Pass};
    /// # let params = Params::new(1, &Device::Cpu);
    /// # let vb = params.builder().pp("fc1");
    /// // An L1 penalty.
    /// let act = Act::new(Activation::Relu, vb)?.then(|pass, ys| {
    ///     pass.add_to_loss(&(ys.abs()?.mean_all()? * 1e-4)?)?;
    ///     Ok(ys.clone())
    /// });
    /// let mut nobody = ();
    /// let mut pass = Pass::train(&mut nobody, 1, 0);
    /// act.forward(&mut pass, &Tensor::ones((2, 3), DType::F32, &Device::Cpu)?)?;
    /// assert_eq!(pass.added_loss().unwrap().to_scalar::<f32>()?, 1e-4);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn then(
        mut self,
        action: impl Fn(&mut Pass<'_>, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        self.action = Some(Action::after(self.action.take(), action));
        self
    }

    /// Its site.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// `f(xs)`.
    ///
    /// # Shapes
    /// `xs`: `(N, units, ..)` or `(N, .., units)`; the result has the same shape.
    ///
    /// # Errors
    /// As [`activate`] and [`Pass::see`]: with three axes, [`Act::units`] must set the unit axis.
    pub fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        self.apply(pass, None, xs)
    }

    /// `f(xs)`, without calling the observer.
    fn compute(&self, xs: &Tensor) -> Result<Tensor> {
        match &self.slope {
            Some(slope) => prelu(xs, slope),
            None => activate(xs, self.activation),
        }
    }

    fn apply(&self, pass: &mut Pass<'_>, layer: Option<Units>, xs: &Tensor) -> Result<Tensor> {
        let ys = self.compute(xs)?;
        let now = match &self.slope {
            Some(slope) => {
                let now = slope.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()?[0];
                Activation::Prelu { slope: now as f64 }
            }
            None => self.activation,
        };
        self.show(pass, now, layer, &|| Ok(xs.clone()), ys)
    }

    /// `f(layer)`, where `layer(g)` computes a layer and applies `g` to its results, whose units are `units`. If f can
    /// be applied while the results are written, pre-activations are computed only for an observer that needs them.
    pub(crate) fn fused(
        &self,
        pass: &mut Pass<'_>,
        units: Units,
        layer: impl Fn(Activation) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let plain = || layer(Activation::Identity);
        if !self.activation.slope_shows_in_value() {
            return self.apply(pass, Some(units), &plain()?);
        }
        let ys = layer(self.activation)?;
        self.show(pass, self.activation, Some(units), &plain, ys)
    }

    /// Runs the action and calls the observer.
    fn show(
        &self,
        pass: &mut Pass<'_>,
        activation: Activation,
        layer: Option<Units>,
        xs: &dyn Fn() -> Result<Tensor>,
        ys: Tensor,
    ) -> Result<Tensor> {
        let (ys, activation) = match &self.action {
            // The action may have changed the values, so f'(xs) does not belong to them.
            Some(action) => (action.run(pass, &ys)?, Some(activation).filter(|f| f.slope_shows_in_value())),
            None => (ys, Some(activation)),
        };
        pass.see_with(&self.site, activation, layer, xs, &ys)?;
        Ok(ys)
    }
}

impl Module for Act {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Pass::current(|pass| match pass {
            Some(pass) => self.forward(pass, xs),
            None => self.compute(xs),
        })
    }
}

/// The prefix of a builder, which names a site.
pub(crate) fn site_name(vb: &VarBuilder<'_>) -> Result<String> {
    if vb.prefix().is_empty() {
        let message = "a site needs a name: give it the builder of the layer that feeds it, vb.pp(..)";
        return Err(Error::Argument(message.to_string()).into());
    }
    Ok(vb.prefix())
}
