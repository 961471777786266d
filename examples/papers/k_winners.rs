use anyhow::Result;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use clap::Args;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};
use taper::data::{Batch, Batches, ImageSet, Samples};
use taper::hooks::{Observer, Parts, Pass, Recorder, rng};
use taper::kernels::max_pool2d;
use taper::nn::{
    Act, Activation, Conv2d, Conv2dConfig, Init, KWinners, KWinnersConfig, Linear, Model, Params, Units,
};
use taper::report::{Metric, MetricKind, Split, SplitReport};
use taper::train::{CROSS_ENTROPY, InputMasks, Rule, classify, evaluate};
use taper_examples::pictures::{Chart, charts_svg};
use taper_experiment::{Sweep, Trial};

use crate::paper::{Outcome, Paper, Row, Seen, Setting};
use crate::runs::{OnMnist, Ran, mean_and_sd, minus, train_on_mnist};

pub const PAPER: Paper = Paper {
    name: "k-winners",
    claim: "A CNN with sparse activations and sparse weights recognises noisy digits better than a dense one, at nearly \
            the same accuracy on clean digits.",
    source: "Ahmad & Scheinkman 2019, arXiv 1903.11257; the authors' programs",
    minutes: 26.0,
    asserted: "at the epoch with the best test accuracy: accuracy within 0.3 points, noise score within two standard \
               deviations of a published run; the sparse net has a higher noise score than the dense one",
    run,
};

/// Test images; fewer are scaled to this number.
const IMAGES: f64 = 10_000.0;

/// A network of the paper, how it is trained, and what is published of it, at the epoch with the best accuracy: the mean of
/// 10 runs, in percent, and the mean and standard deviation of their noise scores, in thousands.
struct Net {
    name: &'static str,
    title: &'static str,
    maps: [usize; 2],
    /// Winners of the pooled maps; `None`: ReLU.
    map_winners: Option<[usize; 2]>,
    units: usize,
    /// Winners of the units of the hidden layer; `None`: ReLU.
    winners: Option<usize>,
    /// The fraction of its incoming weights that each of these units has.
    density: f64,
    rate: f64,
    momentum: f64,
    /// Samples of a batch in the first epoch.
    first_batch: usize,
    epochs: u32,
    accuracy: f64,
    noise_score: (f64, f64),
}

const NETS: [Net; 3] = [
    Net {
        name: "dense",
        title: "dense CNN-2",
        maps: [30, 30],
        map_winners: None,
        units: 1000,
        winners: None,
        density: 1.0,
        rate: 0.01,
        momentum: 0.9,
        first_batch: BATCH,
        epochs: 15,
        accuracy: 99.31,
        noise_score: (97.040, 2.853),
    },
    Net {
        name: "sparse",
        title: "sparse CNN-2",
        maps: [32, 64],
        map_winners: Some([400, 300]),
        units: 700,
        winners: Some(100),
        density: 0.3,
        rate: 0.02,
        momentum: 0.0,
        first_batch: 4,
        epochs: 10,
        accuracy: 99.09,
        noise_score: (103.764, 1.125),
    },
    Net {
        name: "dsw",
        title: "sparse CNN-2 with dense hidden activations (DSW)",
        maps: [32, 64],
        map_winners: Some([400, 300]),
        units: 1000,
        winners: None,
        density: 0.3,
        rate: 0.01,
        momentum: 0.9,
        first_batch: 4,
        epochs: 10,
        accuracy: 98.92,
        noise_score: (70.566, 2.857),
    },
];

const BATCH: usize = 64;
/// The learning rate of an epoch is this times that of the epoch before; the same for the strength of boosting.
const RATE_FACTOR: f64 = 0.8;
const BOOST: f64 = 1.5;
const BOOST_FACTOR: f64 = 0.85;
/// Winners in evaluation, of those in training.
const MORE_WINNERS: f64 = 1.5;
/// η: the fraction of the pixels that are replaced.
const LEVELS: [f64; 11] = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5];
/// The value of a replaced pixel, in standard deviations above the mean of all pixels.
const NOISE: f32 = 2.0;
/// The largest distance of an accuracy from the published one, in points.
const ACCURACY: f64 = 0.3;

