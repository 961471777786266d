//! Training steps: any batch, any error, any loss, and one clear line for what cannot be trained on.

#![allow(clippy::unwrap_used)]

use std::fmt;

use candle_core::{DType, Device, Tensor};
use candle_nn::Module;
use taper_hooks::{Pass, Recorder};
use taper_kernels::twin;
use taper_nn::{Act, Activation, Init, Linear, Mlp, MlpConfig, Model, Params};
use taper_report::{MetricKind, Split};
use taper_train::{
    Classify, Error, Here, Optimizer, OptimizerConfig, Result, Rule, Step, StepError, binary, classify,
    classify_with, evaluate, mse, reconstruct, regress, train_epoch,
};

type Pair = (Tensor, Tensor);

/// 3-8-2 with tanh.
fn net() -> (Params, Mlp) {
    let params = Params::new(1, &Device::Cpu);
    let activation = Activation::Tanh;
    let config = MlpConfig { inputs: 3, widths: vec![8], classes: 2, activation, ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap();
    (params, net)
}

fn sgd(params: &Params) -> Optimizer {
    Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1)).unwrap()
}

/// `n` pairs of `(4, 3)` and `(4, 2)`.
fn pairs(n: usize) -> Vec<Pair> {
    let value = |i: usize| ((i * 37) % 19) as f32 / 19.0 - 0.5;
    let tensor = |i: usize, width: usize| {
        let values: Vec<f32> = (0..4 * width).map(|k| value(i * 101 + k)).collect();
        Tensor::from_vec(values, (4, width), &Device::Cpu).unwrap()
    };
    (0..n).map(|i| (tensor(i, 3), tensor(i + 50, 2))).collect()
}

fn all<B: Clone>(batches: &[B]) -> impl Iterator<Item = Result<B>> {
    batches.iter().cloned().map(Ok)
}

#[track_caller]
fn one_line(error: &Error, says: &str) {
    let text = error.to_string();
    assert!(text.contains(says) && text.lines().count() == 1, "expected '{says}' in: {text}");
}

/// A model whose outputs are its inputs.
struct Same;

impl Model for Same {
    fn forward(&self, _: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        Ok(xs.clone())
    }
}

#[derive(Debug, PartialEq)]
struct NoMore(u8);

impl fmt::Display for NoMore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the disk of sensor {} is full", self.0)
    }
}

impl std::error::Error for NoMore {}

#[test]
fn batches_may_be_of_any_type_and_fail_with_any_error_which_comes_back_as_it_was() {
    struct Reading {
        values: Vec<f32>,
        target: f32,
    }
    let (params, net) = net();
    let step = |pass: &mut Pass<'_>, of: &Reading| {
        let xs = Tensor::from_slice(&of.values, (1, 3), &Device::Cpu)?;
        let ys = net.forward(pass, &xs)?;
        Ok(Step::new((ys - f64::from(of.target))?.sqr()?.mean_all()?, 1))
    };
    let reading = |i: usize| match i {
        3 => Err(NoMore(7)),
        i => Ok(Reading { values: vec![i as f32; 3], target: 0.5 }),
    };
    let mut optimizer = sgd(&params);
    let error = train_epoch(&step, &mut optimizer, (0..5).map(reading), &mut (), 1).unwrap_err();
    one_line(&error, "the disk of sensor 7 is full");
    assert_eq!(optimizer.steps(), 3, "what came before was trained on");
    match error {
        Error::Other(error) => assert_eq!(error.downcast_ref::<NoMore>(), Some(&NoMore(7))),
        other => panic!("{other:?}"),
    }
    // A text, a boxed error, and one of a step's own.
    for error in [
        evaluate(&step, Split::Test, (3..4).map(|i| reading(i).map_err(|e| e.to_string())), &mut ())
            .unwrap_err(),
        evaluate(
            &step,
            Split::Test,
            (3..4).map(|i| reading(i).map_err(Box::<dyn std::error::Error + Send + Sync>::from)),
            &mut (),
        )
        .unwrap_err(),
        evaluate(
            &|_: &mut Pass<'_>, _: &Reading| Err(Error::other(NoMore(7))),
            Split::Test,
            (0..1).map(reading),
            &mut (),
        )
        .unwrap_err(),
    ] {
        one_line(&error, "the disk of sensor 7 is full");
    }
}

