use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use candle_core::{Device, Tensor};
use clap::Args;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use taper::data::ImageSet;
use taper::hooks::{Parts, Pass, Recorder, rng};
use taper::nn::{Mlp, MlpConfig, Model as _};
use taper::report::{EpochReport, Split, SplitReport};
use taper::train::{CROSS_ENTROPY, L2Init, Revive, classify, evaluate};
use taper_examples::pictures::{Chart, charts_svg};
use taper_experiment::{Sweep, Trial};

use crate::paper::{Outcome, Paper, Row, Seen, Setting};
use crate::runs::{OnMnist, Ran, as_text, mean_and_sd, train_on_mnist};

pub const PAPER: Paper = Paper {
    name: "permuted-mnist",
    claim: "A ReLU network that learns one task after another learns each later task worse, and its units die.",
    source: "Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood & Sutton 2024, Nature 632; the authors' programs, and the \
             curve of width 100 in the figure of their repository",
    minutes: 16.0,
    asserted: "online accuracy of plain SGD at tasks 0, 2, 20, 75 and 120, within 0.4 points; it has dead units at the \
               end, and continual backprop and ReDo have fewer",
    run,
};

/// The index of a task, its online accuracy in percent: the mean over its 60,000 images, of 10 runs.
const PUBLISHED: [(usize, f64); 5] = [(0, 92.25), (2, 93.2), (20, 91.3), (75, 88.9), (120, 88.0)];
/// In points.
const READING_ERROR: f64 = 0.4;
const HIDDEN: [usize; 3] = [100; 3];

struct Learner {
    title: &'static str,
    method: &'static str,
}

/// Continual backprop with the authors' rate and maturity; ReDo of dead units after every 10,000 images, as in Kumar et al.
/// 2024; L2 Init with the strength of their table 2.
const LEARNERS: [Learner; 4] = [
    Learner { title: "plain SGD", method: "none" },
    Learner { title: "continual backprop", method: "continual:0.0001:100" },
    Learner { title: "ReDo", method: "redo:0:10000" },
    Learner { title: "L2 Init", method: "l2-init:0.001" },
];
/// The first is task 0.
const TASKS: u32 = 121;
/// Images of a new task on which a unit must be 0 to be dead.
const DEAD_ON: usize = 2000;

/// Online permuted MNIST.
#[derive(Args, Serialize, Deserialize)]
struct Protocol {
    /// none, redo:TAU:PERIOD, continual:RATE:MATURITY or l2-init:LAMBDA
    #[arg(long)]
    method: Sweep<Method>,
}

/// What keeps the network able to learn.
#[derive(Clone, Copy, Debug)]
enum Method {
    Revive(Revive),
    L2Init(f64),
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("l2-init:") {
            Some(lambda) => taper_experiment::not_negative(lambda).map(Self::L2Init),
            None => text.parse().map(Self::Revive).map_err(|error: taper::train::Error| error.to_string()),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revive(revive) => revive.fmt(f),
            Self::L2Init(lambda) => write!(f, "l2-init:{lambda}"),
        }
    }
}
as_text!(Method);

/// MNIST with the pixels of all images in an order of the task's own.
struct Task<'a> {
    images: &'a ImageSet,
    order: Vec<usize>,
}

impl<'a> Task<'a> {
    fn new(images: &'a ImageSet, seed: u64, number: u32) -> Self {
        let (c, h, w) = images.shape();
        let mut order: Vec<usize> = (0..c * h * w).collect();
        order.shuffle(&mut rng(seed.rotate_left(32).wrapping_add(number.into())));
        Self { images, order }
    }

    /// # Shapes
    /// Pixels in `[0, 1]`, `(N, 784)`, and labels `(N)`, of the images in these rows.
    fn gather(&self, rows: &[usize]) -> candle_core::Result<(Tensor, Tensor)> {
        let (n, size, white) = (rows.len(), self.order.len(), f32::from(self.images.white()));
        let (mut pixels, mut labels) = (Vec::with_capacity(n * size), Vec::with_capacity(n));
        for row in rows {
            let image = &self.images.pixels()[row * size..][..size];
            pixels.extend(self.order.iter().map(|pixel| f32::from(image[*pixel]) / white));
            labels.push(self.images.labels()[*row]);
        }
        Ok((Tensor::from_vec(pixels, (n, size), &Device::Cpu)?, Tensor::from_vec(labels, n, &Device::Cpu)?))
    }
}

