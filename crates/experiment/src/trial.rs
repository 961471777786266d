use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::Device;
use serde_json::json;
use taper_data::{Batches, Samples, Shard};
use taper_hooks::{Rng, observer_fn};
use taper_nn::Params;
use taper_report::{Consumer, EpochReport, Run, Sink, Split, Summary, TracingSink, read_reports};
use taper_train::{
    BoxError, LoadConfig, Optimizer, OptimizerConfig, Session, SessionConfig, StepFn, Upkeep, evaluate,
    same_run,
};

use crate::cells::About;
use crate::program::Shared;
use crate::stage::{Counted, Ended, Paged, Stage, Told, live_page};
use crate::{Bars, Data, Error, Result};

/// One run of a program: its parameters, its data, and the calls of its loop.
///
/// The training function builds its model with [`Trial::params`], calls [`Trial::start`] and then [`Trial::fit`] or its
/// own loop:
///
/// ```
/// # use taper_experiment::{Result, Trial};
/// # use taper_data::{Samples, Shard};
/// # use taper_train::StepFn;
/// # fn train<S: Samples<Batch: Shard + Send> + Sync>(trial: &mut Trial<'_, S>, step: impl StepFn<S::Batch>) -> Result<()> {
/// while let Some(epoch) = trial.next_epoch()? { // from 0, the untrained network
///     trial.train(&step)?;
///     trial.evaluate(&step)?;
///     if trial.end_epoch()?.is_some_and(|report| report.epoch > 3) {
///         break; // early stopping, or whatever the loop is for
///     }
/// }
/// # Ok(()) }
/// ```
///
/// The function is called twice for each run. The first call is a rehearsal: epoch 0 on one sample, before anything is
/// written. So an error in the last run of a grid appears before the first is trained.
pub struct Trial<'a, S> {
    /// For the model's parameters, drawn from the run's seed.
    pub params: Params,
    /// The data for training and evaluation; shared by all runs.
    pub data: &'a Data<S>,
    /// The device for tensors.
    pub device: &'a Device,
    /// The optimiser from the options. Change it before [`Trial::start`] for groups or your own schedule.
    pub optimizer: OptimizerConfig,
    /// What changes the network between steps, if something does. Set it before [`Trial::start`].
    pub upkeep: Option<Box<dyn Upkeep>>,
    /// The layers that multiply the values of the sites, of which the page predicts what zeros save: those of
    /// [`Architecture::consumers`](taper_nn::Architecture::consumers). Set it before [`Trial::start`].
    pub consumers: Vec<Consumer>,
    about: &'a About,
    shared: &'a Shared<'a>,
    stage: Stage<'a>,
    pub(crate) ended: Ended,
}

impl<'a, S: Samples> Trial<'a, S> {
    pub(crate) fn new(
        data: &'a Data<S>,
        about: &'a About,
        shared: &'a Shared<'a>,
        stage: Stage<'a>,
    ) -> Result<Self> {
        let options = &about.options.training;
        Ok(Self {
            params: Params::of_run(options.seed, shared.device),
            data,
            device: shared.device,
            optimizer: about.options.optimizer(data.train.count().div_ceil(options.batch_size) as u64)?,
            upkeep: None,
            consumers: Vec::new(),
            about,
            shared,
            stage,
            ended: Ended::default(),
        })
    }

