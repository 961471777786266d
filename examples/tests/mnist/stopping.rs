//! Runs that end early: on Ctrl-C, without a reader, because they diverge, or below a target.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{self, Ran};
use crate::{SMALL, bytes, directories, fail, lines, succeed, temp, weights};

/// Waits until the run has ended an epoch.
fn wait_for_an_epoch(run: &mut Child, metrics: &Path) {
    let start = Instant::now();
    while !fs::read_to_string(metrics).is_ok_and(|text| text.lines().count() >= 2) {
        assert!(start.elapsed() < Duration::from_secs(30), "no epoch in {}", metrics.display());
        assert!(run.try_wait().unwrap().is_none(), "ended early");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const STOPPED: &str = "stopped on request; the results so far are in long; continue with --resume long\n";

#[cfg(unix)]
#[test]
fn ctrl_c_ends_after_the_batch_and_writes_the_records() {
    let dir = temp();
    let dir = dir.path();
    let args = format!("{SMALL} --epochs 1000000 --out long").replace("--epochs 2 ", "");
    let mut child = common::mnist(dir, &args).spawn().unwrap();
    let run = dir.join("long/relu-dropout0-seed1");
    wait_for_an_epoch(&mut child, &run.join("metrics.jsonl"));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let start = Instant::now();
    // Read the output, or the program waits for a reader.
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!((ran.code, ran.err.as_str()), (Some(130), STOPPED));
    assert!(ran.out.contains("1 run on digits, mlp 64-16-8-10, "), "{}", ran.out);
    assert!(
        ran.out.contains("accuracy and loss on test"),
        "an epoch cut short hides those before: {}",
        ran.out
    );
    let metrics = lines(run.join("metrics.jsonl"));
    assert!(metrics.len() >= 2 && !lines(run.join("layers.jsonl")).is_empty());
    for line in metrics.iter().filter(|line| line["split"] == "test") {
        assert_eq!(line["samples"], 256, "a test pass that was cut short stands for the whole: {line}");
    }
    assert_eq!(weights(run.join("model.safetensors")).0.len(), 6);
    assert_eq!(directories(&dir.join("long")), 1, "no other run has begun");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_runs_side_by_side_and_no_other_begins() {
    let dir = temp();
    let dir = dir.path();
    let args = format!("{SMALL} --act relu,selu,tanh --dropout 0 --jobs 2 --out long");
    let args = args.replace("--epochs 2", "--epochs 1000000");
    let mut child = common::mnist(dir, &args).spawn().unwrap();
    for run in ["relu-dropout0-seed1", "selu-dropout0-seed1"] {
        wait_for_an_epoch(&mut child, &dir.join("long").join(run).join("metrics.jsonl"));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.err.as_str()), (Some(130), STOPPED));
    assert!(ran.out.contains("2 runs on digits"), "{}", ran.out);
    assert_eq!(directories(&dir.join("long")), 2);
    for run in ["relu-dropout0-seed1", "selu-dropout0-seed1"] {
        assert_eq!(weights(dir.join("long").join(run).join("model.safetensors")).0.len(), 6);
    }
}

#[test]
fn whoever_closes_standard_output_is_told_where_the_files_are() {
    let dir = temp();
    let args = format!("{SMALL} --dropout 0 --out run").replace("--epochs 2", "--epochs 1000000");
    let mut child = common::mnist(dir.path(), &args).spawn().unwrap();
    drop(child.stdout.take());
    let ran: Ran = child.wait_with_output().unwrap().into();
    let said = |out: &str| {
        format!("standard output was closed; the results so far are in {out}; continue with --resume {out}\n")
    };
    assert_eq!((ran.code, ran.err), (Some(1), said("run")));
    assert_eq!(weights(dir.path().join("run/model.safetensors")).0.len(), 6);

    let args = args.replace("--dropout 0 --out run", "--dropout 0,0.5 --jobs 2 --out grid");
    let mut child = common::mnist(dir.path(), &args).spawn().unwrap();
    drop(child.stdout.take());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.err), (Some(1), said("grid")));
}

#[test]
fn a_run_that_diverges_names_the_place_and_the_others_go_on() {
    let dir = temp();
    let dir = dir.path();
    let base = format!("{SMALL} --optimizer sgd --lr 1e6 --schedule constant --dropout 0");
    let says = ["relu-dropout0-seed1: loss is ", "epoch 1, batch ", "site", "a lower learning rate"];
    fail(dir, &format!("{base} --out one"), 1, &says);
    assert_eq!(weights(dir.join("one/model.safetensors")).0.len(), 6);
    assert!(dir.join("one/config.json").is_file());

    // Sigmoids cannot overflow, and neither can ten sums of them.
    let ran = fail(dir, &format!("{base} --act relu,sigmoid --out grid"), 1, &says);
    assert!(ran.out.contains("2 runs on digits"), "{}", ran.out);
    assert_eq!(lines(dir.join("grid/sigmoid-dropout0-seed1/metrics.jsonl")).len(), 5);

    let ran = fail(dir, &format!("{base} --act relu,sigmoid --jobs 2 --out beside"), 1, &says);
    assert!(ran.out.contains("2 runs on digits"), "{}", ran.out);
    for run in ["relu-dropout0-seed1", "sigmoid-dropout0-seed1"] {
        assert!(bytes(&dir.join("beside"), run) == bytes(&dir.join("grid"), run));
    }

    // Lost in the last step of all, where no training batch is left to notice.
    let last = "--dataset digits --limit 64 --batch-size 64 --epochs 1 --dropout 0 --optimizer sgd --lr 1e30";
    fail(dir, &format!("{last} --out last"), 1, &["epoch 1, batch 1", "site 'fc"]);
    assert_eq!(lines(dir.join("last/metrics.jsonl"))[2]["loss"], Value::Null);
}

#[test]
fn a_target_decides_about_the_exit_code() {
    let dir = temp();
    let ran =
        fail(dir.path(), &format!("{SMALL} --dropout 0 --target 100"), 1, &["digits accuracy", "100 %"]);
    assert!(ran.out.contains("1 run on digits"));
    succeed(dir.path(), &format!("{SMALL} --dropout 0 --target 1.5"));
}
