use taper_data::Shard;
use taper_hooks::{Observer, Parts, Pass, Recorder};
use taper_kernels::record;
use taper_report::{Fault, Place, Split, SplitReport};

use super::part::{Head, Part};
use super::{ShardRecorders, Shards, Tree, either};
use crate::epoch::{advance, evaluate_on};
use crate::fault::locate;
use crate::run::AnyStep;
use crate::{BoxError, Error, OnNonFinite, Optimizer, Progress, Result, StepFn};

/// As [`train_batches`](crate::train_batches), with batches that are split into shards.
pub(crate) fn train_shards<B: Shard, E: Into<BoxError>>(
    step: &impl StepFn<B>,
    optimizer: &mut Optimizer,
    batches: impl Iterator<Item = Result<B, E>> + Send,
    recorders: &mut ShardRecorders<'_>,
    seed: u64,
    progress: &mut Progress,
) -> Result<()> {
    progress.timed(|progress| {
        step.run(|step| {
            progress.begin(recorders)?;
            for batch in batches {
                train_on(step, optimizer, &batch.map_err(Error::other)?, recorders, seed, progress)?;
            }
            Ok(())
        })
    })
}

fn train_on<B: Shard>(
    step: &AnyStep<'_, B>,
    optimizer: &mut Optimizer,
    batch: &B,
    recorders: &mut ShardRecorders<'_>,
    seed: u64,
    progress: &mut Progress,
) -> Result<()> {
    let shards = recorders.shards;
    let (number, draw) = (progress.batches() + 1, optimizer.draw());
    let buffers = optimizer.buffer_values()?;
    let (mut tree, mut observing) = (Tree::new(), Default::default());
    for (i, shard) in shards.own().enumerate() {
        let rows = shards.samples(shard, batch.samples());
        if rows.is_empty() {
            tree.push(None, Part::join)?;
            continue;
        }
        // Each shard begins with the same running statistics.
        optimizer.set_buffers(&buffers)?;
        let mut nobody = ();
        let observer: &mut dyn Observer = match recorders.own.get_mut(i) {
            Some(recorder) => recorder,
            None => &mut nobody,
        };
        let seen = observer.non_finite();
        let mut pass = Pass::train(observer, seed, draw).rows_from(rows.start as u64);
        let of = batch.narrow(rows)?;
        let (outcome, tape) = record(|| step(&mut pass, &of));
        let mut outcome = outcome?;
        let unusable = |fault| Error::Step { batch: number, fault };
        outcome.check(true).map_err(unusable)?;
        let (total, added) = (outcome.total(&pass)?, pass.added_loss().cloned());
        observing += pass.observing();
        let samples = outcome.samples;
        let (gradients, _) = tape.backward_through(&(total * samples as f64)?, &optimizer.frozen(), &[])?;
        let (loss, _) = outcome.read(added.as_ref(), None).map_err(unusable)?;
        let lost = !loss.is_finite() || outcome.metrics.faulty().is_some() || observer.non_finite() > seen;
        let (values, reached) = optimizer.flatten(&gradients, &buffers, samples)?;
        let (loss, lost) = (loss * samples as f64, lost.then_some(shard));
        let head = Head { loss, samples, metrics: outcome.metrics, lost, reached };
        tree.push(Some(Part { head, values }), Part::join)?;
    }
    let write = |part: &Option<Part>| part.as_ref().map_or(Ok(Vec::new()), Part::to_bytes);
    let read = |bytes: Vec<u8>| Ok(if bytes.is_empty() { None } else { Some(Part::from_bytes(&bytes)?) });
    let whole = shards.join(tree.root(), write, read, |a, b| either(a, b, Part::join))?;
    let no_samples = || Error::Step { batch: number, fault: crate::StepError::NoSamples };
    let Part { head: Head { loss, samples, metrics, lost, reached }, values } =
        whole.ok_or_else(no_samples)?;
    let loss = loss / samples as f64;
    let (gradients, after) = optimizer.unflatten(&values, &reached, &buffers, samples)?;
    let gradient = match lost {
        None => optimizer.gradient_fault(&gradients)?,
        Some(_) => None,
    };
    let faulty = lost.is_some() || gradient.is_some();
    let skipped = faulty && optimizer.on_nonfinite() == OnNonFinite::Skip;
    optimizer.set_buffers(&buffers)?;
    if faulty {
        let find = || -> Result<Fault> {
            let place = match (gradient, lost.filter(|shard| shards.own().contains(shard))) {
                (Some(place), _) => Some(place),
                (None, None) => None,
                (None, Some(shard)) => {
                    let rows = shards.samples(shard, batch.samples());
                    let (first, of) = (rows.start as u64, batch.narrow(rows)?);
                    let place = locate(loss, metrics.faulty(), optimizer.parameters(), |found| {
                        step(&mut Pass::train(found, seed, draw).rows_from(first), &of).map(drop)
                    })?;
                    Some(match place {
                        Place::Data { sample } => Place::Data { sample: first + sample },
                        other => other,
                    })
                }
            };
            Ok(Fault { batch: number, loss, place: shards.share(place)? })
        };
        if optimizer.on_nonfinite() == OnNonFinite::Stop {
            let fault = find();
            optimizer.set_buffers(&buffers)?;
            return Err(Error::NotFinite { epoch: None, fault: fault? });
        }
        progress.not_finite(skipped, find)?;
    }
    optimizer.set_buffers(if skipped { &buffers } else { &after })?;
    progress.add(loss, samples, &metrics, skipped, observing);
    if skipped {
        return Ok(());
    }
    advance(optimizer, (loss, samples), gradients, &[], recorders, progress)
}

/// As [`evaluate`](crate::evaluate()): batch `i` belongs to shard `i` modulo their number. Also the recorder of all shards.
pub(crate) fn evaluate_shards<B, E: Into<BoxError>>(
    step: &impl StepFn<B>,
    split: Split,
    batches: impl Iterator<Item = Result<B, E>> + Send,
    record: Option<Parts>,
    shards: &Shards,
) -> Result<(SplitReport, Option<Recorder>)> {
    type Sums = (Progress, Option<Recorder>);
    let own = shards.own();
    let mut sums: Vec<Sums> = own.clone().map(|_| (Progress::default(), record.map(Recorder::of))).collect();
    let mut whole = Progress::default();
    whole.timed(|_| {
        step.run(|step| {
            sums.iter_mut().try_for_each(|(_, recorder)| recorder.begin(split, false))?;
            for (i, batch) in batches.enumerate() {
                let batch = batch.map_err(Error::other)?;
                if let Some(i_own) = (i % shards.count).checked_sub(own.start)
                    && let Some((progress, recorder)) = sums.get_mut(i_own)
                {
                    evaluate_on(step, &batch, recorder, progress, i as u64 + 1)?;
                }
            }
            Ok::<_, Error>(())
        })
    })?;
    let join = |(mut left, recorder): Sums, (right, other): Sums| {
        left.merge(right);
        let recorder = either(recorder, other, |mut left, right| {
            left.merge(&right).map_err(|error| Error::Config(error.to_string()))?;
            Ok(left)
        })?;
        Ok((left, recorder))
    };
    let Some(own) = Tree::of(sums, join)? else { return Err(Error::NoBatches(split)) };
    let (sums, recorder) = shards.join_json(own, join)?;
    if sums.batches() == 0 {
        return Err(Error::NoBatches(split));
    }
    let report = SplitReport { split, learning_rate: None, seconds: whole.report().seconds, ..sums.report() };
    Ok((report, recorder))
}
