use candle_core::{Tensor, Var};
use rayon::prelude::*;
use taper_kernels::{Gradients, Rule, Slots, VarGradient, all_finite};

use taper_report::Place;

use crate::fault::first_unit;
use crate::{Error, OnNonFinite, Result, Schedule};

/// What an [`Optimizer`] does at a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// How a gradient moves a parameter.
    pub rule: Rule,
    /// The base learning rate; finite and at least 0.
    pub learning_rate: f64,
    /// What the base is multiplied with as the run goes on.
    pub schedule: Schedule,
    /// If the L2 norm of all gradients together is above this, they are scaled down to it (Pascanu et al. 2013);
    /// above 0.
    pub clip_norm: Option<f64>,
    /// After a step, the incoming weights of every unit are scaled down to this L2 norm (Srivastava et al. 2014);
    /// above 0. Biases are left alone.
    pub max_norm: Option<f64>,
    /// What [`train_epoch`](crate::train_epoch) does about NaN and infinities.
    pub on_nonfinite: OnNonFinite,
}

impl OptimizerConfig {
    /// A rule at a constant learning rate, nothing clipped, that stops at NaN and infinities.
    pub fn new(rule: Rule, learning_rate: f64) -> Self {
        Self {
            rule,
            learning_rate,
            schedule: Schedule::Constant,
            clip_norm: None,
            max_norm: None,
            on_nonfinite: OnNonFinite::Stop,
        }
    }

    fn check(&self) -> Result<()> {
        let positive = |what: &str, value: Option<f64>| match value {
            Some(x) if !(x.is_finite() && x > 0.0) => {
                Err(Error::Config(format!("{what}: expected a number above 0, found {x}")))
            }
            _ => Ok(()),
        };
        if !(self.learning_rate.is_finite() && self.learning_rate >= 0.0) {
            let found = self.learning_rate;
            return Err(Error::Config(format!(
                "learning rate: expected a number of at least 0, found {found}"
            )));
        }
        let decay = |what: &str, x: f64| match (0.0..1.0).contains(&x) {
            true => Ok(()),
            false => {
                Err(Error::Config(format!("{what}: expected a number of at least 0 and below 1, found {x}")))
            }
        };
        let at_least_0 = |what: &str, x: f64| match x.is_finite() && x >= 0.0 {
            true => Ok(()),
            false => Err(Error::Config(format!("{what}: expected a number of at least 0, found {x}"))),
        };
        match self.rule {
            Rule::Sgd { momentum, weight_decay, .. } => {
                decay("momentum", momentum)?;
                at_least_0("weight decay", weight_decay)?;
            }
            Rule::Adam { beta1, beta2, eps, weight_decay, .. } => {
                decay("beta1", beta1)?;
                decay("beta2", beta2)?;
                at_least_0("eps", eps)?;
                at_least_0("weight decay", weight_decay)?;
            }
            Rule::RmsProp { alpha, eps } => {
                decay("alpha", alpha)?;
                at_least_0("eps", eps)?;
            }
            Rule::Adadelta { rho, eps } => {
                decay("rho", rho)?;
                at_least_0("eps", eps)?;
            }
        }
        positive("norm to clip gradients to", self.clip_norm)?;
        positive("largest norm of incoming weights", self.max_norm)
    }
}

/// Moves parameters by their gradients; what it remembers between steps can be read and restored.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    parameters: Vec<(String, Var, Slots)>,
    steps: u64,
}

/// What an [`Optimizer`] remembers.
#[derive(Clone, Debug)]
pub struct OptimizerState {
    /// Steps taken.
    pub steps: u64,
    /// For every parameter and slot of the rule, `<parameter>.<slot>` and its values: `fc1.weight.exp_avg`.
    pub tensors: Vec<(String, Tensor)>,
}

impl Optimizer {
    /// An optimiser that has taken no step yet.
    ///
    /// # Errors
    /// When a number in `config` makes no sense.
    pub fn new(parameters: Vec<(String, Var)>, config: OptimizerConfig) -> Result<Self> {
        config.check()?;
        let with_slots = |(name, var): (String, Var)| {
            let slots = Slots::new(&config.rule, &var)?;
            Ok((name, var, slots))
        };
        let parameters = parameters.into_iter().map(with_slots).collect::<candle_core::Result<_>>()?;
        Ok(Self { config, parameters, steps: 0 })
    }

    /// The learning rate of the next step: base times schedule.
    pub fn learning_rate(&self) -> f64 {
        self.config.learning_rate * self.config.schedule.factor(self.steps)
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Its options.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// What is to be done about NaN and infinities.
    pub fn on_nonfinite(&self) -> OnNonFinite {
        self.config.on_nonfinite
    }

    /// The parameters, by name.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.parameters.iter().map(|(name, var, _)| (name.as_str(), var.as_tensor()))
    }

