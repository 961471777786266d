use taper_kernels::Activation;

/// A lower and an upper bound of a value, as in interval arithmetic. The bounds include the largest rounding error of `f32`
/// for any summation order, so the value is within them in every implementation.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub low: f64,
    pub high: f64,
    /// Whether the value is the same for every image.
    pub is_fixed: bool,
    /// The sum of the magnitudes of all terms. It bounds every intermediate result.
    pub size: f64,
    /// Number of terms of that sum.
    terms: usize,
}

/// Twice the unit roundoff `u` of `f32`. `n` roundings change a sum by at most `n u / (1 − n u) · Σ|terms|` (Higham 2002,
/// section 3.1), which is less than `n · 2u · Σ|terms|` for `n u ≤ 1/2`. The difference also covers the rounding of the `f64`
/// used here.
const ROUNDOFF: f64 = f32::EPSILON as f64;
/// Number of other roundings: of scaled inputs, of weights and biases with scaling and batch normalisation folded in, and of
/// a normalisation that is not folded.
const OTHERS: usize = 8;
/// Sums with more terms get infinite bounds.
const MOST: usize = 1 << 20;

impl Bound {
    pub fn new(low: f64, high: f64, is_fixed: bool) -> Self {
        match low <= high {
            true => Self { low, high, is_fixed, size: low.abs().max(high.abs()), terms: 0 },
            // NaN: no bounds are known.
            false => Self::new(f64::NEG_INFINITY, f64::INFINITY, false),
        }
    }

    /// The same bounds with another bound of intermediate results.
    pub fn sized(self, size: f64) -> Self {
        Self { size, ..self }
    }

    /// Widens the bounds by the largest rounding error.
    pub fn widened(self) -> Self {
        let slack = (self.terms + OTHERS) as f64 * (ROUNDOFF * self.size + f64::from(f32::MIN_POSITIVE));
        let (low, high) = (self.low - slack, self.high + slack);
        // If the sum can overflow, no bounds are known: an infinity may become NaN later.
        match self.terms <= MOST && self.size + slack <= f64::from(f32::MAX) && low <= high {
            true => Self { low, high, ..self },
            false => Self::new(f64::NAN, f64::NAN, false),
        }
    }

    /// `bias + Σ weight · x` of pairs (weight, x).
    pub fn sum(bias: f64, terms: impl Iterator<Item = (f64, Self)>) -> Self {
        let mut sum = Self::new(bias, bias, true);
        for (weight, x) in terms {
            // These terms are exactly 0 in every program. 0 · ∞ is NaN; `widened` detects it.
            if x.size == 0.0 || (weight == 0.0 && x.size.is_finite()) {
                continue;
            }
            let (a, b) = (weight * x.low, weight * x.high);
            sum.low += a.min(b);
            sum.high += a.max(b);
            sum.size += weight.abs() * x.size;
            sum.terms += 1;
            sum.is_fixed &= x.is_fixed;
        }
        if sum.terms == 0 { sum } else { sum.widened() }
    }

    /// `scale · (x − mean) + shift`.
    pub fn normalised(self, mean: f64, scale: f64, shift: f64) -> Self {
        let (a, b) = ((self.low - mean) * scale + shift, (self.high - mean) * scale + shift);
        let size = scale.abs() * (self.size + mean.abs()) + shift.abs();
        // A program may fold the normalisation into the sum before it, so the roundings of its terms count again.
        Self { low: a.min(b), high: a.max(b), size, ..self }.widened()
    }

    /// The larger of two values.
    pub fn largest(self, other: Self) -> Self {
        Self::new(self.low.max(other.low), self.high.max(other.high), self.is_fixed && other.is_fixed)
    }

    /// `f(x)`.
    pub fn activated(self, f: Activation) -> Self {
        // Rounded outwards to f32.
        let (mut low, mut high) = (self.low as f32, self.high as f32);
        if f64::from(low) > self.low {
            low = low.next_down();
        }
        if f64::from(high) < self.high {
            high = high.next_up();
        }
        let at = |x: f32| f64::from(f.value(x));
        // Functions that every program computes with the same bits: equal bounds are the value.
        let exact = |low: f64, high: f64| Self::new(low, high, self.is_fixed || low == high);
        let approximate = |low: f64, high: f64| {
            // Libraries compute `exp`, `tanh` and so on with different rounding errors.
            let slack = |y: f64| 1e-5 * (y.abs() + at(f32::MIN).abs()) + 1e-6;
            Self::new(low - slack(low), high + slack(high), self.is_fixed)
        };
        match f {
            Activation::LeakyRelu { slope } | Activation::Prelu { slope } if slope < 0.0 => {
                // Decreases up to 0 and increases from there.
                let lowest = if low <= 0.0 && high >= 0.0 { 0.0 } else { at(low).min(at(high)) };
                exact(lowest, at(low).max(at(high)))
            }
            Activation::Identity
            | Activation::Relu
            | Activation::LeakyRelu { .. }
            | Activation::Prelu { .. }
            | Activation::Hardtanh
            | Activation::Relu6
            | Activation::Relu2 => exact(at(low), at(high)),
            Activation::Elu { .. }
            | Activation::Celu { .. }
            | Activation::Selu
            | Activation::Tanh
            | Activation::Sigmoid
            | Activation::Softplus
            | Activation::Softsign
            | Activation::Hardsigmoid => approximate(at(low), at(high)),
            // At least min(x, 0) and −0.4, at most max(x, 0).
            Activation::Hardswish
            | Activation::Gelu
            | Activation::GeluTanh
            | Activation::Silu
            | Activation::Mish => approximate(self.low.clamp(-0.4, 0.0), self.high.max(0.0)),
            Activation::Custom(_) => Self::new(f64::NAN, f64::NAN, false),
        }
    }
}
