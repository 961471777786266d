use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use taper_nn::Params;
use taper_report::{sync_dir, warn};

use crate::weights::{Origin, pack, set, tensors, unpack, values};
use crate::{Error, Keep, Optimizer, OptimizerState, Result};

/// The version of `state.json`. It increases when a field changes its meaning or is removed.
const VERSION: u32 = 3;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const SUMS: &str = "SHA256SUMS";
/// The suffix of a directory that is being written or removed.
const PART: &str = ".part";

/// The position of a checkpoint in a run. Its directory is `epoch-3`, or `epoch-3-batch-17` within an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Point {
    /// Number of complete epochs.
    pub epoch: u32,
    /// Number of batches done in the next epoch.
    pub batch: u64,
}

/// The checkpoints of a run: a directory with a subdirectory for each [`Point`] that was saved and kept.
///
/// # Format, version 3
///
/// | file | what |
/// |---|---|
/// | `model.safetensors` | the weights, as [`save_weights`](crate::save_weights) writes them |
/// | `optimizer.safetensors` | the optimiser's state by parameter and slot: `fc1.weight.exp_avg` |
/// | `state.json` | `v` (3), `taper` (the version), `epoch`, `batch`, `steps`, `learning_rate`, `waiting`, `rank`, `state` |
/// | `SHA256SUMS` | checksums of these three, as `sha256sum -c` reads them |
///
/// In `state.json`, `steps` are the optimiser's, which give the position in the schedule, `learning_rate` is the base rate
/// that the loop has set, or null, `waiting` counts batches and samples with accumulated gradients, and `rank` is compared by
/// [`Keep`], or null.
///
/// A checkpoint is complete or absent: it is written as `epoch-3.part`, synced, and renamed; for removal it is renamed
/// first. So a directory that ends in `.part` is incomplete, and [`Checkpoints::open`] removes it.
///
/// `state` is everything else that the loop changes: generators, recorders, [`Progress`](crate::Progress), the best
/// score. Floats that may not be finite go through [`taper_hooks::bits`].
///
/// ```
/// # use candle_core::Device;
/// # use taper_hooks::{Recorder, Rng, rng};
/// # use taper_nn::{Mlp, MlpConfig, Params};
/// # use taper_train::{Checkpoints, Keep, Optimizer, OptimizerConfig, Point, Rule, classify, train_epoch};
/// # let run = tempfile::tempdir().expect("a directory");
/// # let dir = run.path().join("checkpoints");
/// # let data = taper_data::digits()?;
/// # for until in [1, 3] {
/// # let params = Params::new(1, &Device::Cpu);
/// # let net = Mlp::new(&MlpConfig { inputs: 64, widths: vec![32], ..Default::default() }, params.builder())?;
/// # let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1))?;
/// let mut checkpoints = Checkpoints::open(&dir, Keep::default())?;
/// let (mut done, mut rng, mut recorder) = (0, rng(2), Recorder::new());
/// if let Some(newest) = checkpoints.newest::<(Rng, Recorder)>()? {
///     newest.restore(&params, &mut optimizer)?;
///     done = newest.at.epoch;
///     (rng, recorder) = newest.state;
/// }
/// for epoch in done + 1..=until {
///     train_epoch(&classify(&net), &mut optimizer, data.train.shuffled(&mut rng, 32), &mut recorder, 1)?;
///     recorder.finish();
///     checkpoints.save(Point { epoch, batch: 0 }, None, &params, &optimizer, &(&rng, &recorder))?;
/// }
/// # assert_eq!(optimizer.steps(), 45 * u64::from(until));
/// # }
/// # assert!(dir.join("epoch-3").is_dir() && !dir.join("epoch-1").exists());
/// # Ok::<(), taper_train::Error>(())
/// ```
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    keep: Keep,
    /// The existing checkpoints and their ranks.
    kept: Vec<(Point, Option<f64>)>,
    /// The last one that was read or written.
    current: Option<Point>,
    /// The origin that its weight file names.
    pub(crate) origin: Option<Origin>,
}

