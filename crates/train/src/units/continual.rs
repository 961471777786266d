use std::io;

use candle_core::Result as CandleResult;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use taper_hooks::{Mode, Observer, Seen, Units};
use taper_kernels::with_values;
use taper_nn::{Link, Params};

use super::restart::{Candidates, Ends, change, restart_units, restored, rng_of_step};
use crate::{Error, Optimizer, Result, Upkeep};

/// Options of [`Continual`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContinualConfig {
    /// Fraction of the mature units of a layer that is replaced per step, ρ in `[0, 1]`.
    pub rate: f64,
    /// A unit is mature after more than this number of batches.
    pub maturity: u64,
    /// Decay of the running means, η in `[0, 1)`.
    pub decay: f64,
}

impl Default for ContinualConfig {
    /// ρ = 10⁻⁴, 100 batches, η = 0.99: the paper's values for permuted MNIST, where a batch is one sample.
    fn default() -> Self {
        Self { rate: 1e-4, maturity: 100, decay: 0.99 }
    }
}

/// Continual backprop (Dohare et al. 2024): in each step replaces a small fraction of the mature units, those with the lowest
/// utility.
///
/// For unit `i` of a layer, `a` batches after its start, with values `y` and outgoing weights `wₖ`:
///
/// ```text
/// f ← η f + (1 − η) E[y]              f̂ = f / (1 − ηᵃ)
/// u ← η u + (1 − η) E|y − f̂| Σₖ|wₖ|    û = u / (1 − ηᵃ)
/// ```
///
/// Means are over samples and positions. Per step, `ρ` times the number of mature units is replaced, in order of û; fractions
/// are carried over. To replace a unit, its mean contribution `f̂ wₖ` is added to the bias of the next layer, and the unit is
/// [restarted](restart_units). If max-pooling or padding follows a map, this contribution is an estimate.
///
/// The utility orders the units like `zero_contribution` in the authors' program (`lop/algos/gnt.py`), which takes the mean of
/// `|wₖ|` instead of the sum. Their `contribution` has `|y|` in place of `|y − f̂|`; their `adaptable_contribution` divides by the
/// mean of the unit's incoming `|w|`.
///
/// A batch with NaN or infinite values at a site does not change the statistics of that site. Each batch costs two passes over
/// the activations and one over the outgoing weights.
#[derive(Clone, Debug)]
pub struct Continual {
    units: Candidates,
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    config: ContinualConfig,
    layers: Vec<Layer>,
    replaced: u64,
}

/// The statistics of the units of a site.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Layer {
    site: String,
    /// a, in batches.
    age: Vec<u64>,
    /// f.
    mean: Vec<f64>,
    /// u.
    utility: Vec<f64>,
    /// Number of units to replace, with the fractions of earlier steps.
    owed: f64,
}

impl Continual {
    /// Replaces units of these links.
    ///
    /// # Errors
    /// When a number of `config` is out of its range, there are no links, or a link does not fit the parameters.
    pub fn new(links: &[Link], config: ContinualConfig, params: &Params, seed: u64) -> Result<Self> {
        let ContinualConfig { rate, decay, .. } = config;
        if !(0.0..=1.0).contains(&rate) {
            return Err(Error::Config(format!(
                "continual backprop: expected a rate in [0, 1], found {rate}"
            )));
        }
        if !(0.0..1.0).contains(&decay) {
            return Err(Error::Config(format!(
                "continual backprop: expected a decay in [0, 1), found {decay}"
            )));
        }
        let layer = |link: &Link| {
            let (age, zeros) = (vec![0; link.units], vec![0.0; link.units]);
            Layer { site: link.site.clone(), age, mean: zeros.clone(), utility: zeros, owed: 0.0 }
        };
        let state = State { config, layers: links.iter().map(layer).collect(), replaced: 0 };
        Ok(Self { units: Candidates::new(links, params, seed)?, state })
    }

    /// Number of units replaced so far.
    pub fn replaced(&self) -> u64 {
        self.state.replaced
    }

    /// The bias-corrected utility û of each unit of a site; 0 for a new unit. `None` for an unknown site.
    pub fn utilities(&self, site: &str) -> Option<Vec<f64>> {
        let layer = self.state.layers.iter().find(|layer| layer.site == site)?;
        Some(
            (0..layer.age.len())
                .map(|unit| layer.corrected(&layer.utility, unit, self.state.config.decay))
                .collect(),
        )
    }

    /// Adds a batch to the running means.
    fn update(&mut self, index: usize, seen: &Seen<'_>) -> Result<()> {
        let (link, layer, decay) =
            (&self.units.links[index], &mut self.state.layers[index], self.state.config.decay);
        let found = seen.sizes().0;
        if seen.uses > 1 || found != link.units {
            return Err(Error::Config(format!(
                "continual backprop: site '{}': expected {} units once in a pass, found {found} in use {}",
                link.site, link.units, seen.uses
            )));
        }
        let mean = means(seen, |_, y| y)?;
        let next = Ends::of(link, &self.units.params)?.next_weight;
        let outgoing = with_values(&next.as_detached_tensor(), |weights| {
            let mut columns = vec![0.0; weights.len() / next.dims()[0]];
            for row in weights.chunks(columns.len()) {
                columns.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(w.abs()));
            }
            columns.chunks(columns.len() / link.units).map(|own| own.iter().sum()).collect::<Vec<f64>>()
        })?;
        // A running mean would stay NaN.
        if mean.iter().chain(&outgoing).any(|x| !x.is_finite()) {
            return Ok(());
        }
        for (unit, mean) in mean.iter().enumerate() {
            layer.age[unit] += 1;
            layer.mean[unit] = decay * layer.mean[unit] + (1.0 - decay) * mean;
        }
        let corrected: Vec<f64> =
            (0..link.units).map(|unit| layer.corrected(&layer.mean, unit, decay)).collect();
        let deviation = means(seen, |unit, y| (y - corrected[unit]).abs())?;
        for (unit, (deviation, outgoing)) in deviation.iter().zip(outgoing).enumerate() {
            layer.utility[unit] = decay * layer.utility[unit] + (1.0 - decay) * deviation * outgoing;
        }
        Ok(())
    }
}

