use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// While it exists, the other threads of rayon's pool spin instead of sleeping.
///
/// A step has a few hundred parallel sections of about ten microseconds each. Waking a thread takes as long, and a
/// thread falls asleep in every gap between two sections.
pub(crate) struct Spin(Arc<AtomicBool>);

/// How long [`Spin::start`] waits for the other threads.
const PATIENCE: Duration = Duration::from_millis(20);
/// Added to the number of threads that have started when no more may start.
const CLOSED: usize = 1 << (usize::BITS - 1);

impl Spin {
    /// Does nothing outside a pool, and if the pool has more threads than cores. A thread that is busy for the next 20 ms
    /// does not spin.
    ///
    /// A thread may start to spin only while this function waits, because then no work of this training is in progress.
    /// Later it could start inside such work, while that waits for the other half of a `join`: the work would not end before
    /// the spinning, and the spinning not before the training.
    pub fn start() -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = rayon::current_num_threads();
        // `cores` is called last, because it reads files (cgroup limits).
        if let Some(own) = rayon::current_thread_index()
            && threads > 1
            && threads <= cores()
        {
            let started = Arc::new(AtomicUsize::new(0));
            let of_task = (Arc::clone(&done), Arc::clone(&started));
            rayon::spawn_broadcast(move |context| {
                let (done, started) = &of_task;
                if context.index() != own && started.fetch_add(1, Ordering::AcqRel) < CLOSED {
                    look_for_work(done);
                }
            });
            let begin = Instant::now();
            while started.load(Ordering::Acquire) < threads - 1 && begin.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
            started.fetch_add(CLOSED, Ordering::AcqRel);
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
    const ROUNDS: u32 = 200;
    let mut idle = 0;
    while !done.load(Ordering::Acquire) {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => idle = 0,
            _ if idle < ROUNDS => {
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
    fn a_busy_thread_does_not_spin_inside_its_work() {
        in_pool_of_two(|| {
            let ((is_busy, busy), (go, gone), (finish, finished)) = (channel(), channel(), channel());
            rayon::spawn(move || {
                is_busy.send(()).expect("the test waits");
                gone.recv_timeout(LIMIT).expect("the test goes on");
                // Runs the task of the broadcast, as waiting for the other half of a `join` does.
                while rayon::yield_now() == Some(rayon::Yield::Executed) {}
                finish.send(()).expect("the test waits");
            });
            busy.recv_timeout(LIMIT).expect("the other thread takes the work");
            let spin = Spin::start();
            go.send(()).expect("the work goes on");
            assert!(finished.recv_timeout(LIMIT).is_ok(), "the work ends before the training");
            drop(spin);
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