/// A complete checkpoint from the disk.
#[derive(Debug)]
pub struct Checkpoint<S> {
    /// Its directory.
    pub path: PathBuf,
    /// Its position.
    pub at: Point,
    /// The version of Taper that wrote it.
    pub taper: String,
    /// The state of the loop.
    pub state: S,
    /// Newer checkpoints that are incomplete, with the reasons.
    pub passed_over: Vec<Error>,
    model: Vec<u8>,
    slots: Vec<u8>,
    /// Without its tensors.
    pub(crate) optimizer: OptimizerState,
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
struct Written<S> {
    v: u32,
    taper: String,
    epoch: u32,
    batch: u64,
    steps: u64,
    #[serde(default)]
    learning_rate: Option<f64>,
    #[serde(default)]
    waiting: (u64, u64),
    rank: Option<f64>,
    state: S,
}

impl Checkpoints {
    /// The checkpoints in `dir`, which is created by the first save; its parent must exist.
    ///
    /// Removes the incomplete directories of killed processes, so no other process may write here: hold the run's lock.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the path that cannot be read or removed.
    pub fn open(dir: impl Into<PathBuf>, keep: Keep) -> Result<Self> {
        let mut own = Self { dir: dir.into(), keep, kept: Vec::new(), current: None, origin: None };
        let entries = match fs::read_dir(&own.dir) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(own),
            entries => entries.map_err(fault(&own.dir, "read"))?,
        };
        for entry in entries {
            let path = entry.map_err(fault(&own.dir, "read"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(point) = Point::of(&name) {
                let rank = state::<IgnoredAny>(&path).ok().and_then(|state| state.rank);
                own.kept.push((point, rank));
            } else if name.strip_suffix(PART).is_some_and(|name| Point::of(name).is_some()) {
                fs::remove_dir_all(&path).map_err(fault(&path, "remove"))?;
            }
        }
        Ok(own)
    }

    /// Saves a checkpoint, then removes those that need not be kept, and returns its directory. Does nothing if this
    /// point was saved or read last. `rank` is compared by [`Keep::best`]; higher is better:
    /// [`Metric::rank`](taper_report::Metric::rank).
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the path that cannot be written. The other checkpoints stay then.
    pub fn save<S: Serialize>(
        &mut self,
        at: Point,
        rank: Option<f64>,
        params: &Params,
        optimizer: &Optimizer,
        state: &S,
    ) -> Result<PathBuf> {
        let path = self.dir.join(at.to_string());
        if self.current == Some(at) {
            return Ok(path);
        }
        let OptimizerState { steps, learning_rate, waiting, tensors: slots } = optimizer.state()?;
        let message = |message: String| Error::Checkpoint { path: path.clone(), message };
        let rank = rank.filter(|x| x.is_finite());
        let taper = env!("CARGO_PKG_VERSION").to_string();
        let (epoch, batch) = (at.epoch, at.batch);
        let written = Written { v: VERSION, taper, epoch, batch, steps, learning_rate, waiting, rank, state };
        let mut json =
            serde_json::to_vec(&written).map_err(|e| message(format!("cannot be written: {e}")))?;
        json.push(b'\n');
        let mut files = vec![
            (MODEL, pack(&tensors(params), self.origin.as_ref()).map_err(message)?),
            (OPTIMIZER, pack(&slots, None).map_err(message)?),
            (STATE, json),
        ];
        let sums: String = files.iter().map(|(name, bytes)| format!("{}  {name}\n", sum(bytes))).collect();
        files.push((SUMS, sums.into_bytes()));

        let part = self.dir.join(format!("{at}{PART}"));
        let write = || -> Result<()> {
            // Not its parents: if the directory of the run was removed, that must be an error.
            let made = fs::create_dir(&self.dir);
            made.or_else(ignore(ErrorKind::AlreadyExists)).map_err(fault(&self.dir, "make"))?;
            fs::create_dir(&part).map_err(fault(&part, "make"))?;
            for (name, bytes) in &files {
                let path = part.join(name);
                let file = File::create_new(&path);
                let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
                written.map_err(fault(&path, "write"))?;
            }
            sync_dir(&part).map_err(fault(&part, "write"))?;
            // An existing one is incomplete; otherwise the run would have resumed from it.
            fs::remove_dir_all(&path).or_else(ignore(ErrorKind::NotFound)).map_err(fault(&path, "remove"))?;
            fs::rename(&part, &path).map_err(fault(&path, "make"))?;
            sync_dir(&self.dir).map_err(fault(&self.dir, "write"))
        };
        write().inspect_err(|_| {
            // A full disk should not stay full because of an incomplete directory, which may not even exist.
            let _ = fs::remove_dir_all(&part);
        })?;
        self.current = Some(at);
        self.kept.retain(|(point, _)| *point != at);
        self.kept.push((at, rank));
        for point in self.keep.superfluous(&self.kept) {
            self.kept.retain(|(of, _)| *of != point);
            if let Err(error) = self.remove(point) {
                warn(&format!("{error}: it stays"));
            }
        }
        Ok(path)
    }

    /// Removes a checkpoint, which never exists incomplete under its name.
    fn remove(&self, point: Point) -> Result<()> {
        let (path, part) = (self.dir.join(point.to_string()), self.dir.join(format!("{point}{PART}")));
        fs::rename(&path, &part).and_then(|()| fs::remove_dir_all(&part)).map_err(fault(&path, "remove"))
    }

    /// Reads the newest complete checkpoint; `None` if there is no checkpoint.
    ///
    /// # Errors
    /// If there are checkpoints and none is complete: the error of the newest.
    pub fn newest<S: DeserializeOwned>(&mut self) -> Result<Option<Checkpoint<S>>> {
        let mut passed_over = Vec::new();
        self.kept.sort_unstable_by_key(|(point, _)| *point);
        while let Some((point, _)) = self.kept.last() {
            match Checkpoint::read(self.dir.join(point.to_string())) {
                Ok(checkpoint) => {
                    self.current = Some(*point);
                    return Ok(Some(Checkpoint { passed_over, ..checkpoint }));
                }
                Err(error) => passed_over.push(error),
            }
            // It must not replace a complete one.
            self.kept.pop();
        }
        if passed_over.is_empty() { Ok(None) } else { Err(passed_over.swap_remove(0)) }
    }
}

impl<S: DeserializeOwned> Checkpoint<S> {
    /// Reads the checkpoint in this directory.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the path of a file that is missing, truncated, changed, or of a newer version.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let wrong = |name: &str, message: String| Error::Checkpoint { path: path.join(name), message };
        let read = |name: &str| fs::read(path.join(name)).map_err(fault(&path.join(name), "read"));
        let sums = read(SUMS)?;
        let sums = String::from_utf8_lossy(&sums);
        let whole = |name: &str| -> Result<Vec<u8>> {
            let bytes = read(name)?;
            let (line, found) = (format!("  {name}"), sum(&bytes));
            let expected = sums.lines().find_map(|of| of.strip_suffix(&line));
            let expected =
                expected.ok_or_else(|| wrong(SUMS, format!("expected a checksum of {name}, found none")))?;
            if expected != found {
                let found =
                    format!("expected the SHA-256 {expected}, found {found}: it was truncated or changed");
                return Err(wrong(name, found));
            }
            Ok(bytes)
        };
        let (model, slots) = (whole(MODEL)?, whole(OPTIMIZER)?);
        whole(STATE)?;
        let Written { taper, epoch, batch, steps, learning_rate, waiting, state, .. } = self::state(&path)?;
        let at = Point { epoch, batch };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if Point::of(&name).is_some_and(|named| named != at) {
            return Err(wrong(STATE, format!("expected {name}, the name of its directory, found {at}")));
        }
        let optimizer = OptimizerState { steps, learning_rate, waiting, tensors: Vec::new() };
        Ok(Self { at, taper, state, passed_over: Vec::new(), model, slots, optimizer, path })
    }
}

impl<S: Serialize + DeserializeOwned> Checkpoint<S> {
    /// The state in JSON, the model and the slots, for another process.
    pub(crate) fn parts(&self) -> Result<[Vec<u8>; 3]> {
        let OptimizerState { steps, learning_rate, waiting, .. } = self.optimizer;
        let (v, taper, Point { epoch, batch }) = (VERSION, self.taper.clone(), self.at);
        let state = &self.state;
        let written = Written { v, taper, epoch, batch, steps, learning_rate, waiting, rank: None, state };
        let state = serde_json::to_vec(&written).map_err(Error::other)?;
        Ok([state, self.model.clone(), self.slots.clone()])
    }

