//! The computations and pictures of the example `activations`. The programs are the files next to `src`.

mod analytic;
mod distribution;
mod frame;
pub mod pictures;

pub use analytic::{Law, Numbers, share};
pub use distribution::{Distribution, Distributions};
