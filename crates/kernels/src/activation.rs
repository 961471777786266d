mod text;

use crate::math::{exp, exp_m1, ln_1p_unit, normal_cdf, sigmoid};

/// λ and α of SELU (Klambauer et al. 2017): mean 0 and variance 1 are a fixed point.
pub const SELU_LAMBDA: f64 = 1.050_700_987_355_480_5;
/// See [`SELU_LAMBDA`].
pub const SELU_ALPHA: f64 = 1.673_263_242_354_377_2;

/// An elementwise activation function: its value, its derivative, and its name.
///
/// Parsed from and printed as text: `relu`, `celu:0.5`. The parameter may be left out; it then has PyTorch's default.
/// Every function returns NaN for NaN. Derivatives at kinks are PyTorch's: in particular `f'(0) = 0` for ReLU, which
/// defines a dead unit.
///
/// ```
/// use taper_kernels::Activation;
///
/// let celu: Activation = "celu:0.5".parse()?;
/// assert_eq!(celu, Activation::Celu { alpha: 0.5 });
/// assert_eq!(celu.to_string(), "celu:0.5");
/// assert_eq!(Activation::Relu.derivative(0.0), 0.0);
/// assert!("rleu".parse::<Activation>().unwrap_err().to_string().contains("did you mean relu"));
/// # Ok::<(), taper_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x`.
    Identity,
    /// `max(0, x)`, in `[0, ∞)` (Nair & Hinton 2010).
    Relu,
    /// `x` above zero, `slope · x` below (Maas et al. 2013).
    LeakyRelu {
        /// Slope below zero.
        slope: f64,
    },
    /// Leaky ReLU whose slope is learned, one for the layer (He et al. 2015).
    Prelu {
        /// Slope below zero: the initial or the current value.
        slope: f64,
    },
    /// `x` above zero, `α (e^x − 1)` below, in `[−α, ∞)` (Clevert et al. 2016).
    Elu {
        /// α.
        alpha: f64,
    },
    /// `x` above zero, `α (e^(x/α) − 1)` below, in `[−α, ∞)`: ELU at α = 1 only (Barron 2017).
    Celu {
        /// α.
        alpha: f64,
    },
    /// `λ x` above zero, `λ α (e^x − 1)` below, in `[−λα, ∞)` with `λα` about 1.758 (Klambauer et al. 2017).
    Selu,
    /// Hyperbolic tangent, in `[−1, 1]`.
    Tanh,
    /// `1 / (1 + e^−x)`, in `[0, 1]`.
    Sigmoid,
    /// `ln(1 + e^x)`, in `[0, ∞)` (Dugas et al. 2001).
    Softplus,
    /// `x / (1 + |x|)`, in `[−1, 1]` (Bergstra et al. 2009).
    Softsign,
    /// `x` clipped to `[−1, 1]` (Collobert 2004).
    Hardtanh,
    /// `x/6 + 1/2` clipped to `[0, 1]`, as in PyTorch (Howard et al. 2019).
    Hardsigmoid,
    /// `x · hardsigmoid(x)` (Howard et al. 2019).
    Hardswish,
    /// ReLU clipped at 6 (Krizhevsky 2010).
    Relu6,
    /// `max(0, x)²` (So et al. 2021).
    Relu2,
    /// `x Φ(x)` (Hendrycks & Gimpel 2016), with the exact normal distribution function.
    Gelu,
    /// GELU in its tanh approximation (Hendrycks & Gimpel 2016).
    GeluTanh,
    /// `x · sigmoid(x)`, also called swish (Elfwing et al. 2018; Ramachandran et al. 2017).
    Silu,
    /// `x · tanh(softplus(x))` (Misra 2019).
    Mish,
    /// A user-defined function, for `f32` on the CPU.
    Custom(&'static CustomActivation),
}

/// A user-defined activation function: see [`Activation::Custom`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use taper_kernels::{Activation, CustomActivation, activate};
///
/// static SHRINK: CustomActivation = CustomActivation {
///     name: "softshrink",
///     value: |x| if x > 0.5 { x - 0.5 } else if x < -0.5 { x + 0.5 } else { x * 0.0 },
///     derivative: |x| f32::from(x.abs() > 0.5),
///     zero_floored: false,
/// };
/// let ys = activate(&Tensor::new(&[-2.0_f32, 0.2, 2.0], &Device::Cpu)?, Activation::Custom(&SHRINK))?;
/// assert_eq!(ys.to_vec1::<f32>()?, [-1.5, 0.0, 1.5]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct CustomActivation {
    /// The name in every report.
    pub name: &'static str,
    /// `f(x)`; should return NaN for NaN.
    pub value: fn(f32) -> f32,
    /// `f'(x)`; where it is 0, no gradient passes.
    pub derivative: fn(f32) -> f32,
    /// Whether `f` is 0 for every negative input: see [`Activation::is_zero_floored`].
    pub zero_floored: bool,
}

