use taper_report::Split;

/// An invalid call of a model or an observer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two sites of a model have the same name, which would mix their numbers.
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
    /// The input and output of an activation function have different shapes.
    #[error("site '{site}': expected xs and ys of one shape, found {xs:?} and {ys:?}")]
    ShapesDiffer {
        /// The site.
        site: String,
        /// Shape of the pre-activations.
        xs: Vec<usize>,
        /// Shape of the post-activations.
        ys: Vec<usize>,
    },
    /// A window of a recorder was begun while another is open.
    #[error(
        "expected a recorder with an empty window to record {} into, found one with {}: call finish between them, or use a \
         recorder for each",
        begins.name(),
        open.map_or("passes of your own loop".to_string(), |split| format!("passes over {}", split.name()))
    )]
    WindowOpen {
        /// The split of the open window; `None` if it has none.
        open: Option<Split>,
        /// The split of the new window.
        begins: Split,
    },
    /// Recorders of different windows were merged.
    #[error("recorders cannot be merged: site '{site}': {trouble}")]
    Merge {
        /// The site.
        site: String,
        /// Why their numbers cannot be added.
        trouble: taper_report::Trouble,
    },
    /// Recorders with different parts were merged, which would leave moments of half the data.
    #[error("recorders of different parts cannot be merged: make both with the same Parts")]
    PartsDiffer,
    /// A penalty with more than one value.
    #[error(
        "expected a term of one value to add to the loss, found shape {0:?}: take its mean with mean_all()"
    )]
    NotScalar(Vec<usize>),
    /// A random number was drawn outside training.
    #[error("no random numbers in evaluation mode: dropout and similar layers do nothing there")]
    NoRng,
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
