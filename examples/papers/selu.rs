use anyhow::Result;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use clap::Args;
use serde::{Deserialize, Serialize};
use taper::data::ImageSet;
use taper::nn::{Act, Activation, Conv2d, Conv2dConfig, Init, Mlp, MlpConfig, Model, Pass, max_pool2d};
use taper::report::Split;
use taper::train::{CROSS_ENTROPY, classify};
use taper_examples::pictures::{Chart, charts_svg};
use taper_experiment::{Error, Sweep, Trial};

use crate::paper::{Outcome, Paper, Row, Seen, Setting};
use crate::runs::{OnMnist, Ran, minus, or_binomial, over_seeds, train_on_mnist};

pub const PAPER: Paper = Paper {
    name: "selu",
    claim: "SELU networks with their own initialisation learn faster than ReLU networks and become more accurate.",
    source: "Klambauer, Unterthiner, Mayr & Hochreiter 2017, arXiv 1706.02515; the outputs in the authors' two PyTorch \
             notebooks for MNIST, one run each",
    minutes: 2.7,
    asserted: "test accuracy of both networks with ReLU and with SELU within 0.5 points and 2 standard deviations; SELU \
               is better than ReLU by 2 standard deviations",
    run,
};

/// Largest difference of two test accuracies that are the same, in points.
const POINTS: f64 = 0.5;
/// The same for the validation accuracy of the MLP with SELU after one epoch.
const POINTS_AT_FIRST: f64 = 3.0;
/// By how many points at least the MLP with SELU is better than with ReLU after one epoch; published: 26.7.
const AHEAD_AT_FIRST: f64 = 10.0;

/// The activation and the initialisation of all layers.
const LEARNERS: [(&str, Activation, Init); 3] = [
    ("relu-pytorch", Activation::Relu, Init::PyTorch),
    ("selu-lecun", Activation::Selu, Init::LeCun),
    ("relu-he", Activation::Relu, Init::He),
];

/// The numbers in a notebook for the first two learners, in percent.
struct Published {
    title: &'static str,
    net: &'static str,
    test: [f64; 2],
    /// After each epoch.
    validation: [[f64; 20]; 2],
}

#[rustfmt::skip]
const NOTEBOOKS: [Published; 2] = [
    Published {
        title: "MLP: validation accuracy, %", net: "mlp", test: [90.76, 92.04],
        validation: [
            [54.21, 67.01, 71.63, 75.86, 79.36, 82.39, 84.16, 85.42, 86.22, 87.00,
             87.64, 88.20, 88.41, 88.78, 88.98, 89.13, 89.35, 89.57, 89.84, 89.98],
            [80.90, 85.03, 86.72, 87.70, 88.40, 88.74, 89.11, 89.34, 89.52, 89.89,
             90.16, 90.22, 90.33, 90.56, 90.66, 90.85, 90.95, 91.06, 91.14, 91.24],
        ],
    },
    Published {
        title: "CNN: validation accuracy, %", net: "cnn", test: [94.58, 95.91],
        validation: [
            [36.78, 66.65, 80.10, 84.67, 87.21, 88.26, 89.15, 89.78, 90.31, 90.84,
             91.40, 91.83, 92.21, 92.47, 92.74, 92.98, 93.26, 93.49, 93.86, 93.95],
            [81.49, 86.71, 89.05, 90.24, 91.19, 91.85, 92.49, 92.93, 93.41, 93.67,
             93.99, 94.27, 94.48, 94.74, 94.92, 94.91, 95.16, 95.23, 95.47, 95.59],
        ],
    },
];

/// The networks of the authors' notebooks.
#[derive(Args, Serialize, Deserialize)]
struct Protocol {
    /// mlp or cnn
    #[arg(long)]
    net: Sweep<String>,
    /// The activation and the initialisation
    #[arg(long)]
    learner: Sweep<String>,
}

/// conv 8@5×5, max-pooling, f, conv 16@3×3, max-pooling, f, 512 units, f, dropout, 10 logits.
struct Cnn {
    convolutions: [(Conv2d, Act); 2],
    top: Mlp,
}

impl Cnn {
    fn new(f: Activation, init: Init, vb: VarBuilder<'_>) -> candle_core::Result<Self> {
        let layer = |i, o, side, name| {
            let config = Conv2dConfig { kernel: (side, side), init, ..Conv2dConfig::default() };
            Ok::<_, candle_core::Error>((Conv2d::new(i, o, config, vb.pp(name))?, Act::new(f, vb.pp(name))?))
        };
        let convolutions = [layer(1, 8, 5, "conv1")?, layer(8, 16, 3, "conv2")?];
        Ok(Self { convolutions, top: Mlp::new(&mlp(16 * 5 * 5, &[512], f, init), vb)? })
    }
}

impl Model for Cnn {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let mut xs = xs.clone();
        for (convolution, act) in &self.convolutions {
            xs = act.forward(pass, &max_pool2d(&convolution.forward(&xs)?, (2, 2), (2, 2))?)?;
        }
        self.top.forward(pass, &xs)
    }
}

fn mlp(inputs: usize, widths: &[usize], activation: Activation, init: Init) -> MlpConfig {
    let (widths, init) = (widths.to_vec(), Some(init));
    MlpConfig { inputs, widths, activation, init, dropout: 0.05, ..MlpConfig::default() }
}

