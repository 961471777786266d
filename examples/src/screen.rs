use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use taper::data;

/// Where people look: bars on standard error, text on standard output, neither in the other's way.
///
/// There are bars only where both are terminals. It writes to standard output.
#[derive(Debug)]
pub struct Screen {
    bars: MultiProgress,
    /// Whether standard output takes colours.
    pub color: bool,
}

/// Two bars: one for the pass that is being made, one for all passes of all runs.
#[derive(Debug)]
pub struct Bars {
    pass: ProgressBar,
    all: ProgressBar,
    /// Samples of the batch that is being worked on.
    now: AtomicU64,
}

/// `NO_COLOR` set to anything asks for none: see no-color.org.
pub fn colors_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Screen {
    /// A screen; with `quiet`, without bars.
    pub fn new(quiet: bool) -> Self {
        let out = std::io::stdout().is_terminal();
        let bars = out && std::io::stderr().is_terminal() && !quiet;
        let target = if bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), color: out && colors_wanted() }
    }

    fn bar(&self, template: &str, length: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.progress_chars("━╸─").with_key("left", left).with_key("speed", speed);
        self.bars.add(ProgressBar::new(length).with_style(style))
    }

    /// For the training and evaluation of `samples` in all.
    pub fn bars(&self, samples: u64) -> Bars {
        let pass = self.bar("{bar:24} {human_pos}/{human_len} samples  {speed}  {wide_msg}", 0);
        let all = self.bar("{bar:24} {percent}%  {elapsed} gone, {left} left  {wide_msg}", samples);
        Bars { pass, all, now: AtomicU64::new(0) }
    }

    /// For a file that comes in.
    pub fn download_bar(&self) -> ProgressBar {
        self.bar("{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left  {wide_msg}", 0)
    }

    /// A line for standard error.
    pub fn warn(&self, text: &str) {
        self.bars.suspend(|| eprintln!("{text}"));
    }
}

/// Time left, if what is to come takes as long per sample as what is done: the average of the whole run, as
/// passes with and without gradients differ in speed and take turns.
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
    /// Begins a pass over so many samples.
    pub fn pass(&self, samples: usize, what: String) {
        self.pass.set_length(samples as u64);
        self.pass.set_message(what);
        self.all.inc(self.now.swap(0, Ordering::Relaxed));
        self.pass.reset();
    }

    /// A batch has been fetched, so the one before it is done.
    pub fn advance(&self, batch: &data::Result<data::Batch>) {
        let n = batch.as_ref().map_or(0, |batch| batch.labels.elem_count() as u64);
        let done = self.now.swap(n, Ordering::Relaxed);
        self.pass.inc(done);
        self.all.inc(done);
    }

    /// Begins a run, with so many samples to come in it and in those behind it: one before may have ended early.
    pub fn run(&self, to_come: u64, what: String) {
        self.all.inc(self.now.swap(0, Ordering::Relaxed));
        self.all.set_length(self.all.position() + to_come);
        self.all.set_message(what);
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        self.pass.finish_and_clear();
        self.all.finish_and_clear();
    }
}

impl Write for &Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bars.suspend(|| std::io::stdout().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}
