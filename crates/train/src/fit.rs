use taper_hooks::{Recorder, Rng, rng};
use taper_report::{EpochReport, Sink, Split, SplitReport, Watch};

use crate::{BoxError, Error, OnNonFinite, Optimizer, Result, StepFn, evaluate, train_epoch};

/// The length and the seed of a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Passes over the training data.
    pub epochs: u32,
    /// The seed of the order of the samples and of dropout.
    pub seed: u64,
}

impl Default for Fit {
    fn default() -> Self {
        Self { epochs: 5, seed: 1 }
    }
}

/// The simplest loop: trains, evaluates and reports, with both windows recorded.
///
/// `train` returns the training batches of an epoch; it receives the generator to shuffle with. `test` returns the batches of
/// the test split. Epoch 0 is the untrained network. The sink receives each epoch and each warning; the caller calls its `begin`
/// and `finish`. Returns the last report.
///
/// # Errors
/// Errors of [`train_epoch`], [`evaluate`] and the sink. [`Error::NotFinite`] if the test split gives NaN or infinity,
/// after the epoch is reported, unless the optimiser [skips or continues](crate::OnNonFinite).
pub fn fit<B, E, I, J>(
    step: &impl StepFn<B>,
    optimizer: &mut Optimizer,
    mut train: impl FnMut(&mut Rng) -> I,
    mut test: impl FnMut() -> J,
    options: Fit,
    sink: &mut dyn Sink,
) -> Result<EpochReport>
where
    E: Into<BoxError>,
    I: Iterator<Item = Result<B, E>> + Send,
    J: Iterator<Item = Result<B, E>> + Send,
{
    let (mut in_training, mut in_test) = (Recorder::new(), Recorder::new());
    let mut order = rng(options.seed);
    let mut untrained = Recorder::new();
    let report = evaluate(step, Split::Test, test(), &mut untrained)?;
    let mut last =
        EpochReport { epoch: 0, splits: vec![SplitReport { layers: untrained.finish(), ..report }] };
    let mut watch = Watch::default();
    let mut tell = |report: &EpochReport| {
        sink.epoch(report)?;
        watch.epoch(report).iter().try_for_each(|warning| sink.warning(warning))
    };
    tell(&last)?;
    stop_at_fault(&last, optimizer)?;
    for epoch in 1..=options.epochs {
        let batches = train(&mut order);
        let trained = train_epoch(step, optimizer, batches, &mut in_training, options.seed)
            .map_err(|error| error.in_epoch(epoch))?;
        let tested = evaluate(step, Split::Test, test(), &mut in_test)?;
        let splits = vec![
            SplitReport { layers: in_training.finish(), ..trained },
            SplitReport { layers: in_test.finish(), ..tested },
        ];
        last = EpochReport { epoch, splits };
        tell(&last)?;
        stop_at_fault(&last, optimizer)?;
    }
    Ok(last)
}

/// An error for the first non-finite evaluation of an epoch, if it ends the run: the last step caused it, and no
/// training batch followed.
pub(crate) fn stop_at_fault(report: &EpochReport, optimizer: &Optimizer) -> Result<()> {
    let stop = optimizer.on_nonfinite() == OnNonFinite::Stop;
    match report.splits.iter().find_map(|of| of.nonfinite.as_ref()) {
        Some(of) if stop => Err(Error::NotFinite { epoch: Some(report.epoch), fault: of.first.clone() }),
        _ => Ok(()),
    }
}
