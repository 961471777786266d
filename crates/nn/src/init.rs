use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use taper_kernels::{Activation, Error};

/// The initialisation of weights. Biases start at 0, except with [`Init::PyTorch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Normal with variance `2 / fan_in` (He et al. 2015): keeps the scale after ReLU and similar functions.
    He,
    /// Normal with variance `1 / fan_in` (LeCun et al. 1998): for SELU's fixed point.
    LeCun,
    /// Uniform with variance `2 / (fan_in + fan_out)` (Glorot & Bengio 2010): for tanh and sigmoid.
    Glorot,
    /// PyTorch's default for linear and convolution layers: weights and biases uniform in `±1/√fan_in`.
    PyTorch,
}

impl Init {
    /// The initialisation for a layer before `activation`.
    pub fn of(activation: Activation) -> Self {
        use Activation as A;
        match activation {
            A::Identity | A::Selu => Self::LeCun,
            A::Tanh | A::Sigmoid | A::Softsign | A::Hardtanh | A::Hardsigmoid => Self::Glorot,
            _ => Self::He,
        }
    }

    /// The distribution of a weight, for candle's `VarBuilder`.
    ///
    /// `fan_in` and `fan_out` are the numbers of inputs of an output, and of outputs of an input.
    pub fn weight(self, fan_in: usize, fan_out: usize) -> candle_nn::Init {
        let (fan_in, fan_out) = (fan_in as f64, fan_out as f64);
        let normal = |variance: f64| candle_nn::Init::Randn { mean: 0.0, stdev: variance.sqrt() };
        let uniform = |bound: f64| candle_nn::Init::Uniform { lo: -bound, up: bound };
        match self {
            Self::He => normal(2.0 / fan_in),
            Self::LeCun => normal(1.0 / fan_in),
            Self::Glorot => uniform((6.0 / (fan_in + fan_out)).sqrt()),
            Self::PyTorch => uniform(fan_in.powf(-0.5)),
        }
    }

    /// The distribution of a bias; `fan_in` as in [`Init::weight`].
    pub fn bias(self, fan_in: usize) -> candle_nn::Init {
        match self {
            Self::PyTorch => self.weight(fan_in, 0),
            _ => candle_nn::Init::Const(0.0),
        }
    }
}

const NAMES: [(&str, Init); 4] =
    [("he", Init::He), ("lecun", Init::LeCun), ("glorot", Init::Glorot), ("pytorch", Init::PyTorch)];

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(_, init)| init == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for Init {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, init)| *init).ok_or_else(|| {
            Error::Argument(format!("unknown initialisation '{text}': expected he, lecun, glorot or pytorch"))
        })
    }
}

/// The text that is parsed and printed.
impl Serialize for Init {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Init {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
