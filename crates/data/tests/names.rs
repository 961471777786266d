//! Names and layouts of IDX files: other spellings, torchvision's directories, EMNIST, custom sets.

#![allow(clippy::unwrap_used)]

mod common;

use common::{gzip, idx};
use std::{fs, path::Path};
use taper_data::{Choice, Dataset, Options, Result, Scale, load};
use tempfile::tempdir;

const MNIST: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// Loads from `dir` only.
fn find(choice: Choice, dir: &Path) -> Result<Dataset> {
    let options = Options { data_dir: Some(dir.to_owned()), download: false, ..Options::default() };
    load(choice, &options, &mut |_| {})
}

fn refused(choice: Choice, dir: &Path) -> String {
    let error = find(choice, dir).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error.replace(&dir.display().to_string(), "DIR")
}

/// Images of `h × w` with the labels, for training and, the last of them, for testing.
fn write(dir: &Path, names: [&str; 4], (h, w): (u32, u32), labels: &[u8]) {
    fs::create_dir_all(dir).unwrap();
    let images =
        |n: u32| idx(&[n, h, w], &(0..n * h * w).map(|i| ((i * 7919) >> 5) as u8).collect::<Vec<_>>());
    let test = &labels[labels.len() - 1..];
    let files =
        [images(labels.len() as u32), idx(&[labels.len() as u32], labels), images(1), idx(&[1], test)];
    for (name, bytes) in names.iter().zip(files) {
        let bytes = if name.ends_with(".gz") { gzip(&bytes) } else { bytes };
        fs::write(dir.join(name), bytes).unwrap();
    }
}

#[test]
fn a_dot_for_a_hyphen_capitals_and_test_for_t10k_are_read() {
    for names in [
        [
            "train-images.idx3-ubyte",
            "train-labels.idx1-ubyte",
            "t10k-images.idx3-ubyte",
            "t10k-labels.idx1-ubyte",
        ],
        ["TRAIN-IMAGES.IDX3-UBYTE.gz", "train-labels-idx1-ubyte.gz", "test_images.idx", "test-labels-ubyte"],
    ] {
        let dir = tempdir().unwrap();
        write(dir.path(), names, (28, 28), &[3, 1, 4]);
        for choice in [Choice::Auto, Choice::Mnist] {
            let data = find(choice, dir.path()).unwrap();
            assert_eq!(
                (data.name.as_str(), data.train.labels(), data.classes),
                ("mnist", &[3, 1, 4][..], 10)
            );
        }
    }
}

#[test]
fn of_a_plain_and_a_gzipped_file_the_plain_one_is_read() {
    let dir = tempdir().unwrap();
    write(dir.path(), MNIST, (28, 28), &[3, 1, 4]);
    fs::write(dir.path().join("train-labels-idx1-ubyte.gz"), "no gzip file").unwrap();
    assert_eq!(find(Choice::Mnist, dir.path()).unwrap().train.labels(), [3, 1, 4]);
}

#[test]
fn torchvisions_directories_are_looked_into() {
    let dir = tempdir().unwrap();
    write(&dir.path().join("MNIST/raw"), MNIST, (28, 28), &[1, 2]);
    write(&dir.path().join("KMNIST/raw"), MNIST, (28, 28), &[1, 2, 3]);
    for (choice, below, n) in [
        (Choice::Mnist, "", 2),
        (Choice::Mnist, "MNIST", 2),
        (Choice::Mnist, "MNIST/raw", 2),
        (Choice::Kmnist, "", 3),
    ] {
        assert_eq!(find(choice, &dir.path().join(below)).unwrap().train.len(), n, "{choice} in {below}");
    }
    let error = refused(Choice::FashionMnist, dir.path());
    assert!(error.contains("found KMNIST/, MNIST/, but none of them: give the directory"), "{error}");
}

/// The names in EMNIST's archive.
fn emnist(split: &str) -> [String; 4] {
    ["train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1"]
        .map(|file| format!("emnist-{split}-{file}-ubyte.gz"))
}