/// The mean of `f(unit, y)` over the values `y` of each unit.
fn means(seen: &Seen<'_>, f: impl Fn(usize, f64) -> f64) -> Result<Vec<f64>> {
    let (units, positions) = seen.sizes();
    // The number of adjacent values of one unit.
    let run = if seen.units == Units::Second { positions } else { 1 };
    let mut sums = vec![0.0; units];
    with_values(&seen.ys.detach(), |ys| {
        for block in ys.chunks((units * run).max(1)) {
            for (unit, (sum, own)) in sums.iter_mut().zip(block.chunks(run.max(1))).enumerate() {
                *sum += own.iter().map(|y| f(unit, f64::from(*y))).sum::<f64>();
            }
        }
        let observations = (ys.len() / units.max(1)) as f64;
        sums.iter_mut().for_each(|sum| *sum /= observations);
    })?;
    Ok(sums)
}

impl Layer {
    /// The bias-corrected running mean of a unit, as in Adam.
    fn corrected(&self, of: &[f64], unit: usize, decay: f64) -> f64 {
        let age = self.age[unit].min(i32::MAX as u64);
        // ηᵃ ≤ exp(−a (1 − η)) < 2⁻⁵⁴: the divisor is 1. Much later ηᵃ is subnormal, and slow to compute.
        let is_settled = age as f64 * (1.0 - decay) > 40.0;
        match age as i32 {
            0 => 0.0,
            _ if is_settled => of[unit],
            age => of[unit] / (1.0 - decay.powi(age)),
        }
    }

    /// The units to replace now, in ascending order.
    fn due(&mut self, ContinualConfig { rate, maturity, decay }: ContinualConfig) -> Vec<usize> {
        let mut mature: Vec<usize> = (0..self.age.len()).filter(|unit| self.age[*unit] > maturity).collect();
        self.owed += rate * mature.len() as f64;
        let n = (self.owed as usize).min(mature.len());
        self.owed -= n as f64;
        // Most steps replace no unit.
        if n == 0 {
            return Vec::new();
        }
        let utility = |unit: &usize| self.corrected(&self.utility, *unit, decay);
        mature.sort_by(|a, b| utility(a).total_cmp(&utility(b)));
        mature.truncate(n);
        mature.sort_unstable();
        mature
    }
}

impl Observer for Continual {
    fn observe(&mut self, seen: &Seen<'_>) -> CandleResult<()> {
        let index = self.units.links.iter().position(|link| link.site == seen.site.name());
        match index.filter(|_| seen.mode == Mode::Train) {
            Some(index) => self.update(index, seen).map_err(|error| io::Error::other(error).into()),
            None => Ok(()),
        }
    }
}

impl Upkeep for Continual {
    fn keep_up(&mut self, optimizer: &mut Optimizer) -> Result<()> {
        let Candidates { links, params, seed } = &self.units;
        let (config, mut rng) = (self.state.config, rng_of_step(*seed, optimizer.steps()));
        for (link, layer) in links.iter().zip(&mut self.state.layers) {
            let units = layer.due(config);
            if units.is_empty() {
                continue;
            }
            let Ends { next_weight, next_bias, .. } = Ends::of(link, params)?;
            if let Some(next_bias) = next_bias {
                let weights = with_values(&next_weight.as_detached_tensor(), <[f32]>::to_vec)?;
                let (outputs, width) = (next_bias.elem_count(), weights.len() / next_weight.dim(0)?);
                let span = width / link.units;
                change(&next_bias, |bias| {
                    for (bias, row) in bias.iter_mut().zip(weights.chunks(width)).take(outputs) {
                        let moved = |unit: &usize| {
                            let own = row[unit * span..][..span].iter().map(|w| f64::from(*w)).sum::<f64>();
                            own * layer.corrected(&layer.mean, *unit, config.decay)
                        };
                        *bias += units.iter().map(moved).sum::<f64>() as f32;
                    }
                })?;
            }
            restart_units(link, &units, params, optimizer, &mut rng)?;
            for unit in &units {
                (layer.age[*unit], layer.mean[*unit], layer.utility[*unit]) = (0, 0.0, 0.0);
            }
            self.state.replaced += units.len() as u64;
        }
        Ok(())
    }

    fn state(&self) -> Result<Value> {
        serde_json::to_value(&self.state).map_err(Error::other)
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let options = |of: &State| {
            let sizes: Vec<_> = of.layers.iter().map(|layer| (&layer.site, layer.age.len())).collect();
            format!("{:?} for {sizes:?}", of.config)
        };
        self.state = restored("continual backprop", state, &self.state, options)?;
        Ok(())
    }
}
