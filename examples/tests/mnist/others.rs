//! The other examples with a training loop.

use std::fs;

use crate::common::{self, at_home, example};
use crate::{keys, lines, temp};

#[test]
fn the_other_examples_run() {
    let dir = temp();
    let run = |name: &str, args: &str| common::run(at_home(example(name), dir.path(), args));
    for (name, args, says) in [
        ("custom_model", "", "fc1"),
        ("custom_observer", "", "fc1"),
        ("autoencoder", "--epochs 2 --out auto", "\n  2/2  0.1"),
        ("autoencoder", "--resume auto", "auto is finished: 2 of 2 epochs"),
        ("autoencoder", "--epochs 1 --code 8,16 --jobs 2 -q", "2 runs on digits"),
        ("transformer", "--epochs 1 --blocks 1 --out rows", "look at rows/report.html"),
        ("resnet", "--epochs 1 --limit 128 --alert *.dead_fraction>1", "1 run on digits, resnet 16-16-16"),
        ("regression", "--epochs 3 --out table", "\n  3/3  "),
        ("regression", "--patience 1 --out early", "no better since epoch "),
    ] {
        let ran = run(name, args);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{name}\n{}", ran.out);
        assert!(ran.out.contains(says), "{name}\n{}", ran.out);
    }
    // Their losses are theirs.
    let page = fs::read_to_string(dir.path().join("auto/report.html")).unwrap();
    assert!(page.contains("mean squared error") && !page.to_lowercase().contains("cross-entropy"));
    let text = page.split("<script").next().unwrap();
    assert!(text.len() > 10_000 && !text.contains("ccuracy"), "nobody measured one");
    let table = lines(dir.path().join("table/metrics.jsonl"));
    assert_eq!(keys(&table[1]["metrics"]), ["mae", "r2"].into());
    // Another run is refused in one line.
    let ran = run("autoencoder", "--resume auto --epochs 3");
    assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 1), "{}", ran.err);
    assert!(ran.err.contains("epochs was 2 and is 3"), "{}", ran.err);
}
