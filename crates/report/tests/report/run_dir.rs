//! The run directory: its format is pinned here, byte by byte.

use std::{fs, path::Path};

use taper_report::{
    ActivePerSample, Consumer, EpochReport, Error, Fault, Finding, FiringRates, Histogram, LayerLine,
    LayerStats, Lengths, Metric, MetricKind, MetricsLine, NonFinite, Octaves, ParameterNorms, Place,
    Quantiles, Result, Run, RunDir, RunLock, Score, Sink, SiteSteps, Split, SplitReport, StepLine,
    StepReport, TimingLine, Trouble, Warning, fresh_dir, read_config, read_lines, read_reports,
};

pub fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("the system has a directory for temporary files")
}

pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).map_err(Error::io(path))
}

pub fn write(path: impl AsRef<Path>, text: &str) -> Result<()> {
    let path = path.as_ref();
    fs::write(path, text).map_err(Error::io(path))
}

fn run() -> Run {
    Run {
        name: "relu".into(),
        dataset: "digits".into(),
        model: "mlp 64-4-10".into(),
        labels: [("act".to_string(), "relu".into()), ("dropout".into(), 0.5.into())].into(),
        loss: "mean cross-entropy per sample, in nats".into(),
        seed: 1,
        parameters: 310,
        epochs: 2,
        config: serde_json::json!({ "batch_size": 32, "lr": 0.1 }),
        ..Run::default()
    }
}

/// Every field holds something, in numbers that are exact in binary.
fn full_layer() -> LayerStats {
    let mut histogram = Histogram::default();
    [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0, -0.5].iter().for_each(|x| histogram.add(*x));
    let mut between = [0; 20];
    between[5] = 2;
    LayerStats {
        site: "fc1".into(),
        activation: Some("relu".into()),
        uses: 2,
        trouble: Some(Trouble::UnitsChanged { expected: 4, found: 5 }),
        units: 4,
        samples: 2,
        values: 8,
        zeros: 4,
        negatives: 1,
        positives: 3,
        near_zeros: 4,
        near_zero_bound: 0.01,
        nan: 0,
        infinite: 0,
        zero_fraction: 0.5,
        mean: Some(0.4375),
        variance: Some(0.625),
        skewness: Some(0.75),
        excess_kurtosis: Some(-0.5),
        min: Some(-0.5),
        max: Some(2.0),
        histogram: Some(histogram),
        quantiles: Some(Quantiles { q01: -0.5, q05: -0.5, q25: 0.0, q50: 0.0, q75: 1.0, q95: 2.0, q99: 2.0 }),
        asymmetry: Some(0.5),
        flat_low: Some(0.5),
        flat_high: Some(0.0),
        dead: Some(1),
        rare: Some(0),
        always_on: 1,
        dormant_0: Some(1),
        dormant_0_025: Some(1),
        dormant_0_1: Some(2),
        died: Some(1),
        revived: Some(0),
        still_dead: Some(0),
        dead_units: vec![3],
        rare_units: Vec::new(),
        firing_rate: FiringRates { never: 1, between, always: 1 },
        active_per_sample: Some(ActivePerSample { mean: 2.0, min: 1, max: 3 }),
        population_sparseness: Some(0.25),
        hoyer: Some(0.125),
        samples_all_zero: Some(0),
        lifetime_sparseness: Some(0.375),
    }
}

fn report(epoch: u32) -> EpochReport {
    let accuracy = Metric { name: "accuracy".into(), kind: MetricKind::Share, value: 0.875 };
    let error = Metric { name: "absolute error".into(), kind: MetricKind::Lower, value: 0.5 };
    let counts = [("confusion".to_string(), vec![vec![60, 4], vec![12, 52]])].into();
    let score = Score { loss: 0.25, samples: 128, metrics: vec![accuracy, error], counts };
    let first = Fault { batch: 7, loss: f64::INFINITY, place: Place::Site { site: "fc1".into(), unit: 3 } };
    let train = SplitReport {
        learning_rate: Some(0.1),
        seconds: 0.5,
        tracking_seconds: 0.0625,
        layers: vec![full_layer()],
        nonfinite: Some(NonFinite { batches: 2, skipped: 1, first }),
        ..SplitReport::new(Split::Train, Score { counts: Default::default(), ..score.clone() })
    };
    // Nothing that is optional.
    let bare = LayerStats { site: "fc1".into(), uses: 1, units: 4, ..LayerStats::default() };
    let test = SplitReport { layers: vec![bare], ..SplitReport::new(Split::Test, score) };
    EpochReport { epoch, splits: vec![train, test] }
}

