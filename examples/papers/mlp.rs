use std::thread;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use taper::data::ImageSet;
use taper::nn::{self, Activation, MlpConfig, Sparseout};
use taper::report::{LayerStats, SplitReport};
use taper::train::{CROSS_ENTROPY, classify};
use taper_experiment::{Error, Sweep, Trial, not_negative, rate, size, sweep};

use crate::paper::Setting;
use crate::runs::{OnMnist, Ran, train_on_mnist};

/// Fully connected networks on images: the training program of several papers.
#[derive(Args, Serialize, Deserialize)]
struct Program {
    /// Activation function and learning rate: relu@0.001
    #[arg(long)]
    net: Sweep<String>,
    /// Units of the hidden layers
    #[arg(long, value_delimiter = ',', value_parser = size, default_value = "512,256")]
    widths: Vec<usize>,
    /// λ of an L1 penalty on the activations of the hidden layers
    #[arg(long, value_parser = sweep(not_negative))]
    l1: Option<Sweep<f64>>,
    /// Exponent q of Sparseout after the hidden layers
    #[arg(long, value_parser = sweep(not_negative))]
    q: Option<Sweep<f64>>,
    /// Rate of Sparseout
    #[arg(long, value_parser = rate, default_value = "0.5")]
    rate: f64,
}

fn build(args: &OnMnist<Program>, trial: &mut Trial<'_, ImageSet>) -> taper_experiment::Result<()> {
    let (function, learning_rate) =
        args.own.net.split_once('@').ok_or_else(|| Error::Usage("expected FUNCTION@LEARNING RATE".into()))?;
    let activation: Activation = function.parse().map_err(Error::option("--net"))?;
    trial.optimizer.learning_rate = learning_rate.parse().map_err(Error::option("--net"))?;
    let (c, h, w) = trial.data.train.shape();
    let config = MlpConfig {
        inputs: c * h * w,
        widths: args.own.widths.clone(),
        classes: trial.data.train.classes(),
        activation,
        l1: args.own.l1.as_deref().copied().unwrap_or(0.0),
        ..MlpConfig::default()
    };
    let mut model = nn::Mlp::new(&config, trial.params.builder())?;
    if let Some(q) = args.own.q.as_deref() {
        let noise = Sparseout::new(args.own.rate, *q)?;
        for site in 1..=args.own.widths.len() {
            model = model.then(&format!("fc{site}"), move |pass, ys| noise.forward(pass, ys))?;
        }
    }
    trial.start(config.to_string(), CROSS_ENTROPY)?;
    trial.fit(&classify(&model))
}

/// Trains a grid of networks on MNIST in the directory `dir` of the paper.
pub fn train_mlps(setting: &Setting, dir: &str, options: &[&str]) -> Result<Vec<Ran>> {
    let setting = Setting { out: setting.out.join(dir), ..*setting };
    let jobs = thread::available_parallelism().map_or(1, usize::from).to_string();
    train_on_mnist(&setting, &[options, &["--jobs", &jobs]].concat(), build)
}

/// The mean of a statistic over the layers of a split; NaN if one does not have it.
pub fn mean_over_layers(of: &SplitReport, statistic: impl Fn(&LayerStats) -> Option<f64>) -> f64 {
    let sum: f64 = of.layers.iter().map(|layer| statistic(layer).unwrap_or(f64::NAN)).sum();
    sum / of.layers.len() as f64
}
