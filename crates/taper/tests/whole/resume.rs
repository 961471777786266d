//! A run that is cut, anywhere and any number of times, and goes on from checkpoints ends with the bits of one that
//! was never cut.

use std::path::Path;

use serde::{Deserialize, Serialize};
use taper::data::{Dataset, digits};
use taper::hooks::{Recorder, Rng, rng};
use taper::report::{Split, SplitReport};
use taper::train::{
    Checkpoints, Keep, Optimizer, OptimizerConfig, Point, Progress, Schedule, classify, evaluate, parse_rule,
    save_weights, train_batches,
};

use crate::support::{RULES, small_net};

const EPOCHS: u32 = 5;
const BATCH: usize = 48;

/// Everything that changes while the loop runs, in addition to weights and optimiser.
#[derive(Serialize, Deserialize)]
struct State {
    /// As it was when the epoch began, so that the same order is drawn again.
    order: Rng,
    progress: Progress,
    live: Recorder,
    frozen: Recorder,
    /// What was reported.
    lines: Vec<String>,
}

/// Resumes from the newest checkpoint in `dir` and trains until `stop`, or to the end; returns the reports.
fn go_on(data: &Dataset, cnn: bool, rule: &str, dir: &Path, stop: Option<Point>) -> Vec<String> {
    let (rule, rate) = parse_rule(rule, None).unwrap();
    let steps = u64::from(EPOCHS) * data.train.len().div_ceil(BATCH) as u64;
    let schedule = Schedule::Cosine { warm_up: 5, steps };
    let config = OptimizerConfig { schedule, clip_norm: Some(2.0), ..OptimizerConfig::new(rule, rate) };
    let mut checkpoints = Checkpoints::open(dir.join("checkpoints"), Keep::default()).unwrap();
    let (order, found) = (rng(9), checkpoints.newest::<State>().unwrap());
    // Whatever a checkpoint does not bring back would be another's.
    let (params, model) = small_net(cnn, if found.is_some() { 1 } else { 7 });
    let mut optimizer = Optimizer::new(params.vars(), config).unwrap();
    let (mut epoch, mut state) = match found {
        Some(found) => {
            found.restore(&params, &mut optimizer).unwrap();
            (found.at.epoch, found.state)
        }
        None => {
            let (progress, live, frozen) = (Progress::with_windows(), Recorder::new(), Recorder::new());
            (0, State { order, progress, live, frozen, lines: Vec::new() })
        }
    };
    while epoch < EPOCHS {
        let mut next = state.order.clone();
        let batches = data.train.shuffled(&mut next, BATCH).skip(state.progress.batches() as usize);
        let until = stop.filter(|stop| stop.epoch == epoch).map_or(u64::MAX, |stop| stop.batch);
        let batches = batches.take((until - state.progress.batches()) as usize);
        let State { progress, live, .. } = &mut state;
        train_batches(&classify(&*model), &mut optimizer, batches, live, 9, progress).unwrap();
        if until < u64::MAX {
            checkpoints.save(stop.unwrap(), None, &params, &optimizer, &state).unwrap();
            return state.lines;
        }
        let line = |report: SplitReport, recorder: &mut Recorder| {
            let layers = serde_json::to_string(&recorder.finish()).unwrap();
            format!("{:?} {:?} {layers}", report.score, report.learning_rate)
        };
        let trained = line(state.progress.report(), &mut state.live);
        let tested =
            evaluate(&classify(&*model), Split::Test, data.test.batches(BATCH), &mut state.frozen).unwrap();
        state.lines.push(trained);
        state.lines.push(line(tested, &mut state.frozen));
        (state.order, state.progress, epoch) = (next, state.progress.next_epoch(), epoch + 1);
    }
    save_weights(&params, &dir.join("model.safetensors")).unwrap();
    checkpoints.save(Point { epoch, batch: 0 }, None, &params, &optimizer, &state).unwrap();
    state.lines
}

/// The weights, the optimiser's state, and the reports.
fn ended(data: &Dataset, cnn: bool, rule: &str, cuts: &[(u32, u64)]) -> (Vec<u8>, Vec<u8>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    for &(epoch, batch) in cuts {
        go_on(data, cnn, rule, dir.path(), Some(Point { epoch, batch }));
    }
    let lines = go_on(data, cnn, rule, dir.path(), None);
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    (read("model.safetensors"), read("checkpoints/epoch-5/optimizer.safetensors"), lines)
}

#[test]
fn five_epochs_cut_in_any_way_are_five_epochs_to_the_bit() {
    let data = digits().unwrap();
    // 500 samples are 11 batches of an epoch, the last of 20.
    let data = Dataset { train: data.train.clone().take(500), test: data.test.clone().take(100), ..data };
    for cnn in [false, true] {
        for rule in RULES {
            let whole = ended(&data, cnn, rule, &[]);
            assert_eq!(whole.2.len(), 2 * EPOCHS as usize);
            // After a batch; in an epoch; before its evaluation; at its end; twice in one epoch; at every one of these.
            let cuts: &[&[(u32, u64)]] = match rule {
                "adam" => &[
                    &[(0, 1)],
                    &[(2, 5)],
                    &[(1, 11)],
                    &[(3, 0)],
                    &[(2, 3), (2, 9)],
                    &[(0, 1), (0, 11), (1, 0), (1, 4), (2, 10), (4, 0), (4, 11)],
                ],
                _ => &[&[(0, 1), (2, 5), (2, 11), (4, 0)]],
            };
            for cut in cuts {
                let again = ended(&data, cnn, rule, cut);
                assert!(again == whole, "{rule}, cnn: {cnn}, cut at {cut:?}");
            }
        }
    }
}
