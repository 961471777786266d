use std::fmt;
use std::str::FromStr;

use candle_core::Tensor;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use taper_hooks::FirstFault;
use taper_kernels::first_non_finite;
use taper_report::Place;

use crate::{Error, Result};

/// What training does with a batch whose loss, metrics, gradient or activations have NaN or an infinity. Parsed from
/// and printed as `stop`, `skip` or `continue`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNonFinite {
    /// Ends the epoch with [`Error::NotFinite`], before the batch changes the weights.
    #[default]
    Stop,
    /// Skips the optimiser's step and counts the batch; running statistics are restored, if the optimiser has them
    /// ([`Optimizer::buffers`](crate::Optimizer::buffers)). A non-finite loss or metric is left out of the means.
    Skip,
    /// Makes the step, and counts the batch.
    Continue,
}

const NAMES: [(&str, OnNonFinite); 3] =
    [("stop", OnNonFinite::Stop), ("skip", OnNonFinite::Skip), ("continue", OnNonFinite::Continue)];

impl fmt::Display for OnNonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(NAMES.iter().find(|(_, of)| of == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for OnNonFinite {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, of)| *of).ok_or_else(|| {
            Error::Config(format!("expected stop, skip or continue, found '{}'", text.escape_debug()))
        })
    }
}

/// The text that is parsed and printed.
impl Serialize for OnNonFinite {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OnNonFinite {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The index of dimension 0 of the first non-finite value.
pub(crate) fn first_unit(tensor: &Tensor) -> Result<Option<u64>> {
    let per_unit: usize = tensor.dims().iter().skip(1).product();
    Ok(first_non_finite(tensor)?.map(|at| (at / per_unit.max(1)) as u64))
}

/// Finds the fault of a non-finite forward pass, which `pass` repeats.
pub(crate) fn locate<'a>(
    loss: f64,
    metric: Option<&str>,
    parameters: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    pass: impl FnOnce(&mut FirstFault) -> Result<()>,
) -> Result<Place> {
    let mut found = FirstFault::default();
    pass(&mut found)?;
    if let Some(sample) = found.sample() {
        return Ok(Place::Data { sample: sample as u64 });
    }
    for (name, parameter) in parameters {
        if let Some(unit) = first_unit(parameter)? {
            return Ok(Place::Weights { parameter: name.to_string(), unit });
        }
    }
    Ok(match (found.site(), metric) {
        (Some((site, unit)), _) => Place::Site { site: site.to_string(), unit: unit as u64 },
        (None, Some(name)) if loss.is_finite() => Place::Metric { name: name.to_string() },
        _ => Place::Loss,
    })
}
