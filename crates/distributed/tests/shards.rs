//! The number of processes, here threads, changes no byte of a run.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use taper::data::digits;
use taper::nn::{
    Activation, BatchNorm2d, Cnn, CnnConfig, Conv2d, Dropout, Init, KWinners, Linear, Mlp, MlpConfig, Model,
    Params, Pass,
};
use taper::report::{Run, Split, read_reports};
use taper::train::{
    CROSS_ENTROPY, Error, Group, OnNonFinite, Optimizer, OptimizerConfig, Result, SaveEvery, Session,
    SessionConfig, Shards, classify, parse_rule,
};
use taper_distributed::threads;

type Net = Box<dyn Model + Send + Sync>;

/// Two convolutions with batch normalisation, and dropout.
struct Normalised {
    conv: Conv2d,
    norm: BatchNorm2d,
    dropout: Dropout,
    out: Linear,
}

impl Model for Normalised {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let ys = self.norm.forward(pass, &self.conv.forward(xs)?)?;
        self.out.forward(&self.dropout.forward(pass, &ys.flatten_from(1)?)?)
    }
}

fn net(kind: &str, params: &Params) -> Net {
    let (vb, activation) = (params.builder(), Activation::Relu);
    match kind {
        "mlp" => {
            let config = MlpConfig {
                inputs: 64,
                widths: vec![48, 24],
                activation,
                dropout: 0.3,
                ..Default::default()
            };
            Box::new(Mlp::new(&config, vb).unwrap())
        }
        "cnn" => {
            let (input, channels, widths) = ((1, 8, 8), vec![4, 8], vec![16]);
            let config =
                CnnConfig { input, channels, widths, activation, dropout: 0.2, ..Default::default() };
            Box::new(Cnn::new(&config, vb).unwrap())
        }
        _ => Box::new(Normalised {
            conv: Conv2d::new(1, 6, Default::default(), vb.pp("conv")).unwrap(),
            norm: BatchNorm2d::new(6, Default::default(), vb.pp("norm")).unwrap(),
            dropout: Dropout::new(0.2).unwrap(),
            out: Linear::new(6 * 36, 10, Init::LeCun, vb.pp("out")).unwrap(),
        }),
    }
}

/// How a part of a run is made.
#[derive(Clone)]
struct How {
    net: &'static str,
    rule: &'static str,
    shards: usize,
    epochs: u32,
    /// Batches after which it is interrupted, or killed.
    left: usize,
    kill: bool,
    save: SaveEvery,
    /// The sample with NaN, and what is done about it.
    nan: Option<(usize, OnNonFinite)>,
    accumulate: u64,
    force: bool,
    /// A process that begins with other weights.
    other: Option<usize>,
}

const SAVE: SaveEvery = SaveEvery { epochs: Some(1), steps: Some(4) };

impl Default for How {
    fn default() -> Self {
        let (net, rule, shards, epochs) = ("mlp", "momentum", 8, 2);
        let (left, kill, nan, accumulate) = (usize::MAX, false, None, 1);
        Self { net, rule, shards, epochs, left, kill, save: SAVE, nan, accumulate, force: false, other: None }
    }
}

