use std::time::{Duration, Instant};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use taper_data::Batch;
use taper_hooks::{FirstFault, Observer, Pass, Rng, bits};
use taper_kernels::{cross_entropy, record, with_values};
use taper_nn::Model;
use taper_report::{Fault, Metric, MetricKind, NonFinite, Score, Split, SplitReport};

use crate::awake::awake;
use crate::fault::locate;
use crate::{Error, OnNonFinite, Optimizer, Place, Result};

/// Trains on every batch once and says how that went, over all of them, while the weights moved.
///
/// `rng` is what dropout draws from. `layers` of the report is left empty: ask the observer.
///
/// A batch whose loss or gradient, or an activation that the observer [counts](Observer::non_finite), is NaN or
/// infinite is dealt with as the optimiser's [`on_nonfinite`](crate::OptimizerConfig::on_nonfinite) says.
///
/// The epoch runs on a thread of rayon's pool, where handing work to the other threads costs least; a model and
/// an observer can therefore be sent there.
///
/// # Errors
/// [`Error::NotFinite`] ends the epoch before the weights are touched by a batch that is not finite, unless
/// that is to be skipped or passed over. Others are those of the batches, the model and the observer.
pub fn train_epoch(
    model: &dyn Model,
    optimizer: &mut Optimizer,
    batches: impl Iterator<Item = taper_data::Result<Batch>> + Send,
    observer: &mut dyn Observer,
    rng: &mut Rng,
) -> Result<SplitReport> {
    let mut progress = Progress::default();
    train_batches(model, optimizer, batches, observer, rng, &mut progress)?;
    Ok(progress.report())
}

/// Trains on every batch once, as [`train_epoch`] does, and adds to what the epoch has come to: for a loop that does
/// something within an epoch, such as saving a [checkpoint](crate::Checkpoints).
///
/// ```
/// # use candle_core::Device;
/// # use taper_hooks::rng;
/// # use taper_nn::{Mlp, MlpConfig, Params};
/// # use taper_train::{Optimizer, OptimizerConfig, Progress, Rule, train_batches};
/// # let data = taper_data::digits()?;
/// # let params = Params::new(1, &Device::Cpu);
/// # let net = Mlp::new(&MlpConfig { inputs: 64, widths: vec![32], ..Default::default() }, params.builder())?;
/// # let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1))?;
/// # let mut rng = rng(2);
/// let (mut batches, mut progress) = (data.train.shuffled(&mut rng, 32), Progress::default());
/// while batches.len() > 0 {
///     let ten = batches.by_ref().take(10);
///     train_batches(&net, &mut optimizer, ten, &mut (), &mut rng, &mut progress)?;
///     println!("{} samples: loss {:.3}", progress.samples(), progress.report().score.loss);
/// }
/// assert_eq!((progress.batches(), progress.samples()), (45, 1437));
/// # Ok::<(), taper_train::Error>(())
/// ```
///
/// # Errors
/// As [`train_epoch`]. `progress` then has what was trained before.
pub fn train_batches(
    model: &dyn Model,
    optimizer: &mut Optimizer,
    batches: impl Iterator<Item = taper_data::Result<Batch>> + Send,
    observer: &mut dyn Observer,
    rng: &mut Rng,
    progress: &mut Progress,
) -> Result<()> {
    let start = Instant::now();
    let trained = awake(|| train_here(model, optimizer, batches, observer, rng, progress));
    progress.seconds += start.elapsed().as_secs_f64();
    trained
}

