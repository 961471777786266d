//! Observation of activations: sites, observers, and the recorder, which computes statistics.
//!
//! A forward pass takes a [`Pass`]. After each activation function, or anywhere else, the model calls [`Pass::see`] or
//! [`Pass::tap`] (`taper_nn::Act` and `Tap` do this), and the pass calls an [`Observer`]. The [`Recorder`] is an
//! observer that computes zeros, dead units, moments, a histogram and more in one pass over the values. Observers
//! cannot change the computation.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use taper_hooks::{Activation, Pass, Recorder, Site};
//! use taper_kernels::activate;
//!
//! let site = Site::behind("fc1", Activation::Relu);
//! let mut recorder = Recorder::new();
//! for batch in [[[-1.0_f32, 0.5], [-3.0, 2.0]], [[-0.1, -4.0], [-7.0, 8.0]]] {
//!     let xs = Tensor::new(&batch, &Device::Cpu)?;
//!     let ys = activate(&xs, Activation::Relu)?;
//!     Pass::eval(&mut recorder).see(&site, &xs, &ys)?;
//! }
//! let stats = &recorder.finish()[0];
//! assert_eq!((stats.values, stats.zeros), (8, 5));
//! assert_eq!(stats.dead_units, [0]); // unit 0 never fired
//! # Ok::<(), candle_core::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod bits;
mod error;
mod measure;
mod mode;
mod moments;
mod observer;
mod parts;
mod pass;
mod recorder;
mod site;
mod step;
mod tallies;
mod tally;
mod unit_stats;
mod window;

pub use error::Error;
pub use mode::Mode;
pub use observer::{FirstFault, Observer, ObserverFn, observer_fn};
pub use parts::Parts;
pub use pass::Pass;
pub use recorder::Recorder;
pub use site::{Seen, Site, Units};
pub use step::StepSeen;
pub use taper_kernels::{Activation, CustomActivation, Draw};
pub use unit_stats::UnitStats;

/// The random number generator of initialisation and shuffling: xoshiro256++ (Blackman & Vigna 2021).
///
/// A seed gives the same numbers on every machine. Its state, 32 bytes, is part of a checkpoint.
pub type Rng = rand::rngs::Xoshiro256PlusPlus;

/// A generator with this seed.
pub fn rng(seed: u64) -> Rng {
    <Rng as rand::SeedableRng>::seed_from_u64(seed)
}
