//! What recording everything costs of training: `TAPER_DATA=DIR cargo bench -p taper --bench recording --profile dev`,
//! with parts of names behind `--` to run some of the cases only.
//!
//! One process trains a network, and every other turn of some steps is recorded. What else the machine does then hits
//! both alike, where two processes one after the other may differ by more than what is asked for. Steps that end a window of
//! steps are apart: what they cost more, times their share in five epochs of MNIST, is a column of its own. Left out is the
//! time in which an epoch's sums are made into its numbers.

#![allow(missing_docs)]

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use candle_core::{Device, Result};
use taper::data::{Choice, Dataset, Options};
use taper::hooks::{Activation, Observer, Recorder, Seen, rng};
use taper::nn::{Cnn, CnnConfig, Mlp, MlpConfig, Model, Params};
use taper::report::SiteSteps;
use taper::train::{Optimizer, OptimizerConfig, Progress, Rule, classify, train_batches};

// As in the `mnist` example.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 128;

/// Share of the steps of five epochs of 469 that end a window.
const ENDS: f64 = 415.0 / 2345.0;

struct Case {
    name: &'static str,
    activation: Activation,
    rule: Rule,
    learning_rate: f64,
    /// In an epoch.
    samples: usize,
    epochs: usize,
    /// Steps before the recorder is switched on or off.
    turn: usize,
}

fn main() -> anyhow::Result<()> {
    let Some(dir) = std::env::var_os("TAPER_DATA") else {
        println!("skipped: set TAPER_DATA to the directory of the MNIST files");
        return Ok(());
    };
    // Cargo runs benchmarks in the directory of their crate; a relative path is one from the root.
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(dir);
    let options = Options { data_dir: Some(dir), download: false, ..Default::default() };
    let mnist = taper::data::load(Choice::Mnist, &options, &mut |_| {})?;
    let (sgd, adamw) = (Rule::SGD, Rule::adamw(0.01));
    let mlp = Case {
        name: "mlp/sgd",
        activation: Activation::Relu,
        rule: sgd,
        learning_rate: 0.05,
        samples: 60_000,
        epochs: 21,
        turn: 16,
    };
    let cases = [
        Case { name: "mlp/adamw", rule: adamw, learning_rate: 0.001, ..mlp },
        Case { name: "mlp1000/sgd", samples: 20_000, epochs: 11, ..mlp },
        Case { name: "mlp/sgd/tanh", activation: Activation::Tanh, ..mlp },
        Case { name: "mlp/sgd/selu", activation: Activation::Selu, ..mlp },
        Case { name: "cnn/sgd", samples: 7680, epochs: 7, turn: 4, ..mlp },
    ];
    let cases: Vec<Case> = [mlp].into_iter().chain(cases).collect();
    let parts: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_chosen =
        |case: &&Case| parts.is_empty() || parts.iter().any(|part| case.name.contains(part.as_str()));
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    anyhow::ensure!(
        cases.iter().any(|case| is_chosen(&case)),
        "expected parts of {}, found {}",
        names.join(", "),
        parts.join(", ")
    );
    println!(
        "microseconds a step, medians over all; costs in per cent, of turns against the next ones, medians and quartiles over epochs\n{:12} {:>9} {:>9} {:>6} {:>13} {:>15} {:>14}",
        "", "off", "full", "cost", "quartiles", "recorder's own", "step windows"
    );
    cases.iter().filter(is_chosen).try_for_each(|case| case.run(&mnist))
}

impl Case {
    fn network(&self, params: &Params) -> Result<Box<dyn Model + Send + Sync>> {
        let widths = match self.name.split('/').next() {
            Some("cnn") => return Ok(Box::new(Cnn::new(&CnnConfig::default(), params.builder())?)),
            Some("mlp1000") => vec![1000; 3],
            _ => vec![512, 256],
        };
        let config = MlpConfig { widths, activation: self.activation, ..Default::default() };
        Ok(Box::new(Mlp::new(&config, params.builder())?))
    }

