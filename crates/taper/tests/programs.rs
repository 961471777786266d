//! Programs as a user writes them: models, losses and data that the library was not made for. Each keeps every service:
//! recorder, metrics, the policy for NaN, reports.
#![allow(clippy::unwrap_used, missing_docs)]

mod transformer;

use std::collections::HashMap;

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};
use candle_nn::{Activation as Plain, Module, Sequential, VarBuilder, linear, seq};
use rand_distr::{Distribution, StandardNormal};
use taper::data::{Batch, Table, digits};
use taper::hooks::{Activation, Recorder, Rng, Units, rng};
use taper::kernels::record;
use taper::nn::{
    Act, BatchNorm2d, Conv2d, Conv2dConfig, Conv2dGeometry, Init, Linear, Mlp, MlpConfig, Model, Params,
    Pass, Tap, max_pool2d,
};
use taper::report::Split;
use taper::train::{
    Group, Here, OnNonFinite, Optimizer, OptimizerConfig, Rule, Step, binary, binary_cross_entropy, classify,
    cross_entropy, evaluate, load_matching, load_weights, regress, save_weights, train_epoch,
};
use transformer::Transformer;

struct Net {
    fc1: Linear,
    act1: Act,
    out: Linear,
}

impl Net {
    fn new(outputs: usize, vb: VarBuilder) -> Result<Self> {
        let relu = Activation::Relu;
        Ok(Self {
            fc1: Linear::new(64, 32, Init::of(relu), vb.pp("fc1"))?,
            act1: Act::new(relu, vb.pp("fc1"))?,
            out: Linear::new(32, outputs, Init::LeCun, vb.pp("out"))?,
        })
    }
}

impl Model for Net {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        self.out.forward(&self.fc1.forward_act(pass, &xs.flatten_from(1)?, &self.act1)?)
    }
}

fn adam(params: &Params) -> Optimizer {
    Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adam(0.0), 3e-3)).unwrap()
}

/// Labels of a digit: odd, above 4, has a loop.
fn labels(digits: &Tensor) -> Result<Tensor> {
    let of = |d: &u32| [f32::from(d % 2 == 1), f32::from(*d > 4), f32::from([0, 6, 8, 9].contains(d))];
    let digits = digits.to_vec1::<u32>()?;
    Tensor::from_vec(digits.iter().flat_map(of).collect::<Vec<_>>(), (digits.len(), 3), &Device::Cpu)
}

#[test]
fn several_labels_for_each_image_are_learned_with_an_accuracy_for_each() {
    let data = digits().unwrap();
    let params = Params::new(1, &Device::Cpu);
    let net = Net::new(3, params.builder()).unwrap();
    let (mut optimizer, mut recorder, mut order) = (adam(&params), Recorder::new(), rng(2));
    // The library's step with another metric, on custom batches.
    let step = |pass: &mut Pass<'_>, batch: &Batch| {
        let (logits, targets) = (net.forward(pass, &batch.images)?, labels(&batch.labels)?);
        let right = logits.gt(0.0)?.eq(&targets.to_dtype(candle_core::DType::U8)?)?;
        let mut step = Step::new(binary_cross_entropy(&logits, &targets, 1.0)?, batch.len());
        for (i, name) in ["odd", "above 4", "loop"].into_iter().enumerate() {
            let hits: u32 = right.i((.., i))?.to_vec1::<u8>()?.iter().map(|hit| u32::from(*hit)).sum();
            step = step.share(name, hits.into(), batch.len() as u64);
        }
        Ok(step)
    };
    for _ in 0..8 {
        train_epoch(&step, &mut optimizer, data.train.shuffled(&mut order, 32), &mut (), 1).unwrap();
    }
    let test = evaluate(&step, Split::Test, data.test.batches(100), &mut recorder).unwrap();
    for name in ["odd", "above 4", "loop"] {
        assert!(test.score.metric(name) > Some(0.85), "{name}: {:?}", test.score);
    }
    assert!(recorder.finish()[0].zero_fraction > 0.2);
    // The built-in step agrees about the loss, and its accuracy is the mean of the three.
    let pairs = data.test.batches(100).map(|batch| batch.and_then(|b| Ok((b.images, labels(&b.labels)?))));
    let built_in = evaluate(&binary(&net, 1.0), Split::Test, pairs, &mut ()).unwrap().score;
    assert!((built_in.loss - test.score.loss).abs() < 1e-9);
    let mean: f64 = test.score.metrics.iter().map(|metric| metric.value / 3.0).sum();
    assert!((built_in.metric("accuracy").unwrap() - mean).abs() < 1e-9);
}

