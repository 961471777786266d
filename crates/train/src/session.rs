use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::Rng as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use taper_hooks::{Parts, Recorder, Rng, rng};
use taper_nn::Params;
use taper_report::{
    EpochReport, Error as ReportError, Lengths, Run, RunDir, RunLock, Sink, Split, SplitReport, StepLine,
    TensorBoard, Warning, Watch, read_lines, read_reports,
};

use crate::fit::stop_at_fault;
use crate::same_run::{changes, compare, same_run};
use crate::weights::save_weights_of;
use crate::{
    BoxError, Checkpoint, Checkpoints, Error, Keep, Optimizer, Point, Progress, Result, StepFn, evaluate,
    flush, train_batches,
};

/// When no option says how often: an epoch that ends this long after the last checkpoint is saved. Writing one takes
/// milliseconds, so this costs next to nothing however short the epochs are, and loses little however long.
const USUALLY: Duration = Duration::from_secs(60);

/// Sinks are told of windows of steps at the latest after this long, and at the end of each epoch: soon enough for somebody
/// who watches.
const TELL: Duration = Duration::from_secs(1);

/// How often a [`Session`] saves a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveEvery {
    /// Every so many epochs, and at the end; 0 for never. `None`: an epoch that ends a minute after the last checkpoint, and
    /// the last one.
    pub epochs: Option<u32>,
    /// Also every so many steps of the optimiser, at least 1.
    pub steps: Option<u64>,
}

/// Options of a [`Session`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SessionConfig {
    /// What recorders record; `None` for nothing. If something is, windows of steps are recorded too.
    pub record: Option<Parts>,
    /// How often checkpoints are saved.
    pub save: SaveEvery,
    /// Which of them stay.
    pub keep: Keep,
    /// Write event files for TensorBoard too.
    pub tensorboard: bool,
    /// Resume even if the run, the optimiser or what is recorded has changed; changes of the run are written to
    /// `config.forced`.
    pub force: bool,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            record: Some(Parts::FULL),
            save: SaveEvery::default(),
            keep: Keep::default(),
            tensorboard: true,
            force: false,
        }
    }
}

/// Manages the directory of a run for a training loop: records, checkpoints, recorders, generators and sinks. A run that is
/// interrupted or killed at any batch is resumed to the same bits.
///
/// The program keeps the loop. [`Session::open`] starts a run if the directory is missing or empty, else it resumes the run.
/// Epoch 0 is the untrained network: [`Session::train`] does nothing then.
///
/// ```
/// # use candle_core::Device;
/// # use taper_nn::{Mlp, MlpConfig, Params};
/// # use taper_report::{Run, Split};
/// # use taper_train::{CROSS_ENTROPY, Optimizer, OptimizerConfig, Rule, Session, SessionConfig, classify};
/// # let dir = tempfile::tempdir().expect("a directory");
/// # let dir = dir.path().join("run");
/// # let data = taper_data::digits()?;
/// let params = Params::of_run(7, &Device::Cpu);
/// let net = Mlp::new(&MlpConfig { inputs: 64, widths: vec![32], ..Default::default() }, params.builder())?;
/// let optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1))?;
/// let run = Run { name: "digits".into(), loss: CROSS_ENTROPY.into(), seed: 7, epochs: 3, ..Run::default() };
///
/// let (step, config) = (classify(&net), SessionConfig::default());
/// let mut session = Session::open(&dir, run, &params, optimizer, config)?;
/// while let Some(epoch) = session.next_epoch()? {
///     session.train(&step, |rng, done| data.train.shuffled(rng, 32).skip(done))?;
///     session.evaluate(&step, Split::Test, data.test.batches(360))?;
///     let report = session.end_epoch()?;
///     println!("epoch {epoch}: {:?}", report.headline().map(|test| test.score.loss));
/// }
/// session.finish()?;
/// # assert_eq!(taper_report::read_reports(&dir)?.len(), 4);
/// # assert!(dir.join("model.safetensors").exists());
/// # Ok::<(), taper_train::Error>(())
/// ```
pub struct Session<'a> {
    /// The optimiser, as it is now.
    pub optimizer: Optimizer,
    /// The program's own state, saved in each checkpoint: set it before [`Session::end_epoch`]. Null at first.
    pub own: Value,
    /// The checkpoint that the run was resumed from, if it was.
    pub resumed_from: Option<Point>,
    /// Newer checkpoints that were not whole, and what is wrong with them.
    pub passed_over: Vec<Error>,
    params: Params,
    run: Run,
    config: SessionConfig,
    dir: RunDir,
    board: Option<TensorBoard>,
    sinks: Vec<(Box<dyn Sink + 'a>, Past)>,
    watch: Watch,
    checkpoints: Checkpoints,
    saved: Instant,
    state: State,
    /// The last epoch that was reported; `None` before the untrained network was.
    done: Option<u32>,
    /// What checkpoints of that epoch are compared by.
    rank: Option<f64>,
    /// Whether a pass or a record of steps has failed: recorders may hold half a batch, and files half a line, so nothing
    /// is saved any more.
    failed: bool,
    /// Whether the run had ended when it was opened.
    was_finished: bool,
    current: Current,
}

