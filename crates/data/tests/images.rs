//! PNG and JPEG files in a directory per class, and errors in them.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path};
use taper_data::{Dataset, Division, Result, Scale, load_images};
use tempfile::{TempDir, tempdir};

const RANDOM: Division = Division::Random { test: 0.25, seed: 1 };

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(name)).unwrap()
}

/// A directory with these files.
fn dir(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

/// A grey PNG of `h × w` pixels of one value.
fn png(h: u32, w: u32, value: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::GrayImage::from_pixel(w, h, image::Luma([value]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A cat is `10 + i`, a dog `100 + i`.
fn pets(cats: u8, dogs: u8) -> TempDir {
    let cats = (0..cats).map(|i| (format!("cat/{i}.png"), png(2, 3, 10 + i)));
    let files: Vec<_> = cats.chain((0..dogs).map(|i| (format!("dog/{i}.png"), png(2, 3, 100 + i)))).collect();
    dir(&files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>())
}

fn refused(dir: &TempDir, division: Division) -> String {
    // Not `unwrap_err`: it would print every pixel.
    let Err(error) = load_images(dir.path(), division) else { panic!("read") };
    let error = error.to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error.replace(&dir.path().display().to_string(), "DIR")
}

/// The first pixel of every image, with its label.
fn samples(data: &Dataset) -> [Vec<(u8, u32)>; 2] {
    [&data.train, &data.test].map(|split| {
        let firsts = split.pixels().iter().step_by(6).copied();
        firsts.zip(split.labels().iter().copied()).collect()
    })
}

#[test]
fn files_decode_to_the_pixels_that_pillow_reads() {
    for line in String::from_utf8(golden("golden.txt")).unwrap().lines() {
        let mut words = line.split(' ');
        let (name, mode) = (words.next().unwrap(), words.next().unwrap());
        let pixels: Vec<i32> = words.map(|word| word.parse().unwrap()).collect();
        let channels = mode.replace('L', "1").replace("RGB", "3").parse::<usize>().unwrap();
        let bytes = golden(name);
        // The content counts, not the name.
        let dir = dir(&[("train/a/1.x", &bytes), ("test/a/1.x", &bytes)]);
        let (data, classes) = load_images(dir.path(), Division::Folders).unwrap();
        assert_eq!((data.train.shape(), classes), ((channels, 4, 5), vec!["a".to_owned()]), "{name}");
        // Decoders of JPEG may round differently.
        let near = if name.ends_with("jpg") { 1 } else { 0 };
        for (i, &pixel) in data.test.pixels().iter().enumerate() {
            let expected = pixels[i % 20 * channels + i / 20];
            assert!((i32::from(pixel) - expected).abs() <= near, "{name} at {i}: {pixel}, {expected}");
        }
    }
}

#[test]
fn a_part_of_every_class_is_drawn_for_testing_and_the_seed_decides_which() {
    let dir = pets(8, 20);
    let load = |seed| load_images(dir.path(), Division::Random { test: 0.25, seed }).unwrap();
    let (data, classes) = load(1);
    assert_eq!((classes, data.classes), (vec!["cat".to_owned(), "dog".to_owned()], 2));
    assert_eq!((data.train.label_counts(), data.test.label_counts()), (vec![6, 15], vec![2, 5]));
    let [train, test] = samples(&data);
    let all: BTreeSet<_> = train.iter().chain(&test).collect();
    assert_eq!(all.len(), 28);
    assert!(all.iter().all(|(pixel, label)| (*pixel >= 100) == (*label == 1)));
    assert!(!train.is_sorted_by_key(|(_, label)| *label), "classes are mixed");
    assert_eq!(samples(&load(1).0), [train.clone(), test]);
    assert_ne!(samples(&load(2).0)[0], train);
}

#[test]
fn splits_in_folders_are_taken_as_they_are_and_hidden_files_passed_over() {
    let (a, b, c) = (png(2, 3, 1), png(2, 3, 2), png(2, 3, 3));
    let dir = dir(&[
        ("train/x/1.png", &a),
        ("train/y/1.png", &b),
        ("train/y/.DS_Store", b"?"),
        ("train/.hidden", b"?"),
        ("test/x/1.png", &c),
        ("test/y/1.png", &c),
        ("README.txt", b"?"),
    ]);
    let data = load_images(dir.path(), Division::Folders).unwrap().0;
    let [mut train, mut test] = samples(&data);
    train.sort_unstable();
    test.sort_unstable();
    assert_eq!((train, test), (vec![(1, 0), (2, 1)], vec![(3, 0), (3, 1)]));
    assert_eq!(data.checksum(), load_images(dir.path(), Division::Folders).unwrap().0.checksum());
    let batch = data.scaled(Scale::Unit).train.batches(2).next().unwrap().unwrap();
    assert_eq!(batch.images.dims(), [2, 1, 2, 3]);
}

#[test]
fn grey_images_among_coloured_ones_become_rgb() {
    let (grey, rgb) = (golden("grey.png"), golden("rgb.png"));
    let dir = dir(&[("train/a/1", &grey), ("train/a/2", &rgb), ("test/a/1", &grey)]);
    let data = load_images(dir.path(), Division::Folders).unwrap().0;
    assert_eq!(data.train.shape(), (3, 4, 5));
    let (red, rest) = data.test.pixels().split_at(20);
    assert_eq!([red, red].concat(), rest);
}

#[test]
fn there_may_be_more_classes_than_a_byte_counts() {
    let image = png(1, 1, 7);
    let names: Vec<String> =
        (0..300).flat_map(|i| [format!("train/{i:03}/1"), format!("test/{i:03}/1")]).collect();
    let dir = dir(&names.iter().map(|name| (name.as_str(), image.as_slice())).collect::<Vec<_>>());
    let data = load_images(dir.path(), Division::Folders).unwrap().0;
    assert_eq!((data.classes, data.train.labels().iter().max()), (300, Some(&299)));
    let labels = data.test.batches(300).next().unwrap().unwrap().labels.to_vec1::<u32>().unwrap();
    assert_eq!(labels, data.test.labels());
}

#[test]
fn what_is_no_image_or_is_broken_is_one_line() {
    let (good, jpg) = (png(2, 3, 1), golden("rgb.jpg"));
    let wide = png(2, 4, 1);
    let cases: [(&[u8], &str); 6] = [
        (b"no image at all", "DIR/dog/0.png: expected a PNG or JPEG image, found "),
        (b"", "DIR/dog/0.png: expected a PNG or JPEG image, found "),
        (b"GIF89a\x01\x00\x01\x00", "DIR/dog/0.png: expected a PNG or JPEG image, found "),
        (&good[..good.len() / 2], "DIR/dog/0.png: expected a PNG or JPEG image, found "),
        (&jpg[..jpg.len() - 20], "DIR/dog/0.png: expected a PNG or JPEG image, found "),
        (&wide, "2 × 4 pixels"),
    ];
    for (bytes, says) in cases {
        let dir = pets(4, 4);
        fs::write(dir.path().join("dog/0.png"), bytes).unwrap();
        let error = refused(&dir, RANDOM);
        assert!(error.contains(says) && error.contains("DIR/"), "{error}");
    }
}

#[test]
fn a_jpeg_that_was_cut_off_anywhere_is_refused() {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let noise =
        image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 7) as u8, (x * y) as u8, (y * 13) as u8]));
    noise.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    let jpg = bytes.into_inner();
    for n in (20..jpg.len()).step_by(jpg.len() / 40).chain([jpg.len() - 2, jpg.len() - 1]) {
        let dir = dir(&[("train/a/1", &jpg), ("test/a/1", &jpg[..n])]);
        let error = refused(&dir, Division::Folders);
        assert!(error.starts_with("DIR/test/a/1: expected a PNG or JPEG image, found "), "{n}: {error}");
    }
}

