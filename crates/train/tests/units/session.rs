//! Runs in a session: they resume to the same bytes, and only with the same method and options.

use std::path::Path;

use candle_core::Device;
use taper_data::Batch;
use taper_hooks::Pass;
use taper_nn::{KWinners, KWinnersConfig, Mlp, MlpConfig, Model, Params, Sparseout};
use taper_report::Run;
use taper_train::{
    InputMasks, L2Init, Result, Revive, SaveEvery, Session, SessionConfig, Step, Upkeep, classify,
    cross_entropy,
};

use crate::adam;
use crate::common::{assert_resumes_to_the_same_bytes, few, train};

fn open(dir: &Path, params: &Params) -> Session<'static> {
    let run = Run { name: "digits".into(), seed: 7, epochs: 3, ..Run::default() };
    let save = SaveEvery { epochs: Some(1), steps: Some(4) };
    let config = SessionConfig { save, tensorboard: false, ..SessionConfig::default() };
    Session::open(dir, run, params, adam(params, 0.05), config).unwrap()
}

/// A method by its option, or input masks of this density.
fn upkeep(method: &str, net: &Mlp, params: &Params) -> Option<Box<dyn Upkeep>> {
    match method.strip_prefix("masks:") {
        Some(density) => {
            let density = density.parse().unwrap();
            Some(Box::new(InputMasks::new(params, &["fc1.weight", "fc2.weight"], density, 5).unwrap()))
        }
        None => method.parse::<Revive>().unwrap().upkeep(net.links(), params, 7).unwrap(),
    }
}

/// Trains a network with everything that acts at a site or in the loss, and with this method.
fn go_on(dir: &Path, method: &str, batches: usize) {
    let params = Params::of_run(7, &Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![12, 8], l1: 1e-3, ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap();
    let config = KWinnersConfig { k: 6, k_eval: 8, period: 40, ..Default::default() };
    let winners = KWinners::new(12, config, params.builder().pp("fc1")).unwrap();
    let noise = Sparseout::new(0.2, 1.0).unwrap();
    let net = net.then("fc1", move |pass, ys| winners.forward(pass, ys)).unwrap();
    let net = net.then("fc2", move |pass, ys| noise.forward(pass, ys)).unwrap();
    let (upkeep, l2_init) = (upkeep(method, &net, &params), L2Init::new(&params, 1e-3).unwrap());
    let step = |pass: &mut Pass<'_>, batch: &Batch| -> Result<Step> {
        pass.add_to_loss(&l2_init.penalty()?)?;
        Ok(Step::new(cross_entropy(&net.forward(pass, &batch.images)?, &batch.labels)?, batch.len()))
    };
    let mut session = open(dir, &params);
    if let Some(upkeep) = upkeep {
        session.upkeep(upkeep).unwrap();
    }
    train(session, &step, batches, |_, _| {});
}

#[test]
fn a_run_with_penalties_noise_winners_and_an_upkeep_resumes_to_the_same_bytes() {
    for method in ["redo:0.5:3", "continual:0.05:4", "masks:0.5", "none"] {
        let state = assert_resumes_to_the_same_bytes(method, |dir, batches| go_on(dir, method, batches));
        assert_eq!(state.is_null(), method == "none");
    }
}

#[test]
fn a_run_does_not_resume_with_another_method_other_options_or_none() {
    let network = || {
        let params = Params::of_run(7, &Device::Cpu);
        let config = MlpConfig { inputs: 64, widths: vec![12, 8], ..Default::default() };
        let net = Mlp::new(&config, params.builder()).unwrap();
        KWinners::new(12, KWinnersConfig::default(), params.builder().pp("fc1")).unwrap();
        (params, net)
    };
    for (began, method, says) in [
        (
            "redo:0.5:3",
            "redo:0.5:4",
            "expected τ 0.5 and period 3, as in the checkpoint, found τ 0.5 and period 4",
        ),
        ("redo:0.5:3", "continual", "expected its state in the checkpoint, found another"),
        ("masks:0.5", "masks:0.4", "density: 0.5, seed: 5 }, as in the checkpoint, found"),
        ("none", "masks:0.5", "expected the state of an upkeep in the checkpoint, found none"),
        ("masks:0.5", "none", "expected the upkeep of the checkpoint, found none"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        go_on(dir.path(), began, 8);
        let ((params, net), data) = (network(), few());
        let upkeep = upkeep(method, &net, &params);
        let mut session = open(dir.path(), &params);
        let result = match upkeep {
            Some(upkeep) => session.upkeep(upkeep),
            None => {
                session.next_epoch().unwrap();
                session.train(&classify(&net), |rng, done| data.train.shuffled(rng, 15).skip(done))
            }
        };
        let error = result.unwrap_err().to_string();
        assert!(error.contains(says) && error.lines().count() == 1, "{error}");
    }
}
