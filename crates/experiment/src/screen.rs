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
/// There are bars only if both are terminals. What is written to a screen goes to standard output. While a live view is open, it
/// replaces both.
#[derive(Debug)]
pub struct Screen {
    bars: MultiProgress,
    /// Whether there are bars where no live view is.
    has_bars: bool,
    live: Arc<OnceLock<Live>>,
    /// Whether standard output takes colours.
    pub color: bool,
    /// Characters in a line of standard output; 80 where it is no terminal.
    pub width: usize,
}

/// Two bars: one for the current pass, one for all passes of all runs. Parallel runs have a first bar each and share the second.
#[derive(Debug)]
pub(crate) struct Bars {
    pass: ProgressBar,
    all: ProgressBar,
    /// Samples that the run has still to go through.
    to_go: AtomicU64,
    live: Arc<OnceLock<Live>>,
    /// Where the bars go once the live view is left, if there is one.
    behind: Option<MultiProgress>,
    left: AtomicBool,
}

/// Whether a stream gets colours: `NO_COLOR` set to anything asks for none (no-color.org), `FORCE_COLOR` for some wherever the
/// stream leads (force-color.org); otherwise a terminal gets them.
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
        }
    }

    fn bar(&self, template: &str, length: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.progress_chars("━╸─").with_key("left", left).with_key("speed", speed);
        self.bars.add(ProgressBar::new(length).with_style(style))
    }

    /// For the training and evaluation of `samples` in all, in so many runs at a time.
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

    /// For a file that comes in.
    pub fn download_bar(&self) -> ProgressBar {
        self.bar("{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left  {wide_msg}", 0)
    }

    /// A line for standard error.
    pub fn warn(&self, text: &str) {
        // Nobody is left to be told that it could not be written.
        self.bars.suspend(|| drop(writeln!(HeldStderr, "{text}")));
    }

    /// A line for standard output; what cannot be written there does not end the training.
    pub(crate) fn say(&self, text: &str) {
        let mut out = self;
        let _ = writeln!(out, "{text}");
    }

    /// Draws the training over the whole terminal, in place of the bars; says so where that cannot be.
    /// `stop` is what Ctrl-C does.
    pub(crate) fn open_live(&self, stop: impl Fn() + Send + 'static) {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let opened = match dumb {
            true => Err(std::io::Error::other("TERM=dumb: the terminal cannot be drawn on")),
            false => Live::open(LiveConfig { color: self.color }, stop),
        };
        match opened {
            Ok(live) => {
                self.bars.set_draw_target(ProgressDrawTarget::hidden());
                // Nobody opens two.
                let _ = self.live.set(live);
            }
            Err(error) => self.warn(&format!("--live: {error}; going on without it")),
        }
    }

    /// The live view, to be told of runs and epochs.
    pub(crate) fn live(&self) -> Option<&Live> {
        self.live.get()
    }

    /// Ends the live view, if there is one still; its last picture stays.
    pub(crate) fn close_live(&self) {
        if let Some(live) = self.live() {
            live.close();
        }
    }
}

/// Time left at the average speed of the whole run. The current speed would mislead: training passes are slower than
/// evaluation passes.
fn left(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    let (done, rest) = (state.pos() as f64, state.len().unwrap_or(0).saturating_sub(state.pos()) as f64);
    // Nothing can be done about text that does not take it.
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
    /// Begins a pass of this run over so many samples.
    pub fn pass(&self, samples: usize, run: &Run, epoch: u32, split: Split) {
        self.pass.set_length(samples as u64);
        self.pass.set_message(format!("{} epoch {epoch}/{} {}", run.name, run.epochs, split.name()));
        self.pass.reset();
        if let Some(live) = self.live.get() {
            live.pass(epoch, split, samples as u64);
        }
    }

    /// So many more samples of the pass are done.
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

    /// Begins run `run` of `of`, which goes through so many samples, as does each of those behind it.
    pub fn run(&self, run: usize, of: usize, samples: u64) {
        self.to_go.store(samples, Ordering::Relaxed);
        self.all.set_message(format!("run {run} of {of}"));
        if let Some(live) = self.live.get() {
            live.place(run, of, samples * (of - run + 1) as u64);
        }
    }

    /// So many samples of this run have been gone through before.
    pub fn skip(&self, samples: u64) {
        self.to_go.store(self.to_go.load(Ordering::Relaxed).saturating_sub(samples), Ordering::Relaxed);
        self.all.dec_length(samples);
    }

    /// The run has ended, perhaps early: takes the samples that it skipped off the total.
    pub fn ended(&self) {
        self.all.dec_length(self.to_go.swap(0, Ordering::Relaxed));
    }

    /// No run follows on these bars; other jobs may still be running.
    pub fn rest(&self) {
        self.pass.finish_and_clear();
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        self.rest();
        self.all.finish_and_clear();
    }
}

impl Write for &Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.live().is_some_and(Live::is_open) {
            return Ok(bytes.len()); // it shows the same
        }
        self.bars.suspend(|| std::io::stdout().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}
