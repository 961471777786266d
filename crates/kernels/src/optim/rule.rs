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

/// A rule, with the constants of one step that are the same for every element.
#[derive(Clone, Copy)]
pub(super) struct Constants<'a> {
    rule: Rule,
    rate: f32,
    /// `1 − β1^t` and `√(1 − β2^t)`, Adam's corrections for its start from zero.
    pub correction: (f32, f32),
    /// A correction for each element, or none. The smaller one of it and `correction` is used, because corrections grow
    /// with the number of steps.
    pub columns: &'a [(f32, f32)],
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

    /// Names of the values that the rule keeps per parameter, in the order of [`Slots`](crate::Slots); PyTorch's names.
    pub fn slots(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd { momentum: 0.0, .. } => &[],
            Self::Sgd { .. } => &["momentum_buffer"],
            Self::Adam { .. } => &["exp_avg", "exp_avg_sq"],
            Self::RmsProp { .. } => &["square_avg"],
            Self::Adadelta { .. } => &["square_avg", "acc_delta"],
        }
    }

    pub(super) fn constants(self, rate: f64, step: u64) -> Constants<'static> {
        let correction = match self {
            Self::Adam { beta1, beta2, .. } => {
                let t = step.min(i32::MAX as u64) as i32;
                ((1.0 - beta1.powi(t)) as f32, (1.0 - beta2.powi(t)).sqrt() as f32)
            }
            _ => (1.0, 1.0),
        };
        Constants { rule: self, rate: rate as f32, correction, columns: &[] }
    }
}

impl Constants<'_> {
    /// The same constants with these corrections of the elements.
    #[inline(always)]
    pub fn with_columns<'a>(&self, columns: &'a [(f32, f32)]) -> Constants<'a> {
        Constants { rule: self.rule, rate: self.rate, correction: self.correction, columns }
    }

    /// Whether a gradient of 0 leaves a (finite) parameter as it is.
    pub fn ignores_zeros(&self) -> bool {
        matches!(self.rule, Rule::Sgd { momentum: 0.0, weight_decay: 0.0, .. })
    }

    /// Updates the parameters `p` with the gradients `factor · g`; `a` and `b` are the first and second slot, or empty where
    /// the rule has none.
    #[inline(always)]
    pub fn step(self, p: &mut [f32], factor: f32, g: &[f32], a: &mut [f32], b: &mut [f32]) {
        let rate = self.rate;
        let elements = p.iter_mut().zip(g.iter().map(
            #[inline(always)]
            |g| factor * g,
        ));
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
                let adam = Adam { penalty, keep, mean, new, mean_square, new_square, eps: eps as f32 };
                let (first, root) = self.correction;
                if self.columns.is_empty() {
                    let rate = rate / first;
                    for (((p, g), a), b) in elements.zip(a).zip(b) {
                        adam.step(p, g, a, b, (rate, root));
                    }
                } else {
                    for ((((p, g), a), b), own) in elements.zip(a).zip(b).zip(self.columns) {
                        adam.step(p, g, a, b, (rate / own.0.min(first), own.1.min(root)));
                    }
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

/// Constants of [`Rule::Adam`].
#[derive(Clone, Copy)]
struct Adam {
    penalty: f32,
    keep: f32,
    mean: f32,
    new: f32,
    mean_square: f32,
    new_square: f32,
    eps: f32,
}

impl Adam {
    /// Updates one parameter, with the corrections for the start from zero in `rate` and `root`.
    #[inline(always)]
    fn step(self, p: &mut f32, g: f32, a: &mut f32, b: &mut f32, (rate, root): (f32, f32)) {
        let g = g + self.penalty * *p;
        *a = self.mean * *a + self.new * g;
        *b = self.mean_square * *b + self.new_square * g * g;
        *p = *p * self.keep - rate * *a / (b.sqrt() / root + self.eps);
    }
}
