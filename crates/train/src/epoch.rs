use std::time::{Duration, Instant};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use taper_hooks::{Observer, Pass, Site, StepSeen, bits};
use taper_kernels::{Gradients, no_grad, record};
use taper_report::{Fault, NonFinite, Split, SplitReport, StepReport};

use crate::fault::locate;
use crate::run::AnyStep;
use crate::step::Metrics;
use crate::window::{Window, windows};
use crate::{BoxError, Error, OnNonFinite, Optimizer, Result, StepFn};

/// Trains on every batch once. The report holds the mean loss and metrics over all batches, each taken before its update.
///
/// `step` computes the loss of a batch: see [`Step`](crate::Step), and [`classify`](crate::classify) and its siblings.
/// Dropout draws from `seed` and the optimiser's step number. `layers` of the report is empty; the observer has the
/// statistics.
///
/// If the loss, a metric or a gradient of a batch is NaN or infinite, or an activation that the observer
/// [counts](Observer::non_finite) is, the optimiser's [`on_nonfinite`](crate::OptimizerConfig::on_nonfinite) decides what
/// happens.
///
/// The epoch runs on a thread of rayon's pool, whose other threads spin if the loss is on the CPU. Wrap the step in
/// [`NoSpin`](crate::NoSpin) if other programs need the cores, in [`Here`](crate::Here) if it cannot be sent to another thread.
///
/// # Errors
/// [`Error::NotFinite`] for a batch that is not finite, before it changes the weights, unless `on_nonfinite` says
/// otherwise; [`Error::Step`] if the step returns a loss that cannot be trained on; [`Error::NoBatches`] if `batches` is
/// empty; and errors of the batches, the step and the observer.
pub fn train_epoch<B, E: Into<BoxError>>(
    step: &impl StepFn<B>,
    optimizer: &mut Optimizer,
    batches: impl Iterator<Item = Result<B, E>> + Send,
    observer: &mut dyn Observer,
    seed: u64,
) -> Result<SplitReport> {
    let mut progress = Progress::default();
    train_batches(step, optimizer, batches, observer, seed, &mut progress)?;
    if progress.batches == 0 {
        return Err(Error::NoBatches(Split::Train));
    }
    flush(optimizer, observer, &mut progress)?;
    Ok(progress.report())
}

/// Like [`train_epoch`], for a part of an epoch: adds to `progress`, so that a loop can do something between batches, such
/// as saving a [checkpoint](crate::Checkpoints).
///
/// ```
/// # use candle_core::Device;
/// # use taper_hooks::rng;
/// # use taper_nn::{Mlp, MlpConfig, Params};
/// # use taper_train::{Optimizer, OptimizerConfig, Progress, Rule, classify, train_batches};
/// # let data = taper_data::digits()?;
/// # let params = Params::new(1, &Device::Cpu);
/// # let net = Mlp::new(&MlpConfig { inputs: 64, widths: vec![32], ..Default::default() }, params.builder())?;
/// # let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1))?;
/// let (mut batches, mut progress) = (data.train.shuffled(&mut rng(2), 32), Progress::default());
/// while batches.len() > 0 {
///     let ten = batches.by_ref().take(10);
///     train_batches(&classify(&net), &mut optimizer, ten, &mut (), 1, &mut progress)?;
///     println!("{} samples: loss {:.3}", progress.samples(), progress.report().score.loss);
/// }
/// assert_eq!((progress.batches(), progress.samples()), (45, 1437));
/// # Ok::<(), taper_train::Error>(())
/// ```
///
/// # Errors
/// As [`train_epoch`], but `batches` may be empty. After an error `progress` holds the batches before it.
pub fn train_batches<B, E: Into<BoxError>>(
    step: &impl StepFn<B>,
    optimizer: &mut Optimizer,
    batches: impl Iterator<Item = Result<B, E>> + Send,
    observer: &mut dyn Observer,
    seed: u64,
    progress: &mut Progress,
) -> Result<()> {
    progress.timed(|progress| {
        step.run(|step| {
            progress.begin(observer)?;
            for batch in batches {
                train_on(step, optimizer, &batch.map_err(Error::other)?, observer, seed, progress)?;
            }
            Ok(())
        })
    })
}