/// An epoch is a task. Its report has the online accuracy, and as the test split the first images of the next task.
fn learn(args: &OnMnist<Protocol>, trial: &mut Trial<'_, ImageSet>) -> taper_experiment::Result<()> {
    let (data, seed) = (trial.data, args.options.training.seed);
    let images = &data.train;
    let config = MlpConfig { widths: HIDDEN.to_vec(), ..MlpConfig::default() };
    let net = Mlp::new(&config, trial.params.builder())?;
    let mut l2_init = None;
    match *args.own.method {
        Method::Revive(revive) => trial.upkeep = revive.upkeep(net.links(), &trial.params, seed)?,
        Method::L2Init(lambda) => l2_init = Some(L2Init::new(&trial.params, lambda)?),
    }
    let classify = classify(&net);
    let step = |pass: &mut Pass<'_>, batch: &(Tensor, Tensor)| {
        if let Some(l2_init) = &l2_init {
            pass.add_to_loss(&l2_init.penalty()?)?;
        }
        classify(pass, batch)
    };
    trial.start(config.to_string(), CROSS_ENTROPY)?;
    while let Some(epoch) = trial.next_epoch()? {
        let task = Task::new(images, seed, epoch);
        trial.train_on(&step, |order, done| {
            let mut rows: Vec<usize> = (0..images.len()).collect();
            rows.shuffle(order);
            let task = &task;
            rows.into_iter().skip(done).map(move |row| task.gather(&[row]))
        })?;
        if let Some(session) = trial.session() {
            let (next, mut recorder) = (Task::new(images, seed, epoch + 1), Recorder::of(Parts::COUNTS));
            let rows: Vec<usize> = (0..DEAD_ON.min(images.len())).collect();
            let batches = rows.chunks(500).map(|rows| next.gather(rows));
            let report = evaluate(&step, Split::Test, batches, &mut recorder)?;
            session.add(SplitReport { layers: recorder.finish(), ..report });
        }
        trial.end_epoch()?;
    }
    Ok(())
}

/// Of a method and for each task, the mean over the seeds and its standard deviation: online accuracy in percent, and dead
/// units at the start. Of one run, the standard deviation is that between neighbouring tasks.
struct Curve {
    accuracy: Vec<(f64, f64)>,
    dead: Vec<(f64, f64)>,
}

impl Curve {
    fn of(runs: &[Ran], method: &str) -> Self {
        let runs: Vec<&Ran> = runs.iter().filter(|run| run.label("method") == method).collect();
        let tasks = runs.iter().map(|run| run.epochs.len() - 1).min().unwrap_or(0);
        let over_seeds = |first: usize, value: &dyn Fn(&EpochReport) -> f64| {
            let of_task = |task| runs.iter().map(|run| value(&run.epochs[task + first])).collect::<Vec<_>>();
            let series: Vec<(f64, f64)> = (0..tasks).map(|task| mean_and_sd(&of_task(task))).collect();
            let of_one = sd_between_neighbours(&series);
            series.into_iter().map(|(mean, sd)| (mean, if sd.is_nan() { of_one } else { sd })).collect()
        };
        Self { accuracy: over_seeds(1, &online_accuracy), dead: over_seeds(0, &dead_units) }
    }
}