/// What a sink is told of the epochs before a run was resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    Told,
    Untold,
}

/// The epoch that is being made.
#[derive(Default)]
struct Current {
    /// `None` before the first, and between two.
    epoch: Option<u32>,
    /// The generator behind this epoch's order.
    order: Option<Rng>,
    splits: Vec<SplitReport>,
    /// Recorders before this epoch's evaluations: one that is cut short is made again.
    before: Vec<(Split, Option<Recorder>)>,
    /// In epoch 0, the recorder of passes of one's own.
    untrained: Option<Recorder>,
    /// Whether sinks know of the run.
    begun: bool,
}

/// What a run changes while it trains, beside weights and optimiser.
#[derive(Serialize, Deserialize)]
struct State {
    /// The generator that shuffles, as it was when the epoch began: whoever resumes within one draws its order again.
    order: Rng,
    /// What the epoch that is running has come to.
    progress: Progress,
    /// The windows, and what was dead in those before.
    train: Option<Recorder>,
    validation: Option<Recorder>,
    test: Option<Recorder>,
    /// The best score so far by [`Metric::rank`](taper_report::Metric::rank), and the epoch it is from.
    best: Option<(u32, f64)>,
    /// How long the run's files were.
    files: Lengths,
    run: Run,
    /// The optimiser's options.
    optimizer: Value,
    own: Value,
}

impl State {
    fn recorder(&mut self, split: Split) -> &mut Option<Recorder> {
        match split {
            Split::Train => &mut self.train,
            Split::Validation => &mut self.validation,
            Split::Test => &mut self.test,
        }
    }
}

impl<'a> Session<'a> {
    /// Starts a run in a missing or empty directory, or resumes the run in it from its newest checkpoint.
    ///
    /// Pass new parameters and a new optimiser; resuming overwrites both. Create the parameters with [`Params::of_run`],
    /// since shuffling and dropout draw from the run's seed as well.
    ///
    /// # Errors
    /// [`Error::OtherRun`] if the run, the optimiser or the recorded parts differ, unless `force`; [`Error::Config`] if the
    /// directory holds other files or a finished run without a checkpoint; and as [`RunDir`], [`Checkpoints`] and
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
        order.next_u64(); // what `Params::of_run` is drawn from
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

    /// Adds a sink, which receives the run and every epoch from now on.
    pub fn sink(&mut self, sink: impl Sink + 'a) {
        self.sinks.push((Box::new(sink), Past::Untold));
    }

