use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use taper::hooks::{Recorder, Rng};
use taper::nn::Params;
use taper::report::{EpochReport, Lengths, Run, Split};
use taper::train::{Checkpoint, Checkpoints, Keep, Optimizer, Point, Progress, Result};

/// When no option says how often: an epoch that ends this long after the last checkpoint is saved. Writing one takes
/// milliseconds, so this costs next to nothing however short the epochs are, and loses little however long.
const USUALLY: Duration = Duration::from_secs(60);

/// What a run changes while it trains, beside weights and optimiser: all it needs to go on.
#[derive(Serialize, Deserialize)]
pub struct State {
    /// The generator that shuffles, as it was when the epoch began: whoever goes on within one draws its order again.
    pub order: Rng,
    /// The generator that dropout draws from.
    pub masks: Rng,
    /// What the epoch that is running has come to.
    pub progress: Progress,
    /// The windows, and what was dead in those before.
    pub live: Option<Recorder>,
    /// The same, on what was held back.
    pub validation: Option<Recorder>,
    /// The same, on the test split.
    pub test: Option<Recorder>,
    /// The highest rank of the primary metric so far, and the epoch it is from.
    pub best: Option<(u32, f64)>,
    /// How long the run's files were.
    pub files: Lengths,
    /// What the run is.
    pub run: Run,
}

impl State {
    /// Keeps the best score in mind; returns what checkpoints are compared by: the rank of the primary metric on what was
    /// held back, else on the test split.
    pub fn score(&mut self, report: &EpochReport) -> Option<f64> {
        let of = report.split(Split::Validation).or(report.split(Split::Test))?;
        let rank = Some(of.score.primary().rank()).filter(|x| x.is_finite())?;
        if self.best.is_none_or(|(_, best)| rank > best) {
            self.best = Some((report.epoch, rank));
        }
        Some(rank)
    }
}

/// How often checkpoints are written.
#[derive(Clone, Copy, Debug)]
pub struct Often {
    /// Every so many epochs; 0 for none. Without it whenever a minute has gone by, and at the end.
    pub epochs: Option<u32>,
    /// Also every so many steps of the optimiser.
    pub steps: Option<u64>,
}

/// Writes the checkpoints of one run.
pub struct Saves {
    run: PathBuf,
    often: Often,
    checkpoints: Checkpoints,
    last: Instant,
}

impl Saves {
    /// Of the run in this directory, whose lock the caller holds.
    ///
    /// # Errors
    /// As [`Checkpoints::open`].
    pub fn open(run: &Path, keep: Keep, often: Often) -> Result<Self> {
        let checkpoints = Checkpoints::open(run.join("checkpoints"), keep)?;
        Ok(Self { run: run.to_path_buf(), often, checkpoints, last: Instant::now() })
    }

    /// The newest that is whole.
    ///
    /// # Errors
    /// As [`Checkpoints::newest`].
    pub fn newest(&mut self) -> Result<Option<Checkpoint<State>>> {
        self.checkpoints.newest()
    }

    /// Whether there are any.
    pub fn are_wanted(&self) -> bool {
        self.often.epochs != Some(0) || self.often.steps.is_some()
    }

    /// Batches until one is due within the epoch, when so many steps have been taken.
    pub fn batches_to_go(&self, steps: u64) -> u64 {
        self.often.steps.map_or(u64::MAX, |often| often - steps % often)
    }

    /// Whether one is due behind this epoch.
    pub fn is_due(&self, epoch: u32, steps: u64) -> bool {
        let by_steps = self.often.steps.is_some_and(|often| steps.is_multiple_of(often));
        by_steps
            || match self.often.epochs {
                Some(often) => often > 0 && epoch.is_multiple_of(often),
                None => self.last.elapsed() >= USUALLY,
            }
    }

    /// Saves where the run is: so many whole epochs and what the next has come to. What was reported before is on the
    /// disk then too.
    ///
    /// # Errors
    /// As [`Checkpoints::save`] and [`Lengths::settle`].
    pub fn save(
        &mut self,
        epoch: u32,
        rank: Option<f64>,
        params: &Params,
        optimizer: &Optimizer,
        state: &mut State,
    ) -> Result<()> {
        if self.are_wanted() {
            state.files = Lengths::settle(&self.run)?;
            let at = Point { epoch, batch: state.progress.batches() };
            self.checkpoints.save(at, rank, params, optimizer, state)?;
            self.last = Instant::now();
        }
        Ok(())
    }
}
