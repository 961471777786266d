use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use taper_report::{
    EpochReport, Error as ReportError, LayerLine, LayerStats, MetricsLine, Run, Score, Split, SplitReport,
    StepLine, StepReport, TimingLine, Warning, read_config, read_lines_before_damage,
};

use crate::{Error, Result};

/// The contents of a run directory, which [`taper_report::RunDir`] wrote. A damaged file is read up to the damage.
#[derive(Clone, Debug, PartialEq)]
pub struct RunData {
    /// The directory.
    pub dir: PathBuf,
    /// The run's configuration.
    pub run: Run,
    /// Loss and metrics, a line per epoch and split.
    pub metrics: Vec<MetricsLine>,
    /// The statistics of the layers, a line per epoch, split and site; empty if nothing was tracked.
    pub layers: Vec<LayerLine>,
    /// Seconds and throughput, a line per epoch and split.
    pub timing: Vec<TimingLine>,
    /// Windows of training steps from the first; empty if the run recorded none.
    pub steps: Vec<StepLine>,
    /// Errors of unreadable parts; the other fields are valid without them.
    pub problems: Vec<String>,
}

impl RunData {
    /// The split that headline numbers come from: test, else validation, else train.
    pub fn headline(&self) -> Option<Split> {
        self.metrics.iter().map(|line| line.split).max()
    }

    /// The last epoch that ended; 0 before the first.
    pub fn epoch(&self) -> u32 {
        self.metrics.iter().map(|line| line.epoch).max().unwrap_or(0)
    }

    /// Loss and metrics of one split, epoch by epoch.
    pub fn scores(&self, split: Split) -> impl Iterator<Item = &MetricsLine> {
        self.metrics.iter().filter(move |line| line.split == split)
    }

    /// The step at the end of an epoch, or 0 for the untrained network: found by the number of samples in
    /// `metrics.jsonl`. `None` without windows of steps.
    pub fn step_of(&self, epoch: u32) -> Option<u64> {
        let train = |line: &&MetricsLine| line.split == Split::Train && line.epoch <= epoch;
        let samples =
            self.metrics.iter().filter(train).fold(0_u64, |n, line| n.saturating_add(line.of.score.samples));
        if epoch == 0 {
            return self.steps.first().map(|_| 0);
        }
        let mut seen = 0_u64;
        for line in &self.steps {
            seen = line.of.score.samples.saturating_add(seen);
            if seen >= samples {
                return Some(line.of.step);
            }
        }
        // The last window of a finished run is incomplete and not written.
        let last = &self.steps.last()?.of;
        let per_step = last.score.samples as f64 / last.steps.max(1) as f64;
        Some(
            last.step.saturating_add((samples.saturating_sub(seen) as f64 / per_step.max(1.0)).ceil() as u64),
        )
    }

    /// The warnings that follow from the records: the same as in `warnings.jsonl`, which runs of PyTorch and of older
    /// versions do not have.
    pub fn warnings(&self) -> Vec<Warning> {
        let split = self.layers.iter().map(|line| line.split).max();
        let shown: Vec<&LayerLine> = self.layers.iter().filter(|line| Some(line.split) == split).collect();
        let epochs = shown.chunk_by(|a, b| a.epoch == b.epoch).map(|lines| {
            let layers = lines.iter().map(|line| line.of.clone()).collect();
            let of = SplitReport { layers, ..SplitReport::new(lines[0].split, Score::default()) };
            EpochReport { epoch: lines[0].epoch, splits: vec![of] }
        });
        let steps: Vec<StepReport> = self.steps.iter().map(|line| line.of.clone()).collect();
        taper_report::warnings(&steps, &epochs.collect::<Vec<_>>())
    }

    /// One site in one window, epoch by epoch.
    pub fn site(&self, site: &str, split: Split) -> impl Iterator<Item = (u32, &LayerStats)> {
        self.layers
            .iter()
            .filter(move |line| line.split == split && line.of.site == site)
            .map(|line| (line.epoch, &line.of))
    }
}

/// Reads runs from directories; a directory that is not a run is read as a grid, whose subdirectories are runs.
///
/// Returns everything readable, and a one-line error for everything else: an unfinished run has its epochs so far, a
/// damaged file has the lines before the damage, and a run without a readable `config.json` is left out. A directory
/// that is given twice counts once. Runs are in the order of `paths`, those of a grid in the order of names.
pub fn load_runs(paths: &[PathBuf]) -> (Vec<RunData>, Vec<Error>) {
    let (mut runs, mut errors, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for path in paths {
        match run_dirs(path) {
            Err(error) => errors.push(error),
            Ok(dirs) => {
                for dir in dirs {
                    if seen.insert(fs::canonicalize(&dir).unwrap_or_else(|_| dir.clone())) {
                        match load(dir, &mut errors) {
                            Ok(run) => runs.push(run),
                            Err(error) => errors.push(error),
                        }
                    }
                }
            }
        }
    }
    (runs, errors)
}

const CONFIG: &str = "config.json";
const FILES: [&str; 4] = [CONFIG, "metrics.jsonl", "layers.jsonl", "timing.jsonl"];
/// Runs of PyTorch and of older versions do not have it.
const STEPS: &str = "steps.jsonl";

/// The path itself if it is a run, else the subdirectories that are runs.
fn run_dirs(path: &Path) -> Result<Vec<PathBuf>> {
    let is_run = |dir: &Path| FILES.iter().any(|file| dir.join(file).exists());
    if is_run(path) {
        return Ok(vec![path.into()]);
    }
    let mut dirs = Vec::new();
    let mut is_empty = true;
    for entry in fs::read_dir(path).map_err(Error::io(path))? {
        let entry = entry.map_err(Error::io(path))?.path();
        is_empty = false;
        if is_run(&entry) {
            dirs.push(entry);
        }
    }
    if dirs.is_empty() {
        let found = if is_empty { "an empty directory" } else { "no run in this directory" };
        return Err(Error::NotARun { path: path.into(), found });
    }
    dirs.sort();
    Ok(dirs)
}

fn load(dir: PathBuf, errors: &mut Vec<Error>) -> Result<RunData> {
    let run = read_config(dir.join(CONFIG))?;
    let mut problems = Vec::new();
    let mut note = |error: ReportError| {
        problems.push(error.to_string());
        errors.push(error.into());
    };
    let metrics = lines(&dir.join(FILES[1]), &mut note);
    let layers = lines(&dir.join(FILES[2]), &mut note);
    let timing = lines(&dir.join(FILES[3]), &mut note);
    let steps = if dir.join(STEPS).exists() { lines(&dir.join(STEPS), &mut note) } else { Vec::new() };
    Ok(RunData { dir, run, metrics, layers, timing, steps, problems })
}

/// The file's records; if one is damaged, those before it.
fn lines<T: serde::de::DeserializeOwned>(path: &Path, note: &mut impl FnMut(ReportError)) -> Vec<T> {
    let (records, error) = read_lines_before_damage(path);
    error.into_iter().for_each(note);
    records
}
