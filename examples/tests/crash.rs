//! A training process is killed (SIGKILL) at random moments, also while it writes a checkpoint, and goes on each time.
//! Its files end as those of a run that was left in peace. `just crash` prints the figures.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{compare, is_half_written, mnist, run, succeed, whole_checkpoints};
use rand::RngExt;

const KILLS: usize = 50;
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

#[test]
fn a_process_that_is_killed_fifty_times_ends_with_the_files_of_one_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let start = Instant::now();
    succeed(dir, &format!("{RUN} --out whole"));
    let alone = start.elapsed();
    let (mut figures, mut rng) = (Figures::default(), taper::hooks::rng(1));
    while figures.kills < KILLS {
        let path = dir.join(format!("cut-{}", figures.runs));
        // Killed until it ends, or until that was done often enough.
        while !killed(dir, &path, alone, &mut figures, &mut rng) {}
        figures.runs += 1;
        figures.bytes += compare(&path, &dir.join("whole"));
        let last = run(mnist(dir, &format!("--resume {}", path.display())));
        assert!(last.code == Some(0) && last.out.contains("is finished: 20 of 20 epochs"), "{}", last.out);
        assert!(!is_half_written(&path), "what was left behind is removed");
    }
    let Figures { kills, while_saving, before_the_first, resumes, anew, runs, bytes } = figures;
    println!(
        "{kills} kills in {runs} runs, {while_saving} of them while a checkpoint was being written or removed, \
         {before_the_first} before there was one; {resumes} resumes, {anew} starts anew; {bytes} bytes compared, 0 \
         differences; {:.0} s",
        start.elapsed().as_secs_f64()
    );
    assert!(while_saving >= KILLS / 5, "{while_saving}");
}

/// Starts the run or goes on with it, and kills it at some moment; true if it ended before.
fn killed(
    dir: &Path,
    path: &Path,
    alone: Duration,
    figures: &mut Figures,
    rng: &mut taper::hooks::Rng,
) -> bool {
    let args = if path.join("config.json").exists() {
        figures.resumes += 1;
        format!("--resume {}", path.display())
    } else {
        // Killed before it had said what it is: there is nothing to go on with.
        if path.exists() {
            fs::remove_dir_all(path).unwrap();
            figures.anew += 1;
        }
        format!("{RUN} --out {}", path.display())
    };
    let before = whole_checkpoints(path).pop();
    let mut process = mnist(dir, &args).spawn().unwrap();
    if figures.kills < KILLS {
        let moment = Instant::now() + alone.mul_f64(rng.random_range(0.0..0.4));
        // Every other time at whatever moment, otherwise as soon as something is being saved then.
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
