use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand::Rng as _;
use rand_distr::{Distribution, StandardNormal, Uniform};
use taper_hooks::{Rng, rng};

/// Values that one parameter may have: 4 GiB of f32, beyond which a typing error is more likely than a plan.
const LARGEST: usize = 1 << 30;

/// A model's parameters: made on first request, seeded, in the order of the requests.
///
/// The difference to candle's `VarMap`: the same seed gives the same values, the order is fixed, and a path
/// asked for twice is an error instead of a weight silently shared. Clones share the parameters.
#[derive(Clone, Debug)]
pub struct Params {
    inner: Arc<Mutex<Inner>>,
    device: Device,
}

#[derive(Debug)]
struct Inner {
    vars: Vec<(String, Var)>,
    rng: Rng,
}

impl Params {
    /// No parameters yet; those to come are drawn from `seed` and live on `device`, in f32.
    pub fn new(seed: u64, device: &Device) -> Self {
        let inner = Inner { vars: Vec::new(), rng: rng(seed) };
        Self { inner: Arc::new(Mutex::new(inner)), device: device.clone() }
    }

    /// The parameters of a run with this seed: drawn from the first number of the seed's generator, so that a
    /// `taper_train::Session`, which draws the order of the samples from the numbers behind it, is independent of them.
    pub fn of_run(seed: u64, device: &Device) -> Self {
        Self::new(rng(seed).next_u64(), device)
    }

    /// A builder for the layers of a model, ours or candle's; what they ask for becomes a parameter.
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, self.device.clone())
    }

    /// Names and variables, in the order in which they were asked for.
    pub fn vars(&self) -> Vec<(String, Var)> {
        self.lock().vars.clone()
    }

    /// Names alone, in the same order.
    pub fn names(&self) -> Vec<String> {
        self.lock().vars.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Number of trainable values.
    pub fn count(&self) -> usize {
        self.lock().vars.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// The device they live on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere cannot leave the list half changed: it is only pushed to.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimpleBackend for Params {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut inner = self.lock();
        if inner.vars.iter().any(|(own, _)| own == name) {
            bail!(
                "parameter '{name}' was asked for twice: give each layer a prefix of its own with vb.pp(..)"
            );
        }
        let count = shape.dims().iter().try_fold(1_usize, |count, n| count.checked_mul(*n));
        if count.is_none_or(|count| count > LARGEST) {
            bail!(
                "parameter '{name}': expected at most {LARGEST} values, found shape {shape:?}: choose smaller sizes"
            );
        }
        let values = sample(init, &shape, &mut inner.rng)?;
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)?.to_dtype(dtype)?;
        let var = Var::from_tensor(&tensor)?;
        let tensor = var.as_tensor().clone();
        inner.vars.push((name.to_string(), var));
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!(
            "parameter '{name}': its shape must be given, as these parameters are made, not read from a file"
        )
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.lock().vars.iter().any(|(own, _)| own == name)
    }
}

fn sample(init: Init, shape: &Shape, rng: &mut Rng) -> Result<Vec<f32>> {
    let n = shape.elem_count();
    let mut normal = |mean: f64, stdev: f64| -> Vec<f32> {
        (0..n).map(|_| (mean + stdev * Distribution::<f64>::sample(&StandardNormal, rng)) as f32).collect()
    };
    match init {
        Init::Const(value) => Ok(vec![value as f32; n]),
        Init::Randn { mean, stdev } => Ok(normal(mean, stdev)),
        Init::Uniform { lo, up } => uniform(lo, up, n, rng),
        Init::Kaiming { dist, fan, non_linearity } => {
            let stdev = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                candle_nn::init::NormalOrUniform::Normal => Ok(normal(0.0, stdev)),
                candle_nn::init::NormalOrUniform::Uniform => {
                    let bound = 3.0_f64.sqrt() * stdev;
                    uniform(-bound, bound, n, rng)
                }
            }
        }
    }
}

fn uniform(low: f64, high: f64, n: usize, rng: &mut Rng) -> Result<Vec<f32>> {
    let between = Uniform::new_inclusive(low, high)
        .map_err(|e| candle_core::Error::wrap(format!("[{low}, {high}]: {e}")))?;
    Ok((0..n).map(|_| between.sample(rng) as f32).collect())
}
