//! Small runs for tests.

use taper_report::{
    FORMAT_VERSION, Histogram, LayerStats, Line, Metric, MetricKind, Metrics, Run, Score, Split,
};

use crate::RunData;

/// Three epochs of two sites, with numbers that depend on epoch, site and seed.
pub(crate) fn run(activation: &str, dropout: f64, seed: u64) -> RunData {
    let name = format!("{activation}-dropout{dropout}-seed{seed}");
    let run = Run {
        name: name.clone(),
        dataset: "digits".into(),
        model: "mlp 4-8-6-2".into(),
        labels: [("act".to_string(), activation.into()), ("dropout".into(), dropout.into())].into(),
        loss: "mean cross-entropy per sample, in nats".into(),
        seed,
        parameters: 100,
        epochs: 3,
        config: serde_json::json!({"optimizer": "adam"}),
        ..Run::default()
    };
    let (mut metrics, mut layers) = (Vec::new(), Vec::new());
    for epoch in 1..=3 {
        for split in [Split::Train, Split::Test] {
            let value = 0.7 + 0.05 * f64::from(epoch) + 0.001 * seed as f64;
            let accuracy = Metric { name: "accuracy".into(), kind: MetricKind::Share, value };
            let loss = 1.0 / f64::from(epoch);
            let score = Score { loss, samples: 10, metrics: vec![accuracy], ..Score::default() };
            metrics.push(line(&run, epoch, split, Metrics { score, learning_rate: None, nonfinite: None }));
            for (site, units) in [("fc1", 8), ("fc2", 6)] {
                let stats = layer(activation, site, units, 0.1 + 0.1 * f64::from(epoch) + 0.01 * seed as f64);
                layers.push(line(&run, epoch, split, stats));
            }
        }
    }
    RunData {
        dir: name.into(),
        run,
        metrics,
        layers,
        timing: Vec::new(),
        steps: Vec::new(),
        problems: Vec::new(),
    }
}

fn line<T>(run: &Run, epoch: u32, split: Split, of: T) -> Line<T> {
    let (name, labels) = (run.name.clone(), run.labels.clone());
    Line { v: FORMAT_VERSION, run: name, labels, seed: run.seed, epoch, split, of }
}

fn layer(activation: &str, site: &str, units: u64, zero_fraction: f64) -> LayerStats {
    let mut histogram = Histogram::default();
    [0.0, 0.0, 0.3, 1.0, 1.1, 2.5].iter().for_each(|x| histogram.add(*x));
    LayerStats {
        site: site.into(),
        activation: Some(activation.into()),
        uses: 1,
        units,
        samples: 10,
        values: 10 * units,
        zero_fraction,
        mean: Some(0.8),
        variance: Some(0.25),
        skewness: Some(-1.25),
        asymmetry: histogram.asymmetry(),
        histogram: Some(histogram),
        dead: Some(2),
        died: Some(1),
        revived: Some(0),
        ..LayerStats::default()
    }
}
