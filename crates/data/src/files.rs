use crate::{
    Choice, Error, Result,
    bytes::{is_broken_gzip, open},
};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::{
    fmt,
    fs::File,
    io,
    io::Read,
    path::{Component, Path},
};

/// A data set in four IDX files: their names, addresses and checksums.
///
/// Plain data, so that a program can describe its own set and load it with [`load_files`](crate::load_files).
#[derive(Debug, Clone)]
pub struct FileSet {
    /// The name of the set and of its directory in the cache.
    pub name: String,
    /// Base addresses of the files `NAME.gz`, in the order in which they are tried. HTTPS, or HTTP on this machine. A
    /// file is downloaded only if its checksum is known.
    pub mirrors: Vec<String>,
    /// Training images, training labels, test images, test labels.
    pub files: [RemoteFile; 4],
    /// Height and width of the images in the files; `None` for any.
    pub image_size: Option<(usize, usize)>,
    /// Number of classes; `None` to use the largest label.
    pub classes: Option<usize>,
    /// The first class label in the files (1 for EMNIST letters). It is subtracted, so labels in memory start at 0.
    pub first_label: u8,
    /// Whether the files store images column-major (EMNIST). Such images are transposed on loading.
    pub transposed: bool,
}

/// One file of a [`FileSet`].
#[derive(Debug, Clone)]
pub struct RemoteFile {
    /// The name without `.gz`.
    pub name: String,
    /// Its uncompressed size, if it is known: the maximum that is read.
    pub content_bytes: Option<u64>,
    /// The checksum of a download, if it is known.
    pub checksum: Option<Checksum>,
}

/// A published checksum, in lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of the uncompressed bytes.
    Sha256OfContent(String),
    /// MD5 of the `.gz` file itself.
    Md5OfArchive(String),
}

/// MNIST's names and sizes, which other sets also use.
const FILES: [(&str, u64); 4] = [
    ("train-images-idx3-ubyte", 47_040_016),
    ("train-labels-idx1-ubyte", 60_008),
    ("t10k-images-idx3-ubyte", 7_840_016),
    ("t10k-labels-idx1-ubyte", 10_008),
];

impl FileSet {
    /// The files of a choice, if it has files.
    pub(crate) fn of(choice: Choice) -> Option<Self> {
        Some(match choice {
            Choice::Digits => return None,
            Choice::Auto | Choice::Mnist => Self::mnist(),
            Choice::FashionMnist => Self::fashion_mnist(),
            Choice::Kmnist => Self::kmnist(),
            Choice::EmnistBalanced => Self::emnist(choice, 47, 0, [112_800, 18_800]),
            Choice::EmnistByclass => Self::emnist(choice, 62, 0, [697_932, 116_323]),
            Choice::EmnistBymerge => Self::emnist(choice, 47, 0, [697_932, 116_323]),
            Choice::EmnistDigits => Self::emnist(choice, 10, 0, [240_000, 40_000]),
            Choice::EmnistLetters => Self::emnist(choice, 26, 1, [124_800, 20_800]),
            Choice::EmnistMnist => Self::emnist(choice, 10, 0, [60_000, 10_000]),
            Choice::Idx => Self::idx(),
        })
    }

    /// Four files under MNIST's names: images of any size, and as many classes as the largest label says.
    pub fn idx() -> Self {
        let files =
            FILES.map(|(name, _)| RemoteFile { name: name.to_owned(), content_bytes: None, checksum: None });
        Self {
            name: Choice::Idx.name().to_owned(),
            mirrors: Vec::new(),
            files,
            image_size: None,
            classes: None,
            first_label: 0,
            transposed: false,
        }
    }

    /// A split of EMNIST (G. Cohen and others, 2017), handwritten letters and digits. Its files are published as one
    /// archive, so they are not downloaded.
    ///
    /// They store images column by column, and `letters` counts its classes from 1. In memory images are upright and
    /// classes count from 0.
    fn emnist(choice: Choice, classes: usize, first_label: u8, counts: [u64; 2]) -> Self {
        let file = |part: &str, kind: &str, content_bytes: u64| RemoteFile {
            name: format!("{choice}-{part}-{kind}-ubyte"),
            content_bytes: Some(content_bytes),
            checksum: None,
        };
        let [train, test] = counts;
        Self {
            name: choice.name().to_owned(),
            files: [
                file("train", "images-idx3", 784 * train + 16),
                file("train", "labels-idx1", train + 8),
                file("test", "images-idx3", 784 * test + 16),
                file("test", "labels-idx1", test + 8),
            ],
            image_size: Some((28, 28)),
            classes: Some(classes),
            first_label,
            transposed: true,
            ..Self::idx()
        }
    }

