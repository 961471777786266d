use candle_core::Result;

use crate::Seen;

/// Someone who watches activations go by.
///
/// `()` watches nothing, a pair `(A, B)` tells both, an `Option` may be `None`; `&mut T` and `Box<T>` are
/// observers, and [`observer_fn`] makes one of a closure. An error ends the forward pass. Training may run on
/// another thread, so an observer can be sent there.
pub trait Observer: Send {
    /// Called once per site and batch, in the order of the forward pass, on the thread that makes it.
    ///
    /// # Errors
    /// The observer's own; the forward pass returns them.
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()>;
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
}

impl<T: Observer> Observer for Option<T> {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        self.as_mut().map_or(Ok(()), |observer| observer.observe(seen))
    }
}

impl<T: Observer + ?Sized> Observer for &mut T {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        (**self).observe(seen)
    }
}

impl<T: Observer + ?Sized> Observer for Box<T> {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        (**self).observe(seen)
    }
}

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

/// Finds the first site of a pass that holds NaN or an infinity, before or behind the activation function.
#[derive(Debug, Default)]
pub struct FirstFault {
    site: Option<String>,
}

impl FirstFault {
    /// The name of that site, if there was one.
    pub fn site(&self) -> Option<&str> {
        self.site.as_deref()
    }
}

impl Observer for FirstFault {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        let faulty = |t| taper_kernels::with_values(t, |ys| ys.iter().any(|y| !y.is_finite()));
        if self.site.is_none() && (faulty(seen.xs)? || faulty(seen.ys)?) {
            self.site = Some(seen.site.name().to_string());
        }
        Ok(())
    }
}
