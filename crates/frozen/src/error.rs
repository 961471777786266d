use std::path::PathBuf;

/// What is wrong with a network, its file, or the arguments of a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Layers, tensors or arguments that do not fit each other.
    #[error("{0}")]
    Argument(String),
    /// A file that cannot be read or written, or does not hold a network.
    #[error("{}: {message}", path.display())]
    File {
        /// Of the file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file that this crate did not write.
    #[error("{}: expected a network written by Sequential::save, found {found}: give the weights with their layers", path.display())]
    Foreign {
        /// Of the file.
        path: PathBuf,
        /// What it seems to be.
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
