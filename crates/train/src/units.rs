//! Methods that change weights between the steps of training: they restart units or keep weights at 0.

mod continual;
mod input_masks;
mod l2_init;
mod redo;
mod restart;
mod revive;

pub use continual::{Continual, ContinualConfig};
pub use input_masks::InputMasks;
pub use l2_init::L2Init;
pub use redo::{Redo, redo};
pub use restart::restart_units;
pub use revive::Revive;
