//! Differentiable operations, the gradients between them, and the tape that they are written to.

mod finite;
mod gradient;
mod gradients;
mod graph;
mod op;
mod tape;

pub use finite::{all_finite, first_non_finite, non_finite_flag};
pub(crate) use gradient::{Gradient, Pending, Scattered, Tile, TileOp};
pub(crate) use gradients::Form;
pub use gradients::{Gradients, VarGradient};
pub(crate) use graph::apply;
#[cfg(feature = "cuda")]
pub(crate) use graph::{Node, apply_in_graph};
pub(crate) use op::{Backward, Op};
pub(crate) use tape::by_candle;
pub use tape::{Tape, no_grad, off_the_record, record};
