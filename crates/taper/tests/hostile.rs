//! Whatever a file or a word of the command line holds, it is read or refused: with random bytes, and with good files
//! that were cut, changed or put together anew. What must be true is in `fuzz/bodies`, which the fuzz targets share.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/bodies/mod.rs"]
mod bodies;

use std::{fs, path::Path};

use proptest::prelude::*;

type Check = fn(&[u8]);

/// Every target, by the name of its corpus.
const TARGETS: [(&str, Check); 8] = [
    ("idx", bodies::idx::check),
    ("safetensors", bodies::safetensors::check),
    ("config", bodies::config::check),
    ("lines", bodies::lines::check),
    ("state", bodies::state::check),
    ("page", bodies::page::check),
    ("activation", bodies::activation::check),
    ("options", bodies::options::check),
];

/// The files kept for a target, with those that once were a fault.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// How a good file is made a bad one.
#[derive(Clone, Debug)]
enum Change {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    /// A piece of it a second time, elsewhere.
    Repeat(prop::sample::Index, prop::sample::Index, prop::sample::Index),
    /// Digits become others: sizes, offsets, counts.
    Digits(prop::sample::Index, &'static str),
}

const NUMBERS: [&str; 8] =
    ["0", "-1", "18446744073709551615", "4294967296", "1e308", "-1e308", "null", "1e-320"];

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        index().prop_map(Change::Cut),
        (index(), any::<u8>()).prop_map(|(at, bits)| Change::Flip(at, bits)),
        (index(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (index(), index(), index()).prop_map(|(a, b, c)| Change::Repeat(a, b, c)),
        (index(), prop::sample::select(&NUMBERS[..])).prop_map(|(at, number)| Change::Digits(at, number)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let n = bytes.len() + 1;
        match change {
            Change::Cut(at) => bytes.truncate(at.index(n)),
            Change::Flip(at, bits) if n > 1 => bytes[at.index(n - 1)] ^= bits,
            Change::Flip(..) => {}
            Change::Insert(at, more) => {
                let at = at.index(n);
                bytes.splice(at..at, more.iter().copied());
            }
            Change::Repeat(a, b, to) => {
                let (a, b) = (a.index(n), b.index(n));
                let piece = bytes[a.min(b)..a.max(b)].to_vec();
                let to = to.index(n);
                bytes.splice(to..to, piece);
            }
            Change::Digits(at, number) => {
                let places: Vec<usize> = (0..bytes.len())
                    .filter(|i| bytes[*i].is_ascii_digit() && (*i == 0 || !bytes[*i - 1].is_ascii_digit()))
                    .collect();
                if !places.is_empty() {
                    let from = places[at.index(places.len())];
                    let length = bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
                    bytes.splice(from..from + length, number.bytes());
                }
            }
        }
    }
    bytes
}

/// Runs `cases` random inputs through every target but the page, which takes long: a tenth of them.
fn all_targets(cases: u32, mut inputs: impl FnMut(&str) -> BoxedStrategy<Vec<u8>>) {
    for (name, check) in TARGETS {
        let cases = if name == "page" { cases / 10 } else { cases };
        // The same inputs in every run, and nothing written beside the sources.
        let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        let rng = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
        let mut runner = proptest::test_runner::TestRunner::new_with_rng(config, rng);
        let result = runner.run(&inputs(name), |bytes| {
            check(&bytes);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn every_file_of_the_corpora_is_read_or_refused() {
    for (name, check) in TARGETS {
        let files = corpus(name);
        assert!(!files.is_empty(), "{name}");
        files.iter().for_each(|bytes| check(bytes));
    }
}

#[test]
fn random_bytes_are_read_or_refused() {
    all_targets(500, |_| prop::collection::vec(any::<u8>(), 0..400).boxed());
}

#[test]
fn good_files_cut_and_changed_are_read_or_refused() {
    all_targets(1500, |name| {
        let files = prop::sample::select(corpus(name));
        (files, prop::collection::vec(change(), 1..5))
            .prop_map(|(bytes, changes)| changed(bytes, &changes))
            .boxed()
    });
}

#[test]
fn text_that_is_almost_an_option_is_read_or_refused() {
    let words = "(relu|celu|elu|prelu|cosine|step|warmup|sgd|adamw|mnist|unit|he)?[:. ]?[-+0-9.eEinfNa]{0,8}";
    all_targets(500, |_| proptest::string::string_regex(words).unwrap().prop_map(String::into_bytes).boxed());
}