fn train_here(
    model: &dyn Model,
    optimizer: &mut Optimizer,
    batches: impl Iterator<Item = taper_data::Result<Batch>>,
    observer: &mut dyn Observer,
    rng: &mut Rng,
    progress: &mut Progress,
) -> Result<()> {
    let on_nonfinite = optimizer.on_nonfinite();
    for batch in batches {
        let Batch { images, labels } = batch?;
        let (before, seen) = (rng.clone(), observer.non_finite());
        let mut pass = Pass::train(observer, rng);
        let (outcome, tape) = record(|| {
            let logits = model.forward(&mut pass, &images)?;
            let loss = cross_entropy(&logits, &labels)?;
            candle_core::Result::Ok((logits, loss))
        });
        let observing = pass.observing();
        let (logits, loss) = outcome?;
        let value = loss.to_scalar::<f32>()?;
        let lost = !value.is_finite() || observer.non_finite() > seen;
        let gradients = match lost && on_nonfinite != OnNonFinite::Continue {
            true => None,
            false => Some(tape.backward(&loss)?),
        };
        let gradient = match &gradients {
            Some(gradients) if !lost => optimizer.gradient_fault(gradients)?,
            _ => None,
        };
        let at = progress.batches as usize + 1;
        let faulty = lost || gradient.is_some();
        let skipped = faulty && on_nonfinite == OnNonFinite::Skip;
        if faulty {
            // Asked of the first batch alone, as the same pass is made again to find where it went wrong; the weights
            // have not moved since.
            let find = || match gradient {
                Some(place) => Ok(place),
                None => locate(&images, optimizer.parameters(), |fault| {
                    let mut rng = before;
                    model.forward(&mut Pass::train(fault, &mut rng), &images).map(drop)
                }),
            };
            if on_nonfinite == OnNonFinite::Stop {
                return Err(Error::NotFinite { loss: value, epoch: None, batch: at, place: find()? });
            }
            progress.not_finite(value, at, skipped, find)?;
        }
        // The loss of a batch that is skipped would leave nothing of the mean.
        let counted = if skipped && !value.is_finite() { None } else { Some(value) };
        progress.add(counted, &logits, &labels, observing)?;
        match gradients {
            Some(gradients) if !skipped => {
                progress.learning_rate = Some(optimizer.learning_rate());
                optimizer.step(&gradients)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Measures the model on every batch in evaluation mode, with its weights as they are. Keeps no graph.
///
/// The report is filed under [`Split::Test`]; change `split` if it is about another one. Its loss may be NaN or
/// infinite, which is no error here: `nonfinite` of the report counts such batches and locates the first.
///
/// # Errors
/// Those of the batches, the model and the observer.
pub fn evaluate(
    model: &dyn Model,
    batches: impl Iterator<Item = taper_data::Result<Batch>> + Send,
    observer: &mut dyn Observer,
) -> Result<SplitReport> {
    awake(|| evaluate_here(model, batches, observer))
}

fn evaluate_here(
    model: &dyn Model,
    batches: impl Iterator<Item = taper_data::Result<Batch>>,
    observer: &mut dyn Observer,
) -> Result<SplitReport> {
    let (mut running, start) = (Progress::default(), Instant::now());
    for (i, batch) in batches.enumerate() {
        let Batch { images, labels } = batch?;
        let seen = observer.non_finite();
        let mut pass = Pass::eval(observer);
        let logits = model.forward(&mut pass, &images)?.detach();
        let loss = cross_entropy(&logits, &labels)?.to_scalar::<f32>()?;
        running.add(Some(loss), &logits, &labels, pass.observing())?;
        if !loss.is_finite() || observer.non_finite() > seen {
            running.not_finite(loss, i + 1, false, || {
                locate(&images, [], |fault| model.forward(&mut Pass::eval(fault), &images).map(drop))
            })?;
        }
    }
    running.seconds = start.elapsed().as_secs_f64();
    Ok(SplitReport { split: Split::Test, learning_rate: None, ..running.report() })
}

/// After an epoch whose last step went too far: a test pass is not finite, and no batch of training was left to
/// notice. Finds the first site with NaN or an infinity, for the error that ends the run.
pub fn not_finite(
    model: &dyn Model,
    test: impl Iterator<Item = taper_data::Result<Batch>> + Send,
    loss: f64,
    batch: usize,
) -> Error {
    let find = || -> Result<Place> {
        let mut fault = FirstFault::default();
        evaluate(model, test, &mut fault)?;
        Ok(match (fault.site(), fault.unit()) {
            (Some(site), Some(unit)) => Place::Site { site: site.to_string(), unit: unit as u64 },
            _ => Place::Loss,
        })
    };
    match find() {
        Ok(place) => Error::NotFinite { loss: loss as f32, epoch: None, batch, place },
        Err(error) => error,
    }
}

/// What an epoch of training has come to so far: sums over its batches.
///
/// It can be written down and read back with serde, and goes on to the bit: see [`Checkpoints`](crate::Checkpoints).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    batches: u64,
    samples: u64,
    correct: u64,
    #[serde(with = "bits")]
    loss: f64,
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
        let n = self.samples.max(1) as f64;
        let loss = match self.samples.saturating_sub(self.without_loss) {
            // Every batch was skipped: there is no loss, which is not a loss of 0.
            0 if self.samples > 0 => f64::NAN,
            counted => self.loss / counted.max(1) as f64,
        };
        let value = self.correct as f64 / n;
        let accuracy = Metric { name: "accuracy".into(), kind: MetricKind::Share, value };
        let score = Score { loss, samples: self.samples, metrics: vec![accuracy], ..Score::default() };
        SplitReport {
            learning_rate: self.learning_rate,
            seconds: self.seconds,
            tracking_seconds: self.observing,
            nonfinite: self.nonfinite.clone(),
            ..SplitReport::new(Split::Train, score)
        }
    }

    fn add(
        &mut self,
        loss: Option<f32>,
        logits: &Tensor,
        labels: &Tensor,
        observing: Duration,
    ) -> Result<()> {
        let n = logits.dim(0)?;
        self.batches += 1;
        match loss {
            Some(loss) => self.loss += loss as f64 * n as f64,
            None => self.without_loss += n as u64,
        }
        self.correct += count_correct(logits, labels)?;
        self.samples += n as u64;
        self.observing += observing.as_secs_f64();
        Ok(())
    }

    /// Counts a batch that is not finite; the first is found and described.
    fn not_finite(
        &mut self,
        loss: f32,
        batch: usize,
        skipped: bool,
        place: impl FnOnce() -> Result<Place>,
    ) -> Result<()> {
        if self.nonfinite.is_none() {
            let first = Fault { batch: batch as u64, loss: f64::from(loss), place: place()? };
            self.nonfinite = Some(NonFinite { batches: 0, skipped: 0, first });
        }
        if let Some(of) = &mut self.nonfinite {
            of.batches += 1;
            of.skipped += u64::from(skipped);
        }
        Ok(())
    }
}

/// How many rows of `logits` have their first largest value at the label. A row with NaN counts as wrong.
fn count_correct(logits: &Tensor, labels: &Tensor) -> Result<u64> {
    let (_, classes) = logits.dims2()?;
    let labels = labels.to_vec1::<u32>()?;
    Ok(with_values(logits, |logits| {
        let hit = |(row, &label): (&[f32], &u32)| {
            let Some(&own) = row.get(label as usize) else { return false };
            let (before, after) = row.split_at(label as usize);
            before.iter().all(|x| *x < own) && after.iter().all(|x| *x <= own)
        };
        logits.chunks_exact(classes).zip(&labels).filter(|pair| hit(*pair)).count() as u64
    })?)
}
