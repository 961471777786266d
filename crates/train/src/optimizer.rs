use candle_core::{DType, Tensor, TensorId, Var};
use rayon::prelude::*;
use taper_kernels::{Gradients, Norms, Rule, Slots, VarGradient, check_stream, non_finite_flag, with_values};
use taper_report::{ParameterNorms, Place};

use crate::fault::first_unit;
use crate::optimizer_config::check_rate;
use crate::step::scalar;
use crate::{Error, OnNonFinite, OptimizerConfig, Result};

mod flat;
mod state;

pub use state::OptimizerState;

/// Updates parameters by their gradients. Its state between steps can be saved and restored.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    parameters: Vec<Parameter>,
    /// Neither slots nor updates.
    frozen: Vec<(String, Var)>,
    /// Running statistics, which no step moves.
    buffers: Vec<Var>,
    steps: u64,
    /// The base learning rate, if a loop has set it.
    learning_rate: Option<f64>,
    waiting: Waiting,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    var: Var,
    slots: Slots,
    /// The rule, with the weight decay of the parameter's groups.
    rule: Rule,
    /// The factor of its groups on the learning rate.
    rate: f64,
    may_be_unused: bool,
    /// For each row, the step of its last reset; empty if no row was reset.
    reset: Vec<u64>,
    /// The same for columns.
    reset_columns: Vec<u64>,
}

/// Gradients of batches that wait for others before they make a step.
#[derive(Debug, Default)]
struct Waiting {
    batches: u64,
    samples: u64,
    /// The sum over samples.
    sum: Gradients,
}

impl Optimizer {
    /// An optimiser that has taken no step yet.
    ///
    /// # Errors
    /// When a number in `config` makes no sense, a group matches none of the parameters, or parameters are on a CUDA device on
    /// which every thread has a stream of its own: see [`cuda`](taper_kernels::cuda).
    pub fn new(parameters: Vec<(String, Var)>, config: OptimizerConfig) -> Result<Self> {
        config.check()?;
        for group in &config.groups {
            if !parameters.iter().any(|(name, _)| group.matches(name)) {
                let names: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
                return Err(Error::Config(format!(
                    "group '{}': expected a pattern that matches a parameter, found none that does among {}",
                    group.pattern,
                    crate::weights::listed(&names)
                )));
            }
        }
        let mut own = Self {
            config,
            parameters: Vec::new(),
            frozen: Vec::new(),
            buffers: Vec::new(),
            steps: 0,
            learning_rate: None,
            waiting: Waiting::default(),
        };
        for (name, var) in parameters {
            check_stream(var.device())?;
            let (rule, rate, frozen, may_be_unused) = own.config.of(&name)?;
            if frozen {
                own.frozen.push((name, var));
                continue;
            }
            let slots = Slots::new(&rule, &var)?;
            let (reset, reset_columns) = Default::default();
            let own = &mut own.parameters;
            own.push(Parameter { name, var, slots, rule, rate, may_be_unused, reset, reset_columns });
        }
        Ok(own)
    }

    /// The model's [buffers](taper_nn::Params::buffers), which no step moves: given here so that a batch that is not finite
    /// leaves them as they were, unless the policy is to continue. A [`Session`](crate::Session) does this itself.
    pub fn buffers(mut self, buffers: Vec<(String, Var)>) -> Self {
        self.buffers = buffers.into_iter().map(|(_, var)| var).collect();
        self
    }

    /// A copy of the buffers' values.
    pub(crate) fn buffer_values(&self) -> Result<Vec<Tensor>> {
        let copies = self.buffers.iter().map(|var| var.as_detached_tensor().copy());
        Ok(copies.collect::<candle_core::Result<_>>()?)
    }

    /// Sets the buffers to what [`Optimizer::buffer_values`] copied.
    pub(crate) fn set_buffers(&self, values: &[Tensor]) -> Result<()> {
        Ok(self.buffers.iter().zip(values).try_for_each(|(var, value)| var.set(value))?)
    }

