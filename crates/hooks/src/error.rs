/// What can be wrong with what a model mentions to its observers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two places of a model have one name, so that their numbers would be mixed.
    #[error(
        "two sites are called '{0}': give each activation the name of the layer that feeds it, and make it once, not in \
         every pass"
    )]
    SiteTwice(String),
    /// The number of units changed within a window.
    #[error(
        "site '{site}': expected {expected} units as before, found {found}: one activation for layers of different widths?"
    )]
    UnitsChanged {
        /// The site.
        site: String,
        /// Units so far.
        expected: usize,
        /// Units now.
        found: usize,
    },
    /// A tensor that has no units.
    #[error("site '{site}': expected activations of shape (N, units, ..), found {found:?}")]
    Shape {
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
    /// Training and evaluation passes were to be recorded in one window.
    #[error(
        "site '{0}': training and evaluation in one window: call finish between them, or use a recorder for each"
    )]
    ModesMixed(String),
    /// Recorders of different parts were to be merged, which would leave moments and the like of half the data.
    #[error("recorders of different parts cannot be merged: make both with the same Parts")]
    PartsDiffer,
    /// Something random was asked for outside training.
    #[error("no random numbers in evaluation mode: dropout and its like do nothing there")]
    NoRng,
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::wrap(error)
    }
}
