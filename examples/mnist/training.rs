//! One run: trained, measured, reported and saved, epoch by epoch.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result};
use taper::data::Batches;
use taper::hooks::{Parts, Recorder, fork};
use taper::report::{
    self, EpochReport, Lengths, Sink, Split, SplitReport, Summary, TensorBoard, TracingSink, read_reports,
};
use taper::train::{
    self, Checkpoint, OnNonFinite, Optimizer, Progress, evaluate, not_finite, save_weights, train_batches,
};
use taper_examples::{Bars, CaughtUp, Place, Saves, State};

use crate::begin::Begun;
use crate::network::{Network, Shared};
use crate::options::Track;

/// Whether nobody reads standard output any more.
pub fn is_closed(error: &train::Error) -> bool {
    matches!(error, train::Error::Report(report::Error::Io { cause, .. }) if cause.kind() == ErrorKind::BrokenPipe)
}

pub fn is_alert(error: &train::Error) -> bool {
    matches!(error, train::Error::Report(report::Error::Alert(_)))
}

/// What a run came to.
pub struct Ended {
    pub summary: Summary,
    pub path: PathBuf,
    pub result: train::Result<()>,
    /// There was nothing left to do.
    pub was_finished: bool,
}

/// Trains the network of one cell and writes down what it came to.
///
/// # Errors
/// When it cannot begin. What goes wrong later is part of what it came to.
pub fn one(shared: &Shared<'_>, begun: Begun, bars: &Bars, console: &mut Place<'_, '_>) -> Result<Ended> {
    let Begun { network, mut dir, mut saves, found } = begun;
    let path = dir.path().to_path_buf();
    let weights = path.join("model.safetensors");
    let mut summary = Summary::new(network.run.clone());
    let epoch = found.as_ref().map_or(0, |found| found.at.epoch);
    let past = if shared.stored.is_some() { read_reports(&path)? } else { Vec::new() };
    if let Some(found) = found.as_ref().filter(|found| found.at.epoch >= network.run.epochs)
        && std::fs::read(&weights).is_ok_and(|bytes| bytes == found.model())
    {
        CaughtUp::new(&mut summary, past).begin(&network.run)?;
        return Ok(Ended { summary, path, result: Ok(()), was_finished: true });
    }
    let board = match shared.stored {
        Some(_) => TensorBoard::resume(&path, epoch),
        None => TensorBoard::create(&path),
    };
    let mut sinks: Vec<Box<dyn Sink + '_>> = vec![
        Box::new(CaughtUp::new(&mut summary, past.clone())),
        Box::new(&mut dir),
        Box::new(board.context("--out")?),
        Box::new(TracingSink),
    ];
    sinks.push(Box::new(console));
    if let Some(live) = shared.screen.live() {
        sinks.push(Box::new(CaughtUp::new(live, past)));
    }
    // Behind the others: what fires is on disk by then.
    let alerts = shared.args.alert.iter().cloned();
    sinks.extend(alerts.map(|alert| Box::new(alert) as Box<dyn Sink + '_>));
    let result = train(shared, bars, &network, &mut saves, found, &mut sinks);
    // Whatever ended the run, what it came to is kept.
    let result = result.and(sinks.finish().map_err(train::Error::from));
    let result = result.and(save_weights(&network.params, &weights));
    drop(sinks);
    Ok(Ended { summary, path, result, was_finished: false })
}

/// Trains one network from its seed, or from where a checkpoint found it, and reports every epoch.
fn train(
    shared: &Shared<'_>,
    bars: &Bars,
    network: &Network,
    saves: &mut Saves,
    found: Option<Checkpoint<State>>,
    sinks: &mut dyn Sink,
) -> train::Result<()> {
    let Shared { args, data, .. } = shared;
    let Network { run, params, model, rng } = network;
    let model = &**model;
    let stopped = || shared.stop.is_asked();
    // Bars move with every batch, and after Ctrl-C there is none.
    let tested = |batches: Batches, epoch: u32, split: Split| {
        bars.pass(batches.samples(), run, epoch, split);
        batches.take_while(|_| !stopped()).inspect(|batch| bars.advance(batch))
    };
    let recorder = || match args.track {
        Track::Full => Some(Recorder::new()),
        Track::Counts => Some(Recorder::of(Parts::COUNTS)),
        Track::Off => None,
    };
    let mut optimizer = Optimizer::new(params.vars(), shared.optimizer)?;
    let (done, mut state) = match found {
        Some(found) => {
            found.restore(params, &mut optimizer)?;
            (found.at.epoch, State { run: run.clone(), ..found.state })
        }
        None => {
            // Dropout draws from a generator of its own: with it or without, samples come in the same order.
            let (order, masks, progress) = (rng.clone(), fork(rng), Progress::default());
            let (live, validation, test) = (recorder(), recorder(), recorder());
            let (best, files, run) = (None, Lengths::default(), run.clone());
            (0, State { order, masks, progress, live, validation, test, best, files, run })
        }
    };
    sinks.begin(run)?;
    let per_epoch = data.train.len() + shared.held_back.as_ref().map_or(0, |set| set.len()) + data.test.len();
    bars.skip(per_epoch as u64 * u64::from(done) + state.progress.samples());
    for epoch in done + 1..=args.epochs {
        let mut next = state.order.clone();
        let mut batches = data.train.shuffled(&mut next, args.batch_size);
        batches.skip_batches(state.progress.batches() as usize);
        bars.pass(batches.samples(), run, epoch, Split::Train);
        while batches.len() > 0 && !stopped() {
            let piece = usize::try_from(saves.batches_to_go(optimizer.steps())).unwrap_or(usize::MAX);
            let piece = batches.by_ref().take(piece).take_while(|_| !stopped());
            // For whoever measures: RUST_LOG=mnist=debug.
            let piece = piece.inspect(|batch| {
                bars.advance(batch);
                shared.first_batch.call_once(|| {
                    let seconds = shared.started.elapsed().as_secs_f64();
                    tracing::debug!(seconds, "first batch");
                });
            });
            let State { live, masks, progress, .. } = &mut state;
            train_batches(model, &mut optimizer, piece, live, masks, progress)
                .map_err(|error| error.in_epoch(epoch))?;
            if batches.len() > 0 && !stopped() {
                saves.save(epoch - 1, None, params, &optimizer, &mut state)?;
            }
        }
        let mut splits = vec![state.progress.report()];
        // An evaluation that is cut short is made again.
        let before = (state.validation.clone(), state.test.clone());
        if let Some(set) = shared.held_back.as_ref().filter(|_| !stopped()) {
            let batches = tested(set.batches(args.batch_size), epoch, Split::Validation);
            let report = evaluate(model, batches, &mut state.validation)?;
            splits
                .push(SplitReport { split: Split::Validation, ..with_layers(report, &mut state.validation) });
        }
        if !stopped() {
            let batches = tested(data.test.batches(args.batch_size), epoch, Split::Test);
            let report = evaluate(model, batches, &mut state.test)?;
            splits.push(with_layers(report, &mut state.test));
        }
        if stopped() {
            (state.validation, state.test) = before;
            saves.save(epoch - 1, None, params, &optimizer, &mut state)?;
            // No window of it is whole, so only the score of what was trained on is worth showing. Whoever goes on
            // cuts it away and makes the epoch whole.
            splits.truncate(1);
            return match state.progress.samples() {
                0 => Ok(()),
                _ => Ok(sinks.epoch(&EpochReport { epoch, splits })?),
            };
        }
        splits[0].layers = state.live.as_mut().map(Recorder::finish).unwrap_or_default();
        let stop = args.on_nonfinite == OnNonFinite::Stop;
        let lost = splits.iter().find(|of| stop && of.nonfinite.is_some()).map(|of| of.score.loss);
        let report = EpochReport { epoch, splits };
        let told = sinks.epoch(&report).map_err(train::Error::from);
        if let Some(loss) = lost {
            told?;
            let batch = data.train.len().div_ceil(args.batch_size);
            return Err(not_finite(model, data.test.batches(args.batch_size), loss, batch).in_epoch(epoch));
        }
        // Where nobody reads standard output any more, or an alert has fired, the files have what they should.
        let end = match told {
            Err(error) if is_closed(&error) || is_alert(&error) => Some(error),
            told => told.map(|()| None)?,
        };
        (state.order, state.progress) = (next, Progress::default());
        let score = state.score(&report);
        if end.is_some() || epoch == args.epochs || saves.is_due(epoch, optimizer.steps()) {
            saves.save(epoch, score, params, &optimizer, &mut state)?;
        }
        if let Some(error) = end {
            return Err(error);
        }
    }
    Ok(())
}

fn with_layers(report: SplitReport, recorder: &mut Option<Recorder>) -> SplitReport {
    SplitReport { layers: recorder.as_mut().map(Recorder::finish).unwrap_or_default(), ..report }
}
