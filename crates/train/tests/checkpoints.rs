//! Checkpoints are complete or absent, report their errors, and restore the saved state.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use candle_core::Device;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use taper_data::digits;
use taper_hooks::{Recorder, Rng, rng};
use taper_nn::{Mlp, MlpConfig, Params};
use taper_train::{
    Checkpoint, Checkpoints, Error, Keep, Optimizer, OptimizerConfig, Point, Progress, Rule, classify,
    parse_rule, train_batches, train_epoch,
};

const FILES: [&str; 4] = ["SHA256SUMS", "model.safetensors", "optimizer.safetensors", "state.json"];

type State = (Rng, Recorder);

fn net(seed: u64, width: usize) -> (Params, Mlp) {
    let params = Params::new(seed, &Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![width], ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap();
    (params, net)
}

fn optimizer(params: &Params, rule: &str) -> Optimizer {
    let (rule, rate) = parse_rule(rule, None).unwrap();
    Optimizer::new(params.vars(), OptimizerConfig::new(rule, rate)).unwrap()
}

fn bits(params: &Params) -> Vec<u32> {
    let values = |v: &candle_core::Var| v.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    params.vars().iter().flat_map(|(_, v)| values(v)).map(f32::to_bits).collect()
}

fn at(epoch: u32, batch: u64) -> Point {
    Point { epoch, batch }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Trains over some batches and saves, for every point.
fn saved(dir: &Path, keep: &str, points: &[(Point, Option<f64>)]) -> (Params, Optimizer) {
    let data = digits().unwrap();
    let (params, net) = net(1, 8);
    let (mut optimizer, mut rng, mut recorder) = (optimizer(&params, "adam"), rng(2), Recorder::new());
    let mut checkpoints = Checkpoints::open(dir, keep.parse().unwrap()).unwrap();
    let mut progress = Progress::default();
    for (point, rank) in points {
        let batches = data.train.shuffled(&mut rng, 32).take(3);
        train_batches(&classify(&net), &mut optimizer, batches, &mut recorder, 1, &mut progress).unwrap();
        let state = (&rng, &recorder);
        let path = checkpoints.save(*point, *rank, &params, &optimizer, &state).unwrap();
        assert_eq!(path, dir.join(point.to_string()));
    }
    (params, optimizer)
}

fn newest(dir: &Path) -> Checkpoint<State> {
    Checkpoints::open(dir, Keep::default()).unwrap().newest().unwrap().unwrap()
}

#[track_caller]
fn one_line(error: &Error, says: &[&str]) {
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    for say in says {
        assert!(text.contains(say), "expected '{say}' in: {text}");
    }
}

#[test]
fn a_checkpoint_has_the_files_that_are_documented_and_brings_everything_back() {
    let run = tempfile::tempdir().unwrap();
    let dir = run.path().join("checkpoints");
    let (params, before) = saved(&dir, "last:1", &[(at(0, 3), None), (at(1, 0), Some(0.5))]);
    assert_eq!(names(&dir), ["epoch-1"]);
    assert_eq!(names(&dir.join("epoch-1")), FILES);

    let (other, _) = net(9, 8);
    let mut after = optimizer(&other, "adam");
    let found = newest(&dir);
    assert_eq!((found.at, found.taper.as_str()), (at(1, 0), env!("CARGO_PKG_VERSION")));
    found.restore(&other, &mut after).unwrap();
    assert_eq!((bits(&other), after.steps()), (bits(&params), 6));
    let text = |optimizer: &Optimizer| format!("{:?}", optimizer.state().unwrap().tensors);
    assert_eq!(text(&after), text(&before));
    assert_eq!(fs::read(dir.join("epoch-1/model.safetensors")).unwrap(), found.model());

    // What coreutils say about the checksums.
    let mut check = std::process::Command::new("sha256sum");
    match check.args(["-c", "--quiet", "SHA256SUMS"]).current_dir(dir.join("epoch-1")).status() {
        Ok(status) => assert!(status.success()),
        Err(_) => println!("skipped: no sha256sum"),
    }
}

#[test]
fn every_rule_is_saved_also_one_that_remembers_nothing() {
    for rule in ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "adadelta"] {
        let run = tempfile::tempdir().unwrap();
        let data = digits().unwrap();
        let (params, net) = net(1, 8);
        let mut first = optimizer(&params, rule);
        train_epoch(&classify(&net), &mut first, data.train.batches(300), &mut (), 1).unwrap();
        let mut checkpoints = Checkpoints::open(run.path().join("c"), Keep::default()).unwrap();
        checkpoints.save(at(1, 0), None, &params, &first, &()).unwrap();
        let mut second = optimizer(&params, rule);
        let found = checkpoints.newest::<()>().unwrap().unwrap();
        found.restore(&params, &mut second).unwrap();
        let text = |optimizer: &Optimizer| format!("{:?}", optimizer.state().unwrap().tensors);
        assert_eq!((text(&first), second.steps()), (text(&second), 5), "{rule}");
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_and_changes_nothing() {
    let run = tempfile::tempdir().unwrap();
    let dir = run.path().join("checkpoints");
    saved(&dir, "last:1", &[(at(1, 0), None)]);
    let found = newest(&dir);
    for (width, rule, says) in [
        (9, "adam", ["model.safetensors", "expected shape [9, 64], found [8, 64]"]),
        (8, "sgd", ["optimizer.safetensors", "expected 0 tensors"]),
        (8, "adadelta", ["optimizer.safetensors", "is missing"]),
    ] {
        let (params, _) = net(5, width);
        let mut optimizer = optimizer(&params, rule);
        let before = bits(&params);
        one_line(&found.restore(&params, &mut optimizer).unwrap_err(), &says);
        assert_eq!((bits(&params), optimizer.steps()), (before, 0));
    }
}

#[test]
fn what_is_kept_is_what_was_asked_for_also_after_a_restart() {
    let points = [(1, 0.5), (2, 0.9), (3, 0.7), (4, 0.8)].map(|(epoch, x)| (at(epoch, 0), Some(x)));
    let run = tempfile::tempdir().unwrap();
    let dir = run.path().join("checkpoints");
    saved(&dir, "last:2,best:1", &points);
    assert_eq!(names(&dir), ["epoch-2", "epoch-3", "epoch-4"]);
    saved(&dir, "last:1,best:1", &[(at(4, 7), None)]);
    assert_eq!(names(&dir), ["epoch-2", "epoch-4-batch-7"], "the best is known from the files");
}

#[test]
fn incomplete_directories_are_removed_and_foreign_ones_stay() {
    let run = tempfile::tempdir().unwrap();
    let dir = run.path().join("checkpoints");
    saved(&dir, "last:1", &[(at(1, 0), None)]);
    for left in ["epoch-2.part", "epoch-1-batch-5.part", "notes.part", "epoch-01", "epoch-x"] {
        fs::create_dir(dir.join(left)).unwrap();
        fs::write(dir.join(left).join("model.safetensors"), "half").unwrap();
    }
    fs::write(dir.join("notes"), "mine").unwrap();
    assert_eq!(newest(&dir).at, at(1, 0));
    assert_eq!(names(&dir), ["epoch-01", "epoch-1", "epoch-x", "notes", "notes.part"]);
}

#[test]
fn a_checkpoint_that_is_torn_or_changed_is_passed_over_with_a_word_about_it() {
    let points = [(at(1, 0), None), (at(1, 9), None), (at(2, 0), None)];
    for name in FILES {
        for (what, says) in
            [("torn", "truncated or changed"), ("changed", "truncated or changed"), ("gone", "cannot read")]
        {
            let run = tempfile::tempdir().unwrap();
            let dir = run.path().join("checkpoints");
            saved(&dir, "last:3", &points);
            let path = dir.join("epoch-2").join(name);
            let mut bytes = fs::read(&path).unwrap();
            match what {
                "torn" => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                "changed" => {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    fs::write(&path, &bytes).unwrap();
                }
                _ => fs::remove_file(&path).unwrap(),
            }
            let mut checkpoints = Checkpoints::open(&dir, "last:1".parse().unwrap()).unwrap();
            let found = checkpoints.newest::<State>().unwrap().unwrap();
            assert_eq!((found.at, found.passed_over.len()), (at(1, 9), 1), "{name} is {what}");
            let says = if name == "SHA256SUMS" && what != "gone" { "" } else { says };
            one_line(&found.passed_over[0], &["epoch-2", says]);
            // Going on removes neither the one that is whole, nor stumbles over the one that is not.
            let (params, _) = net(1, 8);
            let optimizer = optimizer(&params, "adam");
            checkpoints.save(at(1, 10), None, &params, &optimizer, &found.state).unwrap();
            assert_eq!(newest(&dir).at, at(1, 10));
            checkpoints.save(at(2, 0), None, &params, &optimizer, &found.state).unwrap();
            assert!(newest(&dir).passed_over.is_empty(), "it was replaced");
        }
    }
}

#[test]
fn where_none_is_whole_the_newest_says_why() {
    let run = tempfile::tempdir().unwrap();
    let dir = run.path().join("checkpoints");
    assert!(Checkpoints::open(&dir, Keep::default()).unwrap().newest::<State>().unwrap().is_none());
    saved(&dir, "last:2", &[(at(1, 0), None), (at(2, 0), None)]);
    fs::write(dir.join("epoch-1/state.json"), "{}").unwrap();
    fs::write(dir.join("epoch-2/model.safetensors"), "").unwrap();
    let error = Checkpoints::open(&dir, Keep::default()).unwrap().newest::<State>().unwrap_err();
    one_line(&error, &["epoch-2/model.safetensors", "truncated or changed"]);
}

#[test]
fn a_directory_that_is_gone_or_in_the_way_is_one_line_and_leaves_nothing() {
    let run = tempfile::tempdir().unwrap();
    let (params, _) = net(1, 8);
    let optimizer = optimizer(&params, "sgd");
    let save = |dir: &Path| {
        let mut checkpoints = Checkpoints::open(dir, Keep::default())?;
        checkpoints.save(at(1, 0), None, &params, &optimizer, &())
    };
    one_line(&save(&run.path().join("gone/checkpoints")).unwrap_err(), &["gone/checkpoints", "cannot make"]);
    assert!(!run.path().join("gone").exists(), "a directory that was removed does not come back");
    fs::write(run.path().join("file"), "").unwrap();
    one_line(&save(&run.path().join("file")).unwrap_err(), &["file"]);
    // Something that cannot be replaced is where it has to go.
    let dir = run.path().join("checkpoints");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("epoch-1"), "a file").unwrap();
    one_line(&save(&dir).unwrap_err(), &["epoch-1", "cannot remove"]);
    assert_eq!(names(&dir), ["epoch-1"]);
}

#[test]
fn another_format_is_named_and_not_guessed_at() {
    let run = tempfile::tempdir().unwrap();
    let dir = run.path().join("checkpoints");
    saved(&dir, "last:1", &[(at(1, 0), None)]);
    for (from, to, cure) in [(3, 4, "read it with a newer taper"), (4, 1, "train it again")] {
        let version = |v: u32| format!("{{\"v\":{v},");
        rewrite(&dir.join("epoch-1"), |text| text.replacen(&version(from), &version(to), 1));
        let error = Checkpoint::<State>::read(dir.join("epoch-1")).unwrap_err();
        one_line(&error, &["state.json", &format!("expected format version 3, found {to}: {cure}")]);
    }
    // One that was renamed.
    rewrite(&dir.join("epoch-1"), |text| text.replacen("{\"v\":1,", "{\"v\":3,", 1));
    fs::rename(dir.join("epoch-1"), dir.join("epoch-7")).unwrap();
    one_line(
        &Checkpoint::<State>::read(dir.join("epoch-7")).unwrap_err(),
        &["expected epoch-7", "found epoch-1"],
    );
}

/// Changes `state.json` and its checksum.
fn rewrite(checkpoint: &Path, change: impl Fn(String) -> String) {
    use sha2::{Digest, Sha256};
    let path = checkpoint.join("state.json");
    let text = change(fs::read_to_string(&path).unwrap());
    let sum: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(path, text).unwrap();
    let sums = fs::read_to_string(checkpoint.join("SHA256SUMS")).unwrap();
    let others = sums.lines().filter(|line| !line.ends_with("state.json")).map(|line| format!("{line}\n"));
    fs::write(checkpoint.join("SHA256SUMS"), others.collect::<String>() + &format!("{sum}  state.json\n"))
        .unwrap();
}

proptest! {
    #![proptest_config(Config { cases: 300, failure_persistence: None, rng_seed: RngSeed::Fixed(3), ..Config::default() })]

    /// Any content of `state.json`, with a correct checksum, gives a result or an error, and no panic.
    #[test]
    fn a_state_of_any_bytes_is_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..80), at in 0_usize..4000) {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("checkpoints");
        saved(&dir, "last:1", &[(Point { epoch: 1, batch: 0 }, None)]);
        rewrite(&dir.join("epoch-1"), |text| {
            let (mut text, bytes) = (text.into_bytes(), bytes.iter().map(|b| b % 96 + 32));
            let at = at % text.len();
            let end = (at + bytes.len()).min(text.len());
            text.splice(at..end, bytes);
            String::from_utf8(text).unwrap()
        });
        if let Ok(mut found) = Checkpoint::<State>::read(dir.join("epoch-1")) {
            found.state.1.finish();
        }
    }
}

#[test]
fn rules_are_distinguished_by_their_slots() {
    // RMSprop and momentum remember as much, under other names.
    let run = tempfile::tempdir().unwrap();
    let (params, _) = net(1, 8);
    let mut checkpoints = Checkpoints::open(run.path().join("c"), Keep::default()).unwrap();
    checkpoints.save(at(1, 0), None, &params, &optimizer(&params, "momentum"), &()).unwrap();
    let mut other = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::RMSPROP, 0.1)).unwrap();
    let found = checkpoints.newest::<()>().unwrap().unwrap();
    one_line(&found.restore(&params, &mut other).unwrap_err(), &["optimizer.safetensors", "is missing"]);
}
