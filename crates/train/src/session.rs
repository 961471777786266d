use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use taper_hooks::{Parts, Recorder, Rng};
use taper_nn::Params;
use taper_report::{Lengths, Run, RunDir, Sink, Split, SplitReport, TensorBoard, Watch};

use crate::{Checkpoints, Error, Keep, Optimizer, Point, Progress, Result, Shards, Upkeep};

mod epochs;
mod open;

/// How often a [`Session`] saves a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveEvery {
    /// Every N epochs, and at the end; 0 for never. `None`: at the end of an epoch if the last checkpoint is older than
    /// a minute, and at the end.
    pub epochs: Option<u32>,
    /// Also every N steps of the optimiser, at least 1.
    pub steps: Option<u64>,
}

/// Options of a [`Session`].
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// What recorders record; `None` for nothing. Otherwise windows of steps are recorded too.
    pub record: Option<Parts>,
    /// How often checkpoints are saved.
    pub save: SaveEvery,
    /// Which checkpoints are kept.
    pub keep: Keep,
    /// Write event files for TensorBoard too.
    pub tensorboard: bool,
    /// Resume even if the run, the optimiser or the recorded parts have changed; changes of the run are written to
    /// `config.forced`.
    pub force: bool,
    /// How batches are split, and the processes that share them.
    pub shards: Shards,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            record: Some(Parts::FULL),
            save: SaveEvery::default(),
            keep: Keep::default(),
            tensorboard: true,
            force: false,
            shards: Shards::default(),
        }
    }
}

/// Manages the directory of a run for a training loop: records, checkpoints, recorders, generators and sinks. A run
/// that is interrupted or killed at any batch resumes with the same bits.
///
/// If several processes train together ([`Shards`]), each runs the same program and calls the session alike. The first alone
/// reads and writes the directory. Sinks are called in each, with the epochs before a run was resumed in the first only. A run
/// resumes with another number of processes.
///
/// The loop stays in the program. [`Session::open`] starts a run if the directory is missing or empty, else it resumes
/// the run. Epoch 0 is the untrained network: [`Session::train`] does nothing then.
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
    /// The optimiser.
    pub optimizer: Optimizer,
    /// The program's own state, saved in each checkpoint: set it before [`Session::end_epoch`]. Null at first.
    pub own: Value,
    /// The checkpoint from which the run was resumed, if it was.
    pub resumed_from: Option<Point>,
    /// Newer checkpoints that were incomplete, with the reasons.
    pub passed_over: Vec<Error>,
    params: Params,
    run: Run,
    config: SessionConfig,
    path: PathBuf,
    /// `None` in a process that is not the first.
    files: Option<Files>,
    sinks: Vec<(Box<dyn Sink + 'a>, Past)>,
    upkeep: Option<Box<dyn Upkeep + 'a>>,
    watch: Watch,
    saved: Instant,
    state: State,
    /// The recorders of the training batches of this process's shards; empty with one shard.
    of_shards: Vec<Recorder>,
    /// The last reported epoch; `None` before epoch 0 is reported.
    done: Option<u32>,
    /// The rank of that epoch's checkpoints.
    rank: Option<f64>,
    /// Whether a pass or writing step records has failed. Recorders may then have half a batch, and files half a line,
    /// so nothing is saved any more.
    failed: bool,
    /// Whether the run was complete when it was opened.
    was_finished: bool,
    current: Current,
}

/// What a run writes.
struct Files {
    dir: RunDir,
    board: Option<TensorBoard>,
    checkpoints: Checkpoints,
}

/// The epochs before a run was resumed, for new sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    Told,
    Untold,
}

/// The current epoch.
#[derive(Default)]
struct Current {
    /// `None` before the first epoch, and between two.
    epoch: Option<u32>,
    /// The generator after this epoch's shuffle.
    order: Option<Rng>,
    splits: Vec<SplitReport>,
    /// The recorders before this epoch's evaluations, which are repeated if they are interrupted.
    before: Vec<(Split, Option<Recorder>)>,
    /// In epoch 0, the recorder for the program's own passes.
    untrained: Option<Recorder>,
    /// Whether sinks have received the run.
    begun: bool,
}

