//! What goes wrong around a run: signals, locks, full disks, directories that vanish, files that are torn. Each ends
//! with a message, and what was saved is there still.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use common::{
    Ran, at_home, compare, is_half_written, mnist, one_line, program, run, succeed, wait, whole_checkpoints,
};
use serde_json::Value;
use tempfile::TempDir;

/// The schedule does not look at the number of epochs, so that a run that does not end by itself can be compared with
/// one that does.
const SMALL: &str = "--dataset digits --limit 300 --widths 24,12 --batch-size 32 --threads 1 --dropout 0.2 --schedule constant";
const ENDLESS: &str = "--epochs 1000000 --out run";

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn lines(path: PathBuf) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// A process that ends with the test.
struct Running(Option<Child>);

impl Running {
    /// A run that does not end by itself, and has ended some epochs.
    fn endless(dir: &Path, more: &str) -> Self {
        let child = mnist(dir, &format!("{SMALL} {ENDLESS} {more}")).spawn().unwrap();
        let running = Self(Some(child));
        wait("epochs", || lines(dir.join("run/metrics.jsonl")) >= 6);
        running
    }

    fn signal(&self, name: &str) {
        let id = self.0.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    fn ended(mut self) -> Ran {
        self.0.take().unwrap().wait_with_output().unwrap().into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Goes on for two epochs more, and expects the files of a run that was never cut.
#[track_caller]
fn ends_as_if_nothing_had_happened(dir: &Path) {
    let epochs = whole_checkpoints(&dir.join("run")).pop().map_or(0, |at| at.0) + 2;
    let went_on = succeed(dir, &format!("--resume run --force --epochs {epochs} -q"));
    assert!(went_on.out.contains(&format!("{epochs} epochs")), "{}", went_on.out);
    let whole = temp();
    succeed(whole.path(), &format!("{SMALL} --epochs {epochs} --out whole -q"));
    compare(&dir.join("run"), &whole.path().join("whole"));
    assert!(!is_half_written(&dir.join("run")));
}

#[test]
fn a_signal_saves_a_checkpoint_and_gives_its_exit_code() {
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let dir = temp();
        let running = Running::endless(dir.path(), "-q");
        // Nothing else has saved one: that happens once a minute.
        assert_eq!(whole_checkpoints(&dir.path().join("run")), []);
        running.signal(name);
        let ran = running.ended();
        one_line(
            &ran,
            code,
            &["stopped on request; the results so far are in run; continue with --resume run"],
        );
        assert_eq!(whole_checkpoints(&dir.path().join("run")).len(), 1);
        ends_as_if_nothing_had_happened(dir.path());
    }
}

#[test]
fn a_run_without_checkpoints_has_none_and_starts_over() {
    let dir = temp();
    let running = Running::endless(dir.path(), "-q --checkpoint-every 0");
    running.signal("INT");
    one_line(&running.ended(), 130, &["the results so far are in run\n"]);
    assert!(!dir.path().join("run/checkpoints").exists());
    ends_as_if_nothing_had_happened(dir.path());
}

#[test]
fn a_run_has_one_process_and_a_dead_one_lets_go_of_it() {
    let dir = temp();
    let running = Running::endless(dir.path(), "-q --checkpoint-every 1");
    let second = run(mnist(dir.path(), "--resume run"));
    one_line(&second, 1, &["error: run: another process is writing to this run"]);
    running.signal("KILL");
    assert_eq!(running.ended().code, None);
    ends_as_if_nothing_had_happened(dir.path());
}

#[test]
fn a_standard_output_that_is_closed_ends_the_run_with_a_word_and_a_checkpoint() {
    let dir = temp();
    let mut running = Running::endless(dir.path(), "");
    drop(running.0.as_mut().unwrap().stdout.take());
    one_line(&running.ended(), 1, &["standard output was closed", "continue with --resume run"]);
    ends_as_if_nothing_had_happened(dir.path());

    let dir = temp();
    let line = format!("{} {SMALL} {ENDLESS} | head -1", program().display());
    let ran = run({
        let mut shell = at_home("sh", dir.path(), "-c");
        shell.arg(line);
        shell
    });
    one_line(&ran, 0, &["standard output was closed"]);
    assert!(ran.out.starts_with("relu-dropout0.2-seed1: mlp") && ran.out.lines().count() == 1);
    ends_as_if_nothing_had_happened(dir.path());
}

#[test]
fn a_pipe_without_a_reader_blocks_the_run_and_loses_nothing() {
    let dir = temp();
    let running = Running::endless(dir.path(), "--checkpoint-every 1");
    let metrics = dir.path().join("run/metrics.jsonl");
    let mut before = 0;
    while lines(metrics.clone()) > before {
        before = lines(metrics.clone());
        std::thread::sleep(Duration::from_millis(400));
    }
    // The first is noticed when the pipe is read; the second ends it.
    running.signal("TERM");
    std::thread::sleep(Duration::from_millis(50));
    running.signal("TERM");
    assert_eq!(running.ended().code, Some(143));
    ends_as_if_nothing_had_happened(dir.path());
}

/// A small file system of its own, where the test may mount one.
struct Mount(TempDir);

impl Mount {
    fn new(test: &str) -> Option<Self> {
        let dir = temp();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(dir.path()).output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self(dir));
        }
        println!("skipped: {test}: a file system cannot be mounted here");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_ends_the_run_with_one_line_and_what_was_saved_is_there() {
    let Some(disk) = Mount::new("a full disk") else { return };
    let dir = disk.0.path();
    let ran = run(mnist(dir, &format!("{SMALL} {ENDLESS} -q --checkpoint-every 1 --keep last:1000")));
    one_line(&ran, 1, &["error: relu-dropout0.2-seed1: run/", "No space left on device"]);
    let checkpoints = whole_checkpoints(&dir.join("run"));
    assert!(checkpoints.len() > 5 && !is_half_written(&dir.join("run")), "{checkpoints:?}");
    // Room is made.
    for (epoch, _) in &checkpoints[..checkpoints.len() - 1] {
        fs::remove_dir_all(dir.join(format!("run/checkpoints/epoch-{epoch}"))).unwrap();
    }
    ends_as_if_nothing_had_happened(dir);
}

#[test]
fn a_write_that_fails_in_the_middle_ends_the_run_with_one_line() {
    // The system writes up to the limit: the incomplete part is a line, or a file of a checkpoint.
    for (kibibytes, file) in [(120, "run/"), (16, "run/checkpoints/epoch-1.part/")] {
        let dir = temp();
        let mut shell = at_home("bash", dir.path(), "-c");
        shell.arg(format!(
            "trap '' XFSZ; ulimit -f {kibibytes}; exec {} {SMALL} {ENDLESS} -q --checkpoint-every 1",
            program().display()
        ));
        let Ok(output) = shell.output() else {
            println!("skipped: no bash to set a limit");
            return;
        };
        one_line(&output.into(), 1, &[file, "File too large"]);
        assert!(!is_half_written(&dir.path().join("run")));
        ends_as_if_nothing_had_happened(dir.path());
    }
}

#[test]
fn a_directory_that_is_taken_away_ends_the_run_and_does_not_come_back() {
    let dir = temp();
    for every in ["1", "0"] {
        let running = Running::endless(dir.path(), &format!("-q --checkpoint-every {every}"));
        let gone = dir.path().join(format!("gone-{every}"));
        fs::rename(dir.path().join("run"), &gone).unwrap();
        one_line(&running.ended(), 1, &["error: relu-dropout0.2-seed1: run/"]);
        assert!(!dir.path().join("run").exists());
    }
    fs::rename(dir.path().join("gone-1"), dir.path().join("run")).unwrap();
    ends_as_if_nothing_had_happened(dir.path());
}

#[test]
fn a_directory_that_cannot_be_written_is_one_line() {
    let Some(disk) = Mount::new("a read-only directory") else { return };
    let dir = disk.0.path();
    succeed(dir, &format!("{SMALL} --epochs 1 --out run -q"));
    let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(dir).status().unwrap();
    assert!(remount.success());
    one_line(&run(mnist(dir, "--resume run")), 1, &["error: run/lock: Read-only file system"]);
    one_line(&run(mnist(dir, &format!("{SMALL} --out other"))), 1, &["error: --out: other", "Read-only"]);
}

#[test]
fn lines_that_break_off_are_cut_and_lines_that_are_missing_are_an_error() {
    let dir = temp();
    let running = Running::endless(dir.path(), "-q --checkpoint-every 2");
    running.signal("KILL");
    running.ended();
    let path = |name: &str| dir.path().join("run").join(name);
    for name in ["metrics.jsonl", "layers.jsonl", "timing.jsonl"] {
        let text = fs::read_to_string(path(name)).unwrap();
        fs::write(path(name), format!("{text}{}", &text[..text.len() / 9])).unwrap();
    }
    ends_as_if_nothing_had_happened(dir.path());

    let text = fs::read_to_string(path("metrics.jsonl")).unwrap();
    fs::write(path("metrics.jsonl"), &text[..50]).unwrap();
    let ran = run(mnist(dir.path(), "--resume run --epochs 1000 --force"));
    one_line(&ran, 1, &["run/metrics.jsonl: expected at least", "found 50", "cut or replaced"]);
}

#[test]
fn a_checkpoint_that_was_damaged_is_passed_over_with_a_word() {
    let dir = temp();
    let running = Running::endless(dir.path(), "-q --checkpoint-every 1 --keep last:3");
    running.signal("KILL");
    running.ended();
    let at = whole_checkpoints(&dir.path().join("run"));
    let (newest, before) = (at[at.len() - 1].0, at[at.len() - 2].0);
    let file = dir.path().join(format!("run/checkpoints/epoch-{newest}/optimizer.safetensors"));
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let epochs = newest + 3;
    let ran = run(mnist(dir.path(), &format!("--resume run --force --epochs {epochs} -q")));
    let says = [format!("epoch-{newest}/optimizer"), format!("resuming from epoch-{before} instead")];
    one_line(&ran, 0, &says.each_ref().map(String::as_str));
    succeed(dir.path(), &format!("{SMALL} --epochs {epochs} --out whole -q"));
    compare(&dir.path().join("run"), &dir.path().join("whole"));
}

#[test]
fn another_run_is_refused_by_name_or_taken_and_recorded() {
    let dir = temp();
    let dir = dir.path();
    let config = dir.join("run/config.json");
    succeed(dir, &format!("{SMALL} --epochs 3 --out run -q"));
    one_line(
        &run(mnist(dir, "--resume nowhere")),
        1,
        &["error: nowhere: expected the directory of a run to resume: correct the path: No such file"],
    );
    fs::create_dir(dir.join("empty")).unwrap();
    one_line(&run(mnist(dir, "--resume empty")), 1, &["error: empty: expected a run to resume"]);
    one_line(&run(mnist(dir, "--resume run --out other")), 2, &["--out"]);
    one_line(&run(mnist(dir, "--force")), 2, &["--resume"]);
    one_line(&run(mnist(dir, "--keep first:3")), 2, &["expected last:N"]);
    for (change, says) in [
        ("--lr 0.5", "learning_rate was 0.001 and is 0.5"),
        ("--epochs 4", "epochs was 3 and is 4, on which the learning rate depends"),
        ("--limit 299", "data.sha256 was"),
        ("--act selu", "act was \"relu\" and is \"selu\""),
        ("--seed 2", "seed was 1 and is 2"),
        ("--track off", "track was \"full\" and is \"off\""),
        ("--optimizer sgd", "optimizer was"),
    ] {
        let ran = run(mnist(dir, &format!("--resume run {change}")));
        one_line(&ran, 1, &["error: run: ", says, "--force"]);
    }
    // Nothing was touched, and this is no change.
    let ran = succeed(dir, "--resume run --threads 2");
    assert_eq!(ran.out, "run is finished: 3 of 3 epochs\n");
    fs::remove_file(dir.join("run/report.html")).unwrap();
    let out = succeed(dir, "--resume run").out;
    assert!(out.contains("\nfc1 ") && dir.join("run/report.html").exists(), "{out}");

    // Another version wrote it.
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"taper\": \"0.1.0\"", "\"taper\": \"0.0.9\"")).unwrap();
    one_line(&run(mnist(dir, "--resume run")), 1, &["taper was \"0.0.9\" and is \"0.1.0\""]);
    // The files of the run and the checkpoint must belong to one run.
    fs::write(&config, text.replace("\"batch_size\": 32", "\"batch_size\": 30")).unwrap();
    one_line(&run(mnist(dir, "--resume run")), 1, &["run/checkpoints/epoch-3: batch_size was 32 and is 30"]);
    fs::write(&config, &text).unwrap();

