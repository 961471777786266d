//! Unit tests of the protocols, as a separate test target. With `test = true` on the example, `cargo test` would build its unit
//! tests instead of the executable, and `tests/papers.rs` needs the executable.

#![allow(dead_code)]

mod adam_l2;
mod born_dead;
mod changing_regression;
mod correlation;
mod denser;
mod dropout;
mod glorot;
mod k_winners;
mod mlp;
mod paper;
mod permuted_mnist;
mod runs;
mod selu;
mod stream;
mod symmetry;
