use std::fmt;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use taper_hooks::Pass;

type Function = dyn Fn(&mut Pass<'_>, &Tensor) -> Result<Tensor> + Send + Sync;

/// A function of a site's values, called before they are recorded: see [`Act::then`](crate::Act::then).
#[derive(Clone)]
pub(crate) struct Action(Arc<Function>);

impl Action {
    pub fn new(action: impl Fn(&mut Pass<'_>, &Tensor) -> Result<Tensor> + Send + Sync + 'static) -> Self {
        Self(Arc::new(action))
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

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Action(..)")
    }
}
