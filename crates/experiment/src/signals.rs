use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Whether the program was asked to stop, and its exit code. Shared by threads.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    code: AtomicU8,
    /// Whether this process has received a signal.
    signalled: AtomicBool,
}

impl Stop {
    /// Asks the program to stop, with the code of a signal, or 1 after an error. The first code stays.
    pub fn ask(&self, code: u8) {
        let _ = self.code.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Asks the program to stop, for a signal to this process. Returns whether it is the second.
    pub fn signal(&self, code: u8) -> bool {
        self.ask(code);
        self.signalled.swap(true, Ordering::SeqCst)
    }

    /// Whether it was asked to stop.
    pub fn is_asked(&self) -> bool {
        self.code() != 0
    }

    /// The exit code; 0 before that.
    pub fn code(&self) -> u8 {
        self.code.load(Ordering::SeqCst)
    }
}

/// The exit code of Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 128 + SIGINT as u8;

/// Calls `stop`, on its own thread, with the exit code of every signal that asks the program to end: 128 plus the
/// signal's number, as in shells. 130 is Ctrl-C, 143 is `kill`, 129 is a closed terminal.
///
/// # Errors
/// When the system refuses.
#[cfg(unix)]
pub(crate) fn on_signal(stop: impl Fn(u8) + Send + 'static) -> io::Result<()> {
    use signal_hook::{consts::SIGHUP, iterator::Signals};
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            stop(128 + signal as u8);
        }
    })?;
    Ok(())
}

/// Without Unix: two signals, which are polled, because no call waits for them.
#[cfg(not(unix))]
pub(crate) fn on_signal(stop: impl Fn(u8) + Send + 'static) -> io::Result<()> {
    use std::sync::{Arc, atomic::AtomicBool};
    let signals = [SIGINT, SIGTERM].map(|signal| (signal, Arc::new(AtomicBool::new(false))));
    for (signal, came) in &signals {
        signal_hook::flag::register(*signal, came.clone())?;
    }
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        loop {
            std::thread::sleep(std::time::Duration::from_millis(50));
            for (signal, came) in &signals {
                if came.swap(false, Ordering::SeqCst) {
                    stop(128 + *signal as u8);
                }
            }
        }
    })?;
    Ok(())
}
