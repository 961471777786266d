use std::fmt;
use std::path::Path;

use taper_kernels::Activation;
use taper_kernels::inference::{ConvRows, LinearRows, Windows, apply, scale_shift};

use crate::error::argument;
use crate::scratch::Scratch;
use crate::{Result, Sequential};

/// A trained network that is prepared for inference that skips zeros.
///
/// Each output is a sum in a fixed order, and a term that is 0 does not change it. So [`Form::Dense`] and [`Form::Sparse`]
/// give the same bits, for one sample and in a batch. NaN and infinite inputs reach the outputs. The training code adds in
/// another order, so its results differ by rounding.
///
/// A linear layer counts the zeros among its inputs in each call; if there are few, it multiplies all inputs. A batch
/// normalisation is folded into the layer before it. The scaling of the inputs is folded into the first layer, so that
/// black pixels are exact zeros.
///
/// A call allocates no memory and changes only its [`Scratch`]. Threads can share the network, each with its own scratch.
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

/// One computation on a sample. Maps are stored pixel by pixel, `(H, W, C)`.
#[derive(Clone)]
pub(crate) enum Step {
    /// Transposes a matrix with this many rows and columns: `(C, H·W)` maps to `(H·W, C)`, or back.
    Transpose(usize, usize),
    Linear(LinearRows),
    Conv {
        rows: ConvRows,
        /// Height and width of the input.
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

/// Whether products skip inputs that are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A linear layer skips zeros if it has enough of them; a convolution always does.
    #[default]
    Best,
    /// Multiplies all inputs.
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

    /// Number of values of a sample.
    pub fn inputs(&self) -> usize {
        let (c, h, w) = self.input;
        c * h * w
    }

    /// Number of outputs for a sample.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Memory for calls that compute up to `batch` samples at a time.
    pub fn scratch(&self, batch: usize) -> Scratch {
        Scratch::new(self, batch.max(1))
    }

    /// Computes the outputs for some samples, with [`Form::Best`].
    ///
    /// # Shapes
    /// `xs`: `(N, C, H, W)` or `(N, features)`, before the network's [`Scaling`](crate::Scaling); `ys`: `(N, outputs)`.
    ///
    /// # Errors
    /// When the sizes do not fit, or `scratch` belongs to another network.
    pub fn run(&self, xs: &[f32], ys: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        self.run_as(Form::Best, xs, ys, scratch)
    }

    /// [`run`](Self::run) with a given form.
    ///
    /// # Shapes
    /// As [`run`](Self::run).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_as(&self, form: Form, xs: &[f32], ys: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        self.watch(form, xs, ys, scratch, |_, _| {})
    }

    /// [`run_as`](Self::run_as) that also calls `see(i, inputs)` for the `i`-th linear layer or convolution. Its inputs are
    /// stored pixel by pixel.
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