#[test]
fn errors_of_taper_and_candle_keep_their_types_on_the_way() {
    let (_, net) = net();
    let (xs, _) = pairs(1).remove(0);
    let shape = |pass: &mut Pass<'_>, (xs, ys): &Pair| {
        Ok(Step::new(mse(&net.forward(pass, xs)?, &ys.narrow(1, 0, 1)?)?, 4))
    };
    let error = evaluate(&shape, Split::Test, all(&pairs(1)), &mut ()).unwrap_err();
    assert!(matches!(error, Error::Argument(_)), "{error:?}");
    let sequence = |pass: &mut Pass<'_>, xs: &Tensor| {
        let act = Act::new(Activation::Relu, Params::new(1, &Device::Cpu).builder().pp("act"))?;
        Ok(Step::new(act.forward(pass, &xs.unsqueeze(0)?)?.mean_all()?, 1))
    };
    let error = evaluate(&sequence, Split::Test, all(std::slice::from_ref(&xs)), &mut ()).unwrap_err();
    assert!(
        matches!(&error, Error::Observe(taper_hooks::Error::UnitsUnknown { site, .. }) if site == "act"),
        "{error:?}"
    );
    let other = |_: &mut Pass<'_>, xs: &Tensor| Ok(Step::new(xs.matmul(xs)?.mean_all()?, 1));
    let error = evaluate(&other, Split::Test, all(&[xs]), &mut ()).unwrap_err();
    assert!(matches!(error, Error::Tensor(candle_core::Error::ShapeMismatchBinaryOp { .. })), "{error:?}");
}

#[test]
fn a_step_that_cannot_be_trained_on_is_named_with_its_batch_and_nothing_moves() {
    let (params, net) = net();
    type Make = fn(&Tensor) -> candle_core::Result<Step>;
    let cases: [(Make, &str); 6] = [
        (|ys| Ok(Step::new(ys.sqr()?, 4)), "expected a loss of one value, found shape [4, 2]: take its mean"),
        (|ys| Ok(Step::new(ys.sqr()?.mean_all()?.unsqueeze(0)?, 4)), "found shape [1]"),
        (|ys| Ok(Step::new(ys.to_dtype(DType::U32)?.sum_all()?, 4)), "a floating-point type, found U32"),
        (|ys| Ok(Step::new(ys.detach().mean_all()?, 4)), "a loss that depends on a parameter"),
        (|ys| Ok(Step::new(ys.mean_all()?, 0)), "expected at least one sample, found none"),
        (|ys| Ok(Step::new(ys.mean_all()?, 4).lower("mae", 1.0).higher("mae", 2.0)), "found 'mae' twice"),
    ];
    for (make, says) in cases {
        let mut optimizer = sgd(&params);
        let mut calls = std::sync::atomic::AtomicUsize::new(0);
        let step = |pass: &mut Pass<'_>, (xs, ys): &Pair| {
            let out = net.forward(pass, xs)?;
            match calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0 => Ok(Step::new(mse(&out, ys)?, 4)),
                _ => Ok(make(&out)?),
            }
        };
        let error = train_epoch(&step, &mut optimizer, all(&pairs(3)), &mut (), 1).unwrap_err();
        one_line(&error, says);
        one_line(&error, "training step, batch 2: ");
        assert!(matches!(error, Error::Step { batch: 2, .. }) && optimizer.steps() == 1);
        *calls.get_mut() = 1;
    }
    // In evaluation there is no gradient to ask for.
    let detached =
        |pass: &mut Pass<'_>, (xs, _): &Pair| Ok(Step::new(net.forward(pass, xs)?.detach().mean_all()?, 4));
    assert!(evaluate(&detached, Split::Test, all(&pairs(1)), &mut ()).is_ok());
    let error = train_epoch(&detached, &mut sgd(&params), all(&pairs(1)), &mut (), 1).unwrap_err();
    assert!(matches!(error, Error::Step { fault: StepError::Detached, .. }));
}

#[test]
fn batches_of_different_widths_are_one_line() {
    let (params, net) = net();
    let mut batches = pairs(2);
    batches[1].0 = Tensor::zeros((4, 5), DType::F32, &Device::Cpu).unwrap();
    let error =
        train_epoch(&regress(&net), &mut sgd(&params), all(&batches), &mut Recorder::new(), 1).unwrap_err();
    one_line(&error, "3");
}

