//! Groups, accumulation, rates that a loop sets, rows that are reset, and parameters that no gradient reaches.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use candle_core::{Device, Tensor, Var};
use candle_nn::Module;
use taper_hooks::Pass;
use taper_kernels::{Gradients, record};
use taper_nn::{Mlp, MlpConfig, Model, Params};
use taper_report::Run;
use taper_train::{
    Error, Optimizer, OptimizerConfig, ParamGroup, Result, Rule, Schedule, Session, SessionConfig, Step,
    classify, cross_entropy, parse_rule, train_batches, train_epoch,
};

use crate::common::{assert_resumes_to_the_same_bytes, few, train};

/// 64-6-4-10, from a seed.
fn net(seed: u64) -> (Params, Mlp) {
    let params = Params::new(seed, &Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![6, 4], dropout: 0.2, ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap();
    (params, net)
}

fn values(params: &Params) -> Vec<(String, Vec<f32>)> {
    let flat = |var: &Var| var.flatten_all().unwrap().to_vec1().unwrap();
    params.vars().iter().map(|(name, var)| (name.clone(), flat(var))).collect()
}

/// The mean gradient of the first 96 digits.
fn gradients(net: &Mlp) -> Gradients {
    let batch = few().train.batches(96).next().unwrap().unwrap();
    let mut observer = ();
    let mut pass = Pass::train(&mut observer, 1, 0);
    let (loss, tape) = record(|| cross_entropy(&net.forward(&mut pass, &batch.images)?, &batch.labels));
    tape.backward(&loss.unwrap()).unwrap()
}

fn config(groups: Vec<ParamGroup>) -> OptimizerConfig {
    OptimizerConfig { groups, ..OptimizerConfig::new(Rule::adamw(0.1), 0.01) }
}

#[test]
fn a_frozen_parameter_stays_has_no_slots_and_is_not_part_of_the_clip_norm() {
    let (params, net) = net(1);
    let before = values(&params);
    let groups = vec![ParamGroup { frozen: true, ..ParamGroup::new("fc1.*") }];
    let mut optimizer = Optimizer::new(params.vars(), config(groups)).unwrap();
    train_epoch(&classify(&net), &mut optimizer, few().train.batches(32), &mut (), 1).unwrap();
    for ((name, before), (_, after)) in before.iter().zip(values(&params)) {
        assert_eq!(*before == after, name.starts_with("fc1"), "{name}");
    }
    let state = optimizer.state().unwrap();
    assert!(state.tensors.iter().all(|(name, _)| !name.starts_with("fc1")));
    assert_eq!(state.tensors.len(), 8);

    // One norm for the others, as if the frozen ones were not there.
    let (a, first) = self::net(2);
    let (b, second) = self::net(2);
    let clipped =
        |groups| OptimizerConfig { groups, clip_norm: Some(0.01), ..OptimizerConfig::new(Rule::SGD, 1.0) };
    let others = a.vars().into_iter().filter(|(name, _)| !name.starts_with("fc1")).collect();
    Optimizer::new(others, clipped(vec![])).unwrap().step(&gradients(&first)).unwrap();
    let frozen = vec![ParamGroup { frozen: true, ..ParamGroup::new("fc1*") }];
    Optimizer::new(b.vars(), clipped(frozen)).unwrap().step(&gradients(&second)).unwrap();
    assert_eq!(values(&a), values(&b));
}

#[test]
fn groups_have_rates_and_decays_of_their_own_and_add_up() {
    let plain = |rate: f64, decay: f64| {
        let (params, net) = net(1);
        let rule = OptimizerConfig::new(Rule::adamw(decay), rate);
        Optimizer::new(params.vars(), rule).unwrap().step(&gradients(&net)).unwrap();
        values(&params)
    };
    let (params, net) = net(1);
    let groups = vec![
        ParamGroup { rate: 0.5, ..ParamGroup::new("fc2.*") },
        ParamGroup { rate: 0.5, weight_decay: Some(0.0), ..ParamGroup::new("*.bias") },
    ];
    Optimizer::new(params.vars(), config(groups)).unwrap().step(&gradients(&net)).unwrap();
    for (i, (name, moved)) in values(&params).into_iter().enumerate() {
        let (rate, decay) = match name.as_str() {
            "fc2.weight" => (0.005, 0.1),
            "fc2.bias" => (0.0025, 0.0),
            bias if bias.ends_with("bias") => (0.005, 0.0),
            _ => (0.01, 0.1),
        };
        assert_eq!(plain(rate, decay)[i].1, moved, "{name}");
    }
}

#[test]
fn a_pattern_without_a_match_and_a_decay_that_a_rule_has_not_are_refused() {
    let (params, _) = net(1);
    let refuse = |rule: Rule, group: ParamGroup| {
        let config = OptimizerConfig { groups: vec![group], ..OptimizerConfig::new(rule, 0.1) };
        Optimizer::new(params.vars(), config).unwrap_err().to_string()
    };
    let error = refuse(Rule::SGD, ParamGroup::new("fc4.*"));
    assert!(error.contains("'fc4.*'") && error.contains("fc1.weight, fc1.bias"), "{error}");
    let error = refuse(Rule::RMSPROP, ParamGroup { weight_decay: Some(0.1), ..ParamGroup::new("*") });
    assert!(error.contains("no weight decay"), "{error}");
    for group in [
        ParamGroup { rate: -1.0, ..ParamGroup::new("*") },
        ParamGroup { rate: f64::NAN, ..ParamGroup::new("*") },
        ParamGroup { weight_decay: Some(-0.1), ..ParamGroup::new("*") },
    ] {
        assert!(refuse(Rule::SGD, group).contains("expected a number of at least 0"));
    }
}

#[test]
fn a_parameter_that_no_gradient_reaches_is_named_before_anything_moves() {
    struct Norm(candle_nn::LayerNorm, candle_nn::Linear, candle_nn::Linear);
    let params = Params::new(1, &Device::Cpu);
    let vb = params.builder();
    let net = Norm(
        candle_nn::layer_norm(8, 1e-5, vb.pp("ln")).unwrap(),
        candle_nn::linear(64, 8, vb.pp("embed")).unwrap(),
        candle_nn::linear(8, 10, vb.pp("head")).unwrap(),
    );
    let step = |_: &mut Pass<'_>, batch: &taper_data::Batch| {
        let xs = net.1.forward(&batch.images.flatten_from(1)?)?;
        let logits = net.2.forward(&net.0.forward(&xs)?)?;
        Ok(Step::new(cross_entropy(&logits, &batch.labels)?, batch.len()))
    };
    let before = values(&params);
    let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1)).unwrap();
    let error = train_epoch(&step, &mut optimizer, few().train.batches(32), &mut (), 1).unwrap_err();
    let Error::NoGradient { parameters, all: false } = &error else { panic!("{error}") };
    assert_eq!(parameters, &["ln.weight", "ln.bias", "embed.weight", "embed.bias"]);
    let text = error.to_string();
    assert!(text.lines().count() == 1 && text.contains("LayerNorm") && text.contains("ln.weight"), "{text}");
    assert_eq!((values(&params), optimizer.steps()), (before, 0));

    // Frozen or allowed by name, it goes on.
    let groups = vec![
        ParamGroup { frozen: true, ..ParamGroup::new("ln.*") },
        ParamGroup { unused: true, ..ParamGroup::new("embed.*") },
    ];
    let mut optimizer = Optimizer::new(params.vars(), config(groups)).unwrap();
    train_epoch(&step, &mut optimizer, few().train.batches(32), &mut (), 1).unwrap();
}

