//! Writes made-up runs, with files for TensorBoard, into a directory that is new or empty:
//! `cargo run -p taper-report --example tensorboard -- DIR`, then `tensorboard --logdir DIR`.
//!
//! `.ci/tensorboard DIR` compares what TensorBoard reads with what was reported. The last run is a hostile one.

use taper_report::{EpochReport, Error, Histogram, LayerStats, Result, Run, RunDir, Sink, TensorBoard};

#[path = "../tests/sample/mod.rs"]
mod sample;

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).ok_or_else(|| Error::Other("expected a directory".into()))?;
    let write = |run: &Run, reports: Vec<EpochReport>| -> Result<()> {
        let mut dir = RunDir::create(format!("{dir}/{}", run.name))?;
        let mut board = TensorBoard::create(dir.path())?;
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(&mut dir), Box::new(&mut board)];
        sinks.begin(run)?;
        reports.iter().try_for_each(|report| sinks.epoch(report))?;
        sinks.finish()
    };
    for (activation, dropout) in [("relu", 0.0), ("relu", 0.5), ("selu", 0.5), ("tanh", 0.0)] {
        let reports = (1..=10).map(|epoch| sample::report(activation, dropout, 1, epoch)).collect();
        write(&sample::run(activation, dropout, 1), reports)?;
    }
    let run =
        Run { name: "hostile".into(), ..sample::run("relu\"'><script>alert(1)</script>", 0.0, u64::MAX) };
    write(&run, (1..=4).map(hostile).collect())
}

/// Names that are not meant well, a layer that is all zeros, large counts, far values, a loss that is none.
fn hostile(epoch: u32) -> EpochReport {
    let mut report = sample::report("selu", 0.0, 1, epoch);
    for of in &mut report.splits {
        let [conv1, fc1, fc2] = &mut of.layers[..] else { continue };
        conv1.site = "../../<script>alert(\"1\")</script>".into();
        fc1.site = "größe 层/'quoted'/".to_string() + &"x".repeat(200);
        fc2.site = "../../_script_alert__1___/script_".into();
        let histogram = fc1.histogram.get_or_insert_default();
        histogram.zeros = (1 << 40) + u64::from(epoch);
        let mut far = Histogram::default();
        [-1e30, 0.0, 1e-30, 0.5, 5e9].iter().for_each(|x| far.add(*x));
        (fc2.min, fc2.max, fc2.histogram) = (Some(f64::from(-1e30_f32)), Some(5e9), Some(far));
        of.layers.push(LayerStats {
            site: "dead".into(),
            uses: 1,
            units: 8,
            values: 800,
            zeros: 800,
            zero_fraction: 1.0,
            dead: Some(8),
            mean: Some(0.0),
            variance: Some(0.0),
            min: Some(0.0),
            max: Some(0.0),
            histogram: Some(Histogram { zeros: 800, ..Histogram::default() }),
            ..LayerStats::default()
        });
        of.score.loss = if epoch > 2 { f64::NAN } else { of.score.loss };
    }
    report
}
