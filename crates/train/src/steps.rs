//! Training steps for common losses. Each is a closure.

use candle_core::Tensor;
use taper_data::Batch;
use taper_hooks::Pass;
use taper_kernels::{
    binary_cross_entropy, count_correct, cross_entropy, mse, soft_cross_entropy, with_values,
};
use taper_nn::Model;

use crate::step::scalar;
use crate::{Error, Result, Step};

/// A batch of inputs and targets: [`Batch`] of images and labels, a pair of tensors, or a tensor that is its own target.
pub trait Pair {
    /// `(N, ..)`
    fn inputs(&self) -> &Tensor;

    /// The targets of the outputs.
    fn targets(&self) -> &Tensor;
}

impl Pair for Batch {
    fn inputs(&self) -> &Tensor {
        &self.images
    }

    fn targets(&self) -> &Tensor {
        &self.labels
    }
}

impl Pair for (Tensor, Tensor) {
    fn inputs(&self) -> &Tensor {
        &self.0
    }

    fn targets(&self) -> &Tensor {
        &self.1
    }
}

impl Pair for Tensor {
    fn inputs(&self) -> &Tensor {
        self
    }

    fn targets(&self) -> &Tensor {
        self
    }
}

/// The loss of [`classify`]: the text for [`Run::loss`](taper_report::Run::loss).
pub const CROSS_ENTROPY: &str = "mean cross-entropy per sample, in nats";
/// The loss of [`regress`] and [`reconstruct`].
pub const MSE: &str = "mean squared error";
/// The loss of [`binary`].
pub const BINARY_CROSS_ENTROPY: &str = "mean binary cross-entropy per label, in nats";

/// The model's outputs for the inputs of a batch.
fn outputs<B: Pair>(model: &(impl Model + ?Sized), pass: &mut Pass<'_>, batch: &B) -> Result<Tensor> {
    pass.input(batch.inputs())?;
    Ok(model.forward(pass, batch.inputs())?)
}

/// Options of [`classify_with`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Classify {
    /// The share of each target that is spread evenly over all classes (Szegedy et al. 2016), in `[0, 1)`.
    pub label_smoothing: f64,
    /// The weight of the samples of each class in the loss, at least 0; `None` for equal weights. The loss is
    /// normalised by the weights of each batch, as in PyTorch, so it depends on how samples are batched.
    pub class_weights: Option<Vec<f32>>,
    /// Also measure the accuracy of each class, `accuracy/0` and so on, and count the confusion matrix: `confusion`, a row
    /// for each true class, a column for each predicted one.
    pub per_class: bool,
}

/// One class for each sample: cross-entropy, and the metric `accuracy`.
///
/// # Shapes
/// The model returns logits `(N, K)`; targets are `(N)`, class indices as u32.
pub fn classify<B: Pair>(model: &(impl Model + ?Sized)) -> impl Fn(&mut Pass<'_>, &B) -> Result<Step> {
    move |pass, batch| {
        let logits = outputs(model, pass, batch)?;
        let loss = cross_entropy(&logits, batch.targets())?;
        let correct = count_correct(&logits, batch.targets())?;
        let samples = logits.dim(0)?;
        Ok(Step::new(loss, samples).share_of("accuracy", correct, samples as u64))
    }
}

/// The same with [`Classify`] options. Label smoothing and class weights are those of PyTorch's `CrossEntropyLoss`.
///
/// # Errors
/// When a number in `options` is invalid.
pub fn classify_with<B: Pair>(
    model: &(impl Model + ?Sized),
    options: Classify,
) -> Result<impl Fn(&mut Pass<'_>, &B) -> Result<Step>> {
    let smoothing = options.label_smoothing;
    if !(0.0..1.0).contains(&smoothing) {
        return Err(Error::Config(format!(
            "label smoothing: expected a number in [0, 1), found {smoothing}"
        )));
    }
    if let Some(weight) = options.class_weights.iter().flatten().find(|w| !(w.is_finite() && **w >= 0.0)) {
        return Err(Error::Config(format!("class weights: expected numbers of at least 0, found {weight}")));
    }
    Ok(move |pass: &mut Pass<'_>, batch: &B| {
        let logits = outputs(model, pass, batch)?;
        let (samples, classes) = logits.dims2()?;
        let labels = batch.targets().to_vec1::<u32>()?;
        if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
            return Err(Error::Config(format!("expected targets below {classes}, found {label}")));
        }
        let loss = match smoothing == 0.0 && options.class_weights.is_none() {
            true => cross_entropy(&logits, batch.targets())?,
            false => {
                let targets = soft_targets(&labels, classes, &options)?;
                soft_cross_entropy(&logits, &Tensor::from_vec(targets, (samples, classes), logits.device())?)?
            }
        };
        let correct = count_correct(&logits, batch.targets())?;
        let mut step = Step::new(loss, samples).share_of("accuracy", correct, samples as u64);
        if options.per_class {
            let mut confusion = vec![vec![0; classes]; classes];
            let mut of_class = vec![0; classes];
            for (&label, predicted) in labels.iter().zip(predictions(&logits)?) {
                of_class[label as usize] += 1;
                if let Some(predicted) = predicted {
                    confusion[label as usize][predicted] += 1;
                }
            }
            for (class, row) in confusion.iter().enumerate() {
                step = step.share(format!("accuracy/{class}"), row[class], of_class[class]);
            }
            step = step.counts("confusion", confusion);
        }
        Ok(step)
    })
}

