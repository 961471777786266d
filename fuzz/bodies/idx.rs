use super::{one_line, with_file};
use taper::data::{read_images, read_labels};

/// An IDX file, plain or gzipped: of images, then of labels.
pub fn check(bytes: &[u8]) {
    with_file(bytes, |path| {
        match read_images(path) {
            Ok(images) => {
                assert_eq!(Some(images.pixels.len()), images.count.checked_mul(images.height * images.width));
                assert!(!images.pixels.is_empty());
            }
            Err(error) => one_line(&error),
        }
        match read_labels(path, 10) {
            Ok(labels) => assert!(!labels.is_empty() && labels.iter().all(|label| *label < 10)),
            Err(error) => one_line(&error),
        }
    });
}
