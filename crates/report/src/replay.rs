use std::{collections::BTreeMap, path::Path};

use crate::{EpochReport, LayerLine, MetricsLine, Result, Score, SplitReport, TimingLine, read_lines};

/// What a run's sinks were told of its epochs, from the files of its directory: for a sink that comes in later.
///
/// Losses that were not finite come back as NaN, whatever they were.
///
/// # Errors
///
/// As [`read_lines`], for `metrics.jsonl`, `layers.jsonl` and `timing.jsonl`.
pub fn read_reports(dir: impl AsRef<Path>) -> Result<Vec<EpochReport>> {
    let dir = dir.as_ref();
    let metrics: Vec<MetricsLine> = read_lines(dir.join("metrics.jsonl"))?;
    let layers: Vec<LayerLine> = read_lines(dir.join("layers.jsonl"))?;
    let timing: Vec<TimingLine> = read_lines(dir.join("timing.jsonl"))?;
    let timing: BTreeMap<_, _> = timing.iter().map(|time| ((time.epoch, time.split), time)).collect();
    let mut own: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for LayerLine { epoch, split, stats, .. } in layers {
        own.entry((epoch, split)).or_default().push(stats);
    }
    let mut reports: Vec<EpochReport> = Vec::new();
    for line in metrics {
        let at = (line.epoch, line.split);
        let number = |x: Option<f64>| x.unwrap_or(f64::NAN);
        let score = Score { loss: number(line.loss), accuracy: number(line.accuracy), samples: line.samples };
        let mut of = SplitReport { learning_rate: line.learning_rate, ..SplitReport::new(line.split, score) };
        if let Some(time) = timing.get(&at) {
            of.seconds = time.seconds;
            of.tracking_seconds = time.seconds * time.tracking_fraction;
        }
        of.layers = own.remove(&at).unwrap_or_default();
        match reports.last_mut().filter(|report| report.epoch == line.epoch) {
            Some(report) => report.splits.push(of),
            None => reports.push(EpochReport { epoch: line.epoch, splits: vec![of] }),
        }
    }
    Ok(reports)
}
