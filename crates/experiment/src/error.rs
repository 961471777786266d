use taper_train::BoxError;

/// Errors that end a program, or one run of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A training failed.
    #[error(transparent)]
    Train(#[from] taper_train::Error),
    /// The data could not be read.
    #[error(transparent)]
    Data(#[from] taper_data::Error),
    /// Records could not be read or written.
    #[error(transparent)]
    Report(#[from] taper_report::Error),
    /// The value of an option is invalid.
    #[error("{option}: {cause}")]
    Option {
        /// The option.
        option: String,
        /// The reason.
        #[source]
        cause: BoxError,
    },
    /// Invalid options: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// An error of the program.
    #[error(transparent)]
    Other(#[from] BoxError),
}

/// A result whose error is this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a model.
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Train(error.into())
    }
}

impl Error {
    /// For `map_err`: adds the option that an error is about.
    pub fn option<E: Into<BoxError>>(option: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |cause| Self::Option { option: option.into(), cause: cause.into() }
    }
}
