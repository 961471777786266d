//! Elementary functions in f32 as short branch-free formulas, so that loops over them become vector code.
//!
//! Without fused multiply-add, so every CPU computes the same bits. Errors are relative, against f64.

const LN2_HIGH: f32 = 0.693_359_4; // nine bits: n * LN2_HIGH is exact
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Splits `x` into `n ln 2 + r` with `|r| <= ln 2 / 2`; `|x| < 2^21`.
#[inline(always)]
fn reduce(x: f32) -> (i32, f32) {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    ((shifted.to_bits() as i32).wrapping_sub(0x4b40_0000), x - n * LN2_HIGH - n * LN2_LOW)
}

/// `2^n` for `-126 <= n <= 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

/// `(e^r - 1 - r) / r^2` for `|r| <= ln 2 / 2`.
#[inline(always)]
fn exp_tail(r: f32) -> f32 {
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    p * r + 0.5
}

/// `e^x`; infinity from 88.73 on, 0 below -104, NaN for NaN. Error below 3e-7.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let (n, r) = reduce(x.clamp(-105.0, 89.0));
    let half = n >> 1;
    // Two factors, because one cannot reach the subnormals or infinity.
    (exp_tail(r) * r * r + r + 1.0) * power_of_two(half) * power_of_two(n - half)
}

/// `e^x - 1` without cancellation near zero, for `x <= 80` (above that, the value at 80). Error below 4e-7.
#[inline(always)]
pub(crate) fn exp_m1(x: f32) -> f32 {
    let (n, r) = reduce(x.clamp(-20.0, 80.0));
    let scale = power_of_two(n);
    (exp_tail(r) * r * r + r) * scale + (scale - 1.0)
}

/// `ln(1 + x)` for `0 <= x <= 1`. Error below 3e-7.
#[inline(always)]
pub(crate) fn ln_1p_unit(x: f32) -> f32 {
    // ln(1 + x) = 2 artanh(x / (2 + x)), and the argument is at most 1/3.
    let s = x / (2.0 + x);
    let t = s * s;
    let p = 1.0 / 15.0;
    let p = p * t + 1.0 / 13.0;
    let p = p * t + 1.0 / 11.0;
    let p = p * t + 1.0 / 9.0;
    let p = p * t + 1.0 / 7.0;
    let p = p * t + 1.0 / 5.0;
    let p = p * t + 1.0 / 3.0;
    2.0 * s * (p * t + 1.0)
}

/// `1 / (1 + e^-x)`. Error below 4e-7, in the left tail too.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Probability that a standard normal variable is below `x`. Error below 1e-5, far in the left tail;
/// around zero below 3e-7. (Chebyshev fit of erfc: Press et al., Numerical Recipes, 6.2.)
#[inline(always)]
pub(crate) fn normal_cdf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = 0.170_872_77;
    let p = p * t - 0.822_152_23;
    let p = p * t + 1.488_515_9;
    let p = p * t - 1.135_204;
    let p = p * t + 0.278_868_07;
    let p = p * t - 0.186_288_06;
    let p = p * t + 0.096_784_18;
    let p = p * t + 0.374_091_96;
    let p = p * t + 1.000_023_7;
    let p = p * t - 1.265_512_2;
    let tail = 0.5 * t * exp(p - 0.5 * x * x);
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(range: std::ops::Range<f64>, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        let n = 200_000;
        (0..n).fold(0.0, |worst: f64, i| {
            let x = (range.start + (range.end - range.start) * i as f64 / n as f64) as f32;
            let (got, want) = (f(x) as f64, exact(x as f64));
            if want == 0.0 { worst } else { worst.max(((got - want) / want).abs()) }
        })
    }

    #[test]
    fn functions_stay_within_their_stated_relative_errors() {
        let sigmoid64 = |x: f64| 1.0 / (1.0 + (-x).exp());
        assert!(worst(-87.0..88.7, exp, f64::exp) < 3e-7);
        assert!(worst(-20.0..80.0, exp_m1, f64::exp_m1) < 4e-7);
        assert!(worst(-1e-3..1e-3, exp_m1, f64::exp_m1) < 4e-7);
        assert!(worst(0.0..1.0, ln_1p_unit, f64::ln_1p) < 3e-7);
        assert!(worst(-87.0..90.0, sigmoid, sigmoid64) < 4e-7);
    }

    #[test]
    fn the_tails_are_exact_and_nan_stays_nan() {
        assert_eq!((exp(-200.0), exp(89.5), exp(f32::NEG_INFINITY)), (0.0, f32::INFINITY, 0.0));
        assert_eq!((exp_m1(-50.0), normal_cdf(40.0), normal_cdf(-40.0)), (-1.0, 1.0, 0.0));
        assert!(exp(f32::NAN).is_nan() && exp_m1(f32::NAN).is_nan() && normal_cdf(f32::NAN).is_nan());
    }
}
