//! A training process is killed (SIGKILL) at random times, also while it writes a checkpoint, and resumed each time.
//! Its files end as those of a run that was left in peace. `just crash` prints the figures.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{at_home, compare, example, is_half_written, run, whole_checkpoints};
use rand::RngExt;

/// A run of about a second, in which something is being saved for a good part of the time.
const RUN: &str = "--dataset digits --validation 200 --widths 160,80 --dropout 0.3 --batch-size 32 --epochs 20 --quiet \
                   --threads 1 --checkpoint-every 1 --checkpoint-steps 9 --keep last:2,best:1";

#[derive(Default)]
struct Figures {
    kills: usize,
    while_saving: usize,
    before_the_first: usize,
    resumes: usize,
    anew: usize,
    runs: usize,
    bytes: usize,
}

/// A training program, its first command, and its command to resume.
struct Program {
    name: &'static str,
    kills: usize,
    begin: &'static str,
    resume: fn(&str) -> String,
}

#[test]
fn a_process_that_is_killed_fifty_times_ends_with_the_files_of_one_that_was_not() {
    survives(&Program { name: "mnist", kills: 50, begin: RUN, resume: |path| format!("--resume {path}") });
}

#[test]
fn a_program_with_a_custom_loss_resumes_too() {
    const RUN: &str =
        "--dataset digits --epochs 25 --checkpoint-every 1 --checkpoint-steps 9 --threads 1 --quiet";
    survives(&Program {
        name: "autoencoder",
        kills: 20,
        begin: RUN,
        resume: |path| format!("--resume {path}"),
    });
}

fn survives(program: &Program) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let start = Instant::now();
    let ran = run(at_home(example(program.name), dir, &format!("{} --out whole", program.begin)));
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    let alone = start.elapsed();
    let (mut figures, mut rng) = (Figures::default(), taper::hooks::rng(1));
    while figures.kills < program.kills {
        let path = dir.join(format!("cut-{}", figures.runs));
        // Killed until it ends, or until that was done often enough.
        while !killed(program, dir, &path, alone, &mut figures, &mut rng) {}
        figures.runs += 1;
        figures.bytes += compare(&path, &dir.join("whole"));
        let before = fs::read(path.join("metrics.jsonl")).unwrap();
        let last = run(at_home(example(program.name), dir, &(program.resume)(path.to_str().unwrap())));
        assert_eq!(last.code, Some(0), "{}{}", last.out, last.err);
        assert!(before == fs::read(path.join("metrics.jsonl")).unwrap(), "what is finished stays");
        assert!(!is_half_written(&path), "what was left behind is removed");
    }
    let Figures { kills, while_saving, before_the_first, resumes, anew, runs, bytes } = figures;
    println!(
        "{}: {kills} kills in {runs} runs, {while_saving} of them while a checkpoint was being written or removed, \
         {before_the_first} before there was one; {resumes} resumes, {anew} starts anew; {bytes} bytes compared, 0 \
         differences; {:.0} s",
        program.name,
        start.elapsed().as_secs_f64()
    );
    assert!(while_saving >= program.kills / 5, "{while_saving}");
}

/// Starts or resumes the run, and kills it at some time; true if it ended before.
fn killed(
    program: &Program,
    dir: &Path,
    path: &Path,
    alone: Duration,
    figures: &mut Figures,
    rng: &mut taper::hooks::Rng,
) -> bool {
    let args = if path.join("config.json").exists() {
        figures.resumes += 1;
        (program.resume)(path.to_str().unwrap())
    } else {
        // Killed before it wrote its configuration: there is nothing to resume.
        if path.exists() {
            fs::remove_dir_all(path).unwrap();
            figures.anew += 1;
        }
        format!("{} --out {}", program.begin, path.display())
    };
    let before = whole_checkpoints(path).pop();
    let mut process = at_home(example(program.name), dir, &args).spawn().unwrap();
    if figures.kills < program.kills {
        let moment = Instant::now() + alone.mul_f64(rng.random_range(0.0..0.4));
        // Every second time at any time, otherwise as soon as a checkpoint is written.
        let saving = figures.kills % 2 == 1;
        let ended = loop {
            if let Some(status) = process.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() >= moment && (!saving || is_half_written(path)) {
                process.kill().unwrap();
                break process.wait().unwrap().code().is_some().then(|| process.wait().unwrap());
            }
        };
        if ended.is_none() {
            figures.kills += 1;
            figures.while_saving += usize::from(is_half_written(path));
            let after = whole_checkpoints(path).pop();
            figures.before_the_first += usize::from(after.is_none());
            assert!(after >= before, "{after:?} behind {before:?}: a checkpoint was lost");
            return false;
        }
    }
    let ran: common::Ran = process.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args}\n{}", ran.out);
    true
}
