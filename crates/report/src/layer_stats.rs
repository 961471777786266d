use serde::{Deserialize, Serialize};

use crate::Histogram;

/// The statistics of one site over one window: a whole epoch of training, or one evaluation pass.
///
/// `ys` are the values at the site, `f` its activation function if it has one, and `xs` the input of `f`. A *unit* is
/// one index of the site's unit axis: a neuron of `(N, F)` or `(N, T, F)`, a feature map of `(N, C, H, W)`. All other
/// axes except the batch are *positions*; an *observation* of a unit is one (sample, position) pair. Counts are exact
/// over the whole window. NaN and infinities are counted and left out of all other numbers. Fields that were not
/// measured, or have no meaning, are `None`; without `f` these are `flat_low`, `flat_high`, `dead`, `rare`, `died`,
/// `revived` and `still_dead`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerStats {
    /// Name of the site, that of the weights that feed it: `conv1`.
    pub site: String,
    /// The activation function, as text: `relu`; `None` if there is none.
    pub activation: Option<String>,
    /// Maximum number of uses in one pass: 1, or more if one activation is used at several places. Each use counts its
    /// own samples.
    pub uses: u32,
    /// Why the recorder could not record all of the window; the numbers cover the part before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// Number of units.
    pub units: u64,
    /// Number of samples.
    pub samples: u64,
    /// Number of values: samples × units × positions.
    pub values: u64,
    /// Values equal to zero, of both signs.
    pub zeros: u64,
    /// Finite values below zero.
    pub negatives: u64,
    /// Finite values above zero.
    pub positives: u64,
    /// Finite values with `|ys| <= near_zero_bound`, exact zeros included.
    pub near_zeros: u64,
    /// The bound of `near_zeros`: 0.01.
    pub near_zero_bound: f64,
    /// NaN values: a fault.
    pub nan: u64,
    /// Infinite values: a fault.
    pub infinite: u64,
    /// `zeros / values`, in `[0, 1]`; 0 without values. Not the fraction of dead units: a layer can be 90 % zeros with no unit dead.
    pub zero_fraction: f64,
    /// Mean of the finite values.
    pub mean: Option<f64>,
    /// Population variance of the finite values.
    pub variance: Option<f64>,
    /// `m3 / m2^1.5`; `None` if the variance is 0.
    pub skewness: Option<f64>,
    /// `m4 / m2² − 3`, at least −2, 0 for a normal distribution; `None` if the variance is 0.
    pub excess_kurtosis: Option<f64>,
    /// Smallest finite value.
    pub min: Option<f64>,
    /// Largest finite value.
    pub max: Option<f64>,
    /// The distribution of the values, in fixed signed log-linear bins.
    pub histogram: Option<Histogram>,
    /// Quantiles from the histogram, each within 1/16 of its own value: see [`Histogram::quantile`].
    pub quantiles: Option<Quantiles>,
    /// Distance between the distribution and its mirror image, in `[0, 1]`: see [`Histogram::asymmetry`].
    pub asymmetry: Option<f64>,
    /// Fraction of the finite values with `|f'(xs)| < 0.01` at `xs <= 0`, in `[0, 1]`: saturation, comparable across
    /// activation functions. For ReLU it is the share of zeros.
    pub flat_low: Option<f64>,
    /// Fraction of the finite values with `|f'(xs)| < 0.01` at `xs > 0`, in `[0, 1]`.
    pub flat_high: Option<f64>,
    /// Units at which `f'(xs)` was 0 at every observation: no gradient could reach their incoming weights. For
    /// ReLU, whose `f'(0)` is 0, those that never fired. A unit that is saturated at its upper end is dead too.
    pub dead: Option<u64>,
    /// Units that are not dead and had `ys > 0` on fewer than 1 % of observations (Dohare et al. 2024); `None`
    /// unless the activation is 0 for every negative input.
    pub rare: Option<u64>,
    /// Units with `ys > 0` at every observation: a ReLU that is linear on these data; every sigmoid.
    pub always_on: u64,
    /// Units with dormancy score 0 (Sokar et al. 2023): `s_i = E|h_i| / (mean_k E|h_k| + 1e-9)`; `None` at an
    /// output layer.
    pub dormant_0: Option<u64>,
    /// Units with dormancy score at most 0.025.
    pub dormant_0_025: Option<u64>,
    /// Units with dormancy score at most 0.1.
    pub dormant_0_1: Option<u64>,
    /// Units that are dead now and were not in the previous window; `None` in the first window.
    pub died: Option<u64>,
    /// Units that were dead in the previous window and are not now.
    pub revived: Option<u64>,
    /// Units dead in both windows.
    pub still_dead: Option<u64>,
    /// Indices of the dead units, ascending.
    #[serde(deserialize_with = "ascending")]
    pub dead_units: Vec<u32>,
    /// Indices of the rare units, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "ascending")]
    pub rare_units: Vec<u32>,
    /// The distribution of the units' firing rates (`ys > 0`).
    pub firing_rate: FiringRates,
    /// Number of non-zero values per sample, over units and positions, of samples with a finite value.
    pub active_per_sample: Option<ActivePerSample>,
    /// Mean over samples of `(1 − a) / (1 − 1/n)` with `a = (mean |ys|)² / mean ys²` over the sample's `n` values, in
    /// `[0, 1]`: Treves and Rolls' sparseness in the form of Vinje & Gallant (2000).
    pub population_sparseness: Option<f64>,
    /// Mean over the same samples of `(√n − l1/l2) / (√n − 1)`, in `[0, 1]` (Hoyer 2004).
    pub hoyer: Option<f64>,
    /// Samples with only zeros: they have no sparseness and are left out of those means.
    pub samples_all_zero: Option<u64>,
    /// Mean of the same sparseness over units that are not silent, over a unit's observations.
    pub lifetime_sparseness: Option<f64>,
}

