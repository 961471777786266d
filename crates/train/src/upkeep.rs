use serde_json::Value;
use taper_hooks::Observer;

use crate::{Optimizer, Result};

/// Changes a network between the steps of its training, by what it has observed: restarts units, keeps weights masked.
///
/// It observes the training batches, and [`Upkeep::keep_up`] is called between steps. [`Session::upkeep`](crate::Session::upkeep)
/// does both, and saves the state. In a loop of one's own:
///
/// ```
/// # use candle_core::Device;
/// # use taper_hooks::{Recorder, rng};
/// # use taper_nn::{Mlp, MlpConfig, Params};
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
    /// Called between two steps. What is due only every so many steps decides by [`Optimizer::steps`].
    ///
    /// # Errors
    /// Its own; they end training.
    fn keep_up(&mut self, optimizer: &mut Optimizer) -> Result<()>;

    /// It wants to be called behind the steps whose number this divides; at least 1.
    fn every(&self) -> u64 {
        1
    }

    /// Everything that it remembers, for a checkpoint. Null if that is nothing.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    fn state(&self) -> Result<Value> {
        Ok(Value::Null)
    }

    /// Goes on from what [`Upkeep::state`] returned.
    ///
    /// # Errors
    /// When that was the state of another one.
    fn restore(&mut self, _state: &Value) -> Result<()> {
        Ok(())
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
