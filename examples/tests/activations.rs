//! The example `activations` as a program: its numbers against analytic ones, its networks, its files, its errors.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{at_home, example};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// Exit code, standard output and standard error.
fn run(dir: &TempDir, args: &str) -> (Option<i32>, String, String) {
    let ran = common::run(at_home(example("activations"), dir.path(), args));
    (ran.code, ran.out, ran.err)
}

#[track_caller]
fn succeed(dir: &TempDir, args: &str) -> String {
    let (code, out, err) = run(dir, args);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args}\n{out}");
    assert!(!out.contains(['\x1b', '\r']), "{args}: not plain\n{out}");
    out
}

/// Expects one line on standard error that starts with `error: ` and has all of `says`.
#[track_caller]
fn fail(dir: &TempDir, args: &str, code: i32, says: &[&str]) {
    let (got, _, err) = run(dir, args);
    let one_line = err.starts_with("error: ") && err.trim_end().lines().count() == 1;
    assert!(got == Some(code) && one_line, "{args}: exit code {got:?}\n{err}");
    says.iter().for_each(|say| assert!(err.contains(say), "{args}: expected '{say}' in\n{err}"));
}

fn lines(dir: &TempDir, out: &str) -> Vec<Value> {
    let text = fs::read_to_string(dir.path().join(out).join("activations.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number '{key}' in {value}"))
}

/// The functions with the golden file's names, such as `elu_0.5` and `gelu_erf`; `None` for unknown ones.
fn named(name: &str) -> Option<String> {
    match name {
        "gelu_erf" => Some("gelu".to_string()),
        name if name.contains("shrink") => None,
        name => match name.rsplit_once('_') {
            Some((function, value)) if value.parse::<f64>().is_ok() => Some(format!("{function}:{value}")),
            _ => Some(name.to_string()),
        },
    }
}

#[test]
fn a_million_samples_of_every_function_agree_with_the_analytic_moments() {
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/taper/tests/goldens/analytic-moments.json");
    let golden: Value = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
    let golden: Vec<(String, Value)> =
        golden["activations"].as_object().unwrap().clone().into_iter().collect();
    let golden: Vec<_> = golden.into_iter().filter_map(|(name, want)| Some((named(&name)?, want))).collect();
    assert!(golden.len() >= 24, "{golden:?}");
    let acts: Vec<&str> = golden.iter().map(|(name, _)| name.as_str()).collect();
    let dir = tempdir().unwrap();
    succeed(&dir, &format!("--samples 1000000 --out a --act {}", acts.join(",")));
    let lines = lines(&dir, "a");
    assert_eq!(lines.len(), golden.len());
    for ((name, want), line) in golden.iter().zip(&lines) {
        let n = 1e6_f64;
        let (analytic, measured) = (&line["analytic"], &line["measured"]);
        for key in ["mean", "variance", "skewness", "excess_kurtosis"] {
            let exact = number(want, key);
            let error = 5.0 * number(&want["sampling_sd_times_sqrt_n"], key) / n.sqrt();
            let got = number(measured, key);
            assert!((got - exact).abs() <= error, "{name}, {key}: {got}, expected {exact} ± {error}");
            let integrated =
                if key == "variance" { number(analytic, "std").powi(2) } else { number(analytic, key) };
            assert!(
                (integrated - exact).abs() <= 2e-6 * exact.abs().max(1.0),
                "{name}, {key}: {integrated}, not {exact}"
            );
        }
        let p = number(want, "p_exact_zero");
        let error = 5.0 * (p * (1.0 - p) / n).sqrt();
        assert!((number(measured, "zero_fraction") - p).abs() <= error, "{name}: zeros");
        assert!((number(analytic, "zero_fraction") - p).abs() <= 1e-9, "{name}: analytic zeros");
        let apart = number(measured, "asymmetry") - number(analytic, "asymmetry");
        assert!(apart.abs() < 0.01, "{name}: asymmetry is {apart} away");
        let flat =
            number(measured, "flat_low") + number(measured, "flat_high") - number(analytic, "flat_fraction");
        assert!(flat.abs() <= 0.0026, "{name}: share of flat values is {flat} away");
    }
}