/// The standard deviation of one value of a series whose mean changes slowly, from the differences of neighbours.
fn sd_between_neighbours(series: &[(f64, f64)]) -> f64 {
    let squares: Vec<f64> = series.windows(2).map(|pair| (pair[1].0 - pair[0].0).powi(2) / 2.0).collect();
    (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
}

fn online_accuracy(report: &EpochReport) -> f64 {
    let of = report.splits.iter().find(|of| of.split == Split::Train);
    100.0 * of.and_then(|of| of.score.metric("accuracy")).unwrap_or(f64::NAN)
}

fn dead_units(report: &EpochReport) -> f64 {
    let of = report.splits.iter().filter(|of| of.split == Split::Test);
    of.flat_map(|of| &of.layers).map(|layer| layer.dead.unwrap_or(0) as f64).sum()
}

fn run(setting: &Setting) -> Result<Outcome> {
    let learners = &LEARNERS[..if setting.quick { 2 } else { LEARNERS.len() }];
    let methods: Vec<&str> = learners.iter().map(|of| of.method).collect();
    let (methods, seeds) = (methods.join(","), setting.seeds.unwrap_or(1).to_string());
    let tasks = if setting.quick { "2".into() } else { TASKS.to_string() };
    let options = ["--method", &methods, "--seeds", &seeds, "--epochs", &tasks, "--batch-size", "1"];
    let fixed =
        ["--optimizer", "sgd", "--lr", "0.003", "--schedule", "constant", "--track", "off", "--jobs", "2"];
    let data = ["--scale", "unit"];
    let trained = train_on_mnist(setting, &[&options[..], &fixed[..], &data[..]].concat(), learn)?;

    let curves: Vec<(&Learner, Curve)> =
        learners.iter().map(|of| (of, Curve::of(&trained, of.method))).collect();
    let (mut rows, plain) = (Vec::new(), &curves[0].1);
    let mut published = vec![f64::NAN; plain.accuracy.len()];
    for (task, value) in PUBLISHED {
        let Some(measured) = plain.accuracy.get(task) else { continue };
        published[task] = value;
        let what = format!("plain SGD, task {task}: online accuracy, %");
        rows.push(Row::new(what, *measured).published(value, Seen::Figure).near(READING_ERROR));
    }
    // A single task of a single run differs from the published mean of ten runs.
    if let (Some(tasks), Some((task, value))) = (plain.accuracy.last_chunk::<10>(), PUBLISHED.last()) {
        let mean = tasks.iter().map(|(accuracy, _)| accuracy).sum::<f64>() / tasks.len() as f64;
        let what = format!("plain SGD, the ten tasks up to {task}: online accuracy, %");
        let sd = tasks[0].1 / (tasks.len() as f64).sqrt();
        rows.push(Row::new(what, (mean, sd)).published(*value, Seen::Figure));
    }
    for (Learner { title, .. }, curve) in &curves {
        let last = curve.accuracy.len() - 1;
        let what = format!("{title}, task {last}: dead units of {}", HIDDEN.iter().sum::<usize>());
        let row = Row::new(what, curve.dead[last]);
        rows.push(match *title {
            _ if setting.quick => row,
            "plain SGD" => row.within(1.0, f64::INFINITY),
            "continual backprop" | "ReDo" => row.within(0.0, plain.dead[last].0 - 1.0),
            _ => row,
        });
        if *title != "plain SGD" {
            let what = format!("{title}, task {last}: online accuracy, %");
            rows.push(Row::new(what, curve.accuracy[last]));
        }
    }
    let lines = |values: &dyn Fn(&Curve) -> &Vec<(f64, f64)>| {
        let line = |(of, curve): &(&Learner, Curve)| {
            (of.title.to_string(), values(curve).iter().map(|(mean, _)| *mean).collect())
        };
        curves.iter().map(line).collect::<Vec<(String, Vec<f64>)>>()
    };
    let mut accuracy = lines(&|curve| &curve.accuracy);
    accuracy.push(("plain SGD, published, read off the figure".into(), published));
    let dead = lines(&|curve| &curve.dead);
    let chart = |title, lines| Chart { title, axis: "task", meaning: "", log: false, lines };
    let charts = [chart("online accuracy, %", accuracy), chart("dead units at the start of a task", dead)];
    Ok(Outcome { rows, picture: charts_svg("Online permuted MNIST, three hidden layers of 100", &charts)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_task_moves_the_pixels_of_all_images_in_the_same_way() {
        let pixels = (0..6).chain(6..12).collect();
        let images = ImageSet::new("images", (1, 2, 3), 255, 2, pixels, vec![0, 1]).unwrap();
        let task = |number| Task::new(&images, 1, number).gather(&[1, 0]).unwrap();
        let (xs, labels) = task(3);
        assert_eq!((xs.dims(), labels.to_vec1::<u32>().unwrap()), (&[2, 6][..], vec![1, 0]));
        let rows = (xs * 255.0).unwrap().to_vec2::<f32>().unwrap();
        assert!(rows[0].iter().zip(&rows[1]).all(|(a, b)| (a - b - 6.0).abs() < 1e-4), "{rows:?}");
        let mut sorted = rows[1].iter().map(|x| x.round() as u8).collect::<Vec<_>>();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
        let values = |number| task(number).0.to_vec2::<f32>().unwrap();
        assert!(values(3) == values(3) && (4..9).any(|number| values(number) != values(3)));
    }
}
