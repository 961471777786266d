use candle_core::Result;
use serde::{Deserialize, Serialize};
use taper_kernels::with_values;
use taper_report::LayerStats;

use crate::measure::Batch;
use crate::tally::{RARE, Tally};
use crate::{Error, Mode, Observer, Seen, Site};

/// Which numbers a [`Recorder`] collects beside its counts: zeros, signs, flat values, and per unit what
/// dead, rare, always-on and dormant need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Mean, variance, skewness, kurtosis and extremes.
    pub moments: bool,
    /// The histogram, with quantiles and asymmetry.
    pub histogram: bool,
    /// Active values and sparseness per sample, and lifetime sparseness per unit.
    pub samples: bool,
}

impl Parts {
    /// Counts alone.
    pub const COUNTS: Self = Self { moments: false, histogram: false, samples: false };
    /// Everything.
    pub const FULL: Self = Self { moments: true, histogram: true, samples: true };
}

/// Watches every site and sums up what its activations do, exactly, over a window that [`Recorder::finish`]
/// ends: all training batches of an epoch, or one evaluation pass.
///
/// A recorder lives as long as the run and has one window at a time; use one per split, so that `died` and
/// `revived` compare like with like. Its memory grows with units,
/// and with batches up to 32 times of that, never with the number of samples or epochs.
/// Recorders that saw different parts of a window [merge](Recorder::merge).
///
/// It can be written down and read back with serde, in the middle of a window too, and goes on as if nothing had
/// happened: counts are integers, sums the bits of floats. What contradicts itself is refused when it is read.
///
/// # Errors
/// It ends a pass with this crate's [`enum@Error`] when two sites have one name, the number of units of a site
/// changes or the modes mix within a window, or there is no dimension of units.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Recorder {
    parts: Parts,
    sites: Vec<Watched>,
    /// Dead units of the window before, by site.
    previous: Vec<(String, Vec<bool>)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Watched {
    /// The site's.
    name: String,
    activation: String,
    zero_floored: bool,
    /// `None` for what came by merging or from a file: the first site of that name takes the place.
    #[serde(skip)]
    site: Option<Site>,
    mode: Mode,
    /// One for every block of a batch, and one at least: blocks add to them side by side.
    tallies: Vec<Tally>,
}

/// A recorder as it is read.
#[derive(Deserialize)]
struct Written {
    parts: Parts,
    sites: Vec<Watched>,
    previous: Vec<(String, Vec<bool>)>,
}

impl TryFrom<Written> for Recorder {
    type Error = String;

    fn try_from(Written { parts, sites, previous }: Written) -> std::result::Result<Self, String> {
        for (i, Watched { name, tallies, .. }) in sites.iter().enumerate() {
            if sites[..i].iter().any(|other| other.name == *name) {
                return Err(format!("recorder: site '{name}' is there twice"));
            }
            let units = |tally: &Tally| tally.units.len();
            if tallies.is_empty() || tallies.iter().any(|tally| units(tally) != units(&tallies[0])) {
                return Err(format!(
                    "recorder: site '{name}': expected tallies of the same units, at least one"
                ));
            }
            if let Some(what) = tallies.iter().find_map(Tally::contradiction) {
                return Err(format!("recorder: site '{name}': {what}"));
            }
        }
        Ok(Self { parts, sites, previous })
    }
}

/// What one unit did in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnitStats {
    /// (sample, position) pairs with a finite value.
    pub observations: u64,
    /// Observations with `ys > 0`.
    pub fired: u64,
    /// Observations with `f'(xs) ≠ 0`.
    pub passed: u64,
    /// Mean of `ys`; 0 without observations.
    pub mean: f64,
    /// Mean of `|ys|`; 0 without observations.
    pub mean_abs: f64,
    /// Dormancy score (Sokar et al. 2023): `mean_abs` over the mean of that over the layer; 0 without observations.
    pub dormancy: f64,
}

impl UnitStats {
    /// No gradient could reach its incoming weights.
    pub fn is_dead(&self) -> bool {
        self.observations > 0 && self.passed == 0
    }

    /// Not dead, and fires on fewer than 1 % of observations; meant for zero-floored activations.
    pub fn is_rare(&self) -> bool {
        self.passed > 0 && (self.fired as f64 / self.observations as f64) < RARE
    }

    /// Fires at every observation.
    pub fn is_always_on(&self) -> bool {
        self.observations > 0 && self.fired == self.observations
    }

