//! The example `inspect` as a program: PyTorch's networks against PyTorch's numbers, its listing, its errors.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{at_home, example};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/taper/tests/goldens").join(name)
}

/// Exit code, standard output and standard error of a program that has only `data`, if that.
fn run(program: &Path, dir: &TempDir, args: &[&str], data: Option<&Path>) -> (Option<i32>, String, String) {
    let mut command = at_home(program, dir.path(), "");
    command.args(args);
    if let Some(data) = data {
        command.env("TAPER_DATA", data);
    }
    let ran = common::run(command);
    (ran.code, ran.out, ran.err)
}

#[track_caller]
fn succeed(dir: &TempDir, args: &[&str], data: Option<&Path>) -> String {
    let (code, out, err) = run(&example("inspect"), dir, args, data);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}\n{out}");
    assert!(!out.contains(['\x1b', '\r']), "{args:?}: not plain\n{out}");
    out
}

/// Expects one line on standard error that starts with `error: ` and has all of `says`.
#[track_caller]
fn fail(dir: &TempDir, args: &[&str], code: i32, says: &[&str]) {
    let (got, _, err) = run(&example("inspect"), dir, args, None);
    let one_line = err.starts_with("error: ") && err.trim_end().lines().count() == 1;
    assert!(got == Some(code) && one_line, "{args:?}: exit code {got:?}\n{err}");
    says.iter().for_each(|say| assert!(err.contains(say), "{args:?}: expected '{say}' in\n{err}"));
}

