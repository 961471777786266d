use std::time::{Duration, Instant};

use taper_report::{EpochReport, LayerStats, Metric, Run, Score, SiteSteps, Split, StepReport, Warning};

/// The state of the view.
#[derive(Debug, Default)]
pub(super) struct State {
    pub color: bool,
    /// Whether the view reads keys.
    pub keys: bool,
    /// Whether Ctrl-C was pressed.
    pub stopping: bool,
    pub run: Option<Run>,
    /// The run, from 1, and the number of runs; 0 if unknown.
    pub place: (usize, usize),
    /// The runs that have ended, the best first.
    pub earlier: Vec<Earlier>,
    pub pass: Option<Pass>,
    /// Samples done in all runs, and planned; 0 if unknown.
    pub done: u64,
    pub planned: u64,
    /// When the first pass began.
    pub started: Option<Instant>,
    /// The scores of every split in every epoch.
    pub scores: Vec<(u32, Vec<(Split, Score)>)>,
    /// The scores of every window of training steps; positions are in epochs.
    pub windows: Vec<(f64, Score)>,
    /// Training steps in an epoch; `None` before the first window.
    pub steps_per_epoch: Option<f64>,
    /// The split that `sites` describes.
    pub window: Option<Split>,
    /// The step of the numbers in `sites`, if they are newer than the last epoch.
    pub step: Option<u64>,
    pub sites: Vec<Site>,
    /// The warnings of all runs.
    pub warnings: Vec<String>,
}

/// The current pass.
#[derive(Debug)]
pub(super) struct Pass {
    pub epoch: u32,
    pub split: Split,
    pub samples: u64,
    pub done: u64,
    pub started: Instant,
}

/// One site over the run.
#[derive(Debug)]
pub(super) struct Site {
    /// Position in epochs, zeros and dead units, as fractions: of every window of steps, or of every epoch if there are
    /// no windows.
    pub past: Vec<(f64, f64, Option<f64>)>,
    /// The distribution is that of the last epoch, the other numbers are those of the newest window.
    pub now: LayerStats,
}

/// A run of the grid that has ended.
#[derive(Debug)]
pub(super) struct Earlier {
    pub name: String,
    /// The best primary metric on the headline split.
    pub best: Metric,
    /// Its sites at the end.
    pub sites: Vec<LayerStats>,
}

impl Pass {
    /// Samples per second; `None` before the first batch.
    pub fn rate(&self, now: Instant) -> Option<f64> {
        let seconds = now.saturating_duration_since(self.started).as_secs_f64();
        (self.done > 0 && seconds > 0.0).then(|| self.done as f64 / seconds)
    }
}

impl State {
    pub fn place(&mut self, run: usize, of: usize, samples: u64) {
        self.place = (run, of);
        // An earlier run may have ended early.
        self.planned = self.done + samples;
    }

    pub fn begin(&mut self, run: &Run) {
        let trained = self.scores.iter().filter(|(epoch, _)| *epoch > 0);
        let headline = trained.filter_map(|(_, splits)| splits.iter().max_by_key(|(split, _)| *split));
        let all = headline.map(|(_, score)| score.primary()).filter(|metric| !metric.value.is_nan());
        let best = all.reduce(|best, metric| if metric.is_better_than(&best) { metric } else { best });
        if let Some((best, ended)) = best.zip(self.run.take()) {
            let sites = self.sites.drain(..).map(|site| site.now).collect();
            let at = self.earlier.iter().position(|of| best.is_better_than(&of.best));
            let earlier = Earlier { name: ended.name, best, sites };
            self.earlier.insert(at.unwrap_or(self.earlier.len()), earlier);
        }
        self.run = Some(run.clone());
        (self.pass, self.window, self.step, self.steps_per_epoch) = (None, None, None, None);
        self.scores.clear();
        self.windows.clear();
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
        // An interrupted epoch has only the training window, which differs from that of the others.
        let Some(of) = report.observed().filter(|of| Some(of.split) >= self.window) else { return };
        (self.window, self.step) = (Some(of.split), None);
        let mut before = std::mem::take(&mut self.sites);
        for layer in &of.layers {
            let known = before.iter().position(|site| site.now.site == layer.site);
            let mut past = known.map_or(Vec::new(), |i| before.swap_remove(i).past);
            if self.windows.is_empty() {
                past.push((f64::from(report.epoch), layer.zero_fraction, layer.dead_fraction()));
            }
            self.sites.push(Site { past, now: layer.clone() });
        }
    }

    pub fn step(&mut self, report: &StepReport) {
        let per_epoch = *self.steps_per_epoch.get_or_insert_with(|| {
            let training = self.pass.as_ref().filter(|pass| pass.split == Split::Train && pass.samples > 0);
            let samples = report.score.samples as f64 / report.steps as f64;
            training.map_or(report.step as f64, |pass| (pass.samples as f64 / samples).ceil())
        });
        let x = report.step as f64 / per_epoch;
        if self.windows.is_empty() {
            // Earlier epochs had another split.
            self.sites.iter_mut().for_each(|site| site.past.clear());
        }
        self.windows.push((x, report.score.clone()));
        self.step = Some(report.step);
        for of in &report.sites {
            let i = self.sites.iter().position(|site| site.now.site == of.site).unwrap_or(self.sites.len());
            if i == self.sites.len() {
                self.sites.push(Site { past: Vec::new(), now: LayerStats::default() });
            }
            self.sites[i].past.push((x, of.zero_fraction, of.dead_fraction()));
            update(&mut self.sites[i].now, of);
        }
    }

    pub fn warning(&mut self, warning: &Warning) {
        let run = self.run.as_ref().map_or("", |run| run.name.as_str());
        self.warnings.push(format!("warning: {run}: {warning}"));
    }

    /// The position of the run, in epochs.
    pub fn at(&self) -> f64 {
        let epoch = self.scores.last().map_or(0.0, |(epoch, _)| f64::from(*epoch));
        self.windows.last().map_or(epoch, |(x, _)| x.max(epoch))
    }

    /// The end of the axes over the run, in epochs: the planned number, halved while a fifth of the axis stays free, so
    /// that the first curves are visible.
    pub fn end(&self) -> f64 {
        let (at, planned) = (self.at(), self.run.as_ref().map_or(0, |run| run.epochs));
        let mut end = f64::from(planned).max(at.ceil()).max(1.0);
        while end > 2.5 * at && at > 0.0 {
            end /= 2.0;
        }
        end
    }

    pub fn elapsed(&self, now: Instant) -> Duration {
        self.started.map_or(Duration::ZERO, |start| now.saturating_duration_since(start))
    }

    /// Assumes that the rest takes as long per sample as the work so far, on average, because passes with and without
    /// gradients differ in speed.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let rest = self.planned.saturating_sub(self.done) as f64;
        let left = self.elapsed(now).as_secs_f64() / self.done as f64 * rest;
        Duration::try_from_secs_f64(left).ok().filter(|_| self.done > 0)
    }
}

/// Replaces the numbers of an epoch by those of a window of steps.
fn update(layer: &mut LayerStats, of: &SiteSteps) {
    layer.site.clone_from(&of.site);
    (layer.uses, layer.units) = (layer.uses.max(1), of.units);
    (layer.zero_fraction, layer.dead) = (of.zero_fraction, of.dead);
    (layer.mean, layer.variance) = (of.mean, of.std.map(|std| std * std));
    // Windows of steps do not have these.
    (layer.died, layer.revived, layer.skewness, layer.asymmetry) = (None, None, None, None);
}
