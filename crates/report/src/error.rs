use std::path::PathBuf;

use crate::FORMAT_VERSION;

/// Errors of writing results. Each message is complete: it has no further `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be created, read or written.
    #[error("{path}: {cause}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        cause: std::io::Error,
    },
    /// A record could not be serialised or parsed.
    #[error("{path}:{line}: not a valid record: {}", one_line(&cause.to_string(), 240), path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The record's first line in it, from 1.
        line: usize,
        /// The error of the parser.
        cause: serde_json::Error,
    },
    /// A record was written in another version of the format.
    #[error(
        "{path}:{line}: expected format version {FORMAT_VERSION}, found {found}: {}",
        match *found < FORMAT_VERSION {
            true => "train it again, or read it with the taper that wrote it",
            false => "read it with a newer taper",
        },
        path = path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The record's first line in it, from 1.
        line: usize,
        /// The version in the record.
        found: u32,
    },
    /// Another process has locked the run.
    #[error("{path}: another process is writing to this run: wait until it has ended, or stop it", path = path.display())]
    Locked {
        /// The run's directory.
        path: PathBuf,
    },
    /// An epoch was reported before its run began.
    #[error("{path}: expected a run before its first epoch: call begin first", path = path.display())]
    NotBegun {
        /// The run's directory.
        path: PathBuf,
    },
    /// A file of a resumed run is shorter than at the checkpoint.
    #[error(
        "{path}: expected at least the {expected} bytes that it had when the checkpoint was written, found {found}: it was \
         cut or replaced",
        path = path.display()
    )]
    Short {
        /// The file.
        path: PathBuf,
        /// Its length at the checkpoint.
        expected: u64,
        /// Its length now.
        found: u64,
    },
    /// An [`Alert`](crate::Alert) has fired: rule, epoch and values.
    #[error("{0}")]
    Alert(String),
    /// The rule of an [`Alert`](crate::Alert) is invalid.
    #[error("{0}")]
    Rule(String),
    /// A user's sink failed.
    #[error("{0}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// A result whose error is this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: adds the path to an I/O error.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { path, cause }
    }

    /// For `map_err` when a record is written: adds the file to an error of the serialiser.
    pub(crate) fn json(path: &std::path::Path) -> impl FnOnce(serde_json::Error) -> Self {
        move |cause| Self::Json { path: path.into(), line: 1, cause }
    }
}

/// Text from a file for a message: on one line, with control characters escaped. A text of more than `most` characters
/// loses its middle, because a parser says at the end what it expected and where.
pub fn one_line(text: &str, most: usize) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    match text.chars().count() {
        n if n <= most => text.chars().map(escape).collect(),
        n => {
            let (head, tail) = (text.chars().take(most / 2), text.chars().skip(n - most / 2));
            head.map(escape).chain(["…".to_string()]).chain(tail.map(escape)).collect()
        }
    }
}
