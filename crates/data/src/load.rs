use crate::{
    Choice, Dataset, Error, FileSet, Progress, Result, Split, digits,
    download::download,
    idx::{images_up_to, labels_up_to},
    split::add_kind,
};
use sha2::{Digest, Sha256};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Where data may be found and how it may be fetched.
#[derive(Debug, Clone)]
pub struct Options {
    /// Looked at first. It must exist, and what it holds must not be broken.
    pub data_dir: Option<PathBuf>,
    /// Looked at second, under the same conditions; for a program that reads an environment variable.
    pub env_dir: Option<PathBuf>,
    /// Where downloads are kept, a directory per data set; `taper` in the user's cache directory if `None`.
    pub cache_dir: Option<PathBuf>,
    /// Whether what is not found may be downloaded.
    pub download: bool,
    /// If not empty, addresses that replace the data set's own [`mirrors`](FileSet::mirrors).
    pub mirrors: Vec<String>,
    /// How long finding a server and connecting to it may take, each.
    pub connect_timeout: Duration,
    /// How long a server may send nothing.
    pub stall_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_dir: None,
            env_dir: None,
            cache_dir: None,
            download: true,
            mirrors: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// Loads a data set by name, on the CPU and scaled by [`Scale::Standard`](crate::Scale::Standard).
///
/// [`Choice::Auto`] is MNIST wherever [`load_files`] finds it; if it finds nothing, one warning (`tracing`) says why and
/// [`digits`] is used instead. The [`name`](Dataset::name) is that of the set really loaded.
///
/// `progress` is called with each piece of a download; `&mut |_| {}` ignores it.
///
/// # Errors
///
/// As [`load_files`]. With [`Choice::Auto`] not finding the files is no error; a directory that was asked for and does not
/// exist, or holds a broken file, still is one.
pub fn load(choice: Choice, options: &Options, progress: &mut dyn FnMut(&Progress<'_>)) -> Result<Dataset> {
    let files = match choice {
        Choice::Digits => return digits(),
        Choice::Auto | Choice::Mnist => FileSet::mnist(),
        Choice::FashionMnist => FileSet::fashion_mnist(),
        Choice::Kmnist => FileSet::kmnist(),
    };
    match load_files(&files, options, progress) {
        Err(error @ Error::NotFound { .. }) if choice == Choice::Auto => {
            warn(&format!("using the bundled data set digits instead of mnist: {error}"));
            digits()
        }
        result => result,
    }
}

/// A `tracing` event, or a line on standard error if the program has set no subscriber, where the event would be lost.
fn warn(message: &str) {
    let is_lost = |subscriber: &tracing::Dispatch| subscriber.is::<tracing::subscriber::NoSubscriber>();
    match tracing::dispatcher::get_default(is_lost) {
        true => eprintln!("warning: {message}"),
        false => tracing::warn!("{message}"),
    }
}

/// Loads a data set from its four IDX files, on the CPU and scaled by [`Scale::Standard`](crate::Scale::Standard).
///
/// Looks in `data_dir`, `env_dir`, `datasets/NAME` below the current directory and `cache_dir/NAME`, then downloads into the
/// last. In each place the files may lie in a directory `NAME` or directly, plain or with `.gz` after their names. Checksums
/// are compared after a download; files found may have fewer images than the set has, but not more.
///
/// # Errors
///
/// A name of the set or of a file that leads out of its directory. [`Error::NotFound`] lists every place tried and why it gave nothing. A `data_dir` or `env_dir` that does not exist or
/// holds a broken file ends the search; elsewhere a broken file is a reason to go on.
pub fn load_files(
    set: &FileSet,
    options: &Options,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Result<Dataset> {
    set.check()?;
    let cache = options.cache_dir.clone().or_else(|| Some(dirs::cache_dir()?.join("taper")));
    let cache = cache.map(|dir| dir.join(&set.name));
    let mut tried = Vec::new();

    for dir in [&options.data_dir, &options.env_dir].into_iter().flatten() {
        if !dir.is_dir() {
            return Err(Error::BadFile {
                path: dir.clone(),
                expected: format!("a directory with the files of {}", set.name),
                found: if dir.exists() { "a file" } else { "nothing" }.to_owned(),
                cure: "correct the path, or leave it out to search and download".to_owned(),
            });
        }
        match locate(dir, set) {
            Ok(paths) => return read(set, &paths),
            Err(why) => {
                warn(&format!("{}: {why}: looking for {} elsewhere", dir.display(), set.name));
                tried.push(format!("{} ({why})", dir.display()));
            }
        }
    }
    for dir in [Some(Path::new("datasets").join(&set.name)), cache.clone()].into_iter().flatten() {
        match locate(&dir, set).map(|paths| read(set, &paths)) {
            Ok(Ok(data)) => return Ok(data),
            Ok(Err(error)) => {
                warn(&format!("{error}: looking for {} elsewhere", set.name));
                tried.push(error.to_string());
            }
            Err(why) => tried.push(format!("{} ({why})", dir.display())),
        }
    }
    match cache {
        _ if !options.download => tried.push("no download (not allowed)".to_owned()),
        None => tried.push("no download (this system has no cache directory to put it)".to_owned()),
        Some(dir) => match download(set, &dir, options, progress) {
            Ok(paths) => return read(set, &paths),
            Err(failures) => tried.extend(failures),
        },
    }
    Err(Error::NotFound {
        dataset: set.name.clone(),
        tried,
        cure: "connect to the network, or give the directory that holds the four files".to_owned(),
    })
}

/// The paths of the four files below `dir`, or why there are none.
fn locate(dir: &Path, set: &FileSet) -> Result<[PathBuf; 4], String> {
    if !dir.is_dir() {
        return Err("no such directory".to_owned());
    }
    let mut why = String::new();
    for dir in [dir.join(&set.name), dir.to_owned()] {
        let paths = set.files.each_ref().map(|file| {
            let plain = dir.join(&file.name);
            if plain.is_file() { plain } else { dir.join(format!("{}.gz", file.name)) }
        });
        match set.files.iter().zip(&paths).find(|(_, path)| !path.is_file()) {
            Some((file, _)) => why = format!("no {} and no {0}.gz", file.name),
            None => match FileSet::known().iter().find(|other| other.name != set.name && is(other, &paths)) {
                Some(other) => why = format!("the files are those of {}", other.name),
                None => return Ok(paths),
            },
        }
    }
    Err(why)
}

/// Whether the test labels at `paths` are those of `set`: all known sets name their files alike.
fn is(set: &FileSet, paths: &[PathBuf; 4]) -> bool {
    matches!(set.files[3].mismatch(&paths[3]), Ok(None))
}

/// Reads four files and compares them with each other and with what the set should be.
fn read(set: &FileSet, paths: &[PathBuf; 4]) -> Result<Dataset> {
    // Without its header, of 4 bytes and 4 for each size.
    let most = |file: usize, rank: u64| set.files[file].content_bytes.saturating_sub(4 + 4 * rank);
    let split = |part: &str, first: usize| {
        let (images_path, labels_path) = (&paths[first], &paths[first + 1]);
        let mut hash = None;
        let images = images_up_to(images_path, Some(most(first, 3)), |[count, h, w], pixels| {
            // The checksum begins with the training images, and they are most of it.
            if first == 0 {
                let begin = || add_kind(Sha256::new(), (1, h, w), 255, set.classes, count);
                hash.get_or_insert_with(begin).update(pixels);
            }
        })?;
        let labels = labels_up_to(labels_path, set.classes, Some(most(first + 1, 1)))?;
        let bad = |path: &Path, expected: String, found: String| Error::BadFile {
            path: path.to_owned(),
            expected,
            found,
            cure: format!("check that the files belong to {} and to each other", set.name),
        };
        let (height, width) = set.image_size;
        if (images.height, images.width) != set.image_size {
            let found = format!("{} × {}", images.height, images.width);
            return Err(bad(images_path, format!("images of {height} × {width} pixels"), found));
        }
        if images.count != labels.len() {
            let expected = format!("{} labels, one for each image", images.count);
            return Err(bad(labels_path, expected, labels.len().to_string()));
        }
        let name = format!("{} {part}", set.name);
        let mut split = Split::new(&name, (1, height, width), 255, set.classes, images.pixels, labels)?;
        split.hash = hash;
        Ok(split)
    };
    let (train, test) = rayon::join(|| split("train", 0), || split("test", 2));
    let data = Dataset::new(&set.name, train?, test?)?;
    let dir = paths[0].parent().unwrap_or(Path::new("."));
    tracing::info!(
        "{}: {} training and {} test images from {}",
        set.name,
        data.train.len(),
        data.test.len(),
        dir.display()
    );
    Ok(data)
}
