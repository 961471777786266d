//! The results of a training run: plain numbers, and the sinks that write them.
//!
//! This crate does not depend on a tensor library. A run is a [`Run`]. After each epoch the training loop makes an
//! [`EpochReport`], and after windows of steps a [`StepReport`], and gives them to a [`Sink`]: [`ConsoleSink`] prints
//! it, [`RunDir`] writes files that [`read_lines`] reads, [`TensorBoard`] writes event files, [`TracingSink`] emits
//! events, [`Watch`] looks for problems of the training, [`Summary`] keeps a row for the [`comparison`] of runs. Sinks
//! compose: `&mut S`, `Box<S>` and `Vec<S>` are sinks, and [`sink_fn`] makes one of a closure.
//!
//! ```
//! use taper_report::{ConsoleConfig, ConsoleSink, EpochReport, Metric, MetricKind, Score, Sink, Split, SplitReport, sink_fn};
//!
//! let mut best = 0.0_f64;
//! let mut printed = Vec::new();
//! let mut sinks: Vec<Box<dyn Sink + '_>> = vec![
//!     Box::new(ConsoleSink::new(&mut printed, ConsoleConfig::default())),
//!     Box::new(sink_fn(|report| {
//!         best = best.max(report.headline().and_then(|of| of.score.metric("accuracy")).unwrap_or(0.0));
//!         Ok(())
//!     })),
//! ];
//! let accuracy = Metric { name: "accuracy".into(), kind: MetricKind::Share, value: 0.98 };
//! let score = Score { loss: 0.1, samples: 10_000, metrics: vec![accuracy], ..Score::default() };
//! sinks.epoch(&EpochReport { epoch: 1, splits: vec![SplitReport::new(Split::Test, score)] })?;
//! drop(sinks);
//! assert_eq!(best, 0.98);
//! assert_eq!(String::from_utf8_lossy(&printed), "\x20      test
//! epoch    loss accuracy
//!     1  0.1000   98.00%
//! ");
//! # Ok::<(), taper_report::Error>(())
//! ```

mod alert;
mod error;
mod fault;
mod histogram;
mod layer_stats;
mod octaves;
mod report;
mod run;
mod score;
mod sink;
mod statistic;
mod statistics;
mod step_report;
mod warning;

mod lines;
mod replay;
mod run_dir;
mod whole;

mod layer_table;
mod number;
mod picture;
mod table;

mod comparison;
mod console;
mod epoch_row;
mod summary;
mod tensorboard;
mod tracing_sink;
mod warn;

pub use alert::Alert;
pub use comparison::comparison;
pub use console::{ConsoleConfig, ConsoleSink, layers_text};
pub use error::{Error, Result, one_line};
pub use fault::{Fault, NonFinite, Place};
pub use histogram::{Histogram, MAGNITUDES};
pub use layer_stats::{ActivePerSample, FiringRates, LayerStats, Quantiles, Trouble};
pub use lines::{
    ConfigRecord, FORMAT_VERSION, LayerLine, Line, Metrics, MetricsLine, StepLine, Timing, TimingLine,
    WarningLine, read_config, read_lines, read_lines_before_damage,
};
pub use number::{count as count_text, fixed as fixed_text, share as share_text};
pub use octaves::{OCTAVES, Octaves};
pub use replay::read_reports;
pub use report::{EpochReport, Split, SplitReport};
pub use run::{Consumer, Labels, Run, label_text, label_value};
pub use run_dir::{Lengths, RunDir, RunLock, fresh_dir};
pub use score::{ADDED_LOSS, Metric, MetricKind, Score};
pub use sink::{Sink, SinkFn, sink_fn};
pub use statistic::{Shown, Statistic, StatisticKind};
pub use statistics::STATISTICS;
pub use step_report::{ParameterNorms, SiteSteps, StepReport};
pub use summary::Summary;
pub use table::{Align, Cell, Table};
pub use tensorboard::TensorBoard;
pub use tracing_sink::TracingSink;
pub use warn::warn;
pub use warning::{Finding, Warning, Watch, warnings};
pub use whole::{sync_dir, write_whole};
