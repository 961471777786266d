use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    path::Path,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Error, Labels, LayerStats, NonFinite, Result, Run, Score, Split, SplitReport, StepReport, Warning,
};

/// The version of the format that [`RunDir`](crate::RunDir) writes, the `v` of every record.
///
/// It increases when a field changes its meaning or is removed, not for a new field.
pub const FORMAT_VERSION: u32 = 2;

/// The largest `config.json` that is written or read, in bytes: parsed, JSON can take a hundred times its own size.
pub(crate) const MAX_CONFIG: u64 = 256 << 10;

/// `config.json`: the configuration of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigRecord {
    /// [`FORMAT_VERSION`].
    pub v: u32,
    /// The run; its fields follow `v`.
    #[serde(flatten)]
    pub run: Run,
}

/// A line of `metrics.jsonl`, `layers.jsonl` or `timing.jsonl`: run, epoch and split, then its own fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line<T> {
    /// [`FORMAT_VERSION`].
    pub v: u32,
    /// The run's name.
    pub run: String,
    /// The run's labels.
    pub labels: Labels,
    /// The run's seed.
    pub seed: u64,
    /// Epochs count from 1; 0 is the untrained network.
    pub epoch: u32,
    /// The part of the data, and so the window.
    pub split: Split,
    /// The content of the line; its fields follow the others.
    #[serde(flatten)]
    pub of: T,
}

/// A line of `metrics.jsonl`: the scores of one split in one epoch.
pub type MetricsLine = Line<Metrics>;
/// A line of `layers.jsonl`: the statistics of one site on one split in one epoch.
pub type LayerLine = Line<LayerStats>;
/// A line of `timing.jsonl`: the times of one split in one epoch.
pub type TimingLine = Line<Timing>;

/// A line of `steps.jsonl`: the content of one window of training steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// [`FORMAT_VERSION`].
    pub v: u32,
    /// The run's name.
    pub run: String,
    /// The run's labels.
    pub labels: Labels,
    /// The run's seed.
    pub seed: u64,
    /// The content of the line; its fields follow the others.
    #[serde(flatten)]
    pub of: StepReport,
}

/// A line of `warnings.jsonl`: a problem of the training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WarningLine {
    /// [`FORMAT_VERSION`].
    pub v: u32,
    /// The run's name.
    pub run: String,
    /// The run's labels.
    pub labels: Labels,
    /// The run's seed.
    pub seed: u64,
    /// The warning as one line of text, for readers that do not know its kind.
    pub text: String,
    /// The finding, and its time; its fields follow the others.
    #[serde(flatten)]
    pub of: Warning,
}

/// The content of a line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Loss and metrics; numbers that were not finite are NaN.
    #[serde(flatten)]
    pub score: Score,
    /// Learning rate of the last step of the epoch; `None` outside training.
    pub learning_rate: Option<f64>,
    /// Batches that were not finite. Only present if there were some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonfinite: Option<NonFinite>,
}

/// The content of a line of `timing.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Wall-clock seconds of the whole pass, tracking included.
    pub seconds: f64,
    /// Samples per second of wall-clock time.
    pub samples_per_second: f64,
    /// Share of the time for observing, in `[0, 1]`.
    pub tracking_fraction: f64,
}

/// The content of a line of `layers.jsonl`: the statistics, and numbers computed from them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Layer<'a> {
    #[serde(flatten)]
    stats: &'a LayerStats,
    std: Option<f64>,
    dead_fraction: Option<f64>,
}

impl<T> Line<T> {
    pub(crate) fn new(run: &Run, epoch: u32, split: Split, of: T) -> Self {
        let Run { name, labels, seed, .. } = run;
        Self { v: FORMAT_VERSION, run: name.clone(), labels: labels.clone(), seed: *seed, epoch, split, of }
    }
}

impl StepLine {
    pub(crate) fn new(run: &Run, of: StepReport) -> Self {
        let Run { name, labels, seed, .. } = run;
        Self { v: FORMAT_VERSION, run: name.clone(), labels: labels.clone(), seed: *seed, of }
    }
}

impl WarningLine {
    pub(crate) fn new(run: &Run, of: Warning) -> Self {
        let Run { name, labels, seed, .. } = run;
        let text = of.to_string();
        Self { v: FORMAT_VERSION, run: name.clone(), labels: labels.clone(), seed: *seed, text, of }
    }
}

