//! The live view: state that batches and epochs move on, a picture of it, and the terminal that shows it.

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

/// How often the view is drawn, at most.
const EVERY: Duration = Duration::from_millis(100);

/// How a [`Live`] view looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveConfig {
    /// Colours, from the 256 of xterm and legible on dark and on light ground; without them bold and dim.
    pub color: bool,
}

impl Default for LiveConfig {
    fn default() -> Self {
        Self { color: true }
    }
}

/// The running training, drawn over the whole terminal: progress and time left, curves of the primary metric and the loss,
/// for every site its zeros and dead units over the run and how its values are spread, the runs before, the best first, and
/// the last warning.
///
/// `&Live` is a [`Sink`]: windows of steps draw the curves from the first second on, epochs those of the other splits; [`Live::pass`] and [`Live::advance`] tell it of batches, from any
/// thread. A thread of its own draws ten times a second, so that training never waits for the terminal: being
/// told costs a lock that nobody else holds for longer than a drawing takes, well below a millisecond.
///
/// Distributions have the columns of the console's table, or halves or quarters of them: octaves of magnitude,
/// below ⅛ in the middle and 8 and more outside. The exact zeros stand apart between them, on a scale of their
/// own: their share of all values. Sparklines of zeros reach from none to all values, those of dead units from none to all
/// units; a column is the last window of steps in it. What is not nothing is never drawn as nothing. Numbers are those of the
/// newest window, as the title of the sites says; distributions are those of the last epoch.
///
/// The terminal is given back by [`Live::close`], which leaves the last picture and all warnings on the screen, on drop, on a panic of any thread, and by
/// [`restore_terminal`], which whoever ends the process must call. While the view is open keys do not make
/// signals: Ctrl-C calls what was given to [`Live::open`], `q` leaves the view, Ctrl-L draws it anew. What others
/// write to standard error would go right across it: let them write to [`HeldStderr`].
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
    /// Takes the terminal. `stop` is called on Ctrl-C, every time, from the thread that draws.
    ///
    /// # Errors
    ///
    /// Where standard output is no terminal, or another view has it.
    pub fn open(config: LiveConfig, stop: impl Fn() + Send + 'static) -> io::Result<Self> {
        if !io::stdout().is_terminal() {
            return Err(io::Error::other("standard output is not a terminal"));
        }
        let keys = terminal::take()?;
        let state = Arc::new(Mutex::new(State { color: config.color, keys, ..State::default() }));
        let live = Self { state: state.clone() };
        // From here on dropping `live` gives the terminal back.
        let shown = Terminal::new(CrosstermBackend::new(Frames::default()))?;
        std::thread::Builder::new().name("live view".into()).spawn(move || {
            // A terminal that is gone takes its view along, not the training.
            let _ = show(shown, &state, keys, &stop);
            restore_terminal();
        })?;
        Ok(live)
    }

    /// Says where the run that begins next stands among all: run `run`, from 1, of `of`, and how many samples all
    /// passes of it and of the runs behind it have. Without it there is no time left to be shown.
    pub fn place(&self, run: usize, of: usize, samples: u64) {
        lock(&self.state).place(run, of, samples);
    }

    /// A pass over `samples` samples begins.
    pub fn pass(&self, epoch: u32, split: Split, samples: u64) {
        lock(&self.state).pass(epoch, split, samples, Instant::now());
    }

    /// So many more samples of the pass are done.
    pub fn advance(&self, samples: u64) {
        lock(&self.state).advance(samples);
    }

    /// Whether it still has the terminal: not after `q`, a panic, or when the terminal went away.
    pub fn is_open(&self) -> bool {
        terminal::is_taken()
    }

    /// Gives the terminal back; what was held from standard error is written now. The last picture, of two thirds of the
    /// terminal's height, and all warnings are printed where the program goes on.
    pub fn close(&self) {
        if !terminal::restore() {
            return;
        }
        let mut state = lock(&self.state);
        // What the keys did is of no use any more.
        (state.keys, state.stopping) = (false, false);
        let (width, height) = ratatui::crossterm::terminal::size().unwrap_or((80, 24));
        let area = Rect::new(0, 0, width, (height * 2 / 3).max(1));
        let mut last = Buffer::empty(area);
        draw::draw(&state, None, Instant::now(), area, &mut last);
        let warnings: String =
            state.warnings.iter().map(|line| format!("{}\n", one_line(line, 400))).collect();
        // Nothing can be done for a terminal that is gone.
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

/// A panic elsewhere leaves the numbers as good as they were.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws until the terminal is given back.
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
        // The picture is made under the lock, and goes to the terminal without it.
        shown.draw(|frame| {
            let area = frame.area();
            draw::draw(&lock(state), held.as_deref(), Instant::now(), area, frame.buffer_mut());
        })?;
        next = Instant::now() + EVERY;
    }
    Ok(())
}
