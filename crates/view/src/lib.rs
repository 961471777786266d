//! Pictures of training runs: an offline page, static plots and a live terminal view.

mod error;
mod load;

mod bins;
mod chart;
mod group;
mod html;
mod live;
mod measure;
mod palette;
mod plots;
mod table;
mod text;

#[cfg(test)]
mod sample;

pub use error::{Error, Result};
pub use html::html_report;
pub use live::{HeldStderr, Live, LiveConfig, restore_terminal};
pub use load::{RunData, load_runs};
pub use plots::static_plots;
