//! Taper: neural networks on candle that show what their activations do while they train.
//!
//! One crate with everything: what a program needs comes from here.
//!
//! | module | what it has |
//! |---|---|
//! | [`nn`] | layers and models whose activations can be observed |
//! | [`hooks`] | sites, observers, the recorder |
//! | [`train`] | training steps, `train_epoch`, `evaluate`, optimisers, weight files, checkpoints, sessions |
//! | [`data`] | data sets and batches |
//! | [`report`] | statistics as plain numbers, and the sinks that write them |
//! | [`kernels`] | the CPU kernels underneath, as functions of candle tensors |
//!
//! The manual is in the repository's `docs/`: getting started, the statistics, extending Taper, recipes, reading
//! the pictures, file formats, architecture. Pictures of runs are made by the crate `taper-view`, and options, grids and resuming
//! for programs by `taper-experiment`; neither is part of this one.
//!
//! ```
//! use candle_core::Device;
//! use taper::prelude::*;
//!
//! let digits = taper::data::digits()?;
//! let params = Params::new(1, &Device::Cpu);
//! let config = MlpConfig { inputs: 64, widths: vec![32], activation: Activation::Selu, ..Default::default() };
//! let net = Mlp::new(&config, params.builder())?;
//! let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adam(0.0), 3e-3))?;
//! let mut printed = Vec::new();
//! let mut console = ConsoleSink::new(&mut printed, ConsoleConfig::default());
//! let (train, test) = (|rng: &mut Rng| digits.train.shuffled(rng, 32), || digits.test.batches(32));
//! let last = fit(&classify(&net), &mut optimizer, train, test, Fit { epochs: 2, seed: 2 }, &mut console)?;
//!
//! let test = last.split(Split::Test).expect("it was measured");
//! assert_eq!((test.score.samples, test.layers[0].site.as_str()), (360, "fc1"));
//! assert_eq!(test.layers[0].zero_fraction, 0.0); // SELU makes no zeros
//! assert!(String::from_utf8_lossy(&printed).contains("epoch    loss accuracy"));
//! # Ok::<(), taper::train::Error>(())
//! ```

pub use taper_data as data;
pub use taper_frozen as frozen;
pub use taper_hooks as hooks;
pub use taper_kernels as kernels;
pub use taper_nn as nn;
pub use taper_report as report;
pub use taper_train as train;

/// What most programs need: `use taper::prelude::*`.
pub mod prelude {
    pub use taper_hooks::{Activation, Observer, Pass, Recorder, Rng, Units, rng};
    pub use taper_nn::{
        Act, Cnn, CnnConfig, Conv2d, Dropout, Init, Linear, Mlp, MlpConfig, Model, Params, Tap,
    };
    pub use taper_report::{ConsoleConfig, ConsoleSink, Run, Sink, Split};
    pub use taper_train::{
        CROSS_ENTROPY, Fit, Here, MSE, Optimizer, OptimizerConfig, Rule, Session, SessionConfig, Step,
        binary, classify, classify_with, cross_entropy, evaluate, fit, mse, reconstruct, regress,
        train_batches, train_epoch,
    };
}

/// The manual in `docs/`: its Rust blocks are compiled and run by `cargo test --doc`.
#[cfg(doctest)]
mod manual {
    #[doc = include_str!("../../../docs/architecture.md")]
    pub struct Architecture;
    #[doc = include_str!("../../../docs/dead-units.md")]
    pub struct DeadUnits;
    #[doc = include_str!("../../../docs/extending.md")]
    pub struct Extending;
    #[doc = include_str!("../../../docs/formats.md")]
    pub struct Formats;
    #[doc = include_str!("../../../docs/getting-started.md")]
    pub struct GettingStarted;
    #[doc = include_str!("../../../docs/gpu.md")]
    pub struct Gpu;
    #[doc = include_str!("../../../docs/papers.md")]
    pub struct Papers;
    #[doc = include_str!("../../../docs/performance.md")]
    pub struct Performance;
    #[doc = include_str!("../../../docs/reading-the-pictures.md")]
    pub struct ReadingThePictures;
    #[doc = include_str!("../../../docs/recipes.md")]
    pub struct Recipes;
    #[doc = include_str!("../../../docs/reliability.md")]
    pub struct Reliability;
    #[doc = include_str!("../../../docs/scaling.md")]
    pub struct Scaling;
    #[doc = include_str!("../../../docs/statistics.md")]
    pub struct Statistics;
}
