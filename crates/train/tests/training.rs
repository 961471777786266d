//! Weights on disk, empty passes, schedules in a run, and errors that people can read.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use taper_data::{Batch, Dataset};
use taper_hooks::{Observer, Pass, Recorder, Rng, Seen, StepSeen};
use taper_nn::{Mlp, MlpConfig, Model, Params};
use taper_report::{EpochReport, Sink, Split, sink_fn};
use taper_train::{
    Error, Fit, Optimizer, OptimizerConfig, Place, Result, Rule, Schedule, classify, evaluate, fit,
    load_weights, save_weights, train_epoch,
};

/// 64-6-4-10, from a seed.
fn net(seed: u64) -> (Params, Mlp) {
    let params = Params::new(seed, &Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![6, 4], ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap();
    (params, net)
}

fn values(params: &Params) -> Vec<(String, Vec<f32>)> {
    let flat = |var: &Var| var.flatten_all().unwrap().to_vec1().unwrap();
    params.vars().iter().map(|(name, var)| (name.clone(), flat(var))).collect()
}

fn optimizer(params: &Params, config: OptimizerConfig) -> Optimizer {
    Optimizer::new(params.vars(), config).unwrap()
}

/// [`fit`] on images and labels.
fn fit_on(
    net: &Mlp,
    optimizer: &mut Optimizer,
    data: &Dataset,
    (epochs, batch_size): (u32, usize),
    sink: &mut dyn Sink,
) -> Result<EpochReport> {
    let (train, test) =
        (|rng: &mut Rng| data.train.shuffled(rng, batch_size), || data.test.batches(batch_size));
    fit(&classify(net), optimizer, train, test, Fit { epochs, seed: 1 }, sink)
}

fn few() -> Dataset {
    let data = taper_data::digits().unwrap();
    Dataset { train: data.train.clone().take(100), test: data.test.clone().take(50), ..data }
}

/// Candle's errors then hold a backtrace of many lines, and must still print as one.
#[test]
fn all_of_this_holds_with_backtraces_asked_for() {
    if std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value == "0") {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let output = again.env("RUST_BACKTRACE", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[track_caller]
fn one_line(error: &Error, says: &[&str]) {
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    for say in says {
        assert!(text.contains(say), "expected '{say}' in: {text}");
    }
}

/// Checks each step of plain gradient descent against the step before it.
#[derive(Default)]
struct Checks {
    weights: HashMap<String, Tensor>,
    steps: u64,
    sites: Vec<String>,
}

impl Observer for Checks {
    fn observe(&mut self, _seen: &Seen<'_>) -> candle_core::Result<()> {
        Ok(())
    }

    fn step(&mut self, seen: &StepSeen<'_>) -> candle_core::Result<()> {
        self.steps += 1;
        assert_eq!((seen.step, seen.learning_rate), (self.steps, 0.1));
        assert!(seen.loss > 0.0);
        for (name, parameter) in seen.parameters {
            let gradient = seen.gradient(parameter)?.unwrap();
            if let Some(before) = self.weights.get(*name) {
                let expected = (before - (gradient * 0.1)?)?;
                let distance = (expected - *parameter)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                assert!(distance < 1e-6, "{name}: {distance}");
            }
            self.weights.insert(name.to_string(), parameter.detach().copy()?);
        }
        for (site, ys, gradient) in seen.sites {
            let gradient = gradient.as_ref().unwrap();
            assert_eq!(gradient.dims(), ys.dims());
            assert!(gradient.abs()?.sum_all()?.to_scalar::<f32>()? > 0.0);
            self.sites.push(site.name().to_string());
        }
        Ok(())
    }

    fn wants_site_gradients(&self) -> bool {
        true
    }
}

#[test]
fn an_observer_sees_parameters_and_gradients_of_each_step_and_changes_nothing() {
    let data = few();
    let mut checks = Checks::default();
    let trained = [&mut () as &mut dyn Observer, &mut checks].map(|observer| {
        let (params, net) = net(1);
        let mut optimizer = optimizer(&params, OptimizerConfig::new(Rule::SGD, 0.1));
        train_epoch(&classify(&net), &mut optimizer, data.train.batches(20), observer, 1).unwrap();
        values(&params)
    });
    assert!(trained[0] == trained[1], "to the bit");
    assert_eq!((checks.steps, checks.weights.len()), (5, 6));
    assert_eq!(checks.sites, ["fc1", "fc2"].repeat(5));
}

#[test]
fn weights_come_back_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let (params, net) = net(1);
    // Values that a detour over text or f64 arithmetic would lose.
    let odd = [f32::MIN_POSITIVE, -0.0, 1e-45, f32::MAX, -1.0 / 3.0, 0.1];
    params.vars()[1].1.set(&Tensor::new(&odd, &Device::Cpu).unwrap()).unwrap();
    save_weights(&params, &path).unwrap();
    let (other, _) = self::net(2);
    assert_ne!(values(&params), values(&other));
    load_weights(&other, &path).unwrap();
    let bits = |params: &Params| -> Vec<Vec<u32>> {
        values(params).iter().map(|(_, xs)| xs.iter().map(|x| x.to_bits()).collect()).collect()
    };
    assert_eq!(bits(&params), bits(&other));

    let bytes = fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata(), &Some(HashMap::from([("format".to_string(), "pt".to_string())])));
    save_weights(&other, &path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "the same weights make the same bytes");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the file");
    drop(net);
}

#[test]
fn a_file_that_cannot_be_written_is_named_and_the_old_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (params, _) = net(1);
    let nowhere = dir.path().join("no/such/model.safetensors");
    one_line(&save_weights(&params, &nowhere).unwrap_err(), &["no/such/model.safetensors", "cannot write"]);
    // A directory is in the way.
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    one_line(&save_weights(&params, &taken).unwrap_err(), &["taken", "cannot write"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a half-written file is left behind");
}

#[test]
fn a_file_that_does_not_fit_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (source, _) = net(1);
    let good = dir.path().join("good");
    save_weights(&source, &good).unwrap();
    let good = fs::read(&good).unwrap();
    let file = SafeTensors::deserialize(&good).unwrap();
    let zeros = vec![0_u8; 64 * 64];
    let view =
        |dtype, shape: &[usize], n: usize| TensorView::new(dtype, shape.to_vec(), &zeros[..n]).unwrap();
    let changed = |out: &str, new: Option<(&str, TensorView<'_>)>| {
        let mut tensors: Vec<_> =
            file.iter().filter(|(name, _)| *name != out).map(|(n, t)| (n.to_string(), t)).collect();
        tensors.extend(new.map(|(name, view)| (name.to_string(), view)));
        safetensors::serialize(tensors, None).unwrap()
    };
    let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let tera =
        r#"{"fc1.weight":{"dtype":"F32","shape":[6,1000000000000],"data_offsets":[0,24000000000000]}}"#;
    let over = r#"{"fc1.weight":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,36]}}"#;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "expected a safetensors file"),
        ("eight bytes", vec![0; 8], "expected a safetensors file"),
        ("text", b"not weights\n".repeat(9), "expected a safetensors file"),
        ("cut", good[..good.len() - 1].to_vec(), "expected a safetensors file"),
        ("cut header", good[..40].to_vec(), "expected a safetensors file"),
        ("too long", [&good[..], &[0]].concat(), "expected a safetensors file"),
        ("header of 4 TB", [&(1_u64 << 42).to_le_bytes()[..], b"{}"].concat(), "expected a safetensors file"),
        ("header of 2^64", [&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "expected a safetensors file"),
        ("tensor of 24 TB", header(tera), "expected a safetensors file"),
        ("size overflows", header(over), "expected a safetensors file"),
        ("no tensors", header("{}"), "expected a tensor 'fc1.weight'"),
        ("missing", changed("fc2.bias", None), "expected a tensor 'fc2.bias'"),
        (
            "extra",
            changed("", Some(("fc9.bias", view(Dtype::F32, &[4], 16)))),
            "'fc9.bias' is not part of this model",
        ),
        (
            "renamed",
            changed("fc1.bias", Some(("fc1.Bias", view(Dtype::F32, &[6], 24)))),
            "'fc1.Bias' is not part of this model",
        ),
        // The last in order: setting values while reading would have changed the others by then.
        (
            "misshapen",
            changed("fc3.bias", Some(("fc3.bias", view(Dtype::F32, &[11], 44)))),
            "expected shape [10], found [11]",
        ),
        (
            "of rank 2",
            changed("fc3.bias", Some(("fc3.bias", view(Dtype::F32, &[10, 1], 40)))),
            "expected shape [10], found [10, 1]",
        ),
        (
            "f64",
            changed("fc3.bias", Some(("fc3.bias", view(Dtype::F64, &[10], 80)))),
            "expected f32, found F64",
        ),
        (
            "f16",
            changed("fc3.bias", Some(("fc3.bias", view(Dtype::F16, &[10], 20)))),
            "expected f32, found F16",
        ),
    ];
    let (params, _) = net(2);
    let before = values(&params);
    let check = |path: &Path, says: &str| {
        let error = load_weights(&params, path).unwrap_err();
        assert!(matches!(error, Error::Weights { .. }), "{error}");
        one_line(&error, &[path.to_str().unwrap(), says]);
        assert_eq!(values(&params), before, "{}", path.display());
    };
    for (name, bytes, says) in cases {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        check(&path, says);
    }
    check(&dir.path().join("missing file"), "cannot read");
    #[cfg(unix)]
    check(Path::new("/dev/zero"), "expected a file, found a device or a pipe");
    check(dir.path(), "cannot read");
}

#[test]
fn a_pass_over_nothing_is_an_error_and_changes_nothing() {
    let (params, net) = net(1);
    let mut optimizer = optimizer(&params, OptimizerConfig::new(Rule::SGD, 0.1));
    let (before, mut recorder) = (values(&params), Recorder::new());
    let nothing = std::iter::empty::<taper_data::Result<Batch>>;
    let trained = train_epoch(&classify(&net), &mut optimizer, nothing(), &mut recorder, 1).unwrap_err();
    one_line(&trained, &["expected at least one batch of train, found none"]);
    let tested = evaluate(&classify(&net), Split::Validation, nothing(), &mut Recorder::new()).unwrap_err();
    one_line(&tested, &["expected at least one batch of validation, found none"]);
    assert_eq!((values(&params), optimizer.steps()), (before, 0));
    assert!(recorder.finish().is_empty());
}

#[test]
fn a_batch_that_fails_ends_the_pass_with_its_error() {
    let (params, net) = net(1);
    let mut optimizer = optimizer(&params, OptimizerConfig::new(Rule::SGD, 0.1));
    let data = few();
    let error = train_epoch(&classify(&net), &mut optimizer, data.train.batches(0), &mut (), 1).unwrap_err();
    one_line(&error, &["batch"]);
    // Images of another size than the network's.
    let wrong = Tensor::zeros((2, 1, 28, 28), DType::F32, &Device::Cpu).unwrap();
    let labels = Tensor::new(&[0_u32, 1], &Device::Cpu).unwrap();
    let batch = || Ok::<_, Error>(Batch { images: wrong.clone(), labels: labels.clone() });
    let error = evaluate(&classify(&net), Split::Test, std::iter::once(batch()), &mut ()).unwrap_err();
    one_line(&error, &["784"]);
    let error =
        train_epoch(&classify(&net), &mut optimizer, std::iter::once(batch()), &mut (), 1).unwrap_err();
    one_line(&error, &["784"]);
    // A label that is no class.
    let images = Tensor::zeros((2, 64), DType::F32, &Device::Cpu).unwrap();
    let batch = Batch { images, labels: Tensor::new(&[0_u32, 10], &Device::Cpu).unwrap() };
    one_line(
        &evaluate(&classify(&net), Split::Test, std::iter::once(Ok::<_, Error>(batch)), &mut ()).unwrap_err(),
        &["10"],
    );
    assert_eq!(optimizer.steps(), 0);
}

#[test]
fn a_loss_that_is_lost_is_located_and_the_weights_stay() {
    let (params, net) = net(1);
    let data = few();
    let mut optimizer = optimizer(&params, OptimizerConfig::new(Rule::SGD, 0.1));
    train_epoch(&classify(&net), &mut optimizer, data.train.batches(10), &mut (), 1).unwrap();
    // The third parameter is the weight of fc2: what fc1 gives is still finite.
    let (name, var) = params.vars().swap_remove(2);
    assert_eq!(name, "fc2.weight");
    var.set(&(var.ones_like().unwrap() * f64::INFINITY).unwrap()).unwrap();
    let before: Vec<Vec<u32>> =
        values(&params).iter().map(|(_, xs)| xs.iter().map(|x| x.to_bits()).collect()).collect();
    let error = train_epoch(&classify(&net), &mut optimizer, data.train.batches(10), &mut (), 1).unwrap_err();
    match &error {
        Error::NotFinite { epoch, fault } => {
            assert!(!fault.loss.is_finite());
            let place = Place::Weights { parameter: "fc2.weight".to_string(), unit: 0 };
            assert_eq!((*epoch, fault.batch, &fault.place), (None, 1, &place));
        }
        other => panic!("{other}"),
    }
    let after: Vec<Vec<u32>> =
        values(&params).iter().map(|(_, xs)| xs.iter().map(|x| x.to_bits()).collect()).collect();
    assert_eq!(before, after);
    one_line(&error.in_epoch(7), &["epoch 7, batch 1", "'fc2.weight'", "a lower learning rate"]);
}

#[test]
fn a_run_that_diverges_says_in_which_epoch_and_batch() {
    let (params, net) = net(1);
    let config = OptimizerConfig::new(Rule::SGD, 1e30);
    let mut sink = sink_fn(|_: &EpochReport| Ok(()));
    let error = fit_on(&net, &mut optimizer(&params, config), &few(), (5, 50), &mut sink).unwrap_err();
    assert!(matches!(&error, Error::NotFinite { epoch: Some(1), fault } if fault.batch == 2), "{error}");
    one_line(&error, &["epoch 1, batch 2"]);
}

#[test]
fn the_schedule_counts_the_steps_of_a_run() {
    let data = few();
    let (params, net) = net(1);
    // 100 samples in batches of 30: four steps an epoch, the last of them partial.
    let schedule = Schedule::parse("step:1:0.5", 3, 4).unwrap();
    let mut optimizer =
        optimizer(&params, OptimizerConfig { schedule, ..OptimizerConfig::new(Rule::SGD, 0.8) });
    let mut rates = Vec::new();
    let mut samples = Vec::new();
    let mut sink = sink_fn(|report: &EpochReport| {
        rates.push(report.split(Split::Train).and_then(|of| of.learning_rate));
        samples.push(report.splits.iter().map(|of| of.score.samples).collect::<Vec<_>>());
        assert_eq!(report.split(Split::Test).and_then(|of| of.learning_rate), None);
        Ok(())
    });
    fit_on(&net, &mut optimizer, &data, (3, 30), &mut sink).unwrap();
    // The rate of the epoch's last step.
    assert_eq!(rates, [None, Some(0.8), Some(0.4), Some(0.2)]);
    assert_eq!(samples, [vec![50], vec![100, 50], vec![100, 50], vec![100, 50]], "epoch 0 trains nothing");
    assert_eq!(optimizer.steps(), 12);
}

#[test]
fn a_rate_of_zero_moves_nothing_and_a_cosine_ends_there() {
    let data = few();
    let (params, net) = net(1);
    let before = values(&params);
    let mut still = optimizer(&params, OptimizerConfig::new(Rule::adam(0.0), 0.0));
    train_epoch(&classify(&net), &mut still, data.train.batches(30), &mut (), 1).unwrap();
    assert_eq!(values(&params), before);

    let schedule = Schedule::parse("cosine", 1, 4).unwrap();
    let config = OptimizerConfig { schedule, ..OptimizerConfig::new(Rule::SGD, 0.5) };
    let mut optimizer = optimizer(&params, config);
    assert_eq!(optimizer.learning_rate(), 0.5);
    train_epoch(&classify(&net), &mut optimizer, data.train.batches(30), &mut (), 1).unwrap();
    assert!(optimizer.learning_rate().abs() < 1e-12 && values(&params) != before);
}

#[test]
fn options_that_make_no_sense_are_one_line() {
    let (params, net) = net(1);
    let good = OptimizerConfig::new(Rule::SGD, 0.1);
    for (config, says) in [
        (OptimizerConfig { learning_rate: f64::NAN, ..good.clone() }, "learning rate"),
        (OptimizerConfig { learning_rate: -0.1, ..good.clone() }, "learning rate"),
        (OptimizerConfig { learning_rate: f64::INFINITY, ..good.clone() }, "learning rate"),
        (OptimizerConfig { clip_norm: Some(0.0), ..good.clone() }, "norm"),
        (OptimizerConfig { max_norm: Some(f64::NAN), ..good.clone() }, "norm"),
    ] {
        one_line(&Optimizer::new(params.vars(), config).unwrap_err(), &[says, "expected", "found"]);
    }
    let mut sink = sink_fn(|_: &EpochReport| Ok(()));
    let error = fit_on(&net, &mut optimizer(&params, good.clone()), &few(), (1, 0), &mut sink);
    one_line(&error.unwrap_err(), &["batch size of at least 1"]);
}

#[test]
fn a_sink_that_fails_ends_the_run_and_evaluation_keeps_no_graph() {
    let (params, net) = net(1);
    let data = few();
    let mut sink = sink_fn(|_: &EpochReport| Err(taper_report::Error::Other("full".into())));
    let good = OptimizerConfig::new(Rule::SGD, 0.1);
    let mut optimizer = optimizer(&params, good);
    let error = fit_on(&net, &mut optimizer, &data, (9, 50), &mut sink).unwrap_err();
    assert_eq!((error.to_string().as_str(), optimizer.steps()), ("full", 0));
    // The same report however the set is cut.
    let whole = evaluate(&classify(&net), Split::Test, data.test.batches(50), &mut ()).unwrap().score;
    let parts = evaluate(&classify(&net), Split::Test, data.test.batches(7), &mut ()).unwrap().score;
    assert_eq!((&whole.metrics, whole.samples), (&parts.metrics, parts.samples));
    assert!((whole.loss - parts.loss).abs() < 1e-6 * whole.loss);
    let images = data.test.batches(50).next().unwrap().unwrap().images;
    assert_eq!(net.forward(&mut Pass::eval(&mut ()), &images).unwrap().dims(), [50, 10]);
}
