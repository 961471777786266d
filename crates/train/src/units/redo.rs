use candle_core::Result as CandleResult;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use taper_hooks::{Mode, Observer, Parts, Recorder, Seen};
use taper_nn::{Link, Params};

use super::restart::{Ends, restart_units, rng_of_step};
use crate::{Error, Optimizer, Result, Upkeep};

/// ReDo (Sokar et al. 2023): [restarts](restart_units) the dormant units of each link, by what `recorder` has seen of its site
/// in the window so far. Returns how many those were.
///
/// Unit `i` of a layer of `U` units is dormant where its score
///
/// ```text
/// sᵢ = E|yᵢ| / (1/U · Σₖ E|yₖ|) ≤ τ
/// ```
///
/// With τ = 0 those are the units whose every value was 0: behind ReLU the dead ones, and restarting them does not change what
/// the network computed of the window. `seed` and the number of the step say what is drawn.
///
/// # Errors
/// When τ is negative or NaN, the recorder has not seen a site, or a link does not fit the parameters.
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
    // All scores come first: a unit that was restarted must not change those of the layer behind.
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

/// [`redo`] every so many steps, by the training batches since the last time.
///
/// Where the paper takes one batch, this takes all of the period: a unit is restarted once it was dormant throughout.
#[derive(Clone, Debug)]
pub struct Redo {
    links: Vec<Link>,
    params: Params,
    seed: u64,
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    tau: f64,
    period: u64,
    /// Since step `last`.
    window: Recorder,
    last: u64,
    restarted: u64,
}

impl Redo {
    /// Restarts units with a score of at most `tau` every `period` steps. The paper has τ from 0 to 0.1, and 1000 steps.
    ///
    /// # Errors
    /// When `tau` is negative or NaN, `period` is 0, or a link does not fit the parameters.
    pub fn new(links: &[Link], tau: f64, period: u64, params: &Params, seed: u64) -> Result<Self> {
        check_tau(tau)?;
        if period == 0 {
            return Err(Error::Config("redo: expected a period of at least 1 step, found 0".into()));
        }
        links.iter().try_for_each(|link| Ends::of(link, params).map(drop))?;
        let state = State { tau, period, window: Recorder::of(Parts::COUNTS), last: 0, restarted: 0 };
        Ok(Self { links: links.to_vec(), params: params.clone(), seed, state })
    }

    /// Units that were restarted so far.
    pub fn restarted(&self) -> u64 {
        self.state.restarted
    }
}

impl Observer for Redo {
    fn observe(&mut self, seen: &Seen<'_>) -> CandleResult<()> {
        let known = self.links.iter().any(|link| link.site == seen.site.name());
        if known && seen.mode == Mode::Train { self.state.window.observe(seen) } else { Ok(()) }
    }
}

impl Upkeep for Redo {
    fn keep_up(&mut self, optimizer: &mut Optimizer) -> Result<()> {
        let State { tau, period, window, last, restarted } = &mut self.state;
        // A loop that calls between pieces of other lengths comes late, but not too often.
        if optimizer.steps() / *period == *last / *period {
            return Ok(());
        }
        *restarted += redo(&self.links, *tau, window, &self.params, optimizer, self.seed)?;
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
        let of: State = serde_json::from_value(state.clone())
            .map_err(|error| Error::Config(format!("redo: expected its state, found another: {error}")))?;
        let (was, is) = ((of.tau, of.period), (self.state.tau, self.state.period));
        if was != is {
            return Err(Error::Config(format!(
                "redo: τ and period were {was:?} and are {is:?}: go on with those of the run"
            )));
        }
        self.state = of;
        Ok(())
    }
}
