//! `--alert` and `--on-nonfinite` of the example `mnist`, as a script that watches a training sees them.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use serde_json::Value;

const SMALL: &str =
    "--dataset digits --limit 256 --widths 16,8 --batch-size 32 --threads 1 --dropout 0 --quiet";

fn mnist(dir: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = common::mnist(dir, SMALL);
    command.args(more);
    let ran = common::run(command);
    (ran.code, ran.err)
}

fn lines(path: impl AsRef<Path>) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_alert_ends_the_run_with_exit_code_3_after_its_epoch_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let rules =
        ["--epochs", "3", "--out", "run", "--alert", "fc2.dead>99", "--alert", "train:fc1.units >= 16"];
    let (code, err) = mnist(dir, &rules);
    let expected =
        "error: relu-dropout0-seed1: alert 'train:fc1.units >= 16' in epoch 1: train:fc1.units is 16\n";
    assert_eq!((code, err.as_str()), (Some(3), expected));
    let metrics = lines(dir.join("run/metrics.jsonl"));
    assert_eq!((metrics.len(), &metrics[2]["epoch"], &metrics[2]["split"]), (3, &1.into(), &"test".into()));
    assert_eq!(lines(dir.join("run/layers.jsonl")).len(), 6);
    assert!(dir.join("run/model.safetensors").is_file() && dir.join("run/report.html").is_file());
}

#[test]
fn an_alert_that_does_not_fire_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let alerts = ["--alert", "*.dead_fraction>1", "--alert", "test.loss>9", "--alert", "fc1.skewness>99"];
    assert_eq!(mnist(dir, &["--epochs", "2", "--out", "plain"]), (Some(0), String::new()));
    let watched = [&["--epochs", "2", "--out", "watched"][..], &alerts].concat();
    assert_eq!(mnist(dir, &watched), (Some(0), String::new()));
    for file in ["metrics.jsonl", "layers.jsonl", "model.safetensors"] {
        let read = |run: &str| fs::read(dir.join(run).join(file)).unwrap();
        assert_eq!(read("plain"), read("watched"), "{file}");
    }
}

#[test]
fn a_run_ended_by_an_alert_resumes_with_another_alert_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(mnist(dir, &["--epochs", "3", "--out", "plain"]), (Some(0), String::new()));
    assert_eq!(mnist(dir, &["--epochs", "3", "--out", "run", "--alert", "fc1.units>15"]).0, Some(3));
    assert_eq!(lines(dir.join("run/metrics.jsonl")).len(), 3);
    assert_eq!(mnist(dir, &["--resume", "run", "--alert", "fc1.units>16"]), (Some(0), String::new()));
    for file in ["metrics.jsonl", "layers.jsonl", "model.safetensors"] {
        let read = |run: &str| fs::read(dir.join(run).join(file)).unwrap();
        assert_eq!(read("plain"), read("run"), "{file}");
    }
}

#[test]
fn the_other_runs_of_a_grid_continue() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (code, err) = mnist(
        dir,
        &["--epochs", "1", "--act", "relu,tanh", "--out", "grid", "--alert", "*.zero_fraction>0.1"],
    );
    assert_eq!(code, Some(3));
    assert!(
        err.starts_with("error: relu-dropout0-seed1: alert '*.zero_fraction>0.1' in epoch 1: test:fc1"),
        "{err}"
    );
    assert_eq!(err.lines().count(), 1);
    assert_eq!(lines(dir.join("grid/tanh-dropout0-seed1/metrics.jsonl")).len(), 3);
}

#[test]
fn an_alert_that_could_never_fire_is_wrong_usage_and_nothing_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (more, says) in [
        (&["--alert", "fc9.dead>0"][..], "unknown site 'fc9': the sites are fc1, fc2"),
        (&["--alert", "fc1.ded>0"], "unknown statistic 'ded': the statistics are zero_fraction, dead"),
        (&["--alert", "test.los>0"], "unknown metric 'los' of a split: the metrics are accuracy, loss"),
        (&["--alert", "fc1.dead=0"], "expected [SPLIT:]SITE.STATISTIC OP NUMBER"),
        (&["--alert", "fc1.dead>0", "--track", "off"], "could never fire"),
        (&["--alert", "fc1.skewness>0", "--track", "counts"], "could never fire"),
        (&["--alert", "validation.loss>0"], "could never fire"),
        (&["--on-nonfinite", "ignore"], "expected stop, skip or continue, found 'ignore'"),
    ] {
        let (code, err) = mnist(dir, more);
        assert_eq!((code, err.lines().count()), (Some(2), 1), "{more:?}: {err}");
        assert!(err.starts_with("error: ") && err.contains(says), "{more:?}: {err}");
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "something was written");
}

#[test]
fn a_run_that_diverges_stops_skips_steps_or_continues() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let run = |what: &str| {
        let diverge =
            ["--optimizer", "sgd", "--lr", "1e38", "--epochs", "2", "--on-nonfinite", what, "--out", what];
        let (code, err) = mnist(dir, &diverge);
        (code, err, lines(dir.join(what).join("metrics.jsonl")))
    };
    let (code, err, metrics) = run("stop");
    assert_eq!((code, err.lines().count(), metrics.len()), (Some(1), 1, 1), "{err}");
    assert_eq!(metrics[0]["epoch"], 0, "the untrained network");
    assert!(err.contains("epoch 1, batch "), "{err}");
    for (what, skips) in [("skip", true), ("continue", false)] {
        let (code, err, metrics) = run(what);
        assert_eq!((code, err.as_str(), metrics.len()), (Some(0), "", 5));
        // The first of eight batches is finite, but its update makes the weights non-finite.
        let train = &metrics[3]["nonfinite"];
        assert_eq!((&train["batches"], &train["skipped"]), (&8.into(), &(if skips { 8 } else { 0 }).into()));
        assert!(train["first"]["batch"] == 1 && !train["first"]["place"].is_null(), "{train}");
        assert!(metrics[3]["loss"].is_null() && metrics[4]["nonfinite"]["batches"].as_u64() > Some(0));
    }
}