#[test]
fn regression_is_mse_with_r2_and_mae_over_the_whole_split_however_it_is_cut() {
    let (_, net) = net();
    let batches = pairs(6);
    let cat = |of: fn(&Pair) -> &Tensor| Tensor::cat(&batches.iter().map(of).collect::<Vec<_>>(), 0).unwrap();
    let whole = (cat(|(xs, _)| xs), cat(|(_, ys)| ys));
    let step = regress(&net);
    let parts = evaluate(&step, Split::Test, all(&batches), &mut ()).unwrap().score;
    let one = evaluate(&step, Split::Test, all(std::slice::from_ref(&whole)), &mut ()).unwrap().score;
    let ys = net
        .forward(&mut Pass::eval(&mut ()), &whole.0)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    let targets = whole.1.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let n = ys.len() as f64;
    let sum = |f: &dyn Fn(f64, f64) -> f64| {
        ys.iter().zip(&targets).map(|(y, t)| f((*y).into(), (*t).into())).sum::<f64>()
    };
    let (mse, mae, mean) =
        (sum(&|y, t| (y - t).powi(2)) / n, sum(&|y, t| (y - t).abs()) / n, sum(&|_, t| t) / n);
    let r2 = 1.0 - mse * n / sum(&|_, t| (t - mean).powi(2));
    for score in [parts, one] {
        let names: Vec<_> = score.metrics.iter().map(|m| (m.name.as_str(), m.kind)).collect();
        assert_eq!(names, [("r2", MetricKind::Higher), ("mae", MetricKind::Lower)]);
        assert!((score.loss - mse).abs() < 1e-6 && score.samples == 24);
        assert!((score.metric("mae").unwrap() - mae).abs() < 1e-6);
        assert!((score.metric("r2").unwrap() - r2).abs() < 1e-9, "{score:?} {r2}");
    }
}

#[test]
fn an_autoencoder_reconstructs_inputs_of_any_shape() {
    let params = Params::new(1, &Device::Cpu);
    let vb = params.builder();
    let layer = Linear::new(6, 6, Init::LeCun, vb.pp("fc1")).unwrap();
    struct Auto(Linear);
    impl Model for Auto {
        fn forward(&self, _: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
            self.0.forward(&xs.flatten_from(1)?)
        }
    }
    let net = Auto(layer);
    let xs = Tensor::randn(0_f32, 1.0, (8, 1, 2, 3), &Device::Cpu).unwrap();
    let losses: Vec<f64> = {
        let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 1.0)).unwrap();
        let batch = [xs];
        (0..100)
            .map(|_| {
                train_epoch(&reconstruct(&net), &mut optimizer, all(&batch), &mut (), 1).unwrap().score.loss
            })
            .collect()
    };
    assert!(losses[99] < 0.05 * losses[0], "{losses:?}");
}

#[test]
fn binary_labels_are_counted_one_by_one() {
    let cpu = &Device::Cpu;
    let batch = (
        Tensor::new(&[[1e4_f32, -1e4, 0.3], [-0.3, 1e4, -1e4]], cpu).unwrap(),
        Tensor::new(&[[1_f32, 0.0, 0.0], [0.0, 1.0, 1.0]], cpu).unwrap(),
    );
    let score = evaluate(&binary(&Same, 1.0), Split::Test, all(&[batch]), &mut ()).unwrap().score;
    // One label of six is off by 1e4, one by 0.3 on the wrong side, one by 0.3 on the right one.
    let expected = (1e4 + (1.0 + 0.3_f64.exp()).ln() + (1.0 + (-0.3_f64).exp()).ln()) / 6.0;
    assert!((score.loss - expected).abs() < 1e-3, "{} {expected}", score.loss);
    assert_eq!(score.metric("accuracy"), Some(4.0 / 6.0));
}