/// One process of a run.
fn process(dir: &Path, how: &How, group: Arc<dyn Group>) -> Result<()> {
    let data = digits().unwrap();
    let params = Params::of_run(3, &Device::Cpu);
    let (model, rank) = (net(how.net, &params), group.rank());
    let (rule, rate) = parse_rule(how.rule, None)?;
    let on_nonfinite = how.nan.map_or(OnNonFinite::Stop, |(_, on)| on);
    let config =
        OptimizerConfig { on_nonfinite, accumulate: how.accumulate, ..OptimizerConfig::new(rule, rate) };
    let optimizer = Optimizer::new(params.vars(), config)?;
    let run =
        Run { name: "run".into(), loss: CROSS_ENTROPY.into(), seed: 3, epochs: how.epochs, ..Run::default() };
    let config = SessionConfig {
        force: how.force,
        save: how.save,
        shards: Shards { count: how.shards, group },
        ..Default::default()
    };
    if how.other == Some(rank) {
        let (_, bias) = &params.vars()[1];
        bias.set(&(bias.as_detached_tensor() + 1.0)?)?;
    }
    let mut session = Session::open(dir, run, &params, optimizer, config)?;
    let classify = classify(&model);
    let mut left = how.left;
    while let Some(epoch) = session.next_epoch()? {
        let (sick, left) = (how.nan.map(|(batch, _)| batch), &mut left);
        session.train(&classify, |rng, done| {
            let batches = data.train.shuffled(rng, 100).enumerate().skip(done);
            batches.take_while(|_| std::mem::replace(left, left.saturating_sub(1)) > 0).map(
                move |(i, batch)| {
                    let mut batch = batch?;
                    if sick == Some(i) {
                        // In the last shard.
                        let rows = Tensor::arange(0_f32, batch.len() as f32, &Device::Cpu)?.reshape((
                            batch.len(),
                            1,
                            1,
                            1,
                        ))?;
                        let nan = rows.ge(90.0)?.broadcast_as(batch.images.shape())?;
                        batch.images = nan.where_cond(&(&batch.images * f64::NAN)?, &batch.images)?;
                    }
                    Ok::<_, taper::data::Error>(batch)
                },
            )
        })?;
        if epoch > 0 && *left == 0 {
            if !how.kill {
                session.interrupt()?;
                session.finish()?;
            }
            return Ok(());
        }
        session.evaluate(&classify, Split::Test, data.test.batches(50))?;
        session.end_epoch()?;
    }
    session.finish()
}

