use serde_json::Value;
use taper_hooks::Observer;

use crate::{Error, Optimizer, Result};

/// Changes the weights of a network between steps of training: restarts units, or keeps weights at 0.
///
/// It observes the training batches, and [`Upkeep::keep_up`] changes the weights. [`Session::upkeep`](crate::Session::upkeep)
/// calls both, and saves the state in checkpoints. In your own loop:
///
/// ```
/// # use candle_core::Device;
/// # use taper_hooks::{Recorder, rng};
/// # use taper_nn::{Mlp, MlpConfig, Model, Params};
/// # use taper_train::{Optimizer, OptimizerConfig, Progress, Redo, Rule, Upkeep, classify, train_batches};
/// # let data = taper_data::digits()?;
/// let params = Params::new(1, &Device::Cpu);
/// let net = Mlp::new(&MlpConfig { inputs: 64, widths: vec![32], ..Default::default() }, params.builder())?;
/// let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adam(0.0), 0.1))?;
/// let (mut recorder, mut redo) = (Recorder::new(), Redo::new(net.links(), 0.0, 20, &params, 1)?);
/// let (mut batches, mut progress) = (data.train.shuffled(&mut rng(2), 32), Progress::default());
/// while batches.len() > 0 {
///     let piece = batches.by_ref().take(20);
///     train_batches(&classify(&net), &mut optimizer, piece, &mut (&mut recorder, &mut redo), 1, &mut progress)?;
///     redo.keep_up(&mut optimizer)?;
/// }
/// println!("{} units were restarted", redo.restarted());
/// # Ok::<(), taper_train::Error>(())
/// ```
pub trait Upkeep: Observer {
    /// Changes the weights if that is due, which it decides from [`Optimizer::steps`]. Called between two steps.
    ///
    /// # Errors
    /// Those of the implementation; they end the training.
    fn keep_up(&mut self, optimizer: &mut Optimizer) -> Result<()>;

    /// A session calls [`Upkeep::keep_up`] after steps whose number is divisible by this; at least 1.
    fn every(&self) -> u64 {
        1
    }

    /// Its state, for a checkpoint; null if it has none.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    fn state(&self) -> Result<Value> {
        Ok(Value::Null)
    }

    /// Restores a state that [`Upkeep::state`] returned.
    ///
    /// # Errors
    /// When it is the state of another upkeep.
    fn restore(&mut self, state: &Value) -> Result<()> {
        match state.is_null() {
            true => Ok(()),
            false => {
                Err(Error::Config("upkeep: expected no state in the checkpoint, found one of another".into()))
            }
        }
    }
}

impl<T: Upkeep + ?Sized> Upkeep for Box<T> {
    fn keep_up(&mut self, optimizer: &mut Optimizer) -> Result<()> {
        (**self).keep_up(optimizer)
    }

    fn every(&self) -> u64 {
        (**self).every()
    }

    fn state(&self) -> Result<Value> {
        (**self).state()
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        (**self).restore(state)
    }
}
