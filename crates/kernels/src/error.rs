/// What is wrong with an argument. Tensor operations return candle's error, into which this one converts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that names no activation function.
    #[error("{0}")]
    Activation(String),
    /// A size, stride, padding or rate that makes no sense.
    #[error("{0}")]
    Argument(String),
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::wrap(error)
    }
}

/// An argument error, as candle's.
pub(crate) fn argument<T>(message: String) -> candle_core::Result<T> {
    Err(Error::Argument(message).into())
}