impl From<&SplitReport> for Metrics {
    fn from(of: &SplitReport) -> Self {
        let (score, nonfinite) = (of.score.clone(), of.nonfinite.clone());
        Self { score, learning_rate: of.learning_rate, nonfinite }
    }
}

impl From<&SplitReport> for Timing {
    fn from(of: &SplitReport) -> Self {
        Self {
            seconds: of.seconds,
            samples_per_second: of.samples_per_second(),
            tracking_fraction: of.tracking_fraction(),
        }
    }
}

impl<'a> From<&'a LayerStats> for Layer<'a> {
    fn from(stats: &'a LayerStats) -> Self {
        Self { stats, std: stats.std(), dead_fraction: stats.dead_fraction() }
    }
}

/// Reads a JSON-lines file of a run: `T` is [`MetricsLine`], [`LayerLine`], [`TimingLine`], [`StepLine`] or
/// [`WarningLine`].
///
/// Unknown fields are ignored. An incomplete last line, as a killed run may leave it, is dropped, and the lines before
/// it are returned.
///
/// # Errors
///
/// The file cannot be read, a line has another version of the format, or a line before the last is not such a record.
/// The last two name the line.
pub fn read_lines<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<Vec<T>> {
    match read_lines_before_damage(path) {
        (records, None) => Ok(records),
        (_, Some(error)) => Err(error),
    }
}

/// As [`read_lines`]; for a damaged file it returns the records before the damage, and the error.
pub fn read_lines_before_damage<T: DeserializeOwned>(path: impl AsRef<Path>) -> (Vec<T>, Option<Error>) {
    let path = path.as_ref();
    let bytes = match read(path, u64::MAX) {
        Ok(bytes) => bytes,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let complete = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let lines = bytes.iter().filter(|b| **b == b'\n').count();
    // Room for all records at once, but never twice as much as the file itself takes.
    let room = (lines + 1).min(2 * bytes.len() / size_of::<T>().max(1));
    let mut records = Vec::with_capacity(room);
    for (i, line) in bytes[..complete].split(|b| *b == b'\n').enumerate() {
        if !line.is_empty() {
            match parse(path, i + 1, line) {
                Ok(record) => records.push(record),
                Err(error) => return (records, Some(error)),
            }
        }
    }
    // An object ends with its last byte, so a line that parses lacks at most its newline.
    match parse(path, lines + 1, &bytes[complete..]) {
        Ok(last) => records.push(last),
        Err(other @ Error::Version { .. }) => return (records, Some(other)),
        Err(_) => {}
    }
    (records, None)
}

/// Reads a run's `config.json`.
///
/// # Errors
///
/// The file cannot be read, is larger than 256 KiB, has another version of the format, or is not such a record.
pub fn read_config(path: impl AsRef<Path>) -> Result<Run> {
    let path = path.as_ref();
    let bytes = read(path, MAX_CONFIG)?;
    parse(path, 1, &bytes).map(|record: ConfigRecord| record.run)
}

/// The bytes of a regular file of at most `most` bytes; a pipe or a device need not end.
fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let refuse = |kind: ErrorKind, what: String| Error::io(path)(std::io::Error::new(kind, what));
    let meta = fs::metadata(path).map_err(Error::io(path))?;
    if !meta.is_file() {
        let found = if meta.is_dir() { "a directory" } else { "a device or a pipe" };
        return Err(refuse(ErrorKind::InvalidInput, format!("expected a file, found {found}")));
    }
    if meta.len() > most {
        let found = format!("expected at most {most} bytes, found {}", meta.len());
        return Err(refuse(ErrorKind::FileTooLarge, found));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    let file = File::open(path).map_err(Error::io(path))?;
    // Not beyond its length at the start, because it may grow.
    file.take(meta.len()).read_to_end(&mut bytes).map_err(Error::io(path))?;
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(path: &Path, line: usize, bytes: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let wrong = |cause| Error::Json { path: path.into(), line, cause };
    let Version { v } = serde_json::from_slice(bytes).map_err(wrong)?;
    if v != FORMAT_VERSION {
        return Err(Error::Version { path: path.into(), line, found: v });
    }
    serde_json::from_slice(bytes).map_err(wrong)
}
