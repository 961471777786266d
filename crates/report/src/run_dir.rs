use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    EpochReport, Error, FORMAT_VERSION, Result, Run, Sink, StepReport, Warning,
    lines::{ConfigRecord, Layer, Line, MAX_CONFIG, Metrics, StepLine, Timing, WarningLine},
    whole::{still_there, write_whole},
};

/// A run's directory: a sink that writes JSON and JSON lines.
///
/// # Format, version 2
///
/// Every record is one JSON object whose first field is `v`, the [format version](FORMAT_VERSION).
/// Readers ignore unknown fields. Numbers that are not finite or were not measured are `null`. All text is UTF-8; lines
/// end with one `\n`.
///
/// `config.json`, written once, over several lines: `v` and the fields of [`Run`]: `name`, `dataset`, `model`, `labels`
/// (an object), `loss` (its description), `seed`, `parameters`, `epochs` (planned), `consumers` (an array of
/// [`Consumer`](crate::Consumer), only where there are any) and `config`, an object with everything else that is needed to
/// repeat the run. At most 256 KiB.
///
/// Every line of the other files begins with these fields (those of `steps.jsonl` and `warnings.jsonl` with the first
/// four), so that it can be used alone:
///
/// | field | type | meaning |
/// |---|---|---|
/// | `v` | integer | 2 |
/// | `run` | string | the run's name |
/// | `labels` | object | the run's labels: texts, numbers or truth values |
/// | `seed` | integer | the run's seed |
/// | `epoch` | integer | from 1; 0 is the untrained network, which has no `train` |
/// | `split` | string | `train` (train mode, while the weights move), `validation`, `test` (fixed weights) |
///
/// `metrics.jsonl`, one line per epoch and split, continues with:
///
/// | field | type | meaning |
/// |---|---|---|
/// | `loss` | number, null | mean per sample, of the kind that `loss` in `config.json` names |
/// | `samples` | integer | samples that it is taken over |
/// | `metrics` | object | the other measures of the training step by name, each a number or null; the first is the primary one |
/// | `kinds` | object | of each metric: `share` (in `[0, 1]`, more is better), `higher` or `lower` (is better) |
/// | `counts` | object | tables of counts by name, row by row; only where there are any |
/// | `learning_rate` | number, null | of the last step of the epoch; null outside training |
/// | `nonfinite` | object | only where something was NaN or infinite: `batches` (how many), `skipped` (steps left out), `first`: [`Fault`](crate::Fault) |
///
/// `layers.jsonl`, one line per epoch, split and site, sites in the order of the forward pass, continues with the
/// fields of [`LayerStats`](crate::LayerStats) under the same names and in the same order, then `std` and
/// `dead_fraction`. Nested fields:
///
/// | field | type | meaning |
/// |---|---|---|
/// | `histogram` | object, null | `zeros`: exact zeros; `negative`, `positive`: pairs `[bin, count]` of the bins that hold something, bin 0 nearest to zero; edges as in [`Histogram`](crate::Histogram) |
/// | `quantiles` | object, null | `q01` `q05` `q25` `q50` `q75` `q95` `q99` |
/// | `dead_units` | array | indices of the dead units, from 0, ascending |
/// | `rare_units` | array | indices of the rare units, from 0, ascending; only where there are any |
/// | `firing_rate` | object | `never`, `between` (20 counts), `always` |
/// | `active_per_sample` | object, null | `mean`, `min`, `max` |
/// | `trouble` | text or object | only where the recorder could not record all of the window: [`Trouble`](crate::Trouble) |
///
/// `timing.jsonl`, one line per epoch and split, continues with `seconds` (wall clock), `samples_per_second`,
/// `tracking_fraction` (share of the time for observing, in `[0, 1]`). Only this file has times: the same numbers make
/// the same bytes in the other files.
///
/// `steps.jsonl`, one line per window of training steps, continues with `step`, `steps`, then `loss`, `samples`,
/// `metrics` and `kinds` as in `metrics.jsonl`, `learning_rate`, and the arrays `sites` and `parameters`, all defined
/// in [`StepReport`].
///
/// `warnings.jsonl`, one line per [`Warning`], usually empty, continues with `text` (the warning in words), `epoch` and
/// `step` (one of them is null), `kind`, and the fields of the [`Finding`](crate::Finding) of that kind.
///
/// The lines of an epoch are written to each file at once, and all are written when [`Sink::epoch`] returns. A killed
/// run can leave an incomplete last line, which [`read_lines`](crate::read_lines) drops.
///
/// `lock` is empty, and locked while a process writes to the run; the system releases it when the process ends.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    metrics: Lines,
    layers: Lines,
    timing: Lines,
    steps: Lines,
    warnings: Lines,
    /// The run, after `begin`.
    run: Option<Run>,
    /// Whether the directory already had a run.
    resumed: bool,
    _lock: RunLock,
}