/// Dense and sparse CNNs on noisy digits.
#[derive(Args, Serialize, Deserialize)]
struct Protocol {
    /// dense, sparse or dsw
    #[arg(long)]
    net: Sweep<String>,
}

/// Two convolutions with max-pooling, each followed by k-winners or ReLU; a hidden layer; logits.
struct Cnn {
    convolutions: Vec<(Conv2d, Act)>,
    hidden: (Linear, Act),
    out: Linear,
    winners: Vec<KWinners>,
}

impl Cnn {
    fn new(net: &Net, vb: VarBuilder<'_>) -> candle_core::Result<Self> {
        let (mut winners, mut convolutions) = (Vec::new(), Vec::new());
        // Recorded at the site of the layer: the values that the next layer gets.
        let mut act = |k: Option<usize>, units, axis, vb: VarBuilder<'_>| {
            let Some(k) = k else { return Ok(Act::new(Activation::Relu, vb)?.units(axis)) };
            let k_eval = (MORE_WINNERS * k as f64).round() as usize;
            let config = KWinnersConfig { k, k_eval, boost: BOOST, units: axis, ..KWinnersConfig::default() };
            let own = KWinners::new(units, config, vb.clone())?;
            winners.push(own.clone());
            let act = Act::new(Activation::Identity, vb)?.units(axis);
            candle_core::Result::Ok(act.then(move |pass, ys| own.forward(pass, ys)))
        };
        let (mut inputs, mut side) = (1, 28);
        for (i, maps) in net.maps.into_iter().enumerate() {
            let vb = vb.pp(format!("conv{}", i + 1));
            let config = Conv2dConfig { kernel: (5, 5), init: Init::PyTorch, ..Conv2dConfig::default() };
            let conv = Conv2d::new(inputs, maps, config, vb.clone())?;
            convolutions.push((conv, act(net.map_winners.map(|k| k[i]), maps, Units::Second, vb)?));
            (inputs, side) = (maps, (side - 4) / 2);
        }
        let fc1 = Linear::new(inputs * side * side, net.units, Init::PyTorch, vb.pp("fc1"))?;
        let hidden = (fc1, act(net.winners, net.units, Units::Last, vb.pp("fc1"))?);
        let out = Linear::new(net.units, 10, Init::PyTorch, vb.pp("fc2"))?;
        Ok(Self { convolutions, hidden, out, winners })
    }

    /// The strength of boosting after this number of epochs.
    fn set_boost(&self, epochs: u32) -> candle_core::Result<()> {
        let boost = BOOST * BOOST_FACTOR.powi(epochs as i32);
        self.winners.iter().try_for_each(|winners| winners.set_boost(boost))
    }
}

impl Model for Cnn {
    /// # Shapes
    /// `xs`: `(N, 1, 28, 28)`; the result is `(N, 10)`.
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let mut xs = xs.clone();
        for (conv, act) in &self.convolutions {
            xs = act.forward(pass, &max_pool2d(&conv.forward(&xs)?, (2, 2), (2, 2))?)?;
        }
        let (linear, act) = &self.hidden;
        self.out.forward(&linear.forward_act(pass, &xs.flatten_from(1)?, act)?)
    }
}

/// Masks of the weights of the hidden layer. The weights that stay keep their initial values, as in the authors' program.
fn masks(net: &Net, params: &Params, seed: u64) -> Result<InputMasks, taper::train::Error> {
    let masks = InputMasks::new(params, &["fc1.weight"], net.density, seed)?;
    for (_, var) in params.vars().iter().filter(|(name, _)| name == "fc1.weight") {
        var.set(&(var.as_detached_tensor() * net.density.sqrt())?)?;
    }
    Ok(masks)
}

/// A batch in which the fraction `level` of the pixels of each image, drawn from `seed`, has the value of the noise.
fn with_noise(batch: Batch, level: f64, seed: u64) -> candle_core::Result<Batch> {
    let mut pixels = batch.images.flatten_all()?.to_vec1::<f32>()?;
    let (mut rng, size) = (rng(seed), pixels.len() / batch.len().max(1));
    for image in pixels.chunks_mut(size) {
        sample(&mut rng, size, (level * size as f64) as usize).iter().for_each(|pixel| image[pixel] = NOISE);
    }
    Ok(Batch { images: Tensor::from_vec(pixels, batch.images.shape(), &Device::Cpu)?, ..batch })
}

