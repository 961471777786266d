use std::sync::Mutex;

use candle_core::{CpuStorage, DType, InplaceOp1, InplaceOp2, Layout, Result, Tensor, Var};

use crate::cpu::{CHUNK, Lent, is_fast, simd, values};
use crate::gradients::{Form, VarGradient};
use crate::linear::Product;

/// How a gradient moves a parameter, per element; formulas and defaults are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Stochastic gradient descent with momentum (Polyak 1964; Nesterov as in Sutskever et al. 2013).
    Sgd {
        /// Share of the last step that is kept, in `[0, 1)`.
        momentum: f64,
        /// Look ahead along the momentum.
        nesterov: bool,
        /// L2 penalty, added to the gradient.
        weight_decay: f64,
    },
    /// Adam (Kingma & Ba 2015); with `decoupled`, AdamW (Loshchilov & Hutter 2019).
    Adam {
        /// Decay of the mean gradient.
        beta1: f64,
        /// Decay of the mean squared gradient.
        beta2: f64,
        /// Added to the root of the mean square.
        eps: f64,
        /// Weight decay: added to the gradient, or `decoupled` from it.
        weight_decay: f64,
        /// Shrink the parameter itself by `learning rate × weight_decay`.
        decoupled: bool,
    },
    /// RMSprop (Hinton 2012).
    RmsProp {
        /// Decay of the mean squared gradient.
        alpha: f64,
        /// Added to the root of the mean square.
        eps: f64,
    },
    /// Adadelta (Zeiler 2012).
    Adadelta {
        /// Decay of both running means.
        rho: f64,
        /// Added under both roots.
        eps: f64,
    },
}

/// A rule with everything of one step that does not depend on the element.
#[derive(Clone, Copy)]
struct Constants {
    rule: Rule,
    rate: f32,
    /// `1 − β1^t` and `√(1 − β2^t)`, Adam's corrections for its start from zero.
    correction: (f32, f32),
}

impl Rule {
    /// Plain gradient descent.
    pub const SGD: Self = Self::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    /// RMSprop with PyTorch's defaults.
    pub const RMSPROP: Self = Self::RmsProp { alpha: 0.99, eps: 1e-8 };
    /// Adadelta with PyTorch's defaults.
    pub const ADADELTA: Self = Self::Adadelta { rho: 0.9, eps: 1e-6 };

    /// Adam with PyTorch's defaults and an L2 penalty.
    pub fn adam(weight_decay: f64) -> Self {
        Self::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, decoupled: false }
    }

    /// AdamW with PyTorch's defaults; its own default for `weight_decay` is 0.01.
    pub fn adamw(weight_decay: f64) -> Self {
        Self::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, decoupled: true }
    }

    /// Names of the values that the rule keeps per parameter, in the order of [`Slots`]; PyTorch's names.
    pub fn slots(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd { momentum: 0.0, .. } => &[],
            Self::Sgd { .. } => &["momentum_buffer"],
            Self::Adam { .. } => &["exp_avg", "exp_avg_sq"],
            Self::RmsProp { .. } => &["square_avg"],
            Self::Adadelta { .. } => &["square_avg", "acc_delta"],
        }
    }

    fn constants(self, rate: f64, step: u64) -> Constants {
        let correction = match self {
            Self::Adam { beta1, beta2, .. } => {
                let t = step.min(i32::MAX as u64) as i32;
                ((1.0 - beta1.powi(t)) as f32, (1.0 - beta2.powi(t)).sqrt() as f32)
            }
            _ => (1.0, 1.0),
        };
        Constants { rule: self, rate: rate as f32, correction }
    }
}

