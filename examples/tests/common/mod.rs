//! Runs the examples as child processes, for tests that kill them or give them bad input.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use taper::train::Checkpoint;

/// Files that must be equal to the byte, wherever a run was interrupted.
pub const SAME: [&str; 4] = ["model.safetensors", "metrics.jsonl", "layers.jsonl", "steps.jsonl"];

/// Path of the `mnist` example.
pub fn program() -> PathBuf {
    example("mnist")
}

/// Path of an example, which `cargo test` builds.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let path = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is not there: run `cargo build --examples` first", path.display());
    path
}

/// A command with these arguments, with `dir` as working and home directory and without the user's environment variables.
pub fn at_home(program: impl AsRef<std::ffi::OsStr>, dir: &Path, args: &str) -> Command {
    let mut command = Command::new(program);
    command.args(args.split_whitespace()).current_dir(dir).env("HOME", dir).env("XDG_CACHE_HOME", dir);
    for name in ["TAPER_DATA", "RUST_LOG", "NO_COLOR", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    // Nothing listens on this port, so downloads fail at once.
    command
        .env("ALL_PROXY", "http://127.0.0.1:9")
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// `mnist` with these arguments.
pub fn mnist(dir: &Path, args: &str) -> Command {
    at_home(program(), dir, args)
}

pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

pub fn run(mut command: Command) -> Ran {
    command.output().unwrap().into()
}

/// Runs it and expects success.
#[track_caller]
pub fn succeed(dir: &Path, args: &str) -> Ran {
    let ran = run(mnist(dir, args));
    assert_eq!(ran.code, Some(0), "{args}\n{}{}", ran.out, ran.err);
    ran
}

/// Expects this exit code and one line on standard error that has all of `says`.
#[track_caller]
pub fn one_line(ran: &Ran, code: i32, says: &[&str]) {
    assert_eq!((ran.code, ran.err.lines().count()), (Some(code), 1), "{}{}", ran.out, ran.err);
    for say in says {
        assert!(ran.err.contains(say), "expected '{say}' in\n{}", ran.err);
    }
}

/// The checkpoints of a run that have a name of their own, each of which must be whole; oldest first.
pub fn whole_checkpoints(run: &Path) -> Vec<(u32, u64)> {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut points: Vec<_> = paths
        .filter(|path| path.extension().is_none_or(|end| end != "part"))
        .map(|path| {
            let at = Checkpoint::<serde_json::Value>::read(&path).unwrap().at;
            (at.epoch, at.batch)
        })
        .collect();
    points.sort_unstable();
    points
}

/// Whether a checkpoint is being written or removed, or was when the process died.
pub fn is_half_written(run: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(run.join("checkpoints")) else { return false };
    entries.any(|entry| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "part")))
}

/// Waits until something is so.
#[track_caller]
pub fn wait(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Compares the files that must be the same; returns how many bytes they have.
#[track_caller]
pub fn compare(run: &Path, expected: &Path) -> usize {
    let read = |dir: &Path, name: &str| fs::read(dir.join(name)).unwrap();
    for name in SAME {
        assert!(read(run, name) == read(expected, name), "{name} of {} is another", run.display());
    }
    SAME.iter().map(|name| read(run, name).len()).sum()
}