/// The state that a run changes while it trains, in addition to weights and optimiser.
#[derive(Serialize, Deserialize)]
struct State {
    /// The generator that shuffles, as at the start of the epoch: resuming within it shuffles again.
    order: Rng,
    /// The progress of the current epoch.
    progress: Progress,
    /// The recorders, with the dead units of the previous windows.
    train: Option<Recorder>,
    validation: Option<Recorder>,
    test: Option<Recorder>,
    /// The best score so far by [`Metric::rank`](taper_report::Metric::rank), and its epoch.
    best: Option<(u32, f64)>,
    /// The lengths of the run's files.
    files: Lengths,
    run: Run,
    /// The optimiser's options.
    optimizer: Value,
    own: Value,
    /// The state of the [`Upkeep`]; null if there is none.
    #[serde(default)]
    upkeep: Value,
    shards: usize,
    /// The recorders of the training batches of all shards; empty with one shard.
    of_shards: Vec<Recorder>,
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
    /// Adds a sink, which receives the run and every epoch from now.
    pub fn sink(&mut self, sink: impl Sink + 'a) {
        self.sinks.push((Box::new(sink), Past::Untold));
    }

    /// Adds a sink that first receives the epochs before the run was resumed.
    pub fn sink_with_past(&mut self, sink: impl Sink + 'a) {
        self.sinks.push((Box::new(sink), Past::Told));
    }

    /// Sets the [`Upkeep`], which observes all training batches and changes weights between steps. Its state is part of each
    /// checkpoint, and is restored in a resumed run. Call this before the first epoch.
    ///
    /// # Errors
    /// When the checkpoint has no state of an upkeep, or that of another, and when batches are split into shards, of which
    /// it would see a part only.
    pub fn upkeep(&mut self, mut upkeep: impl Upkeep + 'a) -> Result<()> {
        if self.config.shards.are_many() {
            return Err(Error::Config(format!(
                "expected one shard for a run with an upkeep, which observes whole batches, found {}",
                self.config.shards.count
            )));
        }
        if self.resumed_from.is_some() {
            let has = !upkeep.state()?.is_null();
            if has && self.state.upkeep.is_null() {
                return Err(Error::Config(format!(
                    "{}: expected the state of an upkeep in the checkpoint, found none: the run began without one",
                    self.path().display()
                )));
            }
            upkeep.restore(&self.state.upkeep)?;
        }
        self.upkeep = Some(Box::new(upkeep));
        Ok(())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run; that of the directory, if it was resumed.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Whether the run was complete, with its weights written, when it was opened.
    pub fn was_finished(&self) -> bool {
        self.was_finished
    }

    /// The last complete epoch; 0 is the untrained network, `None` before that.
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

    /// The recorder of a split, for the program's own passes, whose windows it finishes; `None` if nothing is recorded.
    /// In epoch 0 it is a separate one, because `died` must not compare with the untrained network.
    pub fn recorder(&mut self, split: Split) -> Option<&mut Recorder> {
        if self.current.epoch == Some(0) {
            let new = || self.config.record.map(Recorder::of);
            return self.current.untrained.take().or_else(new).map(|own| self.current.untrained.insert(own));
        }
        let own = self.state.recorder(split);
        self.current.before.push((split, own.clone()));
        own.as_mut()
    }

    /// Saves the position of the run: the number of complete epochs and the progress of the next. Earlier reports are
    /// then on disk too.
    fn save(&mut self, epoch: u32, rank: Option<f64>) -> Result<()> {
        if self.failed || self.config.save.epochs == Some(0) && self.config.save.steps.is_none() {
            return Ok(());
        }
        self.state.of_shards = self.config.shards.gather(self.of_shards.clone())?;
        self.state.own = self.own.clone();
        self.state.upkeep = self.upkeep.as_ref().map_or(Ok(Value::Null), |upkeep| upkeep.state())?;
        self.saved = Instant::now();
        let Some(Files { dir, checkpoints, .. }) = &mut self.files else { return Ok(()) };
        self.state.files = Lengths::settle(dir.path())?;
        let at = Point { epoch, batch: self.state.progress.batches() };
        checkpoints.save(at, rank, &self.params, &self.optimizer, &self.state).map(drop)
    }

    fn weights(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }
}
