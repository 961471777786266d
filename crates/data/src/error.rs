use std::{io, path::PathBuf};

/// Errors between a file and a batch; each prints as one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory is missing or has the wrong content.
    #[error("{}: expected {expected}, found {found}: {cure}", path.display())]
    BadFile {
        /// The file or directory.
        path: PathBuf,
        /// The expected content.
        expected: String,
        /// The content found.
        found: String,
        /// The cure.
        cure: String,
    },

    /// The operating system refused to read or write.
    #[error("{}: cannot {action}: {cause}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operation: "open", "write", ...
        action: &'static str,
        /// The error of the system.
        cause: io::Error,
    },

    /// A server was not reached or sent a wrong answer.
    #[error("{url}: expected {expected}, found {found}")]
    Http {
        /// The requested address.
        url: String,
        /// The expected answer.
        expected: String,
        /// The answer.
        found: String,
    },

    /// A data set was not found in any place.
    #[error("data set {dataset} not found; tried {}: {cure}", tried.join("; "))]
    NotFound {
        /// The data set's name.
        dataset: String,
        /// Each place, with the reason.
        tried: Vec<String>,
        /// The cure.
        cure: String,
    },

    /// An invalid argument: an unknown name, a batch of size 0.
    #[error("expected {expected}, found {found}: {cure}")]
    Usage {
        /// The valid values, and of what.
        expected: String,
        /// The value found.
        found: String,
        /// The cure.
        cure: String,
    },

    /// A tensor could not be made, for example because the device is out of memory.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// For `map_err`: adds the path and the operation to an I/O error.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Error::Io { path, action, cause }
    }
}

/// [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
