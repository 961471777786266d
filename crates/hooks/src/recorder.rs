use std::borrow::Cow;

use candle_core::Result;
use serde::{Deserialize, Serialize};
use taper_kernels::stats::device::Observed;
use taper_kernels::stats::{Block, Slopes};
use taper_kernels::{Activation, with_values};
use taper_report::{LayerStats, SiteSteps, Split, Trouble};

use crate::measure;
use crate::tallies::{Faults, Tallies};
use crate::tally::{Kind, Tally};
use crate::window::SiteWindow;
use crate::{Error, Mode, Observer, Parts, Seen, Site, UnitStats, Units};

/// Observes every site and computes exact statistics over a window, which [`Recorder::finish`] ends: all training
/// batches of an epoch, or one evaluation pass.
///
/// A recorder lives as long as the run and has one window at a time. Use one per split, so that `died` and `revived`
/// compare windows of the same split. Its memory grows with the number of units, up to 32-fold for large batches (a
/// tally per block of samples), never with the number of samples or epochs. Recorders of different parts of a window
/// [merge](Recorder::merge).
///
/// It can be saved and restored exactly with serde, within a window too: counts are integers, sums are the bits of
/// floats. Inconsistent data are refused.
///
/// For activations on a CUDA device the sums stay there, and nothing waits for them. They are read at the end of a
/// window, and when the recorder is queried, cloned or saved. Activations on other devices are copied and measured on
/// the CPU.
///
/// It never ends a pass. If the units of a site change in number, training and evaluation mix within a window, or two
/// sites have the same name, it stops recording that site and says why in [`LayerStats::trouble`].
///
/// # Errors
/// [`Error::WindowOpen`] before a pass over a split if a window was not [finished](Recorder::finish). Only an epoch of
/// training may continue an open window.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Recorder {
    parts: Parts,
    /// The split of the window, if it is known.
    window: Option<Split>,
    sites: Vec<Watched>,
    /// Dead units of the window before, by site.
    previous: Vec<(String, Vec<bool>)>,
    /// The open window of steps; `None` before the first.
    steps: Option<Vec<SiteWindow>>,
    #[serde(skip)]
    faults: Faults,
    /// Whether batches on the CPU are measured like those on a GPU, for tests.
    #[serde(skip)]
    as_on_device: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Watched {
    /// The numbers of the site.
    name: String,
    activation: Option<String>,
    kind: Kind,
    uses: u32,
    trouble: Option<Trouble>,
    /// Non-finite values since the trouble, which training must still notice.
    unrecorded_faults: u64,
    /// `None` after merging or loading; then the first site with this name is used.
    #[serde(skip)]
    site: Option<Site>,
    /// Of the last activation function.
    #[serde(skip)]
    slopes: Option<Slopes>,
    mode: Mode,
    tallies: Tallies,
}

/// A deserialised recorder.
#[derive(Deserialize)]
struct Written {
    parts: Parts,
    window: Option<Split>,
    sites: Vec<Watched>,
    previous: Vec<(String, Vec<bool>)>,
    steps: Option<Vec<SiteWindow>>,
}

impl TryFrom<Written> for Recorder {
    type Error = String;

