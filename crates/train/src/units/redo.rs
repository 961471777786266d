use candle_core::Result as CandleResult;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use taper_hooks::{Mode, Observer, Parts, Recorder, Seen};
use taper_nn::{Link, Params};

use super::restart::{Candidates, restart_units, restored, rng_of_step};
use crate::{Error, Optimizer, Result, Upkeep};

/// ReDo (Sokar et al. 2023): [restarts](restart_units) the dormant units of each link, using the statistics of its site in
/// the current window of `recorder`. Returns the number of restarted units.
///
/// Unit `i` of a layer of `U` units is dormant if its score is at most τ:
///
/// ```text
/// sᵢ = E|yᵢ| / (1/U · Σₖ E|yₖ|) ≤ τ
/// ```
///
/// With τ = 0 these are the units whose values are all 0 in the window, which after ReLU are the dead units; restarting them
/// does not change the outputs for the samples of the window. New weights are a function of `seed` and the step number.
///
/// # Errors
/// When τ is negative or not finite, the recorder has no values of a site, or a link does not fit the parameters.
pub fn redo(
    links: &[Link],
    tau: f64,
    recorder: &Recorder,
    params: &Params,
    optimizer: &mut Optimizer,
    seed: u64,
) -> Result<u64> {
    check_tau(tau)?;
    let (mut rng, mut restarted) = (rng_of_step(seed, optimizer.steps()), 0);
    // All links are checked before any weight changes.
    let mut dormant = Vec::new();
    for link in links {
        let stats = recorder.units(&link.site).ok_or_else(|| {
            Error::Config(format!(
                "redo: expected a site that was recorded, found '{}': is it the name of a site?",
                link.site
            ))
        })?;
        if stats.len() != link.units {
            return Err(Error::Config(format!(
                "redo: site '{}': expected {} units, found {}",
                link.site,
                link.units,
                stats.len()
            )));
        }
        let below = stats.iter().enumerate().filter(|(_, unit)| unit.is_dormant(tau)).map(|(i, _)| i);
        dormant.push(below.collect::<Vec<_>>());
    }
    for (link, units) in links.iter().zip(dormant) {
        restart_units(link, &units, params, optimizer, &mut rng)?;
        restarted += units.len() as u64;
    }
    Ok(restarted)
}

fn check_tau(tau: f64) -> Result<()> {
    match tau >= 0.0 && tau.is_finite() {
        true => Ok(()),
        false => Err(Error::Config(format!("redo: expected τ of at least 0, found {tau}"))),
    }
}

/// [`redo`] every `period` steps.
///
/// The scores are over all training batches of the period, where the paper uses one batch.
#[derive(Clone, Debug)]
pub struct Redo {
    units: Candidates,
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    tau: f64,
    period: u64,
    /// The statistics since step `last`.
    window: Recorder,
    last: u64,
    restarted: u64,
}

impl Redo {
    /// Restarts units with a score of at most `tau` every `period` steps. The paper uses τ from 0 to 0.1 and 1000 steps.
    ///
    /// # Errors
    /// When `tau` is negative or not finite, `period` is 0, there are no links, or a link does not fit the parameters.
    pub fn new(links: &[Link], tau: f64, period: u64, params: &Params, seed: u64) -> Result<Self> {
        check_tau(tau)?;
        if period == 0 {
            return Err(Error::Config("redo: expected a period of at least 1 step, found 0".into()));
        }
        let state = State { tau, period, window: Recorder::of(Parts::COUNTS), last: 0, restarted: 0 };
        Ok(Self { units: Candidates::new(links, params, seed)?, state })
    }

    /// Number of units restarted so far.
    pub fn restarted(&self) -> u64 {
        self.state.restarted
    }
}

impl Observer for Redo {
    fn observe(&mut self, seen: &Seen<'_>) -> CandleResult<()> {
        let known = self.units.links.iter().any(|link| link.site == seen.site.name());
        if known && seen.mode == Mode::Train { self.state.window.observe(seen) } else { Ok(()) }
    }
}

impl Upkeep for Redo {
    fn keep_up(&mut self, optimizer: &mut Optimizer) -> Result<()> {
        let State { tau, period, window, last, restarted } = &mut self.state;
        // A loop may call this less often than every `period` steps.
        if optimizer.steps() / *period == *last / *period {
            return Ok(());
        }
        let Candidates { links, params, seed } = &self.units;
        *restarted += redo(links, *tau, window, params, optimizer, *seed)?;
        (*window, *last) = (Recorder::of(Parts::COUNTS), optimizer.steps());
        Ok(())
    }

    fn every(&self) -> u64 {
        self.state.period
    }

    fn state(&self) -> Result<Value> {
        serde_json::to_value(&self.state).map_err(Error::other)
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let options = |of: &State| format!("τ {} and period {}", of.tau, of.period);
        self.state = restored("redo", state, &self.state, options)?;
        Ok(())
    }
}