    let forced = |change: &str, epochs: u32| {
        succeed(dir, &format!("--resume run --force -q {change}"));
        assert_eq!(lines(dir.join("run/metrics.jsonl")), 2 * epochs as usize + 1);
        let config: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        config["config"]["forced"].as_array().unwrap().len()
    };
    assert_eq!(forced("--epochs 5 --lr 0.0001", 5), 1);
    assert_eq!(forced("--epochs 6", 6), 2, "the change before is still known");
    // What was accepted need not be accepted again.
    assert_eq!(succeed(dir, "--resume run").out, "run is finished: 6 of 6 epochs\n");
}

#[test]
fn nothing_in_a_run_leads_out_of_its_directory() {
    let dir = temp();
    let dir = dir.path();
    succeed(dir, &format!("{SMALL} --epochs 2 --out run -q"));
    let config = dir.join("run/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::remove_file(dir.join("run/model.safetensors")).unwrap();
    for name in ["../elsewhere", "/elsewhere", ".."] {
        let name = format!("\"name\": \"{name}\"");
        let changed = text.replacen("\"name\": \"relu-dropout0.2-seed1\"", &name, 1);
        fs::write(&config, changed.replace("\"out\": \"run\"", "\"out\": \"elsewhere\"")).unwrap();
        assert_eq!(run(mnist(dir, "--resume run")).code, Some(1));
    }
    fs::write(&config, text.replace("\"out\": \"run\"", "\"out\": \"elsewhere\"")).unwrap();
    succeed(dir, "--resume run -q");
    let names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["run"]);
    for act in ["\"rleu\"", "[1]", "7", "null", "{\"sweep\": []}", "{\"sweep\": [\"relu\", \"../x\"]}"] {
        let changed = text.replacen("\"act\": \"relu\"", &format!("\"act\": {act}"), 2);
        fs::write(&config, changed).unwrap();
        let ran = run(mnist(dir, "--resume run"));
        assert!(ran.code != Some(0) && ran.err.lines().count() == 1, "{act}: {}", ran.err);
    }
    fs::write(&config, &text[..text.len() / 2]).unwrap();
    one_line(&run(mnist(dir, "--resume run")), 1, &["config.json", "not a valid record"]);
}

