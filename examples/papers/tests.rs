//! The unit tests of the protocols, as a target of its own: with `test = true` cargo would build the example as a test only,
//! and `cargo test` would not have the program.

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