/// Rows of an image as a sequence: `(N, 8, 8)` → embedding → residual block → mean over time → classes.
struct Watched {
    embed: candle_nn::Linear,
    embedded: Tap,
    up: Linear,
    act: Act,
    down: Linear,
    residual: Tap,
    head: candle_nn::Linear,
    logits: Tap,
}

impl Model for Watched {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let xs = self.embed.forward(&xs.squeeze(1)?)?;
        let xs = self.embedded.forward(pass, &xs)?;
        let hidden = self.up.forward_act(pass, &xs, &self.act)?;
        let xs = self.residual.forward(pass, &(&xs + self.down.forward(&hidden)?)?)?;
        self.logits.forward(pass, &self.head.forward(&xs.mean(1)?)?)
    }
}

#[test]
fn anything_can_be_watched_and_units_are_units_not_time_steps() {
    let data = digits().unwrap();
    let params = Params::new(1, &Device::Cpu);
    let vb = params.builder();
    let gelu = Activation::Gelu;
    let net = Watched {
        embed: linear(8, 12, vb.pp("embed")).unwrap(),
        embedded: Tap::new("embed").units(Units::Last),
        up: Linear::new(12, 48, Init::of(gelu), vb.pp("up")).unwrap(),
        act: Act::new(gelu, vb.pp("up")).unwrap(),
        down: Linear::new(48, 12, Init::LeCun, vb.pp("down")).unwrap(),
        residual: Tap::new("residual").units(Units::Last),
        head: linear(12, 10, vb.pp("head")).unwrap(),
        logits: Tap::new("logits").output(),
    };
    let (mut optimizer, mut recorder) = (adam(&params), Recorder::new());
    let step = classify(&net);
    train_epoch(&step, &mut optimizer, data.train.batches(32), &mut (), 1).unwrap();
    evaluate(&step, Split::Test, data.test.batches(100), &mut recorder).unwrap();
    let layers = recorder.finish();
    let seen: Vec<_> = layers.iter().map(|l| (l.site.as_str(), l.units, l.samples, l.values)).collect();
    let expected = [
        ("embed", 12, 360, 360 * 96),
        ("up", 48, 360, 360 * 384),
        ("residual", 12, 360, 360 * 96),
        ("logits", 10, 360, 3600),
    ];
    assert_eq!(seen, expected);
    for layer in &layers {
        let has_function = layer.site == "up";
        assert_eq!(layer.activation.is_some(), has_function);
        assert_eq!([layer.dead.is_some(), layer.flat_low.is_some()], [has_function; 2], "{}", layer.site);
        assert_eq!(layer.dormant_0_025.is_some(), layer.site != "logits");
        assert!(layer.mean.is_some() && layer.trouble.is_none());
    }
}

/// A model as it was written for plain candle, but for its activations.
fn plain(vb: VarBuilder, act: impl Fn(&str) -> Result<Box<dyn Module>>) -> Result<Sequential> {
    struct Boxed(Box<dyn Module>);
    impl Module for Boxed {
        fn forward(&self, xs: &Tensor) -> Result<Tensor> {
            self.0.forward(xs)
        }
    }
    Ok(seq()
        .add_fn(|xs| xs.flatten_from(1))
        .add(linear(64, 32, vb.pp("fc1"))?)
        .add(Boxed(act("fc1")?))
        .add(linear(32, 16, vb.pp("fc2"))?)
        .add(Boxed(act("fc2")?))
        .add(linear(16, 10, vb.pp("fc3"))?))
}

