use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    path::Path,
};

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use crate::{
    Error, LayerStats, NonFinite, Result, Run, Split, SplitReport,
    beside::{Beside, Head},
};

/// The version of the format that [`RunDir`](crate::RunDir) writes, the `v` of every record.
///
/// It goes up when a field changes its meaning or goes away; a new field alone does not raise it.
pub const FORMAT_VERSION: u32 = 1;

/// The largest `config.json` that is written or read, in bytes: parsed, JSON can take a hundred times its own size.
pub(crate) const MAX_CONFIG: u64 = 256 << 10;

/// `config.json`: what the run is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigRecord {
    /// [`FORMAT_VERSION`].
    pub v: u32,
    /// The run; its fields stand beside `v`.
    #[serde(flatten)]
    pub run: Run,
}

/// A line of `metrics.jsonl`: how well the model did on one split in one epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricsLine {
    /// [`FORMAT_VERSION`].
    pub v: u32,
    /// Epochs count from 1.
    pub epoch: u32,
    /// Which part of the data.
    pub split: Split,
    /// Mean cross-entropy per sample, in nats; `None` where it was not finite.
    pub loss: Option<f64>,
    /// Fraction of samples classified correctly, in `[0, 1]`; `None` where it was not finite.
    pub accuracy: Option<f64>,
    /// How many samples the two are taken over.
    pub samples: u64,
    /// Learning rate of the last step of the epoch; `None` outside training.
    pub learning_rate: Option<f64>,
    /// Batches that were not finite. The field is there only if there were some; boxed, as there hardly ever are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonfinite: Option<Box<NonFinite>>,
}

/// A line of `layers.jsonl`: what one site's activations did over one split in one epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerLine {
    /// [`FORMAT_VERSION`].
    pub v: u32,
    /// Epochs count from 1.
    pub epoch: u32,
    /// Which part of the data, and with it which window.
    pub split: Split,
    /// The numbers; their fields stand beside `v`.
    #[serde(flatten)]
    pub stats: LayerStats,
}

/// A line of `timing.jsonl`: how long one split took in one epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimingLine {
    /// [`FORMAT_VERSION`].
    pub v: u32,
    /// Epochs count from 1.
    pub epoch: u32,
    /// Which part of the data.
    pub split: Split,
    /// Wall-clock seconds of the whole pass, tracking included.
    pub seconds: f64,
    /// Samples per second of wall-clock time.
    pub samples_per_second: f64,
    /// Share of the time that observing took, in `[0, 1]`.
    pub tracking_fraction: f64,
}

impl MetricsLine {
    pub(crate) fn new(epoch: u32, of: &SplitReport) -> Self {
        Self {
            v: FORMAT_VERSION,
            epoch,
            split: of.split,
            loss: Some(of.score.loss).filter(|x| x.is_finite()),
            accuracy: Some(of.score.accuracy).filter(|x| x.is_finite()),
            samples: of.score.samples,
            learning_rate: of.learning_rate,
            nonfinite: of.nonfinite.clone().map(Box::new),
        }
    }
}

impl TimingLine {
    pub(crate) fn new(epoch: u32, of: &SplitReport) -> Self {
        Self {
            v: FORMAT_VERSION,
            epoch,
            split: of.split,
            seconds: of.seconds,
            samples_per_second: of.samples_per_second(),
            tracking_fraction: of.tracking_fraction(),
        }
    }
}

impl<'de> Deserialize<'de> for ConfigRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (head, run) = Beside::of(deserializer, &["v"])?;
        Ok(Self { v: head.v()?, run })
    }
}

impl<'de> Deserialize<'de> for LayerLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (head, stats): (Head, LayerStats) = Beside::of(deserializer, &["v", "epoch", "split"])?;
        Ok(Self { v: head.v()?, epoch: head.epoch()?, split: head.split()?, stats })
    }
}

/// Reads a JSON-lines file of a run: `T` is [`MetricsLine`], [`LayerLine`] or [`TimingLine`].
///
/// Unknown fields are passed over. A last line that breaks off, as a killed run may leave it, is
/// dropped, and the lines before it are returned.
///
/// # Errors
///
/// The file cannot be read, a line was written in a newer format, or a line before the last is no
/// such record. The last two name the line.
pub fn read_lines<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<Vec<T>> {
    match read_lines_before_damage(path) {
        (records, None) => Ok(records),
        (_, Some(error)) => Err(error),
    }
}

/// As [`read_lines`]; of a file that is damaged the records before the damage, and the error.
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
    // An object ends with its last byte, so a line that parses lacks nothing but its newline.
    match parse(path, lines + 1, &bytes[complete..]) {
        Ok(last) => records.push(last),
        Err(newer @ Error::Version { .. }) => return (records, Some(newer)),
        Err(_) => {}
    }
    (records, None)
}

/// Reads a run's `config.json`.
///
/// # Errors
///
/// The file cannot be read, is larger than 256 KiB, was written in a newer format, or is no such record.
pub fn read_config(path: impl AsRef<Path>) -> Result<Run> {
    let path = path.as_ref();
    let bytes = read(path, MAX_CONFIG)?;
    parse(path, 1, &bytes).map(|record: ConfigRecord| record.run)
}

/// The bytes of a file of at most `most` of them: a file, as a pipe or a device need not end.
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
    // No further than it was long: it may be growing.
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
    if v > FORMAT_VERSION {
        return Err(Error::Version { path: path.into(), line, found: v });
    }
    serde_json::from_slice(bytes).map_err(wrong)
}
