//! The whole of Taper against PyTorch, against analytic results, and against itself.
//!
//! Tests that need the real MNIST look for it in `TAPER_DATA` and say that they skipped where it is not.
#![allow(clippy::unwrap_used, missing_docs)]

mod analytic;
mod curves;
mod mnist;
mod repeat;
mod resume;
mod session;
mod support;
mod trained;
