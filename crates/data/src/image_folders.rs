//! PNG and JPEG files in a directory per class.

use crate::{Dataset, Error, ImageSet, Result};
use image::{ImageFormat, ImageReader};
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus, seq::SliceRandom};
use rayon::prelude::*;
use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

/// How [`load_images`] divides images into training and test split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Division {
    /// `DIR/train/CLASS/*` and `DIR/test/CLASS/*`.
    Folders,
    /// `DIR/CLASS/*`, with a random test split of each class (stratified).
    Random {
        /// Fraction of each class for the test split, in `(0, 1)`, rounded to whole images.
        test: f64,
        /// Seed of the random split.
        seed: u64,
    },
}

/// Loads PNG and JPEG images from one directory per class, as torchvision's `ImageFolder`. Returns the data set and the class
/// names, sorted; a label is the index of the class in that list.
///
/// The format is detected from the file's content. Names that begin with a dot are ignored. If all files are greyscale, the
/// images have one channel; otherwise all images are RGB. Alpha is dropped, and 16-bit channels are reduced to 8 bits. The samples
/// are shuffled once with a fixed seed, so [`ImageSet::take`] and [`ImageSet::split_last`] return samples of all classes.
///
/// # Shapes
///
/// Images are `(1, H, W)` or `(3, H, W)` with pixels from 0 to 255. All files must have the same size: there is no resizing.
///
/// # Errors
///
/// A directory that is missing or has no class; a class without images, or in one split only; a file next to the
/// classes; a file that is not PNG or JPEG, is broken, or has another size than the first; a `test` outside `(0, 1)`,
/// or one that leaves a split empty.
pub fn load_images(dir: &Path, division: Division) -> Result<(Dataset, Vec<String>)> {
    let (train, test, seed) = match division {
        Division::Folders => {
            let [train_dir, test_dir] = ["train", "test"].map(|part| dir.join(part));
            let (train, test) = (classes_in(&train_dir)?, classes_in(&test_dir)?);
            let names = |classes: &Classes| {
                classes.iter().map(|(name, _)| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ")
            };
            if names(&train) != names(&test) {
                let expected = format!("the classes of {} ({})", train_dir.display(), names(&train));
                return Err(bad(&test_dir, &expected, &names(&test), "give both splits the same classes"));
            }
            (train, test, 0)
        }
        Division::Random { test: part, seed } => {
            if !(part > 0.0 && part < 1.0) {
                return Err(Error::Usage {
                    expected: "a part for testing between 0 and 1".to_owned(),
                    found: part.to_string(),
                    cure: "choose for instance 0.2".to_owned(),
                });
            }
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            let divide = |(name, mut files): (String, Vec<PathBuf>)| {
                files.shuffle(&mut rng);
                let n = (part * files.len() as f64).round() as usize;
                let test = files.split_off(files.len() - n);
                ((name.clone(), files), (name, test))
            };
            let (train, test): (Classes, Classes) = classes_in(dir)?.into_iter().map(divide).unzip();
            (train, test, seed)
        }
    };
    let names: Vec<String> = train.iter().map(|(name, _)| name.clone()).collect();
    let [train, test] = [train, test].map(|classes| mixed(classes, seed));
    let paths: Vec<&Path> = train.iter().chain(&test).map(|(path, _)| path.as_path()).collect();
    let mut images = decode_all(&paths)?;
    let grey = images.iter().all(|image| image.channels == 1);
    let test_images = images.split_off(train.len());
    let name = dir.file_name().map_or("images".into(), |name| name.to_string_lossy());
    let split = |part: &str, files: &[(PathBuf, u32)], images: Vec<Decoded>| {
        let (height, width) = images.first().map_or((1, 1), |image| image.size);
        let shape = (if grey { 1 } else { 3 }, height, width);
        let pixels = images.into_iter().flat_map(|image| image.planes(grey)).collect();
        let labels = files.iter().map(|(_, label)| *label).collect();
        ImageSet::new(&format!("{name} {part}"), shape, 255, names.len(), pixels, labels)
    };
    let (train, test) = (split("train", &train, images)?, split("test", &test, test_images)?);
    Ok((Dataset::new(&name, train, test)?, names))
}

/// The pixels of one PNG or JPEG file, from 0 to 255; those of a coloured image as grey ones if `C` is 1.
///
/// # Shapes
///
/// `(C, H, W)`, which is `shape`, with `C` 1 or 3.
///
/// # Errors
///
/// A file that is missing, is no PNG or JPEG, is broken, or has another size: there is no resizing.
pub fn load_image(path: &Path, shape: (usize, usize, usize)) -> Result<Vec<u8>> {
    let (channels, height, width) = shape;
    let image = decode(path, channels == 1)?;
    if image.size != (height, width) || !matches!(channels, 1 | 3) {
        let expected = format!("{height} × {width} pixels, as the network was trained on");
        let found = format!("{} × {}", image.size.0, image.size.1);
        return Err(bad(path, &expected, &found, "bring the image to that size"));
    }
    Ok(image.planes(channels == 1))
}

/// Class names, sorted, each with the paths of its files.
type Classes = Vec<(String, Vec<PathBuf>)>;

fn bad(path: &Path, expected: &str, found: &str, cure: &str) -> Error {
    let [expected, found, cure] = [expected, found, cure].map(str::to_owned);
    Error::BadFile { path: path.to_owned(), expected, found, cure }
}

fn classes_in(dir: &Path) -> Result<Classes> {
    let expected = "a directory for each class";
    if !dir.is_dir() {
        let found = if dir.exists() { "a file" } else { "nothing" };
        return Err(bad(dir, expected, found, "correct the path, or choose another division of the images"));
    }
    let class = |path: PathBuf| {
        if !path.is_dir() {
            return Err(bad(
                &path,
                expected,
                "a file",
                "move it into the directory of its class, or elsewhere",
            ));
        }
        let files = visible(&path)?;
        if files.is_empty() {
            return Err(bad(
                &path,
                "images of a class",
                "an empty directory",
                "put images there, or remove it",
            ));
        }
        if let Some(file) = files.iter().find(|file| !file.is_file()) {
            let found = if file.is_dir() { "a directory" } else { "a device or a pipe" };
            let cure = "remove it, or give the directory that contains those of the classes";
            return Err(bad(file, "an image of a class", found, cure));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, files))
    };
    let classes: Classes = visible(dir)?.into_iter().map(class).collect::<Result<_>>()?;
    if classes.is_empty() {
        return Err(bad(
            dir,
            expected,
            "an empty directory",
            "give the directory that contains those of the classes",
        ));
    }
    Ok(classes)
}

