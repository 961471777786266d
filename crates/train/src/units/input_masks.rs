use candle_core::{Result as CandleResult, Tensor, Var};
use rand::seq::index::sample;
use taper_hooks::{Observer, Seen, rng};
use taper_nn::Params;

use crate::{Error, Optimizer, Result, Upkeep};

/// Fixed random masks of weights (Ahmad & Scheinkman 2019): every unit keeps the same share of its inputs, chosen at random
/// once; its other weights stay 0.
///
/// The weights that are left are scaled by `1/√share` when the masks are made, so that the pre-activations start with the variance
/// that the initialiser gives. Make masks with the model, in front of [`Session::open`](crate::Session::open); they are
/// drawn from the seed, so a run that is resumed has the same.
#[derive(Debug)]
pub struct InputMasks {
    masks: Vec<(Var, Tensor)>,
}

impl InputMasks {
    /// Masks the weights of these names, each `(U, ..)`, to `density` of each unit's inputs, rounded, at least one. The paper
    /// takes 0.3 for fully connected layers.
    ///
    /// # Errors
    /// When `density` is outside `(0, 1]`, or there is no weight of a name.
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
        let own = Self { masks };
        own.apply()?;
        Ok(own)
    }

    /// Sets the weights that are masked to 0 again, behind a step.
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
}