    /// Adds a sink that first receives the epochs before the run was resumed.
    pub fn sink_with_past(&mut self, sink: impl Sink + 'a) {
        self.sinks.push((Box::new(sink), Past::Told));
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What the run is; that of the directory, if it was resumed.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Whether all epochs were done, and the weights written, when it was opened.
    pub fn was_finished(&self) -> bool {
        self.was_finished
    }

    /// The last epoch that is done; 0 is the untrained network, `None` before that.
    pub fn done(&self) -> Option<u32> {
        self.done
    }

    /// Training progress of the current epoch.
    pub fn progress(&self) -> &Progress {
        &self.state.progress
    }

    /// The best epoch so far, and its [rank](taper_report::Metric::rank): by the first metric, or the loss, on the
    /// validation split, else on the test split. The untrained network is never the best.
    pub fn best(&self) -> Option<(u32, f64)> {
        self.state.best
    }

    /// The recorder of a split, for passes of one's own, whose windows the program finishes; `None` where nothing is
    /// recorded. In epoch 0 it is one of its own, as nothing can have died by training before epoch 2.
    pub fn recorder(&mut self, split: Split) -> Option<&mut Recorder> {
        if self.current.epoch == Some(0) {
            let new = || self.config.record.map(Recorder::of);
            return self.current.untrained.take().or_else(new).map(|own| self.current.untrained.insert(own));
        }
        let own = self.state.recorder(split);
        self.current.before.push((split, own.clone()));
        own.as_mut()
    }

    /// Starts the next epoch and returns its number, from 0, the untrained network; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Config`] if the epoch before has not ended; those of the sinks, which receive the run before the first epoch.
    pub fn next_epoch(&mut self) -> Result<Option<u32>> {
        if let Some(epoch) = self.current.epoch {
            return Err(Error::Config(format!(
                "epoch {epoch} has not ended: call end_epoch or interrupt first"
            )));
        }
        let next = self.done.map_or(0, |done| done + 1);
        if !self.current.begun {
            self.begin()?;
            self.current.begun = true;
        }
        self.current.epoch = (next <= self.run.epochs).then_some(next);
        Ok(self.current.epoch)
    }

    fn begin(&mut self) -> Result<()> {
        let past = if self.done.is_some() { read_reports(self.dir.path())? } else { Vec::new() };
        // What was warned of before is in the file, and is not said again.
        if self.resumed_from.is_some() {
            let steps: Vec<StepLine> = read_lines(self.dir.path().join("steps.jsonl"))?;
            steps.iter().for_each(|line| drop(self.watch.step(&line.of)));
            past.iter().for_each(|report| drop(self.watch.epoch(report)));
        }
        self.dir.begin(&self.run)?;
        if let Some(board) = &mut self.board {
            board.begin(&self.run)?;
        }
        for (sink, tell) in &mut self.sinks {
            sink.begin(&self.run)?;
            if *tell == Past::Told {
                past.iter().try_for_each(|report| sink.epoch(report))?;
            }
        }
        Ok(())
    }

    /// Trains on an epoch's batches, and saves checkpoints within it if that is wanted. `batches` is given the generator to
    /// shuffle with and the number of batches to leave out, which were trained on before the run was interrupted. In epoch 0
    /// nothing happens.
    ///
    /// # Errors
    /// [`Error::Config`] outside an epoch and the second time within one; and as [`train_batches`] and [`Checkpoints::save`].
    pub fn train<B, E, I>(
        &mut self,
        step: &impl StepFn<B>,
        batches: impl FnOnce(&mut Rng, usize) -> I,
    ) -> Result<()>
    where
        B: Send,
        E: Into<BoxError> + Send,
        I: Iterator<Item = Result<B, E>> + Send,
    {
        let epoch = self.current.epoch.ok_or_else(no_epoch)?;
        if epoch == 0 {
            return Ok(());
        }
        if self.current.order.is_some() {
            return Err(Error::Config(format!(
                "epoch {epoch} was trained already: call train once in each epoch"
            )));
        }
        let mut order = self.state.order.clone();
        let mut batches = batches(&mut order, self.state.progress.batches() as usize).peekable();
        self.current.order = Some(order);
        loop {
            let mut left = self.config.save.steps.map_or(u64::MAX, |every| {
                let (every, batches) = (every.max(1), self.optimizer.config().accumulate);
                let steps = every - self.optimizer.steps() % every;
                steps.saturating_mul(batches).saturating_sub(self.optimizer.waiting()).max(1)
            });
            let begun = Instant::now();
            let piece = std::iter::from_fn(|| {
                let batch = if left > 0 && begun.elapsed() < TELL { batches.next() } else { None };
                left -= u64::from(batch.is_some());
                batch
            });
            let State { train, progress, .. } = &mut self.state;
            let trained = train_batches(step, &mut self.optimizer, piece, train, self.run.seed, progress);
            self.failed |= trained.is_err();
            // Also of what came before an error.
            let told = self.tell_windows();
            trained.map_err(|error| error.in_epoch(epoch))?;
            told?;
            if batches.peek().is_none() {
                return Ok(());
            }
            if left == 0 {
                self.save(epoch - 1, None)?;
            }
        }
    }

    /// Measures the validation or test split; its report becomes part of the epoch's.
    ///
    /// # Errors
    /// [`Error::Config`] for the training split, and those of [`evaluate`](crate::evaluate()), after which the split may be
    /// measured again.
    pub fn evaluate<B, E: Into<BoxError>>(
        &mut self,
        step: &impl StepFn<B>,
        split: Split,
        batches: impl Iterator<Item = Result<B, E>> + Send,
    ) -> Result<&SplitReport> {
        if split == Split::Train {
            return Err(Error::Config(
                "expected the validation or test split to evaluate, found train".into(),
            ));
        }
        let epoch = self.current.epoch.ok_or_else(no_epoch)?;
        if self.current.splits.iter().any(|of| of.split == split) {
            let split = split.name();
            return Err(Error::Config(format!(
                "{split} was measured in epoch {epoch} already: call evaluate once"
            )));
        }
        self.flush()?;
        // The untrained network has a recorder of its own: nothing dies by training before epoch 2.
        let mut untrained = self.config.record.map(Recorder::of);
        let recorder = match epoch {
            0 => &mut untrained,
            _ => self.state.recorder(split),
        };
        let before = recorder.clone();
        match evaluate(step, split, batches, &mut *recorder) {
            Ok(report) => {
                let layers = recorder.as_mut().map(Recorder::finish).unwrap_or_default();
                self.current.before.push((split, before));
                self.add(SplitReport { layers, ..report });
                Ok(&self.current.splits[self.current.splits.len() - 1])
            }
            Err(error) => {
                *recorder = before;
                Err(error)
            }
        }
    }

    /// Makes a step of what the epoch's last batches accumulated, once it is trained.
    fn flush(&mut self) -> Result<()> {
        if self.current.order.is_some() {
            let State { train, progress, .. } = &mut self.state;
            flush(&mut self.optimizer, train, progress)?;
        }
        self.tell_windows()
    }

    /// Adds the report of a pass of one's own to the epoch's.
    pub fn add(&mut self, report: SplitReport) {
        self.current.splits.push(report);
    }

    /// Ends an epoch: reports it to all sinks, and saves a checkpoint if one is due.
    ///
    /// # Errors
    /// [`Error::NotFinite`], after the epoch was reported, if an evaluation was not finite and the optimiser does not go on
    /// then; those of the sinks, after the checkpoint was saved; [`Error::NoBatches`] where nothing was trained.
    pub fn end_epoch(&mut self) -> Result<EpochReport> {
        let epoch = self.current.epoch.ok_or_else(no_epoch)?;
        let trains = epoch > 0 && self.current.splits.iter().all(|of| of.split != Split::Train);
        if trains && self.state.progress.batches() == 0 {
            return Err(Error::NoBatches(Split::Train));
        }
        self.flush()?;
        let Current { order, mut splits, .. } =
            std::mem::replace(&mut self.current, Current { begun: true, ..Current::default() });
        if trains {
            let layers = self.state.train.as_mut().map(Recorder::finish).unwrap_or_default();
            splits.insert(0, SplitReport { layers, ..self.state.progress.report() });
        }
        let report = EpochReport { epoch, splits };
        self.dir.epoch(&report)?;
        let told = self.tell(&report);
        if let Err(error) = stop_at_fault(&report, &self.optimizer) {
            told?;
            return Err(error);
        }
        self.done = Some(epoch);
        self.state.order = order.unwrap_or(self.state.order.clone());
        self.state.progress = std::mem::take(&mut self.state.progress).next_epoch();
        self.rank = if epoch > 0 { self.rank(&report) } else { None };
        let steps = self.optimizer.steps();
        let due = match self.config.save.epochs {
            Some(every) => every > 0 && epoch.is_multiple_of(every),
            None => self.saved.elapsed() >= USUALLY,
        };
        let due = due || self.config.save.steps.is_some_and(|every| steps.is_multiple_of(every.max(1)));
        if epoch > 0 && (due || told.is_err() || epoch == self.run.epochs) {
            self.save(epoch, self.rank)?;
        }
        told.map(|()| report)
    }

    /// Tells all sinks but the directory, also behind one that fails; returns the first error.
    fn tell(&mut self, report: &EpochReport) -> Result<()> {
        let mut first = self.board.as_mut().map_or(Ok(()), |board| board.epoch(report));
        for (sink, _) in &mut self.sinks {
            first = first.and(sink.epoch(report));
        }
        let warnings = self.watch.epoch(report);
        let warned = self.warn(&warnings);
        first?;
        warned
    }

    /// Writes down what the watch has found, and tells all sinks.
    fn warn(&mut self, warnings: &[Warning]) -> Result<()> {
        let mut first = Ok(());
        for warning in warnings {
            self.dir.warning(warning)?;
            for (sink, _) in &mut self.sinks {
                first = first.and(sink.warning(warning));
            }
        }
        Ok(first?)
    }

    /// Writes the windows of steps that have ended, and tells all sinks; returns the first error.
    fn tell_windows(&mut self) -> Result<()> {
        let (mut first, mut warned) = (Ok(()), Ok(()));
        for report in self.state.progress.take_windows() {
            // A line may be half written, and the windows behind it are lost.
            self.dir.step(&report).inspect_err(|_| self.failed = true)?;
            first = first.and(self.board.as_mut().map_or(Ok(()), |board| board.step(&report)));
            for (sink, _) in &mut self.sinks {
                first = first.and(sink.step(&report));
            }
            let warnings = self.watch.step(&report);
            warned = warned.and(self.warn(&warnings));
        }
        first?;
        warned
    }

    /// Keeps the best score in mind; returns what checkpoints are compared by.
    fn rank(&mut self, report: &EpochReport) -> Option<f64> {
        let of = report.split(Split::Validation).or(report.split(Split::Test))?;
        let rank = Some(of.score.primary().rank()).filter(|rank| rank.is_finite())?;
        if self.state.best.is_none_or(|(_, best)| rank > best) {
            self.state.best = Some((report.epoch, rank));
        }
        Some(rank)
    }

    /// Ends an epoch that was cut short, in training or in an evaluation: saves a checkpoint within the epoch, unless
    /// checkpoints are off or a pass has failed, and reports partial training progress. Resuming completes the epoch.
    ///
    /// # Errors
    /// Those of the sinks and of [`Checkpoints::save`].
    pub fn interrupt(&mut self) -> Result<()> {
        let current = std::mem::replace(&mut self.current, Current { begun: true, ..Current::default() });
        let Some(epoch) = current.epoch.filter(|epoch| *epoch > 0) else { return Ok(()) };
        let partial = self.state.progress.batches() > 0;
        for (split, before) in current.before.into_iter().rev() {
            // The training window of an epoch that is resumed within goes on.
            if split != Split::Train || !partial {
                *self.state.recorder(split) = before;
            }
        }
        self.save(epoch - 1, None)?;
        if !partial {
            return Ok(());
        }
        // No window of it is whole, so only the score of what was trained on is worth showing.
        let report = EpochReport { epoch, splits: vec![self.state.progress.report()] };
        self.dir.epoch(&report)?;
        self.tell(&report)
    }

    /// Ends the run, as planned or early: tells the sinks, writes the weights to `model.safetensors`, and saves a checkpoint
    /// of the last epoch. All of it is tried; the first error is returned.
    ///
    /// # Errors
    /// Those of the sinks, [`save_weights`](crate::save_weights) and [`Checkpoints::save`].
    pub fn finish(&mut self) -> Result<()> {
        let mut first = self.board.as_mut().map_or(Ok(()), Sink::finish);
        for (sink, _) in &mut self.sinks {
            first = first.and(sink.finish());
        }
        let written = save_weights_of(&self.state.run, &self.params, &self.weights());
        let saved = match (self.current.epoch.filter(|epoch| *epoch > 0), self.done) {
            // An epoch that was neither ended nor interrupted: its training is kept.
            (Some(epoch), _) if self.state.progress.batches() > 0 && self.current.before.is_empty() => {
                self.save(epoch - 1, None)
            }
            (_, Some(done)) if done > 0 && self.state.progress.batches() == 0 => self.save(done, self.rank),
            _ => Ok(()),
        };
        first.map_err(Error::from).and(written).and(saved)
    }

    /// Saves where the run is: so many whole epochs and what the next has come to. What was reported before is on the
    /// disk then too.
    fn save(&mut self, epoch: u32, rank: Option<f64>) -> Result<()> {
        if self.failed || self.config.save.epochs == Some(0) && self.config.save.steps.is_none() {
            return Ok(());
        }
        self.state.files = Lengths::settle(self.dir.path())?;
        self.state.own = self.own.clone();
        let at = Point { epoch, batch: self.state.progress.batches() };
        self.checkpoints.save(at, rank, &self.params, &self.optimizer, &self.state)?;
        self.saved = Instant::now();
        Ok(())
    }

    fn weights(&self) -> PathBuf {
        self.dir.path().join("model.safetensors")
    }
}

impl State {
    /// What of the optimiser and of the recording has changed since, in words.
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

fn no_epoch() -> Error {
    Error::Config("no epoch has begun: call next_epoch first".into())
}

/// Whether the records of a run go beyond the untrained network, and its weights were written, as at its end.
fn has_ended(dir: &Path) -> Result<bool> {
    let ended = dir.join("model.safetensors").exists();
    Ok(ended && read_reports(dir)?.iter().any(|report| report.epoch > 0))
}
