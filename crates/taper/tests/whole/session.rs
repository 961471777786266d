//! Sessions: what a loop of one's own gets, and that a run that is interrupted or killed ends with the bytes of one that
//! was not.

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use rand::seq::IteratorRandom as _;
use serde_json::json;
use taper::hooks::{Rng, rng};
use taper::nn::{Act, Activation};
use taper::nn::{Dropout, Init, Linear, Model, Params, Pass};
use taper::report::{
    Alert, EpochReport, Run, Sink, Split, StepLine, StepReport, read_lines, read_reports, sink_fn,
};
use taper::train::{
    Error, Keep, MSE, OnNonFinite, Optimizer, OptimizerConfig, Place, Result, Rule, SaveEvery, Session,
    SessionConfig, Step, mse, regress,
};

type Pair = (Tensor, Tensor);

struct Net {
    fc1: Linear,
    act1: Act,
    dropout: Dropout,
    out: Linear,
}

impl Model for Net {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let ys = self.fc1.forward_act(pass, xs, &self.act1)?;
        self.out.forward(&self.dropout.forward(pass, &ys)?)
    }
}

/// 44 batches of inputs `(6, 5)` and targets `(6, 1)`; each call draws other values from `rng`. The third epoch ends within a
/// window of steps.
fn batches(rng: &mut Rng) -> impl Iterator<Item = candle_core::Result<Pair>> + Send + use<> {
    let start = (0..97).choose(rng).unwrap();
    (0..44).map(move |i| {
        let value = |k: usize| (((start + i * 53 + k * 29) % 41) as f32 / 41.0) - 0.5;
        let xs = Tensor::from_vec((0..30).map(value).collect::<Vec<_>>(), (6, 5), &Device::Cpu)?;
        let ys = xs.sqr()?.sum_keepdim(1)?;
        Ok((xs, ys))
    })
}

fn run(epochs: u32) -> Run {
    Run {
        name: "own".into(),
        loss: MSE.into(),
        seed: 5,
        epochs,
        config: json!({ "lr": 0.05 }),
        ..Run::default()
    }
}

const SAVE: SaveEvery = SaveEvery { epochs: Some(1), steps: Some(4) };

fn open<'a>(dir: &Path, run: Run, config: SessionConfig, on: OnNonFinite) -> Result<(Net, Session<'a>)> {
    let params = Params::of_run(run.seed, &Device::Cpu);
    let (vb, relu) = (params.builder(), Activation::Relu);
    let net = Net {
        fc1: Linear::new(5, 16, Init::of(relu), vb.pp("fc1"))?,
        act1: Act::new(relu, vb.pp("fc1"))?,
        dropout: Dropout::new(0.3)?,
        out: Linear::new(16, 1, Init::LeCun, vb.pp("out"))?,
    };
    let rule = OptimizerConfig { on_nonfinite: on, ..OptimizerConfig::new(Rule::adam(0.0), 0.05) };
    let optimizer = Optimizer::new(params.vars(), rule)?;
    Session::open(dir, run, &params, optimizer, config).map(|session| (net, session))
}

/// Trains to the end, or until `batches_left` is used up: then the session is interrupted, or dropped as if killed.
fn go_on(dir: &Path, mut batches_left: usize, kill: bool) -> bool {
    let config = SessionConfig { save: SAVE, ..Default::default() };
    let (net, mut session) = open(dir, run(4), config, OnNonFinite::Stop).unwrap();
    let step = regress(&net);
    while let Some(epoch) = session.next_epoch().unwrap() {
        let left = &mut batches_left;
        session
            .train(&step, |rng, done| {
                batches(rng).skip(done).take_while(|_| {
                    let go = *left > 0;
                    *left = left.saturating_sub(1);
                    go
                })
            })
            .unwrap();
        if epoch > 0 && batches_left == 0 {
            if !kill {
                session.interrupt().unwrap();
                session.finish().unwrap();
            }
            return false;
        }
        session.evaluate(&step, Split::Validation, batches(&mut rng(1))).unwrap();
        session.evaluate(&step, Split::Test, batches(&mut rng(2))).unwrap();
        session.own = json!({ "epochs": epoch });
        session.end_epoch().unwrap();
    }
    assert_eq!(session.own, json!({ "epochs": 4 }));
    session.finish().unwrap();
    true
}

fn files(dir: &Path) -> Vec<Vec<u8>> {
    ["model.safetensors", "metrics.jsonl", "layers.jsonl", "steps.jsonl", "config.json"]
        .map(|name| fs::read(dir.join(name)).unwrap())
        .into()
}

