use candle_core::Result;
use serde::{Deserialize, Serialize};
use taper_hooks::Rng;
use taper_kernels::Error;

use crate::Init;
use crate::params::sample;

/// The units of a site, with the parameters that lead to them and from them: what changes together when a unit is replaced.
///
/// The incoming weights of unit `u` are row `u` of `weight` and value `u` of `bias`; its outgoing weights are the columns
/// `u · columns .. (u + 1) · columns` of `next_weight`. Pooling and dropout may lie between. Where a normalisation lies between,
/// the units have parameters that a link does not name.
///
/// ```
/// use candle_core::Device;
/// use taper_nn::{Cnn, CnnConfig, Params};
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
    /// Incoming weights, `(U, I)` or `(U, C, kH, kW)`.
    pub weight: String,
    /// Their bias, `(U)`.
    pub bias: Option<String>,
    /// How incoming weights start.
    pub init: Init,
    /// Outgoing weights, `(O, U · columns)`, or `(O, U, kH, kW)` with one column per unit.
    pub next_weight: String,
    /// Their bias, `(O)`.
    pub next_bias: Option<String>,
    /// Neighbouring columns per unit: the positions of a map that is flattened in front of a linear layer, otherwise 1.
    pub columns: usize,
}

impl Link {
    /// Between the layer of the site, whose parameters are `<site>.weight` and `<site>.bias`, and the layer `next`, with one column
    /// per unit.
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

    /// Weights and biases of `n` new units, drawn as those of the layer were when it was made.
    ///
    /// # Shapes
    /// `weight`: that of the whole layer, `(U, I)` or `(U, C, kH, kW)`. The results have `n` rows of it, flattened, and `n` values.
    ///
    /// # Errors
    /// When `weight` has less than two dimensions.
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

/// An error for a site that a model does not have.
pub(crate) fn unknown_site<T>(site: &str, links: &[Link]) -> Result<T> {
    let names: Vec<&str> = links.iter().map(|link| link.site.as_str()).collect();
    let message = match names.is_empty() {
        true => format!("site '{site}': expected a model with hidden layers, found none"),
        false => format!("site '{site}': expected one of {}", names.join(", ")),
    };
    Err(Error::Argument(message).into())
}
