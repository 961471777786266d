use std::sync::{Mutex, MutexGuard, PoisonError};

use taper_report::{EpochReport, Result, Run, Sink, Warning};

/// Passes the reports of parallel runs to one sink, run by run.
///
/// The reports of the first run that has not ended are passed on at once. The reports of later runs wait.
pub(crate) struct InOrder<'a> {
    state: Mutex<Queue<'a>>,
}

struct Queue<'a> {
    sink: Box<dyn Sink + Send + 'a>,
    /// The run whose reports are passed on at once.
    turn: usize,
    runs: Vec<Waiting>,
}

/// The waiting reports of a run.
#[derive(Default)]
struct Waiting {
    said: Vec<Said>,
    ended: bool,
}

enum Said {
    Begin(Box<Run>),
    Epoch(EpochReport),
    Warning(Warning),
}

/// The sink of one of the runs.
pub(crate) struct RunSink<'o, 'a> {
    order: &'o InOrder<'a>,
    run: usize,
}

impl<'a> InOrder<'a> {
    /// The sinks of this many runs, passed on to `sink`.
    pub fn new(runs: usize, sink: Box<dyn Sink + Send + 'a>) -> Self {
        let runs = std::iter::repeat_with(Waiting::default).take(runs).collect();
        Self { state: Mutex::new(Queue { sink, turn: 0, runs }) }
    }

    /// The sink of run `run`, from 0. The run has ended when it is dropped.
    pub fn place(&self, run: usize) -> RunSink<'_, 'a> {
        RunSink { order: self, run }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<'a>> {
        // A run that panicked keeps its reports.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue<'_> {
    /// Passes on all reports whose turn has come.
    fn pass_on(&mut self) -> Result<()> {
        while let Some(run) = self.runs.get_mut(self.turn) {
            for said in std::mem::take(&mut run.said) {
                match said {
                    Said::Begin(run) => self.sink.begin(&run)?,
                    Said::Epoch(report) => self.sink.epoch(&report)?,
                    Said::Warning(warning) => self.sink.warning(&warning)?,
                }
            }
            if !run.ended {
                break;
            }
            self.turn += 1;
            self.sink.finish()?;
        }
        Ok(())
    }
}

impl RunSink<'_, '_> {
    fn say(&self, said: Said) -> Result<()> {
        let mut state = self.order.lock();
        state.runs[self.run].said.push(said);
        state.pass_on()
    }
}

impl Sink for RunSink<'_, '_> {
    fn begin(&mut self, run: &Run) -> Result<()> {
        self.say(Said::Begin(Box::new(run.clone())))
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        self.say(Said::Epoch(report.clone()))
    }

    fn warning(&mut self, warning: &Warning) -> Result<()> {
        self.say(Said::Warning(warning.clone()))
    }

    /// The reports of the next runs follow.
    fn finish(&mut self) -> Result<()> {
        let mut state = self.order.lock();
        state.runs[self.run].ended = true;
        state.pass_on()
    }
}

impl Drop for RunSink<'_, '_> {
    fn drop(&mut self) {
        // A finished run has nothing left to pass on.
        let _ = self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records its calls.
    struct Notes<'a>(&'a Mutex<Vec<String>>);

    impl Notes<'_> {
        fn note(&self, text: String) -> Result<()> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            Ok(())
        }
    }

    impl Sink for Notes<'_> {
        fn begin(&mut self, run: &Run) -> Result<()> {
            self.note(run.name.clone())
        }

        fn epoch(&mut self, report: &EpochReport) -> Result<()> {
            self.note(report.epoch.to_string())
        }

        fn finish(&mut self) -> Result<()> {
            self.note(".".into())
        }
    }

    fn run(name: &str) -> Run {
        Run { name: name.to_string(), epochs: 2, ..Run::default() }
    }

    fn epoch(epoch: u32) -> EpochReport {
        EpochReport { epoch, splits: Vec::new() }
    }

    #[test]
    fn parallel_runs_are_reported_one_after_the_other() -> Result<()> {
        let told = Mutex::new(Vec::new());
        let so_far = || told.lock().unwrap_or_else(PoisonError::into_inner).join(" ");
        let order = InOrder::new(4, Box::new(Notes(&told)));
        let (mut a, mut b, mut c) = (order.place(0), order.place(1), order.place(2));
        b.begin(&run("b"))?;
        c.begin(&run("c"))?;
        b.epoch(&epoch(1))?;
        assert_eq!(so_far(), "");
        a.begin(&run("a"))?;
        a.epoch(&epoch(1))?;
        assert_eq!(so_far(), "a 1", "the first is told as it goes");
        c.epoch(&epoch(1))?;
        c.finish()?;
        assert_eq!(so_far(), "a 1");
        a.epoch(&epoch(2))?;
        a.finish()?;
        assert_eq!(so_far(), "a 1 2 . b 1", "then the second as far as it is, and on");
        b.epoch(&epoch(2))?;
        assert_eq!(so_far(), "a 1 2 . b 1 2");
        drop(b);
        assert_eq!(so_far(), "a 1 2 . b 1 2 . c 1 .", "a run that is dropped has ended");
        order.place(3).begin(&run("d"))?;
        assert_eq!(so_far(), "a 1 2 . b 1 2 . c 1 . d .");
        Ok(())
    }
}