#[test]
fn a_model_of_plain_candle_is_watched_by_replacing_its_activations() {
    let data = digits().unwrap();
    let train = |watched: bool| {
        let params = Params::new(1, &Device::Cpu);
        let vb = params.builder();
        let net = plain(vb.clone(), |name| {
            Ok(match watched {
                true => Box::new(Act::new(Activation::Relu, vb.pp(name))?),
                false => Box::new(Plain::Relu),
            })
        })
        .unwrap();
        let (mut optimizer, mut recorder) = (adam(&params), Recorder::new());
        let step = Here(|pass: &mut Pass<'_>, batch: &Batch| {
            let logits = pass.scope(|| net.forward(&batch.images))?;
            Ok(Step::new(cross_entropy(&logits, &batch.labels)?, batch.len()))
        });
        train_epoch(&step, &mut optimizer, data.train.batches(32), &mut recorder, 1).unwrap();
        let trained = recorder.finish();
        let test = evaluate(&step, Split::Test, data.test.batches(360), &mut recorder).unwrap();
        // What the values themselves say.
        let images = data.test.batches(360).next().unwrap().unwrap().images;
        let all = net.forward_all(&images).unwrap();
        let zeros = [2, 4].map(|i: usize| {
            let ys: Vec<f32> = all[i].flatten_all().unwrap().to_vec1().unwrap();
            ys.iter().filter(|y| **y == 0.0).count() as u64
        });
        (test.score.loss, trained, recorder.finish(), zeros)
    };
    let (loss, trained, tested, zeros) = train(true);
    let sites: Vec<_> = trained.iter().map(|l| (l.site.as_str(), l.units, l.samples)).collect();
    assert_eq!(sites, [("fc1", 32, 1437), ("fc2", 16, 1437)]);
    assert_eq!([tested[0].zeros, tested[1].zeros], zeros);
    let (other, nothing, ..) = train(false);
    assert!(nothing.is_empty());
    assert!((loss - other).abs() < 0.05, "candle's ReLU differs in its slope at 0 alone: {loss}, {other}");
}