#[test]
fn classes_have_accuracies_and_a_confusion_matrix_on_request() {
    let one_hot = |classes: &[u32]| {
        let rows: Vec<f32> = classes.iter().flat_map(|c| (0..3).map(move |k| f32::from(k == *c))).collect();
        Tensor::from_vec(rows, (classes.len(), 3), &Device::Cpu).unwrap()
    };
    let batch = |said: &[u32], true_: &[u32]| (one_hot(said), Tensor::new(true_, &Device::Cpu).unwrap());
    let batches = [batch(&[0, 1, 1], &[0, 1, 0]), batch(&[0, 2], &[0, 0])];
    let options = Classify { per_class: true, ..Default::default() };
    let step = classify_with(&Same, options).unwrap();
    let score = evaluate(&step, Split::Test, all(&batches), &mut ()).unwrap().score;
    assert_eq!(score.counts["confusion"], [[2, 1, 1], [0, 1, 0], [0, 0, 0]]);
    assert_eq!(score.metric("accuracy"), Some(0.6));
    assert_eq!([score.metric("accuracy/0"), score.metric("accuracy/1")], [Some(0.5), Some(1.0)]);
    assert!(score.metric("accuracy/2").unwrap().is_nan(), "no sample is of this class");
    assert!(score.metrics.iter().all(|metric| metric.kind == MetricKind::Share));
    assert_eq!(score.primary().name, "accuracy");
}

#[test]
fn smoothing_and_class_weights_are_pytorchs_and_nonsense_is_refused() {
    let cpu = &Device::Cpu;
    let batch = (
        Tensor::new(&[[1.0_f32, -2.0, 0.5], [0.0, 0.3, -1.0]], cpu).unwrap(),
        Tensor::new(&[2_u32, 0], cpu).unwrap(),
    );
    let loss = |options: Classify| {
        let step = classify_with(&Same, options).unwrap();
        evaluate(&step, Split::Test, all(std::slice::from_ref(&batch)), &mut ())
            .map(|report| report.score.loss)
    };
    let weights = Some(vec![1.0, 2.0, 3.0]);
    // torch.nn.CrossEntropyLoss(weight=torch.tensor([1., 2., 3.]), label_smoothing=0.1)
    let smooth = Classify { label_smoothing: 0.1, class_weights: weights.clone(), ..Default::default() };
    assert!((loss(smooth).unwrap() - 1.060777757883403).abs() < 1e-6);
    let plain = twin::cross_entropy(&batch.0, &batch.1).unwrap().to_scalar::<f32>().unwrap();
    assert!((loss(Classify::default()).unwrap() - f64::from(plain)).abs() < 1e-6);
    let error = loss(Classify { class_weights: Some(vec![1.0]), ..Default::default() }).unwrap_err();
    one_line(&error, "expected one for each of 3 classes, found 1");
    for options in [
        Classify { label_smoothing: 1.0, ..Default::default() },
        Classify { class_weights: Some(vec![f32::NAN]), ..Default::default() },
    ] {
        one_line(&classify_with::<Pair>(&Same, options).err().unwrap(), "expected");
    }
}

#[test]
fn a_term_of_a_site_is_minimised_and_reported_as_a_metric() {
    let train = |weight: f64| {
        let params = Params::new(1, &Device::Cpu);
        let vb = params.builder();
        let fc1 = Linear::new(3, 16, Init::He, vb.pp("fc1")).unwrap();
        let act = Act::new(Activation::Relu, vb.pp("fc1")).unwrap().then(move |pass, ys| {
            pass.add_to_loss(&(ys.abs()?.mean_all()? * weight)?)?;
            Ok(ys.clone())
        });
        let out = Linear::new(16, 2, Init::LeCun, vb.pp("out")).unwrap();
        let step = |pass: &mut Pass<'_>, (xs, ys): &Pair| {
            Ok(Step::new(mse(&out.forward(&fc1.forward_act(pass, xs, &act)?)?, ys)?, xs.dim(0)?))
        };
        let mut optimizer = sgd(&params);
        let mut last = None;
        for _ in 0..200 {
            last = Some(train_epoch(&step, &mut optimizer, all(&pairs(6)), &mut (), 1).unwrap().score);
        }
        let mut recorder = Recorder::new();
        let tested = evaluate(&step, Split::Test, all(&pairs(6)), &mut recorder).unwrap().score;
        assert_eq!(tested.metric("added_loss"), None);
        (last.unwrap(), recorder.finish()[0].mean.unwrap())
    };
    let ((without, mean), (with, smaller)) = (train(0.0), train(0.3));
    assert_eq!(without.metric("added_loss"), Some(0.0));
    assert_eq!(with.primary().name, "loss", "what is added is no measure of success");
    assert!(smaller < 0.5 * mean, "{smaller} {mean}");
    assert!(with.metric("added_loss").unwrap() > 0.0 && with.loss > without.loss);
}