fn lines(path: impl AsRef<Path>) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Compares everything that PyTorch's file says with layers.jsonl, metrics.jsonl and the listing of units; `network` is the
/// option that tells the activation.
fn check(name: &str, network: [&str; 2], dataset: &str, data: Option<&Path>) {
    let dir = tempdir().unwrap();
    let weights = golden(&format!("{name}.safetensors"));
    let weights = weights.to_str().unwrap();
    let args = [weights, "--dataset", dataset, "--scale", "unit", "--units", "--out", "out"];
    let out = succeed(&dir, &[&args[..], &network].concat(), data);
    let is_relu = network[1].contains("relu");
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
        let (dead, rare) = match is_relu {
            true => (want["dead"].clone(), want["rare_1pct"].clone()),
            false => (0.into(), Value::Null),
        };
        assert_eq!((&got["dead"], &got["rare"]), (&dead, &rare), "{name}, {site}");
        // The listing: its counts, and the rate of every unit that PyTorch saw never fire or always.
        let rare = rare.as_u64().unwrap_or(0);
        let (dormant, always, units) = (&got["dormant_0_025"], &got["always_on"], &got["units"]);
        let heading = format!(
            "{site}: {dead} dead, {rare} rare, {dormant} dormant, {always} always on of {units} units\n"
        );
        let listing = out.split(&heading).nth(1).unwrap_or_else(|| panic!("expected {heading} in\n{out}"));
        let listing: Vec<&str> = listing.lines().take_while(|line| line.starts_with("  ")).skip(1).collect();
        let observations = got["values"].as_u64().unwrap() / got["units"].as_u64().unwrap();
        for (unit, fired) in want["fired"].as_array().unwrap().iter().enumerate() {
            let row = listing.iter().find(|row| row.split_whitespace().next() == Some(&unit.to_string()));
            let fired = fired.as_u64().unwrap();
            if is_relu && fired == 0 {
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
    check("digits_mlp_relu_trained", ["--act", "relu"], "digits", None);
}

#[test]
fn a_network_with_batch_normalisation_has_pytorchs_numbers() {
    let layers = "conv 3 pad 1, batch_norm, relu, max_pool 2, linear, batch_norm eps 1e-3, relu, linear";
    check("digits_batch_norm_trained", ["--layers", layers], "digits", None);
}

#[test]
fn the_relu_mlp_has_pytorchs_numbers() {
    let Some(data) = mnist("mlp_relu_trained") else { return };
    check("mlp_relu_trained", ["--act", "relu"], "mnist", Some(&data));
}

#[test]
fn the_tanh_mlp_has_pytorchs_numbers() {
    let Some(data) = mnist("mlp_tanh_trained") else { return };
    check("mlp_tanh_trained", ["--act", "tanh"], "mnist", Some(&data));
}

#[test]
fn the_cnn_has_pytorchs_numbers() {
    let Some(data) = mnist("cnn_relu_trained") else { return };
    check("cnn_relu_trained", ["--act", "relu"], "mnist", Some(&data));
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
    let digits = ["--dataset", "digits", "--scale", "unit", "--act", "relu"];
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
    let (code, _, err) = run(&example("mnist"), &dir, &train.split_whitespace().collect::<Vec<_>>(), None);
    assert_eq!(code, Some(0), "{err}");
    // Activation, scale and data set come from config.json next to the weights.
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
    let (_, _, err) = run(&example("inspect"), &dir, &["run/model.safetensors", "--scale", "raw"], None);
    assert!(err.contains("--scale raw: the network was trained with unit"), "{err}");

    // The directory, a copy without its records, and the newest checkpoint are the same file.
    let of = |path: &str| timeless(&succeed(&dir, &[path], None));
    let file = of("run/model.safetensors");
    assert_eq!(of("run"), file);
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    fs::copy(dir.path().join("run/model.safetensors"), dir.path().join("elsewhere/model.safetensors"))
        .unwrap();
    assert_eq!(of("elsewhere"), file);
    assert_eq!(of("run/checkpoints/epoch-2"), file);
    // A file without metadata belongs to the run of its directory if the number of parameters is the same.
    let bytes = fs::read(dir.path().join("run/model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    fs::write(dir.path().join("run/bare"), safetensors::serialize(tensors.tensors(), None).unwrap()).unwrap();
    assert_eq!(of("run/bare"), file.replace("model.safetensors:", "bare:"));
}

/// The output without what depends on the time that it took.
fn timeless(out: &str) -> String {
    let line = |line: &str| match line.split_once(" samples/s") {
        Some((before, _)) => before.trim_end_matches(|c: char| c.is_ascii_digit() || c == ',').to_string(),
        None => line.to_string(),
    };
    out.lines().map(|text| line(text) + "\n").collect()
}

/// A safetensors file of small, varied values; PyTorch's batch normalisation counts in i64.
fn foreign(dir: &TempDir, file: &str, tensors: &[(&str, &[usize])]) {
    let bytes = |i: usize, name: &str, n: usize| -> Vec<u8> {
        let value = |j: usize| match name.ends_with("running_var") {
            true => 1.0_f32,
            false => ((i * 31 + j * 17) % 23) as f32 / 23.0 - 0.45,
        };
        (0..n).flat_map(|j| value(j).to_le_bytes()).collect()
    };
    let data: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| match name.ends_with("num_batches_tracked") {
            true => (*name, Dtype::I64, shape.to_vec(), 7_i64.to_le_bytes().to_vec()),
            false => (*name, Dtype::F32, shape.to_vec(), bytes(i, name, shape.iter().product())),
        })
        .collect();
    let views = data
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(dir.path().join(file), safetensors::serialize(views, None).unwrap()).unwrap();
}

const DIGITS: [&str; 2] = ["--dataset", "digits"];

#[test]
fn missing_properties_of_a_foreign_file_are_named() {
    let dir = tempdir().unwrap();
    foreign(
        &dir,
        "mlp",
        &[("fc1.weight", &[6, 64]), ("fc1.bias", &[6]), ("fc2.weight", &[10, 6]), ("fc2.bias", &[10])],
    );
    let with = |more: &[&'static str]| [&["mlp"][..], &DIGITS, more].concat();
    fail(&dir, &with(&[]), 1, &["mlp: ", "--act", "--layers", "--scale"]);
    fail(&dir, &with(&["--scale", "unit"]), 1, &["--act"]);
    fail(&dir, &with(&["--act", "relu"]), 1, &["--scale"]);
    let out = succeed(&dir, &with(&["--scale", "unit", "--act", "relu"]), None);
    assert!(out.starts_with("mlp: mlp 64-6-10, 460 parameters, relu, on 360 samples"), "{out}");
    let layers = succeed(&dir, &with(&["--scale", "unit", "--layers", "linear, relu, linear"]), None);
    assert_eq!(timeless(&layers), timeless(&out).replacen(", relu,", ",", 1));
    // Pixels of the digits are 0 to 16; only the first line names the scale.
    let of = |scale: &'static str| {
        let out = timeless(&succeed(&dir, &with(&["--act", "relu", "--scale", scale]), None));
        out.lines().skip(1).map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of("0,1"), of("unit"));
    assert_eq!(of("0,0.0625"), of("raw"));
    assert_ne!(of("raw"), of("unit"));
    fail(&dir, &with(&["--act", "relu", "--layers", "linear"]), 2, &["--layers"]);
    fail(&dir, &with(&["--layers", "linear, rleu"]), 2, &["layers: column 9", "did you mean relu"]);
    fail(
        &dir,
        &with(&["--scale", "unit", "--layers", "linear"]),
        1,
        &["--layers", "expected no more layers"],
    );
    // A single layer has no activation.
    foreign(&dir, "linear", &[("fc.weight", &[10, 64]), ("fc.bias", &[10])]);
    assert!(
        succeed(&dir, &["linear", "--dataset", "digits", "--scale", "unit"], None).contains("linear 64-10")
    );
}

#[test]
fn a_single_fitting_arrangement_is_named_and_several_need_an_option() {
    let dir = tempdir().unwrap();
    let with = |file: &'static str, more: &[&'static str]| {
        [&[file][..], &DIGITS, &["--scale", "unit"], more].concat()
    };
    let conv = |inputs: usize| -> Vec<(&'static str, Vec<usize>)> {
        vec![
            ("conv1.weight", vec![3, 1, 3, 3]),
            ("conv1.bias", vec![3]),
            ("fc1.weight", vec![10, inputs]),
            ("fc1.bias", vec![10]),
        ]
    };
    let write = |file: &str, tensors: &[(&str, Vec<usize>)]| {
        foreign(&dir, file, &tensors.iter().map(|(name, shape)| (*name, &shape[..])).collect::<Vec<_>>());
    };
    write("one", &conv(3 * 3 * 3)); // 8 → 6 → 3
    let out = succeed(&dir, &with("one", &["--act", "tanh"]), None);
    let first = out.lines().next().unwrap();
    assert!(
        first.ends_with(
            "assumed layers, the only ones with max_pool that fit: conv 3, tanh, max_pool 2, linear"
        ),
        "{first}"
    );
    let given = succeed(&dir, &with("one", &["--layers", "conv 3, tanh, max_pool 2, linear"]), None);
    let table = |out: &str| timeless(out).lines().skip(1).map(str::to_string).collect::<Vec<_>>();
    assert_eq!(table(&given), table(&out));
    let mean = succeed(&dir, &with("one", &["--layers", "conv 3, tanh, avg_pool 2, linear"]), None);
    assert_ne!(table(&mean), table(&out));
    write("several", &conv(3 * 2 * 2)); // 8 → 6 → 2 by 3, 8 → 8 → 2 by 4 or 3
    let says =
        ["--layers 'conv 3, relu, max_pool 3, linear'", "--layers 'conv 3 pad 1, relu, max_pool 4, linear'"];
    fail(&dir, &with("several", &["--act", "relu"]), 1, &says);
    write("none", &conv(3 * 5 * 5));
    fail(&dir, &with("none", &["--act", "relu"]), 1, &["'fc1.weight'", "3×6×6", "--layers"]);
}

#[test]
fn batch_normalisation_is_run_and_pythons_own_formats_are_named() {
    let dir = tempdir().unwrap();
    let tensors: [(&str, &[usize]); 9] = [
        ("0.weight", &[6, 64]),
        ("0.bias", &[6]),
        ("1.weight", &[6]),
        ("1.bias", &[6]),
        ("1.running_mean", &[6]),
        ("1.running_var", &[6]),
        ("1.num_batches_tracked", &[]),
        ("3.weight", &[10, 6]),
        ("3.bias", &[10]),
    ];
    foreign(&dir, "bn", &tensors);
    let with = |more: &[&'static str]| [&["bn"][..], &DIGITS, &["--scale", "unit"], more].concat();
    let says = ["--layers 'linear, batch_norm, relu, linear'", "--layers 'linear, relu, batch_norm, linear'"];
    fail(&dir, &with(&["--act", "relu"]), 1, &says);
    let out = succeed(&dir, &with(&["--layers", "linear, batch_norm, relu, linear"]), None);
    assert!(out.starts_with("bn: linear, batch_norm, relu, linear, 472 parameters"), "{out}");
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("zip", b"PK\x03\x04 and the rest of an archive");
    write("pickle", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.");
    write("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 14372\n");
    for (file, says) in [
        ("zip", ["a zip archive, as torch.save writes", "save_file(model.state_dict()"]),
        ("pickle", ["a Python pickle", "save_file(model.state_dict()"]),
        ("pointer", ["a Git LFS pointer", "git lfs pull"]),
    ] {
        fail(&dir, &[file], 1, &says);
    }
}

#[test]
#[cfg(unix)]
fn a_limit_on_threads_is_one_line_and_no_panic() {
    let dir = tempdir().unwrap();
    foreign(&dir, "linear", &[("fc.weight", &[10, 64]), ("fc.bias", &[10])]);
    let inspect = example("inspect");
    let line = format!("ulimit -u 1; exec '{}' linear --dataset digits --scale unit", inspect.display());
    let output = Command::new("bash").args(["-c", &line]).current_dir(&dir).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{error}");
    // For root there is no limit.
    assert!(error.is_empty() || error.contains("cannot start") && error.lines().count() == 1, "{error}");
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
    let all = ["--dataset", "digits", "--act", "relu", "--scale", "unit"];
    let fails = |file: &str, says: &[&str]| fail(&dir, &[&[file][..], &all].concat(), 1, says);
    for name in ["text", "empty", "half", "head", "huge", "lies"] {
        fails(name, &[&format!("error: {name}: "), "safetensors"]);
    }
    fails("nowhere", &["nowhere: cannot read weights"]);
    fails(".", &["a directory without model.safetensors"]);
    let odd = renamed(&dir, "odd", |own| own.replace("fc1", "encoder"));
    fails(&odd, &["odd", "encoder"]);
    let gap = renamed(&dir, "gap", |own| own.replace("fc3", "fc4"));
    fails(&gap, &["no network for digits", "'fc3' to come next"]);
    let other = golden("mlp_relu_trained.safetensors");
    fails(other.to_str().unwrap(), &["1×8×8 = 64 inputs", "784"]);
    let good = golden("digits_mlp_relu_trained.safetensors");
    let good = good.to_str().unwrap();
    let out = ["--out", "text/x"];
    fail(&dir, &[&[good][..], &all, &out].concat(), 1, &["--out", "text"]);
    let prelu = [good, "--dataset", "digits", "--scale", "unit", "--act", "prelu"];
    fail(&dir, &prelu, 1, &["--act", "no slopes"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.path().join("half");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        // For root, nothing is forbidden.
        if fs::read(&path).is_err() {
            fails("half", &["half: cannot read weights", "ermission"]);
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
        (&["a", "--scale", "x"], "raw, unit, standard"),
        (&["a", "--dataset", "cifar"], "the data sets are"),
        (&["a", "--limit", "0"], "at least 1"),
        (&["a", "--device", "tpu"], "cpu, cuda, metal"),
    ] {
        fail(&dir, args, 2, &[says]);
    }
    let (code, help, _) = run(&example("inspect"), &dir, &["--help"], None);
    assert_eq!(code, Some(0));
    assert!(help.contains("Examples:") && help.contains("conv K [pad P] [stride S]"), "{help}");
}
