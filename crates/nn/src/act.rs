use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use taper_hooks::{Mode, Pass, Site};
use taper_kernels::{Activation, Error, activate, prelu};

/// An activation function at a named place: computes it and mentions what it saw to the [`Pass`].
///
/// Put it right behind the layer that feeds it and before any dropout, and give it that layer's builder:
/// its [`Site`] then has the name of the layer. In evaluation mode it cuts the graph, so that nothing but
/// the current layer is kept in memory.
#[derive(Clone, Debug)]
pub struct Act {
    activation: Activation,
    site: Site,
    /// PReLU's parameter, `(1)`.
    slope: Option<Tensor>,
}

impl Act {
    /// `activation` at the site named by `vb`'s prefix. A PReLU's slope is the parameter `<prefix>.slope`.
    ///
    /// # Errors
    /// When the prefix is empty, as the site would have no name.
    pub fn new(activation: Activation, vb: VarBuilder<'_>) -> Result<Self> {
        if vb.prefix().is_empty() {
            let message =
                "a site needs a name: give the activation the builder of the layer that feeds it, vb.pp(..)";
            return Err(Error::Argument(message.to_string()).into());
        }
        let slope = match activation {
            Activation::Prelu { slope } => {
                Some(vb.get_with_hints(1, "slope", candle_nn::Init::Const(slope))?)
            }
            _ => None,
        };
        Ok(Self { activation, site: Site::new(vb.prefix(), activation), slope })
    }

    /// Where it is.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// `f(xs)`.
    ///
    /// # Shapes
    /// `xs`: `(N, units, ..)`; the result has the same shape.
    ///
    /// # Errors
    /// Those of [`activate`] and of the observer.
    pub fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let (activation, ys) = match &self.slope {
            Some(slope) => {
                let now = slope.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()?[0];
                (Activation::Prelu { slope: now as f64 }, prelu(xs, slope)?)
            }
            None => (self.activation, activate(xs, self.activation)?),
        };
        pass.see(&self.site, activation, xs, &ys)?;
        Ok(kept(pass, ys))
    }

    /// `f(layer)`, where `layer(g)` computes the layer with `g` applied to its results. If it can apply f as it
    /// writes them, pre-activations are computed for an observer who asks for them, and for nobody else.
    pub(crate) fn behind(
        &self,
        pass: &mut Pass<'_>,
        layer: impl Fn(Activation) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let plain = || layer(Activation::Identity);
        if !self.activation.slope_shows_in_value() {
            return self.forward(pass, &plain()?);
        }
        let ys = layer(self.activation)?;
        pass.see_with(&self.site, self.activation, &plain, &ys)?;
        Ok(kept(pass, ys))
    }
}

/// Cuts the graph in evaluation mode.
fn kept(pass: &Pass<'_>, ys: Tensor) -> Tensor {
    match pass.mode() {
        Mode::Train => ys,
        Mode::Eval => ys.detach(),
    }
}
