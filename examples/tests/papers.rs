//! The example `papers` as a program: its list, its short protocols, its files, its exit codes.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{Ran, at_home, example};
use serde_json::Value;
use tempfile::tempdir;

/// All papers.
const NAMES: [&str; 10] = [
    "born-dead",
    "changing-regression",
    "permuted-mnist",
    "k-winners",
    "adam-l2",
    "selu",
    "dropout",
    "glorot",
    "denser",
    "symmetry",
];

fn papers(dir: &Path, args: &str) -> Ran {
    common::run(at_home(example("papers"), dir, args))
}

#[test]
fn the_list_has_every_paper_with_what_is_asserted() {
    let dir = tempdir().unwrap();
    let Ran { code, out, err } = papers(dir.path(), "list");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    NAMES.iter().for_each(|name| assert!(out.contains(name), "{out}"));
    let stated = |label: &str| out.lines().filter(|line| line.trim_start().starts_with(label)).count();
    assert_eq!(["claim ", "source ", "asserted "].map(stated), [NAMES.len(); 3]);
    let Ran { code, err, .. } = papers(dir.path(), "unborn");
    assert!(code == Some(2) && err.starts_with("error: ") && err.contains("born-dead"), "{err}");
}

#[test]
fn networks_are_born_dead_as_often_as_the_law_says() {
    let dir = tempdir().unwrap();
    let Ran { code, out, err } = papers(dir.path(), "born-dead --quick --check --out p");
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(!out.contains("misses"), "{out}");
    let written = dir.path().join("p/born-dead-quick");
    let rows: Vec<Value> = serde_json::from_slice(&fs::read(written.join("rows.json")).unwrap()).unwrap();
    assert_eq!(rows.iter().filter(|row| !row["band"].is_null()).count(), rows.len());
    assert!(fs::read_to_string(written.join("picture.svg")).unwrap().starts_with("<svg"));
}

#[test]
fn the_short_protocols_of_all_papers_agree() {
    let Some(data) = std::env::var_os("TAPER_DATA") else {
        return eprintln!("skipped: the papers need MNIST: set TAPER_DATA to its directory");
    };
    let dir = tempdir().unwrap();
    let mut command = at_home(example("papers"), dir.path(), "all --quick --check --out p");
    command.env("TAPER_DATA", data);
    let Ran { code, out, err } = common::run(command);
    assert_eq!(code, Some(0), "{out}{err}");
    let table = &out[out.rfind("\npaper ").unwrap()..];
    for name in NAMES {
        let rows: Vec<&str> = table.lines().filter(|row| row.starts_with(name)).collect();
        assert!(rows.iter().any(|row| row.contains(" holds")), "{name}: {table}");
        let picture = dir.path().join(format!("p/{name}-quick/picture.svg"));
        assert!(fs::read_to_string(picture).unwrap().starts_with("<svg"));
    }
}

#[test]
fn a_paper_without_its_data_says_what_it_needs() {
    let dir = tempdir().unwrap();
    let Ran { code, err, .. } = papers(dir.path(), "selu --quick --out p");
    assert!(code == Some(1) && err.starts_with("error: data set mnist not found"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(!dir.path().join("p").exists());
}

#[test]
fn a_finished_protocol_is_only_compared_and_a_missed_band_fails_with_check() {
    let dir = tempdir().unwrap();
    // One run has no standard deviation, so its numbers agree with nothing.
    let args = "changing-regression --quick --seeds 1 --out p";
    let first = papers(dir.path(), args);
    assert_eq!(first.code, Some(0), "{}{}", first.out, first.err);
    assert!(first.out.contains("misses"), "{}", first.out);
    let rows = dir.path().join("p/changing-regression-1-quick/rows.json");
    let measured = fs::read(&rows).unwrap();
    let second = papers(dir.path(), &format!("{args} --check"));
    assert!(second.code == Some(1) && second.out.contains("is finished"), "{}{}", second.out, second.err);
    assert!(second.err.contains("outside of their bands"), "{}", second.err);
    assert_eq!(fs::read(&rows).unwrap(), measured);
}
