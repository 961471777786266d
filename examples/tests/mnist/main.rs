//! The example `mnist` as a program: its output, its files, and its errors.
//!
//! Every test runs in a directory of its own with nothing of the user's: no cache, no data, no network.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod data;
mod others;
mod output;
mod records;
mod repeating;
mod stopping;
mod usage;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::{Ran, one_line, run};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::Value;
use tempfile::TempDir;

/// Digits, few and in a small network: a run takes a few hundredths of a second.
const SMALL: &str = "--dataset digits --limit 256 --widths 16,8 --batch-size 32 --threads 1 --epochs 2";

/// Runs it to its end.
fn mnist(dir: &Path, args: &str) -> Ran {
    run(common::mnist(dir, args))
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
    one_line(&ran, code, says);
    assert!(ran.err.starts_with("error: "), "{args}: {}", ran.err);
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
