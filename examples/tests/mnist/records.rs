//! The files that a run leaves.

use std::collections::BTreeSet;
use std::fs;

use safetensors::tensor::Dtype;
use serde_json::Value;

use crate::{SMALL, fail, keys, lines, mnist, succeed, temp, weights};

/// `(epoch, split)` of every line, in order.
fn order(lines: &[Value]) -> Vec<(u64, &str)> {
    lines.iter().map(|line| (line["epoch"].as_u64().unwrap(), line["split"].as_str().unwrap())).collect()
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