#[test]
fn a_grid_resumes_its_unfinished_runs() {
    let dir = temp();
    let dir = dir.path();
    let grid =
        format!("{SMALL} --act relu,selu,tanh --epochs 150 -q --checkpoint-every 5 --checkpoint-steps 33");
    succeed(dir, &format!("{grid} --out whole"));
    for jobs in ["1", "2"] {
        let out = format!("cut-{jobs}");
        let child = mnist(dir, &format!("{grid} --jobs {jobs} --out {out}")).spawn().unwrap();
        let running = Running(Some(child));
        let second = dir.join(&out).join("selu-dropout0.2-seed1");
        wait("the second run", || !whole_names(&second).is_empty());
        running.signal("KILL");
        running.ended();
        let first = dir.join(&out).join("relu-dropout0.2-seed1/model.safetensors");
        let modified = || fs::metadata(&first).and_then(|of| of.modified()).ok();
        let before = modified();
        // One of them by itself, then all.
        succeed(dir, &format!("--resume {out}/selu-dropout0.2-seed1 -q"));
        let ran = succeed(dir, &format!("--resume {out}"));
        assert!(ran.out.contains("3 runs on digits") && ran.err.is_empty(), "{}{}", ran.out, ran.err);
        assert!(before.is_none() || modified() == before, "a run that was finished is left alone");
        for name in ["relu", "selu", "tanh"].map(|act| format!("{act}-dropout0.2-seed1")) {
            compare(&dir.join(&out).join(&name), &dir.join("whole").join(&name));
        }
        assert_eq!(
            succeed(dir, &format!("--resume {out}")).out,
            format!("{out} is finished: 150 of 150 epochs\n")
        );
        let page = dir.join(&out).join("report.html");
        fs::remove_file(&page).unwrap();
        let again = succeed(dir, &format!("--resume {out}")).out;
        assert!(again.contains("fc1    relu") && !again.contains("samples/s of training"), "{again}");
        assert!(page.exists());
    }
}

