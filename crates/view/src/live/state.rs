use std::time::{Duration, Instant};

use taper_report::{EpochReport, LayerStats, Metric, Run, Score, Split};

/// Everything that the view shows.
#[derive(Debug, Default)]
pub(super) struct State {
    pub color: bool,
    /// Whether the view takes keys.
    pub keys: bool,
    /// Whether Ctrl-C was pressed.
    pub stopping: bool,
    pub run: Option<Run>,
    /// The run, from 1, and how many there are; 0 where nobody said.
    pub place: (usize, usize),
    /// The best primary metric on the headline split of the runs that have ended, and whose it is.
    pub best: Option<(Metric, String)>,
    pub pass: Option<Pass>,
    /// Samples done in all runs, and planned; 0 where nobody said.
    pub done: u64,
    pub planned: u64,
    /// When the first pass began.
    pub started: Option<Instant>,
    /// Of every epoch, the scores of its splits.
    pub scores: Vec<(u32, Vec<(Split, Score)>)>,
    /// The split that `sites` describes.
    pub window: Option<Split>,
    pub sites: Vec<Site>,
    pub last: Option<EpochReport>,
}

/// The pass that is being made.
#[derive(Debug)]
pub(super) struct Pass {
    pub epoch: u32,
    pub split: Split,
    pub samples: u64,
    pub done: u64,
    pub started: Instant,
}

/// One site over the epochs.
#[derive(Debug)]
pub(super) struct Site {
    /// Zeros and dead units of every epoch, as fractions.
    pub past: Vec<(f64, Option<f64>)>,
    pub now: LayerStats,
}

impl Pass {
    /// Samples per second; `None` before there is anything to go by.
    pub fn rate(&self, now: Instant) -> Option<f64> {
        let seconds = now.saturating_duration_since(self.started).as_secs_f64();
        (self.done > 0 && seconds > 0.0).then(|| self.done as f64 / seconds)
    }
}

impl State {
    pub fn place(&mut self, run: usize, of: usize, samples: u64) {
        self.place = (run, of);
        // A run before may have ended early.
        self.planned = self.done + samples;
    }

    pub fn begin(&mut self, run: &Run) {
        let ended = self.run.take().map(|run| run.name);
        let trained = self.scores.iter().filter(|(epoch, _)| *epoch > 0);
        let headline = trained.filter_map(|(_, splits)| splits.iter().max_by_key(|(split, _)| *split));
        let all = headline.map(|(_, score)| score.primary()).filter(|metric| !metric.value.is_nan());
        let best = all.reduce(|best, metric| if metric.is_better_than(&best) { metric } else { best });
        if let Some(new) = best.zip(ended)
            && self.best.as_ref().is_none_or(|(old, _)| new.0.is_better_than(old))
        {
            self.best = Some(new);
        }
        self.run = Some(run.clone());
        (self.pass, self.window, self.last) = (None, None, None);
        self.scores.clear();
        self.sites.clear();
    }

    pub fn pass(&mut self, epoch: u32, split: Split, samples: u64, now: Instant) {
        self.started.get_or_insert(now);
        self.pass = Some(Pass { epoch, split, samples, done: 0, started: now });
    }

    pub fn advance(&mut self, samples: u64) {
        self.done += samples;
        if let Some(pass) = &mut self.pass {
            pass.done += samples;
        }
    }

    pub fn epoch(&mut self, report: &EpochReport) {
        self.scores
            .push((report.epoch, report.splits.iter().map(|of| (of.split, of.score.clone())).collect()));
        self.last = Some(report.clone());
        // An epoch that was cut short has the training window only, which is another one than that of the others.
        let Some(of) = report.observed().filter(|of| Some(of.split) >= self.window) else { return };
        self.window = Some(of.split);
        let mut before = std::mem::take(&mut self.sites);
        for layer in &of.layers {
            let known = before.iter().position(|site| site.now.site == layer.site);
            let mut past = known.map_or(Vec::new(), |i| before.swap_remove(i).past);
            past.push((layer.zero_fraction, layer.dead_fraction()));
            self.sites.push(Site { past, now: layer.clone() });
        }
    }

    pub fn elapsed(&self, now: Instant) -> Duration {
        self.started.map_or(Duration::ZERO, |start| now.saturating_duration_since(start))
    }

    /// If what is to come takes as long per sample as what is done: the average of all, as passes with and without
    /// gradients differ in speed and take turns.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let rest = self.planned.saturating_sub(self.done) as f64;
        let left = self.elapsed(now).as_secs_f64() / self.done as f64 * rest;
        Duration::try_from_secs_f64(left).ok().filter(|_| self.done > 0)
    }
}
