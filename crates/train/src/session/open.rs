use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Var;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use taper_hooks::{Parts, Recorder, rng};
use taper_nn::Params;
use taper_report::{
    Error as ReportError, Lengths, Run, RunDir, RunLock, Split, TensorBoard, Watch, read_reports,
};

use super::{Current, Files, Session, SessionConfig, State};
use crate::same_run::{changes, compare, same_run};
use crate::{Checkpoint, Checkpoints, Error, Optimizer, Progress, Result, Shards};

impl Session<'_> {
    /// Starts a run in a missing or empty directory, or resumes the run in it from its newest checkpoint.
    ///
    /// Pass new parameters and a new optimiser; resuming overwrites both. Create the parameters with
    /// [`Params::of_run`], because shuffling and dropout also draw from the run's seed.
    ///
    /// # Errors
    /// [`Error::OtherRun`] if the run, the optimiser or the recorded parts differ, unless `force`; [`Error::Config`] if
    /// the directory has other files or a complete run without a checkpoint; and as [`RunDir`], [`Checkpoints`] and
    /// [`Checkpoint::restore`].
    pub fn open(
        path: impl AsRef<Path>,
        run: Run,
        params: &Params,
        optimizer: Optimizer,
        config: SessionConfig,
    ) -> Result<Self> {
        check(params, &config.shards)?;
        let path = path.as_ref();
        let found = config.shards.is_first().then(|| find(path, &run, &optimizer, &config)).transpose()?;
        Self::start(found, run, params, optimizer, config)
    }

    /// Starts a run in a new directory: `path`, or `path-2`, `path-3` and so on if that exists; see [`RunDir::create`].
    ///
    /// # Errors
    /// As [`RunDir::create`] and [`TensorBoard::create`].
    pub fn create(
        path: impl AsRef<Path>,
        run: Run,
        params: &Params,
        optimizer: Optimizer,
        config: SessionConfig,
    ) -> Result<Self> {
        check(params, &config.shards)?;
        let made = config.shards.is_first().then(|| create(path.as_ref(), &run, &config)).transpose()?;
        Self::start(made, run, params, optimizer, config)
    }

    /// Starts in all processes with what the first has made or found.
    fn start(
        found: Option<Found>,
        run: Run,
        params: &Params,
        optimizer: Optimizer,
        config: SessionConfig,
    ) -> Result<Self> {
        let shards = config.shards.clone();
        let asked = || Asked {
            run: run.clone(),
            optimizer: optimizer.config().options(),
            session: format!("{:?}", (config.record, config.save, shards.count)),
        };
        let (mut files, mut checkpoint, mut opened) = (None, None, None);
        if let Some(found) = found {
            let path = found.files.dir.path().to_path_buf();
            opened = Some(Opened { asked: asked(), path, run: found.run, was_finished: found.was_finished });
            (files, checkpoint) = (Some(found.files), found.checkpoint);
        }
        if shards.group.size() > 1 {
            opened = Some(shards.share(opened)?);
            let [mut state, mut model, mut slots] = match &checkpoint {
                Some(found) => found.parts()?,
                None => Default::default(),
            };
            for part in [&mut state, &mut model, &mut slots] {
                *part = shards.share_bytes(std::mem::take(part))?;
            }
            if files.is_none() && !state.is_empty() {
                checkpoint = Some(Checkpoint::of_parts(&state, model, slots)?);
            }
        }
        let nothing = || Error::Config("expected the run of the first process, found none".into());
        let Opened { asked: first, path, run: resolved, was_finished } = opened.ok_or_else(nothing)?;
        let own = asked();
        let mut changes = changes(&first.run, &own.run);
        compare("optimizer".to_string(), &first.optimizer, &own.optimizer, &mut changes);
        compare("session".to_string(), &first.session.into(), &own.session.into(), &mut changes);
        if let Some(change) = changes.first() {
            return Err(Error::Config(format!(
                "process {}: expected what process 0 has, found another: {change}: start all processes with the same \
                 program, options and data",
                shards.group.rank()
            )));
        }
        let mut own = Self::new(resolved, params, optimizer, config, (path, files));
        if let Some(found) = checkpoint {
            found.restore(params, &mut own.optimizer)?;
            own.was_finished = was_finished;
            (own.done, own.resumed_from) = (Some(found.at.epoch), Some(found.at));
            let Checkpoint { state, passed_over, .. } = found;
            (own.own, own.passed_over) = (state.own.clone(), passed_over);
            let was = state.shards;
            let new = std::mem::replace(&mut own.state, State { run: own.run.clone(), ..state });
            (own.state.optimizer, own.state.shards) = (new.optimizer, new.shards);
            let record = own.config.record;
            for split in [Split::Train, Split::Validation, Split::Test] {
                if own.state.recorder(split).as_ref().map(Recorder::parts) != record {
                    *own.state.recorder(split) = record.map(Recorder::of);
                }
            }
            let of_shards = std::mem::take(&mut own.state.of_shards);
            let recorded = of_shards.iter().all(|of| Some(of.parts()) == record);
            if shards.are_many() && of_shards.len() == shards.count && recorded {
                own.of_shards = of_shards[shards.own()].to_vec();
            } else if was != shards.count {
                // The open window was recorded in other shards.
                own.state.train = record.map(Recorder::of);
            }
            own.state.progress.record_windows(record.is_some());
        }
        Ok(own)
    }

    fn new(
        run: Run,
        params: &Params,
        optimizer: Optimizer,
        config: SessionConfig,
        (path, mut files): (PathBuf, Option<Files>),
    ) -> Self {
        if let Some(files) = &mut files {
            files.checkpoints.origin = Some((&run).into());
        }
        let mut order = rng(run.seed);
        order.next_u64(); // `Params::of_run` draws from this
        let recorder = || config.record.map(Recorder::of);
        let mut progress = Progress::default();
        progress.record_windows(config.record.is_some());
        let of_shards = match config.shards.are_many() {
            true => config.shards.own().filter_map(|_| recorder()).collect(),
            false => Vec::new(),
        };
        let state = State {
            order,
            progress,
            train: recorder(),
            validation: recorder(),
            test: recorder(),
            best: None,
            files: Lengths::default(),
            run: run.clone(),
            optimizer: optimizer.config().options(),
            own: Value::Null,
            upkeep: Value::Null,
            shards: config.shards.count,
            of_shards: Vec::new(),
        };
        Self {
            optimizer: optimizer.buffers(params.buffers()),
            own: Value::Null,
            resumed_from: None,
            passed_over: Vec::new(),
            params: params.clone(),
            run,
            config,
            path,
            files,
            sinks: Vec::new(),
            upkeep: None,
            watch: Watch::default(),
            saved: Instant::now(),
            state,
            of_shards,
            done: None,
            rank: None,
            failed: false,
            was_finished: false,
            current: Current::default(),
        }
    }
}