/// Fine-tuning: a pretrained trunk, another head, parts frozen, rates by name, and batches that are accumulated.
#[test]
fn a_pretrained_network_gets_another_head_and_groups_of_parameters() {
    let data = digits().unwrap();
    let net = |classes, seed| {
        let params = Params::new(seed, &Device::Cpu);
        let config = MlpConfig { inputs: 64, widths: vec![32, 16], classes, ..Default::default() };
        Mlp::new(&config, params.builder()).map(|net| (params, net)).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pretrained.safetensors");
    let (pretrained, first) = net(10, 1);
    let (mut optimizer, mut order) = (adam(&pretrained), rng(2));
    for _ in 0..5 {
        train_epoch(&classify(&first), &mut optimizer, data.train.shuffled(&mut order, 32), &mut (), 1)
            .unwrap();
    }
    save_weights(&pretrained, &path).unwrap();

    // Five classes: digits modulo 5.
    let five = |batch: taper::data::Result<Batch>| -> anyhow::Result<Batch> {
        let batch = batch?;
        let labels: Vec<u32> = batch.labels.to_vec1::<u32>()?.iter().map(|label| label % 5).collect();
        Ok(Batch { labels: Tensor::new(labels, &Device::Cpu)?, ..batch })
    };
    let (params, model) = net(5, 9);
    let loaded = load_matching(&params, &path).unwrap();
    assert_eq!((loaded.loaded.len(), loaded.misshapen.len()), (4, 2), "{loaded}");
    let groups = vec![
        Group { frozen: true, ..Group::new("fc1.*") },
        Group { rate: 0.1, ..Group::new("fc2.*") },
        Group { weight_decay: Some(0.0), ..Group::new("*.bias") },
    ];
    let config = OptimizerConfig { groups, accumulate: 2, ..OptimizerConfig::new(Rule::adamw(0.01), 1e-2) };
    let mut optimizer = Optimizer::new(params.vars(), config).unwrap();
    let values = |i: usize| params.vars()[i].1.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let before = [0, 1, 2].map(values);
    for _ in 0..5 {
        let batches = data.train.shuffled(&mut order, 16).map(five);
        train_epoch(&classify(&model), &mut optimizer, batches, &mut (), 1).unwrap();
    }
    assert_eq!((values(0) == before[0], values(1) == before[1], values(2) == before[2]), (true, true, false));
    assert_eq!(optimizer.steps(), 5 * 45);
    let test = data.test.batches(360).map(five);
    let test = evaluate(&classify(&model), Split::Test, test, &mut ()).unwrap();
    assert!(test.score.metric("accuracy") > Some(0.85), "{:?}", test.score);
}

#[test]
fn every_parameter_of_a_transformer_moves_in_its_first_steps_and_it_learns() {
    let data = digits().unwrap();
    let params = Params::new(1, &Device::Cpu);
    let net = Transformer::new((8, 8), (16, 2), 10, params.builder()).unwrap();
    let copies = || params.vars().iter().map(|(_, var)| var.copy().unwrap()).collect::<Vec<_>>();
    let step = |pass: &mut Pass<'_>, batch: &Batch| {
        let logits = net.forward(pass, &batch.images.squeeze(1)?)?;
        Ok(Step::new(cross_entropy(&logits, &batch.labels)?, batch.len()))
    };
    let (mut optimizer, mut recorder, mut order) = (adam(&params), Recorder::new(), rng(2));
    let start = copies();
    train_epoch(&step, &mut optimizer, data.train.batches(32).take(3), &mut (), 1).unwrap();
    for ((name, now), before) in params.vars().iter().zip(&start) {
        let still = now.eq(before).unwrap().to_dtype(DType::U32).unwrap().sum_all().unwrap();
        // Adam moves every value that has a gradient; rounding may make one of the keys' biases 0.
        let still = still.to_scalar::<u32>().unwrap() as usize;
        assert!(still < now.elem_count() / 4, "{name}: {still} of {} values stay", now.elem_count());
    }
    let before = evaluate(&step, Split::Test, data.test.batches(100), &mut ()).unwrap().score.loss;
    for _ in 0..6 {
        train_epoch(&step, &mut optimizer, data.train.shuffled(&mut order, 32), &mut (), 1).unwrap();
    }
    let after = evaluate(&step, Split::Test, data.test.batches(100), &mut recorder).unwrap().score.loss;
    assert!(after < 0.4 * before, "{before}, then {after}");
    let layers = recorder.finish();
    assert_eq!((layers[0].site.as_str(), layers[0].units, layers[0].values), ("up", 64, 360 * 8 * 64));
}

#[test]
fn logits_and_gradients_of_a_transformer_are_those_of_pytorch() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/transformer.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let params = Params::new(1, &Device::Cpu);
    let net = Transformer::new((5, 6), (8, 2), 4, params.builder()).unwrap();
    for (name, var) in params.vars() {
        var.set(&golden[&name]).unwrap();
    }
    let targets = golden["targets"].to_dtype(DType::U32).unwrap();
    let (result, tape) = record(|| {
        let logits = net.forward(&mut Pass::train(&mut (), 1, 0), &golden["xs"]).unwrap();
        let loss = cross_entropy(&logits, &targets).unwrap();
        (logits, loss)
    });
    let close = |what: &str, got: &Tensor, want: &Tensor| {
        assert_eq!(got.dims(), want.dims());
        let [got, want] = [got, want].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let largest = want.iter().fold(0.0_f32, |max, x| max.max(x.abs())).max(1e-3);
        let near = got.iter().zip(&want).all(|(got, want)| (got - want).abs() <= 1e-5 * largest);
        assert!(near, "{what}: expected {want:?}, found {got:?}");
    };
    close("logits", &result.0, &golden["logits"]);
    let gradients = tape.backward(&result.1).unwrap();
    for (name, var) in params.vars() {
        let gradient = gradients.get(&var).unwrap().values().unwrap();
        close(&name, &gradient, &golden[&format!("grad.{name}")]);
    }
}

