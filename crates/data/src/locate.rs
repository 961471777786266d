//! Finds the four files of a data set in a directory, with the names and layouts of other programs.

use crate::{Choice, Error, FileSet};
use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

/// The maximum number of file names in an error message.
const LISTED: usize = 8;

/// A directory in which files of a data set are missing.
pub(crate) struct Absent {
    dir: PathBuf,
    found: String,
    /// The other set in the directory.
    other: Option<String>,
    lacking: usize,
}

impl Absent {
    /// The error for a directory that was given explicitly.
    pub fn into_error(self, set: &FileSet) -> Error {
        let names = set.files.each_ref().map(|file| file.name.as_str());
        let cure = "give the directory that holds them, or leave it out to search and download";
        Error::BadFile {
            path: self.dir,
            expected: format!("the files of {} ({}, plain or gzipped)", set.name, names.join(", ")),
            found: self.found,
            cure: match self.other {
                Some(other) => format!("choose the data set {other}, or {cure}"),
                None => cure.to_owned(),
            },
        }
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.dir.display(), self.found)
    }
}

/// The four files of `set`, in `dir` itself, in a subdirectory with the set's name, in torchvision's (`MNIST/raw`), or
/// in EMNIST's (`gzip`).
pub(crate) fn locate(dir: &Path, set: &FileSet) -> Result<[PathBuf; 4], Absent> {
    let dirs = ["", &set.name, torchvision(&set.name), "raw", "gzip"];
    let mut closest: Option<Absent> = None;
    for dir in dirs.into_iter().map(|below| if below.is_empty() { dir.to_owned() } else { dir.join(below) }) {
        match locate_in(&dir, set) {
            Ok(paths) => return Ok(paths),
            Err(absent) if closest.as_ref().is_none_or(|closest| absent.lacking < closest.lacking) => {
                closest = Some(absent);
            }
            Err(_) => {}
        }
    }
    Err(closest.expect("a directory was looked into"))
}

/// torchvision's subdirectory for a set.
fn torchvision(name: &str) -> &str {
    match name {
        "mnist" => "MNIST/raw",
        "fashion-mnist" => "FashionMNIST/raw",
        "kmnist" => "KMNIST/raw",
        name if name.starts_with("emnist-") => "EMNIST/raw",
        name => name,
    }
}

fn locate_in(dir: &Path, set: &FileSet) -> Result<[PathBuf; 4], Absent> {
    let absent = |found: String, other: Option<String>, lacking: usize| Absent {
        dir: dir.to_owned(),
        found,
        other,
        lacking,
    };
    let (names, paths) = match list(dir) {
        Ok(listed) => listed,
        Err(found) => return Err(absent(found, None, 5)),
    };
    match pick(set, &paths) {
        Ok(paths) => match looks_like_another(set, &paths) {
            Some(other) => Err(absent(format!("the files of {other}"), Some(other), 4)),
            None => Ok(paths),
        },
        Err(lacks) => {
            let others =
                Choice::ALL.into_iter().filter(|choice| ![Choice::Auto, Choice::Idx].contains(choice));
            let other = others.filter_map(FileSet::of).find_map(|other| {
                let paths = pick(&other, &paths).ok()?;
                Some(looks_like_another(&other, &paths).unwrap_or(other.name))
            });
            let more = names.len().saturating_sub(LISTED);
            let mut held = names[..names.len() - more].join(", ");
            if more > 0 {
                held += &format!(" and {more} more");
            }
            let found = match lacks.len() {
                _ if held.is_empty() => "an empty directory".to_owned(),
                4 => format!("{held}, but none of them"),
                _ => format!("{held}, but no {}", lacks.join(", no ")),
            };
            Err(absent(found, other, lacks.len()))
        }
    }
}

/// The sorted content of `dir`: all names, and the path of every file by its normalised name.
fn list(dir: &Path) -> Result<(Vec<String>, BTreeMap<String, PathBuf>), String> {
    let entries = fs::read_dir(dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "no such directory".to_owned(),
        _ => error.to_string(),
    })?;
    let mut entries: Vec<_> = entries.flatten().map(|entry| (entry.file_name(), entry.path())).collect();
    // A plain file is preferred to a gzipped one.
    entries.sort_by_key(|(name, _)| (name.to_string_lossy().ends_with(".gz"), name.clone()));
    let (mut names, mut paths) = (Vec::new(), BTreeMap::new());
    for (name, path) in entries {
        let name = name.to_string_lossy();
        let is_dir = path.is_dir();
        names.push(format!("{}{}", name.escape_debug(), if is_dir { "/" } else { "" }));
        if path.is_file() {
            paths.entry(meaning(&name)).or_insert(path);
        }
    }
    names.sort();
    Ok((names, paths))
}

/// The four paths of `set`, or the names of the missing files.
fn pick<'a>(set: &'a FileSet, paths: &BTreeMap<String, PathBuf>) -> Result<[PathBuf; 4], Vec<&'a str>> {
    let found = set.files.each_ref().map(|file| paths.get(&meaning(&file.name)));
    match found {
        [Some(a), Some(b), Some(c), Some(d)] => Ok([a, b, c, d].map(PathBuf::clone)),
        _ => Err(set
            .files
            .iter()
            .zip(found)
            .filter(|(_, path)| path.is_none())
            .map(|(f, _)| &*f.name)
            .collect()),
    }
}

/// Normalises a file name: `Train-Images.idx3-ubyte.gz` and `train-images-idx3-ubyte` give the same, and so do `t10k` and
/// `test`.
fn meaning(name: &str) -> String {
    let name = name.to_lowercase().replace(['.', '_'], "-");
    let name = name.strip_suffix("-gz").unwrap_or(&name);
    let name = name.strip_suffix("-ubyte").unwrap_or(name);
    let name = ["-idx1", "-idx3", "-idx"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    name.replace("t10k-", "test-")
}

/// The known set of these files if it is not `set`: MNIST and its successors use the same names, and the test labels
/// distinguish them.
fn looks_like_another(set: &FileSet, paths: &[PathBuf; 4]) -> Option<String> {
    // A set without a known number of classes accepts any files.
    set.classes?;
    let known = [FileSet::mnist(), FileSet::fashion_mnist(), FileSet::kmnist()];
    let is = |known: &FileSet| {
        let labels = &known.files[3];
        labels.checksum.as_ref().is_some_and(|sum| matches!(labels.mismatch(sum, &paths[3]), Ok(None)))
    };
    known.into_iter().find(|known| known.name != set.name && is(known)).map(|known| known.name)
}

#[cfg(test)]
mod tests {
    use super::meaning;

    #[test]
    fn a_file_is_known_by_its_name_however_it_is_written() {
        for name in [
            "t10k-images-idx3-ubyte",
            "t10k-images.idx3-ubyte",
            "t10k-images-idx3-ubyte.gz",
            "T10K-IMAGES.IDX3-UBYTE.GZ",
            "test-images-idx3-ubyte",
            "test_images.idx",
        ] {
            assert_eq!(meaning(name), "test-images", "{name}");
        }
        assert_eq!(meaning("emnist-letters-test-labels-idx1-ubyte.gz"), "emnist-letters-test-labels");
        assert_ne!(meaning("train-images-idx3-ubyte.part"), "train-images");
    }
}