    fn try_from(
        Written { parts, window, sites, previous, steps }: Written,
    ) -> std::result::Result<Self, String> {
        // The counts are added up later, and more are added, so they must be consistent.
        let counts =
            sites.iter().flat_map(|w| w.tallies.host.iter().map(|t| t.values).chain([w.unrecorded_faults]));
        if counts.map(u128::from).sum::<u128>() > i64::MAX as u128 {
            return Err("recorder: more values are counted than a run can have".to_string());
        }
        for (i, Watched { name, tallies: Tallies { host: tallies, .. }, .. }) in sites.iter().enumerate() {
            if sites[..i].iter().any(|other| other.name == *name) {
                return Err(format!("recorder: site '{name}' appears twice"));
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
        for (i, own) in steps.iter().flatten().enumerate() {
            let twice = steps.iter().flatten().take(i).any(|other| other.name == own.name);
            let site = sites.iter().find(|site| site.name == own.name);
            if twice || !own.fits(site.map(|site| &site.tallies.host[..])) {
                let name = &own.name;
                return Err(format!(
                    "recorder: site '{name}': expected a window of steps within the tallies"
                ));
            }
        }
        Ok(Self { parts, window, sites, previous, steps, faults: Faults::default(), as_on_device: false })
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

    /// Records counts and the given parts.
    pub fn of(parts: Parts) -> Self {
        Self {
            parts,
            window: None,
            sites: Vec::new(),
            previous: Vec::new(),
            steps: None,
            faults: Faults::default(),
            as_on_device: false,
        }
    }

    /// Measures activations on the CPU like those on a GPU, in candle operations, for tests. Slow.
    #[doc(hidden)]
    pub fn as_on_device(self) -> Self {
        Self { as_on_device: true, ..self }
    }

    /// The parts it records.
    pub fn parts(&self) -> Parts {
        self.parts
    }

    /// The statistics of every unit of a site so far in this window, in the order of the units. `None` if the window
    /// does not have the site, or if its sums cannot be read from the GPU. [`Recorder::finish`] empties the window.
    pub fn units(&self, site: &str) -> Option<Vec<UnitStats>> {
        let watched = self.sites.iter().find(|w| w.name == site)?;
        let per = |sum: f64, n: u64| if n > 0 { sum / n as f64 } else { 0.0 };
        let tally = Tally::of(&watched.tallies.read().ok()?);
        let scores = tally.dormancy();
        let stats = |(u, dormancy): (crate::tally::Unit, Option<f64>)| UnitStats {
            observations: u.observations,
            fired: u.fired,
            passed: watched.kind.has_slope.then_some(u.passed),
            mean: per(u.sum, u.observations),
            mean_abs: per(u.sum_abs, u.observations),
            dormancy: dormancy.unwrap_or(0.0),
        };
        Some(tally.each_unit().zip(scores).map(stats).collect())
    }

    /// Adds the numbers of another recorder of the same window, with other batches of the same model or a copy of it.
    ///
    /// # Errors
    /// When the other has other [`Parts`] or another split, or a site of the same name has another number of units,
    /// another activation function or another mode there. Nothing is added then.
    pub fn merge(&mut self, other: &Self) -> std::result::Result<(), Error> {
        if self.parts != other.parts {
            return Err(Error::PartsDiffer);
        }
        if let (open, Some(begins)) = (self.window, other.window)
            && open.is_some_and(|open| open != begins)
        {
            return Err(Error::WindowOpen { open, begins });
        }
        let read = |theirs: &Watched| {
            let unreadable = |_| Error::Merge { site: theirs.name.clone(), trouble: Trouble::Unreadable };
            theirs.tallies.read().map(Cow::into_owned).map_err(unreadable)
        };
        for theirs in &other.sites {
            read(theirs)?;
            if let Some(own) = self.sites.iter().find(|w| w.name == theirs.name)
                && let Some(trouble) = match own.activation == theirs.activation && own.kind == theirs.kind {
                    true => own.trouble_with(theirs.mode, theirs.units(), theirs.kind.has_slope),
                    false => Some(Trouble::ActivationChanged),
                }
            {
                return Err(Error::Merge { site: own.name.clone(), trouble });
            }
        }
        for theirs in &other.sites {
            match self.sites.iter_mut().find(|w| w.name == theirs.name) {
                // Its numbers cover the part before the trouble.
                Some(own) if own.trouble.is_some() => own.unrecorded_faults += theirs.non_finite(),
                Some(own) => {
                    own.tallies.host[0].merge(&Tally::of(&read(theirs)?));
                    own.uses = own.uses.max(theirs.uses);
                    own.trouble = theirs.trouble.clone();
                    own.unrecorded_faults += theirs.unrecorded_faults;
                }
                None => self.sites.push(Watched { site: None, slopes: None, ..theirs.clone() }),
            }
        }
        for theirs in other.steps.iter().flatten() {
            let steps = self.steps.get_or_insert_default();
            match steps.iter_mut().find(|own| own.name == theirs.name) {
                Some(own) => own.merge(theirs),
                None => steps.push(theirs.clone()),
            }
        }
        self.window = self.window.or(other.window);
        Ok(())
    }

    /// Replaces the numbers of the window by those of another recorder, such as the sum of several with the same
    /// parts. The dead units of the window before and the open window of steps stay.
    pub fn set_window(&mut self, other: Self) {
        (self.window, self.sites, self.faults) = (other.window, other.sites, other.faults);
    }

    /// Ends the window and returns its numbers by site, in the order of first use. The next window starts empty and
    /// remembers the dead units of this one. An open window of steps continues.
    pub fn finish(&mut self) -> Vec<LayerStats> {
        (self.window, self.faults) = (None, Faults::default());
        if let Some(steps) = &mut self.steps {
            for site in &self.sites {
                if let Ok(tallies) = site.tallies.read() {
                    SiteWindow::of(steps, &site.name, site.kind.has_slope).carry(&tallies);
                }
            }
        }
        let sites = std::mem::take(&mut self.sites);
        let previous = std::mem::take(&mut self.previous);
        let mut all = Vec::with_capacity(sites.len());
        for Watched { name, activation, kind, uses, trouble, tallies, .. } in sites {
            let (tally, trouble) = match tallies.read() {
                Ok(all) => (Tally::of(&all), trouble),
                Err(_) => (Tally::of(&tallies.host), Some(Trouble::Unreadable)),
            };
            let stats = tally.stats(self.parts, kind);
            let mut stats = LayerStats { site: name, activation, uses, trouble, ..stats };
            if !kind.has_slope {
                all.push(stats);
                continue;
            }
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
        self.tallies.units()
    }

    /// Non-finite values in memory, including those since the trouble.
    fn non_finite(&self) -> u64 {
        self.tallies.host.iter().map(|tally| tally.nan + tally.infinite).sum::<u64>() + self.unrecorded_faults
    }

    /// The reason why no more of this mode, number of units, or kind of function can be added.
    fn trouble_with(&self, mode: Mode, units: usize, has_slope: bool) -> Option<Trouble> {
        if self.mode != mode {
            return Some(Trouble::ModesMixed);
        }
        if self.kind.has_slope != has_slope {
            return Some(Trouble::ActivationChanged);
        }
        let (expected, found) = (self.units() as u64, units as u64);
        (expected != found).then_some(Trouble::UnitsChanged { expected, found })
    }
}

impl Observer for Recorder {
    /// The numbers of the window so far.
    fn non_finite(&self) -> u64 {
        self.sites.iter().map(Watched::non_finite).sum::<u64>() + self.faults.read()
    }

    /// Computed as differences of the running sums of the window, so steps between the ends of windows cost nothing.
    fn end_window(&mut self) -> Result<Vec<SiteSteps>> {
        let steps = self.steps.get_or_insert_default();
        for site in &self.sites {
            SiteWindow::of(steps, &site.name, site.kind.has_slope);
        }
        let end = |own: &mut SiteWindow| {
            let site = self.sites.iter().find(|site| site.name == own.name);
            let tallies = site.map(|site| site.tallies.read()).transpose().ok()?;
            own.end(tallies.as_deref())
        };
        Ok(steps.iter_mut().filter_map(end).collect())
    }

    fn begin(&mut self, split: Split, continues: bool) -> Result<()> {
        let fits = self.sites.is_empty() || continues && self.window == Some(split);
        if !fits {
            return Err(Error::WindowOpen { open: self.window, begins: split }.into());
        }
        self.window = Some(split);
        Ok(())
    }

    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        let (name, (units, positions)) = (seen.site.name(), seen.sizes());
        let index = match self.sites.iter().position(|w| w.name == name) {
            Some(index) => index,
            None => {
                let activation = seen.site.activation();
                let kind = Kind {
                    has_slope: seen.activation.is_some(),
                    zero_floored: activation.is_some_and(Activation::is_zero_floored),
                    output: seen.site.is_output(),
                };
                self.sites.push(Watched {
                    name: name.to_string(),
                    activation: activation.map(|f| f.to_string()),
                    kind,
                    uses: 0,
                    trouble: None,
                    unrecorded_faults: 0,
                    site: None,
                    slopes: None,
                    mode: seen.mode,
                    tallies: Tallies::new(units),
                });
                self.sites.len() - 1
            }
        };
        let own = &mut self.sites[index];
        let site = own.site.get_or_insert_with(|| seen.site.clone());
        let twice = (!site.is_same_place(seen.site)).then_some(Trouble::SiteTwice);
        let trouble = twice.or(own.trouble_with(seen.mode, units, seen.activation.is_some()));
        own.trouble = own.trouble.take().or(trouble);
        if own.trouble.is_some() {
            let faults = |ys: &[f32]| ys.iter().filter(|y| !y.is_finite()).count() as u64;
            own.unrecorded_faults += with_values(seen.ys, faults)?;
            return Ok(());
        }
        own.uses = own.uses.max(seen.uses);
        let units_last = seen.units == Units::Last;
        if seen.ys.device().is_cuda() || self.as_on_device {
            let xs = match seen.activation {
                Some(f) if !f.slope_shows_in_value() => Some(seen.xs()?),
                _ => None,
            };
            let batch =
                Observed { f: seen.activation, units, positions, units_last, xs: xs.as_ref(), ys: seen.ys };
            return own.tallies.add(&batch, &mut self.faults);
        }
        if own.slopes.as_ref().map(Slopes::activation) != seen.activation {
            own.slopes = seen.activation.map(Slopes::of);
        }
        let (slopes, parts, tallies) = (own.slopes.as_ref(), self.parts, &mut own.tallies.host);
        let mut add = |xs: &[f32], ys: &[f32]| {
            measure::add(Block { slopes, units, positions, units_last, xs, ys }, parts, tallies);
        };
        match seen.activation {
            Some(f) if !f.slope_shows_in_value() => {
                with_values(&seen.xs()?, |xs| with_values(seen.ys, |ys| add(xs, ys)))?
            }
            // f'(x) follows from f(x), so the values replace the inputs.
            _ => with_values(seen.ys, |ys| add(ys, ys)),
        }
    }
}
