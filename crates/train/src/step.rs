use std::borrow::Cow;
use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use taper_hooks::{Pass, bits};
use taper_report::{ADDED_LOSS, Metric, MetricKind, Score};

use crate::{Error, Result};

/// The result of a training step for one batch: a loss to minimise, and metrics.
///
/// Every number is summed over the batches of a pass, weighted by samples, and appears in each record, table and
/// picture under its name.
///
/// ```
/// # use candle_core::{Device, Tensor};
/// # use taper_nn::{Mlp, MlpConfig, Model, Params, Pass};
/// # use taper_train::{Result, Step, mse};
/// # let params = Params::new(1, &Device::Cpu);
/// # let net = Mlp::new(&MlpConfig { inputs: 4, widths: vec![8], classes: 1, ..Default::default() }, params.builder())?;
/// let step = |pass: &mut Pass<'_>, (xs, ys): &(Tensor, Tensor)| {
///     let errors = (net.forward(pass, xs)? - ys)?;
///     let mae = errors.detach().abs()?.mean_all()?.to_scalar::<f32>()?;
///     Ok(Step::new(errors.sqr()?.mean_all()?, xs.dim(0)?).lower("mae", mae.into()))
/// };
/// # fn is_step(_: impl Fn(&mut Pass<'_>, &(Tensor, Tensor)) -> Result<Step>) {}
/// # is_step(step);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Step {
    pub(crate) loss: Tensor,
    pub(crate) samples: u64,
    pub(crate) metrics: Metrics,
    /// Shares whose part is a scalar on the loss's device, by the index of their sum; they are read together with the
    /// loss.
    parts: Vec<(usize, Tensor)>,
}

impl Step {
    /// A mean loss over this many samples.
    ///
    /// # Shapes
    /// `loss`: a scalar of a floating-point type.
    pub fn new(loss: Tensor, samples: usize) -> Self {
        Self { loss, samples: samples as u64, metrics: Metrics::default(), parts: Vec::new() }
    }

    /// The number of samples of the mean.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// A metric of which less is better: its mean over the samples, such as a mean absolute error.
    pub fn lower(self, name: impl Into<Cow<'static, str>>, mean: f64) -> Self {
        let weight = self.samples as f64;
        self.with(name, MetricKind::Lower, MetricSum::Mean { sum: mean * weight, weight })
    }

    /// A metric of which more is better: its mean over the samples.
    pub fn higher(self, name: impl Into<Cow<'static, str>>, mean: f64) -> Self {
        let weight = self.samples as f64;
        self.with(name, MetricKind::Higher, MetricSum::Mean { sum: mean * weight, weight })
    }

    /// A fraction of which more is better, such as accuracy: `part` of `whole`, both summed over the batches. Written
    /// in percent.
    pub fn share(self, name: impl Into<Cow<'static, str>>, part: u64, whole: u64) -> Self {
        self.with(name, MetricKind::Share, MetricSum::Mean { sum: part as f64, weight: whole as f64 })
    }

    /// As [`Step::share`], for a part that may still be computed on a GPU: a scalar in f32.
    pub(crate) fn share_of(mut self, name: &'static str, part: Tensor, whole: u64) -> Self {
        self.parts.push((self.metrics.sums.len(), part));
        self.share(name, 0, whole)
    }

    /// The coefficient of determination R², over all values of the pass: 1 − Σ(t − y)² / Σ(t − mean t)².
    ///
    /// # Shapes
    /// `ys` and `targets`: the same number of values.
    ///
    /// # Errors
    /// When the numbers differ.
    pub fn r2(self, name: impl Into<Cow<'static, str>>, ys: &Tensor, targets: &Tensor) -> Result<Self> {
        let (mut of, same) = (Spread::default(), ys.elem_count() == targets.elem_count());
        if !same {
            let (ys, targets) = (ys.dims(), targets.dims());
            return Err(Error::Config(format!("R²: expected targets of shape {ys:?}, found {targets:?}")));
        }
        taper_kernels::with_values(ys, |ys| {
            taper_kernels::with_values(targets, |targets| {
                let n = targets.len() as f64;
                let mean = targets.iter().map(|t| f64::from(*t)).sum::<f64>() / n.max(1.0);
                let squares = targets.iter().map(|t| (f64::from(*t) - mean).powi(2)).sum();
                let errors =
                    ys.iter().zip(targets).map(|(y, t)| (f64::from(*y) - f64::from(*t)).powi(2)).sum();
                of = Spread { n, mean, squares, errors };
            })
        })??;
        Ok(self.with(name, MetricKind::Higher, MetricSum::R2(of)))
    }

    /// A table of counts, summed over the batches: a confusion matrix.
    pub fn counts(mut self, name: impl Into<String>, rows: Vec<Vec<u64>>) -> Self {
        self.metrics.counts.insert(name.into(), rows);
        self
    }

