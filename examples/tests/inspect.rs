//! The example `inspect` as a program: PyTorch's networks against PyTorch's numbers, its listing, its errors.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// The program; `cargo test` builds it beside the tests.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let path = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is not there: run `cargo build --examples` first", path.display());
    path
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/taper/tests/goldens").join(name)
}

/// Exit code, standard output and standard error of a program that has only `data`, if that.
fn run(program: &Path, dir: &TempDir, args: &[&str], data: Option<&Path>) -> (Option<i32>, String, String) {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).stdin(Stdio::null()).env("RUST_BACKTRACE", "1");
    command.env("HOME", dir.path()).env("XDG_CACHE_HOME", dir.path()).env("ALL_PROXY", "http://127.0.0.1:9");
    command.env_remove("TAPER_DATA").env_remove("NO_PROXY").env_remove("no_proxy");
    if let Some(data) = data {
        command.env("TAPER_DATA", data);
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn succeed(dir: &TempDir, args: &[&str], data: Option<&Path>) -> String {
    let (code, out, err) = run(&program("inspect"), dir, args, data);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}\n{out}");
    assert!(!out.contains(['\x1b', '\r']), "{args:?}: not plain\n{out}");
    out
}

/// Expects one line on standard error that starts with `error: ` and has all of `says`.
#[track_caller]
fn fail(dir: &TempDir, args: &[&str], code: i32, says: &[&str]) {
    let (got, _, err) = run(&program("inspect"), dir, args, None);
    let one_line = err.starts_with("error: ") && err.trim_end().lines().count() == 1;
    assert!(got == Some(code) && one_line, "{args:?}: exit code {got:?}\n{err}");
    says.iter().for_each(|say| assert!(err.contains(say), "{args:?}: expected '{say}' in\n{err}"));
}

fn lines(path: impl AsRef<Path>) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Compares everything that PyTorch's file says with layers.jsonl, metrics.jsonl and the listing of units.
fn check(name: &str, act: &str, dataset: &str, data: Option<&Path>) {
    let dir = tempdir().unwrap();
    let weights = golden(&format!("{name}.safetensors"));
    let weights = weights.to_str().unwrap();
    let args = [weights, "--dataset", dataset, "--act", act, "--scale", "unit", "--units", "--out", "out"];
    let out = succeed(&dir, &args, data);
    let want: Value = serde_json::from_slice(&fs::read(golden(&format!("{name}.json"))).unwrap()).unwrap();
    let metrics = &lines(dir.path().join("out/metrics.jsonl"))[0];
    let number =
        |of: &Value, key: &str| of[key].as_f64().unwrap_or_else(|| panic!("{name}: no {key} in {of}"));
    let close = |what: &str, got: f64, want: f64, relative: f64| {
        assert!(
            (got - want).abs() <= relative * want.abs().max(1e-30),
            "{name}, {what}: {got}, expected {want}"
        );
    };
    let n = number(&want, "samples");
    assert_eq!(number(metrics, "samples"), n);
    close("loss", number(metrics, "loss"), number(&want, "loss"), 1e-4);
    let apart = (number(&metrics["metrics"], "accuracy") * n - number(&want, "correct")).abs();
    assert!(apart <= 1.0 + 1e-6, "{name}: {apart} other images are right");
    let layers = lines(dir.path().join("out/layers.jsonl"));
    let sites = want["sites"].as_object().unwrap();
    assert_eq!(layers.len(), sites.len());
    for ((site, want), got) in sites.iter().zip(&layers) {
        assert_eq!((&got["site"], &got["split"]), (&site.as_str().into(), &"test".into()));
        for key in ["values", "units", "always_on", "dormant_0_025", "dormant_0_1", "samples_all_zero"] {
            assert_eq!(got[key], want[key], "{name}, {site}, {key}");
        }
        for (key, theirs, relative) in [
            ("zeros", "zeros", 1e-5),
            ("negatives", "negatives", 1e-5),
            ("near_zeros", "near_zeros_1e_2", 1e-5),
            ("mean", "mean", 1e-4),
            ("variance", "variance", 1e-4),
            ("skewness", "skewness", 1e-4),
            ("excess_kurtosis", "excess_kurtosis", 1e-4),
            ("min", "min", 1e-4),
            ("max", "max", 1e-4),
            ("population_sparseness", "population_sparseness", 1e-4),
        ] {
            close(&format!("{site}, {key}"), number(got, key), number(want, theirs), relative);
        }
        let (active, wanted) = (&got["active_per_sample"], &want["active_per_sample"]);
        close("active", number(active, "mean"), number(wanted, "mean"), 1e-5);
        // In the tanh file `dead` counts units that are never above zero; here a gradient passes every unit.
        let (dead, rare) = match act {
            "relu" => (want["dead"].clone(), want["rare_1pct"].clone()),
            _ => (0.into(), Value::Null),
        };
        assert_eq!((&got["dead"], &got["rare"]), (&dead, &rare), "{name}, {site}");
        // The listing: its counts, and the rate of every unit that PyTorch saw never fire or always.
        let rare = rare.as_u64().unwrap_or(0);
        let (dormant, always, units) = (&got["dormant_0_025"], &got["always_on"], &got["units"]);
        let heading = format!(
            "{site}: {dead} dead, {rare} rare, {dormant} dormant, {always} always on of {units} units\n"
        );
        let listing = out.split(&heading).nth(1).unwrap_or_else(|| panic!("expected {heading} in\n{out}"));
        let listing: Vec<&str> = listing.lines().skip(1).take_while(|line| line.starts_with("  ")).collect();
        let observations = got["values"].as_u64().unwrap() / got["units"].as_u64().unwrap();
        for (unit, fired) in want["fired"].as_array().unwrap().iter().enumerate() {
            let row = listing.iter().find(|row| row.split_whitespace().next() == Some(&unit.to_string()));
            let fired = fired.as_u64().unwrap();
            if act == "relu" && fired == 0 {
                let row = row.unwrap_or_else(|| panic!("{site}: unit {unit} is not listed\n{out}"));
                assert!(
                    row.contains(&format!(" 0 of {observations} ")) && row.contains("dead, dormant"),
                    "{row}"
                );
            }
            if let Some(row) = row {
                let got: u64 = row.split_whitespace().nth(1).unwrap().parse().unwrap();
                assert!(
                    got.abs_diff(fired) <= 1 + fired / 100_000,
                    "{name}, {site}, unit {unit}: {got}, not {fired}"
                );
            }
        }
    }
}