/// Checks, before anything is written, whether a model with these parameters can be trained in shards.
fn check(params: &Params, shards: &Shards) -> Result<()> {
    shards.check()?;
    let counts = |(name, _): &(String, Var)| name.ends_with("duty_cycle");
    if shards.are_many() && params.buffers().iter().any(counts) {
        return Err(Error::Config(format!(
            "expected one shard for k-winners, which count over whole batches, found {}",
            shards.count
        )));
    }
    Ok(())
}

/// A directory that was created, or the run in it.
struct Found {
    files: Files,
    run: Run,
    checkpoint: Option<Checkpoint<State>>,
    was_finished: bool,
}

/// What the first process tells the others about the directory.
#[derive(Serialize, Deserialize)]
struct Opened {
    asked: Asked,
    path: PathBuf,
    run: Run,
    was_finished: bool,
}

/// What all processes must agree about.
#[derive(Serialize, Deserialize)]
struct Asked {
    run: Run,
    optimizer: Value,
    session: String,
}

/// Creates a directory: see [`Session::create`].
fn create(path: &Path, run: &Run, config: &SessionConfig) -> Result<Found> {
    let dir = RunDir::create(path)?;
    let checkpoints = Checkpoints::open(dir.path().join("checkpoints"), config.keep)?;
    let board = if config.tensorboard { Some(TensorBoard::create(dir.path())?) } else { None };
    let files = Files { dir, board, checkpoints };
    Ok(Found { files, run: run.clone(), checkpoint: None, was_finished: false })
}