impl PartialEq for CustomActivation {
    /// One function is one static.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// Runs `$body` with `$g` bound to the variant of `$f`. The compiler then knows the function, so a loop in `$body`
/// becomes one tight loop per function.
macro_rules! per_activation {
    ($f:expr, $g:ident => $body:expr) => {{
        macro_rules! arm {
            ($value:expr) => {{
                let $g = $value;
                $body
            }};
        }
        match $f {
            Activation::Identity => arm!(Activation::Identity),
            Activation::Relu => arm!(Activation::Relu),
            Activation::LeakyRelu { slope } => arm!(Activation::LeakyRelu { slope }),
            Activation::Prelu { slope } => arm!(Activation::Prelu { slope }),
            Activation::Elu { alpha } => arm!(Activation::Elu { alpha }),
            Activation::Celu { alpha } => arm!(Activation::Celu { alpha }),
            Activation::Selu => arm!(Activation::Selu),
            Activation::Tanh => arm!(Activation::Tanh),
            Activation::Sigmoid => arm!(Activation::Sigmoid),
            Activation::Softplus => arm!(Activation::Softplus),
            Activation::Softsign => arm!(Activation::Softsign),
            Activation::Hardtanh => arm!(Activation::Hardtanh),
            Activation::Hardsigmoid => arm!(Activation::Hardsigmoid),
            Activation::Hardswish => arm!(Activation::Hardswish),
            Activation::Relu6 => arm!(Activation::Relu6),
            Activation::Relu2 => arm!(Activation::Relu2),
            Activation::Gelu => arm!(Activation::Gelu),
            Activation::GeluTanh => arm!(Activation::GeluTanh),
            Activation::Silu => arm!(Activation::Silu),
            Activation::Mish => arm!(Activation::Mish),
            Activation::Custom(custom) => arm!(Activation::Custom(custom)),
        }
    }};
}
pub(crate) use per_activation;

/// `√(2/π) (x + 0.044715 x³)` and its derivative, where tanh of it is not yet ±1.
#[inline(always)]
fn gelu_inner(x: f32) -> (f32, f32) {
    const C: f32 = 0.797_884_6;
    let x = x.clamp(-20.0, 20.0);
    (C * (x + 0.044_715 * x * x * x), C * (1.0 + 3.0 * 0.044_715 * x * x))
}

impl Activation {
    /// All functions but [`Activation::Custom`], those with a parameter at its default, in the order of their
    /// declaration.
    pub const ALL: [Self; 20] = [
        Self::Identity,
        Self::Relu,
        Self::LeakyRelu { slope: 0.01 },
        Self::Prelu { slope: 0.25 },
        Self::Elu { alpha: 1.0 },
        Self::Celu { alpha: 1.0 },
        Self::Selu,
        Self::Tanh,
        Self::Sigmoid,
        Self::Softplus,
        Self::Softsign,
        Self::Hardtanh,
        Self::Hardsigmoid,
        Self::Hardswish,
        Self::Relu6,
        Self::Relu2,
        Self::Gelu,
        Self::GeluTanh,
        Self::Silu,
        Self::Mish,
    ];

