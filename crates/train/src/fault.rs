use std::fmt;
use std::str::FromStr;

use candle_core::Tensor;
use taper_hooks::FirstFault;
use taper_kernels::first_non_finite;
use taper_report::Place;

use crate::{Error, Result};

/// What training does about a batch whose loss, gradient or activations hold NaN or an infinity; read from and written
/// as `stop`, `skip` or `continue`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNonFinite {
    /// The epoch ends with [`Error::NotFinite`], before the batch moves the weights.
    #[default]
    Stop,
    /// The batch's step is left out and counted, its loss is left out of the mean, and training goes on.
    Skip,
    /// The step is made all the same, and the batch counted.
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

/// The index of dimension `dim` at which the first value is that is not finite.
pub(crate) fn first_unit(tensor: &Tensor, dim: usize) -> Result<Option<usize>> {
    let per_unit: usize = tensor.dims().iter().skip(dim + 1).product();
    let units = tensor.dims().get(dim).copied().unwrap_or(1);
    Ok(first_non_finite(tensor)?.map(|at| at / per_unit.max(1) % units.max(1)))
}

/// Where a forward pass that was not finite went wrong: `pass` makes it once more.
pub(crate) fn locate<'a>(
    images: &Tensor,
    parameters: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    pass: impl FnOnce(&mut FirstFault) -> candle_core::Result<()>,
) -> Result<Place> {
    if let Some(sample) = first_unit(images, 0)? {
        return Ok(Place::Data { sample: sample as u64 });
    }
    for (name, parameter) in parameters {
        if let Some(unit) = first_unit(parameter, 0)? {
            return Ok(Place::Weights { parameter: name.to_string(), unit: unit as u64 });
        }
    }
    let mut fault = FirstFault::default();
    pass(&mut fault)?;
    Ok(match (fault.site(), fault.unit()) {
        (Some(site), Some(unit)) => Place::Site { site: site.to_string(), unit: unit as u64 },
        _ => Place::Loss,
    })
}