    /// The first parameter whose gradient holds NaN or an infinity, if there is one.
    ///
    /// # Errors
    /// When a gradient cannot be read.
    pub fn gradient_fault(&self, gradients: &Gradients) -> Result<Option<Place>> {
        let all = || self.parameters().filter_map(|(name, var)| Some((name, gradients.get(var)?)));
        if all_finite(all().map(|(_, gradient)| gradient))? {
            return Ok(None);
        }
        for (name, gradient) in all() {
            if let Some(unit) = first_unit(&gradient.values()?)? {
                return Ok(Some(Place::Gradient { parameter: name.to_string(), unit }));
            }
        }
        Ok(None)
    }

    /// One step along `gradients`. A parameter without a gradient stays where it is; in the first step, where
    /// that is most often a mistake, a warning names it.
    ///
    /// # Errors
    /// When a gradient has another shape than its parameter.
    pub fn step(&mut self, gradients: &Gradients) -> Result<()> {
        let rate = self.learning_rate();
        if self.steps == 0 {
            let left_out = self.parameters.iter().filter(|(_, var, _)| gradients.get(var).is_none());
            let names: Vec<&str> = left_out.map(|(name, _, _)| name.as_str()).collect();
            if !names.is_empty() {
                // candle_nn::LayerNorm and a few more have no backward pass, and candle does not say so.
                tracing::warn!(
                    "no gradient reaches {}: unused, or behind an operation without a backward pass",
                    names.join(", ")
                );
            }
        }
        let clipped = match self.config.clip_norm {
            Some(bound) => Some(clip(bound, self.parameters().filter_map(|(_, var)| gradients.get(var)))?),
            None => None,
        };
        self.steps += 1;
        let with_gradient = self.parameters.iter_mut().filter_map(|(_, var, slots)| {
            let gradient = gradients.get(var)?;
            Some((var, slots, gradient))
        });
        let (config, step) = (&self.config, self.steps);
        let moves: Vec<_> = with_gradient.enumerate().collect();
        let update = |(i, (var, slots, gradient)): (usize, (&mut Var, &mut Slots, &VarGradient))| {
            let gradient = clipped.as_ref().map_or(gradient, |clipped| &clipped[i]);
            slots.step(&config.rule, var, gradient, rate, step)?;
            match config.max_norm {
                Some(bound) => limit_rows(var, bound),
                None => Ok(()),
            }
        };
        match rayon::current_num_threads() {
            1 => moves.into_iter().try_for_each(update),
            // Overlaps the tails of parameters.
            _ => moves.into_par_iter().with_max_len(1).try_for_each(update),
        }
    }

    /// A copy of everything that is remembered.
    pub fn state(&self) -> Result<OptimizerState> {
        let mut tensors = Vec::new();
        for (name, var, slots) in &self.parameters {
            let names = self.config.rule.slots().iter().map(|slot| format!("{name}.{slot}"));
            tensors.extend(names.zip(slots.tensors(var)?));
        }
        Ok(OptimizerState { steps: self.steps, tensors })
    }

    /// Goes on from a state that an optimiser of the same rule and parameters gave.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape; nothing is changed then.
    pub fn restore(&mut self, state: &OptimizerState) -> Result<()> {
        let mut restored = Vec::new();
        for (name, var, _) in &self.parameters {
            let mut tensors = Vec::new();
            for slot in self.config.rule.slots() {
                let wanted = format!("{name}.{slot}");
                let found = state.tensors.iter().find(|(name, _)| *name == wanted);
                let (_, tensor) =
                    found.ok_or_else(|| Error::Config(format!("optimizer state: '{wanted}' is missing")))?;
                tensors.push(tensor.clone());
            }
            restored.push(Slots::from_tensors(var, &tensors)?);
        }
        let wanted: usize = restored.len() * self.config.rule.slots().len();
        if state.tensors.len() != wanted {
            return Err(Error::Config(format!(
                "optimizer state: expected {wanted} tensors for this rule and these parameters, found {}: was it \
                 another rule?",
                state.tensors.len()
            )));
        }
        for ((_, _, slots), new) in self.parameters.iter_mut().zip(restored) {
            *slots = new;
        }
        self.steps = state.steps;
        Ok(())
    }
}

/// Gradients, scaled down so that their common norm is at most `bound`.
fn clip<'a>(bound: f64, gradients: impl Iterator<Item = &'a VarGradient>) -> Result<Vec<VarGradient>> {
    let mut values = gradients.map(VarGradient::values).collect::<candle_core::Result<Vec<_>>>()?;
    let mut squares = 0.0;
    for gradient in &values {
        squares +=
            taper_kernels::with_values(gradient, |g| g.iter().map(|x| *x as f64 * *x as f64).sum::<f64>())?;
    }
    let norm = squares.sqrt();
    if norm > bound {
        for gradient in &mut values {
            // PyTorch's clip_grad_norm_ adds the same constant.
            *gradient = (&*gradient * (bound / (norm + 1e-6)))?;
        }
    }
    Ok(values.into_iter().map(Into::into).collect())
}

