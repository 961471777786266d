use taper_data::Dataset;
use taper_hooks::{Recorder, Rng, fork};
use taper_nn::Model;
use taper_report::{EpochReport, Sink, SplitReport};

use crate::{OnNonFinite, Optimizer, Result, evaluate, not_finite, train_epoch};

/// How long and in what portions to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Passes over the training data.
    pub epochs: u32,
    /// Samples per step.
    pub batch_size: usize,
}

impl Default for Fit {
    fn default() -> Self {
        Self { epochs: 5, batch_size: 128 }
    }
}

/// Trains, evaluates and reports, recording everything in both windows: the loop to start from.
///
/// Sinks are told of every epoch; `begin` and `finish` are the caller's. Returns the last report.
///
/// # Errors
/// When the splits do not suit the batch size, a sink fails, or something is NaN or infinite, after its epoch was
/// reported, unless the optimiser is told to [go on](crate::OnNonFinite).
pub fn fit(
    model: &dyn Model,
    optimizer: &mut Optimizer,
    data: &Dataset,
    options: Fit,
    sink: &mut dyn Sink,
    rng: &mut Rng,
) -> Result<Option<EpochReport>> {
    data.train.check(options.batch_size)?;
    let (mut live, mut frozen) = (Recorder::new(), Recorder::new());
    let mut masks = fork(rng);
    let mut last = None;
    for epoch in 1..=options.epochs {
        let batches = data.train.shuffled(rng, options.batch_size);
        let train =
            train_epoch(model, optimizer, batches, &mut live, &mut masks).map_err(|e| e.in_epoch(epoch))?;
        let test = evaluate(model, data.test.batches(options.batch_size), &mut frozen)?;
        let splits = vec![
            SplitReport { layers: live.finish(), ..train },
            SplitReport { layers: frozen.finish(), ..test.clone() },
        ];
        let report = EpochReport { epoch, splits };
        sink.epoch(&report)?;
        if test.nonfinite.is_some() && optimizer.on_nonfinite() == OnNonFinite::Stop {
            let batch = data.train.len().div_ceil(options.batch_size);
            let lost = not_finite(model, data.test.batches(options.batch_size), test.score.loss, batch);
            return Err(lost.in_epoch(epoch));
        }
        last = Some(report);
    }
    Ok(last)
}