#[test]
fn a_run_of_any_loss_that_is_interrupted_or_killed_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    assert!(go_on(&whole, usize::MAX, false));
    let reports = read_reports(&whole).unwrap();
    assert_eq!(reports.iter().map(|report| report.epoch).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    for (kill, cuts) in [
        (false, vec![7, 44, 51, 1, 22, 8]),
        (true, vec![3, 9, 98, 16]),
        (true, vec![150]),
        (false, vec![131, 1, 1]),
    ] {
        let cut = dir.path().join(format!("{kill}-{}", cuts.len()));
        for batches in &cuts {
            assert!(!go_on(&cut, *batches, kill), "{cuts:?}");
        }
        assert!(go_on(&cut, usize::MAX, false));
        assert!(files(&cut) == files(&whole), "{kill} {cuts:?}");
    }
}

/// Keeps the windows of steps that it receives.
struct Windows<'a>(&'a mut Vec<StepReport>);

impl Sink for Windows<'_> {
    fn epoch(&mut self, _report: &EpochReport) -> taper::report::Result<()> {
        Ok(())
    }

    fn step(&mut self, report: &StepReport) -> taper::report::Result<()> {
        self.0.push(report.clone());
        Ok(())
    }
}

#[test]
fn windows_of_steps_cover_every_step_and_together_say_what_the_epochs_say() {
    let dir = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    let (net, mut session) =
        open(&dir.path().join("run"), run(4), SessionConfig::default(), OnNonFinite::Stop).unwrap();
    let path = session.path().to_path_buf();
    session.sink(Windows(&mut told));
    let step = regress(&net);
    while session.next_epoch().unwrap().is_some() {
        session.train(&step, |rng, done| batches(rng).skip(done)).unwrap();
        session.evaluate(&step, Split::Test, batches(&mut rng(2))).unwrap();
        session.end_epoch().unwrap();
    }
    drop(session);
    let lines: Vec<StepLine> = read_lines(path.join("steps.jsonl")).unwrap();
    let windows: Vec<StepReport> = lines.into_iter().map(|line| line.of).collect();
    assert_eq!(windows, told);
    // 176 steps, of which the last window may be open.
    let mut last = 0;
    for window in &windows {
        assert_eq!(window.steps, window.step - last);
        assert!(window.steps <= window.step.div_ceil(100) && window.score.samples == 6 * window.steps);
        last = window.step;
        let names: Vec<&str> = window.parameters.iter().map(|of| of.parameter.as_str()).collect();
        assert_eq!(names, ["fc1.weight", "fc1.bias", "out.weight", "out.bias"]);
        assert!(window.parameters.iter().all(|of| of.update_norm > Some(0.0)));
        assert_eq!((window.sites.len(), window.sites[0].units, window.learning_rate), (1, 16, 0.05));
    }
    assert!(windows.iter().any(|of| of.step - of.steps < 132 && 132 < of.step), "one spans two epochs");
    // The first two epochs are 88 windows of a step each.
    let reports = read_reports(&path).unwrap();
    for (epoch, windows) in [(1, &windows[..44]), (2, &windows[44..88])] {
        let train = reports[epoch].split(Split::Train).unwrap();
        let mean = |f: &dyn Fn(&StepReport) -> f64| windows.iter().map(f).sum::<f64>() / 44.0;
        assert!((mean(&|of| of.score.loss) - train.score.loss).abs() < 1e-9);
        assert!((mean(&|of| of.sites[0].zero_fraction) - train.layers[0].zero_fraction).abs() < 1e-12);
        assert!((mean(&|of| of.sites[0].mean.unwrap()) - train.layers[0].mean.unwrap()).abs() < 1e-9);
        assert!(windows.iter().all(|of| of.sites[0].dead >= train.layers[0].dead));
    }
    // Where nothing is recorded there are none.
    let config = SessionConfig { record: None, ..Default::default() };
    let (net, mut session) = open(&dir.path().join("bare"), run(1), config, OnNonFinite::Stop).unwrap();
    let step = regress(&net);
    while session.next_epoch().unwrap().is_some() {
        session.train(&step, |rng, done| batches(rng).skip(done)).unwrap();
        session.end_epoch().unwrap();
    }
    assert_eq!(fs::read(session.path().join("steps.jsonl")).unwrap(), b"");
}