impl Constants {
    /// Moves the parameters `p` by the gradients `g`; `a` and `b` are the first and second slot, of those that the
    /// rule has.
    #[inline(always)]
    fn step(self, p: &mut [f32], g: &[f32], a: &mut [f32], b: &mut [f32]) {
        let rate = self.rate;
        let elements = p.iter_mut().zip(g);
        match self.rule {
            Rule::Sgd { momentum: 0.0, weight_decay, .. } => {
                let decay = weight_decay as f32;
                for (p, g) in elements {
                    *p -= rate * (g + decay * *p);
                }
            }
            Rule::Sgd { momentum, nesterov, weight_decay } => {
                let (momentum, decay) = (momentum as f32, weight_decay as f32);
                for ((p, g), a) in elements.zip(a) {
                    let g = g + decay * *p;
                    *a = momentum * *a + g;
                    *p -= rate * if nesterov { g + momentum * *a } else { *a };
                }
            }
            Rule::Adam { beta1, beta2, eps, weight_decay, decoupled } => {
                let decay = weight_decay as f32;
                let (penalty, keep) = if decoupled { (0.0, 1.0 - rate * decay) } else { (decay, 1.0) };
                let (mean, new) = (beta1 as f32, (1.0 - beta1) as f32);
                let (mean_square, new_square) = (beta2 as f32, (1.0 - beta2) as f32);
                let (rate, root, eps) = (rate / self.correction.0, self.correction.1, eps as f32);
                for (((p, g), a), b) in elements.zip(a).zip(b) {
                    let g = g + penalty * *p;
                    *a = mean * *a + new * g;
                    *b = mean_square * *b + new_square * g * g;
                    *p = *p * keep - rate * *a / (b.sqrt() / root + eps);
                }
            }
            Rule::RmsProp { alpha, eps } => {
                let (mean, new, eps) = (alpha as f32, (1.0 - alpha) as f32, eps as f32);
                for ((p, g), a) in elements.zip(a) {
                    *a = mean * *a + new * g * g;
                    *p -= rate * g / (a.sqrt() + eps);
                }
            }
            Rule::Adadelta { rho, eps } => {
                let (mean, new, eps) = (rho as f32, (1.0 - rho) as f32, eps as f32);
                for (((p, g), a), b) in elements.zip(a).zip(b) {
                    *a = mean * *a + new * g * g;
                    let delta = (*b + eps).sqrt() / (*a + eps).sqrt() * g;
                    *b = mean * *b + new * delta * delta;
                    *p -= rate * delta;
                }
            }
        }
    }
}

/// What a rule remembers about one parameter between steps: for every slot, a value per element.
#[derive(Clone, Debug)]
pub enum Slots {
    /// Beside a parameter on the CPU, in f32.
    Cpu(Vec<Vec<f32>>),
    /// Beside any other parameter, on its device.
    Device(Vec<Tensor>),
}

impl Slots {
    /// Slots at zero, as every rule starts.
    pub fn new(rule: &Rule, parameter: &Var) -> Result<Self> {
        let slots = rule.slots();
        if is_fast(&[parameter]) {
            Ok(Self::Cpu(vec![vec![0.0; parameter.elem_count()]; slots.len()]))
        } else {
            Ok(Self::Device(slots.iter().map(|_| parameter.zeros_like()).collect::<Result<_>>()?))
        }
    }