#[test]
fn a_model_that_is_not_sync_trains_on_its_thread_to_the_same_bits() {
    let train = |here: bool| {
        let params = Params::new(1, &Device::Cpu);
        let vb = params.builder();
        let net = candle_nn::seq()
            .add(candle_nn::linear(3, 8, vb.pp("fc1")).unwrap())
            .add(Act::new(Activation::Relu, vb.pp("fc1")).unwrap())
            .add(candle_nn::linear(8, 2, vb.pp("fc2")).unwrap());
        let (mut optimizer, mut recorder) = (sgd(&params), Recorder::new());
        let plain = Params::new(1, &Device::Cpu);
        let vb = plain.builder();
        let (fc1, act, fc2) = (
            candle_nn::linear(3, 8, vb.pp("fc1")).unwrap(),
            Act::new(Activation::Relu, vb.pp("fc1")).unwrap(),
            candle_nn::linear(8, 2, vb.pp("fc2")).unwrap(),
        );
        let report = if here {
            let step = |pass: &mut Pass<'_>, (xs, ys): &Pair| {
                Ok(Step::new(mse(&pass.scope(|| net.forward(xs))?, ys)?, xs.dim(0)?))
            };
            train_epoch(&Here(step), &mut optimizer, all(&pairs(5)), &mut recorder, 1)
        } else {
            let step = |pass: &mut Pass<'_>, (xs, ys): &Pair| {
                Ok(Step::new(mse(&fc2.forward(&act.forward(pass, &fc1.forward(xs)?)?)?, ys)?, xs.dim(0)?))
            };
            train_epoch(&step, &mut sgd(&plain), all(&pairs(5)), &mut recorder, 1)
        };
        (report.unwrap().score, recorder.finish())
    };
    assert_eq!(train(true), train(false));
}

#[test]
fn a_second_pass_into_a_window_that_was_not_finished_fails_before_it_runs() {
    let (params, net) = net();
    let mut recorder = Recorder::new();
    evaluate(&regress(&net), Split::Validation, all(&pairs(1)), &mut recorder).unwrap();
    let untouched = std::iter::from_fn(|| -> Option<Result<Pair>> { panic!("no batch is asked for") });
    let error = evaluate(&regress(&net), Split::Test, untouched, &mut recorder).unwrap_err();
    one_line(&error, "to record test into, found one with passes over validation");
    let error = train_epoch(&regress(&net), &mut sgd(&params), all(&pairs(1)), &mut recorder, 1).unwrap_err();
    one_line(&error, "to record train into, found one with passes over validation");
    recorder.finish();
    evaluate(&regress(&net), Split::Test, all(&pairs(1)), &mut recorder).unwrap();
}

#[test]
fn trouble_at_a_site_is_reported_and_ends_nothing() {
    // One activation after layers of different widths.
    let params = Params::new(1, &Device::Cpu);
    let vb = params.builder();
    let act = Act::new(Activation::Relu, vb.pp("relu")).unwrap();
    let layers: Vec<Linear> = [(3, 8), (8, 4), (4, 2)]
        .iter()
        .enumerate()
        .map(|(i, (a, b))| Linear::new(*a, *b, Init::He, vb.pp(format!("fc{i}"))).unwrap())
        .collect();
    let step = |pass: &mut Pass<'_>, (xs, ys): &Pair| {
        let hidden = layers[0].forward_act(pass, xs, &act)?;
        let hidden = layers[1].forward_act(pass, &hidden, &act)?;
        Ok(Step::new(mse(&layers[2].forward(&hidden)?, ys)?, xs.dim(0)?))
    };
    let (mut recorder, mut optimizer) = (Recorder::new(), sgd(&params));
    let watched = train_epoch(&step, &mut optimizer, all(&pairs(4)), &mut recorder, 1).unwrap();
    assert_eq!(optimizer.steps(), 4);
    let stats = recorder.finish().remove(0);
    assert!(stats.trouble.unwrap().to_string().contains("expected 8 units as before, found 4"));
    assert_eq!(watched.nonfinite, None);
}

#[test]
fn a_label_that_is_no_class_is_one_line() {
    let (_, net) = net();
    let labels = [(pairs(1).remove(0).0, Tensor::new(&[0_u32, 1, 2, 0], &Device::Cpu).unwrap())];
    one_line(
        &evaluate(&classify(&net), Split::Test, all(&labels), &mut ()).unwrap_err(),
        "expected targets below 2, found 2",
    );
}
