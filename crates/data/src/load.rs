use crate::{
    Choice, Dataset, DownloadProgress, Error, FileSet, ImageSet, Result, digits,
    download::download,
    idx::{images_up_to, labels_up_to},
    image_set::add_kind,
    locate::locate,
};
use sha2::{Digest, Sha256};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Where data are searched and how they are downloaded.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory with the files. If it is set, there is no search elsewhere.
    pub data_dir: Option<PathBuf>,
    /// The same, used if `data_dir` is `None`; for a program that reads an environment variable.
    pub env_dir: Option<PathBuf>,
    /// The directory for downloads, with a subdirectory per data set; `taper` in the user's cache directory if `None`.
    pub cache_dir: Option<PathBuf>,
    /// Whether missing files may be downloaded.
    pub download: bool,
    /// If not empty, addresses that replace the data set's own [`mirrors`](FileSet::mirrors).
    pub mirrors: Vec<String>,
    /// Time limit for resolving a server's name, and for connecting to it.
    pub connect_timeout: Duration,
    /// Time limit for silence of a server.
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
/// [`Choice::Auto`] is MNIST if [`load_files`] finds it; otherwise one warning (`tracing`) gives the reason, and
/// [`digits`] is used. The [`name`](Dataset::name) is that of the loaded set.
///
/// `progress` is called with each piece of a download; `&mut |_| {}` ignores it.
///
/// # Errors
///
/// As [`load_files`]. With [`Choice::Auto`] missing files are not an error, unless a directory was given. A `data_dir`
/// for [`Choice::Digits`], which has no files.
pub fn load(
    choice: Choice,
    options: &Options,
    progress: &mut dyn FnMut(&DownloadProgress<'_>),
) -> Result<Dataset> {
    let Some(files) = FileSet::of(choice) else {
        return match &options.data_dir {
            None => digits(),
            Some(dir) => Err(Error::Usage {
                expected: format!("no directory for {choice}, which is part of the program"),
                found: dir.display().to_string(),
                cure: "leave the directory out, or choose another data set".to_owned(),
            }),
        };
    };
    match load_files(&files, options, progress) {
        Err(error @ Error::NotFound { .. }) if choice == Choice::Auto => {
            warn(&format!("using the bundled data set digits instead of mnist: {error}"));
            digits()
        }
        result => result,
    }
}

/// A `tracing` event, or a line on standard error if the program has set no subscriber.
fn warn(message: &str) {
    let is_lost = |subscriber: &tracing::Dispatch| subscriber.is::<tracing::subscriber::NoSubscriber>();
    match tracing::dispatcher::get_default(is_lost) {
        true => eprintln!("warning: {message}"),
        false => tracing::warn!("{message}"),
    }
}

/// Loads a data set from its four IDX files, on the CPU and scaled by [`Scale::Standard`](crate::Scale::Standard).
///
/// Reads the files in `data_dir`, or else in `env_dir`. Without either it looks in `datasets/NAME` below the current directory and
/// in `cache_dir/NAME`, then downloads into the latter.
///
/// The files are in the directory itself, in a subdirectory `NAME`, in that of torchvision (`MNIST/raw`) or in `gzip`,
/// plain or gzipped. Names may be in capitals, with `.` or `_` instead of `-`, and with `test` instead of `t10k`
/// (`train-images.idx3-ubyte`). Checksums are compared after a download; existing files may have fewer images than the
/// set, but not more.
///
/// # Errors
///
/// A name of the set or of a file that is not a plain name. A `data_dir` or `env_dir` that does not exist, lacks a file
/// (the error lists its files), belongs to another set or has a broken file. [`Error::NotFound`] lists every searched
/// place with the reason; there a broken file does not stop the search.
pub fn load_files(
    set: &FileSet,
    options: &Options,
    progress: &mut dyn FnMut(&DownloadProgress<'_>),
) -> Result<Dataset> {
    set.check()?;
    let cache = options.cache_dir.clone().or_else(|| Some(dirs::cache_dir()?.join("taper")));
    let cache = cache.map(|dir| dir.join(&set.name));
    let mut tried = Vec::new();

    // Named by the user: no search elsewhere.
    if let Some(dir) = options.data_dir.as_ref().or(options.env_dir.as_ref()) {
        if !dir.is_dir() {
            return Err(Error::BadFile {
                path: dir.clone(),
                expected: format!("a directory with the files of {}", set.name),
                found: if dir.exists() { "a file" } else { "nothing" }.to_owned(),
                cure: "correct the path, or leave it out to search and download".to_owned(),
            });
        }
        return read(set, &locate(dir, set).map_err(|absent| absent.into_error(set))?);
    }
    for dir in [Some(Path::new("datasets").join(&set.name)), cache.clone()].into_iter().flatten() {
        match locate(&dir, set).map(|paths| read(set, &paths)) {
            Ok(Ok(data)) => return Ok(data),
            Ok(Err(error)) => {
                warn(&format!("{error}: looking for {} elsewhere", set.name));
                tried.push(error.to_string());
            }
            Err(absent) => tried.push(absent.to_string()),
        }
    }
    match cache {
        _ if !options.download => tried.push("no download (not allowed)".to_owned()),
        None => tried.push("no download (this system has no cache directory)".to_owned()),
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

/// Reads four files and checks them against each other and against the set.
fn read(set: &FileSet, paths: &[PathBuf; 4]) -> Result<Dataset> {
    // Without its header, of 4 bytes and 4 for each size.
    let most = |file: usize, rank: u64| Some(set.files[file].content_bytes?.saturating_sub(4 + 4 * rank));
    let labels = |file: usize| labels_up_to(&paths[file], set.first_label, set.classes, most(file, 1));
    let (train, test) = rayon::join(|| labels(1), || labels(3));
    let (train, test) = (train?, test?);
    let classes = set.classes.unwrap_or_else(|| {
        let largest = train.iter().chain(&test).max();
        largest.map_or(0, |&largest| usize::from(largest) + 1)
    });
    let split = |part: &str, first: usize, labels: Vec<u8>| {
        let (images_path, labels_path) = (&paths[first], &paths[first + 1]);
        let mut hash = None;
        let mut images = images_up_to(images_path, most(first, 3), |[count, h, w], pixels| {
            // The checksum begins with the training images, which are most of the data.
            if first == 0 && !set.transposed {
                let begin = || add_kind(Sha256::new(), (1, h, w), 255, classes, count);
                hash.get_or_insert_with(begin).update(pixels);
            }
        })?;
        let bad = |path: &Path, expected: String, found: String| Error::BadFile {
            path: path.to_owned(),
            expected,
            found,
            cure: format!("check that the files belong to {} and to each other", set.name),
        };
        let size = (images.height, images.width);
        if let Some((height, width)) = set.image_size.filter(|&expected| expected != size) {
            let found = format!("{} × {}", images.height, images.width);
            return Err(bad(images_path, format!("images of {height} × {width} pixels"), found));
        }
        if images.count != labels.len() {
            let expected = format!("{} labels, one for each image", images.count);
            return Err(bad(labels_path, expected, labels.len().to_string()));
        }
        if set.transposed {
            images.transpose();
        }
        let (name, shape) = (format!("{} {part}", set.name), (1, images.height, images.width));
        let labels = labels.into_iter().map(u32::from).collect();
        let mut split = ImageSet::new(&name, shape, 255, classes, images.pixels, labels)?;
        split.hash = hash;
        Ok(split)
    };
    let (train, test) = rayon::join(|| split("train", 0, train), || split("test", 2, test));
    let data = Dataset::new(&set.name, train?, test?)?;
    let dir = paths[0].parent().unwrap_or(Path::new("."));
    tracing::info!(
        "{}: {} training and {} test images of {classes} classes from {}",
        set.name,
        data.train.len(),
        data.test.len(),
        dir.display()
    );
    // With known classes, a part of a set may lack some.
    if set.classes.is_none()
        && let Some(class) = data.train.label_counts().iter().position(|&count| count == 0)
    {
        tracing::warn!("{}: {classes} classes, of which class {class} has no training image", dir.display());
    }
    Ok(data)
}