fn learn(args: &OnMnist<Protocol>, trial: &mut Trial<'_, ImageSet>) -> taper_experiment::Result<()> {
    let (data, seed) = (trial.data, args.options.training.seed);
    let named = NETS.iter().find(|net| net.name == *args.own.net);
    let net =
        named.ok_or_else(|| taper_experiment::Error::Usage(format!("unknown net '{}'", *args.own.net)))?;
    let model = Cnn::new(net, trial.params.builder())?;
    if net.density < 1.0 {
        trial.upkeep = Some(Box::new(masks(net, &trial.params, seed)?));
    }
    trial.optimizer.rule = Rule::Sgd { momentum: net.momentum, nesterov: false, weight_decay: 0.0 };
    trial.optimizer.learning_rate = net.rate;
    let step = classify(&model);
    trial.start(net.title, CROSS_ENTROPY)?;
    while let Some(epoch) = trial.next_epoch()?.filter(|epoch| *epoch <= net.epochs) {
        let before = epoch.saturating_sub(1);
        model.set_boost(before)?;
        if let Some(session) = trial.session() {
            session.optimizer.set_learning_rate(net.rate * RATE_FACTOR.powi(before as i32))?;
        }
        let batch = if epoch == 1 { net.first_batch } else { BATCH };
        trial.train_on(&step, |order, done| Batches::shuffled(&data.train, order, batch).skip(done))?;
        model.set_boost(epoch)?;
        let best = trial.best().map_or(f64::NEG_INFINITY, |(_, rank)| rank);
        let last = epoch == net.epochs.min(args.options.training.epochs);
        if let (Some(session), Some(test)) = (trial.session().filter(|_| epoch > 0), &data.test) {
            let at = |level: usize, observer: &mut dyn Observer| {
                let rows: Vec<usize> = (0..test.len()).collect();
                let batches = rows.chunks(1000).map(|rows| -> Result<Batch> {
                    let seed = seed.rotate_left(32).wrapping_add((rows[0] * LEVELS.len() + level) as u64);
                    Ok(with_noise(test.gather(rows)?, LEVELS[level], seed)?)
                });
                evaluate(&step, Split::Test, batches, observer)
            };
            let mut recorder = Recorder::of(Parts::COUNTS);
            let mut clean = at(0, &mut recorder)?;
            clean.layers = recorder.finish();
            // A network is compared at its best epoch and at its last.
            if last || accuracy(&clean) > best {
                for (level, share) in LEVELS.iter().enumerate().skip(1) {
                    let value = accuracy(&at(level, &mut ())?);
                    clean.score.metrics.push(Metric { name: noisy(*share), kind: MetricKind::Share, value });
                }
            }
            session.add(clean);
        }
        trial.end_epoch()?;
    }
    Ok(())
}

/// The name of the metric with the accuracy at a level of noise.
fn noisy(level: f64) -> String {
    format!("accuracy/noise {level}")
}

fn accuracy(of: &SplitReport) -> f64 {
    of.score.metric("accuracy").unwrap_or(f64::NAN)
}

/// The test of a network at one epoch.
struct Test {
    /// At all levels of noise, the first of which is none; in percent.
    accuracies: Vec<f64>,
    /// The correct answers at all levels together, in thousands.
    noise_score: f64,
    /// Values other than 0 in the hidden layer, the mean over the images.
    active: f64,
}

impl Test {
    fn of(report: &SplitReport) -> Self {
        let noisy = LEVELS[1..].iter().map(|level| report.score.metric(&noisy(*level)).unwrap_or(f64::NAN));
        let all: Vec<f64> = [accuracy(report)].into_iter().chain(noisy).collect();
        let hidden = report.layers.iter().find(|layer| layer.site == "fc1");
        Self {
            noise_score: all.iter().sum::<f64>() * IMAGES / 1000.0,
            accuracies: all.iter().map(|x| 100.0 * x).collect(),
            active: hidden.map_or(f64::NAN, |fc1| (1.0 - fc1.zero_fraction) * fc1.units as f64),
        }
    }
}

/// The tests at the epoch with the best accuracy and at the last.
fn best_and_last(run: &Ran) -> Option<[Test; 2]> {
    let tests: Vec<_> = run.epochs.iter().filter_map(|report| report.split(Split::Test)).collect();
    let better = |best, of| if accuracy(of) > accuracy(best) { of } else { best };
    Some([Test::of(tests.iter().copied().reduce(better)?), Test::of(tests.last()?)])
}