/// Scales every row of a weight (all that goes into one unit) whose norm is above `bound` down to it.
fn limit_rows(var: &Var, bound: f64) -> Result<()> {
    if var.rank() < 2 {
        return Ok(()); // a bias
    }
    let rows = var.as_tensor().detach().flatten_from(1)?;
    let norms = rows.sqr()?.sum_keepdim(1)?.sqrt()?;
    // A quotient, because bound / bound is exactly 1: rows within the norm keep every bit.
    let factor = norms.ones_like()?.affine(bound, 0.0)?.div(&norms.clamp(bound, f64::INFINITY)?)?;
    var.set(&rows.broadcast_mul(&factor)?.reshape(var.shape())?)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn var(values: &[f32]) -> (String, Var) {
        ("w".to_string(), Var::from_slice(values, (1, values.len()), &Device::Cpu).unwrap())
    }

    fn step(optimizer: &mut Optimizer, w: &Var, gradient: &[f32]) {
        let g = Tensor::from_slice(gradient, w.shape(), &Device::Cpu).unwrap();
        let gradients = (w.as_tensor() * g).unwrap().sum_all().unwrap().backward().unwrap();
        optimizer.step(&gradients.into()).unwrap();
    }

    #[test]
    fn gradients_above_the_norm_are_scaled_down_to_it_and_others_are_left() {
        let w = var(&[0.0, 0.0]);
        let config = OptimizerConfig { clip_norm: Some(1.0), ..OptimizerConfig::new(Rule::SGD, 1.0) };
        let mut optimizer = Optimizer::new(vec![w.clone()], config).unwrap();
        step(&mut optimizer, &w.1, &[3.0, 4.0]);
        let moved = w.1.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!((moved[0] + 0.6).abs() < 1e-5 && (moved[1] + 0.8).abs() < 1e-5, "{moved:?}");
        step(&mut optimizer, &w.1, &[0.3, 0.4]);
        let moved = w.1.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!((moved[0] + 0.9).abs() < 1e-5, "{moved:?}");
    }

    #[test]
    fn incoming_weights_stay_within_the_largest_norm() {
        let w = var(&[3.0, 4.0]);
        let config = OptimizerConfig { max_norm: Some(2.0), ..OptimizerConfig::new(Rule::SGD, 0.0) };
        step(&mut Optimizer::new(vec![w.clone()], config).unwrap(), &w.1, &[1.0, 1.0]);
        let limited = w.1.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!((limited[0] - 1.2).abs() < 1e-6 && (limited[1] - 1.6).abs() < 1e-6, "{limited:?}");
    }

    #[test]
    fn weights_within_the_largest_norm_keep_every_bit() {
        for bound in [1.7, 2.9, 3.0, 3.4, 6.8] {
            let w = var(&[0.3, 0.4]);
            let config = OptimizerConfig { max_norm: Some(bound), ..OptimizerConfig::new(Rule::SGD, 0.0) };
            step(&mut Optimizer::new(vec![w.clone()], config).unwrap(), &w.1, &[1.0, 1.0]);
            assert_eq!(w.1.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.3, 0.4], "{bound}");
        }
    }

    #[test]
    fn an_optimizer_goes_on_from_a_restored_state_to_the_bit() {
        for name in ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "adadelta"] {
            let (rule, rate) = crate::parse_rule(name, None).unwrap();
            let (a, b) = (var(&[1.0, -2.0]), var(&[1.0, -2.0]));
            let mut whole = Optimizer::new(vec![a.clone()], OptimizerConfig::new(rule, rate)).unwrap();
            let mut first = Optimizer::new(vec![b.clone()], OptimizerConfig::new(rule, rate)).unwrap();
            (0..3).for_each(|i| step(&mut whole, &a.1, &[0.5, i as f32]));
            (0..3).for_each(|i| step(&mut first, &b.1, &[0.5, i as f32]));
            let mut second = Optimizer::new(vec![b.clone()], OptimizerConfig::new(rule, rate)).unwrap();
            second.restore(&first.state().unwrap()).unwrap();
            step(&mut whole, &a.1, &[-1.0, 0.25]);
            step(&mut second, &b.1, &[-1.0, 0.25]);
            let values = |v: &Var| v.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&a.1), values(&b.1), "{name}");
        }
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        for rate in [f64::NAN, -0.1, f64::INFINITY] {
            let error = Optimizer::new(vec![], OptimizerConfig::new(Rule::SGD, rate)).unwrap_err();
            assert!(error.to_string().starts_with("learning rate: expected"), "{error}");
        }
        let config = OptimizerConfig { clip_norm: Some(0.0), ..OptimizerConfig::new(Rule::SGD, 0.1) };
        assert!(Optimizer::new(vec![], config).is_err());
        assert!(crate::parse_rule("sdg", None).unwrap_err().to_string().contains("expected sgd"));
        assert!(crate::parse_rule("rmsprop", Some(0.1)).is_err());
    }
}
