use crate::{EpochReport, LayerStats, Metric, Result, Run, Score, Sink, Split};

/// A run's row in a comparison: a sink that keeps the last epoch and adds up the time.
///
/// Numbers come from the headline split: test, else validation, else train. An interrupted epoch without that split
/// adds its time only; so does epoch 0, the untrained network.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The run.
    pub run: Run,
    /// The last epoch that ended; 0 before the first.
    pub epoch: u32,
    /// The split of the numbers.
    pub split: Option<Split>,
    /// The best value of the [primary](Score::primary) metric on `split`, of any epoch.
    pub best: Option<Metric>,
    /// Loss and metrics of the last epoch that measured `split`.
    pub score: Option<Score>,
    /// Wall-clock seconds of all epochs and splits.
    pub seconds: f64,
    /// Seconds of observing activations, part of these.
    pub tracking_seconds: f64,
    /// Wall-clock seconds of the training passes.
    pub train_seconds: f64,
    /// Samples trained on, over all epochs.
    pub train_samples: u64,
    /// The layers in that epoch; empty if nothing was tracked.
    pub layers: Vec<LayerStats>,
}

impl Summary {
    /// A run without epochs.
    pub fn new(run: Run) -> Self {
        Self {
            run,
            epoch: 0,
            split: None,
            best: None,
            score: None,
            seconds: 0.0,
            tracking_seconds: 0.0,
            train_seconds: 0.0,
            train_samples: 0,
            layers: Vec::new(),
        }
    }

    /// Samples per second of training, tracking included; `None` without a time.
    pub fn samples_per_second(&self) -> Option<f64> {
        (self.train_seconds > 0.0).then(|| self.train_samples as f64 / self.train_seconds)
    }

    /// Share of the time for observing, over all splits, in `[0, 1]`; `None` without a time.
    pub fn tracking_fraction(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.tracking_seconds / self.seconds)
    }
}

impl Sink for Summary {
    /// Starts again, as the summary of this run.
    fn begin(&mut self, run: &Run) -> Result<()> {
        *self = Self::new(run.clone());
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        for of in &report.splits {
            self.seconds += of.seconds;
            self.tracking_seconds += of.tracking_seconds;
        }
        if let Some(train) = report.split(Split::Train) {
            self.train_seconds += train.seconds;
            self.train_samples += train.score.samples;
        }
        // Some(test) > Some(train) > None: a training score must not replace one on test.
        let trained = report.headline().filter(|_| report.epoch > 0);
        if let Some(of) = trained.filter(|of| Some(of.split) >= self.split) {
            self.epoch = report.epoch;
            let metric = Some(of.score.primary()).filter(|metric| !metric.value.is_nan());
            self.best = match (self.best.take().filter(|_| self.split == Some(of.split)), metric) {
                (Some(best), Some(metric)) if !metric.is_better_than(&best) => Some(best),
                (best, metric) => metric.or(best),
            };
            self.split = Some(of.split);
            self.score = Some(of.score.clone());
            self.layers = report.observed().map_or(Vec::new(), |of| of.layers.clone());
        }
        Ok(())
    }
}
