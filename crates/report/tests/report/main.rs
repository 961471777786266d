//! What runs report, to the character and byte.
#![allow(clippy::unwrap_used)]

mod alert;
mod comparison;
mod console;
mod records;
mod run_dir;
mod sample;
mod tensorboard;
mod tracing;
mod warning;
