//! Taper: neural networks on candle that show what their activations do while they train.
//!
//! One crate with everything: what a program needs comes from here.
//!
//! | module | what it has |
//! |---|---|
//! | [`nn`] | layers and models whose activations can be observed |
//! | [`hooks`] | sites, observers, the recorder |
//! | [`train`] | `train_epoch`, `evaluate`, optimisers, weight files |
//! | [`data`] | data sets and batches |
//! | [`report`] | statistics as plain numbers, and the sinks that write them |
//! | [`kernels`] | the CPU kernels underneath, as functions of candle tensors |

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
    #[doc = include_str!("../../../docs/reading-the-pictures.md")]
    pub struct ReadingThePictures;
    #[doc = include_str!("../../../docs/statistics.md")]
    pub struct Statistics;
}
