//! What a training program has around its model: options, grids of runs, parallel jobs, run directories, checkpoints,
//! resuming, signals, progress, alerts, a live view, comparisons, a report page and exit codes.
//!
//! The program has its own options, which flatten [`Options`], a function that loads its [`Data`], and a function that
//! builds a model for one run and trains it. [`run`] does the rest:
//!
//! ```standalone_crate
//! use std::process::ExitCode;
//!
//! use clap::Parser;
//! use serde::{Deserialize, Serialize};
//! use taper_data::{Dataset, ImageSet, digits};
//! use taper_experiment::{Data, Options, Setup, Sweep, Trial};
//! use taper_nn::{Activation, Mlp, MlpConfig};
//! use taper_train::{CROSS_ENTROPY, Result, classify};
//!
//! /// Classify digits.
//! #[derive(Parser, Serialize, Deserialize)]
//! struct Args {
//!     /// Activation functions, one run each
//!     #[arg(long, value_name = "A[,B...]", default_value = "relu,selu")]
//!     act: Sweep<Activation>,
//!     #[command(flatten)]
//!     #[serde(flatten)]
//!     options: Options,
//! }
//!
//! fn load(_: &mut Args, _: &Setup<'_>) -> Result<Data<ImageSet>> {
//!     Ok(digits()?.into())
//! }
//!
//! fn train(args: &Args, trial: &mut Trial<'_, ImageSet>) -> taper_experiment::Result<()> {
//!     let config = MlpConfig { inputs: 64, widths: vec![32], activation: *args.act, ..Default::default() };
//!     let net = Mlp::new(&config, trial.params.builder())?;
//!     trial.start("mlp 64-32-10", CROSS_ENTROPY)?;
//!     trial.fit(&classify(&net))
//! }
//!
//! fn main() -> ExitCode {
//! #   let dir = tempfile::tempdir().expect("a directory");
//! #   std::env::set_current_dir(dir.path()).expect("it is there");
//!     taper_experiment::run(load, train)
//! }
//! ```
//!
//! `--help` lists all options. `--act relu,selu --seeds 3 --jobs 2` trains six runs, two at a time. `--resume DIR`
//! resumes one run or the unfinished runs of a grid, with the same bytes as an uninterrupted run.
//!
//! `config.json` has the program's options as `serde` writes them, and resuming reads them from there. An option that
//! is given together with `--resume` replaces the stored value; a change that alters the result is refused without
//! `--force`.
//!
//! This crate is part of programs, so it reads environment variables, unlike the libraries: `NO_COLOR`, `FORCE_COLOR`,
//! `TERM`, `RUST_LOG`, `RAYON_NUM_THREADS`, and `TAPER_DATA` in [`ImageOptions::load`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod error;
mod options;
mod sweep;

mod data;
mod images;

mod processes;
mod program;
mod stage;
mod trial;

mod cells;
mod grid;
mod in_order;
mod stored;
mod target;
mod trained;

mod command_line;
mod screen;
mod signals;

pub use command_line::{at_least_one, not_negative, number, percent, positive, print, rate, size, start};
pub use data::Data;
pub use error::{Error, Result};
pub use images::{ImageOptions, load_images};
pub use options::{DeviceKind, Options, Resuming, Running, Track, Training};
pub use program::{Setup, run, run_from};
pub use screen::Screen;
pub use sweep::{Sweep, sweep};
pub use trained::{LAYERS_HELP, Trained, WeightOptions};
pub use trial::Trial;

use screen::Bars;