    fn run(&self, mnist: &Dataset) -> anyhow::Result<()> {
        let params = Params::new(1, &Device::Cpu);
        let network = self.network(&params)?;
        let config = OptimizerConfig::new(self.rule, self.learning_rate);
        let (mut optimizer, mut rng) = (Optimizer::new(params.vars(), config)?, rng(2));
        let split = mnist.train.clone().take(self.samples);
        let (mut off, mut full, mut costs, mut own) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut ends, ended) = (Vec::new(), AtomicBool::new(false));
        let mut progress = [Progress::default(), Progress::with_windows()];
        for epoch in 0..=self.epochs {
            let (records, clock) = (AtomicBool::new(false), AtomicU64::new(0));
            let mut observer =
                InTurns { recorder: Recorder::new(), records: &records, clock: &clock, ended: &ended };
            let (mut turns, mut observing, mut begin) = (Vec::<Turn>::new(), Vec::new(), Instant::now());
            let batches = split.shuffled(&mut rng, BATCH).enumerate().map(|(i, batch)| {
                let end = Instant::now();
                let (nanoseconds, ended) = (clock.swap(0, Relaxed), ended.swap(false, Relaxed));
                // The first step after a switch finds the caches as the other kind left them.
                if let Some(turn) = turns.last_mut()
                    && (i - 1) % self.turn > 0
                {
                    let time = (end - begin).as_secs_f64() * 1e6;
                    if ended && epoch > 0 {
                        ends.push(time)
                    } else {
                        turn.steps.push(time)
                    }
                    if turn.recorded {
                        observing.push(nanoseconds as f64 / 1e3);
                    }
                }
                begin = end;
                if i % self.turn == 0 {
                    let recorded = (i / self.turn + epoch) % 2 == 1;
                    records.store(recorded, Relaxed);
                    turns.push(Turn { recorded, steps: Vec::new() });
                }
                batch
            });
            let mut batches = batches.peekable();
            while batches.peek().is_some() {
                let progress = &mut progress[usize::from(records.load(Relaxed))];
                let turn = batches.by_ref().take(self.turn);
                train_batches(&classify(&*network), &mut optimizer, turn, &mut observer, 2, progress)?;
                progress.take_windows();
            }
            drop(batches);
            turns.pop(); // which the epoch has cut short
            // The first epoch finds nothing where it will lie later.
            if epoch > 0 {
                let ratios: Vec<f64> = turns.windows(2).filter_map(|pair| pair[0].cost(&pair[1])).collect();
                if !ratios.is_empty() {
                    costs.push(100.0 * (quantile(&ratios, 0.5) - 1.0));
                }
                let (recorded, not): (Vec<Turn>, Vec<Turn>) =
                    turns.into_iter().partition(|turn| turn.recorded);
                off.extend(not.into_iter().flat_map(|turn| turn.steps));
                full.extend(recorded.into_iter().flat_map(|turn| turn.steps));
                own.push(100.0 * quantile(&observing, 0.5) / quantile(&off, 0.5));
            }
        }
        let middle = |values: &[f64]| quantile(values, 0.5);
        let quartiles = format!("{:.1} to {:.1}", quantile(&costs, 0.25), quantile(&costs, 0.75));
        println!(
            "{:12} {:9.1} {:9.1} {:6.2} {quartiles:>13} {:15.2} {:14.2}",
            self.name,
            middle(&off),
            middle(&full),
            middle(&costs),
            middle(&own),
            100.0 * ENDS * (middle(&ends) - middle(&full)) / middle(&off)
        );
        Ok(())
    }
}

/// Steps with the recorder on or off, in microseconds.
struct Turn {
    recorded: bool,
    steps: Vec<f64>,
}

impl Turn {
    /// How many times as long steps with the recorder on take, from this turn and the next, unless all steps of one ended
    /// windows.
    fn cost(&self, next: &Self) -> Option<f64> {
        let (full, off) = if self.recorded { (self, next) } else { (next, self) };
        let measured = !full.steps.is_empty() && !off.steps.is_empty();
        measured.then(|| quantile(&full.steps, 0.5) / quantile(&off.steps, 0.5))
    }
}

/// A recorder that observes only while it is switched on.
struct InTurns<'a> {
    recorder: Recorder,
    records: &'a AtomicBool,
    /// Nanoseconds that it has taken.
    clock: &'a AtomicU64,
    /// Whether a window of steps has ended.
    ended: &'a AtomicBool,
}

impl Observer for InTurns<'_> {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        if self.records.load(Relaxed) {
            let start = Instant::now();
            self.recorder.observe(seen)?;
            self.clock.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        }
        Ok(())
    }

    fn non_finite(&self) -> u64 {
        self.recorder.non_finite()
    }

    fn end_window(&mut self) -> candle_core::Result<Vec<SiteSteps>> {
        self.ended.store(true, Relaxed);
        self.recorder.end_window()
    }
}

/// The value that a share `q` of all are below, between two of them in proportion.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() - 1) as f64 * q;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}
