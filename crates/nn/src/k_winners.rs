use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Result, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use taper_hooks::{Mode, Pass, Units};
use taper_kernels::{Error, with_values};

/// Options of [`KWinners`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KWinnersConfig {
    /// Number of winners per sample in training, over all units and positions.
    pub k: usize,
    /// Number of winners per sample in evaluation; 1.5 · `k` in the paper.
    pub k_eval: usize,
    /// Initial boost strength, β ≥ 0; 0 turns boosting off. The paper begins with 1.5 and multiplies by 0.85 per epoch.
    pub boost: f64,
    /// Number of samples over which duty cycles are averaged, at least 1.
    pub period: usize,
    /// The axis of the units.
    pub units: Units,
}

impl Default for KWinnersConfig {
    /// The paper's values for its smaller fully connected layer: 50 winners in training, 75 in evaluation.
    fn default() -> Self {
        Self { k: 50, k_eval: 75, boost: 1.5, period: 1000, units: Units::Second }
    }
}

/// k-winners-take-all with boosting (Ahmad & Scheinkman 2019): keeps the `k` largest boosted values of each sample, and sets
/// the others to 0.
///
/// The duty cycle `dᵢ` of unit `i` is the running mean of how often it wins with a value above 0. The boosted value is
/// `y · exp(−β · dᵢ)`; the paper's factor `exp(β · (k/n − dᵢ))` gives the same order. Exactly `k` values win; of equal ones
/// the first. The output has the values before boosting, and the gradient passes only through winners.
///
/// Duty cycles are the buffers `duty_cycle` and `samples_tracked`, which are in checkpoints and weight files. In train mode a
/// batch of `N` samples changes them to `(d · (T − N) + fired) / T`, as in the authors' `nupic.torch`: `fired` is the number
/// of wins (of maps, the mean over positions), and `T` the number of samples so far, at most `period` and at least `N`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use taper_nn::{KWinners, KWinnersConfig, Mlp, MlpConfig, Model, Params, Pass};
///
/// let params = Params::new(1, &Device::Cpu);
/// let config = MlpConfig { inputs: 4, widths: vec![64], ..Default::default() };
/// let winners = KWinners::new(64, KWinnersConfig { k: 8, k_eval: 12, ..Default::default() }, params.builder().pp("fc1"))?;
/// let act = winners.clone();
/// let net = Mlp::new(&config, params.builder())?.then("fc1", move |pass, ys| act.forward(pass, ys))?;
/// for epoch in 0..3 {
///     winners.set_boost(1.5 * 0.85_f64.powi(epoch))?;
///     // train
/// }
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct KWinners {
    config: KWinnersConfig,
    /// The bits of β, shared by clones.
    boost: Arc<AtomicU64>,
    duty_cycle: Var,
    samples: Var,
}

impl KWinners {
    /// k-winners of `units` units, with the buffers `duty_cycle` and `samples_tracked` under `vb`'s prefix.
    ///
    /// # Errors
    /// When a number in `config` is out of its range.
    pub fn new(units: usize, config: KWinnersConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let least = [("k", config.k), ("k_eval", config.k_eval), ("period", config.period), ("units", units)];
        if let Some((what, _)) = least.iter().find(|(_, n)| *n == 0) {
            let prefix = vb.prefix();
            return Err(Error::Argument(format!(
                "k_winners '{prefix}': expected {what} of at least 1, found 0"
            ))
            .into());
        }
        let buffer = |n: usize, name| Var::from_tensor(&vb.get_with_hints(n, name, Init::Const(0.0))?);
        let own = Self {
            config,
            boost: Arc::default(),
            duty_cycle: buffer(units, "duty_cycle")?,
            samples: buffer(1, "samples_tracked")?,
        };
        own.set_boost(config.boost)?;
        Ok(own)
    }

