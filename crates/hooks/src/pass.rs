use std::time::{Duration, Instant};

use candle_core::{Result, Tensor};
use scoped_tls_hkt::scoped_thread_local;
use taper_kernels::{Activation, Draw, off_the_record};

use crate::{Error, Mode, Observer, Seen, Site, Units};

/// One forward pass: its mode, its observer, and the seed of its random layers.
///
/// A model gives it to its layers. It borrows the observer, so nothing stays attached to the model after the pass.
pub struct Pass<'a> {
    observer: &'a mut dyn Observer,
    random: Option<Random>,
    /// The sites so far, and their uses.
    sites: Vec<(Site, u32)>,
    added_loss: Option<Tensor>,
    /// The outputs of the sites, if the observer wants their gradients.
    outputs: Option<Vec<(Site, Tensor)>>,
    observing: Duration,
}

/// The seed of the random layers of a training pass.
#[derive(Clone, Copy)]
struct Random {
    seed: u64,
    step: u64,
    first_row: u64,
    /// The number of draws so far.
    drawn: u64,
}

impl<'a> Pass<'a> {
    /// A pass in train mode, whose random layers draw from `seed` and the number of the `step`.
    pub fn train(observer: &'a mut dyn Observer, seed: u64, step: u64) -> Self {
        let random = Random { seed, step, first_row: 0, drawn: 0 };
        let outputs = observer.wants_site_gradients().then(Vec::new);
        Self { random: Some(random), outputs, ..Self::eval(observer) }
    }

    /// A pass in evaluation mode.
    pub fn eval(observer: &'a mut dyn Observer) -> Self {
        let (random, sites, added_loss, outputs) = (None, Vec::new(), None, None);
        Self { observer, random, sites, added_loss, outputs, observing: Duration::ZERO }
    }

    /// The same for a part of a batch that begins with row `first_row` of the whole batch. It draws the numbers of
    /// these rows in the whole batch. The first axis of the input of dropout must be the batch: if samples and
    /// positions were flattened into one axis, the parts draw other masks than the whole batch.
    pub fn rows_from(mut self, first_row: u64) -> Self {
        if let Some(random) = &mut self.random {
            random.first_row = first_row;
        }
        self
    }

    /// Train or evaluation mode.
    pub fn mode(&self) -> Mode {
        if self.random.is_some() { Mode::Train } else { Mode::Eval }
    }

    /// Passes the input and output of the site's activation function to the observer.
    ///
    /// Compute `ys` with `taper_kernels::activate`, or another function that keeps NaN. candle's `relu` turns NaN into
    /// zeros, which an observer cannot distinguish from sparsity.
    ///
    /// # Shapes
    /// `xs` and `ys`: the same, `(N, units, ..)` or `(N, .., units)`, as the site says.
    ///
    /// # Errors
    /// When `xs` and `ys` differ in shape, the unit axis is unknown, or this pass has another site with the same name;
    /// and errors of the observer.
    pub fn see(&mut self, site: &Site, xs: &Tensor, ys: &Tensor) -> Result<()> {
        site.check_shapes(xs, ys)?;
        self.see_with(site, site.activation(), None, &|| Ok(xs.clone()), ys)
    }

    /// Passes values without an activation function, such as logits or an embedding, to the observer.
    ///
    /// # Shapes
    /// `ys`: `(N, units, ..)` or `(N, .., units)`, as the site says.
    ///
    /// # Errors
    /// As [`Pass::see`].
    pub fn tap(&mut self, site: &Site, ys: &Tensor) -> Result<()> {
        self.see_with(site, None, None, &|| Ok(ys.clone()), ys)
    }

    /// The low-level form of [`Pass::see`] and [`Pass::tap`], for layers: with the current activation function, the unit
    /// axis that the layer implies, and `xs` computed on demand.
    ///
    /// # Errors
    /// As [`Pass::see`].
    pub fn see_with(
        &mut self,
        site: &Site,
        activation: Option<Activation>,
        layer: Option<Units>,
        xs: &dyn Fn() -> Result<Tensor>,
        ys: &Tensor,
    ) -> Result<()> {
        let units = site.axis(ys.dims(), layer)?;
        let uses = self.count(site)?;
        let start = Instant::now();
        let mode = self.mode();
        let seen = Seen { site, activation, mode, units, uses, xs, ys };
        off_the_record(|| self.observer.observe(&seen))?;
        if let Some(outputs) = &mut self.outputs {
            outputs.push((site.clone(), ys.clone()));
        }
        self.observing += start.elapsed();
        Ok(())
    }

