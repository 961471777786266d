use std::path::PathBuf;

use taper_report::{Fault, Place, Split};

use crate::step;

/// Any error: what batches and steps of one's own may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can end a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed; candle's error, without a backtrace.
    #[error("{}", .0.to_string().replace('\n', ": "))]
    Tensor(candle_core::Error),
    /// An argument of a layer or operation of Taper makes no sense.
    #[error(transparent)]
    Argument(taper_kernels::Error),
    /// What a model showed could not be observed.
    #[error(transparent)]
    Observe(taper_hooks::Error),
    /// The data could not be read.
    #[error(transparent)]
    Data(taper_data::Error),
    /// A sink could not write.
    #[error(transparent)]
    Report(#[from] taper_report::Error),
    /// What a batch or a step of the user's own failed with.
    #[error(transparent)]
    Other(BoxError),
    /// What a training step returned cannot be used.
    #[error("training step, batch {batch}: {fault}")]
    Step {
        /// The batch within the pass, from 1.
        batch: u64,
        /// What is wrong.
        #[source]
        fault: step::StepError,
    },
    /// There was no batch.
    #[error("expected at least one batch of {}, found none: was the iterator used up, or the data set empty?", .0.name())]
    NoBatches(Split),
    /// The loss, a metric, a gradient or an activation became NaN or infinite.
    #[error(
        "{} in {}batch {}: {}{}",
        match fault.loss.is_finite() {
            true => format!("loss is {}, yet not every number is finite", fault.loss),
            false => format!("loss is {}", fault.loss),
        },
        epoch.map_or(String::new(), |epoch| format!("epoch {epoch}, ")),
        fault.batch,
        fault.place,
        match fault.place {
            Place::Data { .. } | Place::Metric { .. } => "",
            _ => "; a lower learning rate or gradient clipping may help",
        }
    )]
    NotFinite {
        /// The epoch, from 1, where it is known.
        epoch: Option<u32>,
        /// The batch, its loss, and where the first such number was found.
        fault: Fault,
    },
    /// Parameters that no gradient reaches in the first step: they would never be trained.
    #[error(
        "no gradient reaches {}, which would never be trained: forward does not use {}, or candle has no backward pass for \
         an operation behind (candle_nn's LayerNorm, RmsNorm and softmax_last_dim have none: use those of taper_nn); if it \
         is meant to be so, freeze them or say unused in a Group",
        match all {
            true => format!("any parameter of the optimizer ({})", crate::weights::listed(parameters)),
            false => crate::weights::listed(parameters),
        },
        match all {
            true => "them (are they those of this model?)",
            false => "them",
        },
    )]
    NoGradient {
        /// Their names.
        parameters: Vec<String>,
        /// Whether the optimiser has no others.
        all: bool,
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
    /// The run in a directory is another one.
    #[error("{path}: {}: leave the change out, or set force to accept another result", changes.join("; "), path = path.display())]
    OtherRun {
        /// The directory of the run.
        path: PathBuf,
        /// What is different, in words.
        changes: Vec<String>,
    },
}

/// A result whose error is this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Any error, as the variant that it belongs to: for a step whose own errors do not convert by themselves.
    pub fn other(error: impl Into<BoxError>) -> Self {
        fn known(error: BoxError) -> Result<Error, BoxError> {
            let error = match error.downcast::<Error>() {
                Ok(error) => return Ok(*error),
                Err(error) => error,
            };
            let error = match error.downcast::<taper_data::Error>() {
                Ok(error) => return Ok((*error).into()),
                Err(error) => error,
            };
            let error = match error.downcast::<taper_report::Error>() {
                Ok(error) => return Ok((*error).into()),
                Err(error) => error,
            };
            error.downcast::<candle_core::Error>().map(|error| (*error).into())
        }
        known(error.into()).unwrap_or_else(Self::Other)
    }

    /// Names the epoch in which a number was lost.
    pub fn in_epoch(self, epoch: u32) -> Self {
        match self {
            Self::NotFinite { fault, .. } => Self::NotFinite { epoch: Some(epoch), fault },
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
        if let Some(error) = taper_hooks::Error::of(&error) {
            return Self::Observe(error.clone());
        }
        if let Some(error) = taper_kernels::Error::of(&error) {
            return Self::Argument(error.clone());
        }
        Self::Tensor(error)
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
