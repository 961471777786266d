use serde_json::{Value, json};
use taper_data::{Dataset, ImageSet, Samples};
use taper_report::Split;

/// The data that all runs of a program share.
#[derive(Clone, Debug)]
pub struct Data<S> {
    /// The name of the data set: `mnist`.
    pub name: String,
    /// The training split.
    pub train: S,
    /// The validation split, for choosing between runs or epochs, if there is one.
    pub validation: Option<S>,
    /// The test split, if there is one.
    pub test: Option<S>,
    /// Identifies these samples, for example by their checksum. It is written to `config.json` and compared when a run
    /// is resumed.
    pub identity: Value,
}

impl<S: Samples> Data<S> {
    /// The splits that are measured after each epoch.
    pub(crate) fn measured(&self) -> impl Iterator<Item = (Split, &S)> {
        let (validation, test) = (self.validation.as_ref(), self.test.as_ref());
        validation.map(|set| (Split::Validation, set)).into_iter().chain(test.map(|set| (Split::Test, set)))
    }

    /// The number of samples measured after each epoch, and before the first.
    pub(crate) fn measured_samples(&self) -> u64 {
        self.measured().map(|(_, set)| set.count() as u64).sum()
    }
}

/// Data without a validation split.
impl From<Dataset> for Data<ImageSet> {
    fn from(data: Dataset) -> Self {
        let identity = json!({
            "mean": data.mean,
            "std": data.std,
            "train": data.train.len(),
            "test": data.test.len(),
            "sha256": data.checksum(),
        });
        Self { name: data.name, train: data.train, validation: None, test: Some(data.test), identity }
    }
}
