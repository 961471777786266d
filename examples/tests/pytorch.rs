//! `examples/pytorch/taper_torch.py`: Taper's numbers for the same tensors, and a page of a PyTorch training.
//!
//! `TAPER_PYTHON` names a Python that has PyTorch, else it is `python3`; where it has none, the tests say that they skipped.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io::Write};

use candle_core::{Device, Tensor};
use serde_json::Value;
use taper::hooks::{Activation, Pass, Recorder, Site, Units};
use taper::report::{
    EpochReport, LayerLine, LayerStats, MetricsLine, Run, RunDir, Sink, Split, SplitReport, read_config,
    read_lines,
};
use tempfile::{TempDir, tempdir};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

/// Runs a Python program in `dir`; false where there is no PyTorch.
fn python(dir: &TempDir, program: &Path, args: &[&str]) -> Result<bool> {
    let named = std::env::var_os("TAPER_PYTHON");
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let find = "import importlib.util as of, sys; sys.exit(of.find_spec('torch') is None)";
    let has_torch = Command::new(&python).args(["-c", find]).output();
    if !has_torch.is_ok_and(|output| output.status.success()) {
        if named.is_some() {
            return Err(
                format!("TAPER_PYTHON: expected a Python with torch, found {}", python.display()).into()
            );
        }
        // Not captured, unlike that of eprintln.
        std::io::stderr().write_all(b"skipped: python3 has no torch: name one that has in TAPER_PYTHON\n")?;
        return Ok(false);
    }
    let mut command = Command::new(&python);
    command.arg(program).args(args).current_dir(dir).env("PYTHONPATH", root().join("pytorch"));
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output()?;
    if !output.status.success() {
        return Err(format!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(true)
}

/// What differs between two records: numbers by more than rounding, anything else at all.
fn differences(place: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().zip(b.values()).for_each(|((key, a), b)| {
                differences(&format!("{place}.{key}"), a, b, found);
            });
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            if (a - b).abs() > 1e-8 * b.abs() {
                found.push(format!("{place}: {a}, not {b}"));
            }
        }
        _ if theirs == ours => {}
        _ => found.push(format!("{place}: {theirs}, not {ours}")),
    }
}

#[test]
fn the_same_tensors_have_the_same_numbers() -> Result {
    let dir = tempdir()?;
    if !python(&dir, &root().join("pytorch/compare.py"), &["."])? {
        return Ok(());
    }
    let tensors = candle_core::safetensors::load(dir.path().join("tensors.safetensors"), &Device::Cpu)?;
    let tensor = |name: String| -> Result<&Tensor> { Ok(tensors.get(&name).ok_or(name)?) };
    let lines: Vec<LayerLine> = read_lines(dir.path().join("run/layers.jsonl"))?;
    let mut found = Vec::new();
    for LayerLine { of: theirs, .. } in &lines {
        let (name, text) = (theirs.site.as_str(), theirs.activation.as_deref().ok_or("no activation")?);
        let units = if tensor(format!("{name}.0.ys"))?.rank() == 4 { Units::Second } else { Units::Last };
        let site = Site::behind(name, text.parse::<Activation>()?).units(units);
        let mut recorder = Recorder::new();
        for batch in 0..3 {
            let [xs, ys] = ["xs", "ys"].map(|of| tensor(format!("{name}.{batch}.{of}")));
            Pass::eval(&mut recorder).see(&site, xs?, ys?)?;
        }
        let ours = recorder.finish().remove(0);
        differences(
            &format!("{name} {text}"),
            &serde_json::to_value(theirs)?,
            &serde_json::to_value(ours)?,
            &mut found,
        );
    }
    assert_eq!(found, [""; 0]);
    assert_eq!(lines.len(), 24 * 3);
    let sum = |of: fn(&LayerStats) -> u64| lines.iter().map(|line| of(&line.of)).sum::<u64>();
    assert!(sum(|of| of.nan) > 0 && sum(|of| of.infinite) > 0 && sum(|of| of.dead.unwrap_or(0)) > 0);
    Ok(())
}

