use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use taper_hooks::{Observer, Pass, bits};
use taper_kernels::record;
use taper_report::{Fault, NonFinite, Split, SplitReport};

use crate::fault::locate;
use crate::run::AnyStep;
use crate::step::Metrics;
use crate::{BoxError, Error, OnNonFinite, Optimizer, Result, Step, StepFn};

/// Trains on every batch once and says how that went, over all of them, while the weights moved.
///
/// `step` computes the loss of a batch: see [`Step`], and [`classify`](crate::classify) and its siblings. Dropout draws
/// from `seed` and the number of the optimiser's step. `layers` of the report is left empty: ask the observer.
///
/// A batch whose loss, metric or gradient, or an activation that the observer [counts](Observer::non_finite), is NaN or
/// infinite is dealt with as the optimiser's [`on_nonfinite`](crate::OptimizerConfig::on_nonfinite) says.
///
/// The epoch runs on a thread of rayon's pool, whose other threads spin if the loss is on the CPU. Wrap the step in
/// [`NoSpin`](crate::NoSpin) if other programs need the cores, in [`Here`](crate::Here) if it cannot be sent to another thread.
///
/// # Errors
/// [`Error::NotFinite`] ends the epoch before the weights are touched by a batch that is not finite, unless
/// that is to be skipped or passed over; [`Error::Step`] where the step returned what cannot be trained on,
/// [`Error::NoBatches`] where there is nothing to train on. Others are those of the batches, the step and the observer.
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
    Ok(progress.report())
}

/// Trains on every batch once, as [`train_epoch`] does, and accumulates into `progress`: for a loop that does something
/// within an epoch, such as saving a [checkpoint](crate::Checkpoints).
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
/// Like [`train_epoch`], but an empty iterator is allowed. `progress` has the batches before the error.
pub fn train_batches<B, E: Into<BoxError>>(
    step: &impl StepFn<B>,
    optimizer: &mut Optimizer,
    batches: impl Iterator<Item = Result<B, E>> + Send,
    observer: &mut dyn Observer,
    seed: u64,
    progress: &mut Progress,
) -> Result<()> {
    let start = Instant::now();
    let trained = step.run(|step| {
        observer.begin(Split::Train, progress.batches > 0)?;
        for batch in batches {
            train_on(step, optimizer, &batch.map_err(Error::other)?, observer, seed, progress)?;
        }
        Ok(())
    });
    progress.seconds += start.elapsed().as_secs_f64();
    trained
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
    let (steps, seen) = (optimizer.steps(), observer.non_finite());
    let mut pass = Pass::train(observer, seed, steps);
    let (outcome, tape) = record(|| step(&mut pass, batch));
    let outcome = outcome?;
    let loss = outcome.value(true).map_err(|fault| Error::Step { batch: number, fault })?;
    let (outcome, total) = outcome.with_added_loss(&pass)?;
    let observing = pass.observing();
    let metric = outcome.metrics.faulty();
    let lost = !loss.is_finite() || observer.non_finite() > seen || metric.is_some();
    let gradients = match lost && policy != OnNonFinite::Continue {
        true => None,
        false => Some(tape.backward(total.as_ref().unwrap_or(&outcome.loss))?),
    };
    let gradient = match &gradients {
        Some(gradients) if !lost => optimizer.gradient_fault(gradients)?,
        _ => None,
    };
    let faulty = lost || gradient.is_some();
    let skipped = faulty && policy == OnNonFinite::Skip;
    if faulty {
        // Asked of the first batch alone, as the same pass is made again to find where it went wrong; the weights
        // have not moved since.
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
            return Err(Error::NotFinite { epoch: None, fault: find()? });
        }
        progress.not_finite(skipped, find)?;
    }
    progress.add(loss, &outcome, skipped, observing);
    if let Some(gradients) = gradients.filter(|_| !skipped) {
        progress.learning_rate = Some(optimizer.learning_rate());
        optimizer.step(&gradients)?;
    }
    Ok(())
}

