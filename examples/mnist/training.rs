//! One run: trained, measured, reported and saved, epoch by epoch.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::Result;
use taper::data;
use taper::report::{self, Sink, Split, Summary, TracingSink, read_reports};
use taper::train::{self, Session, classify};
use taper_examples::{Bars, Place};

use crate::begin::Begun;
use crate::network::{Network, Shared};

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
pub fn one(
    shared: &Shared<'_>,
    begun: Begun<'static>,
    bars: &Bars,
    console: &mut Place<'_, '_>,
) -> Result<Ended> {
    let mut summary = Summary::new(begun.session.run().clone());
    let Begun { network, mut session } = begun;
    let path = session.path().to_path_buf();
    if session.was_finished() {
        for report in read_reports(&path)? {
            summary.epoch(&report)?;
        }
        return Ok(Ended { summary, path, result: Ok(()), was_finished: true });
    }
    session.sink_with_past(&mut summary);
    session.sink(TracingSink);
    session.sink(console);
    if let Some(live) = shared.screen.live() {
        session.sink_with_past(live);
    }
    // Behind the others: what fires is on disk by then.
    for alert in &shared.args.alert {
        session.sink(alert.clone());
    }
    let result = train(shared, bars, &network, &mut session);
    // Whatever ended the run, what it came to is kept.
    let finished = session.finish();
    drop(session);
    Ok(Ended { summary, path, result: result.and(finished), was_finished: false })
}

/// Trains one network from its seed, or from where a checkpoint found it, and reports every epoch.
fn train(
    shared: &Shared<'_>,
    bars: &Bars,
    network: &Network,
    session: &mut Session<'_>,
) -> train::Result<()> {
    let Shared { args, data, .. } = shared;
    let (step, run) = (classify(&*network.model), session.run().clone());
    let stopped = || shared.stop.is_asked();
    let evaluated: Vec<(Split, &data::Split)> = shared
        .held_back
        .iter()
        .map(|set| (Split::Validation, set))
        .chain([(Split::Test, &data.test)])
        .collect();
    let per_evaluation: usize = evaluated.iter().map(|(_, set)| set.len()).sum();
    if let Some(done) = session.done() {
        let per_epoch = (data.train.len() + per_evaluation) as u64;
        bars.skip(per_evaluation as u64 + per_epoch * u64::from(done) + session.progress().samples());
    }
    while let Some(epoch) = session.next_epoch()? {
        let to_go = data.train.len().saturating_sub(session.progress().samples() as usize);
        session.train(&step, |rng, done| {
            bars.pass(to_go, &run, epoch, Split::Train);
            let batches = data.train.shuffled(rng, args.batch_size).skip(done);
            // Bars move with every batch, and after Ctrl-C there is none. For whoever measures: RUST_LOG=mnist=debug.
            batches.take_while(|_| !stopped()).inspect(|batch| {
                bars.advance(batch);
                shared.first_batch.call_once(|| {
                    let seconds = shared.started.elapsed().as_secs_f64();
                    tracing::debug!(seconds, "first batch");
                });
            })
        })?;
        for (split, set) in evaluated.iter().filter(|_| !stopped()) {
            bars.pass(set.len(), &run, epoch, *split);
            let batches = set.batches(args.batch_size).take_while(|_| !stopped());
            let measured = session.evaluate(&step, *split, batches.inspect(|batch| bars.advance(batch)));
            if !stopped() {
                measured?;
            }
        }
        if stopped() {
            return session.interrupt();
        }
        session.end_epoch()?;
    }
    Ok(())
}