    /// From [`Checkpoint::parts`].
    pub(crate) fn of_parts(state: &[u8], model: Vec<u8>, slots: Vec<u8>) -> Result<Self> {
        let Written { taper, epoch, batch, steps, learning_rate, waiting, state, .. } =
            serde_json::from_slice(state).map_err(Error::other)?;
        let (at, tensors) = (Point { epoch, batch }, Vec::new());
        let optimizer = OptimizerState { steps, learning_rate, waiting, tensors };
        let (path, passed_over) = (PathBuf::from(at.to_string()), Vec::new());
        Ok(Self { at, taper, state, passed_over, model, slots, optimizer, path })
    }
}

impl<S> Checkpoint<S> {
    /// Restores model and optimiser to the saved state.
    ///
    /// # Errors
    /// When they differ from the saved ones; nothing is changed then.
    pub fn restore(&self, params: &Params, optimizer: &mut Optimizer) -> Result<()> {
        let wrong = |name: &'static str| {
            move |message: String| Error::Checkpoint { path: self.path.join(name), message }
        };
        let values = values(params, &self.model).map_err(wrong(MODEL))?;
        let tensors = unpack(&self.slots, params.device()).map_err(wrong(OPTIMIZER))?;
        let state = OptimizerState { tensors, ..self.optimizer.clone() };
        optimizer.restore(&state).map_err(|error| wrong(OPTIMIZER)(error.to_string()))?;
        set(&values)
    }

