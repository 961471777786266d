use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::json;
use taper::data::Samples;
use taper::kernels::{grouped_linear, with_values};
use taper::nn::{Act, Activation, Model, Pass};
use taper::report::{Metric, MetricKind};
use taper::train::{Step, mse};
use taper_examples::pictures::{Chart, charts_svg};
use taper_experiment::{Data, Error, Options, Setup, Sweep, Trial};

use crate::paper::{Outcome, Paper, Row, Seen, Setting};
use crate::runs::{Ran, as_text, mean_and_sd, minus, train};
use crate::stream::{INPUTS, Problem, Variant};

pub const PAPER: Paper = Paper {
    name: "changing-regression",
    claim: "On a slowly changing problem a ReLU network with a large step size learns worse and worse, until a linear \
            function is better.",
    source: "Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood & Sutton 2024, Nature 632; the authors' programs and the \
             figure in their repository",
    minutes: 2.1,
    asserted: "the data of prob.json: five points of each of five curves, within the reading error and 2 standard \
               deviations; at the end ReLU at 0.01 is worse than linear",
    run,
};

/// Steps of a point of a curve, as in the figure: an epoch.
const BIN: usize = 20_000;
/// The metric with the standard deviation of the loss, a mean over runs.
const SD: &str = "sd_of_mean";
/// Runs of the figure.
const PUBLISHED_RUNS: f64 = 100.0;

/// A curve of the figure: the learner, its step size, and points: the first step in thousands, the squared error, and the
/// reading error.
struct Published {
    title: &'static str,
    curve: &'static str,
    points: [(u32, f64, f64); 5],
}

#[rustfmt::skip]
const CURVES: [Published; 5] = [
    Published { title: "ReLU, step size 0.01", curve: "relu@0.01",
        points: [(0, 0.62, 0.02), (80, 0.84, 0.04), (200, 1.00, 0.03), (700, 1.28, 0.04), (980, 1.21, 0.03)] },
    Published { title: "ReLU, step size 0.003", curve: "relu@0.003",
        points: [(0, 0.71, 0.02), (100, 0.72, 0.02), (200, 0.82, 0.03), (500, 0.96, 0.03), (980, 1.10, 0.04)] },
    Published { title: "ReLU, step size 0.001", curve: "relu@0.001",
        points: [(0, 0.84, 0.02), (40, 0.72, 0.02), (300, 0.83, 0.03), (500, 0.85, 0.02), (980, 0.875, 0.03)] },
    Published { title: "tanh, step size 0.01", curve: "tanh@0.01",
        points: [(0, 0.43, 0.02), (100, 0.61, 0.02), (200, 0.69, 0.03), (500, 0.86, 0.03), (980, 0.90, 0.03)] },
    Published { title: "linear, step size 0.01", curve: "linear@0.01",
        points: [(0, 0.87, 0.02), (200, 0.91, 0.03), (500, 0.89, 0.03), (700, 0.92, 0.03), (980, 0.87, 0.03)] },
];

/// Learners of the slowly changing regression problem.
#[derive(Parser, Serialize, Deserialize)]
#[command(name = "changing-regression")]
struct Protocol {
    /// Learner and step size: relu@0.01, linear@0.01
    #[arg(long)]
    curve: Sweep<Curve>,
    /// What changes, and the number of runs: prob:100, flip_one:30
    #[arg(long)]
    problem: Sweep<Runs>,
    #[command(flatten)]
    #[serde(flatten)]
    options: Options,
}

/// A learner, whose hidden layer of 5 units has a function or, for `None`, does not exist; and its step size.
#[derive(Clone, Debug)]
struct Curve {
    hidden: Option<Activation>,
    rate: f64,
}

/// A variant of the problem, for some runs at once.
#[derive(Clone, Copy, Debug)]
struct Runs {
    variant: Variant,
    runs: usize,
}

impl FromStr for Curve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (learner, rate) = text.split_once('@').ok_or("expected LEARNER@STEP SIZE")?;
        let hidden = match learner {
            "linear" => None,
            name => Some(name.parse().map_err(|error: taper::kernels::Error| error.to_string())?),
        };
        Ok(Self { hidden, rate: rate.parse().map_err(|_| format!("expected a step size, found '{rate}'"))? })
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hidden {
            Some(function) => write!(f, "{function}@{}", self.rate),
            None => write!(f, "linear@{}", self.rate),
        }
    }
}