    /// The slots as tensors of the parameter's shape, on its device, in the order of [`Rule::slots`]: to be written
    /// down.
    pub fn tensors(&self, parameter: &Var) -> Result<Vec<Tensor>> {
        match self {
            Self::Cpu(slots) => {
                let tensor =
                    |slot: &Vec<f32>| Tensor::from_slice(slot, parameter.shape(), parameter.device());
                slots.iter().map(tensor).collect()
            }
            Self::Device(slots) => Ok(slots.clone()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Cpu(slots) => slots.len(),
            Self::Device(slots) => slots.len(),
        }
    }

    /// Slots from tensors that [`Slots::tensors`] gave.
    ///
    /// # Errors
    /// When a tensor has another shape than the parameter.
    pub fn from_tensors(parameter: &Var, tensors: &[Tensor]) -> Result<Self> {
        for tensor in tensors {
            if tensor.shape() != parameter.shape() {
                candle_core::bail!(
                    "optimizer state: expected shape {:?}, found {:?}",
                    parameter.shape(),
                    tensor.shape()
                );
            }
        }
        if is_fast(&[parameter]) {
            let values = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
            Ok(Self::Cpu(tensors.iter().map(values).collect::<Result<_>>()?))
        } else {
            let own = |t: &Tensor| t.to_device(parameter.device())?.to_dtype(parameter.dtype());
            Ok(Self::Device(tensors.iter().map(own).collect::<Result<_>>()?))
        }
    }

    /// Moves `parameter` against `gradient` by one step: parameter, gradient and slots are read once.
    ///
    /// `step` counts from 1; `rate` is the learning rate of this step.
    ///
    /// # Errors
    /// When the gradient has another shape than the parameter, or the slots are those of another rule.
    pub fn step(
        &mut self,
        rule: &Rule,
        parameter: &Var,
        gradient: &VarGradient,
        rate: f64,
        step: u64,
    ) -> Result<()> {
        let shape = match &gradient.0 {
            Form::Values(tensor) => tensor.shape(),
            Form::Product(product) => &product.size().into(),
        };
        if shape != parameter.shape() {
            candle_core::bail!(
                "optimizer: expected a gradient of shape {:?}, found {shape:?}",
                parameter.shape()
            );
        }
        let (expected, found) = (rule.slots().len(), self.len());
        if found != expected {
            candle_core::bail!("optimizer state: expected {expected} slots, found {found}");
        }
        match self {
            Self::Cpu(slots) => {
                let (constants, slots) = (rule.constants(rate, step), Mutex::new(slots));
                match &gradient.0 {
                    Form::Values(tensor) => {
                        parameter.inplace_op2(&tensor.contiguous()?, &Step { constants, slots, along: () })
                    }
                    Form::Product(along) => parameter.inplace_op1(&Step { constants, slots, along }),
                }
            }
            Self::Device(slots) => {
                parameter.set(&twin::step(rule, parameter, &gradient.values()?, slots, rate, step)?)
            }
        }
    }
}

/// A step of one parameter in its place; its gradient is candle's second argument, or `along`.
struct Step<'a, P> {
    constants: Constants,
    /// Behind a lock because candle hands operations out by shared reference; taken once per step.
    slots: Mutex<&'a mut Vec<Vec<f32>>>,
    along: P,
}

impl<P> Step<'_, P> {
    /// Calls `step` with the values of the parameter and of both slots; those that the rule does not have are empty.
    fn with(
        &self,
        parameter: &mut CpuStorage,
        layout: &Layout,
        step: impl FnOnce(&mut [f32], &mut [f32], &mut [f32]),
    ) -> Result<()> {
        let (CpuStorage::F32(parameter), Some((start, end))) = (parameter, layout.contiguous_offsets())
        else {
            candle_core::bail!("expected a contiguous f32 parameter, found layout {layout:?}");
        };
        let mut slots =
            self.slots.lock().map_err(|_| candle_core::Error::Msg("optimizer state is locked".into()))?;
        let (a, b): (&mut [f32], &mut [f32]) = match &mut slots[..] {
            [a, b] => (a, b),
            [a] => (a, &mut []),
            _ => (&mut [], &mut []),
        };
        step(&mut parameter[start..end], a, b);
        Ok(())
    }
}

impl InplaceOp2 for Step<'_, ()> {
    fn name(&self) -> &'static str {
        "optimizer step"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let gradient = values(gradient, gradient_layout)?;
        self.with(parameter, layout, |p, a, b| step(self.constants, p, gradient, a, b))
    }
}

fn step(constants: Constants, parameter: &mut [f32], gradient: &[f32], a: &mut [f32], b: &mut [f32]) {
    if parameter.len() > CHUNK {
        let half = parameter.len() / 2 / 16 * 16;
        let split = |slot: &'_ [f32]| half.min(slot.len());
        let (a_split, b_split) = (split(a), split(b));
        let ((p0, p1), (g0, g1)) = (parameter.split_at_mut(half), gradient.split_at(half));
        let ((a0, a1), (b0, b1)) = (a.split_at_mut(a_split), b.split_at_mut(b_split));
        rayon::join(|| step(constants, p0, g0, a0, b0), || step(constants, p1, g1, a1, b1));
        return;
    }
    simd(
        #[inline(always)]
        || constants.step(parameter, gradient, a, b),
    );
}

