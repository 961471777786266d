use std::path::PathBuf;

use taper_report::{Fault, Place, Split};

use crate::step;

/// Any error: the type for errors of the user's batches and steps.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Errors that end a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed; candle's error, without a backtrace.
    #[error("{}", .0.to_string().replace('\n', ": "))]
    Tensor(candle_core::Error),
    /// An argument of a layer or operation of Taper is invalid.
    #[error(transparent)]
    Argument(taper_kernels::Error),
    /// A site cannot be observed.
    #[error(transparent)]
    Observe(taper_hooks::Error),
    /// The data could not be read.
    #[error(transparent)]
    Data(taper_data::Error),
    /// A sink failed.
    #[error(transparent)]
    Report(#[from] taper_report::Error),
    /// An error of the user's batch or step.
    #[error(transparent)]
    Other(BoxError),
    /// The result of a training step cannot be used.
    #[error("training step, batch {batch}: {fault}")]
    Step {
        /// The batch within the pass, from 1.
        batch: u64,
        /// What is wrong.
        #[source]
        fault: step::StepError,
    },
    /// There were no batches.
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
        /// The epoch, from 1, if it is known.
        epoch: Option<u32>,
        /// The batch, its loss, and the place of the first such number.
        fault: Fault,
    },
    /// Parameters without a gradient in the first step, which would never be trained.
    #[error(
        "no gradient reaches {}, which would never be trained: forward does not use {}, or candle has no backward pass for \
         an operation after {} (candle_nn's LayerNorm, RmsNorm and softmax_last_dim have none: use those of taper_nn); if it \
         is meant to be so, freeze them or say unused in a ParamGroup",
        match all {
            true => format!("any parameter of the optimizer ({})", crate::weights::listed(parameters)),
            false => crate::weights::listed(parameters),
        },
        match all {
            true => "them (are they those of this model?)",
            false => "them",
        },
        match all {
            true => "the parameters",
            false => "them",
        },
    )]
    NoGradient {
        /// Their names.
        parameters: Vec<String>,
        /// Whether these are all parameters of the optimiser.
        all: bool,
    },
    /// An invalid option.
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
    /// A checkpoint could not be written, or is incomplete.
    #[error("{path}: {message}", path = path.display())]
    Checkpoint {
        /// The file or directory.
        path: PathBuf,
        /// Expected, found, and what to do.
        message: String,
    },
    /// The directory has another run.
    #[error("{path}: {}: undo the change, or set force to accept another result", changes.join("; "), path = path.display())]
    OtherRun {
        /// The directory of the run.
        path: PathBuf,
        /// The differences, in words.
        changes: Vec<String>,
    },
}

/// A result whose error is this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Any error, as its variant: for a step whose own errors do not convert automatically.
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

    /// Adds the epoch to a non-finite number's error.
    pub fn in_epoch(self, epoch: u32) -> Self {
        match self {
            Self::NotFinite { fault, .. } => Self::NotFinite { epoch: Some(epoch), fault },
            other => other,
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(mut error: candle_core::Error) -> Self {
        // candle adds a backtrace of many lines if RUST_BACKTRACE is set; users get the first line.
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
