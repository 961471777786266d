//! Code that examples share, and the computations and pictures of `activations`. The programs are the files next to `src`.

mod analytic;
mod distribution;
mod frame;
mod inference;
pub mod pictures;
mod scatter;

pub use analytic::{Law, Numbers, share};
pub use distribution::{Distribution, Distributions};
pub use inference::{alternately, argmax, pixels, quantile};
pub use scatter::{Point, Scatter, scatter_svg, stack_svg};