/// The lock of a run's directory, which one process can have at a time. The system releases it when the process ends.
#[derive(Debug)]
pub struct RunLock {
    dir: PathBuf,
    _file: File,
}

impl RunLock {
    /// Locks the file `lock` in the directory, which must exist.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] while another process writes to the run, [`Error::Io`] with the path of what cannot be
    /// opened or locked.
    pub fn take(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let path = dir.join("lock");
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path);
        let file = file.map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { dir, _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path: dir }),
            Err(TryLockError::Error(cause)) => Err(Error::io(path)(cause)),
        }
    }
}

/// The lengths of a run's files in bytes, for a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    /// `metrics.jsonl`.
    pub metrics: u64,
    /// `layers.jsonl`.
    pub layers: u64,
    /// `timing.jsonl`.
    pub timing: u64,
    /// `steps.jsonl`; 0 in a checkpoint from before this file existed.
    #[serde(default)]
    pub steps: u64,
    /// `warnings.jsonl`; 0 as above.
    #[serde(default)]
    pub warnings: u64,
}

impl Lengths {
    /// Syncs the files of the run in `dir` to disk, and returns their lengths.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] with the path of a file that cannot be opened or written.
    pub fn settle(dir: impl AsRef<Path>) -> Result<Self> {
        let settle = |name: &str| {
            let path = dir.as_ref().join(name);
            let settled = OpenOptions::new().append(true).open(&path).and_then(|file| {
                file.sync_all()?;
                Ok(file.metadata()?.len())
            });
            settled.map_err(Error::io(path))
        };
        Ok(Self {
            metrics: settle("metrics.jsonl")?,
            layers: settle("layers.jsonl")?,
            timing: settle("timing.jsonl")?,
            steps: settle("steps.jsonl")?,
            warnings: settle("warnings.jsonl")?,
        })
    }
}

impl RunDir {
    /// Creates the directory, and its parents, for one run.
    ///
    /// Nothing is ever overwritten: if `path` exists and is not an empty directory, `path-2`, `path-3` and so on are
    /// tried, and [`RunDir::path`] returns the one that was used. Two processes that ask for the same path never share
    /// a directory.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] with the path that could not be created or written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        // Two processes can find the same empty directory; only one of them can create its first file.
        let (path, metrics) = take(path.as_ref(), |path| Lines::create(path.join("metrics.jsonl")))?;
        let lock = RunLock::take(&path)?;
        let layers = Lines::create(path.join("layers.jsonl"))?;
        let timing = Lines::create(path.join("timing.jsonl"))?;
        let steps = Lines::create(path.join("steps.jsonl"))?;
        let warnings = Lines::create(path.join("warnings.jsonl"))?;
        Ok(Self { path, metrics, layers, timing, steps, warnings, run: None, resumed: false, _lock: lock })
    }

    /// Opens the directory of an interrupted run to resume it. `known` are the lengths of its files at the checkpoint:
    /// later data, an incomplete last line included, are truncated.
    ///
    /// [`Sink::begin`] then writes `config.json` only if it changed.
    ///
    /// # Errors
    ///
    /// [`Error::Short`] for a file that is shorter than at the checkpoint, [`Error::Io`] with the path that cannot be
    /// opened or written. Nothing is truncated then.
    pub fn resume(lock: RunLock, known: &Lengths) -> Result<Self> {
        let path = lock.dir.clone();
        let open = |name: &str, length| Lines::open(path.join(name), length);
        let metrics = open("metrics.jsonl", known.metrics)?;
        let layers = open("layers.jsonl", known.layers)?;
        let timing = open("timing.jsonl", known.timing)?;
        let steps = open("steps.jsonl", known.steps)?;
        let warnings = open("warnings.jsonl", known.warnings)?;
        let Lengths { metrics: m, layers: l, timing: t, steps: s, warnings: w } = *known;
        for (lines, length) in [(&metrics, m), (&layers, l), (&timing, t), (&steps, s), (&warnings, w)] {
            lines.file.set_len(length).map_err(Error::io(&lines.path))?;
        }
        Ok(Self { path, metrics, layers, timing, steps, warnings, run: None, resumed: true, _lock: lock })
    }

    /// The directory in use.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Sink for RunDir {
    fn begin(&mut self, run: &Run) -> Result<()> {
        let path = self.path.join("config.json");
        let record = ConfigRecord { v: FORMAT_VERSION, run: run.clone() };
        let mut bytes = serde_json::to_vec_pretty(&record).map_err(Error::json(&path))?;
        bytes.push(b'\n');
        if bytes.len() as u64 > MAX_CONFIG {
            let found = format!("expected a config of at most {MAX_CONFIG} bytes, found {}", bytes.len());
            return Err(Error::io(path)(io::Error::new(ErrorKind::FileTooLarge, found)));
        }
        match fs::read(&path) {
            Ok(_) if !self.resumed => return Err(Error::io(path)(ErrorKind::AlreadyExists.into())),
            Ok(same) if same == bytes => {}
            // Written atomically: without it a run cannot be resumed.
            _ => write_whole(&path, &bytes).map_err(Error::io(path))?,
        }
        self.run = Some(run.clone());
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        let Self { metrics, layers, timing, run: Some(run), .. } = self else {
            return Err(Error::NotBegun { path: self.path.clone() });
        };
        let (epoch, splits) = (report.epoch, &report.splits);
        metrics.append(splits.iter().map(|of| Line::new(run, epoch, of.split, Metrics::from(of))))?;
        layers.append(splits.iter().flat_map(|of| {
            let run = &*run;
            of.layers.iter().map(move |layer| Line::new(run, epoch, of.split, Layer::from(layer)))
        }))?;
        timing.append(splits.iter().map(|of| Line::new(run, epoch, of.split, Timing::from(of))))
    }

    fn step(&mut self, report: &StepReport) -> Result<()> {
        let Self { steps, run: Some(run), .. } = self else {
            return Err(Error::NotBegun { path: self.path.clone() });
        };
        steps.append([StepLine::new(run, report.clone())].into_iter())
    }

    fn warning(&mut self, warning: &Warning) -> Result<()> {
        let Self { warnings, run: Some(run), .. } = self else {
            return Err(Error::NotBegun { path: self.path.clone() });
        };
        warnings.append([WarningLine::new(run, warning.clone())].into_iter())
    }
}

