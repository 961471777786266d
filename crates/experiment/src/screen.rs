use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use taper_report::{Run, Split};
use taper_view::{HeldStderr, Live, LiveConfig};

/// The terminal: progress bars on standard error, text on standard output.
///
/// There are bars only if both are terminals. A screen writes to standard output. A live view replaces both.
#[derive(Debug)]
pub struct Screen {
    bars: MultiProgress,
    /// Whether there are bars without a live view.
    has_bars: bool,
    live: Arc<OnceLock<Live>>,
    /// Whether standard output takes colours.
    pub color: bool,
    /// Width of standard output in characters; 80 without a terminal.
    pub width: usize,
    /// Whether [`Screen::warn`] prints nothing, because another process says the same.
    pub(crate) silent: bool,
}

/// Two bars: one for the current pass, one for all passes of all runs. Parallel runs have a first bar each and share the second.
#[derive(Debug)]
pub(crate) struct Bars {
    pass: ProgressBar,
    all: ProgressBar,
    /// The remaining samples of the run.
    to_go: AtomicU64,
    live: Arc<OnceLock<Live>>,
    /// The target of the bars after the live view is closed, if there is one.
    behind: Option<MultiProgress>,
    left: AtomicBool,
}

/// Whether a stream has colours: not if `NO_COLOR` is set (no-color.org), always if `FORCE_COLOR` is set
/// (force-color.org), otherwise if it is a terminal.
pub(crate) fn color_on(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && (set("FORCE_COLOR") || stream.is_terminal())
}

impl Screen {
    /// A screen; with `quiet`, without bars.
    pub fn new(quiet: bool) -> Self {
        let out = std::io::stdout().is_terminal();
        let bars = out && std::io::stderr().is_terminal() && !quiet;
        let target = if bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            bars: MultiProgress::with_draw_target(target),
            has_bars: bars,
            live: Arc::default(),
            color: color_on(&std::io::stdout()),
            width: Term::stdout().size_checked().map_or(80, |(_, columns)| columns.into()),
            silent: false,
        }
    }

    fn bar(&self, template: &str, length: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.progress_chars("━╸─").with_key("left", left).with_key("speed", speed);
        self.bars.add(ProgressBar::new(length).with_style(style))
    }

    /// For the training and evaluation of `samples` in total, in this many runs at a time.
    pub(crate) fn bars(&self, samples: u64, at_a_time: usize) -> Vec<Bars> {
        let pass = || self.bar("{bar:24} {human_pos}/{human_len} samples  {speed}  {wide_msg}", 0);
        let passes: Vec<_> = std::iter::repeat_with(pass).take(at_a_time).collect();
        let all = self.bar("{bar:24} {percent}%  {elapsed} gone, {left} left  {wide_msg}", samples);
        let bars = |pass| Bars {
            pass,
            all: all.clone(),
            to_go: AtomicU64::new(0),
            live: self.live.clone(),
            behind: self.has_bars.then(|| self.bars.clone()),
            left: AtomicBool::new(false),
        };
        passes.into_iter().map(bars).collect()
    }

    /// For a download.
    pub fn download_bar(&self) -> ProgressBar {
        self.bar("{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left  {wide_msg}", 0)
    }

    /// Prints a line to standard error.
    pub fn warn(&self, text: &str) {
        if self.silent {
            return;
        }
        // If this fails, there is no other place to report it.
        self.bars.suspend(|| drop(writeln!(HeldStderr, "{text}")));
    }

    /// Prints a line to standard output; an error does not end the training.
    pub(crate) fn say(&self, text: &str) {
        let mut out = self;
        let _ = writeln!(out, "{text}");
    }

    /// Draws the training in the whole terminal, instead of the bars; prints a message if that is not possible. Ctrl-C
    /// calls `stop`.
    pub(crate) fn open_live(&self, stop: impl Fn() + Send + 'static) {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let opened = match dumb {
            true => Err(std::io::Error::other("TERM=dumb: the terminal cannot be drawn on")),
            false => Live::open(LiveConfig { color: self.color }, stop),
        };
        match opened {
            Ok(live) => {
                self.bars.set_draw_target(ProgressDrawTarget::hidden());
                // The view is opened once.
                let _ = self.live.set(live);
            }
            Err(error) => self.warn(&format!("--live: {error}; continuing without it")),
        }
    }

    /// The live view, for runs and epochs.
    pub(crate) fn live(&self) -> Option<&Live> {
        self.live.get()
    }

    /// Closes the live view, if it is open; its last picture stays.
    pub(crate) fn close_live(&self) {
        if let Some(live) = self.live() {
            live.close();
        }
    }
}

/// Time left at the average speed of the whole run, because training passes are slower than evaluation passes.
fn left(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    let (done, rest) = (state.pos() as f64, state.len().unwrap_or(0).saturating_sub(state.pos()) as f64);
    // A failed write cannot be reported here.
    let _ = match done > 0.0 {
        true => {
            let left = Duration::from_secs((state.elapsed().as_secs_f64() / done * rest).ceil() as u64);
            write!(out, "{}", humantime::format_duration(left))
        }
        false => write!(out, "?"),
    };
}

fn speed(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    let _ = write!(out, "{}/s", indicatif::HumanCount(state.per_sec() as u64));
}

impl Bars {
    /// Begins a pass of this run over this many samples.
    pub fn pass(&self, samples: usize, run: &Run, epoch: u32, split: Split) {
        self.pass.set_length(samples as u64);
        self.pass.set_message(format!("{} epoch {epoch}/{} {}", run.name, run.epochs, split.name()));
        self.pass.reset();
        if let Some(live) = self.live.get() {
            live.pass(epoch, split, samples as u64);
        }
    }

    /// This many more samples of the pass are done.
    pub fn advance(&self, done: u64) {
        if let Some(live) = self.live.get() {
            live.advance(done);
            if let Some(bars) = self.behind.as_ref().filter(|_| !live.is_open())
                && !self.left.swap(true, Ordering::Relaxed)
            {
                bars.set_draw_target(ProgressDrawTarget::stderr());
            }
        }
        self.pass.inc(done);
        self.all.inc(done);
        self.to_go.store(self.to_go.load(Ordering::Relaxed).saturating_sub(done), Ordering::Relaxed);
    }

    /// Begins run `run` of `of`. It has this many samples, like each later run.
    pub fn run(&self, run: usize, of: usize, samples: u64) {
        self.to_go.store(samples, Ordering::Relaxed);
        self.all.set_message(format!("run {run} of {of}"));
        if let Some(live) = self.live.get() {
            live.place(run, of, samples * (of - run + 1) as u64);
        }
    }

    /// This many samples of the run were done before it was resumed.
    pub fn skip(&self, samples: u64) {
        self.to_go.store(self.to_go.load(Ordering::Relaxed).saturating_sub(samples), Ordering::Relaxed);
        self.all.dec_length(samples);
    }

    /// The run has ended, perhaps early: subtracts its remaining samples from the total.
    pub fn ended(&self) {
        self.all.dec_length(self.to_go.swap(0, Ordering::Relaxed));
    }

    /// No run follows on these bars; other jobs may continue.
    pub fn rest(&self) {
        self.pass.finish_and_clear();
    }

    /// Removes the bars.
    pub fn clear(&self) {
        self.rest();
        self.all.finish_and_clear();
    }
}

impl Write for &Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.live().is_some_and(Live::is_open) {
            return Ok(bytes.len()); // the same values
        }
        self.bars.suspend(|| std::io::stdout().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}