#[test]
fn epoch_0_is_the_untrained_network_and_never_the_best() {
    let dir = tempfile::tempdir().unwrap();
    assert!(go_on(dir.path(), usize::MAX, false));
    let reports = read_reports(dir.path()).unwrap();
    assert!(reports[0].split(Split::Train).is_none() && reports[0].splits.len() == 2);
    let died = |epoch: usize, split| reports[epoch].split(split).unwrap().layers[0].died;
    for split in [Split::Validation, Split::Test] {
        assert_eq!([died(0, split), died(1, split)], [None, None]);
        assert!(died(2, split).is_some());
    }
    // With a rate that ruins the network, it still is not.
    let other = dir.path().join("ruined");
    let (net, mut session) = open(&other, run(2), SessionConfig::default(), OnNonFinite::Continue).unwrap();
    let step = regress(&net);
    while session.next_epoch().unwrap().is_some() {
        session.train(&step, |rng, done| batches(rng).skip(done)).unwrap();
        session.evaluate(&step, Split::Test, batches(&mut rng(2))).unwrap();
        session.end_epoch().unwrap();
        assert!(session.best().is_none_or(|(epoch, _)| epoch > 0));
    }
    assert!(session.best().is_some());
}

#[test]
fn another_run_or_other_files_in_the_directory_are_refused_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    go_on(&run_dir, 20, false);
    let before = fs::read(run_dir.join("config.json")).unwrap();
    let mut other = run(4);
    other.config = json!({ "lr": 0.1 });
    let refused = |run: Run, config| open(&run_dir, run, config, OnNonFinite::Stop).err().unwrap();
    match refused(other.clone(), SessionConfig::default()) {
        error @ Error::OtherRun { .. } => {
            assert!(error.to_string().contains("lr was 0.05 and is 0.1"), "{error}")
        }
        other => panic!("{other}"),
    }
    assert_eq!(fs::read(run_dir.join("config.json")).unwrap(), before);
    let forced = SessionConfig { force: true, ..Default::default() };
    let (_, mut session) = open(&run_dir, other, forced, OnNonFinite::Stop).unwrap();
    session.next_epoch().unwrap();
    assert_eq!(session.run().config["forced"], json!(["lr was 0.05 and is 0.1"]));
    drop(session);

    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("thesis.tex"), "all of it").unwrap();
    let error = open(&taken, run(4), SessionConfig::default(), OnNonFinite::Stop).err().unwrap();
    assert!(
        error.to_string().contains("expected the directory of a run, or an empty one, found other files"),
        "{error}"
    );
    assert_eq!(fs::read_dir(&taken).unwrap().count(), 1);
    // One process at a time.
    let (_, session) =
        open(&dir.path().join("new"), run(4), SessionConfig::default(), OnNonFinite::Stop).unwrap();
    let error =
        open(&dir.path().join("new"), run(4), SessionConfig::default(), OnNonFinite::Stop).err().unwrap();
    assert!(error.to_string().contains("another process is writing"), "{error}");
    drop(session);
}

#[test]
fn an_evaluation_that_is_not_finite_is_reported_and_then_ends_the_run_unless_it_may_continue() {
    for on in [OnNonFinite::Stop, OnNonFinite::Continue] {
        let dir = tempfile::tempdir().unwrap();
        let (net, mut session) = open(&dir.path().join("run"), run(1), SessionConfig::default(), on).unwrap();
        let step = regress(&net);
        session.next_epoch().unwrap();
        session.evaluate(&step, Split::Test, batches(&mut rng(2))).unwrap();
        session.end_epoch().unwrap();
        session.next_epoch().unwrap();
        session.train(&step, |rng, done| batches(rng).skip(done)).unwrap();
        let nan = batches(&mut rng(2)).map(|pair| pair.and_then(|(xs, ys)| Ok(((xs * f64::NAN)?, ys))));
        session.evaluate(&step, Split::Test, nan).unwrap();
        let ended = session.end_epoch();
        assert_eq!(read_reports(session.path()).unwrap().len(), 2, "it was reported");
        match (on, ended) {
            (OnNonFinite::Stop, Err(Error::NotFinite { epoch: Some(1), fault })) => {
                assert_eq!(fault.place, Place::Data { sample: 0 });
            }
            (OnNonFinite::Continue, Ok(report)) => assert!(report.headline().unwrap().nonfinite.is_some()),
            (on, ended) => panic!("{on} {ended:?}"),
        }
    }
}