/// Creates a directory, or finds the run in it: see [`Session::open`].
fn find(path: &Path, run: &Run, optimizer: &Optimizer, config: &SessionConfig) -> Result<Found> {
    let is_new = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(cause) if cause.kind() == ErrorKind::NotFound => true,
        Err(cause) => return Err(ReportError::io(path)(cause).into()),
    };
    if is_new {
        let made = create(path, run, config)?;
        if made.files.dir.path().file_name() != path.file_name() && path.file_name().is_some() {
            return Err(ReportError::Locked { path: path.to_path_buf() }.into());
        }
        return Ok(made);
    }
    // A process that was killed early may have created only one of the two.
    if !["lock", "metrics.jsonl"].iter().any(|name| path.join(name).exists()) {
        let path = path.display();
        return Err(Error::Config(format!(
            "{path}: expected the directory of a run, or an empty one, found other files: choose another"
        )));
    }
    let lock = RunLock::take(path)?;
    let run = same_run(path, run.clone(), config.force)?;
    let mut checkpoints = Checkpoints::open(path.join("checkpoints"), config.keep)?;
    let found: Option<Checkpoint<State>> = checkpoints.newest()?;
    if let Some(found) = &found
        && run.config["forced"].is_null()
    {
        let changes = changes(&found.state.run, &run);
        if !changes.is_empty() {
            return Err(Error::OtherRun { path: found.path.clone(), changes });
        }
    }
    if let Some(found) = &found
        && !config.force
    {
        let changes = found.state.changes(optimizer, config);
        if !changes.is_empty() {
            return Err(Error::OtherRun { path: found.path.clone(), changes });
        }
    }
    if found.is_none() && !config.force && has_ended(path)? {
        return Err(Error::Config(format!(
            "{}: expected a checkpoint to resume from, found none, but the records of a run that has ended: choose \
             another directory, or accept with force that they are made anew",
            path.display()
        )));
    }
    let files = found.as_ref().map_or(Lengths::default(), |found| found.state.files);
    let dir = RunDir::resume(lock, &files)?;
    let done = found.as_ref().map(|found| found.at.epoch);
    let steps = found.as_ref().map_or(0, |found| found.optimizer.steps);
    let board = if config.tensorboard { Some(TensorBoard::resume(path, done, steps)?) } else { None };
    let was_finished = found.as_ref().is_some_and(|found| {
        let weights = std::fs::read(path.join("model.safetensors"));
        found.at.epoch >= run.epochs && weights.is_ok_and(|bytes| bytes == found.model())
    });
    Ok(Found { files: Files { dir, board, checkpoints }, run, checkpoint: found, was_finished })
}

impl State {
    /// The changes of the optimiser and of the recording, in words.
    fn changes(&self, optimizer: &Optimizer, config: &SessionConfig) -> Vec<String> {
        let parts = |parts: Option<Parts>| parts.map_or("nothing".to_string(), |parts| format!("{parts:?}"));
        let recorded = self.train.as_ref().map(Recorder::parts);
        let mut changes = Vec::new();
        compare("optimizer".to_string(), &self.optimizer, &optimizer.config().options(), &mut changes);
        if self.shards != config.shards.count {
            changes.push(format!("shards was {} and is {}", self.shards, config.shards.count));
        }
        if recorded != config.record {
            changes.push(format!("recorded was {} and is {}", parts(recorded), parts(config.record)));
        }
        changes
    }
}

/// Whether the records of a run go beyond the untrained network, and its weights were written, as at its end.
fn has_ended(dir: &Path) -> Result<bool> {
    let ended = dir.join("model.safetensors").exists();
    Ok(ended && read_reports(dir)?.iter().any(|report| report.epoch > 0))
}
