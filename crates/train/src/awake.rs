use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs `op` on a thread of rayon's pool, whose other threads look for work all the while instead of falling asleep.
///
/// A step is a few hundred parallel sections, each of some ten microseconds. To wake a thread takes as long, and it
/// falls asleep again in every gap between two of them. Threads for which there is no core of their own may sleep: they
/// would only be in the way.
pub(crate) fn awake<R: Send>(op: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| {
        let own = rayon::current_thread_index();
        let done = Done(Arc::new(AtomicBool::new(false)));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if (2..=cores).contains(&rayon::current_num_threads()) {
            let done = Arc::clone(&done.0);
            // Nobody waits for these: one that has taken up somebody else's long work ends with it.
            rayon::spawn_broadcast(move |context| {
                if Some(context.index()) != own {
                    look_for_work(&done);
                }
            });
        }
        op()
    })
}

/// Set when it is dropped, also by a panic.
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn look_for_work(done: &AtomicBool) {
    /// Looks in vain after which other processes are given the processor: some ten microseconds.
    const PATIENCE: u32 = 200;
    let mut idle = 0;
    while !done.load(Ordering::Acquire) {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => idle = 0,
            _ if idle < PATIENCE => {
                idle += 1;
                std::hint::spin_loop();
            }
            _ => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_looks_for_work_any_more_when_it_is_done_or_has_panicked() {
        assert_eq!(awake(|| rayon::join(|| 1, || 2)), (1, 2));
        let flag = Arc::new(AtomicBool::new(false));
        let done = Done(Arc::clone(&flag));
        let panicked = std::panic::catch_unwind(move || {
            let _done = done;
            panic!("as it should")
        });
        assert!(panicked.is_err() && flag.load(Ordering::Acquire));
        look_for_work(&flag);
        assert!(std::panic::catch_unwind(|| awake(|| panic!("as it should"))).is_err());
    }
}