#[test]
fn a_gradient_of_zeros_is_a_gradient() {
    let w = Var::new(&[1.0_f32], &Device::Cpu).unwrap();
    let mut optimizer =
        Optimizer::new(vec![("w".into(), w.clone())], OptimizerConfig::new(Rule::SGD, 0.1)).unwrap();
    let gradients = (w.as_tensor() * w.zeros_like().unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    optimizer.step(&gradients.into()).unwrap();
    assert_eq!(w.to_vec1::<f32>().unwrap(), [1.0]);
}

#[test]
fn an_optimizer_over_other_parameters_than_the_models_is_refused() {
    let ((_, net), (other, _)) = (net(1), net(2));
    let mut optimizer = Optimizer::new(other.vars(), OptimizerConfig::new(Rule::SGD, 0.1)).unwrap();
    let error =
        train_epoch(&classify(&net), &mut optimizer, few().train.batches(32), &mut (), 1).unwrap_err();
    assert!(matches!(&error, Error::NoGradient { all: true, .. }), "{error}");
    assert!(error.to_string().contains("those of this model?"), "{error}");
    // Asked for before the model was made.
    let mut none = Optimizer::new(vec![], OptimizerConfig::new(Rule::SGD, 0.1)).unwrap();
    let error = train_epoch(&classify(&net), &mut none, few().train.batches(32), &mut (), 1).unwrap_err();
    assert!(error.to_string().contains("once the model is made"), "{error}");
}

#[test]
fn accumulated_batches_make_the_step_of_the_big_batch() {
    for name in ["sgd", "momentum", "adamw"] {
        let (rule, rate) = parse_rule(name, None).unwrap();
        let run = |accumulate: u64, size: usize| {
            let params = Params::new(1, &Device::Cpu);
            let config = MlpConfig { inputs: 64, widths: vec![16], ..Default::default() };
            let net = Mlp::new(&config, params.builder()).unwrap();
            let rule =
                OptimizerConfig { accumulate, clip_norm: Some(0.5), ..OptimizerConfig::new(rule, rate) };
            let mut optimizer = Optimizer::new(params.vars(), rule).unwrap();
            let data = few().train.clone().take(80); // 5 batches of 16: the last step is of one
            for _ in 0..3 {
                train_epoch(&classify(&net), &mut optimizer, data.batches(size), &mut (), 1).unwrap();
            }
            (optimizer.steps(), values(&params))
        };
        let ((whole, a), (parts, b)) = (run(1, 32), run(2, 16));
        assert_eq!((whole, parts), (9, 9));
        for ((name, a), (_, b)) in a.iter().zip(&b) {
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() < 2e-4, "{name}: {a} {b}");
            }
        }
    }
}

