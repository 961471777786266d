use std::{io, path::PathBuf};

/// What goes wrong between a file and a batch; each prints as one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory is there but is not what it should be, or is not there.
    #[error("{}: expected {expected}, found {found}: {cure}", path.display())]
    BadFile {
        /// The file or directory.
        path: PathBuf,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
        /// What to do about it.
        cure: String,
    },

    /// The operating system refused to read or write.
    #[error("{}: cannot {action}: {cause}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was attempted: "open", "write", ...
        action: &'static str,
        /// What the system answered.
        cause: io::Error,
    },

    /// A server was not reached or did not send what it should.
    #[error("{url}: expected {expected}, found {found}")]
    Http {
        /// The address asked for.
        url: String,
        /// What should have come.
        expected: String,
        /// What came.
        found: String,
    },

    /// A data set is in none of the places where it was looked for.
    #[error("data set {dataset} not found; tried {}: {cure}", tried.join("; "))]
    NotFound {
        /// The data set's name.
        dataset: String,
        /// Each place, with the reason why it gave nothing.
        tried: Vec<String>,
        /// What to do about it.
        cure: String,
    },

    /// The caller asked for something that makes no sense: an unknown name, a batch of nothing.
    #[error("expected {expected}, found {found}: {cure}")]
    Usage {
        /// What would make sense, and for what.
        expected: String,
        /// What was asked for.
        found: String,
        /// What to do about it.
        cure: String,
    },

    /// A tensor could not be made, for instance because the device is out of memory.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// For `map_err`: adds the path and the verb that every I/O error must carry.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Error::Io { path, action, cause }
    }
}

/// [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
