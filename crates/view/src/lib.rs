//! Pictures of training runs: an offline page, static plots and a live terminal view.
//!
//! [`load_runs`] reads the files of [`taper_report::RunDir`]; [`html_report`] makes one page of them that needs no
//! network, [`static_plots`] the main curves as SVG; [`LivePage`] updates the page of a running training.
//!
//! ```
//! let (runs, errors) = taper_view::load_runs(&["no/such/run".into()]);
//! assert!(runs.is_empty());
//! assert_eq!(errors[0].to_string(), "no/such/run: No such file or directory (os error 2)");
//!
//! let page = taper_view::html_report(&runs);
//! assert!(page.starts_with("<!doctype html>"));
//! ```

mod error;
mod load;

mod answer;
mod bins;
mod chart;
mod configuration;
mod csv;
mod distribution;
mod group;
mod heat;
mod html;
mod live;
mod live_page;
mod measure;
mod palette;
mod plots;
mod savings;
mod strip;
mod table;
mod text;

#[cfg(test)]
mod sample;

pub use csv::csv;
pub use error::{Error, Result};
pub use html::html_report;
pub use live::{HeldStderr, Live, LiveConfig, restore_terminal};
pub use live_page::LivePage;
pub use load::{RunData, load_runs};
pub use plots::static_plots;
