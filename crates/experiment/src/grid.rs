use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use serde::{Deserialize, Serialize};
use taper_data::Samples;
use taper_report::{Sink, Summary, comparison, read_config, read_reports, write_whole};
use taper_train::BoxError;
use taper_view::{Live, html_report, load_runs, static_plots};

use crate::cells::Cell;
use crate::command_line::with_sources;
use crate::in_order::InOrder;
use crate::program::{Shared, other};
use crate::signals::Stop;
use crate::stage::{Ended, Stage, live_page};
use crate::trial::Trial;
use crate::{Bars, Data, Error, Options, Result, target};

/// All runs, one after the other or in parallel, and the output after them.
pub(crate) struct Grid<'a, A, S> {
    pub shared: &'a Shared<'a>,
    pub options: &'a Options,
    pub data: &'a Data<S>,
    pub cells: &'a [Cell<A>],
    /// The directory of each run.
    pub paths: Vec<PathBuf>,
    /// The directory of a grid, or of a single run.
    pub out: PathBuf,
    pub alone: bool,
    /// The directory in `--out`.
    pub wanted: Option<PathBuf>,
}

/// A run that has ended: its index in the grid, its result, and whether it failed.
#[derive(Serialize, Deserialize)]
struct EndedRun {
    i: usize,
    ended: Ended,
    failed: bool,
}

impl EndedRun {
    /// Reads the summary of a run that another process has trained from its records.
    fn read_summary(&mut self) -> Result<()> {
        let path = self.ended.path.as_ref().filter(|path| path.join("config.json").exists());
        if let (None, Some(path)) = (&self.ended.summary, path) {
            let mut summary = Summary::new(read_config(path.join("config.json"))?);
            read_reports(path)?.iter().try_for_each(|report| summary.epoch(report))?;
            self.ended.summary = Some(Arc::new(Mutex::new(summary)));
        }
        Ok(())
    }
}

