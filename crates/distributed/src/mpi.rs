use std::fmt;
use std::sync::{Mutex, PoisonError};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::point_to_point::{send_receive, send_receive_into};
use mpi::topology::{Communicator, SimpleCommunicator};
use taper_train::{BoxError, Group};

/// MPI counts the elements of a message in 31 bits.
const MESSAGE: usize = 1 << 30;

/// The processes that `mpirun`, `mpiexec` or `srun` has started.
///
/// Call [`Mpi::finish`] before the process exits, or [`Mpi::abort`] after an error. If a process exits without either, the
/// launcher kills the other processes.
pub struct Mpi {
    rank: usize,
    size: usize,
    universe: Mutex<Option<Universe>>,
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mpi").field("rank", &self.rank).field("size", &self.size).finish()
    }
}

impl Mpi {
    /// Initialises MPI. `None` if it was initialised before.
    ///
    /// # Errors
    /// When the MPI library allows calls from one thread only.
    pub fn start() -> Result<Option<Self>, BoxError> {
        // The training loop runs on a thread of a pool; one thread calls at a time.
        let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Serialized) else {
            return Ok(None);
        };
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        if threading < Threading::Serialized {
            return Err(
                format!("MPI: expected a library that any thread may call, found {threading:?}").into()
            );
        }
        Ok(Some(Self { rank, size, universe: Mutex::new(Some(universe)) }))
    }

    /// Calls `MPI_Finalize`, which blocks until all processes call it.
    pub fn finish(&self) {
        drop(self.universe.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Calls `MPI_Abort`, which kills all processes; the launcher's exit code is `code`.
    pub fn abort(&self, code: u8) -> ! {
        SimpleCommunicator::world().abort(code.into())
    }
}

impl Drop for Mpi {
    /// Does not call `MPI_Finalize`: after an error it could deadlock with processes that wait for a message from this one.
    fn drop(&mut self) {
        std::mem::forget(self.universe.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Group for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    /// If the partner is lost, MPI ends this process too.
    fn exchange(&self, partner: usize, bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
        let world = SimpleCommunicator::world();
        let partner = world.process_at_rank(partner as i32);
        let (length, _) = send_receive::<u64, u64, _, _>(&(bytes.len() as u64), &partner, &partner);
        let mut theirs = vec![0_u8; length as usize];
        let pieces = bytes.len().max(theirs.len()).div_ceil(MESSAGE);
        for piece in 0..pieces {
            let of = |all: usize| (piece * MESSAGE).min(all)..((piece + 1) * MESSAGE).min(all);
            let (own, their) = (of(bytes.len()), of(theirs.len()));
            send_receive_into(&bytes[own], &partner, &mut theirs[their], &partner);
        }
        Ok(theirs)
    }
}
