use anyhow::Result;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use clap::Args;
use serde::{Deserialize, Serialize};
use taper::data::ImageSet;
use taper::kernels::Rule;
use taper::nn::{Act, Activation, Dropout, Init, Linear, Mlp, MlpConfig, Model, Pass};
use taper::report::{EpochReport, Split};
use taper::train::{CROSS_ENTROPY, MSE, classify, reconstruct};
use taper_examples::pictures::{Chart, charts_svg};
use taper_experiment::{Sweep, Trial};

use crate::paper::{Outcome, Paper, Row, Seen, Setting};
use crate::runs::{OnMnist, minus, or_binomial, over_seeds, train_on_mnist};

pub const PAPER: Paper = Paper {
    name: "dropout",
    claim: "Dropout with a limit on the norm of a unit's weights prevents overfitting, and it makes hidden units sparse.",
    source: "Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, JMLR 15, table 2 and section 7.2; its \
             numbers as others quote them",
    minutes: 10.3,
    asserted: "dropout with max-norm: at most 1.35 % test error after 30 epochs; auto-encoder: dropout divides the mean \
               activation by more than 1.5 and makes more zeros",
    run,
};

/// The name of a network, the name in the picture, and the published test error in percent.
const NETS: [(&str, &str, Option<f64>); 5] = [
    ("standard", "3 × 1024 without dropout", Some(1.60)),
    ("dropout", "3 × 1024, dropout", Some(1.25)),
    ("max-norm", "3 × 1024, dropout and max-norm", Some(1.06)),
    ("autoencoder", "auto-encoder", None),
    ("autoencoder-dropout", "auto-encoder, dropout", None),
];

/// Largest test error of dropout with max-norm, in percent; the published one took a million steps.
const MOST: f64 = 1.35;
/// Smallest quotient of the mean activations; published: 2.0 / 0.7.
const LEAST: f64 = 1.5;

/// Networks with and without dropout.
#[derive(Args, Serialize, Deserialize)]
struct Protocol {
    /// Network
    #[arg(long)]
    net: Sweep<String>,
}

/// A perceptron with dropout of its inputs too.
struct Classifier {
    inputs: Dropout,
    mlp: Mlp,
}

impl Model for Classifier {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let xs = self.inputs.forward(pass, xs)?;
        self.mlp.forward(pass, &xs)
    }
}

/// 784-256-784 with a hidden layer of ReLU units.
struct Autoencoder {
    hidden: Linear,
    act: Act,
    dropout: Dropout,
    out: Linear,
}

impl Autoencoder {
    fn new(rate: f64, vb: VarBuilder<'_>) -> candle_core::Result<Self> {
        Ok(Self {
            hidden: Linear::new(784, 256, Init::He, vb.pp("hidden"))?,
            act: Act::new(Activation::Relu, vb.pp("hidden"))?,
            dropout: Dropout::new(rate)?,
            out: Linear::new(256, 784, Init::LeCun, vb.pp("out"))?,
        })
    }
}

impl Model for Autoencoder {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let ys = self.hidden.forward_act(pass, &xs.flatten_from(1)?, &self.act)?;
        self.out.forward(&self.dropout.forward(pass, &ys)?)
    }
}

fn learn(args: &OnMnist<Protocol>, trial: &mut Trial<'_, ImageSet>) -> taper_experiment::Result<()> {
    let (vb, net) = (trial.params.builder(), args.own.net.as_str());
    let dropped = |rate| if matches!(net, "standard" | "autoencoder") { 0.0 } else { rate };
    if net.starts_with("autoencoder") {
        let net = Autoencoder::new(dropped(0.5), vb)?;
        (trial.optimizer.rule, trial.optimizer.learning_rate) = (Rule::adam(0.0), 1e-3);
        trial.start("autoencoder 784-256-784", MSE)?;
        return trial.fit(&reconstruct(&net));
    }
    let config = MlpConfig { widths: vec![1024; 3], dropout: dropped(0.5), ..MlpConfig::default() };
    let model = Classifier { inputs: Dropout::new(dropped(0.2))?, mlp: Mlp::new(&config, vb)? };
    trial.optimizer.rule = Rule::Sgd { momentum: 0.95, nesterov: false, weight_decay: 0.0 };
    trial.optimizer.max_norm = (net == "max-norm").then_some(2.0);
    trial.start(config.to_string(), CROSS_ENTROPY)?;
    trial.fit(&classify(&model))
}

