use std::{collections::BTreeMap, path::Path};

use crate::{
    EpochReport, LayerLine, Line, Metrics, MetricsLine, Result, SplitReport, Timing, TimingLine, read_lines,
};

/// Reads the reports of past epochs from the files of a run's directory, to replay them into a new sink.
///
/// Losses and metrics that were not finite are NaN.
///
/// # Errors
///
/// As [`read_lines`], for `metrics.jsonl`, `layers.jsonl` and `timing.jsonl`.
pub fn read_reports(dir: impl AsRef<Path>) -> Result<Vec<EpochReport>> {
    let dir = dir.as_ref();
    let metrics: Vec<MetricsLine> = read_lines(dir.join("metrics.jsonl"))?;
    let layers: Vec<LayerLine> = read_lines(dir.join("layers.jsonl"))?;
    let timing: Vec<TimingLine> = read_lines(dir.join("timing.jsonl"))?;
    let timing: BTreeMap<_, _> = timing.into_iter().map(|line| ((line.epoch, line.split), line.of)).collect();
    let mut own: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for Line { epoch, split, of, .. } in layers {
        own.entry((epoch, split)).or_default().push(of);
    }
    let mut reports: Vec<EpochReport> = Vec::new();
    for Line { epoch, split, of: Metrics { score, learning_rate, nonfinite }, .. } in metrics {
        let at = (epoch, split);
        let mut of = SplitReport { learning_rate, nonfinite, ..SplitReport::new(split, score) };
        if let Some(Timing { seconds, tracking_fraction, .. }) = timing.get(&at) {
            (of.seconds, of.tracking_seconds) = (*seconds, seconds * tracking_fraction);
        }
        of.layers = own.remove(&at).unwrap_or_default();
        match reports.last_mut().filter(|report| report.epoch == epoch) {
            Some(report) => report.splits.push(of),
            None => reports.push(EpochReport { epoch, splits: vec![of] }),
        }
    }
    Ok(reports)
}
