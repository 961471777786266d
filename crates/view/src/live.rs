//! The live view: its state, its picture, and the terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{Terminal, backend::CrosstermBackend, buffer::Buffer, layout::Rect};
use taper_report::{EpochReport, Result, Run, Sink, Split, StepReport, Warning, one_line};

use state::State;
use terminal::Frames;

mod draw;
mod state;
mod terminal;
#[cfg(test)]
mod tests;

pub use terminal::{HeldStderr, restore_terminal};

/// The minimum time between two drawings.
const EVERY: Duration = Duration::from_millis(100);

/// Options of a [`Live`] view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveConfig {
    /// Colours, from xterm's 256, legible on dark and on light ground; without colours bold and dim.
    pub color: bool,
}

impl Default for LiveConfig {
    fn default() -> Self {
        Self { color: true }
    }
}

/// The running training, drawn over the whole terminal: progress and time left, curves of the primary metric and the
/// loss, for every site its zeros and dead units over the run and its distribution, the earlier runs, the best first,
/// and the last warning.
///
/// `&Live` is a [`Sink`]: windows of steps draw the training curves from the first second, epochs those of the other
/// splits; [`Live::pass`] and [`Live::advance`] report batches, from any thread. Its own thread draws ten times a
/// second, so training never waits for the terminal: a report takes a lock that is never held longer than a drawing,
/// well below a millisecond.
///
/// Distributions have the columns of the console's table, or halves or quarters of them: octaves of magnitude, below ⅛
/// in the middle and 8 and more outside. The exact zeros are between them, with their own scale: their share of all
/// values. Sparklines of zeros have a scale from no value to all values, those of dead units from no unit to all units;
/// a column is its last window of steps. A non-zero number is never drawn as nothing. Numbers are those of the newest
/// window, which the title of the sites names; distributions are those of the last epoch.
///
/// [`Live::close`] restores the terminal and leaves the last picture and all warnings on the screen. So do drop, a
/// panic of any thread, and [`restore_terminal`], which a program must call before it ends the process. While the view
/// is open keys are not signals: Ctrl-C calls the function given to [`Live::open`], `q` closes the view, Ctrl-L draws
/// it again. Write messages for standard error to [`HeldStderr`], because they would damage the picture.
///
/// ```no_run
/// use taper_report::{Sink, Split};
/// use taper_view::{Live, LiveConfig, restore_terminal};
///
/// let live = Live::open(LiveConfig::default(), || {
///     restore_terminal();
///     std::process::exit(130)
/// })?;
/// # let run = taper_report::Run::default();
/// live.place(1, 1, 60_000);
/// (&live).begin(&run)?;
/// live.pass(1, Split::Train, 60_000);
/// live.advance(128); // after every batch
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Live {
    state: Arc<Mutex<State>>,
}

impl Live {
    /// Opens the view. `stop` is called on every Ctrl-C, from the drawing thread.
    ///
    /// # Errors
    ///
    /// When standard output is not a terminal, or another view is open.
    pub fn open(config: LiveConfig, stop: impl Fn() + Send + 'static) -> io::Result<Self> {
        if !io::stdout().is_terminal() {
            return Err(io::Error::other("standard output is not a terminal"));
        }
        let keys = terminal::take()?;
        let state = Arc::new(Mutex::new(State { color: config.color, keys, ..State::default() }));
        let live = Self { state: state.clone() };
        // From here dropping `live` restores the terminal.
        let shown = Terminal::new(CrosstermBackend::new(Frames::default()))?;
        std::thread::Builder::new().name("live view".into()).spawn(move || {
            // If the terminal is gone, the view ends, not the training.
            let _ = show(shown, &state, keys, &stop);
            restore_terminal();
        })?;
        Ok(live)
    }

    /// Sets the position of the next run: run `run`, from 1, of `of`, and the number of samples in all passes of it and
    /// of each later run. Without it no time left is shown.
    pub fn place(&self, run: usize, of: usize, samples: u64) {
        lock(&self.state).place(run, of, samples);
    }

    /// A pass over `samples` samples begins.
    pub fn pass(&self, epoch: u32, split: Split, samples: u64) {
        lock(&self.state).pass(epoch, split, samples, Instant::now());
    }

    /// This many more samples of the pass are done.
    pub fn advance(&self, samples: u64) {
        lock(&self.state).advance(samples);
    }

    /// Whether the view is open: not after `q`, a panic, or when the terminal is gone.
    pub fn is_open(&self) -> bool {
        terminal::is_taken()
    }

    /// Restores the terminal and writes the held standard error. Prints the last picture, with two thirds of the
    /// terminal's height, and all warnings.
    pub fn close(&self) {
        if !terminal::restore() {
            return;
        }
        let mut state = lock(&self.state);
        // Keys pressed in the view are discarded.
        (state.keys, state.stopping) = (false, false);
        let (width, height) = ratatui::crossterm::terminal::size().unwrap_or((80, 24));
        let area = Rect::new(0, 0, width, (height * 2 / 3).max(1));
        let mut last = Buffer::empty(area);
        draw::draw(&state, None, Instant::now(), area, &mut last);
        let warnings: String =
            state.warnings.iter().map(|line| format!("{}\n", one_line(line, 400))).collect();
        // An error of a closed terminal cannot be handled.
        let _ = io::stdout().lock().write_all((terminal::printed(&last) + &warnings).as_bytes());
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.close();
    }
}

impl Sink for &Live {
    fn begin(&mut self, run: &Run) -> Result<()> {
        lock(&self.state).begin(run);
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        lock(&self.state).epoch(report);
        Ok(())
    }

    fn step(&mut self, report: &StepReport) -> Result<()> {
        lock(&self.state).step(report);
        Ok(())
    }

    fn warning(&mut self, warning: &Warning) -> Result<()> {
        lock(&self.state).warning(warning);
        Ok(())
    }
}

/// A panic elsewhere leaves the numbers valid.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws until the terminal is restored.
fn show(
    mut shown: Terminal<CrosstermBackend<Frames>>,
    state: &Mutex<State>,
    mut keys: bool,
    stop: &dyn Fn(),
) -> io::Result<()> {
    let mut next = Instant::now();
    while terminal::is_taken() {
        if let left @ 1.. = next.saturating_duration_since(Instant::now()).as_millis() {
            let left = Duration::from_millis(left as u64);
            match keys.then(|| event::poll(left)) {
                Some(Ok(true)) => match event::read()? {
                    Event::Key(key) if key.kind == KeyEventKind::Release => {}
                    Event::Key(key) => match (key.code, key.modifiers.contains(KeyModifiers::CONTROL)) {
                        (KeyCode::Char('c'), true) => {
                            lock(state).stopping = true;
                            stop();
                        }
                        (KeyCode::Char('l'), true) => shown.resize(shown.size()?.into())?,
                        (KeyCode::Char('q'), false) => return Ok(()),
                        _ => {}
                    },
                    _ => {}
                },
                Some(Ok(false)) => {}
                Some(Err(_)) => keys = false,
                None => std::thread::sleep(left),
            }
            continue;
        }
        let held = terminal::last_held_line();
        // The picture is drawn under the lock, and written to the terminal without it.
        shown.draw(|frame| {
            let area = frame.area();
            draw::draw(&lock(state), held.as_deref(), Instant::now(), area, frame.buffer_mut());
        })?;
        next = Instant::now() + EVERY;
    }
    Ok(())
}