#[test]
fn directories_that_are_not_laid_out_so_are_one_line() {
    let missing = |dir: &TempDir, name: &str| fs::create_dir(dir.path().join(name)).unwrap();
    let with_empty = pets(4, 4);
    missing(&with_empty, "owl");
    let with_dir = pets(4, 4);
    missing(&with_dir, "cat/more");
    let with_file = pets(4, 4);
    fs::write(with_file.path().join("1.png"), png(2, 3, 1)).unwrap();
    let image = png(2, 3, 1);
    let unlike = dir(&[("train/a/1", &image), ("train/b/1", &image), ("test/a/1", &image)]);
    let folders = Division::Folders;
    for (dir, division, says) in [
        (
            &with_empty,
            RANDOM,
            "DIR/owl: expected images of a class, found an empty directory: put images there, or remove it",
        ),
        (&with_dir, RANDOM, "DIR/cat/more: expected an image of a class, found a directory: "),
        (&with_file, RANDOM, "DIR/1.png: expected a directory for each class, found a file: "),
        (
            &unlike,
            folders,
            "DIR/test: expected the classes of DIR/train (a, b), found a: give both splits the same classes",
        ),
        (&unlike, RANDOM, "DIR/test/a: expected an image of a class, found a directory: "),
        (&pets(4, 4), folders, "DIR/train: expected a directory for each class, found nothing: "),
        (&tempdir().unwrap(), RANDOM, "DIR: expected a directory for each class, found an empty directory: "),
        (&pets(1, 1), RANDOM, "expected at least one sample in "),
    ] {
        let error = refused(dir, division);
        assert!(error.starts_with(says), "{error}\nnot {says}");
    }
    for test in [0.0, 1.0, f64::NAN] {
        let result: Result<_> = load_images(with_file.path(), Division::Random { test, seed: 1 });
        assert!(
            result
                .unwrap_err()
                .to_string()
                .starts_with("expected a part for testing between 0 and 1, found ")
        );
    }
}