/// The weight of every class in the loss of every sample; the mean over the samples is then PyTorch's loss.
fn soft_targets(labels: &[u32], classes: usize, options: &Classify) -> Result<Vec<f32>> {
    let ones = vec![1.0; classes];
    let weights = options.class_weights.as_ref().unwrap_or(&ones);
    if weights.len() != classes {
        let found = weights.len();
        return Err(Error::Config(format!(
            "class weights: expected one for each of {classes} classes, found {found}"
        )));
    }
    let total: f64 = labels.iter().map(|label| f64::from(weights[*label as usize])).sum();
    if total == 0.0 && !labels.is_empty() {
        let message =
            "class weights: expected a batch with a class of weight above 0, found none: use larger batches";
        return Err(Error::Config(message.into()));
    }
    let scale = labels.len() as f64 / total;
    let spread = options.label_smoothing / classes as f64;
    let row = |&label: &u32| {
        let target = move |(class, &weight): (usize, &f32)| {
            let own = if class == label as usize { 1.0 - options.label_smoothing } else { 0.0 };
            (f64::from(weight) * (own + spread) * scale) as f32
        };
        weights.iter().enumerate().map(target)
    };
    Ok(labels.iter().flat_map(row).collect())
}

/// Numbers for each sample: mean squared error, and the metrics `r2` and `mae` (mean absolute error).
///
/// # Shapes
/// Outputs and targets have the same shape.
pub fn regress<B: Pair>(model: &(impl Model + ?Sized)) -> impl Fn(&mut Pass<'_>, &B) -> Result<Step> {
    move |pass, batch| {
        let (ys, targets) = (outputs(model, pass, batch)?, batch.targets());
        let loss = mse(&ys, targets)?;
        let mae = scalar(&(ys.detach() - targets.to_dtype(ys.dtype())?)?.abs()?.mean_all()?)?;
        Ok(Step::new(loss, ys.dim(0)?).r2("r2", &ys, targets)?.lower("mae", mae))
    }
}

/// The inputs as targets, for an autoencoder: mean squared error.
///
/// # Shapes
/// Outputs have as many values as inputs, sample by sample.
pub fn reconstruct<B: Pair>(model: &(impl Model + ?Sized)) -> impl Fn(&mut Pass<'_>, &B) -> Result<Step> {
    move |pass, batch| {
        let ys = outputs(model, pass, batch)?;
        let loss = mse(&ys.flatten_from(1)?, &batch.inputs().flatten_from(1)?)?;
        Ok(Step::new(loss, ys.dim(0)?))
    }
}

/// Independent labels with a logit each: binary cross-entropy, and the metric `accuracy`, the fraction of labels that
/// are predicted correctly. `positive_weight` is the weight of a label of 1 relative to a label of 0.
///
/// # Shapes
/// Logits and targets have the same shape; targets are in `[0, 1]`.
pub fn binary<B: Pair>(
    model: &(impl Model + ?Sized),
    positive_weight: f64,
) -> impl Fn(&mut Pass<'_>, &B) -> Result<Step> {
    move |pass, batch| {
        let (logits, targets) = (outputs(model, pass, batch)?, batch.targets());
        let loss = binary_cross_entropy(&logits, targets, positive_weight)?;
        let right = with_values(&logits, |xs| {
            with_values(targets, |ts| {
                xs.iter().zip(ts).filter(|(x, t)| !x.is_nan() && (**x > 0.0) == (**t > 0.5)).count()
            })
        })??;
        let step = Step::new(loss, logits.dim(0)?);
        Ok(step.share("accuracy", right as u64, logits.elem_count() as u64))
    }
}

/// The index of the first largest value of each row; `None` for a row with NaN.
fn predictions(logits: &Tensor) -> Result<Vec<Option<usize>>> {
    let (_, classes) = logits.dims2()?;
    let largest = |row: &[f32]| {
        let best = row.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
        best.filter(|_| !row.iter().any(|x| x.is_nan())).map(|(i, _)| i)
    };
    Ok(with_values(logits, |logits| logits.chunks_exact(classes).map(largest).collect())?)
}
