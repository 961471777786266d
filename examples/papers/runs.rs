use std::ffi::OsString;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use taper::data::{ImageSet, Samples};
use taper::report::{EpochReport, Run, Split, SplitReport, label_value, read_config, read_reports};
use taper_experiment::{Data, ImageOptions, Options, Setup, Trial, run_from};

use crate::paper::Setting;

/// A run of a grid, with its reports from epoch 0.
pub struct Ran {
    pub run: Run,
    pub epochs: Vec<EpochReport>,
}

impl Ran {
    /// The value of a label; empty without one.
    pub fn label(&self, name: &str) -> String {
        self.run.labels.get(name).map(label_value).unwrap_or_default()
    }

    /// A split after the last epoch.
    pub fn last(&self, split: Split) -> Option<&SplitReport> {
        self.epochs.last()?.split(split)
    }

    /// The accuracy after the last epoch, in percent; NaN if it was not measured.
    pub fn accuracy(&self, split: Split) -> f64 {
        self.last(split).and_then(|of| of.score.metric("accuracy")).map_or(f64::NAN, |share| 100.0 * share)
    }
}

/// Trains a grid of runs in `setting.out`, or what is left of it, and reads its records.
///
/// The program `A` has the options `options`, as on a command line; `load` and `train` are those of
/// [`taper_experiment::run`].
pub fn train<A, S>(
    setting: &Setting,
    options: &[&str],
    load: impl FnOnce(&mut A, &Setup<'_>) -> taper_experiment::Result<Data<S>>,
    train: impl Fn(&A, &mut Trial<'_, S>) -> taper_experiment::Result<()> + Sync,
) -> Result<Vec<Ran>>
where
    A: Parser + Serialize + DeserializeOwned + Sync,
    S: Samples + Sync,
{
    let out = &setting.out;
    let begun = out.join("grid.json").exists();
    let mut command: Vec<OsString> = vec![A::command().get_name().into()];
    command.extend(options.iter().map(Into::into));
    command.extend([if begun { "--resume".into() } else { "--out".into() }, out.into()]);
    if run_from(command, load, train)? != ExitCode::SUCCESS {
        bail!("{}: interrupted; the same command continues it", out.display());
    }
    let mut runs = Vec::new();
    for entry in fs::read_dir(out).with_context(|| out.display().to_string())? {
        let dir = entry?.path();
        let config = dir.join("config.json");
        if config.exists() {
            runs.push(Ran { run: read_config(&config)?, epochs: read_reports(&dir)? });
        }
    }
    runs.sort_by(|a, b| a.run.name.cmp(&b.run.name));
    Ok(runs)
}

/// The command line of a protocol on MNIST: options `P` of its own, and those of the data and of training.
#[derive(Parser, Serialize, Deserialize)]
#[command(name = "papers")]
pub struct OnMnist<P: Args> {
    #[command(flatten)]
    #[serde(flatten)]
    pub own: P,
    #[command(flatten)]
    #[serde(flatten)]
    pub images: ImageOptions,
    #[command(flatten)]
    #[serde(flatten)]
    pub options: Options,
}

/// [`train`] on MNIST.
pub fn train_on_mnist<P: Args + Serialize + DeserializeOwned + Sync>(
    setting: &Setting,
    options: &[&str],
    learn: impl Fn(&OnMnist<P>, &mut Trial<'_, ImageSet>) -> taper_experiment::Result<()> + Sync,
) -> Result<Vec<Ran>> {
    let options = [options, &["--dataset", "mnist"]].concat();
    train(setting, &options, |args: &mut OnMnist<P>, setup| args.images.load(setup), learn)
}

/// [`mean_and_sd`] of a number, over the runs that have it and these labels.
pub fn over_seeds(runs: &[Ran], labels: &[(&str, &str)], number: impl Fn(&Ran) -> Option<f64>) -> (f64, f64) {
    let has = |ran: &&Ran| labels.iter().all(|(name, value)| ran.label(name) == *value);
    mean_and_sd(&runs.iter().filter(has).filter_map(number).collect::<Vec<_>>())
}

/// The mean and its standard deviation, that of the values divided by √n; NaN for what too few values do not have.
pub fn mean_and_sd(xs: &[f64]) -> (f64, f64) {
    let n = xs.len() as f64;
    let mean = xs.iter().sum::<f64>() / n;
    let squares: f64 = xs.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

/// The difference of two means, each with its standard deviation.
pub fn minus(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    (a.0 - b.0, a.1.hypot(b.1))
}

/// A percentage of 10,000 test images and its standard deviation: of a single run that of the count, which leaves out the
/// differences between runs.
pub fn or_binomial((percent, sd): (f64, f64)) -> (f64, f64) {
    let of_count = (percent * (100.0 - percent) / 10_000.0).sqrt();
    (percent, if sd.is_nan() { of_count } else { sd })
}

/// Writes an option to `config.json` as text, as on the command line, and reads it from there.
macro_rules! as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use as_text;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sd_of_a_mean_needs_two_values() {
        assert_eq!(mean_and_sd(&[1.0, 2.0, 3.0, 6.0]), (3.0, (14.0_f64 / 3.0 / 4.0).sqrt()));
        assert!(mean_and_sd(&[1.0]).0 == 1.0 && mean_and_sd(&[1.0]).1.is_nan());
    }
}