/// A window of two steps, with and without an activation function.
fn window(step: u64) -> StepReport {
    let accuracy = Metric { name: "accuracy".into(), kind: MetricKind::Share, value: 0.75 };
    let fc1 = SiteSteps {
        site: "fc1".into(),
        units: 4,
        zero_fraction: 0.5,
        dead: Some(1),
        mean: Some(0.4375),
        std: Some(0.75),
        octaves: Some(Octaves { zeros: 128, positive: [0, 1, 32, 64, 31, 0, 0, 0], ..Octaves::default() }),
    };
    let out =
        SiteSteps { site: "out".into(), dead: None, mean: None, std: None, octaves: None, ..fc1.clone() };
    let weight = ParameterNorms {
        parameter: "fc1.weight".into(),
        gradient_norm: Some(0.5),
        weight_norm: Some(8.0),
        update_norm: Some(0.0625),
    };
    let bias = ParameterNorms { parameter: "fc1.bias".into(), gradient_norm: None, ..weight.clone() };
    StepReport {
        step,
        steps: 2,
        score: Score { loss: 0.25, samples: 64, metrics: vec![accuracy], ..Score::default() },
        learning_rate: 0.125,
        sites: vec![fc1, out],
        parameters: vec![weight, bias],
    }
}

/// The directory of a run without epochs.
fn begun() -> Result<(tempfile::TempDir, RunDir)> {
    let dir = temporary();
    let mut sink = RunDir::create(dir.path())?;
    sink.begin(&run())?;
    Ok((dir, sink))
}

#[test]
fn the_files_of_a_run_are_those_of_format_version_2() -> Result<()> {
    let dir = temporary();
    let mut sink = RunDir::create(dir.path().join("run"))?;
    sink.begin(&run())?;
    sink.step(&window(102))?;
    sink.epoch(&report(1))?;
    for name in ["config.json", "metrics.jsonl", "layers.jsonl", "timing.jsonl", "steps.jsonl"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let written = read(sink.path().join(name))?;
        // To pin a new version: put the old files aside, and set this for one run.
        if std::env::var_os("TAPER_WRITE_GOLDEN").is_some() {
            write(&golden, &written)?;
        }
        assert_eq!(written, read(golden)?, "{name}");
    }
    // A file without consumers, as older versions wrote it.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config.json");
    assert_eq!(read_config(golden)?, run());
    Ok(())
}

#[test]
fn what_was_written_is_read_back() -> Result<()> {
    let dir = temporary();
    let mut sink = RunDir::create(dir.path().join("new/parents/run"))?;
    let consumer = Consumer { site: "fc1".into(), layer: "fc2".into(), multiplications: 40 };
    let run = Run { consumers: vec![consumer], ..run() };
    sink.begin(&run)?;
    for epoch in 1..=2 {
        sink.step(&window(100 + 2 * u64::from(epoch)))?;
        sink.epoch(&report(epoch))?;
        // At once, not when the sink goes away.
        let metrics: Vec<MetricsLine> = read_lines(sink.path().join("metrics.jsonl"))?;
        assert_eq!(metrics.len(), 2 * epoch as usize);
        assert_eq!(
            (&metrics[0].of.score, metrics[0].of.learning_rate),
            (&report(epoch).splits[0].score, Some(0.1))
        );
    }
    sink.finish()?;
    assert_eq!(read_config(sink.path().join("config.json"))?, run);
    let layers: Vec<LayerLine> = read_lines(sink.path().join("layers.jsonl"))?;
    assert_eq!((layers[2].epoch, layers[2].split), (2, Split::Train));
    assert_eq!(layers[2].of, full_layer());
    let timing: Vec<TimingLine> = read_lines(sink.path().join("timing.jsonl"))?;
    assert_eq!((timing[0].of.samples_per_second, timing[0].of.tracking_fraction), (256.0, 0.125));
    let steps: Vec<StepLine> = read_lines(sink.path().join("steps.jsonl"))?;
    assert_eq!(steps.into_iter().map(|line| line.of).collect::<Vec<_>>(), [window(102), window(104)]);
    Ok(())
}