/// The directory of the real MNIST, or `None`, which the test says.
fn mnist(test: &str) -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("TAPER_DATA").filter(|dir| !dir.is_empty()) else {
        println!("skipped: {test}: set TAPER_DATA to the directory of the MNIST files");
        return None;
    };
    // Below the package when tests run, at the root when people give a relative path.
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(dir))
}

#[test]
fn the_digits_network_has_pytorchs_numbers() {
    check("digits_mlp_relu_trained", "relu", "digits", None);
}

#[test]
fn the_relu_mlp_has_pytorchs_numbers() {
    let Some(data) = mnist("mlp_relu_trained") else { return };
    check("mlp_relu_trained", "relu", "mnist", Some(&data));
}

#[test]
fn the_tanh_mlp_has_pytorchs_numbers() {
    let Some(data) = mnist("mlp_tanh_trained") else { return };
    check("mlp_tanh_trained", "tanh", "mnist", Some(&data));
}

#[test]
fn the_cnn_has_pytorchs_numbers() {
    let Some(data) = mnist("cnn_relu_trained") else { return };
    check("cnn_relu_trained", "relu", "mnist", Some(&data));
}

/// Weights of the digits network under other names.
fn renamed(dir: &TempDir, file: &str, name: impl Fn(&str) -> String) -> String {
    let bytes = fs::read(golden("digits_mlp_relu_trained.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors: Vec<(String, TensorView<'_>)> =
        tensors.iter().map(|(own, view)| (name(own), view)).collect();
    let path = dir.path().join(file);
    fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn pytorchs_sequential_names_give_the_same_table() {
    let dir = tempdir().unwrap();
    let digits = ["--dataset", "digits", "--scale", "unit"];
    let of = |path: &str| succeed(&dir, &[&[path], &digits[..]].concat(), None);
    let plain = of(&renamed(&dir, "a.safetensors", str::to_string));
    let sequential = |own: &str| own.replace("fc1", "net.1").replace("fc2", "net.4").replace("fc3", "net.10");
    let numbered = of(&renamed(&dir, "a.safetensors", sequential));
    assert!(
        numbered.contains("layers of the file: fc1 is net.1, fc2 is net.4, fc3 is net.10\n"),
        "{numbered}"
    );
    let table = |out: &str| -> Vec<String> {
        out.lines().filter(|line| line.starts_with("  ")).map(str::to_string).collect()
    };
    assert_eq!(table(&numbered), table(&plain));
    assert!(plain.contains("mlp 64-32-24-10") && table(&plain).len() > 8, "{plain}");
}

#[test]
fn a_run_of_ours_is_inspected_as_it_was_trained() {
    let dir = tempdir().unwrap();
    let train =
        "--dataset digits --act prelu --dropout 0 --epochs 2 --widths 16,8 --scale unit --out run --quiet";
    let (code, _, err) = run(&program("mnist"), &dir, &train.split_whitespace().collect::<Vec<_>>(), None);
    assert_eq!(code, Some(0), "{err}");
    // Activation, scale and data set come from config.json beside the weights.
    let out = succeed(&dir, &["run/model.safetensors", "--out", "seen", "--html", "seen.html"], None);
    assert!(fs::read_to_string(dir.path().join("seen.html")).unwrap().contains("mlp 64-16-8-10"));
    assert!(out.contains("prelu, on 360 samples of digits test, unit scale"), "{out}");
    let trained = lines(dir.path().join("run/layers.jsonl"));
    let (trained, seen) = (&trained[trained.len() - 2..], lines(dir.path().join("seen/layers.jsonl")));
    for (trained, seen) in trained.iter().zip(&seen) {
        for key in ["site", "values", "zeros", "negatives", "histogram", "dormant_0_025", "firing_rate"] {
            assert_eq!(seen[key], trained[key], "{key}");
        }
        // Moments depend in their last digits on how the samples were cut into batches.
        let (seen, trained) = (seen["mean"].as_f64().unwrap(), trained["mean"].as_f64().unwrap());
        assert!((seen - trained).abs() <= 1e-12 * trained.abs(), "mean: {seen}, {trained}");
    }
    let part = succeed(&dir, &["run/model.safetensors", "--split", "train", "--limit", "100"], None);
    assert!(part.contains("100 samples of digits train") && part.contains("\ntrain "), "{part}");
    fail(&dir, &["run/model.safetensors", "--act", "relu"], 1, &["--act", "slopes"]);
}

#[test]
fn files_that_are_no_networks_end_with_1_and_one_line() {
    let dir = tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    let whole = fs::read(golden("digits_mlp_relu_trained.safetensors")).unwrap();
    file("text", b"hello, this is no tensor file at all");
    file("empty", b"");
    file("half", &whole[..whole.len() / 2]);
    file("head", &whole[..20]);
    file("huge", &[&(1_u64 << 42).to_le_bytes()[..], b"{}"].concat());
    let header =
        br#"{"fc1.weight":{"dtype":"F32","shape":[1099511627776,64],"data_offsets":[0,281474976710656]}}"#;
    file("lies", &[&(header.len() as u64).to_le_bytes()[..], header].concat());
    for name in ["text", "empty", "half", "head", "huge", "lies"] {
        fail(&dir, &[name, "--dataset", "digits"], 1, &[&format!("error: {name}: "), "safetensors"]);
    }
    fail(&dir, &["nowhere", "--dataset", "digits"], 1, &["nowhere: cannot read weights"]);
    fail(&dir, &[".", "--dataset", "digits"], 1, &["cannot read weights"]);
    let odd = renamed(&dir, "odd", |own| own.replace("fc1", "encoder"));
    fail(&dir, &[&odd, "--dataset", "digits"], 1, &["odd", "no network for digits", "encoder"]);
    let gap = renamed(&dir, "gap", |own| own.replace("fc3", "fc4"));
    fail(&dir, &[&gap, "--dataset", "digits"], 1, &["'fc3' to come next"]);
    let other = golden("mlp_relu_trained.safetensors");
    fail(&dir, &[other.to_str().unwrap(), "--dataset", "digits"], 1, &["1×8×8 = 64 inputs", "784"]);
    fail(&dir, &[other.to_str().unwrap(), "--dataset", "digits", "--out", "text/x"], 1, &["784"]);
    let good = golden("digits_mlp_relu_trained.safetensors");
    let good = good.to_str().unwrap();
    fail(&dir, &[good, "--dataset", "digits", "--out", "text/x"], 1, &["--out", "text"]);
    fail(&dir, &[good, "--dataset", "digits", "--act", "prelu"], 1, &["--act", "no slopes"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.path().join("half");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        // For root, nothing is forbidden.
        if fs::read(&path).is_err() {
            fail(&dir, &["half", "--dataset", "digits"], 1, &["half: cannot read weights", "ermission"]);
        }
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let dir = tempdir().unwrap();
    for (args, says) in [
        (&[][..], "WEIGHTS"),
        (&["a", "--act", "rleu"], "did you mean relu"),
        (&["a", "--split", "all"], "possible values: train, test"),
        (&["a", "--scale", "x"], "unit and standard"),
        (&["a", "--dataset", "cifar"], "the data sets are"),
        (&["a", "--limit", "0"], "at least 1"),
    ] {
        fail(&dir, args, 2, &[says]);
    }
    let (code, help, _) = run(&program("inspect"), &dir, &["--help"], None);
    assert_eq!(code, Some(0));
    assert!(help.contains("Examples:") && help.contains("nn.Sequential"), "{help}");
}
