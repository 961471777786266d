//! What the project depends on, in checks that need no tool but cargo; `deny.toml` has more.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The names of everything that is built for a package, itself among them.
fn needs(package: &str) -> Vec<String> {
    let tree = ["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none", "--package"];
    let output = Command::new(env!("CARGO")).args(tree).arg(package).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_string();
    String::from_utf8(output.stdout).unwrap().lines().map(name).collect()
}

#[test]
fn report_and_view_know_no_candle() {
    for package in ["taper-report", "taper-view"] {
        let needs = needs(package);
        assert!(needs.contains(&"serde".to_string()), "{needs:?}");
        for heavy in ["candle-core", "candle-nn", "gemm", "tokenizers"] {
            assert!(!needs.contains(&heavy.to_string()), "{package} needs {heavy}");
        }
    }
    assert!(needs("taper-train").contains(&"candle-core".to_string()), "the names are still these");
}

#[test]
fn the_tls_of_downloads_is_not_the_systems() {
    let needs = needs("taper-data");
    assert!(needs.contains(&"rustls".to_string()));
    assert!(!needs.contains(&"openssl-sys".to_string()) && !needs.contains(&"native-tls".to_string()));
}

#[test]
fn every_dependency_comes_from_the_registry_with_a_checksum() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut foreign = 0;
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| package.lines().find_map(|line| line.strip_prefix(name));
        let name = field("name = ").unwrap_or_default();
        if let Some(source) = field("source = ") {
            foreign += 1;
            assert!(source.starts_with("\"registry+"), "{name} comes from {source}");
            assert!(field("checksum = ").is_some_and(|sum| sum.len() == 66), "{name} has no checksum");
        } else {
            assert!(name.starts_with("\"taper") || name == "\"bench-candle\"", "{name} has no source");
        }
    }
    assert!(foreign > 100);
}
