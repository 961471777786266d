use candle_core::{DType, Device, Tensor};
use taper_kernels::{Gradients, Slots};

use super::{Optimizer, Parameter, Waiting};
use crate::{Error, Result};

/// The state of an [`Optimizer`] between steps.
#[derive(Clone, Debug, Default)]
pub struct OptimizerState {
    /// Steps taken.
    pub steps: u64,
    /// The base learning rate, if [`Optimizer::set_learning_rate`] has set it.
    pub learning_rate: Option<f64>,
    /// Number of batches, and of their samples, with accumulated gradients
    /// ([`OptimizerConfig::accumulate`](crate::OptimizerConfig::accumulate)).
    pub waiting: (u64, u64),
    /// The slots of the rule for every parameter, named `<parameter>.<slot>`: `fc1.weight.exp_avg`. Accumulated gradients
    /// are `<parameter>.gradient`. If rows or columns were reset, `<parameter>.reset` and `<parameter>.reset_columns` have
    /// the step of each row or column, in i64.
    pub tensors: Vec<(String, Tensor)>,
}

const GRADIENT: &str = "gradient";
const RESET: [&str; 2] = ["reset", "reset_columns"];

impl Optimizer {
    /// A copy of the state.
    ///
    /// # Errors
    /// Those of candle.
    pub fn state(&self) -> Result<OptimizerState> {
        let mut tensors = Vec::new();
        for own in &self.parameters {
            let name = |what: &str| format!("{}.{what}", own.name);
            let names = own.rule.slots().iter().map(|slot| name(slot));
            tensors.extend(names.zip(own.slots.tensors(&own.var)?));
            if let Some(gradient) = self.waiting.sum.get(&own.var) {
                tensors.push((name(GRADIENT), gradient.values()?));
            }
            for (what, reset) in RESET.iter().zip([&own.reset, &own.reset_columns]) {
                if !reset.is_empty() {
                    let steps: Vec<i64> = reset.iter().map(|step| *step as i64).collect();
                    tensors.push((name(what), Tensor::new(steps, &Device::Cpu)?));
                }
            }
        }
        let waiting = (self.waiting.batches, self.waiting.samples);
        Ok(OptimizerState { steps: self.steps, learning_rate: self.learning_rate, waiting, tensors })
    }

    /// Restores the state of an optimiser with the same rule, groups and parameters.
    ///
    /// # Errors
    /// When a tensor is missing, unexpected, or has another shape; nothing is changed then.
    pub fn restore(&mut self, state: &OptimizerState) -> Result<()> {
        let found = |name: &str, what: &str| {
            let wanted = format!("{name}.{what}");
            state.tensors.iter().find(|(name, _)| *name == wanted).map(|(_, tensor)| tensor)
        };
        let (mut restored, mut used) = (Vec::new(), 0);
        let (batches, samples) = state.waiting;
        let mut waiting = Waiting { batches, samples, sum: Gradients::default() };
        for Parameter { name, var, rule, .. } in &self.parameters {
            let mut tensors = Vec::new();
            for slot in rule.slots() {
                let tensor = found(name, slot)
                    .ok_or_else(|| Error::Config(format!("optimizer state: '{name}.{slot}' is missing")))?;
                tensors.push(tensor.clone());
            }
            used += tensors.len();
            if let Some(gradient) = found(name, GRADIENT) {
                waiting.sum.add(var, gradient.to_device(var.device())?)?;
                used += 1;
            }
            let mut reset = [Vec::new(), Vec::new()];
            for (axis, what) in RESET.iter().enumerate() {
                let Some(steps) = found(name, what) else { continue };
                let steps = steps.to_dtype(DType::I64)?.to_vec1::<i64>()?;
                let all = var.dims().get(axis).copied().unwrap_or(0);
                if steps.len() != all || steps.iter().any(|of| !(0..=state.steps as i64).contains(of)) {
                    return Err(Error::Config(format!(
                        "optimizer state: '{name}.{what}': expected {all} step counts, each at most {}",
                        state.steps
                    )));
                }
                reset[axis] = steps.iter().map(|of| *of as u64).collect();
                used += 1;
            }
            restored.push((Slots::from_tensors(var, &tensors)?, reset));
        }
        if state.tensors.len() != used {
            return Err(Error::Config(format!(
                "optimizer state: expected {used} tensors for this rule and these parameters, found {}: was it \
                 another rule, or were other parameters frozen?",
                state.tensors.len()
            )));
        }
        for (own, (slots, reset)) in self.parameters.iter_mut().zip(restored) {
            (own.slots, [own.reset, own.reset_columns]) = (slots, reset);
        }
        (self.steps, self.learning_rate, self.waiting) = (state.steps, state.learning_rate, waiting);
        Ok(())
    }
}