#[test]
fn a_sink_that_fails_and_an_alert_end_the_run_after_everything_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let config = SessionConfig { save: SaveEvery::default(), keep: Keep::default(), ..Default::default() };
    let mut told = Vec::new();
    let (net, mut session) = open(&path, run(3), config, OnNonFinite::Stop).unwrap();
    session.sink(sink_fn(|report: &EpochReport| {
        told.push(report.epoch);
        Ok(())
    }));
    session.sink("test.r2<2".parse::<Alert>().unwrap());
    let step = regress(&net);
    let mut ended = Ok(());
    while ended.is_ok() && session.next_epoch().unwrap().is_some() {
        session.train(&step, |rng, done| batches(rng).skip(done)).unwrap();
        session.evaluate(&step, Split::Test, batches(&mut rng(2))).unwrap();
        ended = session.end_epoch().map(drop);
    }
    assert!(
        matches!(&ended, Err(Error::Report(taper::report::Error::Alert(text))) if text.contains("test.r2")),
        "{ended:?}"
    );
    session.finish().unwrap();
    drop(session);
    assert_eq!(told, [0, 1], "the untrained network fires no alert");
    assert!(path.join("checkpoints/epoch-1").is_dir() && path.join("model.safetensors").exists());
}

#[test]
fn misuse_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let config = SessionConfig::default();
    let (net, mut session) = open(&path, run(1), config, OnNonFinite::Stop).unwrap();
    let step = regress(&net);
    #[track_caller]
    fn says<T>(result: Result<T>, expected: &str) {
        let text = result.err().unwrap().to_string();
        assert!(text.contains(expected) && text.lines().count() == 1, "{text}");
    }
    says(session.end_epoch(), "no epoch has begun: call next_epoch first");
    says(session.train(&step, |rng, _| batches(rng)), "no epoch has begun");
    says(session.evaluate(&step, Split::Test, batches(&mut rng(1))).map(drop), "no epoch has begun");
    session.next_epoch().unwrap();
    says(session.next_epoch(), "epoch 0 has not ended: call end_epoch or interrupt first");
    session.end_epoch().unwrap();
    session.next_epoch().unwrap();
    says(session.end_epoch(), "expected at least one batch of train, found none");
    says(session.evaluate(&step, Split::Train, batches(&mut rng(1))).map(drop), "found train");
    // A failed evaluation can be repeated; its batches are not counted twice.
    let fails = batches(&mut rng(1)).take(3).chain([Err(candle_core::Error::Msg("cut".into()))]);
    says(session.evaluate(&step, Split::Test, fails).map(drop), "cut");
    let samples = session.evaluate(&step, Split::Test, batches(&mut rng(1))).unwrap().layers[0].samples;
    assert_eq!(samples, 264);
    says(session.evaluate(&step, Split::Test, batches(&mut rng(1))).map(drop), "measured in epoch 1 already");
    // A custom loop adds its reports with `add`.
    let own =
        |pass: &mut Pass<'_>, (xs, ys): &Pair| Ok(Step::new(mse(&net.forward(pass, xs)?, ys)?, xs.dim(0)?));
    let report =
        taper::train::train_epoch(&own, &mut session.optimizer, batches(&mut rng(1)), &mut (), 5).unwrap();
    session.add(report);
    assert_eq!(session.end_epoch().unwrap().splits.len(), 2);
    assert_eq!(session.next_epoch().unwrap(), None);
}

#[test]
fn another_optimiser_or_recording_is_refused_and_records_without_a_checkpoint_are_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    assert!(go_on(&path, usize::MAX, false));
    let refused = |config, on| open(&path, run(4), config, on).err().unwrap().to_string();
    let config = SessionConfig { save: SAVE, ..Default::default() };
    let text = refused(config.clone(), OnNonFinite::Skip);
    assert!(
        text.contains("optimizer.on_nonfinite was \"stop\" and is \"skip\"") && text.lines().count() == 1,
        "{text}"
    );
    let text = refused(SessionConfig { record: None, ..config.clone() }, OnNonFinite::Stop);
    assert!(text.contains("recorded was") && text.contains("and is nothing"), "{text}");
    let forced = SessionConfig { record: None, force: true, ..config.clone() };
    let (_, mut session) = open(&path, run(4), forced, OnNonFinite::Stop).unwrap();
    assert!(session.recorder(Split::Train).is_none() && session.was_finished());
    drop(session);

    let before = files(&path);
    fs::remove_dir_all(path.join("checkpoints")).unwrap();
    let text = refused(config.clone(), OnNonFinite::Stop);
    assert!(text.contains("expected a checkpoint to resume from, found none"), "{text}");
    assert!(before == files(&path));
    // A file in the way.
    fs::write(dir.path().join("file"), "x").unwrap();
    let error = open(&dir.path().join("file"), run(4), config, OnNonFinite::Stop).err().unwrap();
    assert!(
        error.to_string().contains("file: ") && fs::read_dir(dir.path()).unwrap().count() == 2,
        "{error}"
    );
}