/// The checkpoints of a run that others may be writing at this moment.
fn whole_names(run: &Path) -> Vec<PathBuf> {
    fs::read_dir(run.join("checkpoints"))
        .map_or(Vec::new(), |entries| entries.map(|e| e.unwrap().path()).collect())
}

#[test]
fn the_output_of_a_resumed_run_covers_all_epochs() {
    let dir = temp();
    let dir = dir.path();
    let running = Running::endless(dir, "--checkpoint-every 1");
    running.signal("TERM");
    running.ended();
    let epochs = whole_checkpoints(&dir.join("run"))[0].0 + 2;
    let ran = succeed(dir, &format!("--resume run --force --epochs {epochs}"));
    succeed(dir, &format!("{SMALL} --epochs {epochs} --out whole -q"));
    // The console has the epochs that were made now; table and page have all.
    let told = |epoch: u32| {
        let row = format!("{epoch}/{epochs}  ");
        ran.out.lines().any(|line| line.trim_start().starts_with(&row))
    };
    assert!(!told(1) && told(epochs), "{}", ran.out);
    let row = |out: &str| {
        let row =
            out.lines().find(|line| line.starts_with("relu") && line.contains('%')).unwrap().to_string();
        row.split_whitespace().take(6).map(str::to_string).collect::<Vec<_>>()
    };
    let whole = succeed(dir, &format!("{SMALL} --epochs {epochs} -q"));
    assert_eq!(row(&ran.out), row(&whole.out));
    let page = fs::read_to_string(dir.join("run/report.html")).unwrap();
    assert!(page.len() > 10_000);
    let reports = taper::report::read_reports(dir.join("run")).unwrap();
    assert_eq!(reports.iter().map(|of| of.epoch).collect::<Vec<_>>(), (0..=epochs).collect::<Vec<_>>());
}
