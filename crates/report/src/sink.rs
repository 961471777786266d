use crate::{EpochReport, Result, Run, StepReport, Warning};

/// Receives results. Only [`Sink::epoch`] must be implemented.
///
/// A sink is called at the beginning of the run, after windows of steps, after every epoch, and at the end. A sink that
/// writes files has everything on disk when a call returns, so a killed run keeps its records. A `Vec` of sinks calls
/// every one, also after one has failed, and returns the first error.
///
/// # Errors
///
/// [`Error::io`](crate::Error::io) ties an I/O error to a path, and [`Error::Other`](crate::Error::Other) takes any
/// other error. The training loop decides whether it ends the run.
pub trait Sink {
    /// A run starts.
    fn begin(&mut self, _run: &Run) -> Result<()> {
        Ok(())
    }

    /// An epoch has ended.
    fn epoch(&mut self, report: &EpochReport) -> Result<()>;

    /// A window of training steps has ended, perhaps some seconds ago.
    fn step(&mut self, _report: &StepReport) -> Result<()> {
        Ok(())
    }

    /// The records show a problem of the training. Called after the window of steps or the epoch that shows it.
    fn warning(&mut self, _warning: &Warning) -> Result<()> {
        Ok(())
    }

    /// The run has ended, as planned or early.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A sink from a closure over reports.
///
/// Closures are not sinks themselves: `&mut F` and `Box<F>` are closures too, and could then not forward as sinks.
pub fn sink_fn<F: FnMut(&EpochReport) -> Result<()>>(epoch: F) -> SinkFn<F> {
    SinkFn(epoch)
}

/// The result of [`sink_fn`]: a sink that calls a closure with every report.
#[derive(Clone, Copy, Debug)]
pub struct SinkFn<F>(F);

impl<F: FnMut(&EpochReport) -> Result<()>> Sink for SinkFn<F> {
    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        (self.0)(report)
    }
}

impl<S: Sink + ?Sized> Sink for &mut S {
    fn begin(&mut self, run: &Run) -> Result<()> {
        (**self).begin(run)
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        (**self).epoch(report)
    }

    fn step(&mut self, report: &StepReport) -> Result<()> {
        (**self).step(report)
    }

    fn warning(&mut self, warning: &Warning) -> Result<()> {
        (**self).warning(warning)
    }

    fn finish(&mut self) -> Result<()> {
        (**self).finish()
    }
}

impl<S: Sink + ?Sized> Sink for Box<S> {
    fn begin(&mut self, run: &Run) -> Result<()> {
        (**self).begin(run)
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        (**self).epoch(report)
    }

    fn step(&mut self, report: &StepReport) -> Result<()> {
        (**self).step(report)
    }

    fn warning(&mut self, warning: &Warning) -> Result<()> {
        (**self).warning(warning)
    }

    fn finish(&mut self) -> Result<()> {
        (**self).finish()
    }
}

impl<S: Sink> Sink for Vec<S> {
    fn begin(&mut self, run: &Run) -> Result<()> {
        each(self, |sink| sink.begin(run))
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        each(self, |sink| sink.epoch(report))
    }

    fn step(&mut self, report: &StepReport) -> Result<()> {
        each(self, |sink| sink.step(report))
    }

    fn warning(&mut self, warning: &Warning) -> Result<()> {
        each(self, |sink| sink.warning(warning))
    }

    fn finish(&mut self) -> Result<()> {
        each(self, Sink::finish)
    }
}

/// Calls every sink: a closed console must not cost the run its files.
fn each<S>(sinks: &mut [S], mut tell: impl FnMut(&mut S) -> Result<()>) -> Result<()> {
    let mut first = Ok(());
    for sink in sinks {
        first = first.and(tell(sink));
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn report(epoch: u32) -> EpochReport {
        EpochReport { epoch, splits: Vec::new() }
    }

    #[test]
    fn closures_references_boxes_and_vectors_are_sinks() -> Result<()> {
        let mut seen = Vec::new();
        let mut sink = sink_fn(|report| {
            seen.push(report.epoch);
            Ok(())
        });
        fn tell(mut sink: impl Sink, epoch: u32) -> Result<()> {
            sink.epoch(&report(epoch))
        }
        tell(&mut sink, 1)?;
        let erased: &mut dyn Sink = &mut sink;
        tell(vec![Box::new(erased) as Box<dyn Sink>], 2)?;
        sink.finish()?;
        assert_eq!(seen, [1, 2]);
        Ok(())
    }

    #[test]
    fn a_vector_tells_every_sink_and_returns_the_first_error() {
        let mut told = 0;
        let fails = |why: &'static str| sink_fn(move |_| Err(Error::Other(why.into())));
        let mut sinks: Vec<Box<dyn Sink + '_>> = vec![
            Box::new(fails("first")),
            Box::new(sink_fn(|_| {
                told += 1;
                Ok(())
            })),
            Box::new(fails("last")),
        ];
        let error = sinks.epoch(&report(1)).expect_err("two of three fail");
        assert_eq!(error.to_string(), "first");
        drop(sinks);
        assert_eq!(told, 1);
    }
}
