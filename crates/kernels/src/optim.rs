//! The update rules, and what each remembers about a parameter.

mod in_place;
mod norms;
mod rule;
mod slots;
pub(crate) mod twin;

pub use norms::Norms;
pub use rule::Rule;
pub use slots::Slots;
