//! Bad IDX files: each has its own one-line answer.

#![allow(clippy::unwrap_used)]

mod common;

use common::{gzip, idx};
use std::fs;
use taper_data::{Images, read_images, read_labels};
use tempfile::tempdir;

const AGAIN: &str = "download the file again, or remove it";

/// What reading these bytes as images says after the path, plain first and then gzipped.
fn refused(bytes: &[u8]) -> [String; 2] {
    [bytes.to_owned(), gzip(bytes)].map(|bytes| refused_as_is(&bytes))
}

fn refused_as_is(bytes: &[u8]) -> String {
    let dir = tempdir().unwrap();
    let path = dir.path().join("images");
    fs::write(&path, bytes).unwrap();
    let error = read_images(&path).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error.strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()
}

#[test]
fn images_and_labels_are_read_plain_and_gzipped() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("file");
    let values: Vec<u8> = (0..24).collect();
    for bytes in [idx(&[2, 3, 4], &values), gzip(&idx(&[2, 3, 4], &values))] {
        fs::write(&path, bytes).unwrap();
        let expected = Images { count: 2, height: 3, width: 4, pixels: values.clone() };
        assert_eq!(read_images(&path).unwrap(), expected);
    }
    for bytes in [idx(&[3], &[0, 9, 1]), gzip(&idx(&[3], &[0, 9, 1]))] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(read_labels(&path, 10).unwrap(), [0, 9, 1]);
        assert!(read_labels(&path, 9).is_err());
    }
}

#[test]
fn a_missing_file_and_a_directory_are_named() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("images");
    for found in ["nothing", "a directory"] {
        let expected = format!(
            "{}: expected a file, found {found}: check the path, or download the file again",
            path.display()
        );
        assert_eq!(read_images(&path).unwrap_err().to_string(), expected);
        fs::create_dir(&path).ok();
    }
}

#[test]
fn an_empty_file_is_called_empty() {
    for error in refused(&[]) {
        assert_eq!(error, format!("expected IDX images (magic 0x00000803), found an empty file: {AGAIN}"));
    }
}

#[test]
fn a_file_that_is_not_idx_shows_how_it_starts() {
    for error in refused(b"<!DOCTYPE html>") {
        let found = "a file starting [3c, 21, 44, 4f]";
        assert_eq!(error, format!("expected IDX images (magic 0x00000803), found {found}: {AGAIN}"));
    }
}

#[test]
fn floats_and_other_ranks_are_not_images() {
    for magic in [[0, 0, 0x0d, 3], [0, 0, 8, 2], [0, 0, 8, 0], [1, 0, 8, 3]] {
        for error in refused(&magic) {
            assert!(error.contains("found a file starting ["), "{error}");
        }
    }
}

#[test]
fn a_header_cut_off_is_noticed() {
    for error in refused(&idx(&[2, 3, 4], &[])[..10]) {
        assert_eq!(error, format!("expected an IDX header of 16 bytes, found 10 bytes: {AGAIN}"));
    }
}

#[test]
fn values_cut_off_are_noticed() {
    for error in refused(&idx(&[2, 3, 4], &[0; 23])) {
        assert_eq!(error, format!("expected 40 bytes (2 × 3 × 4 + 16), found 39: {AGAIN}"));
    }
}

#[test]
fn bytes_after_the_values_are_noticed() {
    for error in refused(&idx(&[2, 3, 4], &[0; 25])) {
        assert_eq!(error, format!("expected 40 bytes (2 × 3 × 4 + 16), found more: {AGAIN}"));
    }
}

#[test]
fn a_claim_of_two_to_the_31_images_is_refused_before_reading_them() {
    for error in refused(&idx(&[1 << 31, 28, 28], &[0; 100])) {
        let found = "a header that claims 2147483648 × 28 × 28";
        assert_eq!(error, format!("expected at most 1073741824 values, found {found}: {AGAIN}"));
    }
}

#[test]
fn a_claim_whose_product_overflows_is_refused() {
    for error in refused(&idx(&[u32::MAX; 3], &[])) {
        assert!(error.contains("a header that claims 4294967295 × 4294967295 × 4294967295"), "{error}");
    }
}

#[test]
fn zero_images_are_refused() {
    for error in refused(&idx(&[0, 28, 28], &[])) {
        assert_eq!(error, format!("expected at least one value, found sizes 0 × 28 × 28: {AGAIN}"));
    }
}

#[test]
fn a_gzip_file_cut_off_or_followed_by_rubbish_is_broken() {
    let whole = gzip(&idx(&[2, 3, 4], &[5; 24]));
    let mut flipped = whole.clone();
    let crc = flipped.len() - 8;
    flipped[crc] ^= 1;
    for bytes in [&whole[..whole.len() - 4], &[&whole[..], &[1, 2, 3]].concat(), &flipped] {
        let error = refused_as_is(bytes);
        assert!(error.starts_with("expected a whole gzip file, found "), "{error}");
    }
}

#[test]
fn zeros_behind_a_gzip_file_are_padding_and_members_belong_together() {
    let bytes = idx(&[2, 3, 4], &[5; 24]);
    let (first, second) = bytes.split_at(11);
    let zeros = vec![0; 100_000];
    let dir = tempdir().unwrap();
    let path = dir.path().join("images");
    for file in [
        [gzip(&bytes), zeros.clone()].concat(),
        [gzip(first), gzip(second)].concat(),
        [gzip(first), zeros[..512].to_vec(), gzip(second), vec![0]].concat(),
    ] {
        fs::write(&path, file).unwrap();
        assert_eq!(read_images(&path).unwrap().pixels, [5; 24]);
    }
    let error = refused_as_is(&[gzip(&bytes), vec![0, 0, 7]].concat());
    assert!(error.starts_with("expected a whole gzip file, found "), "{error}");
}
