//! Made-up runs that look like real ones, the same on every machine.

use taper_report::{
    EpochReport, FiringRates, Histogram, LayerStats, Metric, MetricKind, Run, Score, Split, SplitReport,
};

/// A run of the grid `relu,selu × dropout`.
pub fn run(activation: &str, dropout: f64, seed: u64) -> Run {
    Run {
        name: format!("{activation}-dropout{dropout}-seed{seed}"),
        dataset: "mnist".into(),
        model: "mlp 784-512-256-10".into(),
        labels: [("act".to_string(), activation.into()), ("dropout".into(), dropout.into())].into(),
        loss: "mean cross-entropy per sample, in nats".into(),
        seed,
        parameters: 535_818,
        epochs: 10,
        config: serde_json::json!({ "batch_size": 128, "lr": 0.1, "versions": { "taper": "0.1.0" } }),
        ..Run::default()
    }
}

/// Loss and accuracy.
pub fn score(loss: f64, accuracy: f64, samples: u64) -> Score {
    let metric = Metric { name: "accuracy".into(), kind: MetricKind::Share, value: accuracy };
    Score { loss, samples, metrics: vec![metric], ..Score::default() }
}

/// An epoch with both windows, three sites each.
pub fn report(activation: &str, dropout: f64, seed: u64, epoch: u32) -> EpochReport {
    let split = |split, gap: f64, samples| {
        let luck = seed as f64 * 3e-4;
        let accuracy = 0.98 - 0.05 / epoch as f64 - gap + luck - 0.002 * dropout;
        let score = score(3.0 * (1.0 - accuracy), accuracy, samples);
        let seconds = samples as f64 / 25_000.0 + luck;
        let layers = [("conv1", 64, 0.0), ("fc1", 512, -0.4), ("fc2", 256, 0.3)]
            .iter()
            .map(|(site, units, mean)| {
                layer(site, activation, *units, mean + gap - 0.3 * dropout + 20.0 * luck, epoch, split)
            })
            .collect();
        SplitReport {
            learning_rate: (split == Split::Train).then_some(0.1),
            seconds,
            tracking_seconds: seconds * (0.031 + luck),
            layers,
            ..SplitReport::new(split, score)
        }
    };
    EpochReport { epoch, splits: vec![split(Split::Train, 0.01, 60_000), split(Split::Test, 0.0, 10_000)] }
}

/// Statistics of a normal sample, by its quantiles, after an activation.
pub fn layer(site: &str, activation: &str, units: u64, mean: f64, epoch: u32, split: Split) -> LayerStats {
    let mut histogram = Histogram::default();
    let n = 4000;
    let ys: Vec<f64> =
        (0..n).map(|i| activate(activation, mean + logistic((i as f64 + 0.5) / n as f64))).collect();
    ys.iter().for_each(|y| histogram.add(*y as f32));
    let moment = |center: f64, k| ys.iter().map(|y| (y - center).powi(k)).sum::<f64>() / n as f64;
    let mean = moment(0.0, 1);
    let variance = moment(mean, 2);
    let relu = activation == "relu";
    let dead_units: Vec<u32> =
        if relu && site == "fc1" { (0..9 + epoch).map(|i| 17 + 31 * i).collect() } else { vec![] };
    let changes = |n| (epoch > 1).then_some(if dead_units.is_empty() { 0 } else { n });
    LayerStats {
        site: site.into(),
        activation: Some(activation.into()),
        uses: 1,
        units,
        samples: if split == Split::Train { 60_000 } else { 10_000 },
        values: histogram.total(),
        zeros: histogram.zeros,
        negatives: histogram.negative.iter().sum(),
        positives: histogram.positive.iter().sum(),
        near_zeros: histogram.zeros,
        near_zero_bound: 0.01,
        zero_fraction: histogram.zeros as f64 / histogram.total() as f64,
        mean: Some(mean),
        variance: Some(variance),
        skewness: Some(moment(mean, 3) / variance.powf(1.5)),
        min: ys.iter().copied().reduce(f64::min).map(|y| f64::from(y as f32)),
        max: ys.iter().copied().reduce(f64::max).map(|y| f64::from(y as f32)),
        asymmetry: histogram.asymmetry(),
        dead: Some(dead_units.len() as u64),
        dormant_0_025: Some(dead_units.len() as u64 + 2 * u64::from(relu)),
        died: changes(2),
        revived: changes(1),
        firing_rate: firing_rate(units, dead_units.len() as u64),
        dead_units,
        histogram: Some(histogram),
        ..LayerStats::default()
    }
}

/// Units spread over the rates from a fifth to three quarters, those that never fire apart.
fn firing_rate(units: u64, never: u64) -> FiringRates {
    let mut between = [0; 20];
    for i in 0..units - never {
        between[4 + (11 * i / units) as usize] += 1;
    }
    FiringRates { never, between, always: 0 }
}

/// The quantile function of the logistic distribution, scaled to be about as wide as a normal one.
fn logistic(p: f64) -> f64 {
    (p / (1.0 - p)).ln() / 1.7
}

fn activate(name: &str, x: f64) -> f64 {
    match name {
        "relu" => x.max(0.0),
        "tanh" => x.tanh(),
        "sigmoid" => 1.0 / (1.0 + (-x).exp()),
        _ if x > 0.0 => 1.0507 * x,
        _ => 1.0507 * 1.6733 * x.exp_m1(),
    }
}
