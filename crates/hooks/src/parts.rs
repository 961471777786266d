use serde::{Deserialize, Serialize};

/// Optional statistics of a `Recorder`. It always counts zeros, signs and flat values, and per unit the numbers for
/// dead, rare, always-on and dormant units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Mean, variance, skewness, kurtosis and extremes.
    pub moments: bool,
    /// The histogram, with quantiles and asymmetry.
    pub histogram: bool,
    /// Active values and sparseness of each sample, and lifetime sparseness of each unit.
    pub samples: bool,
}

impl Parts {
    /// Counts only.
    pub const COUNTS: Self = Self { moments: false, histogram: false, samples: false };
    /// Everything.
    pub const FULL: Self = Self { moments: true, histogram: true, samples: true };
}