/// Measures the model on every batch of a split in evaluation mode, with its weights as they are.
///
/// Its loss may be NaN or infinite, which is no error here: `nonfinite` of the report counts such batches and locates the
/// first.
///
/// # Errors
/// Those of the batches, the step and the observer: a [`Recorder`](taper_hooks::Recorder) refuses, before the first batch,
/// to begin a window where another was not finished. [`Error::NoBatches`] where there is nothing to measure.
pub fn evaluate<B, E: Into<BoxError>>(
    step: &impl StepFn<B>,
    split: Split,
    batches: impl Iterator<Item = Result<B, E>> + Send,
    observer: &mut dyn Observer,
) -> Result<SplitReport> {
    let (mut progress, start) = (Progress::default(), Instant::now());
    step.run(|step| {
        observer.begin(split, false)?;
        for batch in batches {
            evaluate_on(step, &batch.map_err(Error::other)?, observer, &mut progress)?;
        }
        Ok::<_, Error>(())
    })?;
    if progress.batches == 0 {
        return Err(Error::NoBatches(split));
    }
    progress.seconds = start.elapsed().as_secs_f64();
    Ok(SplitReport { split, learning_rate: None, ..progress.report() })
}

fn evaluate_on<B>(
    step: &AnyStep<'_, B>,
    batch: &B,
    observer: &mut dyn Observer,
    progress: &mut Progress,
) -> Result<()> {
    let (number, seen) = (progress.batches + 1, observer.non_finite());
    let mut pass = Pass::eval(observer);
    let outcome = step(&mut pass, batch)?;
    let observing = pass.observing();
    let loss = outcome.value(false).map_err(|fault| Error::Step { batch: number, fault })?;
    let metric = outcome.metrics.faulty();
    progress.add(loss, &outcome, false, observing);
    if !loss.is_finite() || metric.is_some() || observer.non_finite() > seen {
        progress.not_finite(false, || {
            let place = locate(loss, metric, [], |found| step(&mut Pass::eval(found), batch).map(drop))?;
            Ok(Fault { batch: number, loss, place })
        })?;
    }
    Ok(())
}

/// What an epoch of training has come to so far: sums over its batches.
///
/// It can be written down and read back with serde, and goes on to the bit: see [`Checkpoints`](crate::Checkpoints).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    batches: u64,
    samples: u64,
    #[serde(with = "bits")]
    loss: f64,
    metrics: Metrics,
    /// Of the last step.
    learning_rate: Option<f64>,
    #[serde(with = "bits")]
    seconds: f64,
    #[serde(with = "bits")]
    observing: f64,
    /// Samples whose loss is not part of the sum.
    without_loss: u64,
    nonfinite: Option<NonFinite>,
}

impl Progress {
    /// Batches trained on.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Samples trained on.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// What [`train_epoch`] returns, over the batches so far.
    pub fn report(&self) -> SplitReport {
        let loss = match self.samples - self.without_loss {
            // Of batches that were all skipped there is no loss, which is not a loss of 0.
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

    fn add(&mut self, loss: f64, step: &Step, skipped: bool, observing: Duration) {
        self.batches += 1;
        self.samples = self.samples.saturating_add(step.samples);
        // One NaN would make the epoch's mean NaN.
        match skipped && !loss.is_finite() {
            true => self.without_loss = self.without_loss.saturating_add(step.samples),
            false => self.loss += loss * step.samples as f64,
        }
        self.metrics.add(&step.metrics, skipped);
        self.observing += observing.as_secs_f64();
    }

    /// Counts a batch that is not finite; the first is found and described.
    fn not_finite(&mut self, skipped: bool, find: impl FnOnce() -> Result<Fault>) -> Result<()> {
        let of = match &mut self.nonfinite {
            Some(of) => of,
            none => none.insert(NonFinite { batches: 0, skipped: 0, first: find()? }),
        };
        of.batches += 1;
        of.skipped += u64::from(skipped);
        Ok(())
    }
}
