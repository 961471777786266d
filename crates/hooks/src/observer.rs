use candle_core::{Result, Tensor};
use taper_kernels::first_non_finite;
use taper_report::{SiteSteps, Split};

use crate::{Seen, StepSeen};

/// Receives the activations of a forward pass.
///
/// `()` ignores them, a pair `(A, B)` calls both, an `Option` may be `None`. `&mut T` and `Box<T>` are observers, and
/// [`observer_fn`] makes one of a closure. An error ends the forward pass. Training may run on another thread, so an
/// observer must be `Send`.
pub trait Observer: Send {
    /// Called once per site and batch, in the order of the forward pass, on its thread.
    ///
    /// # Errors
    /// Errors of the observer; the forward pass returns them.
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()>;

    /// Called before the first batch of a pass over a split. `continues` is true if the pass continues an epoch of
    /// training.
    ///
    /// # Errors
    /// Errors of the observer; the pass then does not run.
    fn begin(&mut self, _split: Split, _continues: bool) -> Result<()> {
        Ok(())
    }

    /// Called with the input of the model, if the training step calls [`Pass::input`](crate::Pass::input).
    ///
    /// # Errors
    /// Errors of the observer; the forward pass returns them.
    fn input(&mut self, _xs: &Tensor) -> Result<()> {
        Ok(())
    }

    /// The number of NaN and infinite activations so far; 0 if the observer does not count them; for a pair the sum.
    /// Training reads it after every batch to find those without effect on the loss.
    fn non_finite(&self) -> u64 {
        0
    }

    /// Called after each step of the optimiser, with parameters and gradients.
    ///
    /// # Errors
    /// Errors of the observer; they end training.
    fn step(&mut self, _seen: &StepSeen<'_>) -> Result<()> {
        Ok(())
    }

    /// Whether [`Observer::step`] also needs the gradients at the sites, which are copied in the backward pass.
    fn wants_site_gradients(&self) -> bool {
        false
    }

    /// Ends a window of steps, returns its statistics by site, and begins the next window. Empty if the observer keeps
    /// no such windows. Training calls it once before the first window.
    ///
    /// # Errors
    /// Errors of the observer; they end training.
    fn end_window(&mut self) -> Result<Vec<SiteSteps>> {
        Ok(Vec::new())
    }
}

impl Observer for () {
    fn observe(&mut self, _seen: &Seen<'_>) -> Result<()> {
        Ok(())
    }
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        self.0.observe(seen)?;
        self.1.observe(seen)
    }

    fn begin(&mut self, split: Split, continues: bool) -> Result<()> {
        self.0.begin(split, continues)?;
        self.1.begin(split, continues)
    }

    fn input(&mut self, xs: &Tensor) -> Result<()> {
        self.0.input(xs)?;
        self.1.input(xs)
    }

    fn non_finite(&self) -> u64 {
        self.0.non_finite() + self.1.non_finite()
    }

    fn step(&mut self, seen: &StepSeen<'_>) -> Result<()> {
        self.0.step(seen)?;
        self.1.step(seen)
    }

    fn wants_site_gradients(&self) -> bool {
        self.0.wants_site_gradients() || self.1.wants_site_gradients()
    }

    fn end_window(&mut self) -> Result<Vec<SiteSteps>> {
        let mut sites = self.0.end_window()?;
        sites.extend(self.1.end_window()?);
        Ok(sites)
    }
}

impl<T: Observer> Observer for Option<T> {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        self.as_mut().map_or(Ok(()), |observer| observer.observe(seen))
    }

    fn begin(&mut self, split: Split, continues: bool) -> Result<()> {
        self.as_mut().map_or(Ok(()), |observer| observer.begin(split, continues))
    }

    fn input(&mut self, xs: &Tensor) -> Result<()> {
        self.as_mut().map_or(Ok(()), |observer| observer.input(xs))
    }

    fn non_finite(&self) -> u64 {
        self.as_ref().map_or(0, Observer::non_finite)
    }

    fn step(&mut self, seen: &StepSeen<'_>) -> Result<()> {
        self.as_mut().map_or(Ok(()), |observer| observer.step(seen))
    }

    fn wants_site_gradients(&self) -> bool {
        self.as_ref().is_some_and(Observer::wants_site_gradients)
    }

    fn end_window(&mut self) -> Result<Vec<SiteSteps>> {
        self.as_mut().map_or(Ok(Vec::new()), Observer::end_window)
    }
}

macro_rules! observe_through {
    ($pointer:ty) => {
        impl<T: Observer + ?Sized> Observer for $pointer {
            fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
                (**self).observe(seen)
            }

            fn begin(&mut self, split: Split, continues: bool) -> Result<()> {
                (**self).begin(split, continues)
            }

            fn input(&mut self, xs: &Tensor) -> Result<()> {
                (**self).input(xs)
            }

            fn non_finite(&self) -> u64 {
                (**self).non_finite()
            }

            fn step(&mut self, seen: &StepSeen<'_>) -> Result<()> {
                (**self).step(seen)
            }

            fn wants_site_gradients(&self) -> bool {
                (**self).wants_site_gradients()
            }

            fn end_window(&mut self) -> Result<Vec<SiteSteps>> {
                (**self).end_window()
            }
        }
    };
}

observe_through!(&mut T);
observe_through!(Box<T>);

/// A closure as an observer: see [`observer_fn`].
#[derive(Clone, Debug)]
pub struct ObserverFn<F>(F);

/// Makes an observer of a closure.
pub fn observer_fn<F: FnMut(&Seen<'_>) -> Result<()> + Send>(observe: F) -> ObserverFn<F> {
    ObserverFn(observe)
}

impl<F: FnMut(&Seen<'_>) -> Result<()> + Send> Observer for ObserverFn<F> {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        (self.0)(seen)
    }
}

/// Finds the first NaN or infinity of a pass: in its input, or at a site, before or after its activation function.
#[derive(Debug, Default)]
pub struct FirstFault {
    found: Option<Found>,
}

#[derive(Debug)]
enum Found {
    Input(usize),
    Site(String, usize),
}

impl FirstFault {
    /// The first sample with a NaN or infinity in the input, counted from 0.
    pub fn sample(&self) -> Option<usize> {
        match &self.found {
            Some(Found::Input(sample)) => Some(*sample),
            _ => None,
        }
    }

    /// The first site with a NaN or infinity, and its first such unit, counted from 0, if the input has none.
    pub fn site(&self) -> Option<(&str, usize)> {
        match &self.found {
            Some(Found::Site(site, unit)) => Some((site, *unit)),
            _ => None,
        }
    }
}

impl Observer for FirstFault {
    fn input(&mut self, xs: &Tensor) -> Result<()> {
        let size = xs.elem_count() / xs.dims().first().copied().unwrap_or(1).max(1);
        if let (None, Some(at)) = (&self.found, first_non_finite(xs)?) {
            self.found = Some(Found::Input(at / size.max(1)));
        }
        Ok(())
    }

    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        if self.found.is_some() {
            return Ok(());
        }
        let at = match first_non_finite(&seen.xs()?)? {
            Some(at) => Some(at),
            None => first_non_finite(seen.ys)?,
        };
        self.found = at.map(|at| Found::Site(seen.site.name().to_string(), seen.unit(at)));
        Ok(())
    }
}