    /// The bytes of `model.safetensors`.
    pub fn model(&self) -> &[u8] {
        &self.model
    }
}

impl Point {
    /// From the name of a directory.
    fn of(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("epoch-")?;
        let (epoch, batch) = rest.split_once("-batch-").unwrap_or((rest, "0"));
        let point = Self { epoch: epoch.parse().ok()?, batch: batch.parse().ok()? };
        // `epoch-+3` and `epoch-03` belong to other programs.
        (point.to_string() == name).then_some(point)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch-{}", self.epoch)?;
        if self.batch > 0 { write!(f, "-batch-{}", self.batch) } else { Ok(()) }
    }
}

/// Reads `state.json` of a checkpoint.
fn state<S: DeserializeOwned>(dir: &Path) -> Result<Written<S>> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let path = dir.join(STATE);
    let bytes = fs::read(&path).map_err(fault(&path, "read"))?;
    let wrong = |message: String| Error::Checkpoint { path: path.clone(), message };
    let json = |e: serde_json::Error| wrong(format!("not the state of a checkpoint: {e}"));
    let Version { v } = serde_json::from_slice(&bytes).map_err(json)?;
    if v != VERSION {
        let cure = if v > VERSION { "read it with a newer taper" } else { "train it again" };
        return Err(wrong(format!("expected format version {VERSION}, found {v}: {cure}")));
    }
    serde_json::from_slice(&bytes).map_err(json)
}

fn sum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn fault(path: &Path, verb: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |cause| Error::Checkpoint { path, message: format!("cannot {verb} checkpoint: {cause}") }
}

fn ignore(kind: ErrorKind) -> impl FnOnce(io::Error) -> io::Result<()> {
    move |cause| if cause.kind() == kind { Ok(()) } else { Err(cause) }
}