/// Ten numbers, of which four matter, and a function of them with some noise: `(n, 10)` and `(n)`.
fn rows(n: usize, rng: &mut Rng) -> Table<(Tensor, Tensor)> {
    let xs: Vec<f32> = StandardNormal.sample_iter(&mut *rng).take(n * 10).collect();
    let noise = StandardNormal.sample_iter(rng);
    let y = |(x, noise): (&[f32], f32)| x[0] * x[1] + x[2].sin() + 0.5 * x[3] + 0.1 * noise;
    let ys: Vec<f32> = xs.chunks(10).zip(noise).map(y).collect();
    let xs = Tensor::from_vec(xs, (n, 10), &Device::Cpu).unwrap();
    Table::new((xs, Tensor::from_vec(ys, n, &Device::Cpu).unwrap())).unwrap()
}

/// 10 → 64 → 32 → 1, the last axis removed.
struct Tabular(Mlp);

impl Model for Tabular {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        self.0.forward(pass, xs)?.squeeze(1)
    }
}

#[test]
fn a_table_of_numbers_is_fitted_with_early_stopping() {
    let mut order = rng(3);
    let (train, validation) = rows(2000, &mut order).split_last(400).unwrap();
    let params = Params::new(1, &Device::Cpu);
    let config = MlpConfig { inputs: 10, widths: vec![64, 32], classes: 1, ..Default::default() };
    let net = Tabular(Mlp::new(&config, params.builder()).unwrap());
    let (mut optimizer, mut recorder) = (adam(&params), Recorder::new());
    let step = regress(&net);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("best.safetensors");
    let (mut best, mut since) = (f64::INFINITY, 0);
    for epoch in 0..60 {
        train_epoch(&step, &mut optimizer, train.shuffled(&mut order, 64), &mut recorder, epoch).unwrap();
        assert_eq!(recorder.finish()[0].samples, 1600);
        let score = evaluate(&step, Split::Validation, validation.batches(400), &mut ()).unwrap().score;
        since += 1;
        if score.loss < best {
            (best, since) = (score.loss, 0);
            save_weights(&params, &path).unwrap();
        } else if since == 8 {
            break;
        }
    }
    load_weights(&params, &path).unwrap();
    let score = evaluate(&step, Split::Validation, validation.batches(100), &mut ()).unwrap().score;
    assert!((score.loss - best).abs() < 1e-6 && score.metric("r2") > Some(0.9), "{best}: {score:?}");
    // NaN in a table is found in training, which names the sample.
    let (xs, ys) = train.take(64).unwrap().columns().clone();
    let nan = Table::new((xs, (ys * f64::NAN).unwrap())).unwrap();
    let error = train_epoch(&step, &mut optimizer, nan.batches(32), &mut (), 1).unwrap_err();
    assert!(error.to_string().contains("NaN"), "{error}");
}

/// PyTorch's names: `conv1`, `bn1`, `conv2`, `bn2`, `fc`.
struct Normalised {
    convolutions: Vec<(Conv2d, BatchNorm2d, Act)>,
    fc: Linear,
}

impl Normalised {
    fn new(vb: VarBuilder) -> Result<Self> {
        let config =
            Conv2dConfig { geometry: Conv2dGeometry { stride: 1, padding: 1 }, ..Default::default() };
        let block = |(i, o, n)| {
            let bn = vb.pp(format!("bn{n}"));
            Ok((
                Conv2d::new(i, o, config, vb.pp(format!("conv{n}")))?,
                BatchNorm2d::new(o, Default::default(), bn.clone())?,
                Act::new(Activation::Relu, bn)?,
            ))
        };
        let convolutions = [(1, 8, 1), (8, 16, 2)].into_iter().map(block).collect::<Result<_>>()?;
        Ok(Self { convolutions, fc: Linear::new(16 * 4, 10, Init::LeCun, vb.pp("fc"))? })
    }
}