#[test]
fn time_changes_neither_metrics_nor_layers() -> Result<()> {
    let dir = temporary();
    let mut slow = report(1);
    slow.splits.iter_mut().for_each(|of| of.seconds += 1.0);
    let (mut a, mut b) = (RunDir::create(dir.path().join("a"))?, RunDir::create(dir.path().join("b"))?);
    a.begin(&run())?;
    a.epoch(&report(1))?;
    b.begin(&run())?;
    b.epoch(&slow)?;
    for name in ["metrics.jsonl", "layers.jsonl"] {
        assert_eq!(read(a.path().join(name))?, read(b.path().join(name))?);
    }
    assert_ne!(read(a.path().join("timing.jsonl"))?, read(b.path().join("timing.jsonl"))?);
    Ok(())
}

#[test]
fn a_directory_in_use_is_not_touched_and_the_next_name_is_used() -> Result<()> {
    let dir = temporary();
    let wanted = dir.path().join("run");
    let first = RunDir::create(&wanted)?;
    assert_eq!(first.path(), wanted);
    assert_eq!(RunDir::create(&wanted)?.path(), dir.path().join("run-2"));
    write(dir.path().join("run-3"), "a file is no directory either")?;
    assert_eq!(RunDir::create(&wanted)?.path(), dir.path().join("run-4"));
    Ok(())
}

#[test]
fn an_empty_directory_is_used() -> Result<()> {
    let dir = temporary();
    assert_eq!(RunDir::create(dir.path())?.path(), dir.path());
    let grid = fresh_dir(dir.path().join("grid"))?;
    assert_eq!(fresh_dir(&grid)?, grid);
    RunDir::create(grid.join("relu"))?;
    assert_eq!(fresh_dir(&grid)?, dir.path().join("grid-2"));
    Ok(())
}

#[test]
fn threads_that_want_one_name_get_a_directory_each() -> Result<()> {
    let dir = temporary();
    let wanted = dir.path().join("run");
    let mut taken: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| RunDir::create(&wanted))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    taken.sort_by(|a, b| a.path().cmp(b.path()));
    taken.dedup_by(|a, b| a.path() == b.path());
    assert_eq!(taken.len(), 8);
    Ok(())
}

#[test]
fn a_second_run_does_not_overwrite_the_config_of_the_first() -> Result<()> {
    let (_dir, mut sink) = begun()?;
    let error = sink.begin(&run()).expect_err("there is one already").to_string();
    assert!(error.contains("config.json"), "{error}");
    Ok(())
}

const FILES: [&str; 5] = ["metrics.jsonl", "layers.jsonl", "timing.jsonl", "steps.jsonl", "warnings.jsonl"];

#[test]
fn a_resumed_run_has_the_files_of_an_uninterrupted_one() -> Result<()> {
    let dir = temporary();
    let mut whole = RunDir::create(dir.path().join("whole"))?;
    whole.begin(&run())?;
    let go_on = |sink: &mut RunDir, epoch: u32| {
        sink.step(&window(u64::from(epoch)))?;
        sink.epoch(&report(epoch))?;
        let finding = Finding::LossStandsStill { loss: 2.5, first: 3.0 };
        sink.warning(&Warning { epoch: Some(epoch), step: None, finding })
    };
    (1..=3).try_for_each(|epoch| go_on(&mut whole, epoch))?;

    let path = dir.path().join("cut");
    let mut cut = RunDir::create(&path)?;
    cut.begin(&run())?;
    go_on(&mut cut, 1)?;
    let known = Lengths::settle(&path)?;
    go_on(&mut cut, 2)?;
    drop(cut);
    // Killed within a line.
    for name in FILES {
        let text = read(path.join(name))?;
        write(path.join(name), &text[..text.len() - 7])?;
    }
    let mut cut = RunDir::resume(RunLock::take(&path)?, &known)?;
    cut.begin(&run())?;
    (2..=3).try_for_each(|epoch| go_on(&mut cut, epoch))?;
    for name in FILES.iter().chain(&["config.json"]) {
        assert_eq!(read(path.join(name))?, read(whole.path().join(name))?, "{name}");
    }
    let mut again = read_reports(&path)?;
    // Layers without values are read as they were written; all else is exact here.
    assert_eq!(again.remove(1), report(2));
    Ok(())
}

