//! The example `mnist` as a program: its output, its files, and its errors.
//!
//! Every test runs in a directory of its own with nothing of the user's: no cache, no data, no network.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use tempfile::TempDir;

/// Digits, few and in a small network: a run takes a few hundredths of a second.
const SMALL: &str = "--dataset digits --limit 256 --widths 16,8 --batch-size 32 --threads 1 --epochs 2";

/// The program, which `cargo test` builds.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let name = format!("mnist{}", std::env::consts::EXE_SUFFIX);
    let path = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is not there: run `cargo build --examples` first", path.display());
    path
}

/// The program with these arguments, at home in `dir`.
fn command(dir: &Path, args: &str) -> Command {
    let mut command = Command::new(program());
    command.args(args.split_whitespace()).current_dir(dir).env("HOME", dir).env("XDG_CACHE_HOME", dir);
    for name in ["TAPER_DATA", "RUST_LOG", "NO_COLOR", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    // Nothing listens there: a download fails at once, with a network and without.
    command.env("ALL_PROXY", "http://127.0.0.1:9").env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn mnist(dir: &Path, args: &str) -> Ran {
    command(dir, args).output().unwrap().into()
}

/// Runs it and expects success, with nothing to complain about.
fn succeed(dir: &Path, args: &str) -> String {
    let ran = mnist(dir, args);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args}\n{}", ran.out);
    ran.out
}

/// Runs it and expects one line on standard error that starts with `error: ` and has all of `says`.
#[track_caller]
fn fail(dir: &Path, args: &str, code: i32, says: &[&str]) -> Ran {
    let ran = mnist(dir, args);
    let one_line = ran.err.starts_with("error: ") && ran.err.trim_end().lines().count() == 1;
    assert!(ran.code == Some(code) && one_line, "{args}: exit code {:?}\n{}", ran.code, ran.err);
    for say in says {
        assert!(ran.err.contains(say), "{args}: expected '{say}' in\n{}", ran.err);
    }
    ran
}

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn lines(path: impl AsRef<Path>) -> Vec<Value> {
    let text = fs::read_to_string(path.as_ref()).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// `(epoch, split)` of every line, in order.
fn order(lines: &[Value]) -> Vec<(u64, &str)> {
    lines.iter().map(|line| (line["epoch"].as_u64().unwrap(), line["split"].as_str().unwrap())).collect()
}

/// A tensor's name, type and shape.
type Described = (String, Dtype, Vec<usize>);

/// The tensors of a weights file by name, and the format that its metadata names.
fn weights(path: impl AsRef<Path>) -> (Vec<Described>, Option<String>) {
    let bytes = fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> =
        file.iter().map(|(name, t)| (name.to_string(), t.dtype(), t.shape().to_vec())).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    (tensors, header.metadata().as_ref().and_then(|of| of.get("format").cloned()))
}

/// How many runs a grid's directory holds.
fn directories(grid: &Path) -> usize {
    fs::read_dir(grid).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

/// Everything in a run's directory that must be the same for the same seed.
fn bytes(dir: &Path, run: &str) -> [Vec<u8>; 3] {
    ["metrics.jsonl", "layers.jsonl", "model.safetensors"]
        .map(|name| fs::read(dir.join(run).join(name)).unwrap())
}

#[test]
fn a_run_leaves_everything_that_is_documented() {
    let dir = temp();
    let dir = dir.path();
    succeed(dir, &format!("{SMALL} --act selu --dropout 0.1 --validation 64 --out one"));
    let run = dir.join("one");
    let names: BTreeSet<_> =
        fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    // TensorBoard's files carry a time in their names, and lie in a directory per split.
    let (events, names): (BTreeSet<_>, BTreeSet<_>) =
        names.into_iter().partition(|name| name.starts_with("events.out.tfevents."));
    let records =
        ["config.json", "layers.jsonl", "metrics.jsonl", "steps.jsonl", "timing.jsonl", "warnings.jsonl"];
    let others =
        ["checkpoints", "lock", "model.safetensors", "report.html", "steps", "test", "train", "validation"];
    let expected = records.into_iter().chain(others);
    assert_eq!(names, expected.map(str::to_string).collect());
    assert_eq!(events.len(), 1);

    let splits = ["train", "validation", "test"];
    let expected = [0, 1, 2].into_iter().flat_map(|epoch| splits.map(|split| (epoch, split)));
    // Nothing is trained in epoch 0.
    let expected: Vec<_> = expected.skip(1).collect();
    let metrics = lines(run.join("metrics.jsonl"));
    assert_eq!(order(&metrics), expected);
    let head = ["v", "run", "labels", "seed", "epoch", "split"];
    for (line, samples) in metrics.iter().zip([192, 64, 256].iter().cycle().skip(1)) {
        let fields = ["loss", "samples", "metrics", "kinds", "learning_rate"];
        assert_eq!(keys(line), head.iter().chain(&fields).copied().collect());
        assert_eq!((line["v"].as_u64(), line["samples"].as_u64()), (Some(2), Some(*samples)));
        assert!(line["loss"].as_f64().is_some_and(|x| x > 0.0 && x < 10.0));
        assert!(line["metrics"]["accuracy"].as_f64().is_some_and(|x| (0.0..=1.0).contains(&x)));
        assert_eq!(line["learning_rate"].is_number(), line["split"] == "train");
    }
    let timing = lines(run.join("timing.jsonl"));
    assert_eq!(order(&timing), expected);
    for line in &timing {
        let fields = ["seconds", "samples_per_second", "tracking_fraction"];
        assert_eq!(keys(line), head.iter().chain(&fields).copied().collect());
        assert!(line["tracking_fraction"].as_f64().is_some_and(|x| x > 0.0 && x < 1.0));
    }
    let layers = lines(run.join("layers.jsonl"));
    assert_eq!(order(&layers), expected.iter().flat_map(|at| [*at, *at]).collect::<Vec<_>>());
    for (line, (site, units)) in layers.iter().zip([("fc1", 16), ("fc2", 8)].iter().cycle()) {
        assert_eq!((line["site"].as_str(), line["units"].as_u64()), (Some(*site), Some(*units)));
        assert_eq!((line["v"].as_u64(), line["activation"].as_str()), (Some(2), Some("selu")));
        for name in ["values", "zeros", "dead", "dormant_0_025", "mean", "variance", "skewness"] {
            assert!(line[name].is_number(), "{name} in {line}");
        }
        for name in ["histogram", "quantiles", "firing_rate", "active_per_sample", "dead_units"] {
            assert!(!line[name].is_null(), "{name} in {line}");
        }
    }

    let config: Value = serde_json::from_slice(&fs::read(run.join("config.json")).unwrap()).unwrap();
    for (name, expected) in [
        ("v", Value::from(2)),
        ("name", "selu-dropout0.1-seed1".into()),
        ("dataset", "digits".into()),
        ("model", "mlp 64-16-8-10".into()),
        ("labels", serde_json::json!({ "act": "selu", "dropout": 0.1 })),
        ("loss", "mean cross-entropy per sample, in nats".into()),
        ("seed", 1.into()),
        ("epochs", 2.into()),
    ] {
        assert_eq!(config[name], expected, "{name}");
    }
    let rest = &config["config"];
    assert_eq!(
        (&rest["batch_size"], &rest["validation"], &rest["threads"]),
        (&32.into(), &64.into(), &1.into())
    );
    for name in ["command", "optimizer", "learning_rate", "schedule", "scale", "data", "taper", "candle"] {
        assert!(!rest[name].is_null(), "{name} in {rest}");
    }
    // The options are there as values.
    let expected = [("act", Value::from("selu")), ("dropout", 0.1.into()), ("widths", [16, 8].into())];
    assert!(expected.iter().all(|(name, value)| rest[name] == *value), "{rest}");
    assert_eq!(rest["running"]["out"], "one");

    let (tensors, format) = weights(run.join("model.safetensors"));
    let expected: [(&str, &[usize]); 6] = [
        ("fc1.bias", &[16]),
        ("fc1.weight", &[16, 64]),
        ("fc2.bias", &[8]),
        ("fc2.weight", &[8, 16]),
        ("fc3.bias", &[10]),
        ("fc3.weight", &[10, 8]),
    ];
    assert_eq!(tensors, expected.map(|(name, shape)| (name.to_string(), Dtype::F32, shape.to_vec())));
    assert_eq!(format.as_deref(), Some("pt"));
}

#[test]
fn a_cnn_and_softmax_regression_are_named_as_in_pytorch() {
    let dir = temp();
    let small = "--dataset digits --limit 64 --batch-size 32 --epochs 1 --dropout 0";
    succeed(dir.path(), &format!("{small} --model cnn --channels 2,3 --widths 5 --out cnn"));
    succeed(dir.path(), &format!("{small} --model linear --out linear"));
    let names = |run: &str| -> Vec<String> {
        weights(dir.path().join(run).join("model.safetensors")).0.into_iter().map(|of| of.0).collect()
    };
    let layers = ["conv1", "conv2", "fc1", "fc2"];
    let expected: Vec<_> = layers.iter().flat_map(|l| [format!("{l}.bias"), format!("{l}.weight")]).collect();
    assert_eq!(names("cnn"), expected);
    assert_eq!(names("linear"), ["fc1.bias", "fc1.weight"]);
}

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
fn counts_are_those_of_a_full_recording_and_off_records_nothing() {
    let dir = temp();
    let dir = dir.path();
    let recorded = |track: &str| {
        let out = succeed(dir, &format!("{SMALL} --dropout 0 --track {track} --out {track}"));
        assert!(out.contains("1 run on digits"), "{out}");
        (lines(dir.join(track).join("layers.jsonl")), out.contains("dormant"))
    };
    let ((full, full_table), (counts, counts_table), (off, off_table)) =
        (recorded("full"), recorded("counts"), recorded("off"));
    assert_eq!((full.len(), counts.len(), off.len()), (10, 10, 0));
    assert!(full_table && counts_table && !off_table);
    for (full, counts) in full.iter().zip(&counts) {
        for name in ["epoch", "split", "site", "values", "zeros", "dead", "dormant_0_025", "dead_units"] {
            assert!(!counts[name].is_null() && counts[name] == full[name], "{name}");
        }
        for name in ["mean", "skewness", "histogram", "quantiles", "active_per_sample"] {
            assert!(counts[name].is_null() && !full[name].is_null(), "{name}");
        }
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

#[test]
fn a_target_decides_about_the_exit_code() {
    let dir = temp();
    let ran =
        fail(dir.path(), &format!("{SMALL} --dropout 0 --target 100"), 1, &["digits accuracy", "100 %"]);
    assert!(ran.out.contains("1 run on digits"));
    succeed(dir.path(), &format!("{SMALL} --dropout 0 --target 1.5"));
}

#[test]
fn piped_output_is_plain_text_and_quiet_prints_only_the_comparison() {
    let dir = temp();
    let out = succeed(dir.path(), &format!("{SMALL} --out one"));
    assert!(
        !out.contains(['\x1b', '\r']) && out.contains("\n  2/2  ") && out.contains("written to one"),
        "{out}"
    );
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let tables = |out: &str| out.matches("  test  act   zeros  train").count();
    // One for each run, or for each epoch after epoch 0.
    assert_eq!((tables(&out), tables(&succeed(dir.path(), &format!("{SMALL} --verbose")))), (2, 4));
    let quiet = succeed(dir.path(), &format!("{SMALL} --quiet"));
    assert!(quiet.starts_with("2 runs on digits") && !quiet.contains("written"), "{quiet}");
}

#[test]
fn at_debug_level_the_first_batch_says_when_it_came() {
    let dir = temp();
    let args = format!("{SMALL} --dropout 0,0.5 --quiet");
    let ran: Ran =
        command(dir.path(), &args).env("RUST_LOG", "taper_experiment=debug").output().unwrap().into();
    let seconds = ran.err.trim().strip_prefix("DEBUG first batch seconds=");
    let seconds: Option<f64> = seconds.and_then(|text| text.parse().ok());
    assert!(seconds.is_some_and(|x| x > 0.0 && x < 10.0), "one line for all runs, not\n{}", ran.err);
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_gets_bars_and_no_colours_where_they_are_unwanted() {
    let dir = temp();
    let on_a_terminal = |no_color: &str| {
        let line = format!("{} {SMALL}", program().display());
        let mut script = command(dir.path(), "");
        let mut on = Command::new("script");
        on.args(["-qec", &line, "/dev/null"]).current_dir(dir.path()).stdin(Stdio::null());
        script.get_envs().for_each(|(name, value)| {
            value.map(|value| on.env(name, value));
        });
        script.env_clear();
        on.env("NO_COLOR", no_color).env("TERM", "xterm").output().ok().map(Ran::from)
    };
    let (Some(coloured), Some(plain)) = (on_a_terminal(""), on_a_terminal("1")) else {
        println!("skipped: no program `script` to make a terminal");
        return;
    };
    assert_eq!((coloured.code, plain.code), (Some(0), Some(0)));
    assert!(coloured.out.contains("\x1b[1m"), "titles are bold on a terminal");
    assert!(!plain.out.contains("\x1b[1m") && !plain.out.contains("\x1b[2m"), "NO_COLOR is set");
    assert!(plain.out.contains("samples") && plain.out.contains("left"), "bars are shown");
}

#[test]
fn nothing_is_ever_overwritten() {
    let dir = temp();
    let dir = dir.path();
    fs::create_dir(dir.join("taken")).unwrap();
    fs::write(dir.join("taken/notes.txt"), "mine").unwrap();
    for (dropout, expected) in [("0", "taken-2"), ("0,0.5", "taken-3")] {
        let ran = mnist(dir, &format!("{SMALL} --dropout {dropout} --out taken"));
        assert_eq!(ran.code, Some(0));
        assert_eq!(ran.err, format!("taken is taken: writing to {expected}\n"));
        assert!(ran.out.contains(&format!("\nwritten to {expected}; look at ")), "{}", ran.out);
    }
    assert_eq!(fs::read_dir(dir.join("taken")).unwrap().count(), 1);
    fs::write(dir.join("file"), "").unwrap();
    for dropout in ["0", "0,0.5"] {
        let args = format!("{SMALL} --dropout {dropout} --out file/below");
        fail(dir, &args, 1, &["--out", "file", "not a directory"]);
    }
}

#[test]
fn without_data_auto_is_digits_with_one_warning_and_mnist_is_an_error() {
    let dir = temp();
    let start = Instant::now();
    let rest = "--limit 128 --widths 8 --epochs 1 --dropout 0 --out";
    let ran = mnist(dir.path(), &format!("{rest} auto"));
    assert_eq!((ran.code, ran.err.lines().count()), (Some(0), 1), "{}", ran.err);
    for part in ["WARN", "using the bundled data set digits instead of mnist", "datasets/mnist", "https://"] {
        assert!(ran.err.contains(part), "{part} in\n{}", ran.err);
    }
    assert!(ran.out.contains("mlp 64-8-10 on digits") && ran.out.contains("1 run on digits"), "{}", ran.out);
    let config: Value =
        serde_json::from_slice(&fs::read(dir.path().join("auto/config.json")).unwrap()).unwrap();
    assert_eq!(config["dataset"], "digits");
    let places = ["data set mnist not found", "datasets/mnist", "https://ossci", "https://storage"];
    fail(dir.path(), &format!("--dataset mnist {rest} named"), 1, &places);
    assert!(!dir.path().join("named").exists());
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "a download that cannot be made took {:?}",
        start.elapsed()
    );
}

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
    let mut child = command(dir, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
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
    let mut child = command(dir, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
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
    let mut child = command(dir.path(), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran: Ran = child.wait_with_output().unwrap().into();
    let said = |out: &str| {
        format!("standard output was closed; the results so far are in {out}; continue with --resume {out}\n")
    };
    assert_eq!((ran.code, ran.err), (Some(1), said("run")));
    assert_eq!(weights(dir.path().join("run/model.safetensors")).0.len(), 6);

    let args = args.replace("--dropout 0 --out run", "--dropout 0,0.5 --jobs 2 --out grid");
    let mut child = command(dir.path(), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.err), (Some(1), said("grid")));
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    let dir = temp();
    for (args, says) in [
        ("--epochs 0", "--epochs"),
        ("--epochs 99999999999", "--epochs"),
        ("--batch-size 0", "--batch-size"),
        ("--lr NaN", "--lr"),
        ("--lr -1", "--lr"),
        ("--lr inf", "--lr"),
        ("--weight-decay nan", "--weight-decay"),
        ("--clip-norm 0", "--clip-norm"),
        ("--max-norm -1", "--max-norm"),
        ("--widths 0", "--widths"),
        ("--widths 16,0", "--widths"),
        ("--widths 999999999999", "from 1 to 65536"),
        ("--channels 0", "--channels"),
        ("--seeds 0", "--seeds"),
        ("--seeds 18446744073709551615", "--seeds"),
        ("--limit 0", "--limit"),
        ("--validation 0", "--validation"),
        ("--jobs 0", "--jobs"),
        ("--jobs 2 --threads 2", "leave out --threads"),
        ("--jobs 2 --live", "leave out --jobs"),
        ("--threads 0", "--threads"),
        ("--threads 1000000", "from 1 to 1024"),
        ("--dropout 1", "below 1"),
        ("--dropout=-0.1", "at least 0"),
        ("--dropout nan", "--dropout"),
        ("--dataset digits --target 0.98", "percent"),
        ("--act rleu", "did you mean relu?"),
        ("--act celu:0", "above 0"),
        ("--act relu,", "expected one of identity, relu"),
        ("--dataset cifar", "auto, mnist, fashion-mnist, kmnist, digits"),
        ("--model rnn", "mlp, cnn, linear"),
        ("--optimizer lion", "expected sgd"),
        ("--optimizer rmsprop --weight-decay 0.1", "rmsprop has no weight decay"),
        ("--schedule cosin", "expected constant"),
        ("--schedule cosine:2 --epochs 2", "fewer than the 2 of the run"),
        ("--init zeros", "he, lecun, glorot or pytorch"),
        ("--l1 -1", "--l1"),
        ("--l1 0,nan", "--l1"),
        ("--revive redo:-1", "expected τ of at least 0, found '-1'"),
        ("--revive redo:0.1:0", "expected a period of at least 1 step"),
        ("--revive rdo", "expected none, redo[:TAU[:PERIOD]]"),
        ("--scale log", "raw, unit, standard"),
        ("--device tpu", "cpu, cuda, metal"),
        ("--track some", "full, counts, off"),
        ("--epoch 3", "--epochs"),
        ("mnist", "unexpected argument"),
    ] {
        fail(dir.path(), args, 2, &[says]);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
}

#[test]
fn what_does_not_fit_together_is_one_line_and_exit_code_1() {
    let dir = temp();
    for (args, says) in [
        ("--dataset digits --batch-size 1438", "1438"),
        ("--dataset digits --limit 50 --batch-size 64", "50"),
        ("--dataset digits --validation 1437", "--validation"),
        ("--dataset digits --validation 1400 --batch-size 64", "37"),
        ("--dataset digits --model cnn --channels 1,1,1,1,1", "conv4"),
        ("--data-dir nowhere", "nowhere"),
        ("--dataset mnist --data-dir nowhere", "nowhere"),
        ("--dataset digits --data-dir nowhere", "no directory for digits"),
        ("--dataset emnist-letters --data-dir .", "found an empty directory"),
        ("--dataset digits --load nowhere", "nowhere"),
    ] {
        fail(dir.path(), args, 1, &[says]);
    }
    #[cfg(not(feature = "cuda"))]
    fail(
        dir.path(),
        "--dataset digits --device cuda",
        1,
        &["error: --device: cuda: expected", "--features cuda"],
    );
    #[cfg(not(feature = "metal"))]
    fail(dir.path(), "--dataset digits --device metal", 1, &["--device metal", "--features metal"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
}

const IDX: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

fn idx(sizes: &[u32], values: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
    bytes.extend(values);
    bytes
}

/// A set in MNIST's format: 40 images to train on and 20 to test on.
fn write_idx(dir: &Path) {
    let images = |n: u32| idx(&[n, 28, 28], (0..n * 784).map(|i| ((i * 7919) >> 5) as u8));
    let labels = |n: u32| idx(&[n], (0..n).map(|i| (i % 10) as u8));
    fs::create_dir_all(dir).unwrap();
    for (name, bytes) in IDX.iter().zip([images(40), labels(40), images(20), labels(20)]) {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

#[test]
fn broken_data_files_are_one_line_with_their_path() {
    let dir = temp();
    let data = dir.path().join("data");
    let args = "--data-dir data --widths 4 --epochs 1 --batch-size 10 --dropout 0 --out run";
    write_idx(&data);
    let out = succeed(dir.path(), args);
    assert!(out.contains("mlp 784-4-10 on mnist"), "{out}");

    let good = fs::read(data.join(IDX[0])).unwrap();
    let huge = idx(&[1 << 31, 28, 28], std::iter::empty());
    let cases: [(&str, usize, Vec<u8>); 12] = [
        ("truncated", 0, good[..1000].to_vec()),
        ("a byte too long", 0, [&good[..], &[0]].concat()),
        ("empty", 0, vec![]),
        ("header alone", 0, good[..16].to_vec()),
        ("not IDX", 0, b"<html>not found</html>".to_vec()),
        ("broken gzip", 0, vec![0x1f, 0x8b, 8, 0, 0, 0]),
        ("claims 2^31 images", 0, huge),
        ("wrong rank", 0, idx(&[40], (0..40).map(|_| 0))),
        ("wrong size of images", 0, idx(&[40, 14, 56], (0..40 * 784).map(|_| 0))),
        ("wrong count", 1, idx(&[39], (0..39).map(|i| i % 10))),
        ("label out of range", 3, idx(&[20], (0..20).map(|i| i % 11))),
        ("one class", 1, idx(&[40], (0..40).map(|_| 3))),
    ];
    for (what, file, bytes) in cases {
        write_idx(&data);
        fs::write(data.join(IDX[file]), bytes).unwrap();
        let place = if what == "one class" { "class" } else { IDX[file] };
        let start = Instant::now();
        for choice in ["auto", "mnist"] {
            fail(dir.path(), &format!("--dataset {choice} {args}"), 1, &[place]);
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{what}");
    }
}

#[test]
fn the_network_has_the_size_and_the_classes_of_the_data() {
    let dir = temp();
    let data = dir.path().join("data");
    let args = "--widths 4 --epochs 1 --batch-size 10 --dropout 0";
    // 40 images of 28 × 28 with labels up to 9, under EMNIST's names: the first class of letters is 1.
    write_idx(&data);
    let labels = |n: u32| idx(&[n], (0..n).map(|i| 1 + (i % 26) as u8));
    for (name, bytes) in [(IDX[1], labels(40)), (IDX[3], labels(20))] {
        fs::write(data.join(name), bytes).unwrap();
    }
    let names = ["train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1"];
    for (old, new) in IDX.iter().zip(names) {
        fs::rename(data.join(old), data.join(format!("emnist-letters-{new}-ubyte"))).unwrap();
    }
    let out = succeed(dir.path(), &format!("--dataset emnist-letters --data-dir data {args} --out letters"));
    assert!(out.contains("mlp 784-4-26 on emnist-letters"), "{out}");
    let cure = "choose the data set emnist-letters";
    for choice in ["auto", "mnist"] {
        let args = format!("--dataset {choice} --data-dir data {args}");
        fail(dir.path(), &args, 1, &["emnist-letters-train-images-idx3-ubyte", cure]);
    }

    let own = dir.path().join("own");
    write_idx(&own);
    for (name, n) in [(IDX[0], 40_u32), (IDX[2], 20)] {
        fs::write(own.join(name), idx(&[n, 9, 7], (0..n * 63).map(|i| ((i * 7919) >> 5) as u8))).unwrap();
    }
    for (name, n) in [(IDX[1], 40), (IDX[3], 20)] {
        fs::write(own.join(name), idx(&[n], (0..n).map(|i| (i % 12) as u8))).unwrap();
    }
    let args = format!("--dataset idx --data-dir own {args}");
    let out = succeed(dir.path(), &format!("{args} --out mlp"));
    assert!(out.contains("mlp 63-4-12 on idx"), "{out}");
    let out = succeed(dir.path(), &format!("{args} --model cnn --channels 2 --out cnn"));
    assert!(out.contains("-12 on idx"), "{out}");
}

#[test]
fn weights_that_do_not_fit_are_one_line_with_their_path() {
    let dir = temp();
    let dir = dir.path();
    let args = "--dataset digits --limit 64 --batch-size 32 --widths 4 --epochs 1 --dropout 0";
    succeed(dir, &format!("{args} --out good"));
    let good = fs::read(dir.join("good/model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&good).unwrap();
    let own = || file.iter().map(|(name, view)| (name.to_string(), view)).collect::<Vec<_>>();
    let zeros = [0_u8; 8 * 64 * 4];
    let view =
        |dtype, shape: &[usize], n: usize| TensorView::new(dtype, shape.to_vec(), &zeros[..n]).unwrap();
    let save = |name: &str, tensors: Vec<(String, TensorView<'_>)>| {
        fs::write(dir.join(name), safetensors::serialize(tensors, None).unwrap()).unwrap();
    };
    let mut tensors = own();
    tensors.push(("fc9.weight".into(), view(Dtype::F32, &[2], 8)));
    save("extra", tensors);
    save("missing", own().into_iter().filter(|(name, _)| name != "fc2.bias").collect());
    let with = |new: TensorView<'_>| {
        let mut tensors: Vec<_> = own().into_iter().filter(|(name, _)| name != "fc1.weight").collect();
        tensors.push(("fc1.weight".into(), new));
        safetensors::serialize(tensors, None).unwrap()
    };
    fs::write(dir.join("turned"), with(view(Dtype::F32, &[64, 4], 1024))).unwrap();
    fs::write(dir.join("double"), with(view(Dtype::F64, &[4, 64], 2048))).unwrap();
    fs::write(dir.join("cut"), &good[..good.len() - 1]).unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("text"), "fc1.weight = 3\n".repeat(20)).unwrap();
    fs::write(dir.join("vast"), [&(1_u64 << 42).to_le_bytes()[..], b"{}"].concat()).unwrap();
    let before = fs::read_dir(dir).unwrap().count();
    for (name, says) in [
        ("extra", "fc9.weight"),
        ("missing", "fc2.bias"),
        ("turned", "expected shape [4, 64], found [64, 4]"),
        ("double", "expected f32, found F64"),
        ("cut", "an incomplete file"),
        ("empty", "expected a safetensors file"),
        ("text", "expected a safetensors file"),
        ("vast", "expected a safetensors file"),
        ("nowhere", "cannot read"),
        ("good", "cannot read"),
    ] {
        fail(dir, &format!("{args} --load {name} --out run"), 1, &[name, says]);
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), before, "a run that cannot start leaves nothing behind");
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
fn help_fits_a_terminal_and_names_every_activation() {
    let dir = temp();
    let out = succeed(dir.path(), "--help");
    assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");
    for word in ["relu6", "gelu_tanh", "alpha-dropout", "--track", "Examples:", "cosine"] {
        assert!(out.contains(word), "{word}");
    }
}

#[test]
fn the_other_examples_run() {
    let dir = temp();
    let run = |name: &str, args: &str| -> Ran {
        let mut command = Command::new(program().with_file_name(name));
        command.args(args.split_whitespace()).current_dir(dir.path()).output().unwrap().into()
    };
    for (name, args, says) in [
        ("custom_model", "", "fc1"),
        ("custom_observer", "", "fc1"),
        ("autoencoder", "--epochs 2 --out auto", "\n  2/2  0.1"),
        ("autoencoder", "--resume auto", "auto is finished: 2 of 2 epochs"),
        ("autoencoder", "--epochs 1 --code 8,16 --jobs 2 -q", "2 runs on digits"),
        ("transformer", "--epochs 1 --blocks 1 --out rows", "look at rows/report.html"),
        ("resnet", "--epochs 1 --limit 128 --alert *.dead_fraction>1", "1 run on digits, resnet 16-16-16"),
        ("regression", "--epochs 3 --out table", "\n  3/3  "),
        ("regression", "--patience 1 --out early", "no better since epoch "),
    ] {
        let ran = run(name, args);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{name}\n{}", ran.out);
        assert!(ran.out.contains(says), "{name}\n{}", ran.out);
    }
    // Their losses are theirs.
    let page = fs::read_to_string(dir.path().join("auto/report.html")).unwrap();
    assert!(page.contains("mean squared error") && !page.to_lowercase().contains("cross-entropy"));
    let text = page.split("<script").next().unwrap();
    assert!(text.len() > 10_000 && !text.contains("ccuracy"), "nobody measured one");
    let table = lines(dir.path().join("table/metrics.jsonl"));
    assert_eq!(keys(&table[1]["metrics"]), ["mae", "r2"].into());
    // Another run is refused in one line.
    let ran = run("autoencoder", "--resume auto --epochs 3");
    assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 1), "{}", ran.err);
    assert!(ran.err.contains("epochs was 2 and is 3"), "{}", ran.err);
}
