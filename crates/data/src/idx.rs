//! The IDX format: `0, 0, type, rank`, then `rank` big-endian `u32` sizes, then the values.
//!
//! Only unsigned bytes (type 8) of rank 3 (images) and rank 1 (labels) are read. The header gives the size, so at most
//! one more byte is read, to detect excess.

use crate::{
    Error, Result,
    bytes::{Source, is_broken_gzip, open},
};
use rayon::prelude::*;
use std::{io, path::Path};

/// The size limit of a file: EMNIST, the largest set in this format, has half of it.
const MAX_VALUES: u64 = 1 << 30;
const CURE: &str = "download the file again, or remove it";

/// The images of one IDX file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Number of images, at least 1.
    pub count: usize,
    /// Rows of pixels per image, at least 1.
    pub height: usize,
    /// Pixels per row, at least 1.
    pub width: usize,
    /// `count × height × width` values from 0 (background) to 255.
    pub pixels: Vec<u8>,
}

impl Images {
    /// Transposes every image.
    pub(crate) fn transpose(&mut self) {
        let (h, w) = (self.height, self.width);
        self.pixels.par_chunks_mut(h * w).for_each_init(Vec::new, |old, image| {
            old.clear();
            old.extend_from_slice(image);
            for (i, row) in old.chunks_exact(w).enumerate() {
                row.iter().enumerate().for_each(|(j, &pixel)| image[j * h + i] = pixel);
            }
        });
        (self.height, self.width) = (w, h);
    }
}

/// Reads an IDX file of images, plain or gzipped (recognised by its first bytes, not by its name).
///
/// # Errors
///
/// A file that is missing, truncated, empty, not IDX, of another rank or type than images, with zero images, longer
/// than its header says or longer than 1 GiB. Memory is proportional to the file, whatever the header claims.
pub fn read_images(path: &Path) -> Result<Images> {
    images_up_to(path, None, |_, _| {})
}

/// The same with a known maximum number of values. `seen` receives the sizes with every piece of the pixels.
pub(crate) fn images_up_to(
    path: &Path,
    most: Option<u64>,
    seen: impl FnMut([usize; 3], &[u8]) + Send,
) -> Result<Images> {
    let (sizes, pixels) = decode::<3>(path, &mut open(path)?, most, seen)?;
    let [count, height, width] = sizes;
    Ok(Images { count, height, width, pixels })
}

/// Reads an IDX file of labels, plain or gzipped, each below `classes`.
///
/// # Errors
///
/// As [`read_images`], and for a label out of range.
pub fn read_labels(path: &Path, classes: usize) -> Result<Vec<u8>> {
    labels_up_to(path, 0, Some(classes), None)
}

/// The same with a known maximum number of values, and classes counted from `first`; any number of classes for `None`.
/// The returned labels count from 0.
pub(crate) fn labels_up_to(
    path: &Path,
    first: u8,
    classes: Option<usize>,
    most: Option<u64>,
) -> Result<Vec<u8>> {
    let (_, mut labels) = decode::<1>(path, &mut open(path)?, most, |_, _| {})?;
    let known = |label: u8| {
        let class = label.checked_sub(first).map(usize::from);
        class.is_some_and(|class| classes.is_none_or(|classes| class < classes))
    };
    if let Some(row) = labels.iter().position(|&label| !known(label)) {
        let end = classes.map_or(256, |classes| usize::from(first) + classes);
        return Err(Error::BadFile {
            path: path.to_owned(),
            expected: match first {
                0 => format!("labels below {end}"),
                _ => format!("labels from {first} to {}", end - 1),
            },
            found: format!("{} at row {row}", labels[row]),
            cure: "check that this is the label file of this data set".to_owned(),
        });
    }
    labels.iter_mut().for_each(|label| *label -= first);
    Ok(labels)
}

