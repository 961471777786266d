use taper_hooks::{Recorder, Rng, rng};
use taper_report::{EpochReport, Sink, Split, SplitReport, Watch};

use crate::{BoxError, Error, OnNonFinite, Optimizer, Result, StepFn, evaluate, train_epoch};

/// How long to train, and from which seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Passes over the training data.
    pub epochs: u32,
    /// What the order of the samples and dropout are drawn from.
    pub seed: u64,
}

impl Default for Fit {
    fn default() -> Self {
        Self { epochs: 5, seed: 1 }
    }
}

/// Trains, evaluates and reports, recording everything in both windows: the loop to start from.
///
/// `train` gives the training batches of an epoch and is handed the generator to shuffle with, `test` those of the test
/// split. Epoch 0 is the untrained network. Sinks are told of every epoch and of
/// warnings; `begin` and `finish` are the caller's. Returns
/// the last report.
///
/// # Errors
/// Those of [`train_epoch`], [`evaluate`] and the sink, and when something of the test split is NaN or infinite, after its
/// epoch was reported, unless the optimiser is told to [go on](crate::OnNonFinite).
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

/// An error for the first evaluation of an epoch that was not finite, where that is to end the run: the last step went too
/// far, and no batch of training was left to notice.
pub(crate) fn stop_at_fault(report: &EpochReport, optimizer: &Optimizer) -> Result<()> {
    let stop = optimizer.on_nonfinite() == OnNonFinite::Stop;
    match report.splits.iter().find_map(|of| of.nonfinite.as_ref()) {
        Some(of) if stop => Err(Error::NotFinite { epoch: Some(report.epoch), fault: of.first.clone() }),
        _ => Ok(()),
    }
}
