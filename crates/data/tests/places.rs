//! Where files are looked for, and what happens when they are not right.

#![allow(clippy::unwrap_used)]

mod common;

use common::{NAMES, fake_set, gzip, idx, options, write_set};
use std::{fs, path::Path};
use taper_data::{Choice, Dataset, ImageSet, Options, Result, load, load_files};
use tempfile::{TempDir, tempdir};

/// Looks for the small set in `data_dir` and nowhere on the network.
fn find(data_dir: &Path, cache: &TempDir) -> Result<Dataset> {
    let options = Options { data_dir: Some(data_dir.to_owned()), download: false, ..options(cache.path()) };
    load_files(&fake_set(&[]), &options, &mut |_| {})
}

/// The error for a set of which one file was replaced.
fn with_file(name: &str, bytes: &[u8]) -> String {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    write_set(dir.path(), false);
    fs::write(dir.path().join(name), bytes).unwrap();
    let error = find(dir.path(), &cache).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    let path = dir.path().join(name).display().to_string();
    error.strip_prefix(&path).unwrap_or_else(|| panic!("no {path} in {error}")).to_owned()
}

#[test]
fn files_lie_directly_or_in_a_directory_of_the_sets_name_plain_or_gzipped() {
    for zipped in [false, true] {
        for below in ["", "fake"] {
            let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
            write_set(&dir.path().join(below), zipped);
            assert_eq!(find(dir.path(), &cache).unwrap().train.len(), 30);
        }
    }
}

#[test]
fn a_gzipped_file_without_gz_in_its_name_is_read() {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    write_set(dir.path(), true);
    for name in NAMES {
        fs::rename(dir.path().join(format!("{name}.gz")), dir.path().join(name)).unwrap();
    }
    assert_eq!(find(dir.path(), &cache).unwrap().test.len(), 10);
}

#[test]
fn the_data_dir_comes_before_the_env_dir_and_that_before_the_cache() {
    let dirs = [tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap()];
    let places = [dirs[0].path().to_owned(), dirs[1].path().to_owned(), dirs[2].path().join("fake")];
    // Each place has its own number of test images to be known by.
    for (place, n) in places.iter().zip([1, 2, 3]) {
        write_set(place, false);
        fs::write(place.join(NAMES[2]), idx(&[n, 4, 5], &vec![0; 20 * n as usize])).unwrap();
        fs::write(place.join(NAMES[3]), idx(&[n], &vec![0; n as usize])).unwrap();
    }
    let [data_dir, env_dir] = [0, 1].map(|i| Some(places[i].clone()));
    for (n, data_dir, env_dir) in [(1, data_dir, env_dir.clone()), (2, None, env_dir), (3, None, None)] {
        let options = Options { data_dir, env_dir, download: false, ..options(dirs[2].path()) };
        assert_eq!(load_files(&fake_set(&[]), &options, &mut |_| {}).unwrap().test.len(), n);
    }
}

#[test]
fn a_directory_that_was_given_is_refused_with_what_it_holds_and_lacks() {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    // The set is in the cache, and is not taken from there.
    write_set(&cache.path().join("fake"), true);
    let path = dir.path().display();
    let cure = "give the directory that holds them, or leave it out to search and download";
    let expected =
        "expected the files of fake (train-images, train-labels, test-images, test-labels, plain or gzipped)";
    let error = find(dir.path(), &cache).unwrap_err().to_string();
    assert_eq!(error, format!("{path}: {expected}, found an empty directory: {cure}"));

    write_set(dir.path(), false);
    fs::remove_file(dir.path().join(NAMES[1])).unwrap();
    fs::create_dir(dir.path().join("more")).unwrap();
    let found = "found more/, test-images, test-labels, train-images, but no train-labels";
    let error = find(dir.path(), &cache).unwrap_err().to_string();
    assert_eq!(error, format!("{path}: {expected}, {found}: {cure}"));
    let options = Options { env_dir: Some(dir.path().to_owned()), download: false, ..options(cache.path()) };
    assert_eq!(load_files(&fake_set(&[]), &options, &mut |_| {}).unwrap_err().to_string(), error);

    for i in 0..20 {
        fs::write(dir.path().join(format!("a\n{i:02}")), "").unwrap();
    }
    let error = find(dir.path(), &cache).unwrap_err().to_string();
    let found = r"a\n05, a\n06, a\n07 and 16 more, but no train-labels";
    assert!(error.contains(found) && error.lines().count() == 1, "{error}");
}

#[test]
fn a_place_that_was_not_given_is_passed_over_and_named() {
    let cache = tempdir().unwrap();
    let options = Options { download: false, ..options(cache.path()) };
    write_set(&cache.path().join("fake"), false);
    load_files(&fake_set(&[]), &options, &mut |_| {}).unwrap();
    fs::remove_file(cache.path().join("fake").join(NAMES[1])).unwrap();
    let error = load_files(&fake_set(&[]), &options, &mut |_| {}).unwrap_err().to_string();
    let reason =
        "fake (test-images, test-labels, train-images, but no train-labels); no download (not allowed)";
    assert!(error.contains(reason) && error.contains("(no such directory)"), "{error}");
}

