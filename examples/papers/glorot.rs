use anyhow::Result;
use taper::report::Split;
use taper_examples::{Point, Scatter, scatter_svg};

use crate::mlp::{mean_over_layers, train_mlps};
use crate::paper::{Outcome, Paper, Row, Seen, Setting};
use crate::runs::{mean_and_sd, minus, or_binomial};

pub const PAPER: Paper = Paper {
    name: "glorot",
    claim: "An L1 penalty on the activations of a rectifier network makes them sparse, and up to about 85 % zeros it does \
            not increase the test error.",
    source: "Glorot, Bordes & Bengio 2011, Deep Sparse Rectifier Neural Networks, AISTATS, figure 3 and table 1; numbers \
             quoted from summaries",
    minutes: 7.4,
    asserted: "zeros rise with the coefficient; the error of networks with at most 85 % zeros is within 0.5 points of \
               the best; that with the largest coefficient is not",
    run,
};

/// Coefficients of the penalty: a sum over the activations of a sample, a mean over the batch.
const COEFFICIENTS: [&str; 12] = [
    "0", "0.00001", "0.00003", "0.0001", "0.0002", "0.0005", "0.001", "0.0015", "0.002", "0.003", "0.004",
    "0.005",
];
/// The paper's coefficient, and its zeros and test error on MNIST, in percent.
const PUBLISHED: (&str, f64, f64) = ("0.001", 83.4, 1.43);
/// Zeros up to which the paper's error is flat, in percent, and how far from the best error that may be, in points.
const FLAT: (f64, f64) = (85.0, 0.5);
/// A step down of the zeros that is not a fall, in points.
const NOISE: f64 = 0.5;

/// Zeros of the hidden layers and test error in percent, for a coefficient: means and their standard deviations.
struct Measured {
    coefficient: &'static str,
    zeros: (f64, f64),
    error: (f64, f64),
}

fn run(setting: &Setting) -> Result<Outcome> {
    let seeds = setting.seeds.unwrap_or(1).to_string(); // the paper's 200 networks: 17
    let coefficients: Vec<&'static str> = match setting.quick {
        true => COEFFICIENTS.into_iter().step_by(11).collect(),
        false => COEFFICIENTS.to_vec(),
    };
    let length: &[&str] = match setting.quick {
        true => &["--epochs", "1", "--widths", "200,200,200", "--limit", "12000"],
        false => &["--epochs", "5", "--widths", "1000,1000,1000"],
    };
    let l1 = coefficients.join(",");
    let fixed = ["--net", "relu@0.05", "--optimizer", "momentum", "--scale", "unit", "--track", "counts"];
    let grid = ["--l1", &l1, "--seeds", &seeds];
    let runs = train_mlps(setting, "runs", &[length, &fixed, &grid].concat())?;
    let measured: Vec<Measured> = (coefficients.into_iter())
        .map(|coefficient| {
            let value = |text: &str| text.parse::<f64>().ok();
            let of = runs.iter().filter(|run| value(&run.label("l1")) == value(coefficient));
            let zeros = |test| 100.0 * mean_over_layers(test, |layer| Some(layer.zero_fraction));
            let both = of.map(|run| {
                (run.last(Split::Test).map_or(f64::NAN, zeros), 100.0 - run.accuracy(Split::Test))
            });
            let (zeros, errors): (Vec<f64>, Vec<f64>) = both.unzip();
            Measured { coefficient, zeros: mean_and_sd(&zeros), error: or_binomial(mean_and_sd(&errors)) }
        })
        .collect();
    let picture = picture(&measured)?;
    Ok(Outcome { rows: rows(&measured, setting.quick), picture })
}

fn rows(measured: &[Measured], quick: bool) -> Vec<Row> {
    let (paper, zeros, error) = PUBLISHED;
    let mut rows = Vec::new();
    for of in measured {
        let published = |x: f64| (of.coefficient == paper).then_some(x);
        let what = |of_what: &str| format!("L1 {}: {of_what}, %", of.coefficient);
        rows.push(Row::new(what("zeros"), of.zeros).published(published(zeros), Seen::Quoted));
        rows.push(Row::new(what("test error"), of.error).published(published(error), Seen::Memory));
    }
    let (Some(first), Some(last)) = (measured.first(), measured.last()) else { return rows };
    let rise = minus(last.zeros, first.zeros);
    rows.push(Row::new("largest coefficient minus none: zeros, points", rise).within(5.0, 100.0));
    if quick {
        return rows;
    }
    let steps = measured.windows(2).map(|pair| pair[1].zeros.0 - pair[0].zeros.0);
    let what = "smallest step of the zeros from a coefficient to the next, points";
    let smallest = steps.fold(f64::MAX, f64::min);
    rows.push(Row::new(what, (smallest, f64::NAN)).within(-NOISE, 100.0));

    let lowest = measured.iter().min_by(|a, b| a.error.0.total_cmp(&b.error.0)).unwrap_or(first);
    let flat = measured.iter().filter(|of| of.zeros.0 <= FLAT.0);
    let worst = flat.max_by(|a, b| a.error.0.total_cmp(&b.error.0)).unwrap_or(first);
    let above = |what: String, of: &Measured| Row::new(what, minus(of.error, lowest.error));
    let what = format!("at most {} % zeros: highest error minus the best, points", FLAT.0);
    rows.push(above(what, worst).within(0.0, FLAT.1));
    let what = "largest coefficient: error minus the best, points".into();
    rows.push(above(what, last).within(FLAT.1, 100.0));
    rows
}

fn picture(measured: &[Measured]) -> Result<String> {
    let point =
        |of: &Measured| Point { name: of.coefficient.into(), x: of.zeros.0, y: of.error.0, sd: of.error.1 };
    let panel = Scatter {
        title: "784-1000-1000-1000-10, named by the coefficient of the L1 penalty".into(),
        axis: "zeros of the hidden layers on the test images, %",
        points: measured.iter().map(point).collect(),
    };
    scatter_svg("Sparse activations and test error on MNIST", "test error, %", &[panel])
}
