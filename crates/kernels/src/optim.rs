//! The update rules, and what each remembers about a parameter.

mod rule;
mod slots;
pub(crate) mod twin;

pub use rule::Rule;
pub use slots::Slots;
