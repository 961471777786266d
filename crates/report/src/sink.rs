use crate::{EpochReport, Result, Run, StepReport, Warning};

/// Where results go. Only [`Sink::epoch`] must be written.
///
/// Sinks are told of a run once, then of windows of steps and of every epoch as it ends, then that the run is over; a
/// sink that writes files has everything on disk when a call returns, so that a killed run keeps its past.
/// A `Vec` of sinks tells every one of them, also after one has failed, and returns the first error.
///
/// # Errors
///
/// What a sink cannot write down; [`Error::io`](crate::Error::io) ties it to a path, and
/// [`Error::Other`](crate::Error::Other) takes anything else. Whoever trains decides whether that ends the run.
pub trait Sink {
    /// A run starts.
    fn begin(&mut self, _run: &Run) -> Result<()> {
        Ok(())
    }

    /// An epoch has ended.
    fn epoch(&mut self, report: &EpochReport) -> Result<()>;

    /// A window of training steps has ended; some seconds may have passed since.
    fn step(&mut self, _report: &StepReport) -> Result<()> {
        Ok(())
    }

    /// The records so far show what usually keeps a network from learning; told behind the window of steps or the epoch
    /// that shows it.
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
/// Closures are not sinks by themselves: `&mut F` and `Box<F>` are closures too, and could then not
/// be sinks by forwarding.
pub fn sink_fn<F: FnMut(&EpochReport) -> Result<()>>(epoch: F) -> SinkFn<F> {
    SinkFn(epoch)
}

/// What [`sink_fn`] makes: a sink that calls a closure with every report.
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

/// Tells every sink: a console that has gone away must not cost the run its files.
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