/// Creates a new or empty directory, and its parents: for a grid, whose runs have subdirectories in it.
///
/// If `path` exists and is not an empty directory, `path-2`, `path-3` and so on are tried.
///
/// # Errors
///
/// [`Error::Io`] with the path that could not be created.
pub fn fresh_dir(path: impl AsRef<Path>) -> Result<PathBuf> {
    take(path.as_ref(), |_| Ok(())).map(|(path, ())| path)
}

/// The first of `path`, `path-2`, … that is new or empty and that `claim` can take.
fn take<T>(path: &Path, claim: impl Fn(&Path) -> Result<T>) -> Result<(PathBuf, T)> {
    // `.` and `runs/..` have no name to add a number to.
    let path = match path.file_name() {
        Some(_) => path.to_path_buf(),
        None => fs::canonicalize(path).map_err(Error::io(path))?,
    };
    let Some(name) = path.file_name() else {
        return Err(Error::io(&path)(ErrorKind::AlreadyExists.into()));
    };
    if let Some(parent) = path.parent() {
        // For a file with the name of the directory the system only says that it exists.
        fs::create_dir_all(parent)
            .map_err(|e| if parent.is_file() { ErrorKind::NotADirectory.into() } else { e })
            .map_err(Error::io(parent))?;
    }
    let mut candidate = path.clone();
    for n in 2_u32.. {
        if is_free(&candidate).map_err(Error::io(&candidate))? {
            match claim(&candidate) {
                Err(Error::Io { cause, .. }) if cause.kind() == ErrorKind::AlreadyExists => {}
                claimed => return claimed.map(|claimed| (candidate, claimed)),
            }
        }
        let mut numbered = name.to_os_string();
        numbered.push(format!("-{n}"));
        candidate = path.with_file_name(numbered);
    }
    Err(Error::io(&path)(ErrorKind::AlreadyExists.into()))
}

/// Creates the directory; true if it is new, or existed and is empty.
fn is_free(path: &Path) -> io::Result<bool> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => match fs::read_dir(path) {
            Ok(mut entries) => Ok(entries.next().is_none()),
            // A file, or a link to nothing.
            Err(e) if matches!(e.kind(), ErrorKind::NotADirectory | ErrorKind::NotFound) => Ok(false),
            Err(e) => Err(e),
        },
        created => created.map(|()| true),
    }
}

/// A JSON-lines file that is being written.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    fn create(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(Error::io(&path))?;
        Ok(Self { path, file })
    }

    /// Opens a file that must have at least this many bytes; it may be missing if the run was killed early.
    fn open(path: PathBuf, expected: u64) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(Error::io(&path))?;
        let found = file.metadata().map_err(Error::io(&path))?.len();
        if found < expected {
            return Err(Error::Short { path, expected, found });
        }
        Ok(Self { path, file })
    }

    fn append<T: Serialize>(&mut self, records: impl Iterator<Item = T>) -> Result<()> {
        let mut bytes = Vec::new();
        for record in records {
            serde_json::to_writer(&mut bytes, &record).map_err(Error::json(&self.path))?;
            bytes.push(b'\n');
        }
        // One write without a buffer: the data survive the end of the process.
        // Writing to a deleted file would succeed and lose the data.
        self.file.write_all(&bytes).and_then(|()| still_there(&self.path)).map_err(Error::io(&self.path))
    }
}