impl FromStr for Runs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (variant, runs) = text.split_once(':').ok_or("expected VARIANT:RUNS")?;
        Ok(Self { variant: variant.parse()?, runs: taper_experiment::size(runs)? })
    }
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.variant, self.runs)
    }
}

as_text!(Curve);
as_text!(Runs);

/// The positions of the steps of a bin. The inputs of a step are different in every run: see [`Problem::steps`].
struct Bin;

impl Samples for Bin {
    type Batch = Vec<usize>;

    fn count(&self) -> usize {
        BIN
    }

    fn gather(&self, rows: &[usize]) -> taper::data::Result<Vec<usize>> {
        Ok(rows.to_vec())
    }
}

/// 20-5-1, or 20-1 without a hidden layer, for each of R runs.
struct Learners {
    hidden: Option<(Layer, Act)>,
    out: Layer,
}

/// Weights `(R, O, I)` and biases `(R, O)`.
struct Layer {
    weight: Tensor,
    bias: Tensor,
}

impl Layer {
    /// PyTorch's `kaiming_uniform_` with this gain, and biases of 0.
    fn new(runs: usize, (i, o): (usize, usize), gain: f64, vb: VarBuilder<'_>) -> candle_core::Result<Self> {
        let bound = gain * (3.0 / i as f64).sqrt();
        let uniform = candle_nn::Init::Uniform { lo: -bound, up: bound };
        let weight = vb.get_with_hints((runs, o, i), "weight", uniform)?;
        Ok(Self { weight, bias: vb.get_with_hints((runs, o), "bias", candle_nn::Init::Const(0.0))? })
    }

    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        grouped_linear(xs, &self.weight, Some(&self.bias))
    }
}

impl Learners {
    const UNITS: usize = 5;

    fn new(curve: &Curve, runs: usize, vb: VarBuilder<'_>) -> candle_core::Result<Self> {
        let Some(function) = curve.hidden else {
            return Ok(Self { hidden: None, out: Layer::new(runs, (INPUTS, 1), 1.0, vb.pp("fc1"))? });
        };
        // PyTorch's `calculate_gain`.
        let gain = if function == Activation::Tanh { 5.0 / 3.0 } else { 2.0_f64.sqrt() };
        let layer = Layer::new(runs, (INPUTS, Self::UNITS), gain, vb.pp("fc1"))?;
        let hidden = Some((layer, Act::new(function, vb.pp("fc1"))?));
        Ok(Self { hidden, out: Layer::new(runs, (Self::UNITS, 1), 1.0, vb.pp("fc2"))? })
    }
}

impl Model for Learners {
    /// # Shapes
    /// `xs`: `(N, R, 20)`; the result is `(N, R, 1)`. The site `fc1` has the units of all runs, `(N, R · 5)`.
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let Some((layer, act)) = &self.hidden else { return self.out.forward(xs) };
        let ys = layer.forward(xs)?;
        let units = act.forward(pass, &ys.flatten_from(1)?)?;
        self.out.forward(&units.reshape(ys.dims())?)
    }
}

fn load(_: &mut Protocol, _: &Setup<'_>) -> taper_experiment::Result<Data<Bin>> {
    let (name, identity) = ("changing-regression".into(), json!("see the label problem"));
    Ok(Data { name, train: Bin, validation: None, test: None, identity })
}

fn learn(args: &Protocol, trial: &mut Trial<'_, Bin>) -> taper_experiment::Result<()> {
    let (curve, Runs { variant, runs }) = (&*args.curve, *args.problem);
    let problem = Problem::new(variant, runs, args.options.training.seed);
    let net = Learners::new(curve, runs, trial.params.builder())?;
    // The loss is the mean over the runs, of which each gets 1/R of its own gradient.
    trial.optimizer.learning_rate = curve.rate * runs as f64;
    let errors = Mutex::new(vec![0.0_f64; runs]);
    let locked = || errors.lock().unwrap_or_else(PoisonError::into_inner);
    let step = |pass: &mut Pass<'_>, (xs, targets): &(Tensor, Tensor)| {
        let ys = net.forward(pass, xs)?;
        with_values(&ys, |ys| {
            with_values(targets, |targets| {
                for ((sum, y), target) in locked().iter_mut().zip(ys).zip(targets) {
                    *sum += f64::from(y - target).powi(2);
                }
            })
        })??;
        Ok(Step::new(mse(&ys, targets)?, 1))
    };
    trial.start(format!("{runs} times {curve}"), "squared error, mean over the runs")?;
    while let Some(epoch) = trial.next_epoch()? {
        if let Some(session) = trial.session() {
            // A run that was interrupted within a bin has its sums in the checkpoint.
            *locked() = match session.progress().batches() {
                0 => vec![0.0; runs],
                _ => {
                    serde_json::from_value(session.own.take()).map_err(|error| Error::Other(error.into()))?
                }
            };
        }
        let first = u64::from(epoch).saturating_sub(1) * BIN as u64;
        trial.train_on(&step, |_, done| problem.steps(first + done as u64..first + BIN as u64))?;
        if let Some(session) = trial.session().filter(|_| epoch > 0) {
            let sums = locked();
            session.own = json!(*sums);
            if session.progress().batches() == BIN as u64 {
                let means: Vec<f64> = sums.iter().map(|sum| sum / BIN as f64).collect();
                let (name, value) = (SD.into(), mean_and_sd(&means).1);
                let mut report = session.progress().report();
                report.score.metrics.push(Metric { name, kind: MetricKind::Lower, value });
                session.add(report);
            }
        }
        trial.end_epoch()?;
    }
    Ok(())
}

