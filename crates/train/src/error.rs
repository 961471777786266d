use std::path::PathBuf;

use crate::Place;

/// What can end a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed; the message is candle's, without a backtrace.
    #[error("{0}")]
    Tensor(String),
    /// The data could not be read.
    #[error(transparent)]
    Data(taper_data::Error),
    /// A sink could not write.
    #[error(transparent)]
    Report(#[from] taper_report::Error),
    /// The loss, a gradient or an activation became NaN or infinite.
    #[error(
        "{} in {}batch {batch}: {place}{}",
        match loss.is_finite() {
            true => format!("loss is {loss}, yet not every number is finite"),
            false => format!("loss is {loss}"),
        },
        epoch.map_or(String::new(), |epoch| format!("epoch {epoch}, ")),
        match place {
            Place::Data { .. } => "",
            _ => "; a lower learning rate or gradient clipping may help",
        }
    )]
    NotFinite {
        /// The loss; finite if something else is not.
        loss: f32,
        /// The epoch, from 1, where it is known.
        epoch: Option<u32>,
        /// The batch within the epoch, from 1.
        batch: usize,
        /// Where the first such number was found.
        place: Place,
    },
    /// An option that makes no sense.
    #[error("{0}")]
    Config(String),
    /// A file of weights could not be read, written, or does not fit the model.
    #[error("{path}: {message}", path = path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// Expected, found, and what to do.
        message: String,
    },
    /// A checkpoint could not be written, or is not whole.
    #[error("{path}: {message}", path = path.display())]
    Checkpoint {
        /// The file or directory.
        path: PathBuf,
        /// Expected, found, and what to do.
        message: String,
    },
}

/// A result whose error is this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Names the epoch in which a number was lost.
    pub fn in_epoch(self, epoch: u32) -> Self {
        match self {
            Self::NotFinite { loss, batch, place, .. } => {
                Self::NotFinite { loss, epoch: Some(epoch), batch, place }
            }
            other => other,
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(mut error: candle_core::Error) -> Self {
        // candle adds a backtrace of many lines where RUST_BACKTRACE is set; users get the one line.
        while let candle_core::Error::WithBacktrace { inner, .. } = error {
            error = *inner;
        }
        Self::Tensor(error.to_string())
    }
}

impl From<taper_data::Error> for Error {
    fn from(error: taper_data::Error) -> Self {
        match error {
            taper_data::Error::Tensor(error) => error.into(),
            other => Self::Data(other),
        }
    }
}
