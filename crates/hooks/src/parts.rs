use serde::{Deserialize, Serialize};

/// Which numbers a `Recorder` collects beside its counts: zeros, signs, flat values, and per unit what
/// dead, rare, always-on and dormant need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Mean, variance, skewness, kurtosis and extremes.
    pub moments: bool,
    /// The histogram, with quantiles and asymmetry.
    pub histogram: bool,
    /// Active values and sparseness per sample, and lifetime sparseness per unit.
    pub samples: bool,
}

impl Parts {
    /// Counts alone.
    pub const COUNTS: Self = Self { moments: false, histogram: false, samples: false };
    /// Everything.
    pub const FULL: Self = Self { moments: true, histogram: true, samples: true };
}
