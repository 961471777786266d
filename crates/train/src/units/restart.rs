use candle_core::{Device, Tensor, Var};
use serde::de::DeserializeOwned;
use serde_json::Value;
use taper_hooks::{Rng, rng};
use taper_nn::{Link, Params};

use crate::{Error, Optimizer, Result};

/// Restarts units: draws incoming weights and biases from the layer's initialisation, sets outgoing weights to 0, and resets
/// the optimiser's state for these weights, including Adam's step counts. With outgoing weights of 0 a new unit does not
/// change the output of the network.
///
/// # Errors
/// When a parameter of `link` is missing, frozen, or has another shape, or a unit does not exist.
pub fn restart_units(
    link: &Link,
    units: &[usize],
    params: &Params,
    optimizer: &mut Optimizer,
    rng: &mut Rng,
) -> Result<()> {
    let Ends { weight, bias, next_weight, .. } = Ends::of(link, params)?;
    if let Some(unit) = units.iter().find(|unit| **unit >= link.units) {
        return Err(Error::Config(format!(
            "site '{}': expected units below {}, found {unit}",
            link.site, link.units
        )));
    }
    if units.is_empty() {
        return Ok(());
    }
    let columns: Vec<usize> =
        units.iter().flat_map(|unit| unit * link.columns..(unit + 1) * link.columns).collect();
    optimizer.reset_rows(&link.weight, units)?;
    optimizer.reset_columns(&link.next_weight, &columns)?;
    let (weights, biases) = link.draw(weight.dims(), units.len(), rng)?;
    set_rows(&weight, units, &weights)?;
    if let (Some(bias), Some(name)) = (bias, &link.bias) {
        optimizer.reset_rows(name, units)?;
        set_rows(&bias, units, &biases)?;
    }
    let span = next_weight.elem_count() / (next_weight.dim(0)? * next_weight.dim(1)?);
    change(&next_weight, |values| {
        for row in values.chunks_mut(next_weight.dims()[1] * span) {
            columns.iter().for_each(|column| row[column * span..][..span].fill(0.0));
        }
    })
}

/// The units that a method may restart.
#[derive(Clone, Debug)]
pub(super) struct Candidates {
    pub links: Vec<Link>,
    pub params: Params,
    pub seed: u64,
}

impl Candidates {
    /// # Errors
    /// When there are no links, or one does not fit the parameters.
    pub fn new(links: &[Link], params: &Params, seed: u64) -> Result<Self> {
        if links.is_empty() {
            return Err(Error::Config(
                "expected units to restart, found none: use a model with hidden layers that returns its links".into(),
            ));
        }
        links.iter().try_for_each(|link| Ends::of(link, params).map(drop))?;
        Ok(Self { links: links.to_vec(), params: params.clone(), seed })
    }
}

/// Reads the state of a method from a checkpoint. `options` writes what must be as in `now`.
///
/// # Errors
/// When it is the state of another method, or its options differ.
pub(super) fn restored<S: DeserializeOwned>(
    method: &str,
    state: &Value,
    now: &S,
    options: impl Fn(&S) -> String,
) -> Result<S> {
    let was: S = serde_json::from_value(state.clone()).map_err(|error| {
        Error::Config(format!("{method}: expected its state in the checkpoint, found another: {error}"))
    })?;
    let (expected, found) = (options(&was), options(now));
    if expected != found {
        return Err(Error::Config(format!(
            "{method}: expected {expected}, as in the checkpoint, found {found}: use the options of the run"
        )));
    }
    Ok(was)
}

/// The parameters that a link names.
pub(super) struct Ends {
    pub weight: Var,
    pub bias: Option<Var>,
    pub next_weight: Var,
    pub next_bias: Option<Var>,
}

impl Ends {
    /// # Errors
    /// When one is missing or has another shape.
    pub fn of(link: &Link, params: &Params) -> Result<Self> {
        let vars = params.vars();
        // `index` and `count`: a dimension, and its size.
        let find = |name: &String, index: usize, count: Option<usize>| {
            let Some((_, var)) = vars.iter().find(|(own, _)| own == name) else {
                let names: Vec<&str> = vars.iter().map(|(name, _)| name.as_str()).collect();
                let names = crate::weights::listed(&names);
                return Err(Error::Config(format!(
                    "link of site '{}': expected a parameter of the model, found '{name}', not one of {names}",
                    link.site
                )));
            };
            let found = var.dims().get(index).copied();
            if count.is_some() && found != count {
                return Err(Error::Config(format!(
                    "link of site '{}': parameter '{name}': expected {} in dimension {index}, found shape {:?}",
                    link.site,
                    count.unwrap_or_default(),
                    var.dims()
                )));
            }
            Ok(var.clone())
        };
        let optional =
            |name: &Option<String>, count| name.as_ref().map(|name| find(name, 0, count)).transpose();
        Ok(Self {
            weight: find(&link.weight, 0, Some(link.units))?,
            bias: optional(&link.bias, Some(link.units))?,
            next_weight: find(&link.next_weight, 1, Some(link.units * link.columns))?,
            next_bias: optional(&link.next_bias, None)?,
        })
    }
}

/// Changes the values of a parameter.
pub(super) fn change(var: &Var, f: impl FnOnce(&mut [f32])) -> Result<()> {
    let mut values = taper_kernels::with_values(&var.as_detached_tensor(), <[f32]>::to_vec)?;
    f(&mut values);
    let new = Tensor::from_vec(values, var.shape(), &Device::Cpu)?;
    Ok(var.set(&new.to_device(var.device())?.to_dtype(var.dtype())?)?)
}

fn set_rows(var: &Var, rows: &[usize], new: &[f32]) -> Result<()> {
    let width = new.len() / rows.len();
    change(var, |values| {
        for (row, new) in rows.iter().zip(new.chunks(width)) {
            values[row * width..][..width].copy_from_slice(new);
        }
    })
}

/// The generator for new units after this step; a function of the step, so a resumed run draws the same values.
pub(super) fn rng_of_step(seed: u64, step: u64) -> Rng {
    // The increment of SplitMix64, so that seeds of adjacent steps differ in many bits.
    rng(seed ^ step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
