use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand::Rng as _;
use rand_distr::{Distribution, StandardNormal, Uniform};
use taper_hooks::{Rng, rng};

/// The largest number of values of a parameter: 4 GiB of f32. More is probably a typing error.
const LARGEST: usize = 1 << 30;

/// A model's parameters and buffers: created on first request, seeded, in the order of the requests.
///
/// A buffer is an untrained tensor of the model. Its name ends in `running_mean`, `running_var` or
/// `num_batches_tracked`, PyTorch's names for batch normalisation, or in `duty_cycle` or `samples_tracked`, those of
/// [`KWinners`](crate::KWinners). Weight files and checkpoints have both.
///
/// Differences to candle's `VarMap`: the same seed gives the same values, the order is fixed, and a repeated path is an
/// error instead of a shared weight. Clones share the parameters.
#[derive(Clone, Debug)]
pub struct Params {
    inner: Arc<Mutex<Inner>>,
    device: Device,
}

#[derive(Debug)]
struct Inner {
    /// Parameters and buffers.
    vars: Vec<(String, Var)>,
    rng: Rng,
}

/// Whether a name is the name of a buffer.
fn is_buffer(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    ["running_mean", "running_var", "num_batches_tracked", "duty_cycle", "samples_tracked"].contains(&last)
}

impl Params {
    /// An empty set; parameters are drawn from `seed` and are on `device`, in f32.
    pub fn new(seed: u64, device: &Device) -> Self {
        let inner = Inner { vars: Vec::new(), rng: rng(seed) };
        Self { inner: Arc::new(Mutex::new(inner)), device: device.clone() }
    }

    /// The parameters of a run with this seed. They are drawn from the first number of the seed's generator, so they
    /// are independent of the order of the samples, which `taper_train::Session` draws from the later numbers.
    pub fn of_run(seed: u64, device: &Device) -> Self {
        Self::new(rng(seed).next_u64(), device)
    }

    /// A builder for layers of Taper or candle; each request creates a parameter or a buffer.
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, self.device.clone())
    }

    /// A builder for a second model that shares these parameters and keeps no graph, in layers of candle too, for
    /// evaluation. The parameters must exist; later training changes both models.
    ///
    /// ```
    /// use candle_core::{Device, Module, Tensor};
    /// use taper_nn::Params;
    ///
    /// let params = Params::new(1, &Device::Cpu);
    /// let trained = candle_nn::linear(2, 1, params.builder().pp("fc1"))?;
    /// let frozen = candle_nn::linear(2, 1, params.frozen().pp("fc1"))?;
    /// let xs = Tensor::new(&[[1.0_f32, 2.0]], &Device::Cpu)?;
    /// params.vars()[0].1.set(&Tensor::new(&[[3.0_f32, 4.0]], &Device::Cpu)?)?;
    /// let (ys, zs) = (trained.forward(&xs)?, frozen.forward(&xs)?);
    /// assert_eq!(ys.to_vec2::<f32>()?, zs.to_vec2::<f32>()?);
    /// assert_eq!((ys.track_op(), zs.track_op()), (true, false));
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn frozen(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(Frozen(self.clone())), DType::F32, self.device.clone())
    }

    /// Names and variables of the parameters, in the order of their requests.
    pub fn vars(&self) -> Vec<(String, Var)> {
        self.state().into_iter().filter(|(name, _)| !is_buffer(name)).collect()
    }

    /// Names and variables of the buffers, in the same order.
    pub fn buffers(&self) -> Vec<(String, Var)> {
        self.state().into_iter().filter(|(name, _)| is_buffer(name)).collect()
    }

    /// Parameters and buffers, in the same order, as in a weight file.
    pub fn state(&self) -> Vec<(String, Var)> {
        self.lock().vars.clone()
    }

    /// Names and shapes of parameters and buffers, in the same order, as [`Architecture::new`](crate::Architecture::new) takes
    /// them.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.state().into_iter().map(|(name, var)| (name, var.dims().to_vec())).collect()
    }

    /// Names of the parameters, in the same order.
    pub fn names(&self) -> Vec<String> {
        self.vars().into_iter().map(|(name, _)| name).collect()
    }

    /// Number of trained values.
    pub fn count(&self) -> usize {
        self.vars().iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere cannot leave the list inconsistent: it only grows.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimpleBackend for Params {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut inner = self.lock();
        if inner.vars.iter().any(|(own, _)| own == name) {
            bail!("parameter '{name}' was asked for twice: give each layer its own prefix with vb.pp(..)");
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
            "parameter '{name}': its shape must be given, because these parameters are not read from a file"
        )
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.lock().vars.iter().any(|(own, _)| own == name)
    }
}

/// Returns existing values and creates none.
struct Frozen(Params);

impl SimpleBackend for Frozen {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            let found = tensor.shape();
            bail!(
                "parameter '{name}': expected shape {shape:?}, found {found:?}: build the model with the same sizes"
            );
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        match self.0.lock().vars.iter().find(|(own, _)| own == name) {
            // Layers copy a buffer that is not a variable, and would not see its later values.
            Some((_, var)) if is_buffer(name) => Ok(var.as_tensor().clone()),
            Some((_, var)) => Ok(var.as_detached_tensor()),
            None => bail!("parameter '{name}' does not exist yet: build the training model first"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_tensor(name)
    }
}

/// Values of this distribution, in the order of `shape`.
pub(crate) fn sample(init: Init, shape: &Shape, rng: &mut Rng) -> Result<Vec<f32>> {
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
