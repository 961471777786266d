//! Matrices with zeros, or one background value, in most places: lists of the other values, and products over them.

mod choice;
pub(crate) mod compact;
mod lists;
mod sums;
mod tiles;

pub(crate) use choice::Choice;
pub(crate) use compact::{compress, differs};
pub(crate) use lists::{Entry, Lists};
pub(crate) use sums::BLOCK;
pub(crate) use tiles::{SIDE, Tiles};