/// All processes of a run.
fn each_process(dir: &Path, how: &How, size: usize) -> Vec<Result<()>> {
    let members = threads(size);
    std::thread::scope(|scope| {
        let start = |member| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            move || pool.install(|| process(dir, how, Arc::new(member)))
        };
        let running: Vec<_> = members.into_iter().map(|member| scope.spawn(start(member))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// The same, with the first error by rank.
fn processes(dir: &Path, how: &How, size: usize) -> Result<()> {
    each_process(dir, how, size).into_iter().collect()
}

fn files(dir: &Path) -> Vec<Vec<u8>> {
    ["model.safetensors", "metrics.jsonl", "layers.jsonl", "steps.jsonl"]
        .map(|name| fs::read(dir.join(name)).unwrap())
        .into()
}

/// Trains the same run with 1, 2, 4 and 8 processes, and compares the files byte by byte.
fn same_for_all(how: How) {
    let dir = tempfile::tempdir().unwrap();
    let run = |size: usize| {
        let path = dir.path().join(size.to_string());
        processes(&path, &how, size).unwrap();
        files(&path)
    };
    let one = run(1);
    let reports = read_reports(dir.path().join("1")).unwrap();
    assert_eq!(reports.len(), how.epochs as usize + 1);
    let loss = |epoch: u32| reports[epoch as usize].split(Split::Test).unwrap().score.loss;
    assert!(loss(how.epochs) < 0.99 * loss(0), "it learns: {} to {}", loss(0), loss(how.epochs));
    for size in [2, 4, 8] {
        assert!(run(size) == one, "{} {}: {size} processes", how.net, how.rule);
    }
}

#[test]
fn any_number_of_processes_writes_the_same_bytes_for_an_mlp_with_dropout() {
    same_for_all(How::default());
}

#[test]
fn any_number_of_processes_writes_the_same_bytes_for_a_cnn() {
    same_for_all(How { net: "cnn", rule: "adam", ..How::default() });
}

#[test]
fn any_number_of_processes_writes_the_same_bytes_with_batch_normalisation() {
    same_for_all(How { net: "normalised", rule: "sgd", ..How::default() });
}

#[test]
fn any_number_of_processes_writes_the_same_bytes_with_every_optimiser() {
    for rule in ["sgd", "nesterov", "adam", "adamw", "rmsprop", "adadelta"] {
        same_for_all(How { rule, epochs: 1, ..How::default() });
    }
}

#[test]
fn any_number_of_processes_writes_the_same_bytes_with_accumulated_gradients() {
    same_for_all(How { accumulate: 4, rule: "adam", ..How::default() });
}

#[test]
fn eight_shards_train_as_one_but_for_rounding() {
    let dir = tempfile::tempdir().unwrap();
    let losses = |shards: usize| {
        let path = dir.path().join(shards.to_string());
        processes(&path, &How { shards, epochs: 1, ..How::default() }, 1).unwrap();
        let reports = read_reports(&path).unwrap();
        let train = reports[1].split(Split::Train).unwrap();
        let fc1 = &train.layers[0];
        ([train.score.loss, reports[1].split(Split::Test).unwrap().score.loss], fc1.samples, fc1.values)
    };
    let (one, samples, values) = losses(1);
    for shards in [2, 8, 16] {
        let (many, of_shards, values_of_shards) = losses(shards);
        assert_eq!((of_shards, values_of_shards), (samples, values));
        assert!(
            one.iter().zip(many).all(|(a, b)| (a - b).abs() < 1e-4 * a),
            "{shards}: {one:?} and {many:?}"
        );
        assert_ne!(one, many, "{shards} shards round differently");
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_processes() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    processes(&whole, &How::default(), 1).unwrap();
    for (size, left, kill) in [(4, 5, false), (2, 3, true), (8, 9, false), (1, 2, true), (2, 4, false)] {
        processes(&cut, &How { left, kill, ..How::default() }, size).unwrap();
    }
    processes(&cut, &How::default(), 4).unwrap();
    assert!(files(&cut) == files(&whole));
}

#[test]
fn the_first_batch_with_nan_ends_all_processes_with_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let how = How { nan: Some((5, OnNonFinite::Stop)), ..How::default() };
    let mut said = Vec::new();
    for size in [1, 4] {
        let path = dir.path().join(size.to_string());
        let error = processes(&path, &how, size).unwrap_err().to_string();
        assert!(error.contains("batch 6") && error.contains("90"), "{error}");
        said.push(error);
    }
    assert_eq!(said[0], said[1]);
}

#[test]
fn a_batch_with_nan_is_skipped_by_all_processes() {
    let dir = tempfile::tempdir().unwrap();
    let how = How { net: "normalised", nan: Some((5, OnNonFinite::Skip)), ..How::default() };
    let run = |size: usize| {
        let path = dir.path().join(size.to_string());
        processes(&path, &how, size).unwrap();
        files(&path)
    };
    assert!(run(1) == run(4));
    let reports = read_reports(dir.path().join("4")).unwrap();
    let nonfinite = reports[1].split(Split::Train).unwrap().nonfinite.clone().unwrap();
    assert_eq!((nonfinite.batches, nonfinite.skipped), (1, 1));
}

#[test]
fn processes_that_disagree_are_refused_with_the_first_difference() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let hows = [How::default(), How { epochs: 3, ..How::default() }];
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let start = |(how, member)| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            let path = &path;
            move || pool.install(|| process(path, how, Arc::new(member)))
        };
        let running: Vec<_> = hows.iter().zip(threads(2)).map(|both| scope.spawn(start(both))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let said: Vec<String> = results.into_iter().map(|result| result.unwrap_err().to_string()).collect();
    assert!(said[1].starts_with("process 1: ") && said[1].contains("epochs was 2 and is 3"), "{said:?}");
    assert!(said[0].contains("process 1 has ended"), "{said:?}");
}

#[test]
fn a_directory_that_the_first_process_cannot_write_ends_all() {
    let dir = tempfile::tempdir().unwrap();
    let taken = dir.path().join("taken");
    fs::write(&taken, "a file").unwrap();
    let error = processes(&taken.join("run"), &How::default(), 2).unwrap_err().to_string();
    assert!(error.contains("taken"), "{error}");
}

#[test]
fn a_number_of_processes_or_shards_that_cannot_work_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let says = |shards: usize, size: usize| {
        let path = dir.path().join(format!("{shards}-{size}"));
        processes(&path, &How { shards, ..How::default() }, size).unwrap_err().to_string()
    };
    assert!(says(2, 4).contains("divides the number of shards, 2, found 4"), "{}", says(2, 4));
    assert!(says(8, 3).contains("found 3: start 2"), "{}", says(8, 3));
    assert!(says(6, 2).contains("power of two"), "{}", says(6, 2));
}

#[test]
fn another_number_of_shards_is_another_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    processes(&path, &How { left: 5, ..How::default() }, 2).unwrap();
    match processes(&path, &How { shards: 4, ..How::default() }, 2) {
        Err(Error::OtherRun { changes, .. }) => assert_eq!(changes, ["shards was 8 and is 4"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_number_of_shards_can_be_forced_within_an_epoch() {
    let dir = tempfile::tempdir().unwrap();
    for (i, [before, after]) in [[8, 4], [4, 8], [1, 4], [4, 1]].into_iter().enumerate() {
        let path = dir.path().join(i.to_string());
        processes(&path, &How { shards: before, left: 5, ..How::default() }, 1).unwrap();
        processes(&path, &How { shards: after, force: true, ..How::default() }, 1).unwrap();
        let train = read_reports(&path).unwrap()[2].split(Split::Train).unwrap().clone();
        assert_eq!((train.layers[0].samples, train.score.samples), (1437, 1437), "{before} to {after}");
        let steps = fs::read_to_string(path.join("steps.jsonl")).unwrap();
        assert_eq!(steps.lines().count(), 30, "a line for each step");
    }
}

#[test]
fn processes_with_other_weights_are_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let results = each_process(&dir.path().join("run"), &How { other: Some(1), ..How::default() }, 2);
    let text = results[1].as_ref().unwrap_err().to_string();
    assert!(text.starts_with("process 1: expected the weights of process 0 after epoch 0"), "{text}");
}

#[test]
fn processes_of_any_number_share_what_they_have() {
    for size in 1..=9 {
        let group = |member| Shards { count: size, group: Arc::new(member) };
        let results: Vec<_> = std::thread::scope(|scope| {
            let ask = |shards: Shards| {
                let rank = shards.group.rank();
                let mut all = shards.gather(vec![rank]).unwrap();
                all.sort_unstable();
                (
                    all,
                    shards.max(rank as u64).unwrap(),
                    shards.share(Some(rank).filter(|rank| *rank == size / 2)).unwrap(),
                )
            };
            let running: Vec<_> =
                threads(size).into_iter().map(|member| scope.spawn(move || ask(group(member)))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let expected = ((0..size).collect(), size as u64 - 1, size / 2);
        assert_eq!(results, vec![expected; size]);
    }
}

#[test]
fn k_winners_and_upkeep_need_whole_batches() {
    let dir = tempfile::tempdir().unwrap();
    let params = Params::of_run(3, &Device::Cpu);
    let vb = params.builder();
    let _layers = (
        Linear::new(64, 10, Init::LeCun, vb.pp("out")).unwrap(),
        KWinners::new(10, Default::default(), vb.pp("k")).unwrap(),
    );
    let optimizer =
        Optimizer::new(params.vars(), OptimizerConfig::new(parse_rule("sgd", None).unwrap().0, 0.1)).unwrap();
    let config = SessionConfig { shards: Shards { count: 8, ..Shards::default() }, ..Default::default() };
    let error =
        Session::open(dir.path().join("run"), Run::default(), &params, optimizer, config).err().unwrap();
    assert!(error.to_string().contains("expected one shard for k-winners"), "{error}");
}