/// The entries of a directory, sorted by name, without hidden ones.
fn visible(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let mut entries = entries.map_err(Error::io(dir, "list"))?;
    entries.retain(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries.iter().map(fs::DirEntry::path).collect())
}

/// All files with their labels, shuffled.
fn mixed(classes: Classes, seed: u64) -> Vec<(PathBuf, u32)> {
    let of_class =
        |(label, (_, files)): (u32, (String, Vec<PathBuf>))| files.into_iter().map(move |file| (file, label));
    let mut files: Vec<_> = (0..).zip(classes).flat_map(of_class).collect();
    files.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(seed));
    files
}

/// A decoded image, in row-major order with interleaved channels.
struct Decoded {
    /// Height and width.
    size: (usize, usize),
    /// 1 or 3.
    channels: usize,
    pixels: Vec<u8>,
}

impl Decoded {
    /// The values in the order `(C, H, W)`. `C` is 1 if `grey`, otherwise 3.
    fn planes(self, grey: bool) -> Vec<u8> {
        match (self.channels, grey) {
            (1, true) => self.pixels,
            (1, false) => self.pixels.repeat(3),
            _ => (0..3).flat_map(|channel| self.pixels.iter().skip(channel).step_by(3).copied()).collect(),
        }
    }
}

/// Decodes all files in parallel and checks that they have the same size.
fn decode_all(paths: &[&Path]) -> Result<Vec<Decoded>> {
    // Collected first, so the reported error is that of the first file in order, whichever thread fails first.
    let images: Vec<Result<Decoded>> = paths.par_iter().map(|path| decode(path, false)).collect();
    let images: Vec<Decoded> = images.into_iter().collect::<Result<_>>()?;
    let size = |image: &Decoded| format!("{} × {} pixels", image.size.0, image.size.1);
    let first = images.first().map(|image| (image.size, size(image)));
    match images.iter().zip(paths).find(|(image, _)| Some(image.size) != first.as_ref().map(|first| first.0))
    {
        None => Ok(images),
        Some((image, path)) => {
            let expected =
                first.map_or(String::new(), |(_, first)| format!("{first}, as {} has", paths[0].display()));
            Err(bad(path, &expected, &size(image), "bring all images to one size"))
        }
    }
}

/// One image, with one channel if it has no colour or is to have none.
fn decode(path: &Path, to_grey: bool) -> Result<Decoded> {
    let broken = |found: &str| {
        bad(
            path,
            "a PNG or JPEG image",
            &found.replace(char::is_control, " "),
            "remove the file, or save it again",
        )
    };
    let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
    let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format();
    let reader = reader.map_err(Error::io(path, "read"))?;
    let is_jpeg = reader.format() == Some(ImageFormat::Jpeg);
    let image = reader.decode().map_err(|error| broken(&error.to_string()))?;
    if is_jpeg && is_cut_off(&bytes) {
        return Err(broken("a truncated file"));
    }
    let grey = to_grey || !image.color().has_color();
    Ok(Decoded {
        size: (image.height() as usize, image.width() as usize),
        channels: if grey { 1 } else { 3 },
        pixels: if grey { image.into_luma8().into_raw() } else { image.into_rgb8().into_raw() },
    })
}

/// Whether a JPEG file is truncated: its last scan has no end marker. The decoder fills missing rows with grey, without an error.
fn is_cut_off(bytes: &[u8]) -> bool {
    // Neither marker occurs in the data of a scan.
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    let [scan, end] = [0xda, 0xd9].map(last);
    scan > end
}