#[test]
fn the_letters_of_emnist_stand_upright_and_count_from_zero() {
    let dir = tempdir().unwrap();
    for below in ["", "gzip", "EMNIST/raw"] {
        let names = emnist("letters");
        write(&dir.path().join(below), names.each_ref().map(String::as_str), (28, 28), &[1, 26, 7]);
        let data = find(Choice::EmnistLetters, dir.path()).unwrap();
        assert_eq!((data.name.as_str(), data.classes), ("emnist-letters", 26));
        assert_eq!((data.train.labels(), data.test.labels()), (&[0, 25, 6][..], &[6][..]));
        let stored = |row: usize, column: usize| (((784 + row * 28 + column) * 7919) >> 5) as u8;
        assert!((0..784).all(|i| data.train.pixels()[784 + i] == stored(i % 28, i / 28)));
        fs::remove_dir_all(dir.path()).unwrap();
    }
}

#[test]
fn the_digits_of_emnist_count_from_zero_as_they_are() {
    let dir = tempdir().unwrap();
    let names = emnist("byclass");
    write(dir.path(), names.each_ref().map(String::as_str), (28, 28), &[0, 61, 7]);
    let data = find(Choice::EmnistByclass, dir.path()).unwrap();
    assert_eq!((data.train.labels(), data.classes), (&[0, 61, 7][..], 62));
}

#[test]
fn labels_of_another_split_are_refused() {
    let dir = tempdir().unwrap();
    let names = emnist("letters");
    for (labels, found) in [([1, 0, 2], "0 at row 1"), ([1, 2, 27], "27 at row 2")] {
        write(dir.path(), names.each_ref().map(String::as_str), (28, 28), &labels);
        let expected = format!(
            "DIR/{}: expected labels from 1 to 26, found {found}: check that this is the label file of this data set",
            names[1]
        );
        assert_eq!(refused(Choice::EmnistLetters, dir.path()), expected);
    }
}

#[test]
fn emnist_is_not_taken_for_mnist_and_the_error_names_the_choice() {
    let dir = tempdir().unwrap();
    let names = emnist("letters");
    write(dir.path(), names.each_ref().map(String::as_str), (28, 28), &[1, 2, 3]);
    for choice in [Choice::Auto, Choice::Mnist, Choice::EmnistDigits, Choice::Idx] {
        let error = refused(choice, dir.path());
        for part in [names[0].as_str(), "but none of them: choose the data set emnist-letters, or give"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

#[test]
fn a_custom_set_has_any_size_and_any_number_of_classes() {
    let dir = tempdir().unwrap();
    write(dir.path(), MNIST, (3, 5), &[0, 1, 2, 12]);
    let data = find(Choice::Idx, dir.path()).unwrap().scaled(Scale::Unit);
    assert_eq!((data.name.as_str(), data.train.shape(), data.classes), ("idx", (1, 3, 5), 13));
    assert_eq!(data.test.batches(1).next().unwrap().unwrap().images.dims(), [1, 1, 3, 5]);
    // As MNIST it is refused.
    let error = refused(Choice::Mnist, dir.path());
    assert!(error.starts_with("DIR/train-labels-idx1-ubyte: expected labels below 10, found 12"), "{error}");
}

#[test]
fn the_classes_of_a_custom_set_come_from_both_splits() {
    let dir = tempdir().unwrap();
    write(dir.path(), MNIST, (2, 2), &[0, 1]);
    fs::write(dir.path().join(MNIST[3]), idx(&[1], &[255])).unwrap();
    assert_eq!(find(Choice::Idx, dir.path()).unwrap().classes, 256);
}

#[test]
fn bad_files_of_a_custom_set_are_one_line() {
    let cases: [(usize, Vec<u8>, &str); 5] = [
        (0, idx(&[2, 3, 5], &[1; 29]), "expected 46 bytes (2 × 3 × 5 + 16), found 45"),
        (0, idx(&[1, 3, 5], &[1; 15]), "expected 1 labels, one for each image, found 2"),
        (0, idx(&[2], &[0, 1]), "are the image file and the label file swapped?"),
        (0, idx(&[0, 3, 5], &[]), "expected at least one value, found sizes 0 × 3 × 5"),
        (2, idx(&[1, 5, 3], &[1; 15]), "found ((1, 5, 3), 255, 2)"),
    ];
    for (file, bytes, says) in cases {
        let dir = tempdir().unwrap();
        write(dir.path(), MNIST, (3, 5), &[0, 1]);
        fs::write(dir.path().join(MNIST[file]), bytes).unwrap();
        let error = refused(Choice::Idx, dir.path());
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_directory_for_the_bundled_digits_is_refused() {
    let error = refused(Choice::Digits, Path::new("some"));
    assert!(
        error.starts_with("expected no directory for digits, which is part of the program, found DIR: "),
        "{error}"
    );
}
