//! The real MNIST, where it is at hand: `TAPER_DATA` names the directory of its files.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use taper_data::{Choice, Options, load};

/// Options that look in `TAPER_DATA` and never download, or nothing if it is not set.
fn options() -> Option<Options> {
    let Some(dir) = std::env::var_os("TAPER_DATA") else {
        println!("skipped: set TAPER_DATA to the directory of the MNIST files");
        return None;
    };
    let dir = PathBuf::from(dir);
    let below = dir.join("mnist");
    let data_dir = Some(if below.is_dir() { below } else { dir });
    let cache_dir = Some(PathBuf::from("no such cache"));
    Some(Options { data_dir, cache_dir, download: false, ..Options::default() })
}

/// The sums are Python's, over the same files.
#[test]
fn mnist_is_the_published_one() {
    let Some(options) = options() else { return };
    let data = load(Choice::Auto, &options, &mut |_| {}).unwrap();
    assert_eq!((data.name.as_str(), data.train.len(), data.test.len()), ("mnist", 60_000, 10_000));
    assert_eq!((data.train.shape(), data.classes), ((1, 28, 28), 10));
    let zeros = data.train.pixels().iter().filter(|&&pixel| pixel == 0).count();
    assert_eq!(zeros, 38_045_844);
    assert!((zeros as f64 / data.train.pixels().len() as f64 - 0.808798).abs() < 1e-6);
    assert!((data.mean - 0.1306604762738429).abs() < 1e-15);
    assert!((data.std - 0.3081078038564627).abs() < 1e-15);
    assert_eq!(data.train.label_counts(), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
    assert_eq!(data.test.label_counts(), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]);
}

#[test]
fn the_files_of_mnist_are_not_taken_for_another_set() {
    let Some(options) = options() else { return };
    for choice in [Choice::Kmnist, Choice::FashionMnist] {
        let error = load(choice, &options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("found the files of mnist: choose the data set mnist, or"), "{error}");
    }
}