fn run(setting: &Setting) -> Result<Outcome> {
    let nets = if setting.quick { &NETS[..2] } else { &NETS[..] };
    let names: Vec<&str> = nets.iter().map(|net| net.name).collect();
    let (names, seeds) =
        (names.join(","), setting.seeds.unwrap_or(if setting.quick { 1 } else { 3 }).to_string());
    let mut options = vec!["--net", &names, "--seeds", &seeds, "--scale", "0.1307,0.3081"];
    options.extend(["--optimizer", "sgd", "--schedule", "constant", "--track", "off", "--jobs", "2"]);
    options.extend(["--batch-size", "64", "--epochs", if setting.quick { "1" } else { "15" }]);
    if setting.quick {
        options.extend(["--limit", "2000"]);
    }
    let trained = train_on_mnist(setting, &options, learn)?;

    let (mut rows, mut scores, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for net in nets {
        let runs = trained.iter().filter(|run| run.label("net") == net.name);
        let tests: Vec<[Test; 2]> = runs.filter_map(best_and_last).collect();
        let over_seeds = |at: usize, f: &dyn Fn(&Test) -> f64| {
            mean_and_sd(&tests.iter().map(|tests| f(&tests[at])).collect::<Vec<_>>())
        };
        let mut add = |what: &str, published: Option<f64>, measured, tolerance: Option<f64>| {
            let row = Row::new(format!("{}: {what}", net.title), measured).published(published, Seen::Source);
            rows.push(match tolerance {
                Some(tolerance) => row.near(tolerance),
                None => row,
            });
        };
        let (score, score_sd) = net.noise_score;
        let full = |tolerance: f64| Some(tolerance).filter(|_| !setting.quick);
        let (clean, of_all) = (|test: &Test| test.accuracies[0], |test: &Test| test.noise_score);
        add("accuracy at the best epoch, %", Some(net.accuracy), over_seeds(0, &clean), full(ACCURACY));
        add(
            "noise score at the best epoch, thousands",
            Some(score),
            over_seeds(0, &of_all),
            full(2.0 * score_sd),
        );
        add("accuracy at the last epoch, %", None, over_seeds(1, &clean), None);
        add("noise score at the last epoch, thousands", None, over_seeds(1, &of_all), None);
        if let Some(k) = net.winners {
            let active = over_seeds(1, &|test| test.active);
            add("active units of the hidden layer", Some(MORE_WINNERS * k as f64), active, Some(0.5));
        }
        scores.push(over_seeds(0, &of_all));
        let at_level = |level: usize| over_seeds(0, &|test| test.accuracies[level]).0;
        lines.push((net.title.to_string(), (0..LEVELS.len()).map(at_level).collect()));
    }
    let (dense, sparse) = (scores[0], scores[1]);
    let (what, published) =
        ("sparse minus dense CNN-2: noise score, thousands", NETS[1].noise_score.0 - NETS[0].noise_score.0);
    let gain = Row::new(what, minus(sparse, dense)).published(published, Seen::Source);
    rows.push(if setting.quick { gain } else { gain.above_zero() });
    let (axis, title) = ("noise level: 0, 5 %, … 50 % of the pixels", "accuracy at the best epoch, %");
    let charts = [Chart { title, axis, meaning: "", log: false, lines }];
    Ok(Outcome { rows, picture: charts_svg("Accuracy on noisy digits", &charts)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn noise_replaces_the_same_number_of_pixels_in_each_image() {
        let images = Tensor::zeros((3, 1, 28, 28), candle_core::DType::F32, &Device::Cpu).unwrap();
        let batch =
            Batch { images, labels: Tensor::zeros(3, candle_core::DType::U32, &Device::Cpu).unwrap() };
        let noisy =
            with_noise(batch, 0.05, 1).unwrap().images.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
        let replaced = |image: &Vec<f32>| image.iter().filter(|pixel| **pixel == NOISE).count();
        assert_eq!(noisy.iter().map(replaced).collect::<Vec<_>>(), [39, 39, 39]);
        assert!(noisy[0] != noisy[1]);
    }
}