impl Model for Normalised {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.clone();
        for (conv, bn, act) in &self.convolutions {
            xs = max_pool2d(&bn.forward_act(pass, &conv.forward(&xs)?, act)?, (2, 2), (2, 2))?;
        }
        self.fc.forward(&xs.flatten_from(1)?)
    }
}

/// Trains PyTorch's model from the first file on the same batches; compares with the second, and writes the third.
const TORCH: &str = r#"
import sys, torch, torch.nn as nn
from safetensors.torch import load_file, save_file
start, end, batches, out = sys.argv[1:]
torch.set_num_threads(1)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.fc = nn.Linear(64, 10)
    def forward(self, xs):
        xs = nn.functional.max_pool2d(self.bn1(self.conv1(xs)).relu(), 2)
        return self.fc(nn.functional.max_pool2d(self.bn2(self.conv2(xs)).relu(), 2).flatten(1))
net, data = Net(), load_file(batches)
net.load_state_dict(load_file(start), strict=True)
optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
for xs, ys in zip(data["xs"], data["ys"]):
    optimizer.zero_grad(); nn.functional.cross_entropy(net(xs), ys.long()).backward(); optimizer.step()
theirs, ours = net.state_dict(), load_file(end)
for name, value in theirs.items():
    assert ours[name].dtype == value.dtype and ours[name].shape == value.shape, name
    torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4, msg=lambda text: name + ": " + text)
net.load_state_dict(ours, strict=True)
save_file(theirs, out, metadata={"format": "pt"})
"#;

#[test]
fn a_network_with_batch_norm_trains_as_in_pytorch_and_its_file_is_pytorchs() {
    let data = digits().unwrap();
    let params = Params::new(1, &Device::Cpu);
    let net = Normalised::new(params.builder()).unwrap();
    assert_eq!(params.count(), 8 * 9 + 8 + 16 + 16 * 72 + 16 + 32 + 64 * 10 + 10);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    save_weights(&params, &path("start")).unwrap();
    let rule = Rule::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(rule, 0.02)).unwrap();
    let step = classify(&net);
    let (mut recorder, batches) = (Recorder::new(), || data.train.batches(64).take(12));
    train_epoch(&step, &mut optimizer, batches(), &mut recorder, 1).unwrap();
    assert_eq!(
        recorder.finish().iter().map(|l| (l.site.clone(), l.units)).collect::<Vec<_>>(),
        [("bn1".into(), 8), ("bn2".into(), 16)]
    );
    save_weights(&params, &path("end")).unwrap();

    // Evaluation does not move the statistics, and a model that is loaded gives the same.
    let state = |params: &Params| -> Vec<Vec<f64>> {
        let values = |(_, v): (String, Var)| v.flatten_all()?.to_dtype(DType::F64)?.to_vec1();
        params.state().into_iter().map(|tensor| values(tensor).unwrap()).collect()
    };
    let (before, score) =
        (state(&params), evaluate(&step, Split::Test, data.test.batches(100), &mut ()).unwrap().score);
    assert_eq!(state(&params), before);
    let again = Params::new(7, &Device::Cpu);
    let copy = Normalised::new(again.builder()).unwrap();
    load_weights(&again, &path("end")).unwrap();
    assert_eq!(state(&again), before);
    assert_eq!(
        evaluate(&classify(&copy), Split::Test, data.test.batches(100), &mut ()).unwrap().score,
        score
    );

    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let has_torch = std::process::Command::new(&python).args(["-c", "import torch, safetensors"]).output();
    if !has_torch.is_ok_and(|run| run.status.success()) {
        eprintln!(
            "skipped the comparison with PyTorch: {python} cannot import torch and safetensors; set PYTHON"
        );
        return;
    }
    let all: Vec<Batch> = batches().map(|batch| batch.unwrap()).collect();
    let stack =
        |of: fn(&Batch) -> &Tensor| Tensor::stack(&all.iter().map(of).collect::<Vec<_>>(), 0).unwrap();
    let tensors = HashMap::from([("xs", stack(|b| &b.images)), ("ys", stack(|b| &b.labels))]);
    candle_core::safetensors::save(&tensors, path("batches")).unwrap();
    let run = std::process::Command::new(&python)
        .args(["-c", TORCH])
        .args(["start", "end", "batches", "torch"].map(path))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    load_weights(&again, &path("torch")).unwrap();
    let theirs = evaluate(&classify(&copy), Split::Test, data.test.batches(100), &mut ()).unwrap().score;
    assert!((theirs.loss - score.loss).abs() < 1e-3, "{theirs:?}, {score:?}");
}

