use std::{io, path::PathBuf};

/// What can go wrong while runs are read and drawn. Each message is complete: it has no further `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of a run could not be read, or is not what its name says.
    #[error(transparent)]
    Report(#[from] taper_report::Error),
    /// A path is neither a run nor a directory of runs.
    #[error("{path}: {found}, expected a run's config.json or directories that have one", path = path.display())]
    NotARun {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        found: &'static str,
    },
    /// A file or directory could not be read or written.
    #[error("{path}: {cause}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A picture could not be drawn.
    #[error("{path}: cannot draw: {cause}", path = path.display())]
    Draw {
        /// The file that was to hold it.
        path: PathBuf,
        /// What the drawing library said.
        cause: String,
    },
    /// There is no run to draw.
    #[error("no run to draw")]
    NoRuns,
}

/// A result whose error is this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: ties an I/O error to the path it happened at.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { path, cause }
    }
}