    fn with(mut self, name: impl Into<Cow<'static, str>>, kind: MetricKind, sums: MetricSum) -> Self {
        self.metrics.sums.push(Sum { name: name.into(), kind, sums });
        self
    }

    /// Checks whether training, or evaluation, can use the loss. Reads no value.
    pub(crate) fn check(&self, training: bool) -> Result<(), StepError> {
        let loss = &self.loss;
        if self.samples == 0 {
            return Err(StepError::NoSamples);
        }
        if loss.rank() != 0 {
            return Err(StepError::NotScalar(loss.dims().to_vec()));
        }
        if !loss.dtype().is_float() {
            return Err(StepError::NotFloat(loss.dtype()));
        }
        if training && !loss.track_op() {
            return Err(StepError::Detached);
        }
        self.metrics.check_names()
    }

    /// The value of the loss, and of the scalar `flag`. Metrics that wait for a value get it, and the terms that sites
    /// `added` to the loss become the metric [`ADDED_LOSS`]. One transfer if all are on a GPU.
    pub(crate) fn read(
        &mut self,
        added: Option<&Tensor>,
        flag: Option<&Tensor>,
    ) -> Result<(f64, Option<f64>), StepError> {
        let (indices, parts): (Vec<usize>, Vec<Tensor>) = std::mem::take(&mut self.parts).into_iter().unzip();
        let all = [&self.loss].into_iter().chain(&parts).chain(added).chain(flag);
        let mut values = scalars(all).map_err(StepError::Unreadable)?;
        let flag = flag.and_then(|_| values.pop());
        if let Some(value) = added.and_then(|_| values.pop()) {
            let weight = self.samples as f64;
            let sums = MetricSum::Mean { sum: value * weight, weight };
            self.metrics.sums.push(Sum { name: ADDED_LOSS.into(), kind: MetricKind::Lower, sums });
        }
        for (index, part) in indices.into_iter().zip(&values[1..]) {
            if let Some(Sum { sums: MetricSum::Mean { sum, .. }, .. }) = self.metrics.sums.get_mut(index) {
                *sum = *part;
            }
        }
        Ok((values[0], flag))
    }

    /// The loss plus the terms of the sites in this pass.
    pub(crate) fn total(&self, pass: &Pass<'_>) -> Result<Tensor> {
        match pass.added_loss() {
            Some(added) => Ok((&self.loss + added.to_dtype(self.loss.dtype())?)?),
            None => Ok(self.loss.clone()),
        }
    }
}

/// A scalar of any floating-point type; converted on the CPU, because some devices have no f64.
pub(crate) fn scalar(tensor: &Tensor) -> candle_core::Result<f64> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar()
}

/// Scalars of any floating-point type. Those of one device and type are read in one transfer, because each waits for
/// the GPU.
fn scalars<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> candle_core::Result<Vec<f64>> {
    let tensors: Vec<&Tensor> = tensors.collect();
    let together = |t: &&Tensor| t.dtype() == DType::F32 && t.device().same_device(tensors[0].device());
    if !tensors.iter().all(together) {
        return tensors.into_iter().map(scalar).collect();
    }
    let values = Tensor::stack(&tensors, 0)?.to_vec1::<f32>()?;
    Ok(values.into_iter().map(f64::from).collect())
}

/// An invalid result of a training step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The loss has more than one value.
    #[error("expected a loss of one value, found shape {0:?}: take its mean with mean_all()")]
    NotScalar(Vec<usize>),
    /// The loss is an integer.
    #[error("expected a loss of a floating-point type, found {0:?}: convert it with to_dtype(DType::F32)")]
    NotFloat(DType),
    /// The loss does not depend on a parameter.
    #[error(
        "expected a loss that depends on a parameter, found one without a gradient: was it detached, or computed without the \
         model?"
    )]
    Detached,
    /// The batch had no samples.
    #[error("expected at least one sample, found none: leave empty batches out")]
    NoSamples,
    /// Two metrics have the same name.
    #[error("expected a name of its own for each metric, found '{0}' twice")]
    MetricTwice(String),
    /// A metric has the name of a number in every record.
    #[error("expected a metric with a name of its own, found '{0}', which every report has")]
    MetricReserved(String),
    /// The loss cannot be read.
    #[error("the loss cannot be read: {0}")]
    Unreadable(candle_core::Error),
}

/// Sums of metrics over batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Metrics {
    sums: Vec<Sum>,
    counts: BTreeMap<String, Vec<Vec<u64>>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sum {
    name: Cow<'static, str>,
    kind: MetricKind,
    sums: MetricSum,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum MetricSum {
    Mean {
        #[serde(with = "bits")]
        sum: f64,
        #[serde(with = "bits")]
        weight: f64,
    },
    R2(Spread),
}

/// Squared deviations of the targets from their mean, and of the outputs from the targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Spread {
    #[serde(with = "bits")]
    n: f64,
    #[serde(with = "bits")]
    mean: f64,
    #[serde(with = "bits")]
    squares: f64,
    #[serde(with = "bits")]
    errors: f64,
}

