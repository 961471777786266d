use std::{io, path::PathBuf};

/// Errors of reading and drawing runs. Each message is complete: it has no further `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of a run could not be read, or has the wrong content.
    #[error(transparent)]
    Report(#[from] taper_report::Error),
    /// A path is neither a run nor a directory of runs.
    #[error("{path}: {found}, expected a run's config.json or directories that have one", path = path.display())]
    NotARun {
        /// The path.
        path: PathBuf,
        /// What was found instead.
        found: &'static str,
    },
    /// A file or directory could not be read or written.
    #[error("{path}: {cause}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// A picture could not be drawn.
    #[error("{path}: cannot draw: {cause}", path = path.display())]
    Draw {
        /// The file of the picture.
        path: PathBuf,
        /// The error of the drawing library.
        cause: String,
    },
    /// There are no runs to draw.
    #[error("no run to draw")]
    NoRuns,
}

/// A result whose error is this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: adds the path to an I/O error.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { path, cause }
    }
}