    /// The learning rate of the next step: base times schedule. Those of groups are this times their factor.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate.unwrap_or(self.config.learning_rate) * self.config.schedule.factor(self.steps)
    }

    /// Sets the base learning rate, which the schedule multiplies, from now on. It is part of the optimiser's state, and so
    /// of checkpoints; the options stay as they were.
    ///
    /// # Errors
    /// When it is not finite or below 0.
    pub fn set_learning_rate(&mut self, rate: f64) -> Result<()> {
        check_rate(rate)?;
        self.learning_rate = Some(rate);
        Ok(())
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

    /// Batches whose gradients wait for others before they make a step.
    pub fn waiting(&self) -> u64 {
        self.waiting.batches
    }

    /// A number that differs from batch to batch: what dropout draws from. Without accumulation it is the number of steps.
    pub(crate) fn draw(&self) -> u64 {
        self.steps * self.config.accumulate + self.waiting.batches
    }

    /// The variables that need no gradient.
    pub(crate) fn frozen(&self) -> Vec<TensorId> {
        self.frozen.iter().map(|(_, var)| var.id()).collect()
    }

    /// All parameters, by name.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let frozen = self.frozen.iter().map(|(name, var)| (name.as_str(), var.as_tensor()));
        self.parameters.iter().map(|own| (own.name.as_str(), own.var.as_tensor())).chain(frozen)
    }

    /// The gradients of those that are trained, in their order.
    fn gradients<'a>(&self, gradients: &'a Gradients) -> impl Iterator<Item = (&str, &'a VarGradient)> {
        self.parameters.iter().filter_map(|own| Some((own.name.as_str(), gradients.get(&own.var)?)))
    }

    /// The first parameter whose gradient holds NaN or an infinity, if there is one.
    ///
    /// # Errors
    /// When a gradient cannot be read.
    pub fn gradient_fault(&self, gradients: &Gradients) -> Result<Option<Place>> {
        match self.non_finite_flag(gradients)? {
            (true, None) => Ok(None),
            (true, Some(flag)) if scalar(&flag)? == 0.0 => Ok(None),
            _ => self.find_fault(gradients),
        }
    }

    /// Whether the gradients on the CPU are finite, and a scalar that is 0 if those on another device are.
    pub(crate) fn non_finite_flag(&self, gradients: &Gradients) -> Result<(bool, Option<Tensor>)> {
        Ok(non_finite_flag(self.gradients(gradients).map(|(_, gradient)| gradient))?)
    }

    /// Looks at all gradients, value by value.
    pub(crate) fn find_fault(&self, gradients: &Gradients) -> Result<Option<Place>> {
        for (name, gradient) in self.gradients(gradients) {
            if let Some(unit) = first_unit(&gradient.values()?)? {
                return Ok(Some(Place::Gradient { parameter: name.to_string(), unit }));
            }
        }
        Ok(None)
    }

    /// Takes the gradients of a batch's mean loss over `samples`. Returns those to make a step of, if it is the last of
    /// [`OptimizerConfig::accumulate`] batches: the mean over all their samples.
    ///
    /// # Errors
    /// When candle cannot add them.
    pub fn accumulate(&mut self, gradients: Gradients, samples: u64) -> Result<Option<Gradients>> {
        if self.config.accumulate == 1 {
            return Ok(Some(gradients));
        }
        for Parameter { var, .. } in &self.parameters {
            if let Some(gradient) = gradients.get(var) {
                let of_sum = (gradient.values()? * samples as f64)?;
                self.waiting.sum.add(var, of_sum)?;
            }
        }
        self.waiting.batches += 1;
        self.waiting.samples += samples;
        if self.waiting.batches < self.config.accumulate { Ok(None) } else { self.take_waiting() }
    }

    /// Takes the mean of the gradients that wait for others, if there are any.
    pub(crate) fn take_waiting(&mut self) -> Result<Option<Gradients>> {
        let Waiting { batches, samples, mut sum } = std::mem::take(&mut self.waiting);
        if batches == 0 {
            return Ok(None);
        }
        sum.scale(1.0 / samples.max(1) as f64)?;
        Ok(Some(sum))
    }

    /// One step along `gradients`. A parameter without a gradient stays where it is.
    ///
    /// # Errors
    /// [`Error::NoGradient`] in the first step if a parameter has no gradient that is neither frozen nor allowed to be
    /// unused; when a gradient has another shape than its parameter; when a schedule of one's own gives a factor that is
    /// not finite or below 0.
    pub fn step(&mut self, gradients: &Gradients) -> Result<()> {
        self.update(gradients, false).map(drop)
    }

    /// As [`Optimizer::step`], and returns the norms of each parameter that has a gradient: of the gradient after clipping,
    /// of the parameter after the step, and of the update; before incoming weights are limited to the largest norm.
    ///
    /// # Errors
    /// As [`Optimizer::step`].
    pub fn measured_step(&mut self, gradients: &Gradients) -> Result<Vec<ParameterNorms>> {
        let norms = self.update(gradients, true)?;
        let names = self.parameters.iter().filter(|own| gradients.get(&own.var).is_some());
        let finite = |x: f64| Some(x).filter(|x| x.is_finite());
        let named = |(own, Norms { gradient, weight, update }): (&Parameter, Norms)| ParameterNorms {
            parameter: own.name.clone(),
            gradient_norm: finite(gradient),
            weight_norm: finite(weight),
            update_norm: finite(update),
        };
        Ok(names.zip(norms.into_iter().flatten()).map(named).collect())
    }

    /// For each parameter that has a gradient, its norms if `measure`.
    fn update(&mut self, gradients: &Gradients, measure: bool) -> Result<Vec<Option<Norms>>> {
        let rate = self.learning_rate();
        check_rate(rate).map_err(|error| Error::Config(format!("schedule, step {}: {error}", self.steps)))?;
        if self.steps == 0 {
            self.check_reached(gradients)?;
        }
        let clipped = match self.config.clip_norm {
            Some(bound) => Some(clip(bound, self.gradients(gradients).map(|(_, gradient)| gradient))?),
            None => None,
        };
        self.steps += 1;
        let with_gradient = self.parameters.iter_mut().filter_map(|own| {
            let gradient = gradients.get(&own.var)?;
            Some((own, gradient))
        });
        let (max_norm, step) = (self.config.max_norm, self.steps);
        let moves: Vec<_> = with_gradient.enumerate().collect();
        let update = |(i, (own, gradient)): (usize, (&mut Parameter, &VarGradient))| {
            let Parameter { var, slots, rule, reset, reset_columns, .. } = own;
            let gradient = clipped.as_ref().map_or(gradient, |clipped| &clipped[i]);
            let rate = rate * own.rate;
            let norms = match reset.is_empty() && reset_columns.is_empty() {
                true => slots.step(rule, var, gradient, rate, step, measure)?,
                false => {
                    let since =
                        |reset: &[u64]| reset.iter().map(|before| step - before).collect::<Vec<u64>>();
                    let rows = match reset.is_empty() {
                        true => vec![step; var.dims().first().copied().unwrap_or(1)],
                        false => since(reset),
                    };
                    slots.step_parts(rule, var, gradient, rate, (&rows, &since(reset_columns)), measure)?
                }
            };
            if let Some(bound) = max_norm {
                limit_rows(var, bound)?;
            }
            Ok(norms)
        };
        // A GPU makes one step after the other whatever is submitted from where.
        let in_turn =
            rayon::current_num_threads() == 1 || moves.iter().any(|(_, (own, _))| !own.var.device().is_cpu());
        match in_turn {
            true => moves.into_iter().map(update).collect(),
            // Overlaps the tails of parameters.
            false => moves.into_par_iter().with_max_len(1).map(update).collect(),
        }
    }

    /// A parameter that no gradient reaches would never be trained, and candle does not say so.
    fn check_reached(&self, gradients: &Gradients) -> Result<()> {
        if self.parameters.is_empty() {
            return Err(Error::Config(
                "optimizer: expected a parameter to train, found none: ask for params.vars() once the model is made, and \
                 do not freeze all of it"
                    .into(),
            ));
        }
        let left_out = |own: &&Parameter| gradients.get(&own.var).is_none() && !own.may_be_unused;
        let parameters: Vec<String> =
            self.parameters.iter().filter(left_out).map(|own| own.name.clone()).collect();
        match parameters.is_empty() {
            true => Ok(()),
            false => Err(Error::NoGradient { all: self.gradients(gradients).next().is_none(), parameters }),
        }
    }

    /// Resets the optimiser's state for rows of a parameter: slots become 0, and Adam's bias correction begins again. For
    /// the incoming weights of restarted units.
    ///
    /// # Shapes
    /// `rows` are indices of the parameter's first dimension, its output units.
    ///
    /// # Errors
    /// When there is no such parameter or row, or the parameter is frozen.
    pub fn reset_rows(&mut self, parameter: &str, rows: &[usize]) -> Result<()> {
        self.reset(parameter, 0, rows)
    }

    /// As [`Optimizer::reset_rows`], for columns: the outgoing weights of restarted units.
    ///
    /// # Shapes
    /// `columns` are indices of the parameter's second dimension, its inputs.
    ///
    /// # Errors
    /// When there is no such parameter or column, or the parameter is frozen.
    pub fn reset_columns(&mut self, parameter: &str, columns: &[usize]) -> Result<()> {
        self.reset(parameter, 1, columns)
    }

    fn reset(&mut self, parameter: &str, axis: usize, indices: &[usize]) -> Result<()> {
        let what = ["row", "column"][axis];
        let steps = self.steps;
        let own = self.parameters.iter_mut().find(|own| own.name == parameter).ok_or_else(|| {
            Error::Config(format!("optimizer: expected a parameter that is trained, found '{parameter}'"))
        })?;
        let all = own.var.dims().get(axis).copied().unwrap_or(0);
        if let Some(index) = indices.iter().find(|index| **index >= all) {
            return Err(Error::Config(format!(
                "optimizer: expected a {what} of the {all} of '{parameter}', found {index}"
            )));
        }
        if indices.is_empty() {
            return Ok(());
        }
        own.slots.reset(&own.var, axis, indices)?;
        // Only Adam's bias correction depends on the number of steps.
        if !matches!(own.rule, Rule::Adam { .. }) {
            return Ok(());
        }
        let reset = if axis == 0 { &mut own.reset } else { &mut own.reset_columns };
        reset.resize(all, 0);
        indices.iter().for_each(|index| reset[*index] = steps);
        Ok(())
    }
}

/// Gradients, scaled down so that their common norm is at most `bound`.
fn clip<'a>(bound: f64, gradients: impl Iterator<Item = &'a VarGradient>) -> Result<Vec<VarGradient>> {
    let mut values = gradients.map(VarGradient::values).collect::<candle_core::Result<Vec<_>>>()?;
    let (mut squares, mut there) = (0.0, Vec::new());
    for gradient in &values {
        if gradient.device().is_cuda() {
            there.push(gradient.detach().to_dtype(DType::F64)?.sqr()?.sum_all()?);
            continue;
        }
        squares += with_values(gradient, |g| g.iter().map(|x| *x as f64 * *x as f64).sum::<f64>())?;
    }
    // One reading for all that is on a GPU.
    if !there.is_empty() {
        squares += Tensor::stack(&there, 0)?.to_vec1::<f64>()?.iter().sum::<f64>();
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
