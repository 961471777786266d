use std::cell::Cell;

use candle_core::{DType, Result, Tensor, Var};
use candle_nn::{Init, Module, VarBuilder};
use taper_hooks::{Mode, Pass, Units};
use taper_kernels::{Activation, Error, Moments, batch_norm, batch_norm_with};

use crate::Act;

/// Options of batch normalisation, with PyTorch's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormConfig {
    /// Added to the variance; finite and at least 0.
    pub eps: f64,
    /// The weight of a batch in the running statistics, in `[0, 1]`. `None`: they are the mean over all batches.
    pub momentum: Option<f64>,
}

impl Default for BatchNormConfig {
    fn default() -> Self {
        Self { eps: 1e-5, momentum: Some(0.1) }
    }
}

/// Parameters, buffers and computation, for inputs of any number of axes.
#[derive(Clone, Debug)]
struct BatchNorm {
    config: BatchNormConfig,
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
    num_batches_tracked: Var,
}

impl BatchNorm {
    fn new(channels: usize, config: BatchNormConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let fault = |what: &str, found: String| -> Result<Self> {
            let message = format!("layer '{}': expected {what}, found {found}", vb.prefix());
            Err(Error::Argument(message).into())
        };
        let BatchNormConfig { eps, momentum } = config;
        if channels == 0 {
            return fault("at least 1 channel", "0".to_string());
        }
        if !(eps.is_finite() && eps >= 0.0) {
            return fault("an eps of at least 0", eps.to_string());
        }
        if let Some(momentum) = momentum.filter(|m| !(0.0..=1.0).contains(m)) {
            return fault("a momentum between 0 and 1", momentum.to_string());
        }
        let get = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(Self {
            config,
            weight: get("weight", 1.0)?,
            bias: get("bias", 0.0)?,
            running_mean: Var::from_tensor(&get("running_mean", 0.0)?)?,
            running_var: Var::from_tensor(&get("running_var", 1.0)?)?,
            // An integer in PyTorch's files.
            num_batches_tracked: Var::from_tensor(&vb.get_with_hints_dtype(
                (),
                "num_batches_tracked",
                Init::Const(0.0),
                DType::I64,
            )?)?,
        })
    }

    /// `f` of the normalised `xs`, and in train mode the moments of the batch.
    fn run(&self, mode: Mode, xs: &Tensor, f: Activation) -> Result<(Tensor, Option<Moments>)> {
        let Self { config: BatchNormConfig { eps, .. }, weight, bias, .. } = self;
        if mode == Mode::Train {
            let (ys, moments) = batch_norm(xs, weight, bias, *eps, f)?;
            return Ok((ys, Some(moments)));
        }
        let running = Moments {
            mean: self.running_mean.as_detached_tensor(),
            variance: self.running_var.as_detached_tensor(),
        };
        Ok((batch_norm_with(xs, &running, weight, bias, *eps, f)?, None))
    }

    fn forward(&self, mode: Mode, xs: &Tensor) -> Result<Tensor> {
        let (ys, moments) = self.run(mode, xs, Activation::Identity)?;
        self.update(xs, moments)?;
        Ok(ys)
    }

    fn forward_act(&self, pass: &mut Pass<'_>, xs: &Tensor, act: &Act) -> Result<Tensor> {
        let (mode, moments) = (pass.mode(), Cell::new(None));
        let ys = act.fused(pass, Units::Second, |f| {
            let (ys, of_batch) = self.run(mode, xs, f)?;
            moments.set(of_batch);
            Ok(ys)
        })?;
        self.update(xs, moments.take())?;
        Ok(ys)
    }

    /// Updates the running moments: `running + momentum · (batch − running)`, with the unbiased variance.
    fn update(&self, xs: &Tensor, of_batch: Option<Moments>) -> Result<()> {
        let Some(Moments { mean, variance }) = of_batch else { return Ok(()) };
        let batches = (self.num_batches_tracked.as_detached_tensor() + 1.0)?;
        self.num_batches_tracked.set(&batches)?;
        let momentum = match self.config.momentum {
            Some(momentum) => momentum,
            None => 1.0 / batches.to_scalar::<i64>()? as f64,
        };
        let n = xs.elem_count() as f64 / self.weight.elem_count() as f64;
        for (running, batch) in
            [(&self.running_mean, mean), (&self.running_var, (variance * (n / (n - 1.0)))?)]
        {
            let batch = batch.to_dtype(running.dtype())?;
            running.set(&((running.as_detached_tensor() * (1.0 - momentum))? + (batch * momentum)?)?)?;
        }
        Ok(())
    }
}

