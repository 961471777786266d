use candle_core::Result;
use serde::{Deserialize, Serialize};
use taper_hooks::Rng;
use taper_kernels::Error;

use crate::Init;
use crate::params::sample;

/// The names of the parameters before and after a site: the incoming and the outgoing weights of its units.
///
/// The incoming weights of unit `u` are row `u` of `weight` and value `u` of `bias`. Its outgoing weights are the columns
/// `u · columns .. (u + 1) · columns` of `next_weight`. Pooling and dropout between the two layers are allowed, but not
/// a normalisation layer: a link does not name its parameters.
///
/// ```
/// use candle_core::Device;
/// use taper_nn::{Cnn, CnnConfig, Model, Params};
///
/// let net = Cnn::new(&CnnConfig::default(), Params::new(1, &Device::Cpu).builder())?;
/// let links = net.links();
/// let conv2 = &links[1];
/// assert_eq!((conv2.site.as_str(), conv2.units, conv2.next_weight.as_str()), ("conv2", 64, "fc1.weight"));
/// assert_eq!(conv2.columns, 12 * 12); // the positions of a pooled map
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The name of the site.
    pub site: String,
    /// Units of the site, `U`.
    pub units: usize,
    /// Parameter with the incoming weights, `(U, I)` or `(U, C, kH, kW)`.
    pub weight: String,
    /// Parameter with the biases of the units, `(U)`.
    pub bias: Option<String>,
    /// The initialisation of `weight` and `bias`.
    pub init: Init,
    /// Parameter with the outgoing weights, `(O, U · columns)`, or `(O, U, kH, kW)` with one column per unit.
    pub next_weight: String,
    /// Parameter with the biases of the next layer, `(O)`.
    pub next_bias: Option<String>,
    /// Adjacent columns per unit: the positions of a map if a linear layer flattens it, otherwise 1.
    pub columns: usize,
}

impl Link {
    /// From a layer with the parameters `<site>.weight` and `<site>.bias` to the layer `next`, with one column per unit.
    pub fn new(site: &str, units: usize, init: Init, next: &str) -> Self {
        Self {
            site: site.into(),
            units,
            weight: format!("{site}.weight"),
            bias: Some(format!("{site}.bias")),
            init,
            next_weight: format!("{next}.weight"),
            next_bias: Some(format!("{next}.bias")),
            columns: 1,
        }
    }

    /// Incoming weights and biases of `n` new units, drawn from the layer's initialisation.
    ///
    /// # Shapes
    /// `weight` is the shape of the layer's weight, `(U, I)` or `(U, C, kH, kW)`. The results are `n` rows of that
    /// shape, flattened, and `n` biases.
    ///
    /// # Errors
    /// When `weight` has fewer than two dimensions.
    pub fn draw(&self, weight: &[usize], n: usize, rng: &mut Rng) -> Result<(Vec<f32>, Vec<f32>)> {
        let [outputs, inputs, kernel @ ..] = weight else {
            let name = &self.weight;
            let message = format!("parameter '{name}': expected a weight (U, I, ..), found shape {weight:?}");
            return Err(Error::Argument(message).into());
        };
        let kernel: usize = kernel.iter().product();
        let (fan_in, fan_out) = (inputs * kernel, outputs * kernel);
        let weights = sample(self.init.weight(fan_in, fan_out), &(n, fan_in).into(), rng)?;
        Ok((weights, sample(self.init.bias(fan_in), &n.into(), rng)?))
    }
}