/// Squared error and its standard deviation in every bin of the run with these labels.
fn bins(runs: &[Ran], curve: &str, problem: &str) -> Vec<(f64, f64)> {
    let run = runs.iter().find(|run| run.label("curve") == curve && run.label("problem") == problem);
    let reports = run.iter().flat_map(|run| &run.epochs).flat_map(|report| &report.splits);
    reports.map(|of| (of.score.loss, of.score.metric(SD).unwrap_or(f64::NAN))).collect()
}

fn run(setting: &Setting) -> Result<Outcome> {
    let runs = |runs| setting.seeds.unwrap_or(if setting.quick { 10 } else { runs });
    let (bins_each, prob) = (if setting.quick { "3" } else { "50" }, format!("prob:{}", runs(100)));
    let flip_one = format!("flip_one:{}", runs(30));
    let problems = if setting.quick { prob.clone() } else { format!("{prob},{flip_one}") };
    let curves = CURVES.map(|of| of.curve).join(",");
    let options = ["--curve", &curves, "--problem", &problems, "--epochs", bins_each, "--batch-size", "1"];
    let fixed = ["--optimizer", "sgd", "--schedule", "constant", "--track", "off", "--jobs", "2"];
    let trained = train(setting, &[&options[..], &fixed[..]].concat(), load, learn)?;

    let (mut rows, mut charts) = (Vec::new(), Vec::new());
    for Published { title, curve, points } in CURVES {
        let of_prob = bins(&trained, curve, &prob);
        let of_flip_one = bins(&trained, curve, &flip_one);
        let mut published = vec![f64::NAN; of_prob.len()];
        for (at, value, reading) in points {
            let bin = at as usize * 1000 / BIN;
            let Some(&(measured, sd)) = of_prob.get(bin) else { continue };
            published[bin] = value;
            // The published mean has a standard deviation too: that of our runs, scaled to theirs.
            let apart = sd * (1.0 + runs(100) as f64 / PUBLISHED_RUNS).sqrt();
            let what = format!("{title}: squared error from step {at},000");
            let row = Row::new(what, (measured, sd)).published(value, Seen::Figure);
            rows.push(row.near(reading + 2.0 * apart));
        }
        if let Some(last) = of_flip_one.last() {
            let what = format!("{title}, one bit flipped: squared error of the last bin");
            rows.push(Row::new(what, *last));
        }
        let values = |bins: Vec<(f64, f64)>| bins.into_iter().map(|(value, _)| value).collect::<Vec<_>>();
        charts.push(Chart {
            title,
            axis: "bin of 20,000 steps",
            meaning: "",
            log: false,
            lines: vec![
                ("published, read off the figure".into(), published),
                ("measured, 15 bits drawn".into(), values(of_prob)),
                ("measured, one bit flipped".into(), values(of_flip_one)),
            ],
        });
    }
    if !setting.quick {
        let last = |curve: &str| bins(&trained, curve, &prob).last().copied().unwrap_or((f64::NAN, f64::NAN));
        let what = "ReLU minus linear, step size 0.01: squared error of the last bin";
        let row = Row::new(what, minus(last("relu@0.01"), last("linear@0.01")));
        rows.push(row.published(1.21 - 0.87, Seen::Figure).above_zero());
    }
    let picture = charts_svg("Squared error on a slowly changing problem", &charts)?;
    Ok(Outcome { rows, picture })
}
