use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use taper_report::warn;

/// Starts rayon's pool for the process with this many threads, or one for each core, and returns their number. Call it
/// once, first in `main`.
///
/// The system may refuse to start so many threads, because of `ulimit -u` or the pids limit of a container. Then the
/// pool has the threads that could be started, or only the calling thread, with a [warning](taper_report::warn).
/// Without this call the first parallel loop would panic. Results do not depend on the number of threads.
///
/// ```
/// assert_eq!(taper_train::start_threads(Some(2)), 2);
/// ```
pub fn start_threads(threads: Option<usize>) -> usize {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let wanted = threads.unwrap_or_else(cores).max(1);
    // rayon's global pool can be built only once, so the threads are started first and then wait for work.
    let (sender, receiver) = mpsc::channel::<rayon::ThreadBuilder>();
    let receiver = Arc::new(Mutex::new(receiver));
    let start = || {
        let receiver = Arc::clone(&receiver);
        thread::Builder::new().spawn(move || {
            let work = receiver.lock().map(|receiver| receiver.recv());
            if let Ok(Ok(work)) = work {
                work.run();
            }
        })
    };
    let mut started = 0;
    while started < wanted {
        match start() {
            Ok(_) => started += 1,
            Err(cause) => {
                refused(wanted, started.max(1), &cause);
                break;
            }
        }
    }
    let hand_over = move |work| sender.send(work).map_err(|_| ErrorKind::BrokenPipe.into());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(started.max(1));
    let built = match started {
        0 => pool.use_current_thread().build_global(),
        _ => pool.spawn_handler(hand_over).build_global(),
    };
    let running = rayon::current_num_threads();
    if built.is_err() && running != started.max(1) {
        warn(&format!("the thread pool was started before, with {running} threads, and is not changed"));
    }
    running
}

fn refused(wanted: usize, found: usize, cause: &io::Error) {
    warn(&format!(
        "cannot start {wanted} threads ({cause}): continuing with {found}; raise the limit on processes (ulimit -u)"
    ));
}
