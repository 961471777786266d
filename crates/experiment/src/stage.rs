use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use taper_hooks::Pass;
use taper_report::{EpochReport, Error as ReportError, Run, Sink, StepReport, Summary};
use taper_train::{AnyStep, Error, Session, StepFn};
use taper_view::LivePage;

use crate::Bars;

/// The state of a trial.
pub(crate) enum Stage<'a> {
    /// A rehearsal: the directory of the run if it is resumed, and whether epoch 0 has begun.
    Rehearsal { resumed: Option<PathBuf>, run: Option<Run>, begun: bool },
    /// Not started: the directory of the run, and its sinks.
    Waiting { path: PathBuf, console: Box<dyn Sink + 'a>, bars: &'a Bars },
    /// Started.
    Started { session: Box<Session<'a>>, bars: &'a Bars, epoch: u32 },
    /// Ended.
    Gone,
}

/// The result of a run.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Ended {
    #[serde(skip)]
    pub summary: Option<Arc<Mutex<Summary>>>,
    /// Its directory.
    pub path: Option<PathBuf>,
    /// It was complete before.
    pub was_finished: bool,
    /// An alert ended it.
    pub alerted: bool,
    /// The error that ended it occurred in every process: an alert, or NaN.
    pub in_every_process: bool,
    /// Standard output is closed.
    pub closed: bool,
    /// Invalid options.
    pub misused: Option<String>,
}

impl Ended {
    /// Stores the error that ended the run.
    pub fn note(&mut self, error: &Error) {
        self.in_every_process |=
            matches!(error, Error::NotFinite { .. } | Error::Report(ReportError::Alert(_)));
        if let Error::Report(error) = error {
            self.alerted |= matches!(error, ReportError::Alert(_));
            self.closed |=
                matches!(error, ReportError::Io { cause, .. } if cause.kind() == ErrorKind::BrokenPipe);
        }
    }

    /// The result of the run, once it has begun.
    pub fn summary(&self) -> Option<Summary> {
        Some(self.summary.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// A step that advances the bars, by the samples of all processes.
pub(crate) struct Counted<'a, F> {
    pub step: &'a F,
    pub bars: &'a Bars,
    pub processes: u64,
}

impl<B, F: StepFn<B>> StepFn<B> for Counted<'_, F> {
    fn run<R: Send>(&self, op: impl FnOnce(&AnyStep<'_, B>) -> R + Send) -> R {
        let (bars, processes) = (self.bars, self.processes);
        self.step.run(|step| {
            op(&|pass: &mut Pass<'_>, batch: &B| {
                let done = step(pass, batch)?;
                bars.advance(done.samples() * processes);
                Ok(done)
            })
        })
    }
}

/// A summary that outlives the session.
pub(crate) struct Told(pub Arc<Mutex<Summary>>);

impl Sink for Told {
    fn epoch(&mut self, report: &EpochReport) -> taper_report::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).epoch(report)
    }
}

/// The page of the runs in a directory, in that directory.
pub(crate) fn live_page(dir: &Path) -> Mutex<LivePage> {
    Mutex::new(LivePage::new(dir.join("report.html"), vec![dir.to_path_buf()]))
}

/// Keeps a page up to date.
pub(crate) struct Paged<'a>(pub &'a Mutex<LivePage>);

impl Paged<'_> {
    /// If a page cannot be written now, the last one at the end reports the error.
    fn update(&self) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).update();
    }
}

impl Sink for Paged<'_> {
    fn epoch(&mut self, _report: &EpochReport) -> taper_report::Result<()> {
        self.update();
        Ok(())
    }

    fn step(&mut self, _report: &StepReport) -> taper_report::Result<()> {
        self.update();
        Ok(())
    }
}
