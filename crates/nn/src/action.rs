use std::fmt;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use taper_hooks::Pass;
use taper_kernels::Error;

use crate::Act;

type Function = dyn Fn(&mut Pass<'_>, &Tensor) -> Result<Tensor> + Send + Sync;

/// A function of a site's values, called before they are recorded: see [`Act::then`](crate::Act::then).
#[derive(Clone)]
pub(crate) struct Action(Arc<Function>);

impl Action {
    /// An action that gets the values of `first`, if there is one.
    pub fn after(
        first: Option<Self>,
        action: impl Fn(&mut Pass<'_>, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        match first {
            None => Self(Arc::new(action)),
            Some(first) => Self(Arc::new(move |pass, ys| {
                let ys = first.run(pass, ys)?;
                action(pass, &ys)
            })),
        }
    }

    pub fn run(&self, pass: &mut Pass<'_>, ys: &Tensor) -> Result<Tensor> {
        let replaced = (self.0)(pass, ys)?;
        if replaced.dims() != ys.dims() {
            candle_core::bail!(
                "a site's action: expected values of shape {:?} as it was given, found {:?}",
                ys.dims(),
                replaced.dims()
            );
        }
        Ok(replaced)
    }
}

/// Adds `action` to the activation with this site.
///
/// # Errors
/// If there is no such site.
pub(crate) fn add<'a>(
    acts: impl Iterator<Item = &'a mut Act>,
    site: &str,
    action: impl Fn(&mut Pass<'_>, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<()> {
    let mut names = Vec::new();
    for act in acts {
        if act.site().name() == site {
            *act = act.clone().then(action);
            return Ok(());
        }
        names.push(act.site().name().to_string());
    }
    let message = match names.is_empty() {
        true => format!("site '{site}': expected a model with hidden layers, found none"),
        false => format!("site '{site}': expected one of {}", names.join(", ")),
    };
    Err(Error::Argument(message).into())
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Action(..)")
    }
}