impl Sum {
    /// NaN without counts.
    fn value(&self) -> f64 {
        match self.sums {
            MetricSum::Mean { sum, weight } => sum / weight,
            // Undefined for equal targets.
            MetricSum::R2(Spread { squares: 0.0, .. }) => f64::NAN,
            MetricSum::R2(Spread { squares, errors, .. }) => 1.0 - errors / squares,
        }
    }

    /// Whether it has samples and is NaN or infinite.
    fn is_faulty(&self) -> bool {
        match self.sums {
            MetricSum::Mean { sum, .. } => !sum.is_finite(),
            MetricSum::R2(Spread { squares, errors, .. }) => !(squares + errors).is_finite(),
        }
    }

    fn add(&mut self, other: &Self) {
        match (&mut self.sums, &other.sums) {
            (MetricSum::Mean { sum, weight }, MetricSum::Mean { sum: s, weight: w }) => {
                (*sum, *weight) = (*sum + s, *weight + w);
            }
            (MetricSum::R2(own), MetricSum::R2(other)) if own.n + other.n > 0.0 => {
                // Chan, Golub & LeVeque 1979
                let (n, d) = (own.n + other.n, other.mean - own.mean);
                *own = Spread {
                    n,
                    mean: own.mean + d * other.n / n,
                    squares: own.squares + other.squares + d * d * own.n * other.n / n,
                    errors: own.errors + other.errors,
                };
            }
            _ => {}
        }
    }
}

impl Metrics {
    /// The first metric that is NaN or infinite.
    pub fn faulty(&self) -> Option<&str> {
        self.sums.iter().find(|sum| sum.is_faulty()).map(|sum| &*sum.name)
    }

    /// Checks that every metric has a different name.
    fn check_names(&self) -> Result<(), StepError> {
        const RESERVED: [&str; 7] = [
            "loss",
            "samples",
            "learning_rate",
            "nonfinite",
            "seconds",
            "samples_per_second",
            "tracking_fraction",
        ];
        for (i, sum) in self.sums.iter().enumerate() {
            if self.sums[..i].iter().any(|other| other.name == sum.name) {
                return Err(StepError::MetricTwice(sum.name.to_string()));
            }
            if RESERVED.contains(&&*sum.name) {
                return Err(StepError::MetricReserved(sum.name.to_string()));
            }
        }
        Ok(())
    }

    /// Adds a batch; for a skipped step, only its finite numbers.
    pub fn add(&mut self, batch: &Self, skipped: bool) {
        for sum in batch.sums.iter().filter(|sum| !(skipped && sum.is_faulty())) {
            match self.sums.iter_mut().find(|own| own.name == sum.name) {
                Some(own) => own.add(sum),
                None => self.sums.push(sum.clone()),
            }
        }
        for (name, rows) in &batch.counts {
            let own = self.counts.entry(name.clone()).or_default();
            own.resize_with(own.len().max(rows.len()), Vec::new);
            for (own, row) in own.iter_mut().zip(rows) {
                own.resize(own.len().max(row.len()), 0);
                own.iter_mut().zip(row).for_each(|(own, n)| *own += n);
            }
        }
    }

    /// The metrics of these sums.
    pub fn score(&self, loss: f64, samples: u64) -> Score {
        let metric = |sum: &Sum| Metric { name: sum.name.to_string(), kind: sum.kind, value: sum.value() };
        Score { loss, samples, metrics: self.sums.iter().map(metric).collect(), counts: self.counts.clone() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_read_together_with_waiting_metrics_of_any_type() {
        let scalar = |x: f64, dtype| Tensor::new(x, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        for dtype in [DType::F32, DType::F64] {
            let mut step = Step::new(scalar(0.5, dtype), 8)
                .lower("mae", 0.25)
                .share_of("accuracy", scalar(6.0, DType::F32), 8)
                .share_of("top 5", scalar(7.0, DType::F32), 8);
            let (added, flag) = (scalar(2.0, dtype), scalar(f64::NAN, DType::F32));
            let (loss, flag) = step.read(Some(&added), Some(&flag)).unwrap();
            assert!(loss == 0.5 && flag.unwrap().is_nan(), "{loss}, {flag:?}");
            let score = step.metrics.score(loss, 8);
            let found: Vec<_> = score.metrics.iter().map(|m| (m.name.as_str(), m.value)).collect();
            assert_eq!(found, [("mae", 0.25), ("accuracy", 0.75), ("top 5", 0.875), (ADDED_LOSS, 2.0)]);
            assert_eq!(Step::new(scalar(0.5, dtype), 8).read(None, None).unwrap(), (0.5, None));
        }
    }
}
