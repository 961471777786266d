use crate::tally::RARE;

/// The statistics of one unit in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnitStats {
    /// (sample, position) pairs with a finite value.
    pub observations: u64,
    /// Observations with `ys > 0`.
    pub fired: u64,
    /// Observations with `f'(xs) ≠ 0`; `None` if there is no activation function.
    pub passed: Option<u64>,
    /// Mean of `ys`; 0 without observations.
    pub mean: f64,
    /// Mean of `|ys|`; 0 without observations.
    pub mean_abs: f64,
    /// Dormancy score (Sokar et al. 2023): `mean_abs`, divided by its mean over the layer; 0 without observations.
    pub dormancy: f64,
}

impl UnitStats {
    /// No gradient could reach its incoming weights.
    pub fn is_dead(&self) -> bool {
        self.observations > 0 && self.passed == Some(0)
    }

    /// Not dead, and fires on fewer than 1 % of observations; meant for zero-floored activations.
    pub fn is_rare(&self) -> bool {
        self.passed.is_some_and(|n| n > 0) && (self.fired as f64 / self.observations as f64) < RARE
    }

    /// Fires at every observation.
    pub fn is_always_on(&self) -> bool {
        self.observations > 0 && self.fired == self.observations
    }

    /// Its dormancy score is at most `tau`.
    pub fn is_dormant(&self, tau: f64) -> bool {
        self.observations > 0 && self.dormancy <= tau
    }
}
