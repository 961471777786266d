//! What the example programs share: the terminal and the command line. See the files beside `src` for the programs.

mod analytic;
mod command_line;
mod distribution;
mod frame;
mod in_order;
pub mod pictures;
mod resume;
mod screen;
mod signals;

pub use analytic::{Law, Numbers, share};
pub use command_line::{
    at_least_one, file_time, locked_version, not_negative, number, percent, positive, rate, size, start,
    usage,
};
pub use distribution::{Distribution, Distributions};
pub use in_order::{InOrder, Place};
pub use resume::Stored;
pub use screen::{Bars, Screen, colors_wanted};
pub use signals::{INTERRUPTED, Stop, on_signal};