fn train_on<B>(
    step: &AnyStep<'_, B>,
    optimizer: &mut Optimizer,
    batch: &B,
    observer: &mut dyn Observer,
    seed: u64,
    progress: &mut Progress,
) -> Result<()> {
    let (number, policy) = (progress.batches + 1, optimizer.on_nonfinite());
    let (steps, seen) = (optimizer.draw(), observer.non_finite());
    // Running statistics are restored if the batch is skipped.
    let buffers = optimizer.buffer_values()?;
    let mut pass = Pass::train(observer, seed, steps);
    let (outcome, tape) = record(|| step(&mut pass, batch));
    let mut outcome = outcome?;
    let unusable = |fault| Error::Step { batch: number, fault };
    outcome.check(true).map_err(unusable)?;
    let (total, added) = (outcome.total(&pass)?, pass.added_loss().cloned());
    let observing = pass.observing();
    let outputs = pass.take_outputs();
    let backward = |optimizer: &Optimizer| {
        let through: Vec<&Tensor> = outputs.iter().map(|(_, ys)| ys).collect();
        tape.backward_through(&total, &optimizer.frozen(), &through)
    };
    // The whole backward pass is submitted to a GPU before anything waits for the loss.
    let (mut backward, mut gradients) = (Some(backward), None);
    if !total.device().is_cpu() {
        gradients = backward.take().map(|backward| backward(optimizer)).transpose()?;
    }
    let of_device = match &gradients {
        Some((gradients, _)) => Some(optimizer.non_finite_flag(gradients)?),
        None => None,
    };
    let flag = of_device.as_ref().and_then(|(_, flag)| flag.as_ref());
    let (loss, flag) = outcome.read(added.as_ref(), flag).map_err(unusable)?;
    let metric = outcome.metrics.faulty();
    let lost = !loss.is_finite() || observer.non_finite() > seen || metric.is_some();
    if lost && policy != OnNonFinite::Continue {
        gradients = None;
    } else if let Some(backward) = backward {
        gradients = Some(backward(optimizer)?);
    }
    let gradient = match (&gradients, of_device) {
        (Some((gradients, _)), None) if !lost => optimizer.gradient_fault(gradients)?,
        (Some((gradients, _)), Some((finite, _)))
            if !lost && (!finite || flag.is_some_and(|flag| flag != 0.0)) =>
        {
            optimizer.find_fault(gradients)?
        }
        _ => None,
    };
    let faulty = lost || gradient.is_some();
    let skipped = faulty && policy == OnNonFinite::Skip;
    if faulty {
        // Called for the first such batch only, because it repeats the forward pass. The weights are unchanged since.
        let after = optimizer.buffer_values()?;
        let find = || -> Result<Fault> {
            let place = match gradient {
                Some(place) => place,
                None => locate(loss, metric, optimizer.parameters(), |found| {
                    step(&mut Pass::train(found, seed, steps), batch).map(drop)
                })?,
            };
            Ok(Fault { batch: number, loss, place })
        };
        if policy == OnNonFinite::Stop {
            let fault = find();
            optimizer.set_buffers(&buffers)?;
            return Err(Error::NotFinite { epoch: None, fault: fault? });
        }
        progress.not_finite(skipped, find)?;
        optimizer.set_buffers(if skipped { &buffers } else { &after })?;
    }
    progress.add(loss, outcome.samples, &outcome.metrics, skipped, observing);
    let Some((gradients, through)) = gradients.filter(|_| !skipped) else { return Ok(()) };
    let sites: Vec<_> = outputs.into_iter().zip(through).map(|((site, ys), of)| (site, ys, of)).collect();
    advance(optimizer, (loss, outcome.samples), gradients, &sites, observer, progress)
}

/// Takes the gradients of a batch with this loss and number of samples, and makes a step if they are the last of one.
pub(crate) fn advance(
    optimizer: &mut Optimizer,
    (loss, samples): (f64, u64),
    gradients: Gradients,
    sites: &[(Site, Tensor, Option<Tensor>)],
    observer: &mut dyn Observer,
    progress: &mut Progress,
) -> Result<()> {
    progress.last_loss = loss;
    progress.learning_rate = Some(optimizer.learning_rate());
    match optimizer.accumulate(gradients, samples)? {
        Some(gradients) => make_step(optimizer, &gradients, sites, observer, progress),
        None => Ok(()),
    }
}