#[test]
fn a_file_shorter_than_at_the_checkpoint_is_an_error_and_nothing_is_truncated() -> Result<()> {
    let (dir, mut sink) = begun()?;
    (1..=2).try_for_each(|epoch| sink.epoch(&report(epoch)))?;
    let known = Lengths::settle(dir.path())?;
    sink.epoch(&report(3))?;
    drop(sink);
    write(dir.path().join("timing.jsonl"), "{}\n")?;
    let before = read(dir.path().join("metrics.jsonl"))?;
    let error =
        RunDir::resume(RunLock::take(dir.path())?, &known).expect_err("timing.jsonl is short").to_string();
    assert!(error.contains("timing.jsonl: expected at least") && error.contains("found 3"), "{error}");
    assert_eq!(read(dir.path().join("metrics.jsonl"))?, before);
    Ok(())
}

#[test]
fn a_run_has_one_writer_at_a_time() -> Result<()> {
    let dir = temporary();
    let first = RunDir::create(dir.path())?;
    let error = RunLock::take(dir.path()).expect_err("it is taken").to_string();
    assert!(error.contains("another process is writing to this run"), "{error}");
    drop(first);
    RunDir::resume(RunLock::take(dir.path())?, &Lengths::default())?;
    Ok(())
}

#[test]
fn a_run_whose_directory_is_removed_notices_at_the_next_epoch() -> Result<()> {
    let dir = temporary();
    let path = dir.path().join("run");
    let mut sink = RunDir::create(&path)?;
    sink.begin(&run())?;
    sink.epoch(&report(1))?;
    fs::remove_dir_all(&path).map_err(Error::io(&path))?;
    let error = sink.epoch(&report(2)).expect_err("nothing is there").to_string();
    assert!(error.contains("metrics.jsonl: it was removed during the run"), "{error}");
    assert!(Lengths::settle(&path).is_err());
    Ok(())
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_with_its_path() -> Result<()> {
    let dir = temporary();
    let file = dir.path().join("file");
    write(&file, "")?;
    let error = RunDir::create(file.join("run")).expect_err("nothing fits below a file").to_string();
    assert!(error.starts_with(&file.display().to_string()), "{error}");
    assert!(RunDir::create("/").is_err());
    Ok(())
}

#[test]
fn a_loss_that_is_not_a_number_is_null() -> Result<()> {
    let (_dir, mut sink) = begun()?;
    let mut report = report(1);
    report.splits[0].score.loss = f64::NAN;
    report.splits[0].score.metrics[1].value = f64::INFINITY;
    report.splits[0].layers[0].mean = Some(f64::INFINITY);
    sink.epoch(&report)?;
    let path = sink.path().join("metrics.jsonl");
    let expected =
        r#""split":"train","loss":null,"samples":128,"metrics":{"accuracy":0.875,"absolute error":null},"#;
    assert!(read(&path)?.contains(expected));
    let score = &read_lines::<MetricsLine>(&path)?[0].of.score;
    assert!(score.loss.is_nan() && score.metrics[1].value.is_nan() && score.metrics[0].value == 0.875);
    assert_eq!(read_lines::<LayerLine>(sink.path().join("layers.jsonl"))?[0].of.mean, None);
    Ok(())
}

#[test]
fn an_epoch_before_its_run_is_an_error() -> Result<()> {
    let dir = temporary();
    let error = RunDir::create(dir.path())?.epoch(&report(1)).expect_err("no run has begun").to_string();
    assert_eq!(
        error,
        format!("{}: expected a run before its first epoch: call begin first", dir.path().display())
    );
    Ok(())
}

#[test]
fn a_config_that_is_too_large_to_read_is_not_written() -> Result<()> {
    let dir = temporary();
    let mut sink = RunDir::create(dir.path())?;
    let long = Run { config: serde_json::json!({ "notes": "n".repeat(300_000) }), ..run() };
    let error = sink.begin(&long).expect_err("it is too long").to_string();
    assert!(error.contains("config.json: expected a config of at most 262144 bytes, found 300"), "{error}");
    sink.begin(&run())
}
