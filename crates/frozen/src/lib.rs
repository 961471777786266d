//! Exact inference that skips zero activations.
//!
//! A [`Sequential`] is a network as plain values: its layers, their tensors in PyTorch's layout, and the scaling of its
//! inputs. It is made from the parameters of a model, and can be saved to one file. [`Frozen`] is a `Sequential` that is
//! prepared for inference. After ReLU most inputs of a layer are 0; `Frozen` neither reads nor multiplies their weights.
//! The results are the same, bit for bit.
//!
//! The speed-up depends on the share of zeros. [`Scratch::work`] counts the multiplications of each layer, and the
//! example `infer` measures the time. `docs/performance.md` has figures.
//!
//! Units that do not affect the results can be removed. [`Sequential::bounds`] bounds the values of each unit over all
//! images, and [`Sequential::observe`] measures them on given images. [`Sequential::without_dead`] and
//! [`Sequential::fold_constants`] return the smaller network. The example `prune` does this for a file of weights.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod error;
mod sequential;

mod build;
mod file;
mod frozen;
mod scratch;

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
