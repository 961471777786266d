//! Exact inference that skips the zeros of activations.
//!
//! A [`Sequential`] is a network as plain values: layers, tensors in PyTorch's layout, and how its inputs are scaled. It comes
//! from the parameters of a model and is saved to one file. [`Frozen`] is the same prepared for inference: behind ReLU most
//! inputs of a layer are zero, and their weights are neither read nor multiplied. The answers are the same to the bit.
//!
//! What is gained depends on the zeros: [`Scratch::work`] counts the multiplications of each layer, and the example `infer`
//! measures the time. `docs/performance.md` has figures.
//!
//! Units that cannot matter are removed: [`Sequential::bounds`] proves what a unit can be for every image,
//! [`Sequential::observe`] finds what it is for some, [`Sequential::without_dead`] and [`Sequential::fold_constants`] give the
//! smaller network. The example `prune` does so with a file of weights.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod error;
mod sequential;

mod build;
mod file;
mod frozen;
mod scratch;
mod shape;

mod bound;
mod bounds;
mod observed;
mod prune;
mod signals;

pub use error::{Error, Result};
pub use frozen::{Form, Frozen};
pub use prune::Folded;
pub use scratch::{Scratch, Work};
pub use sequential::{Part, Scaling, Sequential, Values};
pub use signals::{Range, Signals};
