//! Taper: neural networks on candle that show what their activations do while they train.
//!
//! One crate with everything: what a program needs comes from here.
//!
//! | module | what it has |
//! |---|---|
//! | [`nn`] | layers and models whose activations can be observed |
//! | [`hooks`] | sites, observers, the recorder |
//! | [`train`] | `train_epoch`, `evaluate`, optimisers, weight files, checkpoints |
//! | [`data`] | data sets and batches |
//! | [`report`] | statistics as plain numbers, and the sinks that write them |
//! | [`kernels`] | the CPU kernels underneath, as functions of candle tensors |
//!
//! The manual is in the repository's `docs/`: getting started, the statistics, extending Taper, reading the
//! pictures, file formats, architecture. Pictures of runs are made by the crate `taper-view`, which is not
//! part of this one.
//!
//! ```
//! use candle_core::Device;
//! use taper::{data, hooks, nn, report, train};
//!
//! let digits = data::digits()?;
//! let params = nn::Params::new(1, &Device::Cpu);
//! let config = nn::MlpConfig { inputs: 64, widths: vec![32], activation: nn::Activation::Selu, ..Default::default() };
//! let net = nn::Mlp::new(&config, params.builder())?;
//! let rule = train::OptimizerConfig::new(train::Rule::adam(0.0), 3e-3);
//! let mut optimizer = train::Optimizer::new(params.vars(), rule)?;
//! let mut printed = Vec::new();
//! let mut console = report::ConsoleSink::new(&mut printed, report::ConsoleConfig::default());
//! let options = train::Fit { epochs: 2, batch_size: 32 };
//! let last = train::fit(&net, &mut optimizer, &digits, options, &mut console, &mut hooks::rng(2))?;
//!
//! let test = last.as_ref().and_then(|report| report.split(report::Split::Test)).expect("two epochs were asked for");
//! assert_eq!((test.score.samples, test.layers[0].site.as_str()), (360, "fc1"));
//! assert_eq!(test.layers[0].zero_fraction, 0.0); // SELU makes no zeros
//! assert!(String::from_utf8_lossy(&printed).starts_with("epoch 1"));
//! # Ok::<(), train::Error>(())
//! ```

pub use taper_data as data;
pub use taper_hooks as hooks;
pub use taper_kernels as kernels;
pub use taper_nn as nn;
pub use taper_report as report;
pub use taper_train as train;

/// The manual in `docs/`: its Rust blocks are compiled and run by `cargo test --doc`.
#[cfg(doctest)]
mod manual {
    #[doc = include_str!("../../../docs/architecture.md")]
    pub struct Architecture;
    #[doc = include_str!("../../../docs/extending.md")]
    pub struct Extending;
    #[doc = include_str!("../../../docs/formats.md")]
    pub struct Formats;
    #[doc = include_str!("../../../docs/getting-started.md")]
    pub struct GettingStarted;
    #[doc = include_str!("../../../docs/performance.md")]
    pub struct Performance;
    #[doc = include_str!("../../../docs/reading-the-pictures.md")]
    pub struct ReadingThePictures;
    #[doc = include_str!("../../../docs/reliability.md")]
    pub struct Reliability;
    #[doc = include_str!("../../../docs/statistics.md")]
    pub struct Statistics;
}