impl InplaceOp1 for Step<'_, &Product> {
    fn name(&self) -> &'static str {
        "optimizer step"
    }

    /// Multiplies the gradient out tile by tile, and moves the tile's parameters while it is in the cache.
    #[allow(unsafe_code)]
    fn cpu_fwd(&self, parameter: &mut CpuStorage, layout: &Layout) -> Result<()> {
        /// Rows from the one that is moved to the one that is asked for.
        const AHEAD: usize = 8;
        self.with(parameter, layout, |p, a, b| {
            let (p, a, b) = (Lent::of(p), Lent::of(a), Lent::of(b));
            self.along.for_tiles(|rows, columns, gradients| {
                let width = self.along.size().1;
                simd(
                    #[inline(always)]
                    || {
                        for (row, gradient) in rows.zip(gradients.chunks_exact(columns.len())) {
                            let own = row * width + columns.start..row * width + columns.end;
                            // Parts of rows lie apart, and would each be waited for.
                            if columns.len() < width {
                                let ahead = own.start + AHEAD * width..own.end + AHEAD * width;
                                [p, a, b].iter().for_each(|values| values.prefetch(ahead.clone()));
                            }
                            // SAFETY: no element is in two tiles.
                            let (p, a, b) =
                                unsafe { (p.part(own.clone()), a.part(own.clone()), b.part(own)) };
                            self.constants.step(p, gradient, a, b);
                        }
                    },
                );
            });
        })
    }
}

pub(crate) mod twin {
    use super::*;

    /// One step of `rule` in candle operations: the new parameter; `slots` are replaced.
    pub fn step(
        rule: &Rule,
        parameter: &Tensor,
        gradient: &Tensor,
        slots: &mut [Tensor],
        rate: f64,
        step: u64,
    ) -> Result<Tensor> {
        let (p, g) = (parameter.detach(), gradient.detach());
        let mean = |old: &Tensor, new: &Tensor, decay: f64| (old * decay)? + (new * (1.0 - decay))?;
        match (*rule, slots) {
            (Rule::Sgd { weight_decay, .. }, []) => p.sub(&((g + (&p * weight_decay)?)? * rate)?),
            (Rule::Sgd { momentum, nesterov, weight_decay }, [buffer]) => {
                let g = (g + (&p * weight_decay)?)?;
                *buffer = ((&*buffer * momentum)? + &g)?;
                let direction = if nesterov { (g + (&*buffer * momentum)?)? } else { buffer.clone() };
                p - (direction * rate)?
            }
            (Rule::Adam { beta1, beta2, eps, weight_decay, decoupled }, [m, v]) => {
                let g = if decoupled { g } else { (g + (&p * weight_decay)?)? };
                let p = if decoupled { (&p * (1.0 - rate * weight_decay))? } else { p };
                *m = mean(m, &g, beta1)?;
                *v = mean(v, &g.sqr()?, beta2)?;
                let t = step.min(i32::MAX as u64) as i32;
                let root = ((v.sqrt()? / (1.0 - beta2.powi(t)).sqrt())? + eps)?;
                p - ((&*m / root)? * (rate / (1.0 - beta1.powi(t))))?
            }
            (Rule::RmsProp { alpha, eps }, [square]) => {
                *square = mean(square, &g.sqr()?, alpha)?;
                p - ((g / (square.sqrt()? + eps)?)? * rate)?
            }
            (Rule::Adadelta { rho, eps }, [square, moved]) => {
                *square = mean(square, &g.sqr()?, rho)?;
                let delta = ((((&*moved + eps)?.sqrt()? / (&*square + eps)?.sqrt()?)?) * g)?;
                *moved = mean(moved, &delta.sqr()?, rho)?;
                p - (delta * rate)?
            }
            (rule, slots) => {
                candle_core::bail!("expected {} slots, found {}", rule.slots().len(), slots.len())
            }
        }
    }
}
