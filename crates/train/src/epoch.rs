use std::time::{Duration, Instant};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use taper_data::Batch;
use taper_hooks::{FirstFault, Observer, Pass, Rng, bits};
use taper_kernels::{cross_entropy, record, with_values};
use taper_nn::Model;
use taper_report::{Score, Split, SplitReport};

use crate::awake::awake;
use crate::{Error, Optimizer, Result};

/// Trains on every batch once and says how that went, over all of them, while the weights moved.
///
/// `rng` is what dropout draws from. `layers` of the report is left empty: ask the observer.
///
/// The epoch runs on a thread of rayon's pool, where handing work to the other threads costs least; a model and
/// an observer can therefore be sent there.
///
/// # Errors
/// [`Error::NotFinite`] ends the epoch before the weights are touched by a loss that is NaN or infinite. Others
/// are those of the batches, the model and the observer.
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
    for batch in batches {
        let Batch { images, labels } = batch?;
        let before = rng.clone();
        let mut pass = Pass::train(observer, rng);
        let (outcome, tape) = record(|| {
            let logits = model.forward(&mut pass, &images)?;
            let loss = cross_entropy(&logits, &labels)?;
            candle_core::Result::Ok((logits, loss))
        });
        let observing = pass.observing();
        let (logits, loss) = outcome?;
        let value = loss.to_scalar::<f32>()?;
        if !value.is_finite() {
            // The same pass again, to find where it went wrong; the weights have not moved since.
            let (mut fault, mut rng) = (FirstFault::default(), before);
            model.forward(&mut Pass::train(&mut fault, &mut rng), &images)?;
            let site = fault.site().map(str::to_string);
            let batch = progress.batches as usize + 1;
            return Err(Error::NotFinite { loss: value, epoch: None, batch, site });
        }
        progress.add(&loss, &logits, &labels, observing)?;
        progress.learning_rate = optimizer.learning_rate();
        optimizer.step(&tape.backward(&loss)?)?;
    }
    Ok(())
}

/// Measures the model on every batch in evaluation mode, with its weights as they are. Keeps no graph.
///
/// The report is filed under [`Split::Test`]; change `split` if it is about another one. Its loss may be NaN or
/// infinite, which is no error here.
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
    for batch in batches {
        let Batch { images, labels } = batch?;
        let mut pass = Pass::eval(observer);
        let logits = model.forward(&mut pass, &images)?.detach();
        let loss = cross_entropy(&logits, &labels)?;
        running.add(&loss, &logits, &labels, pass.observing())?;
    }
    running.seconds = start.elapsed().as_secs_f64();
    Ok(SplitReport { split: Split::Test, learning_rate: None, ..running.report() })
}

/// After an epoch whose last step went too far: the loss of a test pass is not finite, and no batch of training
/// was left to notice. Finds the first site with NaN or an infinity, for the error that ends the run.
pub fn not_finite(
    model: &dyn Model,
    test: impl Iterator<Item = taper_data::Result<Batch>> + Send,
    loss: f64,
    batch: usize,
) -> Error {
    let mut fault = FirstFault::default();
    match evaluate(model, test, &mut fault) {
        Ok(_) => {
            let site = fault.site().map(str::to_string);
            Error::NotFinite { loss: loss as f32, epoch: None, batch, site }
        }
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
    #[serde(with = "bits")]
    learning_rate: f64,
    #[serde(with = "bits")]
    seconds: f64,
    #[serde(with = "bits")]
    observing: f64,
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
        let score = Score { loss: self.loss / n, accuracy: self.correct as f64 / n, samples: self.samples };
        SplitReport {
            learning_rate: (self.batches > 0).then_some(self.learning_rate),
            seconds: self.seconds,
            tracking_seconds: self.observing,
            ..SplitReport::new(Split::Train, score)
        }
    }

    fn add(&mut self, loss: &Tensor, logits: &Tensor, labels: &Tensor, observing: Duration) -> Result<()> {
        let n = logits.dim(0)?;
        self.batches += 1;
        self.loss += loss.to_scalar::<f32>()? as f64 * n as f64;
        self.correct += count_correct(logits, labels)?;
        self.samples += n as u64;
        self.observing += observing.as_secs_f64();
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
