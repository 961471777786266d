use std::path::PathBuf;

use crate::FORMAT_VERSION;

/// What can go wrong while results are written down. Each message is complete: it has no further `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be created, read or written.
    #[error("{path}: {cause}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A record could not be turned into JSON or read back from it.
    #[error("{path}:{line}: not a valid record: {}", one_line(cause), path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The record's first line in it, from 1.
        line: usize,
        /// What the parser said.
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
        /// The version that the record names.
        found: u32,
    },
    /// Another process has the run.
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
    /// A file of a run that goes on has lost something since it was saved.
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
    /// The rule of an [`Alert`](crate::Alert) says nothing that can be asked.
    #[error("{0}")]
    Rule(String),
    /// A sink of the user's own failed.
    #[error("{0}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// A result whose error is this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: ties an I/O error to the path it happened at.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { path, cause }
    }

    /// For `map_err`, where a record is written: ties an error of the serialiser to the file.
    pub(crate) fn json(path: &std::path::Path) -> impl FnOnce(serde_json::Error) -> Self {
        move |cause| Self::Json { path: path.into(), line: 1, cause }
    }
}

/// What the parser says may repeat what the file says: on one line, and not all of it.
fn one_line(cause: &serde_json::Error) -> String {
    const MOST: usize = 240;
    let text = cause.to_string();
    let cut = |c: &mut dyn Iterator<Item = char>| c.flat_map(escaped).collect::<String>();
    match text.chars().count() {
        n if n <= MOST => cut(&mut text.chars()),
        // What is expected, and where, stands at the end.
        n => {
            let (head, tail) =
                (cut(&mut text.chars().take(MOST / 2)), cut(&mut text.chars().skip(n - MOST / 2)));
            format!("{head}…{tail}")
        }
    }
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let control = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    control.into_iter().flatten().chain(plain)
}
