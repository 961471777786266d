use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// While it exists, the other threads of rayon's pool spin instead of sleeping.
///
/// A step has a few hundred parallel sections of about ten microseconds each. Waking a thread takes as long, and a
/// thread falls asleep in every gap between two sections.
pub(crate) struct Spin(Arc<AtomicBool>);

impl Spin {
    /// Does nothing outside a pool, and if the pool has more threads than cores.
    pub fn start() -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if let Some(own) = rayon::current_thread_index()
            && (2..=cores).contains(&rayon::current_num_threads())
        {
            let done = Arc::clone(&done);
            // Nobody waits for these tasks: one that has stolen work of another training ends with that work.
            rayon::spawn_broadcast(move |context| {
                if context.index() != own {
                    look_for_work(&done);
                }
            });
        }
        Self(done)
    }
}

impl Drop for Spin {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn look_for_work(done: &AtomicBool) {
    /// Idle rounds, about ten microseconds in total, before the thread yields its core to other processes.
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
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Weak;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;

    /// Much longer than these tests take: a failing test must not hang.
    const LIMIT: Duration = Duration::from_secs(60);

    fn in_pool_of_two<R: Send>(op: impl FnOnce() -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool").install(op)
    }

    /// Whether the other thread takes work while this one waits for it.
    fn takes_work() -> bool {
        let (sender, receiver) = channel();
        rayon::join(move || receiver.recv_timeout(LIMIT).is_ok(), move || sender.send(()).is_ok())
            == (true, true)
    }

    /// Whether no thread holds the flag any more; a spinning thread holds it.
    fn stops(flag: &Weak<AtomicBool>) -> bool {
        let start = Instant::now();
        while flag.strong_count() > 0 && start.elapsed() < LIMIT {
            // Also runs this thread's own task of the broadcast.
            rayon::yield_now();
        }
        flag.strong_count() == 0
    }

    #[test]
    fn a_thread_spins_and_takes_work_until_the_guard_is_dropped() {
        in_pool_of_two(|| {
            let spin = Spin::start();
            let flag = Arc::downgrade(&spin.0);
            for _ in 0..100 {
                assert!(takes_work());
            }
            while rayon::yield_now() == Some(rayon::Yield::Executed) {}
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            assert_eq!(flag.strong_count(), if cores < 2 { 1 } else { 2 });
            drop(spin);
            assert!(stops(&flag));
        });
    }

    #[test]
    fn a_panic_stops_the_threads() {
        in_pool_of_two(|| {
            let mut flag = Weak::new();
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let spin = Spin::start();
                flag = Arc::downgrade(&spin.0);
                panic!("in a step")
            }));
            assert!(panicked.is_err() && stops(&flag));
        });
    }

    #[test]
    fn nothing_spins_outside_a_pool_or_in_a_pool_without_a_second_thread() {
        assert_eq!(Arc::strong_count(&Spin::start().0), 1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
        assert_eq!(pool.install(|| Arc::strong_count(&Spin::start().0)), 1);
    }
}
