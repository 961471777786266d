//! What every fuzz target does with the bytes it is given, and must be true of them: the targets call this from
//! `fuzz_targets`, and the project's own tests, with random and with mutated files, from `crates/taper/tests/hostile.rs`.
//!
//! A new reader has a file with a `check` here, a line in `TARGETS` there, a target of two lines with its `[[bin]]` in
//! `Cargo.toml`, and some good and bad files in `corpus`.

pub mod activation;
pub mod config;
pub mod idx;
pub mod lines;
pub mod options;
pub mod page;
pub mod safetensors;
pub mod state;

use std::{fmt::Display, fs, path::Path};

/// Calls `read` with the path of a file that holds these bytes.
pub fn with_file<T>(bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static DIR: tempfile::TempDir = {
            // In memory, where there is such a place.
            let shared = Path::new("/dev/shm");
            let dir = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
            dir.expect("a directory for temporary files")
        };
    }
    DIR.with(|dir| {
        let path = dir.path().join("file");
        fs::write(&path, bytes).expect("a temporary file");
        read(&path)
    })
}

/// An error is one line, of a length that one can read, and changes no terminal.
pub fn one_line(error: &impl Display) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() < 8_000, "{} bytes", text.len());
    assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
}
