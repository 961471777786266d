use candle_core::{Result as CandleResult, Tensor, Var};
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use taper_hooks::{Observer, Seen, rng};
use taper_nn::Params;

use super::restart::restored;
use crate::{Error, Optimizer, Result, Upkeep};

/// Fixed random weight masks (Ahmad & Scheinkman 2019): each unit keeps a random subset of its incoming weights, of the same
/// size for all units; its other weights stay 0.
///
/// The remaining weights are multiplied by `1/√density` once, so that the initial variance of the pre-activations is that of
/// the initialisation. Create the masks after the model and before [`Session::open`](crate::Session::open), which restores
/// the weights of a resumed run. They are drawn from the seed, so the resumed run has the same masks.
#[derive(Debug)]
pub struct InputMasks {
    masks: Vec<(Var, Tensor)>,
    options: Options,
}

/// The masks are a function of these options.
#[derive(Debug, Serialize, Deserialize)]
struct Options {
    weights: Vec<String>,
    density: f64,
    seed: u64,
}

impl InputMasks {
    /// Masks the weights with these names, each `(U, ..)`. Each unit keeps the fraction `density` of its inputs, rounded, at
    /// least one. The paper uses 0.3 for fully connected layers.
    ///
    /// # Errors
    /// When `density` is outside `(0, 1]`, or a weight does not exist.
    pub fn new(params: &Params, weights: &[&str], density: f64, seed: u64) -> Result<Self> {
        if !(density > 0.0 && density <= 1.0) {
            return Err(Error::Config(format!("input masks: expected a density in (0, 1], found {density}")));
        }
        let (vars, mut rng, mut masks) = (params.vars(), rng(seed), Vec::new());
        for name in weights {
            let Some((_, var)) = vars.iter().find(|(own, var)| own == name && var.rank() > 1) else {
                let names: Vec<&str> = vars.iter().map(|(name, _)| name.as_str()).collect();
                let names = crate::weights::listed(&names);
                return Err(Error::Config(format!(
                    "input masks: expected a weight among {names}, found '{name}'"
                )));
            };
            let inputs = var.elem_count() / var.dim(0)?;
            let kept = ((density * inputs as f64).round() as usize).max(1);
            let mut mask = vec![0_f32; var.elem_count()];
            for row in mask.chunks_mut(inputs) {
                sample(&mut rng, inputs, kept).iter().for_each(|input| row[input] = 1.0);
            }
            let mask = Tensor::from_vec(mask, var.shape(), var.device())?.to_dtype(var.dtype())?;
            let scale = (inputs as f64 / kept as f64).sqrt();
            var.set(&(var.as_detached_tensor() * scale)?)?;
            masks.push((var.clone(), mask));
        }
        let weights = weights.iter().map(|name| name.to_string()).collect();
        let own = Self { masks, options: Options { weights, density, seed } };
        own.apply()?;
        Ok(own)
    }

    /// Sets the masked weights to 0 again, after a step.
    ///
    /// # Errors
    /// Those of candle.
    pub fn apply(&self) -> Result<()> {
        Ok(self.masks.iter().try_for_each(|(var, mask)| var.set(&(var.as_detached_tensor() * mask)?))?)
    }
}

impl Observer for InputMasks {
    fn observe(&mut self, _seen: &Seen<'_>) -> CandleResult<()> {
        Ok(())
    }
}

impl Upkeep for InputMasks {
    fn keep_up(&mut self, _optimizer: &mut Optimizer) -> Result<()> {
        self.apply()
    }

    fn state(&self) -> Result<Value> {
        serde_json::to_value(&self.options).map_err(Error::other)
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        restored("input masks", state, &self.options, |of| format!("{of:?}")).map(drop)
    }
}