fn session(dir: &Path, rule: OptimizerConfig) -> Result<(Mlp, Session<'static>)> {
    let params = Params::of_run(7, &Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![8], dropout: 0.2, ..Default::default() };
    let net = Mlp::new(&config, params.builder())?;
    let run = Run { name: "few".into(), seed: 7, epochs: 3, ..Run::default() };
    let mut config = SessionConfig { record: None, tensorboard: false, ..SessionConfig::default() };
    config.save.steps = Some(2);
    Ok((net, Session::open(dir, run, &params, Optimizer::new(params.vars(), rule)?, config)?))
}

/// Three epochs of seven batches in steps of three; the rate is halved after each, and a row is reset.
fn go_on(dir: &Path, batches: usize) {
    let triangle = Schedule::custom("triangle", |step| 1.0 - (step as f64 / 5.0 - 1.0).abs().min(1.0));
    let groups = vec![ParamGroup { weight_decay: Some(0.0), ..ParamGroup::new("*.bias") }];
    let rule = OptimizerConfig {
        schedule: triangle,
        accumulate: 3,
        groups,
        ..OptimizerConfig::new(Rule::adamw(0.1), 0.02)
    };
    let (net, session) = session(dir, rule).unwrap();
    train(session, &classify(&net), batches, |session, epoch| {
        assert_eq!((session.optimizer.steps(), session.optimizer.waiting()), (u64::from(epoch) * 3, 0));
        if epoch > 0 {
            session.optimizer.set_learning_rate(0.02 / f64::from(epoch + 1)).unwrap();
            session.optimizer.reset_rows("fc1.weight", &[epoch as usize]).unwrap();
        }
    });
}

#[test]
fn a_run_that_accumulates_sets_rates_and_resets_rows_resumes_to_the_same_bytes() {
    assert_resumes_to_the_same_bytes("optimiser", go_on);
}

