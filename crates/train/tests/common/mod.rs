//! A small data set, and runs that are interrupted and resumed.

use std::fs;
use std::path::Path;

use serde_json::Value;
use taper_data::{Batch, Dataset};
use taper_report::Split;
use taper_train::{Session, StepFn};

/// 96 digits to train on, 50 to test.
pub fn few() -> Dataset {
    let data = taper_data::digits().unwrap();
    Dataset { train: data.train.clone().take(96), test: data.test.clone().take(50), ..data }
}

/// Trains until the run is complete, or interrupts it after this number of batches. An epoch has seven. `evaluated` is
/// called before the end of each epoch.
pub fn train(
    mut session: Session<'_>,
    step: &impl StepFn<Batch>,
    mut batches: usize,
    mut evaluated: impl FnMut(&mut Session<'_>, u32),
) {
    let data = few();
    while let Some(epoch) = session.next_epoch().unwrap() {
        let go = |_: &_| batches.checked_sub(1).map(|left| batches = left).is_some();
        session.train(step, |rng, done| data.train.shuffled(rng, 15).skip(done).take_while(go)).unwrap();
        if batches == 0 {
            session.interrupt().unwrap();
            return;
        }
        session.evaluate(step, Split::Test, data.test.batches(50)).unwrap();
        evaluated(&mut session, epoch);
        session.end_epoch().unwrap();
    }
    session.finish().unwrap();
}

/// Compares a run of three epochs with interrupted ones; `go_on` trains in a directory for a number of batches. Returns the
/// state of the upkeep in the last checkpoint.
pub fn assert_resumes_to_the_same_bytes(what: &str, go_on: impl Fn(&Path, usize)) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    go_on(&whole, usize::MAX);
    let upkeep = |dir: &Path| {
        let text = fs::read_to_string(dir.join("checkpoints/epoch-3/state.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["state"]["upkeep"].clone()
    };
    for cuts in [vec![2], vec![8, 3, 1], vec![9, 9]] {
        let cut = dir.path().join(format!("{}", cuts.len()));
        cuts.iter().for_each(|batches| go_on(&cut, *batches));
        go_on(&cut, usize::MAX);
        for file in ["model.safetensors", "metrics.jsonl", "checkpoints/epoch-3/optimizer.safetensors"] {
            let read = |dir: &Path| fs::read(dir.join(file)).unwrap();
            assert!(read(&whole) == read(&cut), "{what}: {file} after {cuts:?}");
        }
        assert_eq!(upkeep(&whole), upkeep(&cut), "{what}: upkeep after {cuts:?}");
    }
    upkeep(&whole)
}