    /// Handwritten digits (Y. LeCun, C. Cortes, C. J. C. Burges).
    pub fn mnist() -> Self {
        let mirrors = [
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ];
        let sums = [
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ];
        Self::like_mnist(Choice::Mnist, &mirrors, sums.map(|sum| Checksum::Sha256OfContent(sum.to_owned())))
    }

    /// Pieces of clothing (H. Xiao, K. Rasul, R. Vollgraf, 2017), from the authors' repository.
    pub fn fashion_mnist() -> Self {
        let mirrors = [
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ];
        let sums = [
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ];
        Self::like_mnist(
            Choice::FashionMnist,
            &mirrors,
            sums.map(|sum| Checksum::Md5OfArchive(sum.to_owned())),
        )
    }

    /// Cursive Japanese characters (T. Clanuwat and others, 2018), from the authors' server.
    pub fn kmnist() -> Self {
        let mirrors = ["https://codh.rois.ac.jp/kmnist/dataset/kmnist/"];
        let sums = [
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ];
        Self::like_mnist(Choice::Kmnist, &mirrors, sums.map(|sum| Checksum::Md5OfArchive(sum.to_owned())))
    }

    /// Checks that the names, which become parts of paths, are plain file names.
    pub(crate) fn check(&self) -> Result<()> {
        let is_name = |name: &str| {
            let mut parts = Path::new(name).components();
            let only = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
            only && !name.contains(['/', '\\'])
        };
        let names = self.files.iter().map(|file| &file.name).chain([&self.name]);
        match names.into_iter().find(|name| !is_name(name)) {
            None => Ok(()),
            Some(name) => Err(Error::Usage {
                expected: "the name of a data set or of a file of it, without a path".to_owned(),
                found: format!("{name:?}"),
                cure: "name the directory in the options".to_owned(),
            }),
        }
    }

    fn like_mnist(choice: Choice, mirrors: &[&str], sums: [Checksum; 4]) -> Self {
        let mut sums = sums.into_iter();
        Self {
            name: choice.name().to_owned(),
            mirrors: mirrors.iter().map(|&mirror| mirror.to_owned()).collect(),
            files: FILES.map(|(name, content_bytes)| RemoteFile {
                name: name.to_owned(),
                content_bytes: Some(content_bytes),
                checksum: sums.next(),
            }),
            image_size: Some((28, 28)),
            classes: Some(10),
            ..Self::idx()
        }
    }
}

impl RemoteFile {
    /// `None` if the file at `path` matches, otherwise what was found instead of `checksum`.
    ///
    /// Decompresses at most one byte more than the expected size.
    pub(crate) fn mismatch(&self, checksum: &Checksum, path: &Path) -> Result<Option<String>> {
        let (expected, found) = match checksum {
            Checksum::Md5OfArchive(sum) => {
                let file = File::open(path).map_err(Error::io(path, "open"))?;
                (sum, digest::<Md5>(file))
            }
            Checksum::Sha256OfContent(sum) => {
                let most = self.content_bytes.map_or(u64::MAX, |bytes| bytes.saturating_add(1));
                (sum, digest::<Sha256>(open(path)?.take(most)))
            }
        };
        match found {
            Ok(found) => Ok((found != *expected).then_some(found)),
            Err(e) if is_broken_gzip(&e) => Ok(Some(format!("a broken gzip file ({e})"))),
            Err(e) => Err(Error::io(path, "read")(e)),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Checksum::Sha256OfContent(sum) => write!(f, "a file whose content has the SHA-256 {sum}"),
            Checksum::Md5OfArchive(sum) => write!(f, "a file with the MD5 {sum}"),
        }
    }
}

/// The digest of all bytes of `reader`, in hexadecimal digits.
fn digest<D: Digest>(mut reader: impl Read) -> io::Result<String> {
    let (mut hash, mut chunk) = (D::new(), vec![0; 1 << 16]);
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(hex::encode(hash.finalize())),
            Ok(n) => hash.update(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
