//! Groups of processes that train one model together: the implementations of [`taper_train::Group`].
//!
//! [`threads`] makes a group of the threads of one process, for tests. With the feature `mpi`, `Mpi` is the group of the
//! processes that `mpirun` has started. Launching, transport and the detection of lost processes are MPI's.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "mpi")]
mod mpi;
mod threads;

#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use threads::{ThreadGroup, threads};