#[test]
fn nothing_is_downloaded_that_could_not_be_checked() {
    let cache = tempdir().unwrap();
    let mut set = fake_set(&["http://127.0.0.1:9/"]);
    set.files[2].checksum = None;
    let error = load_files(&set, &options(cache.path()), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("no download (no checksums of fake are known)"), "{error}");
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
}

#[test]
fn a_data_dir_that_does_not_exist_is_an_error_for_auto_too() {
    let dir = tempdir().unwrap();
    let missing = dir.path().join("missing");
    for choice in [Choice::Auto, Choice::Mnist] {
        for field in ["data_dir", "env_dir"] {
            let mut options = Options { download: false, ..options(dir.path()) };
            *(if field == "data_dir" { &mut options.data_dir } else { &mut options.env_dir }) =
                Some(missing.clone());
            let error = load(choice, &options, &mut |_| {}).unwrap_err().to_string();
            let expected = format!(
                "{}: expected a directory with the files of mnist, found nothing: ",
                missing.display()
            );
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}

#[test]
fn a_broken_file_in_the_data_dir_is_an_error_for_auto_too() {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    for part in ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"] {
        fs::write(dir.path().join(format!("{part}-ubyte")), "").unwrap();
    }
    let options = Options { data_dir: Some(dir.path().to_owned()), ..options(cache.path()) };
    let error = load(Choice::Auto, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("train-labels-idx1-ubyte: expected IDX labels"), "{error}");
}

#[test]
fn the_label_file_in_place_of_the_image_file_is_recognised() {
    assert_eq!(
        with_file(NAMES[0], &common::contents()[1]),
        ": expected IDX images (magic 0x00000803), found labels (magic 0x00000801): are the image file and the label file swapped?"
    );
    assert_eq!(
        with_file(NAMES[1], &common::contents()[0]),
        ": expected IDX labels (magic 0x00000801), found images (magic 0x00000803): are the image file and the label file swapped?"
    );
}

#[test]
fn images_and_labels_must_be_equally_many() {
    assert_eq!(
        with_file(NAMES[1], &idx(&[29], &[0; 29])),
        ": expected 30 labels, one for each image, found 29: check that the files belong to fake and to each other"
    );
}

#[test]
fn images_must_have_the_sets_dimensions() {
    assert_eq!(
        with_file(NAMES[2], &idx(&[10, 5, 4], &[0; 200])),
        ": expected images of 4 × 5 pixels, found 5 × 4: check that the files belong to fake and to each other"
    );
}

#[test]
fn labels_must_be_below_the_number_of_classes() {
    assert_eq!(
        with_file(NAMES[3], &gzip(&idx(&[10], &[0, 1, 2, 0, 1, 2, 3, 0, 1, 2]))),
        ": expected labels below 3, found 3 at row 6: check that this is the label file of this data set"
    );
}

#[test]
fn a_name_that_leads_out_of_its_directory_is_refused() {
    for name in ["../fake", "/fake", "a/b", "", ".", "..", "a\\b", "fake/"] {
        let cache = tempdir().unwrap();
        let (mut set, mut file) = (fake_set(&[]), fake_set(&[]));
        set.name = name.to_owned();
        file.files[2].name = name.to_owned();
        for set in [set, file] {
            let error = load_files(&set, &options(cache.path()), &mut |_| {}).unwrap_err().to_string();
            assert!(error.contains(&format!("without a path, found {name:?}")), "{error}");
            assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_bomb_in_place_of_a_file_is_refused_by_the_size_that_its_header_claims() {
    let claim = idx(&[1_000_000, 4, 5], &[0; 100_000]);
    for bytes in [claim.clone(), gzip(&claim)] {
        let error = with_file(NAMES[0], &bytes);
        let expected = ": expected at most 600 values, found a header that claims 1000000 × 4 × 5";
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn the_checksum_made_while_reading_is_that_of_the_samples() {
    for zipped in [false, true] {
        let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
        write_set(dir.path(), zipped);
        let data = find(dir.path(), &cache).unwrap();
        let again = |split: &ImageSet| {
            let (pixels, labels) = (split.pixels().to_vec(), split.labels().to_vec());
            ImageSet::new("again", split.shape(), split.white(), split.classes(), pixels, labels).unwrap()
        };
        let sum =
            |train: &ImageSet| Dataset::new("again", again(train), again(&data.test)).unwrap().checksum();
        assert_eq!(data.checksum(), sum(&data.train));

        let (first, last) = data.train.clone().split_last(10).unwrap();
        for train in [first, last, data.train.clone().take(7)] {
            let part = Dataset { train: train.clone(), ..data.clone() };
            assert_eq!(part.checksum(), sum(&train));
            assert_ne!(part.checksum(), data.checksum());
        }
    }
}