#[test]
fn what_the_watch_promises_in_python_holds() -> Result {
    let dir = tempdir()?;
    python(&dir, &root().join("pytorch/test_taper_torch.py"), &[])?;
    Ok(())
}

/// The names of all fields, those of nested records after a dot.
fn fields(place: &str, record: &Value, found: &mut BTreeSet<String>) {
    if let Value::Object(record) = record {
        for (key, value) in record {
            found.insert(format!("{place}.{key}"));
            fields(&format!("{place}.{key}"), value, found);
        }
    }
}

fn fields_of(line: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    fields("", &serde_json::from_str(line)?, &mut found);
    Ok(found)
}

#[test]
fn the_manuals_pytorch_training_has_every_field_and_a_page() -> Result {
    let dir = tempdir()?;
    let manual = fs::read_to_string(root().join("../docs/recipes.md"))?;
    let (_, block) = manual.split_once("```python\n").ok_or("docs/recipes.md has no Python")?;
    let (program, _) = block.split_once("```").ok_or("the block does not end")?;
    // What the record of the last epoch must say, counted without the watch.
    let check = "
hidden = net[:2](test_xs)
with open(watch.path / 'layers.jsonl') as lines:
    line = [of for of in map(json.loads, lines) if of['split'] == 'test' and of['site'] == '0'][-1]
assert line['zeros'] == (hidden == 0).sum().item() > 0, line['zeros']
assert line['dead_units'] == [i for i in range(32) if (hidden[:, i] == 0).all()], line['dead_units']
assert abs(line['mean'] - hidden.double().mean().item()) < 1e-9, line['mean']
";
    let file = dir.path().join("program.py");
    fs::write(&file, format!("import json\n{program}{check}"))?;
    if !python(&dir, &file, &[])? {
        return Ok(());
    }

    let run_dir = dir.path().join("runs/torch");
    let run = read_config(run_dir.join("config.json"))?;
    assert_eq!((run.name.as_str(), run.seed, run.epochs), ("torch", 1, 5));
    let layers: Vec<LayerLine> = read_lines(run_dir.join("layers.jsonl"))?;
    let windows: Vec<_> = layers.iter().map(|line| (line.epoch, line.split, line.of.site.as_str())).collect();
    assert_eq!(
        windows[..4],
        [(0, Split::Test, "0"), (0, Split::Test, "3"), (1, Split::Train, "0"), (1, Split::Train, "3")]
    );
    assert_eq!(layers.len(), 2 + 5 * 2 * 2);
    assert!(layers.iter().all(|line| line.of.died.is_some() == (line.epoch > 1)));
    let metrics: Vec<MetricsLine> = read_lines(run_dir.join("metrics.jsonl"))?;
    let last = metrics.last().ok_or("no metrics")?;
    assert!(last.of.score.metric("accuracy") > Some(0.8) && last.of.score.samples == 200);

    // The same fields as Taper writes.
    let mut ours = RunDir::create(dir.path().join("ours"))?;
    ours.begin(&Run { config: serde_json::json!({}), ..run })?;
    let score = metrics[1].of.score.clone();
    let of = SplitReport { layers: vec![layers[2].of.clone()], ..SplitReport::new(Split::Train, score) };
    ours.epoch(&EpochReport { epoch: 1, splits: vec![of] })?;
    for (name, their_line) in [("layers.jsonl", 2), ("metrics.jsonl", 1), ("timing.jsonl", 1)] {
        let read = |dir: &Path| fs::read_to_string(dir.join(name));
        let (theirs, ours) = (read(&run_dir)?, read(ours.path())?);
        let theirs = theirs.lines().nth(their_line).ok_or("too few lines")?;
        assert_eq!(fields_of(theirs)?, fields_of(&ours)?, "{name}");
    }

    let output = Command::new(common::example("report")).arg(&run_dir).output()?;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let page = fs::read_to_string(run_dir.join("report.html"))?;
    assert!(page.contains("quadrants") && page.contains("mlp 2-32-32-2"));
    Ok(())
}
