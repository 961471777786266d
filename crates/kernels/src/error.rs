/// An invalid argument. Tensor operations return candle's error, into which this one converts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that names no activation function.
    #[error("{0}")]
    Activation(String),
    /// An invalid size, stride, padding or rate.
    #[error("{0}")]
    Argument(String),
}

impl From<Error> for candle_core::Error {
    /// As an I/O error: the variant of candle's error that keeps the value and prints it unchanged.
    fn from(error: Error) -> Self {
        Self::Io(std::io::Error::other(error))
    }
}

impl Error {
    /// The error of this crate inside an error of candle, if there is one.
    pub fn of(error: &candle_core::Error) -> Option<&Self> {
        match error {
            candle_core::Error::WithBacktrace { inner, .. } => Self::of(inner),
            candle_core::Error::Io(error) => error.get_ref()?.downcast_ref(),
            _ => None,
        }
    }
}

/// An argument error, as candle's.
pub(crate) fn argument<T>(message: String) -> candle_core::Result<T> {
    Err(Error::Argument(message).into())
}