/// The test error in percent.
fn error(report: &EpochReport) -> Option<f64> {
    Some(100.0 - 100.0 * report.split(Split::Test)?.score.metric("accuracy")?)
}

/// A number of the hidden layers on the test set, in evaluation mode: the mean over all their values.
fn hidden(report: &EpochReport, number: impl Fn(&taper::report::LayerStats) -> Option<f64>) -> Option<f64> {
    let layers = &report.split(Split::Test)?.layers;
    let values: u64 = layers.iter().map(|layer| layer.values).sum();
    let sums =
        layers.iter().map(|layer| Some(number(layer)? * layer.values as f64)).collect::<Option<Vec<_>>>()?;
    Some(sums.iter().sum::<f64>() / values as f64)
}

fn run(setting: &Setting) -> Result<Outcome> {
    let nets = if setting.quick { &NETS[3..] } else { &NETS };
    let seeds = setting.seeds.unwrap_or(1).to_string();
    let names = nets.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(",");
    let (epochs, jobs) = if setting.quick { ("3", "2") } else { ("30", "1") };
    let options = ["--net", &names, "--epochs", epochs, "--seeds", &seeds, "--jobs", jobs];
    let data = ["--scale", "unit", "--limit", if setting.quick { "10000" } else { "60000" }];
    let fixed = ["--lr", "0.05", "--schedule", "cosine:1", "--batch-size", "128"];
    let trained = train_on_mnist(setting, &[&options[..], &data, &fixed].concat(), learn)?;

    let last = |net: &str, number: &dyn Fn(&EpochReport) -> Option<f64>| {
        over_seeds(&trained, &[("net", net)], |ran| number(ran.epochs.last()?))
    };
    let zeros = |report: &EpochReport| hidden(report, |layer| Some(100.0 * layer.zero_fraction));
    let mean = |report: &EpochReport| hidden(report, |layer| layer.mean);
    let mut rows = Vec::new();
    for (net, title, published) in nets {
        if published.is_some() {
            let what = format!("{title}: test error, %");
            let row = Row::new(what, or_binomial(last(net, &error))).published(*published, Seen::Quoted);
            rows.push(if *net == "max-norm" { row.within(0.0, MOST) } else { row });
        }
        rows.push(Row::new(format!("{title}: zeros, %"), last(net, &zeros)));
    }
    let [without, with] =
        ["autoencoder", "autoencoder-dropout"].map(|net| (last(net, &zeros), last(net, &mean)));
    for (name, (_, mean), published) in [("auto-encoder", without, 2.0), ("auto-encoder, dropout", with, 0.7)]
    {
        rows.push(Row::new(format!("{name}: mean activation"), mean).published(published, Seen::Quoted));
    }
    let quotient = without.1.0 / with.1.0;
    let sd = quotient * (without.1.1 / without.1.0).hypot(with.1.1 / with.1.0);
    let what = "auto-encoder: mean activation without dropout, divided by that with dropout";
    let row = Row::new(what, (quotient, sd)).published(2.0 / 0.7, Seen::Quoted);
    rows.push(row.within(LEAST, f64::INFINITY));
    let what = "auto-encoder: zeros with dropout minus without, points";
    let row = Row::new(what, minus(with.0, without.0));
    rows.push(row.within(0.0, 100.0));

    let chart = |title, number: &dyn Fn(&EpochReport) -> Option<f64>| {
        let line = |(net, title, _): &(&str, &str, Option<f64>)| {
            let of = trained.iter().find(|ran| ran.label("net") == *net);
            // Without epoch 0, the untrained network.
            let reports = of.iter().flat_map(|ran| ran.epochs.iter().skip(1));
            (title.to_string(), reports.map(|report| number(report).unwrap_or(f64::NAN)).collect())
        };
        Chart { title, axis: "epoch", meaning: "", log: false, lines: nets.iter().map(line).collect() }
    };
    let mut charts = vec![
        chart("zeros of the hidden units on the test set, %", &zeros),
        chart("mean activation of the hidden units", &mean),
    ];
    if !setting.quick {
        charts.insert(0, chart("test error, %", &error));
    }
    let picture = charts_svg("Dropout on MNIST, measured in evaluation mode", &charts)?;
    Ok(Outcome { rows, picture })
}
