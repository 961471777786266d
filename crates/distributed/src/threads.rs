use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use taper_train::{BoxError, Group};

/// One thread of a group: see [`threads`].
#[derive(Debug)]
pub struct ThreadGroup {
    rank: usize,
    /// To each thread.
    to: Vec<Mutex<Sender<Vec<u8>>>>,
    /// From each thread.
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
}

/// A group of `size` threads of this process, for tests: what each of them passes to its
/// [`Shards`](taper_train::Shards). A thread that drops its part ends the exchanges of the others with an error.
///
/// Each thread needs a rayon pool of its own. In a shared pool all workers could block in an exchange, and no worker would be
/// left to run the partner: a deadlock.
pub fn threads(size: usize) -> Vec<ThreadGroup> {
    let mut members: Vec<ThreadGroup> =
        (0..size).map(|rank| ThreadGroup { rank, to: Vec::new(), from: Vec::new() }).collect();
    for receiver in 0..size {
        for sender in 0..size {
            let (to, from) = channel();
            members[sender].to.push(Mutex::new(to));
            members[receiver].from.push(Mutex::new(from));
        }
    }
    members
}

impl Group for ThreadGroup {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn exchange(&self, partner: usize, bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
        let ended = || format!("process {partner} has ended");
        let to = self.to[partner].lock().unwrap_or_else(PoisonError::into_inner);
        to.send(bytes.to_vec()).map_err(|_| ended())?;
        let from = self.from[partner].lock().unwrap_or_else(PoisonError::into_inner);
        Ok(from.recv().map_err(|_| ended())?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_gets_what_its_partner_sends() {
        let members = threads(4);
        let got: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let run = |own: ThreadGroup| move || own.exchange(own.rank() ^ 1, &[own.rank() as u8]).unwrap();
            let running: Vec<_> = members.into_iter().map(|own| scope.spawn(run(own))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(got, [[1], [0], [3], [2]]);
    }

    #[test]
    fn a_thread_that_has_ended_is_an_error_and_no_hang() {
        let mut members = threads(2);
        drop(members.pop());
        assert_eq!(members[0].exchange(1, &[7]).unwrap_err().to_string(), "process 1 has ended");
    }
}
