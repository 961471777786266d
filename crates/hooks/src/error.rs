/// What can be wrong with what a model mentions to its observers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two places of a model have one name, so that their numbers would be mixed.
    #[error("two sites are called '{0}': give each activation the name of the layer that feeds it")]
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
    /// Something random was asked for outside training.
    #[error("no random numbers in evaluation mode: dropout and its like do nothing there")]
    NoRng,
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::wrap(error)
    }
}