    /// Its dormancy score is at most `tau`.
    pub fn is_dormant(&self, tau: f64) -> bool {
        self.observations > 0 && self.dormancy <= tau
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// Records everything.
    pub fn new() -> Self {
        Self::of(Parts::FULL)
    }

    /// Records counts and the given parts; the others are not computed.
    pub fn of(parts: Parts) -> Self {
        Self { parts, sites: Vec::new(), previous: Vec::new() }
    }

    /// What every unit of a site did so far in this window, in the order of the units; `None` if the site was not
    /// seen. Ask before [`Recorder::finish`], which empties the window.
    pub fn units(&self, site: &str) -> Option<Vec<UnitStats>> {
        let watched = self.sites.iter().find(|w| w.name == site)?;
        let per = |sum: f64, n: u64| if n > 0 { sum / n as f64 } else { 0.0 };
        let tally = Tally::of(&watched.tallies);
        let scores = tally.dormancy();
        let stats = |(u, dormancy): (crate::tally::Unit, Option<f64>)| UnitStats {
            observations: u.observations,
            fired: u.fired,
            passed: u.passed,
            mean: per(u.sum, u.observations),
            mean_abs: per(u.sum_abs, u.observations),
            dormancy: dormancy.unwrap_or(0.0),
        };
        Some(tally.each_unit().zip(scores).map(stats).collect())
    }

    /// Adds what another recorder saw of the same window: other batches of the same model or of a copy of it.
    ///
    /// # Errors
    /// When the other records other [`Parts`], or a site of the same name has another number of units or was
    /// watched in another mode there. Nothing is added then.
    pub fn merge(&mut self, other: &Self) -> std::result::Result<(), Error> {
        if self.parts != other.parts {
            return Err(Error::PartsDiffer);
        }
        for theirs in &other.sites {
            if let Some(own) = self.sites.iter().find(|w| w.name == theirs.name) {
                own.check(theirs.mode, theirs.units())?;
            }
        }
        for theirs in &other.sites {
            match self.sites.iter_mut().find(|w| w.name == theirs.name) {
                Some(own) => own.tallies[0].merge(&Tally::of(&theirs.tallies)),
                None => self.sites.push(Watched { site: None, ..theirs.clone() }),
            }
        }
        Ok(())
    }

    /// Ends the window: its numbers by site, in the order in which sites were first seen. The next window
    /// starts empty and knows which units were dead in this one.
    pub fn finish(&mut self) -> Vec<LayerStats> {
        let sites = std::mem::take(&mut self.sites);
        let previous = std::mem::take(&mut self.previous);
        let mut all = Vec::with_capacity(sites.len());
        for Watched { name, activation, zero_floored, tallies, .. } in sites {
            let tally = Tally::of(&tallies);
            let mut stats = tally.stats(self.parts, zero_floored);
            (stats.site, stats.activation) = (name, Some(activation));
            let dead = tally.dead();
            let before =
                previous.iter().find(|(name, dead)| *name == stats.site && dead.len() == tally.units.len());
            if let Some((_, before)) = before {
                let count = |was: bool, is: bool| {
                    before.iter().zip(&dead).filter(|(b, d)| **b == was && **d == is).count() as u64
                };
                stats.died = Some(count(false, true));
                stats.revived = Some(count(true, false));
                stats.still_dead = Some(count(true, true));
            }
            self.previous.push((stats.site.clone(), dead));
            all.push(stats);
        }
        all
    }
}

impl Watched {
    fn units(&self) -> usize {
        self.tallies[0].units.len()
    }

    /// Whether more of this mode and number of units may be added.
    fn check(&self, mode: Mode, units: usize) -> std::result::Result<(), Error> {
        let (site, expected) = (self.name.clone(), self.units());
        if self.mode != mode {
            return Err(Error::ModesMixed(site));
        }
        if expected != units {
            return Err(Error::UnitsChanged { site, expected, found: units });
        }
        Ok(())
    }
}

impl Observer for Recorder {
    /// Of the window so far.
    fn non_finite(&self) -> u64 {
        self.sites.iter().flat_map(|w| &w.tallies).map(|tally| tally.nan + tally.infinite).sum()
    }

    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        let name = seen.site.name();
        // What the definitions ask of an input shows in the value, or the input is needed.
        let inputs = (!seen.activation.slope_shows_in_value()).then(|| seen.xs()).transpose()?;
        let (units, positions) = match seen.ys.dims() {
            [_, units, rest @ ..] => (*units, rest.iter().product()),
            found => return Err(Error::Shape { site: name.to_string(), found: found.to_vec() }.into()),
        };
        let index = match self.sites.iter().position(|w| w.name == name) {
            Some(index) => {
                let own = &mut self.sites[index];
                own.check(seen.mode, units)?;
                match &own.site {
                    None => own.site = Some(seen.site.clone()),
                    Some(site) if site.is_same_place(seen.site) => {}
                    Some(_) => return Err(Error::SiteTwice(name.to_string()).into()),
                }
                index
            }
            None => {
                let (activation, mode) = (seen.site.activation(), seen.mode);
                self.sites.push(Watched {
                    name: name.to_string(),
                    activation: activation.to_string(),
                    zero_floored: activation.is_zero_floored(),
                    site: Some(seen.site.clone()),
                    mode,
                    tallies: vec![Tally::new(units)],
                });
                self.sites.len() - 1
            }
        };
        let (activation, parts) = (seen.activation, self.parts);
        let tallies = &mut self.sites[index].tallies;
        with_values(inputs.as_ref().unwrap_or(seen.ys), |xs| {
            with_values(seen.ys, |ys| Batch { activation, units, positions, xs, ys }.add_to(tallies, parts))
        })?
    }
}