    /// Sets the boost strength β, also of clones. It is not part of checkpoints: set it at the start of each epoch.
    ///
    /// # Errors
    /// When it is negative or not finite.
    pub fn set_boost(&self, boost: f64) -> Result<()> {
        if !(boost.is_finite() && boost >= 0.0) {
            return Err(Error::Argument(format!(
                "k_winners: expected boosting of at least 0, found {boost}"
            ))
            .into());
        }
        self.boost.store(boost.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    /// The duty cycle of each unit, in `[0, 1]`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn duty_cycle(&self) -> Result<Vec<f32>> {
        self.duty_cycle.to_vec1()
    }

    /// Keeps the winners of each sample. Values on a GPU are copied to the CPU, and a mask back.
    ///
    /// # Shapes
    /// `ys`: `(N, U, ..)`, or `(N, .., U)` with [`Units::Last`]; the result has the same shape.
    ///
    /// # Errors
    /// When the number of units differs, or a sample has fewer than `k` values.
    pub fn forward(&self, pass: &mut Pass<'_>, ys: &Tensor) -> Result<Tensor> {
        let KWinnersConfig { k, k_eval, units: axis, .. } = self.config;
        let training = pass.mode() == Mode::Train;
        let k = if training { k } else { k_eval };
        let dims = ys.dims();
        let size: usize = dims.iter().skip(1).product();
        let duty = self.duty_cycle()?;
        let units = match axis {
            Units::Second => dims.get(1),
            Units::Last => dims.last(),
        };
        if dims.len() < 2 || units != Some(&duty.len()) {
            let message = format!("k_winners: expected values of {} units, found shape {dims:?}", duty.len());
            return Err(Error::Argument(message).into());
        }
        if k > size {
            let message =
                format!("k_winners: expected k of at most {size}, the values of a sample, found {k}");
            return Err(Error::Argument(message).into());
        }
        let positions = size / duty.len();
        let unit = |i: usize| if axis == Units::Second { i / positions } else { i % duty.len() };
        let boost = f64::from_bits(self.boost.load(Ordering::Relaxed));
        let factors: Vec<f32> = duty.iter().map(|d| (-boost * f64::from(*d)).exp() as f32).collect();
        let factors: Vec<f32> = (0..size).map(|i| factors[unit(i)]).collect();
        let (mut mask, mut fired) = (vec![0_f32; dims[0] * size], vec![0_u64; duty.len()]);
        with_values(ys, |ys| {
            let (mut boosted, mut ranked) = (vec![0_f32; size], Vec::with_capacity(size));
            for (ys, mask) in ys.chunks(size).zip(mask.chunks_mut(size)) {
                for ((boosted, y), factor) in boosted.iter_mut().zip(ys).zip(&factors) {
                    // A NaN counts as the largest value: it is kept, so that checks for NaN still find it.
                    *boosted = Some(y * factor).filter(|y| !y.is_nan()).unwrap_or(f32::INFINITY);
                }
                ranked.clone_from(&boosted);
                let least = *ranked.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
                // If several values equal the smallest winner, those with the lowest index win.
                let mut equal = k - boosted.iter().filter(|y| y.total_cmp(&least).is_gt()).count();
                for (i, y) in boosted.iter().enumerate() {
                    let order = y.total_cmp(&least);
                    if order.is_gt() || order.is_eq() && equal > 0 {
                        equal -= usize::from(order.is_eq());
                        mask[i] = 1.0;
                        fired[unit(i)] += u64::from(ys[i] > 0.0);
                    }
                }
            }
        })?;
        if training {
            self.update(dims[0], positions, &duty, &fired)?;
        }
        ys * Tensor::from_vec(mask, dims, ys.device())?.to_dtype(ys.dtype())?
    }

    /// Updates the duty cycles; `fired` are the wins of each unit in a batch of `n` samples.
    fn update(&self, n: usize, positions: usize, duty: &[f32], fired: &[u64]) -> Result<()> {
        let period = self.config.period as f32;
        let seen = (self.samples.to_vec1::<f32>()?[0] + n as f32).min(period);
        // With a batch larger than the period, the weight of the past would be negative.
        let (n, total) = (n as f32, seen.max(n as f32));
        let new = |(duty, fired): (&f32, &u64)| {
            (duty * (total - n) + (*fired as f64 / positions as f64) as f32) / total
        };
        let duty: Vec<f32> = duty.iter().zip(fired).map(new).collect();
        self.duty_cycle.set(&Tensor::new(duty, self.duty_cycle.device())?)?;
        self.samples.set(&Tensor::new(&[seen], self.samples.device())?)
    }
}
