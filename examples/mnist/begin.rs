//! How a run begins, or goes on where it was interrupted.

use std::path::Path;

use anyhow::{Context, Result, bail};
use taper::report::{Lengths, Run, RunDir, RunLock, read_config};
use taper::train::Checkpoint;
use taper_examples::{Often, Saves, State, changes};

use crate::cells::Cell;
use crate::network::{Network, Shared, load_start, network};

/// A run that can begin, or go on.
pub struct Begun {
    pub network: Network,
    pub dir: RunDir,
    pub saves: Saves,
    /// Where it goes on from.
    pub found: Option<Checkpoint<State>>,
}

/// The run as its directory has it, if it has, or as it is from now on with `--force`.
///
/// # Errors
/// When it is another run than the one that began there.
pub fn same_run(path: &Path, run: &Run, force: bool) -> Result<Option<Run>> {
    let config = path.join("config.json");
    if !config.exists() {
        return Ok(None);
    }
    let stored = read_config(&config)?;
    let changes = changes(&stored, run);
    if changes.is_empty() {
        return Ok(Some(stored));
    }
    let changes = changes.join("; ");
    if !force {
        bail!(
            "{}: {changes}: leave the change out, or accept it with --force, and with it another result",
            path.display()
        );
    }
    let mut forced = stored.config["forced"].as_array().cloned().unwrap_or_default();
    forced.push(changes.into());
    let mut run = run.clone();
    run.config["forced"] = forced.into();
    Ok(Some(run))
}

/// Makes the directory of a run, or finds where the run that is in it goes on.
pub fn begin(shared: &Shared<'_>, cell: &Cell, path: &Path) -> Result<Begun> {
    let args = shared.args;
    let often = Often { epochs: args.checkpoint_every, steps: args.checkpoint_steps };
    let mut network = network(shared, cell)?;
    if shared.stored.is_none() || !path.exists() {
        load_start(args, &network.params)?;
        let dir = RunDir::create(path).context("--out")?;
        let saves = Saves::open(dir.path(), args.keep, often)?;
        return Ok(Begun { network, dir, saves, found: None });
    }
    let lock = RunLock::take(path)?;
    if let Some(run) = same_run(path, &network.run, args.force)? {
        network.run = run;
    }
    let mut saves = Saves::open(path, args.keep, often)?;
    let found = saves.newest()?;
    match &found {
        None => load_start(args, &network.params)?,
        Some(found) => {
            for error in &found.passed_over {
                shared.screen.warn(&format!("{error}: going on from {} instead", found.at));
            }
            let edited = changes(&found.state.run, &network.run);
            if !edited.is_empty() && network.run.config["forced"].is_null() {
                bail!(
                    "{}: config.json is not that of the checkpoint: {}: put it right, or accept it with --force",
                    path.display(),
                    edited.join("; ")
                );
            }
        }
    }
    let files = found.as_ref().map_or(Lengths::default(), |found| found.state.files);
    Ok(Begun { network, dir: RunDir::resume(lock, &files)?, saves, found })
}
