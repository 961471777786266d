use crate::{Dataset, Error, ImageSet, Result, bytes::uncompressed};
use std::io::Read;

/// `datasets/digits/digits.csv.gz`: a line per digit, 64 pixels from 0 to 16 and the label.
const FILE: &[u8] = include_bytes!("../../../datasets/digits/digits.csv.gz");
const TRAIN_ROWS: usize = 1437;
const SIDE: usize = 8;
const WHITE: u8 = 16;

/// The bundled data set `digits`: 1,797 real handwritten digits, rows 0..1437 for training and 1437..1797 for testing.
///
/// UCI "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998), CC BY 4.0. The data are part of the
/// program: no file and no network are needed.
///
/// # Shapes
///
/// Images are `(1, 8, 8)` with pixels from 0 to 16; 10 classes.
///
/// # Errors
///
/// None in practice: the same bytes are read every time.
pub fn digits() -> Result<Dataset> {
    let mut text = String::new();
    uncompressed(FILE, FILE.len() as u64)
        .and_then(|mut reader| reader.read_to_string(&mut text))
        .map_err(Error::io("digits.csv.gz", "unzip the bundled file"))?;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut values = line.split(',').map(|value| value.parse::<u8>());
        pixels.extend(values.by_ref().take(SIDE * SIDE).filter_map(|value| value.ok()));
        labels.extend(values.filter_map(|value| value.ok()).map(u32::from));
    }
    let test_labels = labels.split_off(TRAIN_ROWS.min(labels.len()));
    let test_pixels = pixels.split_off((TRAIN_ROWS * SIDE * SIDE).min(pixels.len()));
    let split = |name, pixels, labels| ImageSet::new(name, (1, SIDE, SIDE), WHITE, 10, pixels, labels);
    let train = split("digits train", pixels, labels)?;
    Dataset::new("digits", train, split("digits test", test_pixels, test_labels)?)
}