    /// `f(x)`. NaN for NaN.
    #[inline(always)]
    pub fn value(self, x: f32) -> f32 {
        // Branches have the form `if x <= bound { constant } else { x }`, so NaN stays NaN.
        match self {
            Self::Identity => x,
            Self::Relu => {
                if x <= 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::LeakyRelu { slope } | Self::Prelu { slope } => {
                if x <= 0.0 {
                    x * slope as f32
                } else {
                    x
                }
            }
            Self::Elu { alpha } => {
                if x <= 0.0 {
                    alpha as f32 * exp_m1(x)
                } else {
                    x
                }
            }
            Self::Celu { alpha } => {
                if x <= 0.0 {
                    alpha as f32 * exp_m1(x / alpha as f32)
                } else {
                    x
                }
            }
            Self::Selu => {
                if x <= 0.0 {
                    (SELU_LAMBDA * SELU_ALPHA) as f32 * exp_m1(x)
                } else {
                    SELU_LAMBDA as f32 * x
                }
            }
            Self::Tanh => {
                let e = exp_m1(2.0 * x.abs().clamp(0.0, 10.0));
                (e / (e + 2.0)).copysign(x)
            }
            Self::Sigmoid => sigmoid(x),
            Self::Softplus => {
                let tail = ln_1p_unit(exp(-x.abs()));
                if x <= 0.0 { tail } else { x + tail }
            }
            Self::Softsign => x / (1.0 + x.abs()),
            Self::Hardtanh => x.clamp(-1.0, 1.0),
            Self::Hardsigmoid => (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::Hardswish => {
                if x <= -3.0 {
                    0.0
                } else if x >= 3.0 {
                    x
                } else {
                    x * (x + 3.0) / 6.0
                }
            }
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Relu2 => {
                if x <= 0.0 {
                    0.0
                } else {
                    x * x
                }
            }
            Self::Gelu => x * normal_cdf(x),
            Self::GeluTanh => x * sigmoid(2.0 * gelu_inner(x).0),
            Self::Silu => x * sigmoid(x),
            Self::Mish => {
                // tanh(ln(1 + e)) = (e² + 2e) / (e² + 2e + 2), which rounds to 1 from 20 on.
                let e = exp(x.clamp(-105.0, 20.0));
                let n = e * (e + 2.0);
                x * (n / (n + 2.0))
            }
            Self::Custom(custom) => (custom.value)(x),
        }
    }

    /// `f'(x)`; at a kink PyTorch's value: 0 for ReLU at 0. For NaN it is NaN or a finite slope.
    #[inline(always)]
    pub fn derivative(self, x: f32) -> f32 {
        match self {
            Self::Identity => 1.0,
            Self::Relu => f32::from(x > 0.0),
            Self::LeakyRelu { slope } | Self::Prelu { slope } => {
                if x > 0.0 {
                    1.0
                } else {
                    slope as f32
                }
            }
            Self::Elu { alpha } => {
                if x > 0.0 {
                    1.0
                } else {
                    alpha as f32 * exp(x)
                }
            }
            Self::Celu { alpha } => {
                if x > 0.0 {
                    1.0
                } else {
                    exp(x / alpha as f32)
                }
            }
            Self::Selu => {
                if x > 0.0 {
                    SELU_LAMBDA as f32
                } else {
                    (SELU_LAMBDA * SELU_ALPHA) as f32 * exp(x)
                }
            }
            Self::Tanh => {
                // 1 - tanh² would lose all its digits where the function is flat.
                let e = exp(-2.0 * x.abs());
                4.0 * e / ((1.0 + e) * (1.0 + e))
            }
            Self::Sigmoid => {
                let e = exp(-x.abs());
                e / ((1.0 + e) * (1.0 + e))
            }
            Self::Softplus => sigmoid(x),
            Self::Softsign => {
                let s = 1.0 + x.abs();
                1.0 / s / s
            }
            Self::Hardtanh => f32::from(x > -1.0 && x < 1.0),
            Self::Hardsigmoid => f32::from(x > -3.0 && x < 3.0) / 6.0,
            Self::Hardswish => {
                if x <= -3.0 {
                    0.0
                } else if x >= 3.0 {
                    1.0
                } else {
                    x / 3.0 + 0.5
                }
            }
            Self::Relu6 => f32::from(x > 0.0 && x < 6.0),
            Self::Relu2 => {
                if x <= 0.0 {
                    0.0
                } else {
                    2.0 * x
                }
            }
            Self::Gelu => {
                const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
                let near = x.clamp(-20.0, 20.0);
                normal_cdf(x) + near * FRAC_1_SQRT_2PI * exp(-0.5 * near * near)
            }
            Self::GeluTanh => {
                let (inner, slope) = gelu_inner(x);
                let s = sigmoid(2.0 * inner);
                s + x.clamp(-20.0, 20.0) * s * (1.0 - s) * 2.0 * slope
            }
            Self::Silu => {
                let s = sigmoid(x);
                s + x.clamp(-105.0, 105.0) * s * (1.0 - s)
            }
            Self::Mish => {
                let near = x.clamp(-105.0, 20.0);
                let e = exp(near);
                let n = e * (e + 2.0);
                n / (n + 2.0) + near * 4.0 * e * (e + 1.0) / ((n + 2.0) * (n + 2.0))
            }
            Self::Custom(custom) => (custom.derivative)(x),
        }
    }

    /// Whether the function is 0 for every negative input. The outputs then have exact zeros, and units that rarely
    /// fire are reported.
    pub fn is_zero_floored(self) -> bool {
        match self {
            Self::Relu | Self::Relu2 | Self::Relu6 => true,
            Self::Custom(custom) => custom.zero_floored,
            _ => false,
        }
    }

    /// Whether f' can be computed from the value `y = f(x)` alone, so that the input `x` need not be stored. This holds if
    /// `f'(x) = f'(y)` for every `x`, and `y` is 0 or has the sign of `x`, as for ReLU.
    pub fn slope_shows_in_value(self) -> bool {
        match self {
            Self::Identity | Self::Relu | Self::Relu6 | Self::Hardtanh => true,
            Self::LeakyRelu { slope } => slope as f32 > 0.0,
            _ => false,
        }
    }

    /// The name without the parameter: `celu`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::LeakyRelu { .. } => "leaky_relu",
            Self::Prelu { .. } => "prelu",
            Self::Elu { .. } => "elu",
            Self::Celu { .. } => "celu",
            Self::Selu => "selu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Softplus => "softplus",
            Self::Softsign => "softsign",
            Self::Hardtanh => "hardtanh",
            Self::Hardsigmoid => "hardsigmoid",
            Self::Hardswish => "hardswish",
            Self::Relu6 => "relu6",
            Self::Relu2 => "relu2",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Silu => "silu",
            Self::Mish => "mish",
            Self::Custom(custom) => custom.name,
        }
    }

