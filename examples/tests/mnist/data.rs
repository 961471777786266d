//! Data sets: found, missing, broken, of other sizes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{fail, mnist, succeed, temp};

const IDX: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

fn idx(sizes: &[u32], values: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
    bytes.extend(values);
    bytes
}

/// A set in MNIST's format: 40 images to train on and 20 to test on.
fn write_idx(dir: &Path) {
    let images = |n: u32| idx(&[n, 28, 28], (0..n * 784).map(|i| ((i * 7919) >> 5) as u8));
    let labels = |n: u32| idx(&[n], (0..n).map(|i| (i % 10) as u8));
    fs::create_dir_all(dir).unwrap();
    for (name, bytes) in IDX.iter().zip([images(40), labels(40), images(20), labels(20)]) {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

#[test]
fn without_data_auto_is_digits_with_one_warning_and_mnist_is_an_error() {
    let dir = temp();
    let start = Instant::now();
    let rest = "--limit 128 --widths 8 --epochs 1 --dropout 0 --out";
    let ran = mnist(dir.path(), &format!("{rest} auto"));
    assert_eq!((ran.code, ran.err.lines().count()), (Some(0), 1), "{}", ran.err);
    for part in ["WARN", "using the bundled data set digits instead of mnist", "datasets/mnist", "https://"] {
        assert!(ran.err.contains(part), "{part} in\n{}", ran.err);
    }
    assert!(ran.out.contains("mlp 64-8-10 on digits") && ran.out.contains("1 run on digits"), "{}", ran.out);
    let config: Value =
        serde_json::from_slice(&fs::read(dir.path().join("auto/config.json")).unwrap()).unwrap();
    assert_eq!(config["dataset"], "digits");
    let places = ["data set mnist not found", "datasets/mnist", "https://ossci", "https://storage"];
    fail(dir.path(), &format!("--dataset mnist {rest} named"), 1, &places);
    assert!(!dir.path().join("named").exists());
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "a download that cannot be made took {:?}",
        start.elapsed()
    );
}

#[test]
fn broken_data_files_are_one_line_with_their_path() {
    let dir = temp();
    let data = dir.path().join("data");
    let args = "--data-dir data --widths 4 --epochs 1 --batch-size 10 --dropout 0 --out run";
    write_idx(&data);
    let out = succeed(dir.path(), args);
    assert!(out.contains("mlp 784-4-10 on mnist"), "{out}");

    let good = fs::read(data.join(IDX[0])).unwrap();
    let huge = idx(&[1 << 31, 28, 28], std::iter::empty());
    let cases: [(&str, usize, Vec<u8>); 12] = [
        ("truncated", 0, good[..1000].to_vec()),
        ("a byte too long", 0, [&good[..], &[0]].concat()),
        ("empty", 0, vec![]),
        ("header alone", 0, good[..16].to_vec()),
        ("not IDX", 0, b"<html>not found</html>".to_vec()),
        ("broken gzip", 0, vec![0x1f, 0x8b, 8, 0, 0, 0]),
        ("claims 2^31 images", 0, huge),
        ("wrong rank", 0, idx(&[40], (0..40).map(|_| 0))),
        ("wrong size of images", 0, idx(&[40, 14, 56], (0..40 * 784).map(|_| 0))),
        ("wrong count", 1, idx(&[39], (0..39).map(|i| i % 10))),
        ("label out of range", 3, idx(&[20], (0..20).map(|i| i % 11))),
        ("one class", 1, idx(&[40], (0..40).map(|_| 3))),
    ];
    for (what, file, bytes) in cases {
        write_idx(&data);
        fs::write(data.join(IDX[file]), bytes).unwrap();
        let place = if what == "one class" { "class" } else { IDX[file] };
        let start = Instant::now();
        for choice in ["auto", "mnist"] {
            fail(dir.path(), &format!("--dataset {choice} {args}"), 1, &[place]);
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{what}");
    }
}

#[test]
fn the_network_has_the_size_and_the_classes_of_the_data() {
    let dir = temp();
    let data = dir.path().join("data");
    let args = "--widths 4 --epochs 1 --batch-size 10 --dropout 0";
    // 40 images of 28 × 28 with labels up to 9, under EMNIST's names: the first class of letters is 1.
    write_idx(&data);
    let labels = |n: u32| idx(&[n], (0..n).map(|i| 1 + (i % 26) as u8));
    for (name, bytes) in [(IDX[1], labels(40)), (IDX[3], labels(20))] {
        fs::write(data.join(name), bytes).unwrap();
    }
    let names = ["train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1"];
    for (old, new) in IDX.iter().zip(names) {
        fs::rename(data.join(old), data.join(format!("emnist-letters-{new}-ubyte"))).unwrap();
    }
    let out = succeed(dir.path(), &format!("--dataset emnist-letters --data-dir data {args} --out letters"));
    assert!(out.contains("mlp 784-4-26 on emnist-letters"), "{out}");
    let cure = "choose the data set emnist-letters";
    for choice in ["auto", "mnist"] {
        let args = format!("--dataset {choice} --data-dir data {args}");
        fail(dir.path(), &args, 1, &["emnist-letters-train-images-idx3-ubyte", cure]);
    }

    let own = dir.path().join("own");
    write_idx(&own);
    for (name, n) in [(IDX[0], 40_u32), (IDX[2], 20)] {
        fs::write(own.join(name), idx(&[n, 9, 7], (0..n * 63).map(|i| ((i * 7919) >> 5) as u8))).unwrap();
    }
    for (name, n) in [(IDX[1], 40), (IDX[3], 20)] {
        fs::write(own.join(name), idx(&[n], (0..n).map(|i| (i % 12) as u8))).unwrap();
    }
    let args = format!("--dataset idx --data-dir own {args}");
    let out = succeed(dir.path(), &format!("{args} --out mlp"));
    assert!(out.contains("mlp 63-4-12 on idx"), "{out}");
    let out = succeed(dir.path(), &format!("{args} --model cnn --channels 2 --out cnn"));
    assert!(out.contains("-12 on idx"), "{out}");
}