#[test]
fn other_options_of_the_optimizer_are_named_and_a_rate_that_was_set_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let custom = |factor: f64| Schedule::custom("flat", move |_| factor);
    let rule = |factor| OptimizerConfig { schedule: custom(factor), ..OptimizerConfig::new(Rule::SGD, 0.1) };
    let (net, mut first) = session(dir.path(), rule(1.0)).unwrap();
    while first.next_epoch().unwrap().is_some_and(|epoch| epoch < 2) {
        first.train(&classify(&net), |rng, done| few().train.shuffled(rng, 32).skip(done)).unwrap();
        first.optimizer.set_learning_rate(0.05).unwrap();
        first.end_epoch().unwrap();
    }
    drop(first);
    let error = session(dir.path(), rule(0.5)).map(drop).unwrap_err().to_string();
    assert!(error.contains("optimizer.schedule.factors was") && error.lines().count() == 1, "{error}");
    let other = OptimizerConfig { accumulate: 2, ..rule(1.0) };
    let error = session(dir.path(), other).map(drop).unwrap_err().to_string();
    assert!(error.contains("optimizer.accumulate was 1 and is 2"), "{error}");
    let (_, again) = session(dir.path(), rule(1.0)).unwrap();
    assert_eq!((again.optimizer.learning_rate(), again.optimizer.config().learning_rate), (0.05, 0.1));
}

#[test]
fn a_rate_or_factor_that_makes_no_sense_is_refused() {
    let (params, net) = net(1);
    let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1)).unwrap();
    for rate in [f64::NAN, -1.0, f64::INFINITY] {
        assert!(optimizer.set_learning_rate(rate).is_err());
    }
    assert_eq!(optimizer.learning_rate(), 0.1);
    assert!(parse_rule("sdg", None).unwrap_err().to_string().contains("expected sgd"));
    assert!(parse_rule("rmsprop", Some(0.1)).is_err());
    let before = values(&params);
    let schedule = Schedule::custom("broken", |step| if step == 2 { f64::NAN } else { 0.0 });
    let rule = OptimizerConfig { schedule, ..OptimizerConfig::new(Rule::SGD, 0.1) };
    let mut optimizer = Optimizer::new(params.vars(), rule).unwrap();
    let batches = few().train.batches(20);
    let error = train_batches(&classify(&net), &mut optimizer, batches, &mut (), 1, &mut Default::default());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("schedule, step 2") && error.contains("found NaN"), "{error}");
    assert_eq!(values(&params), before);
}

#[test]
fn reset_rows_repeat_their_first_step_and_others_keep_their_bits() {
    for name in ["momentum", "adam", "adadelta"] {
        let (rule, rate) = parse_rule(name, None).unwrap();
        let start = [[0.5_f32, -1.0, 2.0], [1.0, 1.0, -0.25]];
        let make = || {
            let w = Var::new(&start, &Device::Cpu).unwrap();
            let rule = OptimizerConfig::new(rule, rate);
            (w.clone(), Optimizer::new(vec![("w".into(), w)], rule).unwrap())
        };
        let step = |(w, optimizer): &mut (Var, Optimizer), by: f32| {
            let g = Tensor::new(&[[by, 1.0, -by], [0.5, by, 2.0]], &Device::Cpu).unwrap();
            let gradients = (w.as_tensor() * g).unwrap().sum_all().unwrap().backward().unwrap();
            optimizer.step(&gradients.into()).unwrap();
        };
        let rows = |of: &(Var, Optimizer)| of.0.to_vec2::<f32>().unwrap();
        let (mut whole, mut reset, mut new) = (make(), make(), make());
        for by in [0.1, 0.2, 0.3] {
            step(&mut whole, by);
            step(&mut reset, by);
        }
        reset.1.reset_rows("w", &[1]).unwrap();
        reset
            .0
            .set(&Tensor::new(vec![rows(&reset)[0].clone(), start[1].to_vec()], &Device::Cpu).unwrap())
            .unwrap();
        for by in [0.4, 0.5] {
            step(&mut whole, by);
            step(&mut reset, by);
            step(&mut new, by);
        }
        assert_eq!(rows(&reset)[0], rows(&whole)[0], "{name}");
        assert_eq!(rows(&reset)[1], rows(&new)[1], "{name}");
        assert!(reset.1.reset_rows("w", &[2]).is_err() && reset.1.reset_rows("v", &[0]).is_err());
    }
}