    fn count(&mut self, site: &Site) -> std::result::Result<u32, Error> {
        match self.sites.iter_mut().find(|(known, _)| known.name() == site.name()) {
            Some((known, uses)) if known.is_same_place(site) => {
                *uses += 1;
                Ok(*uses)
            }
            Some(_) => Err(Error::SiteTwice(site.name().to_string())),
            None => {
                self.sites.push((site.clone(), 1));
                Ok(1)
            }
        }
    }

    /// Passes the input of the model to the observer, which can then tell faults in the data from faults in the model.
    ///
    /// # Shapes
    /// `xs`: `(N, ..)`.
    ///
    /// # Errors
    /// Errors of the observer.
    pub fn input(&mut self, xs: &Tensor) -> Result<()> {
        let start = Instant::now();
        off_the_record(|| self.observer.input(xs))?;
        self.observing += start.elapsed();
        Ok(())
    }

    /// Returns the next random key of this pass. Passes with the same seed and step return the same sequence of keys.
    ///
    /// # Errors
    /// In evaluation mode.
    pub fn draw(&mut self) -> Result<Draw> {
        let random = self.random.as_mut().ok_or(Error::NoRng)?;
        random.drawn += 1;
        let draw = Draw::keyed(random.seed, [random.step, random.drawn]);
        Ok(Draw { first_row: random.first_row, ..draw })
    }

    /// Adds a differentiable scalar to the training loss, as a penalty on activations. Ignored in evaluation mode.
    ///
    /// # Errors
    /// When `term` is not a scalar.
    pub fn add_to_loss(&mut self, term: &Tensor) -> Result<()> {
        if self.mode() == Mode::Train {
            if term.rank() != 0 {
                return Err(Error::NotScalar(term.dims().to_vec()).into());
            }
            self.added_loss = Some(match &self.added_loss {
                Some(sum) => (sum + term)?,
                None => term.clone(),
            });
        }
        Ok(())
    }

    /// The sum of the terms added to the loss, a scalar; `None` without terms.
    pub fn added_loss(&self) -> Option<&Tensor> {
        self.added_loss.as_ref()
    }

    /// The sites and their outputs, in the order of the pass, if the observer [wants their
    /// gradients](Observer::wants_site_gradients).
    pub fn take_outputs(&mut self) -> Vec<(Site, Tensor)> {
        self.outputs.take().unwrap_or_default()
    }

    /// Wall-clock time of the observer in this pass.
    pub fn observing(&self) -> Duration {
        self.observing
    }

    /// Runs `forward`, a model for plain candle, with this pass as the current one of the thread: its layers get it
    /// from [`Pass::current`].
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use taper_hooks::{Activation, Pass, Recorder, Site};
    /// use taper_kernels::activate;
    ///
    /// let site = Site::behind("fc1", Activation::Relu);
    /// // As a `candle_nn::Module` would, which is given no pass.
    /// let forward = |xs: &Tensor| {
    ///     let ys = activate(xs, Activation::Relu)?;
    ///     Pass::current(|pass| pass.map_or(Ok(()), |pass| pass.see(&site, xs, &ys)))?;
    ///     candle_core::Result::Ok(ys)
    /// };
    /// let (mut recorder, xs) = (Recorder::new(), Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?);
    /// forward(&xs)?; // outside of a scope it only computes
    /// Pass::eval(&mut recorder).scope(|| forward(&xs))?;
    /// assert_eq!(recorder.finish()[0].zeros, 6);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn scope<R>(&mut self, forward: impl FnOnce() -> R) -> R {
        CURRENT.set(self, forward)
    }

    /// Calls `f` with the pass whose [`Pass::scope`] runs on this thread, or with `None`.
    pub fn current<R>(f: impl FnOnce(Option<&mut Pass<'_>>) -> R) -> R {
        if !CURRENT.is_set() {
            return f(None);
        }
        let (mut f, mut result) = (Some(f), None);
        CURRENT.with(|pass| {
            pass.reborrow(&mut |pass| result = f.take().map(|f| f(Some(pass))));
        });
        result.expect("reborrow calls its argument once")
    }

    /// Runs `op` outside of any scope. A thread that waits in a parallel loop may get work of another training, which
    /// must not find the pass of the waiting one.
    pub fn outside<R>(op: impl FnOnce() -> R) -> R {
        // Removed while it is borrowed.
        if CURRENT.is_set() { CURRENT.with(|_| op()) } else { op() }
    }
}

scoped_thread_local! {
    /// The pass for layers without a pass argument; set within [`Pass::scope`] only.
    static mut CURRENT: for<'p> &'p mut (dyn AnyPass + 'p)
}

/// A pass with an erased lifetime.
trait AnyPass {
    fn reborrow(&mut self, f: &mut dyn FnMut(&mut Pass<'_>));
}

impl AnyPass for Pass<'_> {
    fn reborrow(&mut self, f: &mut dyn FnMut(&mut Pass<'_>)) {
        f(self);
    }
}