    /// Starts or resumes the run, after the model has made its parameters. `model` is the model with its sizes as text,
    /// `mlp 784-512-256-10`; `loss` is the loss with its unit.
    ///
    /// # Errors
    /// If the directory has another run, the weights of `--load` do not fit, files cannot be written, or an option of
    /// the program has a name that `config.json` needs: `data`, `command`, `threads`, `taper`, `candle`, `os` or
    /// `arch`.
    pub fn start(&mut self, model: impl Into<String>, loss: impl Into<String>) -> Result<()> {
        let shards = self.about.options.training.shards;
        if self.upkeep.is_some() && shards > 1 {
            let text = format!(
                "--shards {shards}: expected 1 for what changes the network between steps, such as --revive: it observes \
                 whole batches"
            );
            self.ended.misused = Some(text.clone());
            return Err(Error::Usage(text));
        }
        let run = self.run(model.into(), loss.into())?;
        match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Rehearsal { resumed: Some(path), .. } => {
                let run = same_run(&path, run, self.shared.force).map_err(with_option)?;
                self.stage = Stage::Rehearsal { resumed: Some(path), run: Some(run), begun: false };
            }
            Stage::Rehearsal { .. } => {
                if !self.shared.resumes {
                    self.load_start()?;
                }
                self.stage = Stage::Rehearsal { resumed: None, run: Some(run), begun: false };
            }
            Stage::Waiting { path, console, bars } => {
                let session = self.session_at(&path, run)?;
                self.stage = self.begin(session, console, bars)?;
            }
            Stage::Started { .. } | Stage::Gone => {
                return Err(Error::Other("expected one call of Trial::start, found a second".into()));
            }
        }
        Ok(())
    }

    /// The configuration of the run.
    fn run(&self, model: String, loss: String) -> Result<Run> {
        let About { name, labels, options, json } = self.about;
        let mut config = json.clone();
        config["learning_rate"] = self.optimizer.learning_rate.into();
        config["schedule"] = options.training.schedule_text().into();
        let more = json!({
            "data": self.data.identity,
            "command": self.shared.command,
            "threads": rayon::current_num_threads(),
            "taper": env!("CARGO_PKG_VERSION"),
            "candle": option_env!("CANDLE_VERSION"),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            if config.get(name).is_some() {
                let text = format!(
                    "expected no option of the name {name}, which config.json needs: rename the field"
                );
                return Err(Error::Other(text.into()));
            }
            config[name] = value.clone();
        }
        Ok(Run {
            name: name.clone(),
            dataset: self.data.name.clone(),
            model,
            labels: labels.clone(),
            loss,
            seed: options.training.seed,
            parameters: self.params.count() as u64,
            epochs: options.training.epochs,
            consumers: self.consumers.clone(),
            config,
        })
    }

    /// Loads the initial weights of a run, if it has a file of them.
    fn load_start(&self) -> Result<()> {
        let options = &self.about.options.training;
        let config = LoadConfig { convert: options.convert, ..LoadConfig::default() };
        Ok(options.load.as_ref().map_or(Ok(()), |path| config.load(&self.params, path).map(drop))?)
    }

    /// Creates the directory of the run, or opens it to resume the run.
    fn session_at(&self, path: &Path, run: Run) -> Result<Session<'a>> {
        let options = &self.about.options;
        let optimizer = Optimizer::new(self.params.vars(), self.optimizer.clone())?;
        let config = SessionConfig {
            record: options.training.track.parts(),
            save: options.save_every(),
            keep: options.running.keep,
            force: self.shared.force,
            shards: self.shared.shards(options.training.shards),
            ..SessionConfig::default()
        };
        match self.shared.resumes {
            true => Session::open(path, run, &self.params, optimizer, config).map_err(with_option),
            false => {
                Session::create(path, run, &self.params, optimizer, config).map_err(Error::option("--out"))
            }
        }
    }

    fn begin(
        &mut self,
        mut session: Session<'a>,
        console: Box<dyn Sink + 'a>,
        bars: &'a Bars,
    ) -> Result<Stage<'a>> {
        match session.resumed_from {
            Some(point) => {
                for error in &session.passed_over {
                    self.shared.screen.warn(&format!("{error}: resuming from {point} instead"));
                }
            }
            None => self.load_start()?,
        }
        if let Some(upkeep) = self.upkeep.take() {
            session.upkeep(upkeep)?;
        }
        let summary = Arc::new(Mutex::new(Summary::new(session.run().clone())));
        self.ended.summary = Some(summary.clone());
        self.ended.path = Some(session.path().to_path_buf());
        self.ended.was_finished = session.was_finished();
        let mut told = Told(summary);
        if session.was_finished() {
            if self.shared.writes() {
                read_reports(session.path())?.iter().try_for_each(|report| told.epoch(report))?;
            }
        } else {
            session.sink_with_past(told);
            if self.shared.writes() {
                session.sink(TracingSink);
                let page = self.shared.page.get_or_init(|| live_page(session.path()));
                session.sink(Paged(page));
            }
            session.sink(console);
            if let Some(live) = self.shared.screen.live() {
                session.sink_with_past(live);
            }
            // After the other sinks, so an alert fires when the records are on disk.
            for alert in &self.about.options.running.alert {
                session.sink(alert.clone());
            }
            if let Some(done) = session.done() {
                let measured = self.data.measured_samples();
                let per_epoch = self.data.train.count() as u64 + measured;
                bars.skip(measured + per_epoch * u64::from(done) + session.progress().samples());
            }
        }
        Ok(Stage::Started { session: Box::new(session), bars, epoch: 0 })
    }

    /// Trains all epochs with this step.
    ///
    /// # Errors
    /// As [`Trial::next_epoch`], [`Trial::train`], [`Trial::evaluate`] and [`Trial::end_epoch`].
    pub fn fit(&mut self, step: &impl StepFn<S::Batch>) -> Result<()>
    where
        S: Sync,
        S::Batch: Shard + Send,
    {
        while self.next_epoch()?.is_some() {
            self.train(step)?;
            self.evaluate(step)?;
            self.end_epoch()?;
        }
        Ok(())
    }

    /// Starts the next epoch and returns its number, from 0, the untrained network; `None` after the last, and if the
    /// program was asked to stop.
    ///
    /// # Errors
    /// Before [`Trial::start`]; as [`Session::next_epoch`].
    pub fn next_epoch(&mut self) -> Result<Option<u32>> {
        let next = match &mut self.stage {
            Stage::Rehearsal { run: Some(_), begun, .. } => {
                return Ok((!std::mem::replace(begun, true)).then_some(0));
            }
            Stage::Started { .. } if self.ended.was_finished || self.shared.stops() => {
                return Ok(None);
            }
            Stage::Started { session, epoch, .. } => {
                let next = session.next_epoch();
                if let Ok(Some(next)) = next {
                    *epoch = next;
                }
                next
            }
            _ => return Err(not_started()),
        };
        self.noted(next)
    }

    /// Trains on the training split, in a new order; does nothing in epoch 0. After Ctrl-C it ends after the current
    /// batch.
    ///
    /// # Errors
    /// As [`Session::train`].
    pub fn train(&mut self, step: &impl StepFn<S::Batch>) -> Result<()>
    where
        S: Sync,
        S::Batch: Shard + Send,
    {
        let (train, batch_size) = (&self.data.train, self.about.options.training.batch_size);
        self.train_on(step, |rng, done| Batches::shuffled(train, rng, batch_size).skip(done))
    }

    /// As [`Trial::train`], on batches of the program's own, such as a stream: `batches` receives the generator of the order and
    /// the number of batches to skip, as in [`Session::train`]. The progress bars expect as many samples as the training split
    /// has.
    ///
    /// # Errors
    /// As [`Session::train`].
    pub fn train_on<B, E, I>(
        &mut self,
        step: &impl StepFn<B>,
        batches: impl FnOnce(&mut Rng, usize) -> I,
    ) -> Result<()>
    where
        B: Shard + Send,
        E: Into<BoxError> + Send,
        I: Iterator<Item = Result<B, E>> + Send,
    {
        let shared = self.shared;
        let Stage::Started { session, bars, epoch } = &mut self.stage else { return self.rehearsed() };
        if *epoch > 0 {
            let to_go = self.data.train.count().saturating_sub(session.progress().samples() as usize);
            bars.pass(to_go, session.run(), *epoch, Split::Train);
        }
        let processes = shared.processes();
        let trained = session.train(&Counted { step, bars, processes }, |rng, done| {
            let batches = batches(rng, done);
            batches.take_while(|_| !shared.stops()).inspect(|_| shared.first_batch())
        });
        self.noted(trained)
    }

    /// Measures the validation and the test split, if they exist.
    ///
    /// # Errors
    /// As [`Session::evaluate`].
    pub fn evaluate(&mut self, step: &impl StepFn<S::Batch>) -> Result<()>
    where
        S: Sync,
    {
        let (data, shared) = (self.data, self.shared);
        let batch_size = self.about.options.training.batch_size;
        let Stage::Started { session, bars, epoch } = &mut self.stage else {
            self.rehearsed()?;
            let rehearsed = self.rehearse(step);
            if let Err(Error::Usage(text)) = &rehearsed {
                self.ended.misused = Some(text.clone());
            }
            return rehearsed;
        };
        let (mut measured, processes) = (Ok(()), shared.processes());
        for (split, set) in data.measured().filter(|_| !shared.stops()) {
            bars.pass(set.count(), session.run(), *epoch, split);
            // Several processes measure different batches, and agree about a stop after the split.
            let goes_on = |_: &_| processes > 1 || !shared.stop.is_asked();
            let batches = Batches::in_order(set, batch_size).take_while(goes_on);
            let one = session.evaluate(&Counted { step, bars, processes }, split, batches).map(drop);
            if processes > 1 && one.is_err() {
                return self.noted(one);
            }
            if !shared.stops() {
                measured = measured.and(one);
            }
        }
        self.noted(measured)
    }

    /// Ends an epoch: reports it, and saves a checkpoint if one is due. `None` if there is nothing to report, because
    /// the program was asked to stop within the epoch.
    ///
    /// # Errors
    /// As [`Session::end_epoch`], and if an alert fires.
    pub fn end_epoch(&mut self) -> Result<Option<EpochReport>> {
        let stopped = self.shared.stops();
        let Stage::Started { session, .. } = &mut self.stage else { return self.rehearsed().map(|()| None) };
        let ended = match stopped {
            true => session.interrupt().map(|()| None),
            false => session.end_epoch().map(Some),
        };
        self.noted(ended)
    }

    /// The best epoch so far: see [`Session::best`].
    pub fn best(&self) -> Option<(u32, f64)> {
        match &self.stage {
            Stage::Started { session, .. } => session.best(),
            _ => None,
        }
    }

    /// The session of the run, for other calls; `None` in a rehearsal.
    pub fn session(&mut self) -> Option<&mut Session<'a>> {
        match &mut self.stage {
            Stage::Started { session, .. } => Some(session),
            _ => None,
        }
    }

    /// Prints a line, above the progress bars; not with `--quiet`.
    pub fn say(&self, text: &str) {
        let heard = self.shared.all.is_first() && !self.about.options.running.quiet;
        if heard && matches!(self.stage, Stage::Started { .. }) {
            self.shared.screen.say(text);
        }
    }

    /// The result is kept, whatever ended the run.
    pub(crate) fn finish(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Started { mut session, .. } if !self.ended.was_finished => {
                let finished = session.finish();
                self.noted(finished)
            }
            Stage::Started { .. } | Stage::Rehearsal { run: Some(_), .. } => Ok(()),
            _ => Err(not_started()),
        }
    }

    /// A rehearsal does nothing, but a call out of order is an error there too.
    fn rehearsed(&self) -> Result<()> {
        match self.stage {
            Stage::Rehearsal { begun: true, .. } => Ok(()),
            _ => Err(not_started()),
        }
    }

    /// Checks with one sample that the sites and metrics of all alerts exist, and that the target fits its metric.
    fn rehearse(&self, step: &impl StepFn<S::Batch>) -> Result<()>
    where
        S: Sync,
    {
        let (alerts, target) = (&self.about.options.running.alert, self.about.options.running.target);
        if alerts.is_empty() && target.is_none() {
            return Ok(());
        }
        let (split, set) = self.data.measured().last().unwrap_or((Split::Test, &self.data.train));
        let mut sites = Vec::new();
        let note = observer_fn(|seen| {
            sites.push(seen.site.name().to_string());
            Ok(())
        });
        let report = evaluate(step, split, Batches::in_order(set, 1).take(1), &mut { note })?;
        let usage = |error: taper_report::Error| Error::Usage(error.to_string());
        for alert in alerts {
            alert.check_site(&sites).and_then(|()| alert.check_metrics(&report.score)).map_err(usage)?;
        }
        crate::target::check(target, &report.score.primary())
    }

    /// Stores how the run was ended.
    fn noted<T>(&mut self, result: taper_train::Result<T>) -> Result<T> {
        Ok(result.inspect_err(|error| self.ended.note(error))?)
    }
}

fn not_started() -> Error {
    Error::Other(
        "expected a run that has begun: call Trial::start, and Trial::next_epoch for each epoch".into(),
    )
}

/// The error, with the option that accepts the difference.
fn with_option(error: taper_train::Error) -> Error {
    match &error {
        taper_train::Error::OtherRun { path, changes } => Error::Other(
            format!(
                "{}: {}: undo the change, or accept another result with --force",
                path.display(),
                changes.join("; ")
            )
            .into(),
        ),
        _ => error.into(),
    }
}