/// The layers differ only in the axes of their inputs.
macro_rules! layer {
    ($(#[$doc:meta])* $name:ident, $ranks:pat, $shapes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(BatchNorm);

        impl $name {
            /// Normalises `channels`; parameters `weight` and `bias`, buffers `running_mean`, `running_var` and
            /// `num_batches_tracked` under `vb`'s prefix, as PyTorch names them.
            ///
            /// # Errors
            /// When there are no channels, or a number in `config` is out of range.
            pub fn new(channels: usize, config: BatchNormConfig, vb: VarBuilder<'_>) -> Result<Self> {
                BatchNorm::new(channels, config, vb).map(Self)
            }

            /// Normalises by the moments of the batch in train mode, and adds them to the running ones; by the running ones in
            /// evaluation mode.
            ///
            /// # Shapes
            #[doc = concat!("`xs`: ", $shapes, "; the result has the same shape.")]
            ///
            /// # Errors
            /// When `xs` has other axes or channels, or in train mode one value per channel, which has no variance.
            pub fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
                Self::check(xs)?;
                self.0.forward(pass.mode(), xs)
            }

            /// [`Act::forward`] of the layer, with the same bits, in less time and memory: the function is applied
            /// while the normalised values are written.
            ///
            /// # Errors
            /// Errors of both.
            pub fn forward_act(&self, pass: &mut Pass<'_>, xs: &Tensor, act: &Act) -> Result<Tensor> {
                Self::check(xs)?;
                self.0.forward_act(pass, xs, act)
            }

            fn check(xs: &Tensor) -> Result<()> {
                match xs.rank() {
                    $ranks => Ok(()),
                    _ => {
                        let found = xs.dims();
                        let message = format!(
                            concat!(stringify!($name), ": expected inputs ", $shapes, ", found shape {:?}"),
                            found
                        );
                        Err(Error::Argument(message.replace('`', "")).into())
                    }
                }
            }
        }

        impl Module for $name {
            /// In the mode of the current [`Pass::scope`]; elsewhere in evaluation mode.
            fn forward(&self, xs: &Tensor) -> Result<Tensor> {
                Self::check(xs)?;
                let mode = Pass::current(|pass| pass.map_or(Mode::Eval, |pass| pass.mode()));
                self.0.forward(mode, xs)
            }
        }
    };
}

layer!(
    /// Batch normalisation of features (Ioffe & Szegedy 2015): see [`taper_kernels::batch_norm`].
    ///
    /// Give the buffers to the optimiser if non-finite batches are skipped: see [`BatchNorm2d`].
    BatchNorm1d, 2 | 3, "`(N, C)` or `(N, C, T)`"
);
layer!(
    /// Batch normalisation of feature maps (Ioffe & Szegedy 2015): see [`taper_kernels::batch_norm`].
    ///
    /// The bias of a layer before it has no effect: leave it out. The running statistics belong to the model:
    /// `Params::buffers`. Give them to the optimiser (`Optimizer::buffers`), so that a skipped batch does not change
    /// them.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use taper_nn::{Act, Activation, BatchNorm2d, Conv2d, Conv2dConfig, Params, Pass};
    ///
    /// let params = Params::new(1, &Device::Cpu);
    /// let vb = params.builder();
    /// let conv = Conv2d::new(1, 8, Conv2dConfig { bias: false, ..Default::default() }, vb.pp("conv1"))?;
    /// let norm = BatchNorm2d::new(8, Default::default(), vb.pp("bn1"))?;
    /// let act = Act::new(Activation::Relu, vb.pp("bn1"))?;
    /// let xs = Tensor::ones((4, 1, 6, 6), DType::F32, &Device::Cpu)?;
    /// let mut nobody = ();
    /// let ys = norm.forward_act(&mut Pass::train(&mut nobody, 1, 0), &conv.forward(&xs)?, &act)?;
    /// assert_eq!(ys.dims(), [4, 8, 4, 4]);
    /// assert_eq!(params.names(), ["conv1.weight", "bn1.weight", "bn1.bias"]);
    /// assert_eq!(params.buffers().len(), 3);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    BatchNorm2d, 4, "`(N, C, H, W)`"
);