impl<A: Sync, S: Samples + Sync> Grid<'_, A, S> {
    /// Makes all runs, compares them and prints the result.
    ///
    /// # Errors
    /// When a run cannot start, or standard output or the page cannot be written.
    pub fn run<F: Into<BoxError>>(
        self,
        train: &(impl Fn(&A, &mut Trial<'_, S>) -> Result<(), F> + Sync),
        console: Box<dyn Sink + Send + '_>,
    ) -> Result<ExitCode> {
        let (shared, data, n) = (self.shared, self.data, self.cells.len());
        // The runs of this process, by number.
        let own: Vec<usize> = match shared.sweep_ranks {
            true => (shared.all.group.rank()..n).step_by(shared.all.group.size()).collect(),
            false => (0..n).collect(),
        };
        if !self.alone {
            shared.page.get_or_init(|| live_page(&self.out));
        }
        // The untrained network is measured too.
        let (per_epoch, measured) = (data.train.count() as u64, data.measured_samples());
        let epochs = self.options.training.epochs;
        let samples = (per_epoch + measured).saturating_mul(epochs.into()) + measured;
        let order = InOrder::new(own.len(), console);
        let jobs = self.options.running.jobs.min(own.len()).max(1);
        let bars = shared.screen.bars(samples.saturating_mul(own.len() as u64), jobs);
        let (next, runs) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        // One run after the other, until none are left or an error concerns all of them.
        let work = |bars: &Bars| -> Result<()> {
            loop {
                let turn = next.fetch_add(1, Ordering::SeqCst);
                let Some((i, cell)) = own.get(turn).map(|i| (*i, &self.cells[*i])) else {
                    bars.rest();
                    return Ok(());
                };
                bars.run(i + 1, n, samples);
                let console = Box::new(order.place(turn));
                let stage = Stage::Waiting { path: self.paths[i].clone(), console, bars };
                let mut trial = Trial::new(data, &cell.about, shared, stage)?;
                let trained = train(&cell.args, &mut trial).map_err(other);
                // After an error in one process, a collective operation would wait for it forever.
                if shared.processes() > 1 && trained.is_err() && !trial.ended.in_every_process {
                    return trained;
                }
                let finished = trial.finish();
                let ended = std::mem::take(&mut trial.ended);
                drop(trial);
                bars.ended();
                let Some(path) = ended.path.clone() else { return trained.and(finished) };
                if i == 0
                    && let Some(wanted) = &self.wanted
                {
                    let written = if self.alone { &path } else { &self.out };
                    if written != wanted {
                        let (wanted, written) = (wanted.display(), written.display());
                        shared.screen.warn(&format!("{wanted} is taken: writing to {written}"));
                    }
                }
                let result = trained.and(finished);
                match &result {
                    // Standard output is closed, so nothing more is printed.
                    Err(_) if ended.closed => shared.stop.ask(1),
                    Err(error) => {
                        let (name, error) = (&cell.about.name, with_sources(error));
                        shared.screen.warn(&format!("error: {name}: {error}"));
                    }
                    Ok(()) => {}
                }
                runs.lock().unwrap_or_else(PoisonError::into_inner).push(EndedRun {
                    i,
                    ended,
                    failed: result.is_err(),
                });
                if shared.stops() {
                    return Ok(());
                }
            }
        };
        let began = Instant::now();
        let made = if jobs == 1 { work(&bars[0]) } else { side_by_side(&bars, &shared.stop, work) };
        bars.iter().for_each(Bars::clear);
        made?;
        let mut runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
        if shared.sweep_ranks {
            runs = shared.all.gather(runs)?;
            // A process that received a signal ended its runs early: then the sweep has the exit code of the signal.
            shared.stop.ask(shared.all.max(shared.stop.code().into())? as u8);
        }
        if !shared.all.is_first() {
            return Ok(ExitCode::SUCCESS);
        }
        runs.iter_mut().try_for_each(EndedRun::read_summary)?;
        runs.sort_by_key(|run| run.i);
        let at_a_time = if shared.sweep_ranks { jobs * shared.all.group.size() } else { jobs };
        self.end(runs, began.elapsed(), at_a_time)
    }

    /// The comparison, the page, the last lines and the exit code.
    fn end(&self, runs: Vec<EndedRun>, took: Duration, jobs: usize) -> Result<ExitCode> {
        let (screen, options) = (self.shared.screen, &self.options.running);
        let own = runs.first().and_then(|run| run.ended.path.as_ref()).filter(|_| self.alone);
        let written = own.unwrap_or(&self.out);
        let on = match options.checkpoint_every {
            Some(0) if options.checkpoint_steps.is_none() => String::new(),
            _ => format!("; continue with --resume {}", written.display()),
        };
        if runs.iter().any(|run| run.ended.closed) {
            eprintln!("standard output was closed; the results so far are in {}{on}", written.display());
            return Ok(ExitCode::FAILURE);
        }
        let print = |text: &str| {
            (&*screen)
                .write_all(text.as_bytes())
                .and_then(|()| (&*screen).flush())
                .map_err(Error::option("standard output"))
        };
        let page = written.join("report.html");
        if runs.iter().all(|run| run.ended.was_finished) && page.exists() {
            let epochs = self.options.training.epochs;
            print(&format!("{} is finished: {epochs} of {epochs} epochs\n", written.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut failed = runs.iter().any(|run| run.failed);
        let alerted = runs.iter().any(|run| run.ended.alerted);
        let mut summaries: Vec<Summary> = runs.iter().filter_map(|run| run.ended.summary()).collect();
        let on_console = !options.quiet && !screen.live().is_some_and(Live::is_open);
        screen.close_live();
        if self.alone && on_console && runs.iter().all(|run| !run.ended.was_finished) {
            // The layers of a single run were printed at its end.
            summaries.iter_mut().for_each(|of| of.layers.clear());
        }
        let mut text = comparison(&summaries, screen.width);
        // A run that is resumed was trained in part, or wholly, at another time.
        if !self.alone && !self.shared.resumes {
            let trained: u64 = summaries.iter().map(|of| of.train_samples).sum();
            let (n, took) = (summaries.len(), took.as_secs_f64());
            let speed = HumanCount((trained as f64 / took) as u64);
            text += &format!(
                "\n{n} runs in {took:.1} s, {jobs} at a time: {speed} samples/s of training in all\n"
            );
        }
        let (pictured, _) = load_runs(std::slice::from_ref(written));
        if !pictured.is_empty() {
            let draw = || -> Result<()> {
                write_whole(&page, html_report(&pictured).as_bytes())
                    .map_err(Error::option(page.display().to_string()))?;
                if options.plots {
                    static_plots(&pictured, written.join("plots")).map_err(Error::option("--plots"))?;
                }
                Ok(())
            };
            // A full disk was reported before.
            draw().or_else(|error| if failed { Ok(()) } else { Err(error) })?;
        }
        if !options.quiet {
            text = format!("\n{text}\nwritten to {}; look at {}\n", written.display(), page.display());
        }
        print(&text)?;
        if self.shared.stop.is_asked() {
            eprintln!("stopped on request; the results so far are in {}{on}", written.display());
            return Ok(ExitCode::from(self.shared.stop.code()));
        }
        for missed in summaries.iter().filter_map(|summary| target::missed(options.target, summary)) {
            eprintln!("error: {missed}");
            failed = true;
        }
        Ok(match (alerted, failed) {
            (true, _) => ExitCode::from(3),
            (false, true) => ExitCode::FAILURE,
            (false, false) => ExitCode::SUCCESS,
        })
    }
}

/// Runs `work` on a thread for each of `bars`, whose parallel loops have no other thread. A fatal error ends all.
fn side_by_side(bars: &[Bars], stop: &Stop, work: impl Fn(&Bars) -> Result<()> + Sync) -> Result<()> {
    let job = |bars: &Bars| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(Error::option("--jobs"))?;
        pool.install(|| work(bars)).inspect_err(|_| {
            stop.ask(1);
        })
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = bars.iter().map(|bars| scope.spawn(|| job(bars))).collect();
        let join = |job: ScopedJoinHandle<'_, Result<()>>| {
            job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        // All are joined, whatever the first result.
        let made: Vec<_> = jobs.into_iter().map(join).collect();
        made.into_iter().collect()
    })
}