#[test]
fn the_table_page_and_picture_show_every_function_and_need_no_network() {
    let dir = tempdir().unwrap();
    let out = succeed(&dir, "--out a");
    assert!(out.starts_with("2352 values "), "{out}");
    let (page, svg) = (dir.path().join("a/activations.html"), dir.path().join("a/activations.svg"));
    let (page, svg) = (fs::read_to_string(page).unwrap(), fs::read_to_string(svg).unwrap());
    assert!(svg.starts_with("<svg"));
    for name in ["relu", "leaky_relu", "gelu_tanh", "mish"] {
        assert!(out.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}\n{out}");
        assert!(page.contains(&format!("<b>{name}</b>")) && svg.contains(&format!("\n{name}\n")), "{name}");
    }
    assert!(out.contains("stays symmetric after tanh, softsign, hardtanh."), "{out}");
    assert!(!page.contains("<script src") && !page.contains("<link"));
    assert!(page.len() < 6_000_000, "{} bytes", page.len());
    // Nothing is overwritten, and the same seed gives the same numbers.
    let again = succeed(&dir, "--out a");
    assert!(again.contains("a-2/activations.html"));
    assert_eq!(lines(&dir, "a"), lines(&dir, "a-2"));
    let other = succeed(&dir, "--out b --seed 2 --input uniform --act relu");
    assert!(other.contains("uniform") && lines(&dir, "b")[0]["measured"] != lines(&dir, "a")[0]["measured"]);
    let only = succeed(&dir, "--act relu --svg only.svg");
    assert!(only.ends_with("written to only.svg\n") && dir.path().join("only.svg").is_file());
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn selu_keeps_mean_and_variance_through_twenty_layers_and_a_badly_initialised_relu_loses_the_signal() {
    let dir = tempdir().unwrap();
    succeed(&dir, "--depth 20 --width 256 --act selu,relu --out own");
    let own = lines(&dir, "own");
    assert_eq!(own.len(), 40);
    for line in &own[..20] {
        let (mean, variance) = (number(&line["measured"], "mean"), number(&line["measured"], "variance"));
        assert!(
            mean.abs() < 0.05 && (variance - 1.0).abs() < 0.1,
            "layer {}: {mean}, {variance}",
            line["layer"]
        );
        assert!((number(line, "signal") - 1.0).abs() < 0.05);
        assert_eq!((&line["measured"]["zeros"], &line["measured"]["dead"]), (&0.into(), &0.into()));
    }
    for line in &own[20..] {
        let variance = number(&line["measured"], "variance");
        assert!((0.1..3.0).contains(&variance), "relu with he, layer {}: {variance}", line["layer"]);
    }
    succeed(&dir, "--depth 20 --width 256 --act relu --init pytorch --out bad");
    let bad = lines(&dir, "bad");
    let (first, last) = (&bad[0], &bad[19]);
    assert!(number(first, "signal") > 0.2 && number(last, "signal") < 1e-6, "{last}");
    assert!(number(&last["measured"], "dead") > 64.0 && number(&first["measured"], "dead") == 0.0);
}

#[test]
fn two_linear_layers_are_one_unless_a_function_stands_between_them() {
    let dir = tempdir().unwrap();
    let out = succeed(&dir, "--collapse");
    let row = |name: &str| -> Vec<f64> {
        let line = out.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.split_whitespace().skip(1).take(2).map(|cell| cell.parse().unwrap()).collect()
    };
    assert!(row("identity").iter().all(|apart| *apart < 1e-5), "{out}");
    for name in ["relu", "selu", "tanh", "gelu", "sigmoid"] {
        assert!(row(name).iter().all(|apart| *apart > 1e-2), "{name}\n{out}");
    }
    assert_eq!(out.matches("one layer does the same").count(), 1);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_file_is_an_input_too() {
    let dir = tempdir().unwrap();
    let values: Vec<u8> = [-2.0_f32, -1.0, 0.0, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = |shape: &[usize]| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &values).unwrap()
    };
    let write = |name: &str, tensors: Vec<(&str, safetensors::tensor::TensorView<'_>)>| {
        fs::write(dir.path().join(name), safetensors::serialize(tensors, None).unwrap()).unwrap();
    };
    for (name, shape) in [("flat", &[4][..]), ("rows", &[2, 2]), ("maps", &[1, 1, 2, 2]), ("one", &[1, 4, 1])]
    {
        write(name, vec![("x", view(shape))]);
        succeed(&dir, &format!("--input {name} --act relu,tanh --out out-{name}"));
        let line = &lines(&dir, &format!("out-{name}"))[0];
        assert_eq!((number(&line["measured"], "zeros"), &line["analytic"]), (3.0, &Value::Null));
        succeed(&dir, &format!("--input {name} --depth 2 --width 4 --svg x.svg"));
        succeed(&dir, &format!("--input {name} --collapse"));
    }
    write("two", vec![("x", view(&[4])), ("y", view(&[4]))]);
    fail(&dir, "--input two", 1, &["two: expected one tensor, found 2"]);
    fail(&dir, "--input flat --samples 3", 1, &["--samples"]);
}

#[test]
fn wrong_usage_ends_with_2_and_bad_files_with_1_in_one_line() {
    let dir = tempdir().unwrap();
    let bytes = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    bytes("text", b"hello, this is no tensor file at all");
    bytes("empty", b"");
    bytes("huge", &[&(1_u64 << 42).to_le_bytes()[..], b"{}"].concat());
    bytes(
        "lies",
        &[
            &64_u64.to_le_bytes()[..],
            br#"{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}"#,
        ]
        .concat(),
    );
    for name in ["text", "empty", "huge", "lies"] {
        fail(&dir, &format!("--input {name}"), 1, &[name, "safetensors"]);
    }
    fail(&dir, "--input nowhere", 1, &["nowhere", "normal, uniform or a file"]);
    fail(&dir, "--input .", 1, &["cannot read"]);
    fail(&dir, "--out text/below", 1, &["--out", "text"]);
    fail(&dir, "--html nowhere/x.html", 1, &["nowhere/x.html"]);
    for (args, says) in [
        ("--act rleu", "did you mean relu"),
        ("--samples 0", "from 1 to 100000000"),
        ("--samples 1000000000000", "100000000"),
        ("--depth 0", "from 1 to 1000"),
        ("--width 100000", "from 1 to 8192"),
        ("--init he", "--depth"),
        ("--init best --depth 2", "expected he, lecun"),
        ("--collapse --depth 3", "cannot be used with"),
        ("stray", "unexpected"),
    ] {
        fail(&dir, args, 2, &[says]);
    }
    fail(&dir, "--depth 1000 --width 8192", 1, &["--width"]);
    let (code, help, _) = run(&dir, "--help");
    assert_eq!(code, Some(0));
    assert!(help.contains("Examples:") && help.lines().all(|line| line.chars().count() <= 120), "{help}");
}
