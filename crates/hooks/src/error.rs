use taper_report::Split;

/// What can be wrong with what a model shows to its observers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two places of a model have one name, so that their numbers would be mixed.
    #[error(
        "two sites are called '{0}': give each activation the name of the layer that feeds it, and make it once, not in \
         every pass"
    )]
    SiteTwice(String),
    /// A tensor that has no units.
    #[error("site '{site}': expected values of shape (N, units, ..) or (N, .., units), found {found:?}")]
    Shape {
        /// The site.
        site: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor of three axes at a site whose unit axis is not set.
    #[error(
        "site '{site}': expected to be told which axis of {found:?} the units are: units(Units::Last) for (N, T, F), \
         units(Units::Second) for (N, C, L); forward_act of a layer says it by itself"
    )]
    UnitsUnknown {
        /// The site.
        site: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// What went into an activation function and what came out differ in shape.
    #[error("site '{site}': expected xs and ys of one shape, found {xs:?} and {ys:?}")]
    ShapesDiffer {
        /// The site.
        site: String,
        /// Shape of the pre-activations.
        xs: Vec<usize>,
        /// Shape of the post-activations.
        ys: Vec<usize>,
    },
    /// A window of a recorder was to begin before the one before had ended.
    #[error(
        "expected a recorder with an empty window to record {} into, found one with {}: call finish between them, or use a \
         recorder for each",
        begins.name(),
        open.map_or("passes of your own loop".to_string(), |split| format!("passes over {}", split.name()))
    )]
    WindowOpen {
        /// What it holds; `None` if it was never told.
        open: Option<Split>,
        /// What was to begin.
        begins: Split,
    },
    /// Recorders of different windows were to be merged.
    #[error("recorders cannot be merged: site '{site}': {trouble}")]
    Merge {
        /// The site.
        site: String,
        /// Why its numbers do not add up.
        trouble: taper_report::Trouble,
    },
    /// Recorders of different parts were to be merged, which would leave moments and the like of half the data.
    #[error("recorders of different parts cannot be merged: make both with the same Parts")]
    PartsDiffer,
    /// A penalty that has more than one value.
    #[error(
        "expected a term of one value to add to the loss, found shape {0:?}: take its mean with mean_all()"
    )]
    NotScalar(Vec<usize>),
    /// Something random was asked for outside training.
    #[error("no random numbers in evaluation mode: dropout and its like do nothing there")]
    NoRng,
}

impl From<Error> for candle_core::Error {
    /// As an I/O error: a variant of candle's that prints the value alone and keeps it within reach.
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
