use std::time::{Duration, Instant};

use taper_hooks::{Recorder, Rng};
use taper_report::{
    EpochReport, Error as ReportError, Sink, Split, SplitReport, StepLine, Warning, read_lines, read_reports,
};

use super::{Current, Files, Past, Session, State};
use crate::fit::stop_at_fault;
use crate::shards::{ShardRecorders, evaluate_shards, train_shards};
use crate::weights::{checksum, save_weights_of};
use crate::{BoxError, Error, Result, Shard, StepFn, evaluate, flush, train_batches};

/// The default: an epoch that ends this long after the last checkpoint is saved. Writing one takes milliseconds, so
/// this costs almost nothing for short epochs, and loses little with long ones.
const USUALLY: Duration = Duration::from_secs(60);

/// Sinks receive windows of steps at most this long after their end, and at the end of each epoch, which is soon enough
/// for a live view.
const TELL: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// Starts the next epoch and returns its number, from 0, the untrained network; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Config`] if the epoch before has not ended; and errors of the sinks, which receive the run before the
    /// first epoch.
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
        let mut past = Vec::new();
        if let Some(Files { dir, board, .. }) = &mut self.files {
            if self.done.is_some() {
                past = read_reports(dir.path())?;
            }
            // Earlier warnings are in the file, and are not repeated.
            if self.resumed_from.is_some() {
                let steps: Vec<StepLine> = read_lines(dir.path().join("steps.jsonl"))?;
                steps.iter().for_each(|line| drop(self.watch.step(&line.of)));
                past.iter().for_each(|report| drop(self.watch.epoch(report)));
            }
            dir.begin(&self.run)?;
            if let Some(board) = board {
                board.begin(&self.run)?;
            }
        }
        for (sink, tell) in &mut self.sinks {
            sink.begin(&self.run)?;
            if *tell == Past::Told {
                past.iter().try_for_each(|report| sink.epoch(report))?;
            }
        }
        Ok(())
    }

    /// Trains on an epoch's batches, and saves checkpoints within it if that is wanted. `batches` receives the
    /// generator to shuffle with and the number of batches to skip, which were done before the interruption. In epoch 0
    /// nothing happens.
    ///
    /// # Errors
    /// [`Error::Config`] outside an epoch and the second time within one; and as [`train_batches`] and
    /// [`Checkpoints::save`](crate::Checkpoints::save).
    pub fn train<B, E, I>(
        &mut self,
        step: &impl StepFn<B>,
        batches: impl FnOnce(&mut Rng, usize) -> I,
    ) -> Result<()>
    where
        B: Shard + Send,
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
        if self.upkeep.is_none() && !self.state.upkeep.is_null() {
            return Err(Error::Config(format!(
                "{}: expected the upkeep of the checkpoint, found none: call Session::upkeep before the first epoch",
                self.path().display()
            )));
        }
        let mut order = self.state.order.clone();
        let mut batches = batches(&mut order, self.state.progress.batches() as usize).peekable();
        self.current.order = Some(order);
        // The number of batches to the next checkpoint or upkeep, which does not depend on the clock.
        let (mut left, mut saves) = (0, false);
        loop {
            let begin = self.optimizer.steps();
            if left == 0 {
                let batches_to = |every: Option<u64>| {
                    let Some(every) = every else { return u64::MAX };
                    let steps = every.max(1) - begin % every.max(1);
                    let batches = steps.saturating_mul(self.optimizer.config().accumulate);
                    batches.saturating_sub(self.optimizer.waiting()).max(1)
                };
                let save = batches_to(self.config.save.steps);
                left = save.min(batches_to(self.upkeep.as_ref().map(|upkeep| upkeep.every())));
                saves = left == save;
            }
            let begun = Instant::now();
            let piece = std::iter::from_fn(|| {
                let batch = if left > 0 && begun.elapsed() < TELL { batches.next() } else { None };
                left -= u64::from(batch.is_some());
                batch
            });
            let State { train, progress, .. } = &mut self.state;
            let (optimizer, seed, shards) = (&mut self.optimizer, self.run.seed, &self.config.shards);
            let trained = match shards.are_many() {
                true => {
                    let mut recorders = ShardRecorders { whole: train, own: &mut self.of_shards, shards };
                    train_shards(step, optimizer, piece, &mut recorders, seed, progress)
                }
                false => {
                    train_batches(step, optimizer, piece, &mut (train, &mut self.upkeep), seed, progress)
                }
            };
            let trained = trained.and_then(|()| self.keep_up(begin));
            self.failed |= trained.is_err();
            // Also the windows before an error.
            let told = self.tell_windows();
            trained.map_err(|error| error.in_epoch(epoch))?;
            told?;
            if batches.peek().is_none() {
                return Ok(());
            }
            if left == 0 && saves {
                self.save(epoch - 1, None)?;
            }
        }
    }

    /// Calls the upkeep, if a step was made since `begin`.
    fn keep_up(&mut self, begin: u64) -> Result<()> {
        match &mut self.upkeep {
            Some(upkeep) if self.optimizer.steps() > begin => upkeep.keep_up(&mut self.optimizer),
            _ => Ok(()),
        }
    }

    /// Measures the validation or test split and adds its report to the epoch.
    ///
    /// # Errors
    /// [`Error::Config`] for the training split, and errors of [`evaluate`](crate::evaluate()), after which the split
    /// may be measured again.
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
        // The untrained network has its own recorder, so `died` compares trained networks.
        let mut untrained = self.config.record.map(Recorder::of);
        let recorder = match epoch {
            0 => &mut untrained,
            _ => self.state.recorder(split),
        };
        let (before, shards) = (recorder.clone(), &self.config.shards);
        let evaluated = match shards.are_many() {
            true => {
                evaluate_shards(step, split, batches, self.config.record, shards).map(|(report, sums)| {
                    if let (Some(recorder), Some(sums)) = (recorder.as_mut(), sums) {
                        recorder.set_window(sums);
                    }
                    report
                })
            }
            false => evaluate(step, split, batches, &mut *recorder),
        };
        match evaluated {
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

    /// Makes a step of the accumulated gradients of the epoch's last batches, after its training.
    fn flush(&mut self) -> Result<()> {
        if self.current.order.is_some() {
            let begin = self.optimizer.steps();
            let State { train, progress, .. } = &mut self.state;
            let shards = &self.config.shards;
            match shards.are_many() {
                true => {
                    let mut recorders = ShardRecorders { whole: train, own: &mut self.of_shards, shards };
                    flush(&mut self.optimizer, &mut recorders, progress)?;
                }
                false => flush(&mut self.optimizer, &mut (train, &mut self.upkeep), progress)?,
            }
            self.keep_up(begin)?;
        }
        self.tell_windows()
    }

    /// Adds the report of a pass of the program to the epoch.
    pub fn add(&mut self, report: SplitReport) {
        self.current.splits.push(report);
    }

    /// Ends an epoch: reports it to all sinks, and saves a checkpoint if one is due.
    ///
    /// # Errors
    /// [`Error::NotFinite`], after the epoch was reported, if an evaluation was not finite and the optimiser stops
    /// then; errors of the sinks, after the checkpoint was saved; [`Error::NoBatches`] if there was no training batch.
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
            let (whole, shards) = (&mut self.state.train, &self.config.shards);
            ShardRecorders { whole, own: &mut self.of_shards, shards }.close()?;
            let layers = self.state.train.as_mut().map(Recorder::finish).unwrap_or_default();
            splits.insert(0, SplitReport { layers, ..self.state.progress.report() });
        }
        let report = self.agreed(EpochReport { epoch, splits })?;
        if let Some(files) = &mut self.files {
            files.dir.epoch(&report)?;
        }
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
            // The clocks of several processes differ.
            None => self.config.shards.max(u64::from(self.saved.elapsed() >= USUALLY))? > 0,
        };
        let due = due || self.config.save.steps.is_some_and(|every| steps.is_multiple_of(every.max(1)));
        // Several processes save together. An alert fires in all of them, and another error in one.
        let in_all = match &told {
            Ok(()) | Err(Error::Report(ReportError::Alert(_))) => true,
            Err(_) => self.config.shards.group.size() == 1,
        };
        if epoch > 0 && in_all && (due || told.is_err() || epoch == self.run.epochs) {
            self.save(epoch, self.rank)?;
        }
        told.map(|()| report)
    }

    /// With the times of the first process, so that alerts fire in all. Checks that all have the same weights.
    fn agreed(&self, mut report: EpochReport) -> Result<EpochReport> {
        let shards = &self.config.shards;
        if shards.group.size() == 1 {
            return Ok(report);
        }
        let of = |split: &SplitReport| (split.seconds, split.tracking_seconds);
        let own = (report.splits.iter().map(of).collect::<Vec<_>>(), checksum(&self.params)?);
        let (times, weights) = shards.share(shards.is_first().then(|| own.clone()))?;
        if weights != own.1 {
            return Err(Error::Config(format!(
                "process {}: expected the weights of process 0 after epoch {}, found others: was another file loaded, or is \
                 it another kind of CPU?",
                shards.group.rank(),
                report.epoch
            )));
        }
        for (split, (seconds, tracking_seconds)) in report.splits.iter_mut().zip(times) {
            (split.seconds, split.tracking_seconds) = (seconds, tracking_seconds);
        }
        Ok(report)
    }

    /// Calls all sinks except the directory, also after one that fails; returns the first error.
    fn tell(&mut self, report: &EpochReport) -> Result<()> {
        let board = self.files.as_mut().and_then(|files| files.board.as_mut());
        let mut first = board.map_or(Ok(()), |board| board.epoch(report));
        for (sink, _) in &mut self.sinks {
            first = first.and(sink.epoch(report));
        }
        let warnings = self.watch.epoch(report);
        let warned = self.warn(&warnings);
        first?;
        warned
    }

    /// Writes new warnings, and passes them to all sinks.
    fn warn(&mut self, warnings: &[Warning]) -> Result<()> {
        let mut first = Ok(());
        for warning in warnings {
            if let Some(files) = &mut self.files {
                files.dir.warning(warning)?;
            }
            for (sink, _) in &mut self.sinks {
                first = first.and(sink.warning(warning));
            }
        }
        Ok(first?)
    }

    /// Writes the windows of steps that have ended, and passes them to all sinks; returns the first error.
    fn tell_windows(&mut self) -> Result<()> {
        let (mut first, mut warned) = (Ok(()), Ok(()));
        for report in self.state.progress.take_windows() {
            if let Some(Files { dir, board, .. }) = &mut self.files {
                // A line may be incomplete, and the windows after it are lost.
                dir.step(&report).inspect_err(|_| self.failed = true)?;
                first = first.and(board.as_mut().map_or(Ok(()), |board| board.step(&report)));
            }
            for (sink, _) in &mut self.sinks {
                first = first.and(sink.step(&report));
            }
            let warnings = self.watch.step(&report);
            warned = warned.and(self.warn(&warnings));
        }
        first?;
        warned
    }

    /// Stores the best score; returns the rank for checkpoints.
    fn rank(&mut self, report: &EpochReport) -> Option<f64> {
        let of = report.split(Split::Validation).or(report.split(Split::Test))?;
        let rank = Some(of.score.primary().rank()).filter(|rank| rank.is_finite())?;
        if self.state.best.is_none_or(|(_, best)| rank > best) {
            self.state.best = Some((report.epoch, rank));
        }
        Some(rank)
    }

    /// Ends an interrupted epoch, in training or in an evaluation: saves a checkpoint within the epoch, unless
    /// checkpoints are off or a pass has failed, and reports partial training progress. Resuming completes the epoch.
    ///
    /// # Errors
    /// Errors of the sinks and of [`Checkpoints::save`](crate::Checkpoints::save).
    pub fn interrupt(&mut self) -> Result<()> {
        let current = std::mem::replace(&mut self.current, Current { begun: true, ..Current::default() });
        let Some(epoch) = current.epoch.filter(|epoch| *epoch > 0) else { return Ok(()) };
        let partial = self.state.progress.batches() > 0;
        for (split, before) in current.before.into_iter().rev() {
            // The training window continues when the epoch is resumed.
            if split != Split::Train || !partial {
                *self.state.recorder(split) = before;
            }
        }
        self.save(epoch - 1, None)?;
        if !partial {
            return Ok(());
        }
        // Its windows are incomplete, so only the score of the training batches is reported.
        let report = self.agreed(EpochReport { epoch, splits: vec![self.state.progress.report()] })?;
        if let Some(files) = &mut self.files {
            files.dir.epoch(&report)?;
        }
        self.tell(&report)
    }

    /// Ends the run, complete or early: calls the sinks, writes the weights to `model.safetensors`, and saves a
    /// checkpoint of the last epoch. It tries all of this and returns the first error.
    ///
    /// # Errors
    /// Errors of the sinks, [`save_weights`](crate::save_weights) and [`Checkpoints::save`](crate::Checkpoints::save).
    pub fn finish(&mut self) -> Result<()> {
        let board = self.files.as_mut().and_then(|files| files.board.as_mut());
        let mut first = board.map_or(Ok(()), Sink::finish);
        for (sink, _) in &mut self.sinks {
            first = first.and(sink.finish());
        }
        let written = match &self.files {
            Some(_) => save_weights_of(&self.state.run, &self.params, &self.weights()),
            None => Ok(()),
        };
        let saved = match (self.current.epoch.filter(|epoch| *epoch > 0), self.done) {
            // An epoch that was neither ended nor interrupted: its training is saved.
            (Some(epoch), _) if self.state.progress.batches() > 0 && self.current.before.is_empty() => {
                self.save(epoch - 1, None)
            }
            (_, Some(done)) if done > 0 && self.state.progress.batches() == 0 => self.save(done, self.rank),
            _ => Ok(()),
        };
        first.map_err(Error::from).and(written).and(saved)
    }
}

fn no_epoch() -> Error {
    Error::Config("no epoch has begun: call next_epoch first".into())
}
