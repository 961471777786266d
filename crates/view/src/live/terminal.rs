//! The terminal, which exists once per process: taking it, restoring it, and holding standard error meanwhile.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use ratatui::buffer::Buffer;
use ratatui::crossterm::style::ResetColor;
use ratatui::crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, queue};
use ratatui::style::{Color, Modifier};
use ratatui::text::Span;

/// Whether a view is open. Changed, and drawn, under the lock of standard output.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The text written to [`HeldStderr`] since.
static HELD: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The limit of held text, for a program that writes endlessly.
const MOST_HELD: usize = 1 << 20;

pub(super) fn is_taken() -> bool {
    TAKEN.load(Ordering::SeqCst)
}

/// Enters the alternate screen; returns whether keys can be read.
pub(super) fn take() -> io::Result<bool> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore_terminal();
            before(info);
        }));
    });
    let mut out = io::stdout().lock();
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::other("another live view is open"));
    }
    // Without raw mode keys would be echoed into the picture, but there may be no terminal to read from.
    let keys = enable_raw_mode().is_ok();
    let entered = queue!(out, EnterAlternateScreen, cursor::Hide).and_then(|()| out.flush());
    drop(out);
    entered.inspect_err(|_| restore_terminal())?;
    Ok(keys)
}

/// Restores the terminal if a [`Live`](crate::Live) view is open: the screen, the cursor, and keys as signals; then
/// writes the text held by [`HeldStderr`].
///
/// For a program that ends without unwinding, as with [`std::process::exit`]. It can be called from any thread, any
/// number of times.
pub fn restore_terminal() {
    restore();
}

/// The same; returns whether a view was open.
pub(super) fn restore() -> bool {
    let mut out = io::stdout().lock();
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return false;
    }
    // An error of a closed terminal cannot be handled.
    let _ = queue!(out, EndSynchronizedUpdate, ResetColor, cursor::Show, LeaveAlternateScreen)
        .and_then(|()| out.flush());
    let _ = disable_raw_mode();
    drop(out);
    let _ = io::stderr().write_all(&std::mem::take(&mut *held()));
    true
}

/// A picture as lines of text, with escape sequences for colours, bold and dim.
pub(super) fn printed(picture: &Buffer) -> String {
    let mut text = String::new();
    for y in picture.area.top()..picture.area.bottom() {
        let row = |x: u16| &picture[(x, y)];
        let used = (picture.area.left()..picture.area.right()).rfind(|x| row(*x).symbol() != " ");
        let (mut x, mut now) = (picture.area.left(), String::new());
        while used.is_some_and(|last| x <= last) {
            let sequence = sequence(row(x).fg, row(x).modifier);
            if sequence != now {
                text += &format!("\u{1b}[0{sequence}m");
                now = sequence;
            }
            text += row(x).symbol();
            // A wide character hides the cell behind it.
            x += Span::raw(row(x).symbol()).width().max(1) as u16;
        }
        text += if now.is_empty() { "\n" } else { "\u{1b}[0m\n" };
    }
    text
}

fn sequence(color: Color, modifier: Modifier) -> String {
    let color = if let Color::Indexed(i) = color { format!(";38;5;{i}") } else { String::new() };
    let is = |of: Modifier, code: &'static str| if modifier.contains(of) { code } else { "" };
    color + is(Modifier::BOLD, ";1") + is(Modifier::DIM, ";2")
}

fn held() -> MutexGuard<'static, Vec<u8>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The newest held line, without ANSI escape sequences.
pub(super) fn last_held_line() -> Option<String> {
    let held = held();
    let line = held.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty())?;
    Some(plain(&String::from_utf8_lossy(line)))
}

/// Without colour sequences.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            // `ESC [ 3 1 m`: up to a letter.
            rest.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            text.push(c);
        }
    }
    text
}

/// Standard error that is held while a [`Live`](crate::Live) view is open.
///
/// The view shows the last line; all lines are written when the terminal is restored. Without a view, and if standard
/// error is redirected, this is standard error.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeldStderr;

impl Write for HeldStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut held = held();
        if !is_taken() || !io::stderr().is_terminal() {
            drop(held);
            return io::stderr().write(bytes);
        }
        if held.len() < MOST_HELD {
            held.extend_from_slice(bytes);
            if held.len() >= MOST_HELD {
                held.extend_from_slice(b"\nmore was written while the view was open\n");
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Standard output in whole drawings: never half a drawing, and none after the terminal was restored.
#[derive(Debug, Default)]
pub(super) struct Frames {
    drawing: Vec<u8>,
}

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.drawing.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let drawing = std::mem::take(&mut self.drawing);
        let mut out = io::stdout().lock();
        if !is_taken() {
            return Ok(());
        }
        queue!(out, BeginSynchronizedUpdate)?;
        out.write_all(&drawing)?;
        queue!(out, EndSynchronizedUpdate)?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;
    use crate::{Live, LiveConfig};

    #[test]
    fn sequences_are_taken_out_of_a_line() {
        assert_eq!(plain("\u{1b}[33m WARN\u{1b}[0m \u{1b}[3mé\u{1b}[0m=1"), " WARN é=1");
        assert_eq!(plain("\u{1b}[33"), "");
    }

    /// Set in the child process of the test below, which runs the same test and panics.
    const CHILD: &str = "TAPER_LIVE_PANICS";

    #[test]
    fn a_panic_gives_the_terminal_back_before_its_message() {
        if std::env::var_os(CHILD).is_some() {
            let _live = Live::open(LiveConfig::default(), || {}).unwrap();
            writeln!(HeldStderr, "held back").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(300));
            panic!("on purpose");
        }
        let version = Command::new("script").arg("--version").output();
        if !version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("util-linux")) {
            println!("skipped: needs script of util-linux");
            return;
        }
        let test = std::env::current_exe().unwrap();
        let line = format!(
            "stty rows 24 cols 80; stty -g; {} --exact --nocapture \
             live::terminal::tests::a_panic_gives_the_terminal_back_before_its_message; \
             code=$?; stty -g; exit $code",
            test.display()
        );
        let output =
            Command::new("script").args(["-qefc", &line, "/dev/null"]).env(CHILD, "1").output().unwrap();
        let screen = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(101), "{screen}");
        let at = |text: &str| screen.find(text).unwrap_or_else(|| panic!("expected {text:?} in\n{screen}"));
        assert!(at("\u{1b}[?1049h") < at("no run has begun"), "{screen}");
        let left = at("\u{1b}[?1049l");
        assert!(at("no run has begun") < left, "{screen}");
        assert!(left < screen.rfind("held back").unwrap() && left < at("on purpose"), "{screen}");
        assert!(screen.rfind("\u{1b}[?25l") < screen.rfind("\u{1b}[?25h"), "{screen}");
        // The settings that `stty -g` prints are the same before and after.
        let settings = |line: &&str| line.matches(':').count() > 20;
        let settings: Vec<&str> = screen.lines().filter(settings).collect();
        assert!(settings.len() == 2 && settings[0] == settings[1], "{screen}");
    }
}
