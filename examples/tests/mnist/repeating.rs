//! The same command gives the same bytes, alone, in a grid and with other runs beside it.

use std::collections::BTreeSet;

use crate::{SMALL, bytes, directories, lines, succeed, temp};

#[test]
fn the_same_command_gives_the_same_bytes_and_another_seed_does_not() {
    let dir = temp();
    let dir = dir.path();
    let run = |out: &str, more: &str| succeed(dir, &format!("{SMALL} --dropout 0.3 --out {out} {more}"));
    run("one", "");
    run("two", "");
    assert_eq!(bytes(dir, "one"), bytes(dir, "two"));
    let [metrics, _, model] = bytes(dir, "one");
    for track in ["counts", "off"] {
        run(track, &format!("--track {track}"));
        let [other_metrics, _, other_model] = bytes(dir, track);
        assert!(metrics == other_metrics && model == other_model, "watching changed the training");
    }
    run("other", "--seed 2");
    for (one, other) in bytes(dir, "one").iter().zip(bytes(dir, "other")) {
        assert_ne!(*one, other);
    }
}

#[test]
fn a_grid_has_a_directory_per_run_and_one_table() {
    let dir = temp();
    let dir = dir.path();
    let grid = "--act relu,selu --dropout 0,0.5 --seeds 2 --out grid";
    let out = succeed(dir, &format!("{SMALL} {grid} --quiet"));
    assert!(
        out.starts_with("8 runs on digits, mlp 64-16-8-10, 2 epochs; accuracy and loss on test\n"),
        "{out}"
    );
    assert!(out.contains("over seeds: mean ± sample standard deviation of n runs"), "{out}");
    assert!(out.lines().filter(|line| line.contains('±')).count() > 4, "{out}");
    for column in
        ["act", "dropout", "best", "loss", "seconds", "samples/s", "tracking", "zeros", "dead", "skew"]
    {
        assert!(out.contains(column), "{column} in\n{out}");
    }
    let mut models = BTreeSet::new();
    for act in ["relu", "selu"] {
        for dropout in ["0", "0.5"] {
            for seed in [1, 2] {
                let run = format!("grid/{act}-dropout{dropout}-seed{seed}");
                assert_eq!(lines(dir.join(&run).join("metrics.jsonl")).len(), 5);
                models.insert(bytes(dir, &run)[2].clone());
            }
        }
    }
    assert_eq!((models.len(), directories(&dir.join("grid"))), (8, 8));
    // A run of a grid is the same run as one by itself.
    succeed(dir, &format!("{SMALL} --act selu --dropout 0.5 --seed 2 --out alone"));
    assert_eq!(bytes(dir, "alone"), bytes(dir, "grid/selu-dropout0.5-seed2"));
}

#[test]
fn runs_side_by_side_are_the_same_runs_in_the_same_order() {
    let dir = temp();
    let dir = dir.path();
    // Large enough that one run by itself shares its work among threads.
    let grid = "--dataset digits --limit 512 --widths 512,256 --epochs 2 --act relu,selu --dropout 0.2,0.5";
    let threads = ["--threads 2", "--jobs 1", "--jobs 2", "--jobs 4 --threads 1"];
    let mut printed = threads.iter().enumerate().map(|(i, jobs)| {
        let out = succeed(dir, &format!("{grid} {jobs} --out {i}"));
        let name = |line: &str| line.split_once(": mlp ").map(|(name, _)| name.to_string());
        let epochs = out.lines().filter(|line| line.trim_start().get(1..5) == Some("/2  ")).count();
        let all = out.lines().find(|line| line.contains("samples/s of training in all"));
        assert!(all.is_some_and(|line| line.starts_with("4 runs in ")), "{out}");
        (out.lines().filter_map(name).collect::<Vec<_>>(), epochs)
    });
    let runs =
        ["relu-dropout0.2-seed1", "relu-dropout0.5-seed1", "selu-dropout0.2-seed1", "selu-dropout0.5-seed1"];
    let expected = (runs.map(str::to_string).to_vec(), 12);
    assert!(printed.all(|printed| printed == expected));
    for run in runs {
        for (i, jobs) in threads.iter().enumerate() {
            assert!(bytes(&dir.join(i.to_string()), run) == bytes(&dir.join("0"), run), "{run} {jobs}");
        }
    }
}

#[test]
fn the_largest_seed_still_gives_as_many_runs_as_asked_for() {
    let dir = temp();
    succeed(dir.path(), &format!("{SMALL} --dropout 0 --seed {} --seeds 2 --out x --quiet", u64::MAX));
    assert_eq!(directories(&dir.path().join("x")), 2);
}

#[test]
fn loaded_weights_are_where_the_training_starts() {
    let dir = temp();
    let dir = dir.path();
    let base = "--dataset digits --widths 64 --batch-size 32 --dropout 0";
    succeed(dir, &format!("{base} --epochs 12 --lr 0.003 --out first"));
    succeed(dir, &format!("{base} --epochs 1 --lr 0 --load first/model.safetensors --out second"));
    let (first, second) = (lines(dir.join("first/metrics.jsonl")), lines(dir.join("second/metrics.jsonl")));
    // At a learning rate of 0 the weights do not change, so the test loss has the same bits.
    assert_eq!([&second[0]["loss"], &second[2]["loss"]], [&first[24]["loss"]; 2]);
    assert!(first[1]["metrics"]["accuracy"].as_f64() < second[1]["metrics"]["accuracy"].as_f64());
    assert!(second[1]["metrics"]["accuracy"].as_f64().is_some_and(|x| x > 0.95));
    assert_eq!(bytes(dir, "first")[2], bytes(dir, "second")[2]);
}
