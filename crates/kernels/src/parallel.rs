//! Slices that threads read and write together, in an order that does not depend on their number.

mod disjoint;
mod fill;
mod reduce;

pub(crate) use disjoint::DisjointSlices;
pub(crate) use fill::{CHUNK, filled, filled_both, filled_by_columns, for_chunks, per_image};
pub(crate) use reduce::largest;
