use std::{fs, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, LayerStats, Result, Run, Split, SplitReport};

/// The version of the format that [`RunDir`](crate::RunDir) writes, the `v` of every record.
///
/// It goes up when a field changes its meaning or goes away; a new field alone does not raise it.
pub const FORMAT_VERSION: u32 = 1;

/// `config.json`: what the run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
}

/// A line of `layers.jsonl`: what one site's activations did over one split in one epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let complete = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let mut records = Vec::new();
    for (i, line) in bytes[..complete].split(|b| *b == b'\n').enumerate() {
        if !line.is_empty() {
            records.push(parse(path, i + 1, line)?);
        }
    }
    // An object ends with its last byte, so a line that parses lacks nothing but its newline.
    match parse(path, records.len() + 1, &bytes[complete..]) {
        Ok(last) => records.push(last),
        Err(newer @ Error::Version { .. }) => return Err(newer),
        Err(_) => {}
    }
    Ok(records)
}

/// Reads a run's `config.json`.
///
/// # Errors
///
/// The file cannot be read, was written in a newer format, or is no such record.
pub fn read_config(path: impl AsRef<Path>) -> Result<Run> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(Error::io(path))?;
    parse(path, 1, &bytes).map(|record: ConfigRecord| record.run)
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
