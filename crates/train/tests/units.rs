//! Units that are restarted or replaced while a network trains, and weights that are held: what they promise, and that a run
//! with them resumes to the same bytes. Several of these tests are named after mistakes of published implementations.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use candle_core::{Device, Tensor, Var};
use taper_data::Dataset;
use taper_hooks::{Observer, Parts, Pass, Recorder, rng};
use taper_kernels::record;
use taper_nn::{Cnn, CnnConfig, KWinners, KWinnersConfig, Link, Mlp, MlpConfig, Model, Params, l1};
use taper_report::{Run, Split};
use taper_train::{
    Continual, ContinualConfig, InputMasks, L2Init, Optimizer, OptimizerConfig, Redo, Revive, Rule,
    SaveEvery, Session, SessionConfig, Step, Upkeep, classify, cross_entropy, redo, restart_units,
    train_epoch,
};

/// 64-12-8-10, from a seed.
fn net(seed: u64) -> (Params, Mlp) {
    let params = Params::new(seed, &Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![12, 8], ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap();
    (params, net)
}

fn adam(params: &Params, rate: f64) -> Optimizer {
    Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adam(0.0), rate)).unwrap()
}

fn few() -> Dataset {
    let data = taper_data::digits().unwrap();
    Dataset { train: data.train.clone().take(96), test: data.test.clone().take(50), ..data }
}

fn images() -> Tensor {
    few().train.batches(96).next().unwrap().unwrap().images
}