/// Makes a step of accumulated gradients, if there are any: at the end of an epoch whose number of batches is not
/// divisible by [`OptimizerConfig::accumulate`](crate::OptimizerConfig::accumulate). [`train_epoch`] and
/// [`Session`](crate::Session) do this themselves.
///
/// # Errors
/// As [`Optimizer::step`], and errors of the observer.
pub fn flush(optimizer: &mut Optimizer, observer: &mut dyn Observer, progress: &mut Progress) -> Result<()> {
    match optimizer.take_waiting()? {
        Some(gradients) => make_step(optimizer, &gradients, &[], observer, progress),
        None => Ok(()),
    }
}

/// Makes a step, calls the observer, and ends the window of steps if this step is its last.
fn make_step(
    optimizer: &mut Optimizer,
    gradients: &Gradients,
    sites: &[(Site, Tensor, Option<Tensor>)],
    observer: &mut dyn Observer,
    progress: &mut Progress,
) -> Result<()> {
    let (learning_rate, number) = (optimizer.learning_rate(), optimizer.steps() + 1);
    let ends = progress.window.is_some() && windows(number) > windows(number - 1);
    let norms = match ends {
        true => optimizer.measured_step(gradients)?,
        false => optimizer.step(gradients).map(|()| Vec::new())?,
    };
    let start = Instant::now();
    let (loss, parameters) = (progress.last_loss, optimizer.parameters().collect::<Vec<_>>());
    observer.step(&StepSeen {
        step: number,
        loss,
        learning_rate,
        parameters: &parameters,
        sites,
        gradients,
    })?;
    if let Some(window) = &mut progress.window {
        window.steps += 1;
        if ends {
            window.end(number, learning_rate, observer.end_window()?, norms);
        }
    }
    progress.observing += start.elapsed().as_secs_f64();
    Ok(())
}

/// Evaluates the model on every batch of a split, in evaluation mode.
///
/// The step runs within [`no_grad`](taper_kernels::no_grad): no layer of Taper keeps a graph. Layers of candle keep one
/// up to the next layer of Taper; a model built with [`Params::frozen`](taper_nn::Params::frozen) keeps none.
///
/// A NaN or infinite loss is not an error here: `nonfinite` of the report counts such batches and locates the first.
///
/// # Errors
/// [`Error::NoBatches`] if `batches` is empty, and errors of the batches, the step and the observer: a
/// [`Recorder`](taper_hooks::Recorder) returns one before the first batch if its last window was not finished.
pub fn evaluate<B, E: Into<BoxError>>(
    step: &impl StepFn<B>,
    split: Split,
    batches: impl Iterator<Item = Result<B, E>> + Send,
    observer: &mut dyn Observer,
) -> Result<SplitReport> {
    let mut progress = Progress::default();
    progress.timed(|progress| {
        step.run(|step| {
            observer.begin(split, false)?;
            for (number, batch) in (1..).zip(batches) {
                evaluate_on(step, &batch.map_err(Error::other)?, observer, progress, number)?;
            }
            Ok(())
        })
    })?;
    if progress.batches == 0 {
        return Err(Error::NoBatches(split));
    }
    Ok(SplitReport { split, learning_rate: None, ..progress.report() })
}

/// Evaluates batch `number` of the split.
pub(crate) fn evaluate_on<B>(
    step: &AnyStep<'_, B>,
    batch: &B,
    observer: &mut dyn Observer,
    progress: &mut Progress,
    number: u64,
) -> Result<()> {
    let seen = observer.non_finite();
    let mut pass = Pass::eval(observer);
    let mut outcome = no_grad(|| step(&mut pass, batch))?;
    let observing = pass.observing();
    let unusable = |fault| Error::Step { batch: number, fault };
    outcome.check(false).map_err(unusable)?;
    let (loss, _) = outcome.read(None, None).map_err(unusable)?;
    let metric = outcome.metrics.faulty();
    progress.add(loss, outcome.samples, &outcome.metrics, false, observing);
    if !loss.is_finite() || metric.is_some() || observer.non_finite() > seen {
        progress.not_finite(false, || {
            let place =
                locate(loss, metric, [], |found| no_grad(|| step(&mut Pass::eval(found), batch)).map(drop))?;
            Ok(Fault { batch: number, loss, place })
        })?;
    }
    Ok(())
}

