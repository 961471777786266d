use std::path::PathBuf;

/// An error in a network, its file, or the arguments of a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Invalid arguments: wrong shapes, missing tensors, or layers in a wrong order.
    #[error("{0}")]
    Argument(String),
    /// A file cannot be read or written, or its network is invalid.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        message: String,
    },
    /// The file was not written by this crate.
    #[error("{}: expected a network written by Sequential::save, found {found}: give the weights with their layers", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        found: String,
    },
}

/// The result of a function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn argument<T>(message: String) -> Result<T> {
    Err(Error::Argument(message))
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Argument(match taper_kernels::Error::of(&error) {
            Some(own) => own.to_string(),
            None => error.to_string(),
        })
    }
}

impl From<taper_kernels::Error> for Error {
    fn from(error: taper_kernels::Error) -> Self {
        Self::Argument(error.to_string())
    }
}
