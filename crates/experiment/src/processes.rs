use std::env;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use taper_train::Shards;

use crate::{Error, Result};

/// The processes that `mpirun` or another launcher has started.
pub(crate) struct Processes {
    /// Of all processes, as many shards as there are of them.
    pub all: Shards,
    #[cfg(feature = "mpi")]
    mpi: Option<std::sync::Arc<taper_distributed::Mpi>>,
}

/// The variables in which launchers give a process its rank and the number of processes: Open MPI; MPICH and Intel MPI; Slurm
/// with PMIx.
const LAUNCHERS: [(&str, &str); 3] = [
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", "SLURM_NTASKS"),
];

/// The variables with the number of processes on this machine.
const LOCAL: [&str; 3] = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"];

fn number(variable: &str) -> Option<usize> {
    env::var(variable).ok()?.parse().ok()
}

/// The rank of this process and the number of processes, if a launcher has started several.
fn launched() -> Option<(usize, usize)> {
    let found = LAUNCHERS.iter().find_map(|(rank, size)| Some((number(rank)?, number(size)?)));
    found.filter(|(_, size)| *size > 1)
}

/// The threads of this process, if it shares the machine with others: an equal part of the cores.
pub(crate) fn threads() -> Option<usize> {
    launched()?;
    let local = LOCAL.iter().find_map(|variable| number(variable)).filter(|local| *local > 1)?;
    Some((thread::available_parallelism().map_or(1, usize::from) / local).max(1))
}

/// Whether this process has rank 0, or runs without a launcher.
pub(crate) fn is_first() -> bool {
    launched().is_none_or(|(rank, _)| rank == 0)
}

/// Sleeps before an error is printed, unless this is rank 0. If rank 0 has the same error, it prints it and the launcher kills
/// the other processes, which takes about a second: so the error is printed once.
pub(crate) fn wait_for_the_first_error() {
    if let Some((rank, _)) = launched().filter(|(rank, _)| *rank > 0) {
        thread::sleep(Duration::from_millis(2500 + 100 * rank.min(20) as u64));
    }
}

impl Processes {
    /// This process alone.
    ///
    /// # Errors
    /// When a launcher has started several.
    pub fn alone() -> Result<Self> {
        match launched() {
            None => Ok(Self {
                all: Shards::default(),
                #[cfg(feature = "mpi")]
                mpi: None,
            }),
            Some((_, size)) => Err(Error::Usage(format!(
                "expected one process, found {size}: this program does not share its work, start it without mpirun"
            ))),
        }
    }

    /// All that were started.
    ///
    /// # Errors
    /// When several were started and this build has no MPI, and errors of MPI.
    pub fn start() -> Result<Self> {
        let Some((_, size)) = launched() else { return Self::alone() };
        #[cfg(feature = "mpi")]
        {
            let started = taper_distributed::Mpi::start().map_err(Error::Other)?;
            let twice = || Error::Other("MPI: expected to initialise it, found that it was before".into());
            let mpi = std::sync::Arc::new(started.ok_or_else(twice)?);
            let found = taper_train::Group::size(&*mpi);
            if found != size {
                return Err(Error::Other(
                    format!(
                        "MPI: expected the {size} processes of the launcher, found {found}: the launcher belongs to another \
                         MPI library than the one this program was built with"
                    )
                    .into(),
                ));
            }
            Ok(Self { all: Shards { count: size, group: mpi.clone() }, mpi: Some(mpi) })
        }
        #[cfg(not(feature = "mpi"))]
        Err(Error::Usage(format!(
            "expected one process in a build without MPI, found {size}: build with --features mpi, or start it without mpirun"
        )))
    }

    /// Finalises MPI, and returns the exit code of this process: `code` for rank 0, 0 for the others, because a launcher
    /// reports the first code that is not 0.
    pub fn finish(self, code: ExitCode) -> ExitCode {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi {
            mpi.finish();
        }
        if self.all.is_first() { code } else { ExitCode::SUCCESS }
    }

    /// Aborts all processes after an error of this one, because the others may not have the error.
    pub fn abort(&self, code: u8) -> ExitCode {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi {
            mpi.abort(code);
        }
        ExitCode::from(code)
    }
}