fn learn(args: &OnMnist<Protocol>, trial: &mut Trial<'_, ImageSet>) -> taper_experiment::Result<()> {
    let found = LEARNERS.iter().find(|(name, ..)| *name == *args.own.learner);
    let &(_, f, init) =
        found.ok_or_else(|| Error::Usage(format!("unknown learner {}", *args.own.learner)))?;
    let vb = trial.params.builder();
    let (net, sizes): (Box<dyn Model + Send + Sync>, _) = match args.own.net.as_str() {
        "cnn" => (Box::new(Cnn::new(f, init, vb)?), "cnn 8-pool-16-pool-512-10".into()),
        _ => {
            let config = mlp(784, &[512, 256], f, init);
            (Box::new(Mlp::new(&config, vb)?), config.to_string())
        }
    };
    trial.start(sizes, CROSS_ENTROPY)?;
    trial.fit(&classify(&*net))
}

/// An accuracy after an epoch, in percent.
fn accuracy(ran: &Ran, epoch: usize, split: Split) -> Option<f64> {
    Some(100.0 * ran.epochs.get(epoch)?.split(split)?.score.metric("accuracy")?)
}

/// The test accuracy after the epoch with the best validation accuracy, as in the notebooks.
fn test_accuracy(ran: &Ran) -> Option<f64> {
    let validation = |epoch| accuracy(ran, epoch, Split::Validation).unwrap_or(f64::NAN);
    // The first of equals.
    let best = (1..ran.epochs.len()).rev().max_by(|a, b| validation(*a).total_cmp(&validation(*b)))?;
    accuracy(ran, best, Split::Test)
}

fn run(setting: &Setting) -> Result<Outcome> {
    let notebooks = if setting.quick { &NOTEBOOKS[..1] } else { &NOTEBOOKS };
    let seeds = setting.seeds.unwrap_or(if setting.quick { 2 } else { 1 }).to_string();
    let nets = notebooks.iter().map(|of| of.net).collect::<Vec<_>>().join(",");
    let (learners, epochs) =
        (LEARNERS.map(|(name, ..)| name).join(","), if setting.quick { "1" } else { "20" });
    let options = ["--net", &nets, "--learner", &learners, "--epochs", epochs, "--seeds", &seeds];
    let data = ["--scale", "0.1307,0.3081", "--validation", "10000"];
    let fixed =
        ["--optimizer", "sgd", "--lr", "0.001", "--schedule", "constant", "--track", "off", "--jobs", "2"];
    let trained = train_on_mnist(setting, &[&options[..], &data, &fixed].concat(), learn)?;

    let (mut rows, mut charts) = (Vec::new(), Vec::new());
    for Published { title, net, test, validation } in notebooks {
        let over = |learner: usize, number: &dyn Fn(&Ran) -> Option<f64>| {
            or_binomial(over_seeds(&trained, &[("net", net), ("learner", LEARNERS[learner].0)], number))
        };
        let compared = |what: &str, published: &[f64], number: &dyn Fn(&Ran) -> Option<f64>| {
            let of_learner = |learner: usize| {
                let what = format!("{net}, {}: {what}, %", LEARNERS[learner].0);
                let published = published.get(learner).copied();
                Row::new(what, over(learner, number)).published(published, Seen::Source)
            };
            let own: [Row; 3] = std::array::from_fn(of_learner);
            let ahead = |other: usize, published: Option<f64>| {
                let what = format!("{net}, selu-lecun minus {}: {what}, points", LEARNERS[other].0);
                let difference = minus(over(1, number), over(other, number));
                Row::new(what, difference).published(published, Seen::Source)
            };
            let ahead = [ahead(0, Some(published[1] - published[0])), ahead(2, None)];
            (own, ahead)
        };
        let first = validation.map(|curve| curve[0]);
        let ([relu, mut selu, he], [mut ahead, _]) =
            compared("validation accuracy after epoch 1", &first, &|ran| accuracy(ran, 1, Split::Validation));
        if *net == "mlp" {
            let tolerance = POINTS_AT_FIRST + 2.0 * selu.sd;
            selu = selu.near(tolerance);
            ahead = ahead.within(AHEAD_AT_FIRST, f64::INFINITY);
        }
        rows.extend([relu, selu, he, ahead]);
        if !setting.quick {
            let ([relu, selu, he], [ahead, ahead_of_he]) = compared("test accuracy", test, &test_accuracy);
            let near = |row: Row| {
                let tolerance = POINTS + 2.0 * row.sd;
                row.near(tolerance)
            };
            rows.extend([near(relu), near(selu), he, ahead.above_zero(), ahead_of_he]);
        }
        let curve = |learner: usize| {
            let epochs = 1..=if setting.quick { 1 } else { 20 };
            epochs
                .map(|epoch| over(learner, &|ran| accuracy(ran, epoch, Split::Validation)).0)
                .collect::<Vec<_>>()
        };
        let published = ["ReLU, published", "SELU, published"].into_iter().zip(validation.map(Vec::from));
        let measured = ["ReLU, PyTorch's initialisation", "SELU", "ReLU, He's initialisation"];
        let measured = measured.into_iter().zip([0, 1, 2].map(curve));
        let lines = published.chain(measured).map(|(name, values)| (name.to_string(), values)).collect();
        charts.push(Chart { title, axis: "epoch", meaning: "", log: false, lines });
    }
    let picture = charts_svg("SELU and ReLU on MNIST, SGD with a learning rate of 0.001", &charts)?;
    Ok(Outcome { rows, picture })
}