impl LayerStats {
    /// The site's name, with the number of its uses in a pass if there are several: `stem ×7`.
    pub fn title(&self) -> String {
        if self.uses > 1 { format!("{} ×{}", self.site, self.uses) } else { self.site.clone() }
    }

    /// `dead / units`, in `[0, 1]`.
    pub fn dead_fraction(&self) -> Option<f64> {
        self.fraction(self.dead?)
    }

    /// `dormant_0_025 / units`, in `[0, 1]`.
    pub fn dormant_fraction(&self) -> Option<f64> {
        self.fraction(self.dormant_0_025?)
    }

    /// Population standard deviation.
    pub fn std(&self) -> Option<f64> {
        self.variance.map(f64::sqrt)
    }

    fn fraction(&self, units: u64) -> Option<f64> {
        (self.units > 0).then(|| units as f64 / self.units as f64)
    }
}

/// Why a recorder stopped recording a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Trouble {
    /// The number of units changed within the window.
    UnitsChanged {
        /// Units before.
        expected: u64,
        /// Units after.
        found: u64,
    },
    /// Training and evaluation passes in one window.
    ModesMixed,
    /// Another site with the same name.
    SiteTwice,
    /// Values with and without an activation function, or with another one.
    ActivationChanged,
    /// The sums on a GPU cannot be read.
    Unreadable,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnitsChanged { expected, found } => write!(
                f,
                "expected {expected} units as before, found {found}: one activation for layers of different widths? give \
                 each place its own name"
            ),
            Self::ModesMixed => f.write_str(
                "training and evaluation in one window: call finish between them, or use a recorder for each",
            ),
            Self::ActivationChanged => {
                f.write_str("the site's activation function changed: give each place its own site")
            }
            Self::Unreadable => f.write_str("the sums on the GPU cannot be read: did an operation there fail?"),
            Self::SiteTwice => f.write_str(
                "another site of this name came: give each model its own recorder, and make sites once, not in every \
                 pass",
            ),
        }
    }
}

fn ascending<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    let units = Vec::<u32>::deserialize(from)?;
    match units.is_sorted_by(|a, b| a < b) {
        true => Ok(units),
        false => Err(serde::de::Error::custom("dead_units or rare_units: expected ascending numbers")),
    }
}

/// Quantiles of the values, from the histogram: each within 1/16 of the exact sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// 1 % of the values lie at or below this.
    pub q01: f64,
    /// 5 %.
    pub q05: f64,
    /// 25 %.
    pub q25: f64,
    /// The median.
    pub q50: f64,
    /// 75 %.
    pub q75: f64,
    /// 95 %.
    pub q95: f64,
    /// 99 %.
    pub q99: f64,
}

/// The number of units by firing rate. A unit's firing rate is the fraction of observations with `ys > 0`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiringRates {
    /// Units that never fired.
    pub never: u64,
    /// Units by rate in twenty bins: bin `k` holds rates in `[k/20, (k+1)/20)`, without `never` and `always`.
    pub between: [u64; 20],
    /// Units that fired at every observation.
    pub always: u64,
}

/// Number of non-zero values per sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActivePerSample {
    /// Mean over samples.
    pub mean: f64,
    /// Fewest.
    pub min: u64,
    /// Most.
    pub max: u64,
}
