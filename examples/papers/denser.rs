use anyhow::Result;
use taper::report::{LayerStats, Split};
use taper_examples::{Point, Scatter, scatter_svg};

use crate::mlp::{mean_over_layers, train_mlps};
use crate::paper::{Outcome, Paper, Row, Seen, Setting};
use crate::runs::{Ran, mean_and_sd, minus};

pub const PAPER: Paper = Paper {
    name: "denser",
    claim: "Image classification is better with denser activations: a negative slope instead of zeros (Xu), noise that \
            makes activations denser instead of sparser (Sparseout).",
    source: "Xu, Wang, Chen & Li 2015, arXiv 1505.00853; Khan & Stavness 2019, arXiv 1904.08050; both on CIFAR",
    minutes: 5.9,
    asserted: "the mechanisms, by more than 2 standard deviations: leaky ReLU with slope 0.18 is denser (Hoyer) than ReLU; \
               with Sparseout the last hidden layer, the features of a linear model, is sparser with q = 1 than with q = 3. \
               The accuracies are reported, because those of the papers are of CIFAR",
    run,
};

/// The paper's functions, and the published accuracy on CIFAR-10 minus that of ReLU, in points. The slopes are 1/100
/// and 1/5.5; that of PReLU is learned.
const SLOPES: [(&str, &str, Option<f64>); 4] = [
    ("relu", "ReLU", None),
    ("leaky_relu:0.01", "leaky ReLU, slope 0.01", Some(-0.21)),
    ("leaky_relu:0.18182", "leaky ReLU, slope 0.18", Some(1.25)),
    ("prelu", "PReLU", Some(0.66)),
];
/// Exponents of Sparseout; 2 is dropout.
const EXPONENTS: [&str; 3] = ["1", "2", "3"];

/// Rate of the noise, as of dropout: that of the authors' example.
const RATE: &str = "0.5";

/// Networks of one kind: means and their standard deviations.
struct Measured {
    name: String,
    /// On the test images, in percent.
    accuracy: (f64, f64),
    zeros: (f64, f64),
    /// Hoyer's sparseness, mean over the hidden layers, and of the last of them.
    hoyer: (f64, f64),
    last: (f64, f64),
}

impl Measured {
    fn new<'a>(name: String, runs: impl Iterator<Item = &'a Ran>) -> Self {
        let runs: Vec<&Ran> = runs.collect();
        let mean =
            |value: &dyn Fn(&Ran) -> f64| mean_and_sd(&runs.iter().map(|run| value(run)).collect::<Vec<_>>());
        let layers = |of: fn(&LayerStats) -> Option<f64>| {
            mean(&|run| run.last(Split::Test).map_or(f64::NAN, |test| mean_over_layers(test, of)))
        };
        Self {
            name,
            accuracy: mean(&|run| run.accuracy(Split::Test)),
            zeros: layers(|layer| Some(100.0 * layer.zero_fraction)),
            hoyer: layers(|layer| layer.hoyer),
            last: mean(&|run| last_hoyer(run).unwrap_or(f64::NAN)),
        }
    }
}

fn last_hoyer(run: &Ran) -> Option<f64> {
    run.last(Split::Test)?.layers.last()?.hoyer
}

fn run(setting: &Setting) -> Result<Outcome> {
    let seeds = setting.seeds.unwrap_or(if setting.quick { 3 } else { 6 }).to_string();
    let length: &[&str] = match setting.quick {
        true => &["--epochs", "4", "--widths", "128,64", "--limit", "5000"],
        false => &["--epochs", "20", "--limit", "10000"],
    };
    let common = [length, &["--seeds", &seeds]].concat();
    let nets = SLOPES.map(|(function, ..)| format!("{function}@0.001"));
    let runs = train_mlps(setting, "slopes", &[&common[..], &["--net", &nets.join(",")]].concat())?;
    let named = SLOPES.iter().zip(&nets);
    let slopes: Vec<Measured> = named
        .map(|((_, name, _), net)| {
            Measured::new(name.to_string(), runs.iter().filter(|run| run.label("net") == *net))
        })
        .collect();
    let exponents = EXPONENTS.join(",");
    let sparseout = ["--net", &nets[0], "--q", &exponents, "--rate", RATE];
    let runs = train_mlps(setting, "sparseout", &[&common[..], &sparseout].concat())?;
    let noises: Vec<Measured> = EXPONENTS
        .iter()
        .map(|q| {
            let is = |run: &&Ran| run.label("q").parse::<f64>().ok() == q.parse().ok();
            Measured::new(format!("ReLU, q = {q}"), runs.iter().filter(is))
        })
        .collect();
    let picture = picture(&slopes, &noises)?;
    Ok(Outcome { rows: rows(&slopes, &noises, setting.quick), picture })
}

fn rows(slopes: &[Measured], noises: &[Measured], quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for of in slopes.iter().chain(noises) {
        rows.push(Row::new(format!("{}: test accuracy, %", of.name), of.accuracy));
        let (name, hoyer) = (&of.name, of.hoyer.0);
        rows.push(Row::new(format!("{name}: zeros, % (Hoyer {hoyer:.3})"), of.zeros));
    }
    let relu = &slopes[0];
    for ((.., published), of) in SLOPES.iter().zip(slopes).skip(1) {
        let what = format!("{} minus ReLU: accuracy, points (published: CIFAR-10)", of.name);
        rows.push(Row::new(what, minus(of.accuracy, relu.accuracy)).published(*published, Seen::Memory));
    }
    let what = format!("ReLU minus {}: Hoyer sparseness", slopes[2].name);
    rows.push(Row::new(what, minus(relu.hoyer, slopes[2].hoyer)).above_zero());

    let [sparse, dropout, dense] = noises else { return rows };
    for (a, b) in [(dense, dropout), (sparse, dropout), (dense, sparse)] {
        let what = format!("{} minus {}: accuracy, points", a.name, b.name);
        rows.push(Row::new(what, minus(a.accuracy, b.accuracy)));
    }
    for (a, b) in [(sparse, dropout), (dropout, dense)] {
        let what = format!("{} minus {}: Hoyer sparseness, last hidden layer", a.name, b.name);
        rows.push(Row::new(what, minus(a.last, b.last)));
    }
    let what = format!("{} minus {}: Hoyer sparseness, last hidden layer", sparse.name, dense.name);
    let row = Row::new(what, minus(sparse.last, dense.last));
    // A few epochs are too short for it.
    rows.push(if quick { row } else { row.above_zero() });
    rows
}

fn picture(slopes: &[Measured], noises: &[Measured]) -> Result<String> {
    let panel = |title: &str, nets: &[&Measured]| Scatter {
        title: title.into(),
        axis: "Hoyer sparseness of the hidden layers on the test images",
        points: nets
            .iter()
            .map(|net| Point {
                name: net.name.clone(),
                x: net.hoyer.0,
                y: net.accuracy.0,
                sd: net.accuracy.1,
            })
            .collect(),
    };
    let with_relu: Vec<&Measured> = slopes.iter().take(1).chain(noises).collect();
    let panels = [
        panel("slope below zero (Xu 2015)", &slopes.iter().collect::<Vec<_>>()),
        panel("Sparseout with exponent q; q = 2 is dropout", &with_relu),
    ];
    scatter_svg("Dense or sparse activations, MNIST", "test accuracy, %", &panels)
}
