//! How a run begins, or is resumed where it was interrupted.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use taper::report::Run;
use taper::train::{self, Error, Optimizer, Session, SessionConfig};

use crate::cells::Cell;
use crate::network::{Network, Shared, load_start, network};

/// A run that can begin, or be resumed.
pub struct Begun<'a> {
    pub network: Network,
    pub session: Session<'a>,
}

/// The run as its directory has it, if it has one.
///
/// # Errors
/// When it is another run than the one that began there, unless `--force` accepts that.
pub fn same_run(path: &Path, run: Run, force: bool) -> Result<Run> {
    train::same_run(path, run, force).map_err(with_option)
}

/// The error, with the option that would accept what it is about.
fn with_option(error: Error) -> anyhow::Error {
    match &error {
        Error::OtherRun { path, changes } => anyhow!(
            "{}: {}: leave the change out, or accept it with --force, and with it another result",
            path.display(),
            changes.join("; ")
        ),
        _ => error.into(),
    }
}

/// Makes the directory of a run, or finds where the run that is in it goes on.
pub fn begin(shared: &Shared<'_>, cell: &Cell, path: &Path) -> Result<Begun<'static>> {
    let args = shared.args;
    let network = network(shared, cell)?;
    let (run, params) = (network.run.clone(), &network.params);
    let optimizer = Optimizer::new(params.vars(), shared.optimizer.clone())?;
    let config = SessionConfig {
        record: args.track.parts(),
        save: args.save_every(),
        keep: args.keep,
        force: args.force,
        ..SessionConfig::default()
    };
    let session = match shared.stored {
        Some(_) => Session::open(path, run, params, optimizer, config).map_err(with_option)?,
        None => Session::create(path, run, params, optimizer, config).context("--out")?,
    };
    if let Some(point) = session.resumed_from {
        for error in &session.passed_over {
            shared.screen.warn(&format!("{error}: going on from {point} instead"));
        }
    } else {
        load_start(args, params)?;
    }
    Ok(Begun { network, session })
}