#[test]
fn a_skipped_batch_leaves_no_trace_in_running_statistics() {
    let data = digits().unwrap();
    let bad = |i: usize, batch: Batch| match i {
        2 => Batch { images: (batch.images * f64::NAN).unwrap(), ..batch },
        _ => batch,
    };
    let train = |with_bad: bool, policy: OnNonFinite| {
        let params = Params::new(1, &Device::Cpu);
        let net = Normalised::new(params.builder()).unwrap();
        let config = OptimizerConfig { on_nonfinite: policy, ..OptimizerConfig::new(Rule::SGD, 0.02) };
        let mut optimizer = Optimizer::new(params.vars(), config).unwrap().buffers(params.buffers());
        let batches = data.train.batches(64).take(5).enumerate();
        let batches =
            batches.filter(|(i, _)| with_bad || *i != 2).map(|(i, batch)| batch.map(|batch| bad(i, batch)));
        let outcome = train_epoch(&classify(&net), &mut optimizer, batches, &mut (), 1);
        let buffers =
            params.buffers().into_iter().map(|(_, v)| v.flatten_all()?.to_dtype(DType::F64)?.to_vec1());
        (outcome.is_ok(), buffers.collect::<Result<Vec<Vec<f64>>>>().unwrap())
    };
    assert_eq!(train(true, OnNonFinite::Skip), train(false, OnNonFinite::Skip));
    let (finished, stopped) = train(true, OnNonFinite::Stop);
    assert!(!finished && stopped.iter().flatten().all(|x| x.is_finite()));
    assert!(!train(true, OnNonFinite::Continue).1.iter().flatten().all(|x| x.is_finite()));
}

#[test]
fn evaluation_keeps_no_graph_for_any_model() {
    let data = digits().unwrap();
    let (params, plain) = (Params::new(1, &Device::Cpu), Params::new(2, &Device::Cpu));
    linear(64, 10, plain.builder().pp("fc")).unwrap();
    let frozen = linear(64, 10, plain.frozen().pp("fc")).unwrap();
    let (mlp, cnn) = (Net::new(10, params.builder().pp("mlp")), Normalised::new(params.builder().pp("cnn")));
    let (mlp, cnn) = (mlp.unwrap(), cnn.unwrap());
    type Forward<'a> = &'a (dyn Fn(&mut Pass<'_>, &Tensor) -> Result<Tensor> + Sync);
    let forward: [Forward<'_>; 3] =
        [&|pass, xs| mlp.forward(pass, xs), &|pass, xs| cnn.forward(pass, xs), &|_, xs| {
            frozen.forward(&xs.flatten_from(1)?)
        }];
    for (i, forward) in forward.iter().enumerate() {
        let step = |pass: &mut Pass<'_>, batch: &Batch| {
            let logits = forward(pass, &batch.images)?;
            assert!(!logits.track_op(), "model {i}");
            Ok(Step::new(cross_entropy(&logits, &batch.labels)?, batch.len()))
        };
        evaluate(&step, Split::Test, data.test.batches(100), &mut ()).unwrap();
    }
}
