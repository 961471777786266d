use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use rand::Rng as _;
use serde_json::Value;
use taper_hooks::{Parts, Recorder, rng};
use taper_nn::Params;
use taper_report::{
    Error as ReportError, Lengths, Run, RunDir, RunLock, Split, TensorBoard, Watch, read_reports,
};

use super::{Current, Session, SessionConfig, State};
use crate::same_run::{changes, compare, same_run};
use crate::{Checkpoint, Checkpoints, Error, Optimizer, Progress, Result};

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
        let path = path.as_ref();
        let is_new = match std::fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(cause) if cause.kind() == ErrorKind::NotFound => true,
            Err(cause) => return Err(ReportError::io(path)(cause).into()),
        };
        if is_new {
            let session = Self::create(path, run, params, optimizer, config)?;
            if session.path().file_name() != path.file_name() && path.file_name().is_some() {
                return Err(ReportError::Locked { path: path.to_path_buf() }.into());
            }
            return Ok(session);
        }
        // A process that was killed early may have created only one of the two.
        if !["lock", "metrics.jsonl"].iter().any(|name| path.join(name).exists()) {
            let path = path.display();
            return Err(Error::Config(format!(
                "{path}: expected the directory of a run, or an empty one, found other files: choose another"
            )));
        }
        Self::resume(path, run, params, optimizer, config)
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
        let dir = RunDir::create(path)?;
        let checkpoints = Checkpoints::open(dir.path().join("checkpoints"), config.keep)?;
        let board = if config.tensorboard { Some(TensorBoard::create(dir.path())?) } else { None };
        Ok(Self::new(run, params, optimizer, config, (dir, checkpoints, board)))
    }

    fn resume(
        path: &Path,
        run: Run,
        params: &Params,
        optimizer: Optimizer,
        config: SessionConfig,
    ) -> Result<Self> {
        let lock = RunLock::take(path)?;
        let run = same_run(path, run, config.force)?;
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
            let changes = found.state.changes(&optimizer, &config);
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
        let mut own = Self::new(run, params, optimizer, config, (dir, checkpoints, board));
        if let Some(found) = found {
            found.restore(params, &mut own.optimizer)?;
            own.was_finished = found.at.epoch >= own.run.epochs
                && std::fs::read(own.weights()).is_ok_and(|bytes| bytes == found.model());
            (own.done, own.resumed_from) = (done, Some(found.at));
            let Checkpoint { state, passed_over, .. } = found;
            (own.own, own.passed_over) = (state.own.clone(), passed_over);
            let new = std::mem::replace(&mut own.state, State { run: own.run.clone(), ..state });
            own.state.optimizer = new.optimizer;
            for split in [Split::Train, Split::Validation, Split::Test] {
                if own.state.recorder(split).as_ref().map(Recorder::parts) != config.record {
                    *own.state.recorder(split) = config.record.map(Recorder::of);
                }
            }
            own.state.progress.record_windows(config.record.is_some());
        }
        Ok(own)
    }

    fn new(
        run: Run,
        params: &Params,
        optimizer: Optimizer,
        config: SessionConfig,
        (dir, mut checkpoints, board): (RunDir, Checkpoints, Option<TensorBoard>),
    ) -> Self {
        checkpoints.origin = Some((&run).into());
        let mut order = rng(run.seed);
        order.next_u64(); // `Params::of_run` draws from this
        let recorder = || config.record.map(Recorder::of);
        let mut progress = Progress::default();
        progress.record_windows(config.record.is_some());
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
        };
        Self {
            optimizer: optimizer.buffers(params.buffers()),
            own: Value::Null,
            resumed_from: None,
            passed_over: Vec::new(),
            params: params.clone(),
            run,
            config,
            dir,
            board,
            sinks: Vec::new(),
            upkeep: None,
            watch: Watch::default(),
            checkpoints,
            saved: Instant::now(),
            state,
            done: None,
            rank: None,
            failed: false,
            was_finished: false,
            current: Current::default(),
        }
    }
}

impl State {
    /// The changes of the optimiser and of the recording, in words.
    fn changes(&self, optimizer: &Optimizer, config: &SessionConfig) -> Vec<String> {
        let parts = |parts: Option<Parts>| parts.map_or("nothing".to_string(), |parts| format!("{parts:?}"));
        let recorded = self.train.as_ref().map(Recorder::parts);
        let mut changes = Vec::new();
        compare("optimizer".to_string(), &self.optimizer, &optimizer.config().options(), &mut changes);
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
