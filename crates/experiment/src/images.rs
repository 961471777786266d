use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};
use taper_data::{Choice, Dataset, ImageSet, Scale, load};

use crate::{Data, Error, Result, Screen, Setup, at_least_one};

/// Options for a data set of images: MNIST and the like, or IDX files.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Data")]
pub struct ImageOptions {
    /// auto (mnist, or digits if it is not available), mnist, fashion-mnist, kmnist, digits, emnist-letters (or
    /// -balanced, -byclass, -bymerge, -digits, -mnist), or idx: your own four files under MNIST's names
    #[arg(long, default_value_t = Choice::Auto)]
    pub dataset: Choice,
    /// Directory with the data set's four files [default: $TAPER_DATA, else datasets/NAME, the cache or a download]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// raw: pixels from 0 to 255; unit: in [0, 1]; standard: in [0, 1], minus their mean, divided by their standard
    /// deviation; 0.5,0.5: with this mean and this standard deviation
    #[arg(long, default_value_t = Scale::Standard)]
    pub scale: Scale,
    /// Use only the first N training and N test samples
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    pub limit: Option<usize>,
    /// Hold back the last N training samples and report on them too
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    pub validation: Option<usize>,
}

impl ImageOptions {
    /// Loads the data set, onto the device of the program.
    ///
    /// # Errors
    /// As [`load`]; and if there are no training samples, or only images of one class.
    pub fn load(&self, setup: &Setup<'_>) -> Result<Data<ImageSet>> {
        let loaded = load_images(self.dataset, self.data_dir.clone(), setup.screen);
        let mut data = loaded?.scaled(self.scale).on(setup.device);
        if let Some(n) = self.limit {
            (data.train, data.test) = (data.train.take(n), data.test.take(n));
        }
        let mut data = Data::from(data);
        if let Some(n) = self.validation {
            let (train, validation) = data.train.split_last(n).map_err(Error::option("--validation"))?;
            (data.train, data.validation) = (train, Some(validation));
        }
        data.train.check(1)?;
        Ok(data)
    }
}

/// Loads a data set of images from this directory, else from `$TAPER_DATA` or the usual places, with a progress bar for
/// downloads.
///
/// # Errors
/// As [`load`].
pub fn load_images(choice: Choice, data_dir: Option<PathBuf>, screen: &Screen) -> Result<Dataset> {
    let options = taper_data::Options {
        data_dir,
        env_dir: std::env::var_os("TAPER_DATA").filter(|dir| !dir.is_empty()).map(PathBuf::from),
        ..Default::default()
    };
    let bar = screen.download_bar();
    let loaded = load(choice, &options, &mut |progress| {
        bar.set_length(progress.total.unwrap_or(progress.received));
        bar.set_position(progress.received);
        bar.set_message(progress.file.to_string());
    });
    bar.finish_and_clear();
    Ok(loaded?)
}
