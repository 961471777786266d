//! A network with batch normalisation: PyTorch's numbers, skipped batches, evaluation.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Module, VarBuilder, linear};
use taper::data::{Batch, digits};
use taper::hooks::{Activation, Recorder};
use taper::nn::{
    Act, BatchNorm2d, Conv2d, Conv2dConfig, Conv2dGeometry, Init, Linear, Model, Params, Pass, max_pool2d,
};
use taper::report::Split;
use taper::train::{
    OnNonFinite, Optimizer, OptimizerConfig, Rule, Step, classify, cross_entropy, evaluate, load_weights,
    save_weights, train_epoch,
};

use crate::Net;

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

    let python = std::env::var("TAPER_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_torch = std::process::Command::new(&python).args(["-c", "import torch, safetensors"]).output();
    if !has_torch.is_ok_and(|run| run.status.success()) {
        eprintln!(
            "skipped the comparison with PyTorch: {python} cannot import torch and safetensors; set TAPER_PYTHON"
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