fn var(params: &Params, name: &str) -> Var {
    params.vars().into_iter().find(|(own, _)| own == name).unwrap().1
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn edit(params: &Params, name: &str, f: impl FnOnce(&mut [f32])) {
    let var = var(params, name);
    let mut values = flat(&var);
    f(&mut values);
    var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
}

/// The logits, and what the recorder sees on the way.
fn outputs(net: &dyn Model, xs: &Tensor, observer: &mut dyn Observer) -> Vec<f32> {
    flat(&net.forward(&mut Pass::eval(observer), xs).unwrap())
}

/// What an upkeep sees of a batch that is trained on.
fn show(net: &dyn Model, xs: &Tensor, upkeep: &mut dyn Observer) -> candle_core::Result<()> {
    net.forward(&mut Pass::train(upkeep, 1, 0), xs).map(drop)
}

fn recorder() -> Recorder {
    Recorder::of(Parts::COUNTS)
}

/// Silences some units of a layer.
fn kill(params: &Params, bias: &str, units: &[usize]) {
    edit(params, bias, |bias| units.iter().for_each(|unit| bias[*unit] = -1e3));
}

#[test]
fn restarting_dead_units_changes_nothing_of_what_the_network_computes() {
    let (params, net) = net(1);
    let mut optimizer = adam(&params, 0.01);
    kill(&params, "fc1.bias", &[2, 7]);
    kill(&params, "fc2.bias", &[5]);
    let (xs, mut window) = (images(), recorder());
    let before = outputs(&net, &xs, &mut window);
    let dead =
        |window: &Recorder, site| window.units(site).unwrap().iter().filter(|unit| unit.is_dead()).count();
    let was = dead(&window, "fc1") + dead(&window, "fc2");
    let restarted = redo(net.links(), 0.0, &window, &params, &mut optimizer, 1).unwrap();
    assert_eq!((restarted, was >= 3), (was as u64, true));
    let mut window = recorder();
    assert_eq!(outputs(&net, &xs, &mut window), before);
    assert!(dead(&window, "fc1") + dead(&window, "fc2") < 3, "they are alive again");
}

#[test]
fn a_unit_is_dormant_up_to_tau_inclusive_and_its_score_has_a_mean_of_1() {
    let (params, net) = net(1);
    let (xs, mut window) = (images(), recorder());
    outputs(&net, &xs, &mut window);
    let scores: Vec<f64> = window.units("fc2").unwrap().iter().map(|unit| unit.dormancy).collect();
    assert!((scores.iter().sum::<f64>() / 8.0 - 1.0).abs() < 1e-6, "{scores:?}");
    let mut sorted = scores.clone();
    sorted.sort_by(f64::total_cmp);
    let (tau, fc2) = (sorted[3], &net.links()[1..]);
    let below = |tau: f64| scores.iter().filter(|score| **score <= tau).count() as u64;
    let restarted = redo(fc2, tau, &window, &params, &mut adam(&params, 0.01), 1).unwrap();
    assert_eq!((restarted, restarted >= 4), (below(tau), true));
}

#[test]
fn a_layer_that_is_dead_as_a_whole_is_restarted_as_a_whole() {
    let (params, net) = net(1);
    kill(&params, "fc2.bias", &[0, 1, 2, 3, 4, 5, 6, 7]);
    let (xs, mut window) = (images(), recorder());
    outputs(&net, &xs, &mut window);
    let fc2 = &net.links()[1..];
    assert_eq!(redo(fc2, 0.0, &window, &params, &mut adam(&params, 0.01), 1).unwrap(), 8);
    let mut window = recorder();
    outputs(&net, &xs, &mut window);
    assert!(window.units("fc2").unwrap().iter().any(|unit| !unit.is_dead()));
}

#[test]
fn a_map_is_restarted_with_all_columns_that_it_feeds_and_no_others() {
    let params = Params::new(1, &Device::Cpu);
    let config = CnnConfig { input: (1, 8, 8), channels: vec![3, 4], widths: vec![5], ..Default::default() };
    let net = Cnn::new(&config, params.builder()).unwrap();
    let mut optimizer = adam(&params, 0.01);
    for (link, unit) in net.links().iter().zip([1, 2, 4]) {
        let before: Vec<Vec<f32>> = params.vars().iter().map(|(_, var)| flat(var)).collect();
        restart_units(link, &[unit], &params, &mut optimizer, &mut rng(3)).unwrap();
        for ((name, var), before) in params.vars().iter().zip(before) {
            let (after, dims) = (flat(var), var.dims());
            let row = before.len() / dims[0];
            let span = row / dims.get(1).copied().unwrap_or(1);
            for (i, (was, is)) in before.iter().zip(&after).enumerate() {
                let (of, column) = (i / row, i % row / span);
                let incoming = *name == link.weight && of == unit;
                let outgoing = *name == link.next_weight && column / link.columns == unit;
                match (incoming, outgoing) {
                    (true, _) => assert_ne!(was, is, "{name} {i}"),
                    (_, true) => assert_eq!(*is, 0.0, "{name} {i}"),
                    _ => assert_eq!(was, is, "{name} {i}"),
                }
            }
        }
    }
}

#[test]
fn adam_takes_its_first_step_with_the_weights_of_a_restarted_unit() {
    let (params, net) = net(1);
    let (rate, data, link) = (1e-3, few(), net.links()[0].clone());
    let mut optimizer = adam(&params, rate);
    for _ in 0..5 {
        train_epoch(&classify(&net), &mut optimizer, data.train.batches(32), &mut (), 1).unwrap();
    }
    restart_units(&link, &[3], &params, &mut optimizer, &mut rng(9)).unwrap();
    let read = || (flat(&var(&params, "fc1.weight")), flat(&var(&params, "fc2.weight")));
    let before = read();
    train_epoch(&classify(&net), &mut optimizer, data.train.batches(96), &mut (), 1).unwrap();
    let after = read();
    // Bias correction makes the first step of each weight as long as the rate. With the old count it would be 3.2 times that;
    // with the old moments, anything.
    let outgoing: Vec<f32> =
        (0..8).map(|row| (after.1[row * 12 + 3] - before.1[row * 12 + 3]).abs()).collect();
    let moved: Vec<f32> = outgoing.into_iter().filter(|x| *x != 0.0).collect();
    assert!(moved.len() > 2 && moved.iter().all(|x| (x / 1e-3 - 1.0).abs() < 0.01), "{moved:?}");
    // Without outgoing weights no gradient reached its incoming ones, which stay as they were drawn.
    assert_eq!(before.0[3 * 64..4 * 64], after.0[3 * 64..4 * 64]);
    assert_ne!(before.0[..64], after.0[..64]);
}

#[test]
fn redo_restarts_by_the_steps_since_the_last_time_and_in_training_alone() {
    let (params, net) = net(1);
    let (data, mut optimizer) = (few(), adam(&params, 1e-4));
    let mut upkeep = Redo::new(net.links(), 0.0, 6, &params, 1).unwrap();
    let mut epoch = |upkeep: &mut Redo| {
        train_epoch(&classify(&net), &mut optimizer, data.train.batches(32), upkeep, 1).unwrap();
        outputs(&net, &images(), upkeep); // evaluation is not observed
        upkeep.keep_up(&mut optimizer).unwrap();
        upkeep.restarted()
    };
    kill(&params, "fc1.bias", &[4]);
    assert_eq!(epoch(&mut upkeep), 0, "three steps are not six");
    let first = epoch(&mut upkeep);
    assert!(first >= 1);
    kill(&params, "fc1.bias", &[4]);
    assert_eq!(epoch(&mut upkeep), first);
    assert!(epoch(&mut upkeep) > first);
}

fn continual(net: &Mlp, params: &Params, rate: f64, maturity: u64) -> Continual {
    Continual::new(net.links(), ContinualConfig { rate, maturity, decay: 0.99 }, params, 1).unwrap()
}

#[test]
fn the_mean_contribution_of_a_replaced_unit_goes_to_the_next_bias() {
    let (params, net) = net(1);
    // Unit 3 is 2 for every image, so its utility is 0 and its mean all that it contributes.
    edit(&params, "fc1.weight", |weights| weights[3 * 64..4 * 64].fill(0.0));
    edit(&params, "fc1.bias", |bias| bias[3] = 2.0);
    let (xs, mut optimizer) = (images(), adam(&params, 0.01));
    let mut upkeep =
        Continual::new(&net.links()[..1], ContinualConfig { rate: 0.09, ..Default::default() }, &params, 1)
            .unwrap();
    let (before, bias) = (outputs(&net, &xs, &mut ()), flat(&var(&params, "fc2.bias")));
    for _ in 0..101 {
        show(&net, &xs, &mut upkeep).unwrap();
    }
    assert!(upkeep.utilities("fc1").unwrap()[3] < 1e-12);
    upkeep.keep_up(&mut optimizer).unwrap();
    assert_eq!(upkeep.replaced(), 1, "0.09 of 12 units");
    assert_ne!(flat(&var(&params, "fc1.weight"))[3 * 64], 0.0, "that unit");
    assert_ne!(flat(&var(&params, "fc2.bias")), bias);
    for (a, b) in outputs(&net, &xs, &mut ()).iter().zip(&before) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn the_utility_of_a_young_unit_reads_as_that_of_an_old_one() {
    let (params, net) = net(1);
    let (xs, mut upkeep) = (images(), continual(&net, &params, 0.0, 100));
    let mut utilities = Vec::new();
    for _ in 0..3 {
        for _ in 0..[1, 9, 290][utilities.len()] {
            show(&net, &xs, &mut upkeep).unwrap();
        }
        utilities.push(upkeep.utilities("fc2").unwrap());
    }
    for (young, old) in utilities[0].iter().zip(&utilities[2]).chain(utilities[1].iter().zip(&utilities[2])) {
        assert!((young - old).abs() <= 1e-6 * old.abs(), "{young} {old}");
    }
    // By its definition, of the batch that came each time.
    let mut ys = Vec::new();
    let mut note = taper_hooks::observer_fn(|seen| {
        ys = flat(seen.ys);
        Ok(())
    });
    outputs(&net, &xs, &mut note);
    let (outgoing, unit) = (flat(&var(&params, "fc3.weight")), 2);
    let own: Vec<f64> = ys.iter().skip(unit).step_by(8).map(|y| f64::from(*y)).collect();
    let mean = own.iter().sum::<f64>() / 96.0;
    let deviation = own.iter().map(|y| (y - mean).abs()).sum::<f64>() / 96.0;
    let weights = outgoing.iter().skip(unit).step_by(8).map(|w| f64::from(w.abs())).sum::<f64>();
    assert!(
        (utilities[2][unit] - deviation * weights).abs() < 1e-6,
        "{} {}",
        utilities[2][unit],
        deviation * weights
    );
}

#[test]
fn fractions_of_a_unit_add_up_and_newborns_are_left_alone() {
    let (params, net) = net(1);
    let (xs, mut optimizer) = (images(), adam(&params, 0.01));
    let mut upkeep = Continual::new(
        &net.links()[..1],
        ContinualConfig { rate: 1.0 / 48.0, maturity: 5, decay: 0.9 },
        &params,
        1,
    )
    .unwrap();
    let mut replaced = Vec::new();
    for _ in 0..20 {
        show(&net, &xs, &mut upkeep).unwrap();
        upkeep.keep_up(&mut optimizer).unwrap();
        replaced.push(upkeep.replaced());
    }
    // A quarter of a unit per batch from the sixth on, for as long as all 12 are mature; then a little less.
    assert_eq!(replaced[..9], [0, 0, 0, 0, 0, 0, 0, 0, 1], "{replaced:?}");
    assert_eq!(replaced[19], 3, "{replaced:?}");

    // All that are mature go at once, and none of the new ones before it has matured again.
    let mut upkeep = continual(&net, &params, 1.0, 3);
    let mut replaced = Vec::new();
    for _ in 0..9 {
        show(&net, &xs, &mut upkeep).unwrap();
        upkeep.keep_up(&mut optimizer).unwrap();
        replaced.push(upkeep.replaced());
    }
    assert_eq!(replaced, [0, 0, 0, 20, 20, 20, 20, 40, 40]);
}

#[test]
fn the_least_useful_unit_is_replaced_and_a_dead_one_is_it() {
    let (params, net) = net(1);
    kill(&params, "fc2.bias", &[6]);
    let (xs, mut optimizer) = (images(), adam(&params, 0.01));
    let config = ContinualConfig { rate: 0.125, maturity: 2, decay: 0.9 };
    let mut upkeep = Continual::new(&net.links()[1..], config, &params, 1).unwrap();
    for _ in 0..3 {
        show(&net, &xs, &mut upkeep).unwrap();
    }
    upkeep.keep_up(&mut optimizer).unwrap();
    assert_eq!((upkeep.replaced(), flat(&var(&params, "fc2.bias"))[6]), (1, 0.0));
}

#[test]
fn a_batch_that_is_not_finite_leaves_utilities_as_they_were() {
    let (params, net) = net(1);
    let (xs, mut upkeep) = (images(), continual(&net, &params, 0.0, 100));
    show(&net, &xs, &mut upkeep).unwrap();
    let state = upkeep.state().unwrap();
    show(&net, &(xs * f64::NAN).unwrap(), &mut upkeep).unwrap();
    assert_eq!(upkeep.state().unwrap(), state);
}

#[test]
fn l2_init_is_0_at_the_start_and_pulls_back_to_it() {
    let (params, net) = net(1);
    let l2 = L2Init::new(&params, 0.25).unwrap();
    assert_eq!(l2.penalty().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    edit(&params, "fc1.bias", |bias| bias[2] += 3.0);
    edit(&params, "fc3.weight", |weights| weights[5] -= 1.0);
    assert!((l2.penalty().unwrap().to_scalar::<f32>().unwrap() - 0.25 * 10.0).abs() < 1e-5);
    // Beside a loss on the tape, as in a training step.
    let batch = few().train.batches(96).next().unwrap().unwrap();
    let gradient = |with: bool| {
        let (loss, tape) = record(|| {
            let loss = cross_entropy(&net.forward(&mut Pass::eval(&mut ()), &batch.images)?, &batch.labels)?;
            if with { loss + l2.penalty().unwrap() } else { Ok(loss) }
        });
        let gradients = tape.backward(&loss.unwrap()).unwrap();
        flat(&gradients.get(&var(&params, "fc1.bias")).unwrap().values().unwrap())
    };
    for (unit, (with, without)) in gradient(true).iter().zip(gradient(false)).enumerate() {
        let want = if unit == 2 { 2.0 * 0.25 * 3.0 } else { 0.0 };
        assert!((with - without - want).abs() < 1e-5, "{unit}: {with} {without}");
    }
}

#[test]
fn every_unit_keeps_the_same_number_of_inputs_and_the_variance_of_its_start() {
    let (params, net) = net(1);
    let before = flat(&var(&params, "fc1.weight"));
    let mut masks = InputMasks::new(&params, &["fc1.weight"], 0.3, 5).unwrap();
    let mut optimizer = adam(&params, 0.01);
    let open = |params: &Params| -> Vec<bool> {
        flat(&var(params, "fc1.weight")).iter().map(|w| *w != 0.0).collect()
    };
    let at_first = open(&params);
    assert!(at_first.chunks(64).all(|unit| unit.iter().filter(|open| **open).count() == 19), "0.3 of 64");
    assert_ne!(at_first[..64], at_first[64..128]);
    let scale = (64.0_f32 / 19.0).sqrt();
    for (was, is) in before.iter().zip(flat(&var(&params, "fc1.weight"))).filter(|(_, is)| *is != 0.0) {
        assert!((was * scale - is).abs() < 1e-5);
    }
    for batch in few().train.batches(32) {
        train_epoch(&classify(&net), &mut optimizer, [batch].into_iter(), &mut masks, 1).unwrap();
        masks.keep_up(&mut optimizer).unwrap();
    }
    assert_eq!(open(&params), at_first);
    // The same seed draws the same masks.
    let (again, _) = self::net(2);
    InputMasks::new(&again, &["fc1.weight"], 0.3, 5).unwrap();
    assert_eq!(open(&again), at_first);
}

/// Trains a network with L1, k-winners and this method for three epochs, or until so many batches were trained on.
fn go_on(dir: &Path, revive: Revive, mut batches: usize) {
    let run = Run { name: "digits".into(), seed: 7, epochs: 3, ..Run::default() };
    let (data, params) = (few(), Params::of_run(7, &Device::Cpu));
    let config = MlpConfig { inputs: 64, widths: vec![12, 8], ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap().then("fc2", l1(1e-3).unwrap()).unwrap();
    let config = KWinnersConfig { k: 6, k_eval: 8, period: 40, ..Default::default() };
    let winners = KWinners::new(12, config, params.builder().pp("fc1")).unwrap();
    let net = net.then("fc1", move |pass, ys| winners.forward(pass, ys)).unwrap();
    let config = SessionConfig {
        save: SaveEvery { epochs: Some(1), steps: Some(4) },
        tensorboard: false,
        ..SessionConfig::default()
    };
    let mut session = Session::open(dir, run, &params, adam(&params, 0.05), config).unwrap();
    if let Some(upkeep) = revive.upkeep(net.links(), &params, 7).unwrap() {
        session.upkeep(upkeep).unwrap();
    }
    while session.next_epoch().unwrap().is_some() {
        let go = |_: &_| batches.checked_sub(1).map(|left| batches = left).is_some();
        session
            .train(&classify(&net), |rng, done| data.train.shuffled(rng, 15).skip(done).take_while(go))
            .unwrap();
        if batches == 0 {
            session.interrupt().unwrap();
            return;
        }
        session.evaluate(&classify(&net), Split::Test, data.test.batches(50)).unwrap();
        session.end_epoch().unwrap();
    }
    session.finish().unwrap();
}

#[test]
fn a_run_whose_units_are_restarted_resumes_to_the_same_bytes() {
    for method in ["redo:0.5:3", "continual:0.05:4", "none"] {
        let (dir, revive) = (tempfile::tempdir().unwrap(), method.parse().unwrap());
        let whole = dir.path().join("whole");
        go_on(&whole, revive, usize::MAX);
        for cuts in [vec![2], vec![8, 3, 1], vec![9, 9]] {
            let cut = dir.path().join(format!("{}", cuts.len()));
            cuts.iter().for_each(|batches| go_on(&cut, revive, *batches));
            go_on(&cut, revive, usize::MAX);
            for file in ["model.safetensors", "metrics.jsonl", "checkpoints/epoch-3/optimizer.safetensors"] {
                let read = |dir: &Path| std::fs::read(dir.join(file)).unwrap();
                assert!(read(&whole) == read(&cut), "{method} {file} {cuts:?}");
            }
            let state = |dir: &Path| {
                let text = std::fs::read_to_string(dir.join("checkpoints/epoch-3/state.json")).unwrap();
                serde_json::from_str::<serde_json::Value>(&text).unwrap()["state"]["upkeep"].clone()
            };
            assert_eq!(state(&whole), state(&cut), "{method}");
            assert_eq!(state(&whole).is_null(), method == "none");
        }
    }
}

#[test]
fn a_run_does_not_go_on_with_another_method_or_without() {
    let dir = tempfile::tempdir().unwrap();
    go_on(dir.path(), "redo:0.5:3".parse().unwrap(), 8);
    let (data, params) = (few(), Params::of_run(7, &Device::Cpu));
    let config = MlpConfig { inputs: 64, widths: vec![12, 8], ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap();
    KWinners::new(12, KWinnersConfig::default(), params.builder().pp("fc1")).unwrap();
    let run = Run { name: "digits".into(), seed: 7, epochs: 3, ..Run::default() };
    let config = SessionConfig { tensorboard: false, ..SessionConfig::default() };
    let mut session = Session::open(dir.path(), run, &params, adam(&params, 0.05), config).unwrap();
    for (method, says) in [
        ("redo:0.5:4", "τ and period were (0.5, 3) and are (0.5, 4)"),
        ("continual", "expected its state, found another"),
    ] {
        let upkeep = method.parse::<Revive>().unwrap().upkeep(net.links(), &params, 7).unwrap().unwrap();
        let error = session.upkeep(upkeep).unwrap_err().to_string();
        assert!(error.contains(says) && error.lines().count() == 1, "{error}");
    }
    session.next_epoch().unwrap();
    let error =
        session.train(&classify(&net), |rng, done| data.train.shuffled(rng, 15).skip(done)).unwrap_err();
    assert!(error.to_string().contains("the run began with an upkeep"), "{error}");
}

#[test]
fn options_are_read_as_they_are_written_and_nonsense_is_one_clear_line() {
    for (text, means) in [
        ("none", "none"),
        ("redo", "redo:0.025:1000"),
        ("redo:0", "redo:0:1000"),
        ("redo:0.1:50", "redo:0.1:50"),
        ("continual", "continual:0.0001:100"),
        ("continual:0.01:20", "continual:0.01:20"),
    ] {
        let revive: Revive = text.parse().unwrap();
        assert_eq!(revive.to_string(), means);
        assert_eq!(means.parse::<Revive>().unwrap(), revive);
    }
    for (text, says) in [
        ("redoo", "expected none, redo[:TAU[:PERIOD]] or continual[:RATE[:MATURITY]], found 'redoo'"),
        ("none:1", "expected none, redo"),
        ("redo:", "expected a number behind the colon"),
        ("redo:-1", "expected τ of at least 0, found '-1'"),
        ("redo:nan", "expected τ of at least 0"),
        ("redo:0.1:0", "expected a period of at least 1 step, found '0'"),
        ("continual:2", "expected a rate from 0 to 1, found '2'"),
        ("continual:0.1:x", "expected a maturity in batches, found 'x'"),
    ] {
        let error = text.parse::<Revive>().unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    let (params, net) = net(1);
    let mut optimizer = adam(&params, 0.01);
    let (one, mut nothing) = (&net.links()[..1], recorder());
    let unknown = Link::new("fc9", 12, one[0].init, "fc2");
    let missing = Link { units: 11, ..one[0].clone() };
    let continual = |config| Continual::new(one, config, &params, 1).map(drop);
    let usual = ContinualConfig::default();
    let mut errors = vec![
        (
            redo(one, 0.0, &nothing, &params, &mut optimizer, 1).map(drop),
            "expected a site that was recorded, found 'fc1'",
        ),
        (
            redo(one, f64::NAN, &nothing, &params, &mut optimizer, 1).map(drop),
            "expected τ of at least 0, found NaN",
        ),
        (Redo::new(one, -1.0, 9, &params, 1).map(drop), "expected τ of at least 0, found -1"),
        (Redo::new(one, 0.0, 0, &params, 1).map(drop), "expected a period of at least 1 step"),
        (
            Redo::new(&[unknown], 0.0, 9, &params, 1).map(drop),
            "expected a parameter of the model, found 'fc9.weight'",
        ),
        (Redo::new(&[missing], 0.0, 9, &params, 1).map(drop), "'fc1.weight': expected 11 in dimension 0"),
        (
            restart_units(&one[0], &[12], &params, &mut optimizer, &mut rng(1)),
            "expected units below 12, found 12",
        ),
        (continual(ContinualConfig { rate: f64::NAN, ..usual }), "expected a rate in [0, 1], found NaN"),
        (continual(ContinualConfig { decay: 1.0, ..usual }), "expected a decay in [0, 1), found 1"),
        (L2Init::new(&params, -0.5).map(drop), "expected λ of at least 0, found -0.5"),
        (
            InputMasks::new(&params, &["fc1.weight"], 0.0, 1).map(drop),
            "expected a density in (0, 1], found 0",
        ),
        (InputMasks::new(&params, &["fc1.bias"], 0.5, 1).map(drop), "expected a weight among"),
    ];
    outputs(&net, &images(), &mut nothing);
    let other = Link { units: 8, ..one[0].clone() };
    errors.push((
        redo(&[other], 0.0, &nothing, &params, &mut optimizer, 1).map(drop),
        "expected 8 units, found 12",
    ));
    for (result, says) in errors {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(says) && error.lines().count() == 1, "{says}: {error}");
    }
}

#[test]
fn a_step_whose_loss_is_penalised_trains_as_any_other() {
    let (params, net) = net(1);
    let l2 = L2Init::new(&params, 1e-3).unwrap();
    let step = |pass: &mut Pass<'_>, batch: &taper_data::Batch| {
        let logits = net.forward(pass, &batch.images)?;
        pass.add_to_loss(&l2.penalty()?)?;
        Ok::<_, taper_train::Error>(Step::new(cross_entropy(&logits, &batch.labels)?, batch.labels.dim(0)?))
    };
    let mut optimizer = adam(&params, 0.01);
    let report = train_epoch(&step, &mut optimizer, few().train.batches(32), &mut (), 1).unwrap();
    assert!(report.score.metric("added_loss") > Some(0.0));
}