/// The sizes and values of an IDX stream of unsigned bytes of rank `RANK`, at most `most` values: a header that claims
/// more is refused before anything is read.
fn decode<const RANK: usize>(
    path: &Path,
    source: &mut Source<'_>,
    most: Option<u64>,
    mut seen: impl FnMut([usize; RANK], &[u8]) + Send,
) -> Result<([usize; RANK], Vec<u8>)> {
    let bad = |expected: String, found: String, cure: &str| Error::BadFile {
        path: path.to_owned(),
        expected,
        found,
        cure: cure.to_owned(),
    };
    let broken = |e: io::Error| match is_broken_gzip(&e) {
        true => bad("a whole gzip file".to_owned(), e.to_string(), CURE),
        false => Error::io(path, "read")(e),
    };
    let mut header = |bytes: usize| source.read_at_most(bytes as u64, bytes as u64, |_| {}).map_err(broken);

    let kind = |rank: u8| match rank {
        1 => "labels (magic 0x00000801)",
        3 => "images (magic 0x00000803)",
        _ => "values of another rank",
    };
    let wanted = kind(RANK as u8);
    match header(4)?[..] {
        [0, 0, 8, rank] if usize::from(rank) == RANK => {}
        [0, 0, 8, rank @ (1 | 3)] => {
            let cure = "are the image file and the label file swapped?";
            return Err(bad(format!("IDX {wanted}"), kind(rank).to_owned(), cure));
        }
        [] => return Err(bad(format!("IDX {wanted}"), "an empty file".to_owned(), CURE)),
        ref start => return Err(bad(format!("IDX {wanted}"), format!("a file starting {start:02x?}"), CURE)),
    }

    let header = header(4 * RANK)?;
    if header.len() < 4 * RANK {
        let found = format!("{} bytes", 4 + header.len());
        return Err(bad(format!("an IDX header of {} bytes", 4 + 4 * RANK), found, CURE));
    }
    let sizes: [u32; RANK] =
        std::array::from_fn(|i| u32::from_be_bytes(std::array::from_fn(|j| header[4 * i + j])));
    let product = sizes.map(|size| size.to_string()).join(" × ");
    if sizes.contains(&0) {
        return Err(bad("at least one value".to_owned(), format!("sizes {product}"), CURE));
    }
    let values = sizes.iter().try_fold(1_u64, |n, &size| n.checked_mul(size.into()));
    let limit = most.unwrap_or(MAX_VALUES).min(MAX_VALUES);
    let Some(values) = values.filter(|&n| n <= limit) else {
        let expected = format!("at most {limit} values");
        return Err(bad(expected, format!("a header that claims {product}"), CURE));
    };

    let sizes = sizes.map(|size| size as usize);
    let expected = most.map_or(0, |_| values + 1);
    let data = source.read_at_most(values + 1, expected, |piece| seen(sizes, piece)).map_err(broken)?;
    let found = data.len() as u64;
    if found != values {
        let header = 4 + 4 * RANK as u64;
        let more = if found > values { "more" } else { &format!("{}", found + header) };
        let expected = format!("{} bytes ({product} + {header})", values + header);
        return Err(bad(expected, more.to_owned(), CURE));
    }
    // `values` fits, because this many bytes are in memory.
    Ok((sizes, data))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bytes::uncompressed;
    use proptest::prelude::*;

    fn decode_bytes<const RANK: usize>(bytes: &[u8]) -> Result<([usize; RANK], Vec<u8>)> {
        decode(Path::new("bytes"), &mut uncompressed(bytes, bytes.len() as u64).unwrap(), None, |_, _| {})
    }

    fn idx(sizes: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, sizes.len() as u8];
        sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_bytes::<3>(&bytes);
            let _ = decode_bytes::<1>(&bytes);
        }

        #[test]
        fn random_headers_and_values_never_panic(sizes: [u32; 3], values in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_bytes::<3>(&idx(&sizes, &values));
            let _ = decode_bytes::<1>(&idx(&sizes[..1], &values));
        }

        #[test]
        fn what_is_written_is_read(count in 1_u32..5, height in 1_u32..5, width in 1_u32..5) {
            let values: Vec<u8> = (0..count * height * width).map(|i| i as u8).collect();
            let (sizes, read) = decode_bytes::<3>(&idx(&[count, height, width], &values)).unwrap();
            prop_assert_eq!(sizes.map(|size| size as u32), [count, height, width]);
            prop_assert_eq!(read, values);
        }

        #[test]
        fn memory_follows_the_file_and_not_the_claim(len in 0_usize..100_000, claim: u64) {
            let file = vec![1; len];
            let bytes = uncompressed(&file[..], len as u64).unwrap().read_at_most(claim, claim, |_| {}).unwrap();
            prop_assert!(bytes.capacity() <= 2 * len + 64, "{} bytes for {len}", bytes.capacity());
        }
    }

    #[test]
    fn reading_stops_one_byte_after_the_size_the_header_gives() {
        let file = idx(&[2, 2, 2], &[7; 1000]);
        let mut source = uncompressed(&file[..], file.len() as u64).unwrap();
        decode::<3>(Path::new("x"), &mut source, None, |_, _| {}).unwrap_err();
        assert_eq!(source.read_at_most(u64::MAX, 0, |_| {}).unwrap().len(), 1000 - 8 - 1);
    }

    #[test]
    fn the_values_of_a_known_set_are_read_into_one_piece_of_memory() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &idx(&[100, 20, 20], &[7; 40_000])).unwrap();
        let file = encoder.finish().unwrap();
        let mut source = uncompressed(&file[..], file.len() as u64).unwrap();
        let (_, values) = decode::<3>(Path::new("x"), &mut source, Some(60_000), |_, _| {}).unwrap();
        assert_eq!((values.len(), values.capacity()), (40_000, 40_001));
    }

    #[test]
    fn a_header_that_claims_more_than_the_data_set_is_refused() {
        let file = idx(&[3, 2, 2], &[7; 12]);
        let mut source = uncompressed(&file[..], 28).unwrap();
        let error = decode::<3>(Path::new("x"), &mut source, Some(11), |_, _| {}).unwrap_err().to_string();
        assert!(
            error.contains("expected at most 11 values, found a header that claims 3 × 2 × 2"),
            "{error}"
        );
        assert_eq!(source.read_at_most(u64::MAX, 0, |_| {}).unwrap().len(), 12, "no value was read");
    }
}
