//! What the example `activations` draws and computes. See the files beside `src` for the programs.

mod analytic;
mod distribution;
mod frame;
pub mod pictures;

pub use analytic::{Law, Numbers, share};
pub use distribution::{Distribution, Distributions};
