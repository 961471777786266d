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

    /// How many activations it has seen since it began to count that were NaN or infinite; 0 if it does not count
    /// them. Training asks after every batch, to notice those that leave no trace in the loss.
    fn non_finite(&self) -> u64 {
        0
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

    fn non_finite(&self) -> u64 {
        self.0.non_finite().max(self.1.non_finite())
    }
}

impl<T: Observer> Observer for Option<T> {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        self.as_mut().map_or(Ok(()), |observer| observer.observe(seen))
    }

    fn non_finite(&self) -> u64 {
        self.as_ref().map_or(0, Observer::non_finite)
    }
}

impl<T: Observer + ?Sized> Observer for &mut T {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        (**self).observe(seen)
    }

    fn non_finite(&self) -> u64 {
        (**self).non_finite()
    }
}

impl<T: Observer + ?Sized> Observer for Box<T> {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        (**self).observe(seen)
    }

    fn non_finite(&self) -> u64 {
        (**self).non_finite()
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
    found: Option<(String, usize)>,
}

impl FirstFault {
    /// The name of that site, if there was one.
    pub fn site(&self) -> Option<&str> {
        self.found.as_ref().map(|(site, _)| site.as_str())
    }

    /// The first unit of that site that holds one, counted from 0.
    pub fn unit(&self) -> Option<usize> {
        self.found.as_ref().map(|(_, unit)| *unit)
    }
}

impl Observer for FirstFault {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        if self.found.is_some() {
            return Ok(());
        }
        let first = |t| taper_kernels::with_values(t, |ys| ys.iter().position(|y| !y.is_finite()));
        let at = match first(&seen.xs()?)? {
            Some(at) => Some(at),
            None => first(seen.ys)?,
        };
        if let Some(at) = at {
            let (units, positions) = match seen.ys.dims() {
                [_, units, rest @ ..] => (*units, rest.iter().product::<usize>()),
                _ => (1, 1),
            };
            self.found = Some((seen.site.name().to_string(), at / positions.max(1) % units.max(1)));
        }
        Ok(())
    }
}
