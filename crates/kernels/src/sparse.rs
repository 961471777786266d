//! Matrices most of whose values are zero, or one background value: the others as lists, and products over these alone.

mod choice;
pub(crate) mod compact;
mod lists;
mod sums;
mod tiles;

pub(crate) use choice::Choice;
pub(crate) use lists::{Entry, Lists};
pub(crate) use sums::BLOCK;
pub(crate) use tiles::{SIDE, Tiles};