    /// The parameter's value and name, if there is one.
    fn parameter(&mut self) -> Option<(&'static str, &mut f64)> {
        match self {
            Self::LeakyRelu { slope } | Self::Prelu { slope } => Some(("slope", slope)),
            Self::Elu { alpha } | Self::Celu { alpha } => Some(("alpha", alpha)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_handed_on_and_the_far_tails_are_finite() {
        for f in Activation::ALL {
            assert!(f.value(f32::NAN).is_nan(), "{f}(NaN)");
            for x in [20.0_f32, 88.8, 120.0, 1e4, 1e18] {
                for x in [x, -x] {
                    let (y, d) = (f.value(x), f.derivative(x));
                    assert!(y.is_finite() || f == Activation::Relu2, "{f}({x}) = {y}");
                    assert!(d.is_finite(), "{f}'({x}) = {d}");
                }
            }
        }
    }

    #[test]
    fn where_the_slope_shows_in_the_value_it_is_that_of_the_input() {
        let leaky = [0.01, 1.5, 1e-30].map(|slope| Activation::LeakyRelu { slope });
        let mut shown = Vec::new();
        for f in Activation::ALL.into_iter().chain(leaky).filter(|f| f.slope_shows_in_value()) {
            shown.push(f.name());
            for magnitude in
                [0.0, f32::MIN_POSITIVE, 1e-42, 0.5, 1.0, 1.0 + f32::EPSILON, 6.0, 7.0, f32::INFINITY]
            {
                for x in [magnitude, -magnitude] {
                    let y = f.value(x);
                    assert_eq!(f.derivative(x), f.derivative(y), "{f} at {x}");
                    assert_eq!(x > 0.0, y > 0.0, "{f} at {x}");
                }
            }
        }
        shown.dedup();
        assert_eq!(shown, ["identity", "relu", "leaky_relu", "hardtanh", "relu6", "leaky_relu"]);
        for slope in [0.0, -0.5, f64::NAN, 1e-60] {
            assert!(!Activation::LeakyRelu { slope }.slope_shows_in_value(), "{slope}");
        }
    }

    #[test]
    fn the_derivative_is_the_slope_of_the_value() {
        for f in Activation::ALL {
            for i in -70..70 {
                let x = i as f32 / 9.0 + 0.02; // never within h of a kink
                let h = 4e-3;
                let slope =
                    (f.value(x + h) as f64 - f.value(x - h) as f64) / ((x + h) as f64 - (x - h) as f64);
                let derivative = f.derivative(x) as f64;
                assert!((slope - derivative).abs() < 4e-3, "{f}'({x}): {derivative}, slope {slope}");
            }
        }
    }
}
