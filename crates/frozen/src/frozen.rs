use std::fmt;
use std::path::Path;

use taper_kernels::Activation;
use taper_kernels::inference::{ConvRows, LinearRows, Windows, apply, scale_shift};

use crate::error::argument;
use crate::scratch::Scratch;
use crate::{Result, Sequential};

/// A trained network prepared for inference that skips zeros.
///
/// Every output is the same chain of additions whether zeros are skipped or not, so that [`Form::Dense`] and [`Form::Sparse`]
/// give the same bits, alone and in a batch. NaN and infinite inputs reach the outputs as in any other program. Results differ
/// from those of the model in training by rounding alone, as that adds in another order.
///
/// Linear layers and convolutions look at each input before they choose a form: a layer that finds too few zeros takes all.
/// Batch normalisation is folded into the layer in front of it, and the scaling of the inputs into the first layer, so that the
/// black pixels of an image are exact zeros.
///
/// A call allocates nothing and changes nothing but its [`Scratch`]: threads share the network, each with a scratch of its own.
///
/// ```
/// use candle_core::Device;
/// use taper_frozen::{Frozen, Scaling, Sequential};
/// use taper_nn::{Mlp, MlpConfig, Params};
///
/// let (params, config) = (Params::new(1, &Device::Cpu), MlpConfig::default());
/// let net = Mlp::new(&config, params.builder())?; // … and train it
/// let scaling = Scaling { mean: 0.1307, std: 0.3081 };
/// let frozen = Frozen::new(&Sequential::new(&config.layers(), &params, (1, 28, 28), scaling)?)?;
///
/// let mut scratch = frozen.scratch(1);
/// let mut logits = [0.0; 10];
/// frozen.run(&[0.0; 784], &mut logits, &mut scratch)?;
/// let first = &scratch.work()[0]; // a black image
/// assert_eq!((first.inputs, first.zeros, first.done), (784, 784, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Frozen {
    pub(crate) steps: Vec<Step>,
    pub(crate) input: (usize, usize, usize),
    pub(crate) outputs: usize,
    /// The names of the linear layers and convolutions.
    pub(crate) products: Vec<String>,
}

/// What is done to a sample; maps lie pixel by pixel.
#[derive(Clone)]
pub(crate) enum Step {
    /// Exchanges rows and columns, as of maps between plane by plane and pixel by pixel.
    Transpose(usize, usize),
    Linear(LinearRows),
    Conv {
        rows: ConvRows,
        /// Height and width of its images.
        size: (usize, usize),
    },
    MaxPool(Windows),
    AvgPool(Windows),
    ScaleShift {
        scale: Vec<f32>,
        shift: Vec<f32>,
    },
    Act(Activation),
}

/// How products treat inputs that are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Whatever is faster for the zeros that are found.
    #[default]
    Best,
    /// Multiplies all.
    Dense,
    /// Skips every zero.
    Sparse,
}

impl Frozen {
    /// Reads a network that [`Sequential::save`] wrote.
    ///
    /// # Errors
    /// As [`Sequential::load`] and [`Frozen::new`].
    pub fn load(path: &Path) -> Result<Self> {
        Self::new(&Sequential::load(path)?)
    }

    /// Values of a sample.
    pub fn inputs(&self) -> usize {
        let (c, h, w) = self.input;
        c * h * w
    }

    /// Values of a result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Memory for calls, of which each takes so many samples at a time.
    pub fn scratch(&self, batch: usize) -> Scratch {
        Scratch::new(self, batch.max(1))
    }

    /// The outputs for some samples, in the best form.
    ///
    /// # Shapes
    /// `xs`: `(N, C, H, W)` or `(N, features)`, before the network's [`Scaling`](crate::Scaling); `ys`: `(N, outputs)`.
    ///
    /// # Errors
    /// When the sizes do not fit, or `scratch` is that of another network.
    pub fn run(&self, xs: &[f32], ys: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        self.run_as(Form::Best, xs, ys, scratch)
    }

    /// The same in a form that is given.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_as(&self, form: Form, xs: &[f32], ys: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        self.watch(form, xs, ys, scratch, |_, _| {})
    }

    /// The same; `see` gets what each linear layer and convolution reads, by its number, pixel by pixel.
    pub(crate) fn watch(
        &self,
        form: Form,
        xs: &[f32],
        ys: &mut [f32],
        scratch: &mut Scratch,
        mut see: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let (inputs, outputs) = (self.inputs(), self.outputs);
        let samples = xs.len() / inputs;
        if samples * inputs != xs.len() || samples * outputs != ys.len() {
            let (n, m) = (xs.len(), ys.len());
            return argument(format!(
                "expected samples of {inputs} inputs with {outputs} outputs each, found {n} inputs and {m} outputs"
            ));
        }
        scratch.begin(self)?;
        let batch = scratch.batch();
        for (xs, ys) in xs.chunks(batch * inputs).zip(ys.chunks_mut(batch * outputs)) {
            scratch.load(xs);
            let mut product = 0;
            for step in &self.steps {
                if let Step::Linear(_) | Step::Conv { .. } = step {
                    see(product, scratch.values());
                }
                self.step(step, form, ys.len() / outputs, &mut product, scratch)?;
            }
            ys.copy_from_slice(&scratch.values()[..ys.len()]);
        }
        Ok(())
    }

    fn step(
        &self,
        step: &Step,
        form: Form,
        samples: usize,
        product: &mut usize,
        scratch: &mut Scratch,
    ) -> Result<()> {
        match step {
            Step::Transpose(rows, columns) => scratch.transpose((*rows, *columns)),
            Step::Linear(rows) => {
                scratch.linear(rows, form, samples, *product)?;
                *product += 1;
            }
            Step::Conv { rows, size } => {
                scratch.conv(rows, *size, form, samples, *product)?;
                *product += 1;
            }
            Step::MaxPool(windows) => scratch.pool(*windows, samples, Windows::max)?,
            Step::AvgPool(windows) => scratch.pool(*windows, samples, Windows::mean)?,
            Step::ScaleShift { scale, shift } => scale_shift(scratch.values_mut(), scale, shift),
            Step::Act(f) => apply(*f, scratch.values_mut()),
        }
        Ok(())
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frozen")
            .field("input", &self.input)
            .field("products", &self.products)
            .finish_non_exhaustive()
    }
}
