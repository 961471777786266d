use std::time::{Duration, Instant};

use candle_core::{Result, Tensor};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use taper_kernels::{Activation, off_the_record};

use crate::{Error, Observer, Rng, Seen, Site};

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Training: dropout is on, gradients are wanted.
    Train,
    /// Evaluation: nothing random happens, and no graph is kept.
    Eval,
}

/// One forward pass: its mode, who watches it, and the generator that dropout draws from.
///
/// A model hands it down through its layers. It borrows the observer, so nothing stays attached to the model
/// when the pass is over.
pub struct Pass<'a> {
    observer: &'a mut dyn Observer,
    rng: Option<&'a mut Rng>,
    observing: Duration,
}

impl<'a> Pass<'a> {
    /// A pass in train mode.
    pub fn train(observer: &'a mut dyn Observer, rng: &'a mut Rng) -> Self {
        Self { observer, rng: Some(rng), observing: Duration::ZERO }
    }

    /// A pass in evaluation mode.
    pub fn eval(observer: &'a mut dyn Observer) -> Self {
        Self { observer, rng: None, observing: Duration::ZERO }
    }

    /// Train or evaluation mode.
    pub fn mode(&self) -> Mode {
        if self.rng.is_some() { Mode::Train } else { Mode::Eval }
    }

    /// Shows the observer what `activation` made of `xs` at `site`.
    ///
    /// Compute `ys` with `taper_kernels::activate`, or with anything else that hands NaN on: candle's own
    /// `relu` makes zeros of NaN, which no observer can then tell from sparsity.
    ///
    /// # Shapes
    /// `xs` and `ys`: the same, `(N, units, ..)`.
    ///
    /// # Errors
    /// When `xs` and `ys` differ in shape, and what the observer returns.
    pub fn see(&mut self, site: &Site, activation: Activation, xs: &Tensor, ys: &Tensor) -> Result<()> {
        site.check_shapes(xs, ys)?;
        self.see_with(site, activation, &|| Ok(xs.clone()), ys)
    }

    /// The same where `xs` would have to be computed first, which happens if the observer asks for it.
    ///
    /// # Errors
    /// What the observer returns.
    pub fn see_with(
        &mut self,
        site: &Site,
        activation: Activation,
        xs: &dyn Fn() -> Result<Tensor>,
        ys: &Tensor,
    ) -> Result<()> {
        let start = Instant::now();
        let mode = self.mode();
        off_the_record(|| self.observer.observe(&Seen { site, activation, mode, xs, ys }))?;
        self.observing += start.elapsed();
        Ok(())
    }

    /// A fresh seed for something random in this pass.
    ///
    /// # Errors
    /// In evaluation mode.
    pub fn seed(&mut self) -> Result<u64> {
        match &mut self.rng {
            Some(rng) => Ok(rng.next_u64()),
            None => Err(Error::NoRng.into()),
        }
    }

    /// Wall-clock time that the observer has taken in this pass.
    pub fn observing(&self) -> Duration {
        self.observing
    }
}
