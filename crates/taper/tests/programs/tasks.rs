//! Several labels for each sample, a table of numbers, another head on a pretrained network.

use candle_core::{Device, IndexOp, Result, Tensor};
use rand_distr::{Distribution, StandardNormal};
use taper::data::{Batch, Table, digits};
use taper::hooks::{Recorder, Rng, rng};
use taper::nn::{Mlp, MlpConfig, Model, Params, Pass};
use taper::report::Split;
use taper::train::{
    Optimizer, OptimizerConfig, ParamGroup, Rule, Step, binary, binary_cross_entropy, classify, evaluate,
    load_matching, load_weights, regress, save_weights, train_epoch,
};

use crate::{Net, adam};

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
        ParamGroup { frozen: true, ..ParamGroup::new("fc1.*") },
        ParamGroup { rate: 0.1, ..ParamGroup::new("fc2.*") },
        ParamGroup { weight_decay: Some(0.0), ..ParamGroup::new("*.bias") },
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