/// Running sums of an epoch of training.
///
/// Serialisable with serde, without loss of bits, so that an epoch can be resumed: see [`Checkpoints`](crate::Checkpoints).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    batches: u64,
    samples: u64,
    #[serde(with = "bits")]
    loss: f64,
    metrics: Metrics,
    /// Of the last step.
    learning_rate: Option<f64>,
    /// Of the last training batch.
    #[serde(with = "bits", default)]
    last_loss: f64,
    #[serde(with = "bits")]
    seconds: f64,
    #[serde(with = "bits")]
    observing: f64,
    /// Samples of skipped batches, whose loss is not part of the sum.
    without_loss: u64,
    nonfinite: Option<NonFinite>,
    /// `None` if windows of steps are not recorded.
    window: Option<Box<Window>>,
}

impl Progress {
    /// For a training that records windows of steps: see [`StepReport`]. The observer must receive every batch from the
    /// first.
    pub fn with_windows() -> Self {
        Self { window: Some(Box::default()), ..Self::default() }
    }

    /// Turns recording of windows of steps on or off.
    pub(crate) fn record_windows(&mut self, on: bool) {
        self.window = on.then(|| self.window.take().unwrap_or_default());
    }

    /// The windows of steps that ended since the last call. Without [`Progress::with_windows`] there are none.
    pub fn take_windows(&mut self) -> Vec<StepReport> {
        self.window.as_mut().map(|window| std::mem::take(&mut window.ended)).unwrap_or_default()
    }

    /// Progress of the next epoch: its sums are 0, and the window of steps continues.
    pub fn next_epoch(self) -> Self {
        Self { window: self.window, ..Self::default() }
    }

    /// Number of training batches.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Number of training samples.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The report over the batches so far, as returned by [`train_epoch`].
    pub fn report(&self) -> SplitReport {
        let loss = match self.samples - self.without_loss {
            // All batches were skipped: there is no loss, which differs from a loss of 0.
            0 => f64::NAN,
            counted => self.loss / counted as f64,
        };
        SplitReport {
            learning_rate: self.learning_rate,
            seconds: self.seconds,
            tracking_seconds: self.observing,
            nonfinite: self.nonfinite.clone(),
            ..SplitReport::new(Split::Train, self.metrics.score(loss, self.samples))
        }
    }

    /// Runs a pass over batches, and adds its time.
    pub(crate) fn timed(&mut self, pass: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let done = pass(self);
        self.seconds += start.elapsed().as_secs_f64();
        done
    }

    /// Begins to train, or goes on.
    pub(crate) fn begin(&mut self, observer: &mut dyn Observer) -> Result<()> {
        observer.begin(Split::Train, self.batches > 0)?;
        if let Some(window) = self.window.as_mut().filter(|window| !window.begun) {
            observer.end_window()?;
            window.begun = true;
        }
        Ok(())
    }

    /// Adds a batch with this mean loss.
    pub(crate) fn add(
        &mut self,
        loss: f64,
        samples: u64,
        metrics: &Metrics,
        skipped: bool,
        observing: Duration,
    ) {
        if let Some(window) = &mut self.window {
            window.sums.add(loss, samples, metrics, skipped, observing);
        }
        self.batches += 1;
        self.samples = self.samples.saturating_add(samples);
        // A skipped NaN batch must not turn the epoch's mean into NaN.
        match skipped && !loss.is_finite() {
            true => self.without_loss = self.without_loss.saturating_add(samples),
            false => self.loss += loss * samples as f64,
        }
        self.metrics.add(metrics, skipped);
        self.observing += observing.as_secs_f64();
    }

    /// Adds the sums of other batches of an evaluation.
    pub(crate) fn merge(&mut self, other: Self) {
        self.batches += other.batches;
        self.samples = self.samples.saturating_add(other.samples);
        self.loss += other.loss;
        self.metrics.add(&other.metrics, false);
        self.observing += other.observing;
        self.nonfinite = match (self.nonfinite.take(), other.nonfinite) {
            (Some(a), Some(b)) => {
                let (batches, skipped) = (a.batches + b.batches, a.skipped + b.skipped);
                let first = if a.first.batch < b.first.batch { a.first } else { b.first };
                Some(NonFinite { batches, skipped, first })
            }
            (a, b) => a.or(b),
        };
    }

    /// Counts a non-finite batch, and locates the first one.
    pub(crate) fn not_finite(&mut self, skipped: bool, find: impl FnOnce() -> Result<Fault>) -> Result<()> {
        let of = match &mut self.nonfinite {
            Some(of) => of,
            none => none.insert(NonFinite { batches: 0, skipped: 0, first: find()? }),
        };
        of.batches += 1;
        of.skipped += u64::from(skipped);
        Ok(())
    }
}
