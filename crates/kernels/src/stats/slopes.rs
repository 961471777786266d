use std::ops::RangeInclusive;

use pulp::{Arch, Simd};

use super::span::{count, total};
use crate::{Activation, derivatives};

/// f' is flat where `|f'(x)|` is below this.
pub const FLAT: f32 = 0.01;

/// An activation function with properties of its derivative f': where it is flat and where it is 0.
///
/// For functions that use `exp`, `|f'(x)| < FLAT` and `f'(x) ≠ 0` are looked up as membership of `x` in intervals, which
/// [`Slopes::of`] finds with the same f32 [`Activation::derivative`] that the backward pass uses. So the counts are those
/// that evaluating f' gives. Finding them takes some 100 microseconds.
#[derive(Clone, Debug)]
pub struct Slopes {
    activation: Activation,
    /// `None` for functions whose f' is evaluated for every value, because it is cheap or custom.
    intervals: Option<Intervals>,
}

/// Closed intervals of x. None contains both positive values and values `<= 0`.
#[derive(Clone, Debug, Default)]
struct Intervals {
    /// `|f'(x)| < FLAT`, and not 0.
    flat: Vec<[f32; 2]>,
    /// f' must be evaluated: it is subnormal or 0, or changes more than once within some ulps, by rounding.
    undecided: Vec<[f32; 2]>,
}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Steep,
    Flat,
    Undecided,
}

impl Slopes {
    /// Finds the intervals of a function.
    pub fn of(activation: Activation) -> Self {
        use Activation::*;
        let intervals = match activation {
            Elu { .. }
            | Celu { .. }
            | Selu
            | Tanh
            | Sigmoid
            | Softplus
            | Softsign
            | Gelu
            | GeluTanh
            | Silu
            | Mish => Some(Intervals::of(activation)),
            _ => None,
        };
        Self { activation, intervals }
    }

    /// The function.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Counts inputs with flat f', `(x <= 0, x > 0)`, if the intervals decide all of them; then f' is 0 for none.
    #[inline(always)]
    pub(super) fn look_up<S: Simd>(&self, simd: S, xs: &[f32]) -> Option<[u64; 2]> {
        let Intervals { flat, undecided } = self.intervals.as_ref()?;
        let range = range_of(simd, xs);
        for interval in undecided {
            if overlap(*interval, range) && inside(simd, xs, *interval) > 0 {
                return None;
            }
        }
        let mut counts = [0; 2];
        for interval in flat {
            if overlap(*interval, range) {
                counts[usize::from(interval[0] > 0.0)] += inside(simd, xs, *interval);
            }
        }
        Some(counts)
    }

    /// Writes f' of all inputs to `slopes`, and counts inputs with flat f', `(x <= 0, x > 0)`.
    #[inline(always)]
    pub(super) fn evaluate(&self, xs: &[f32], slopes: &mut [f32]) -> [u64; 2] {
        evaluate(self.activation, xs, slopes);
        let (mut low, mut high) = (0_u32, 0_u32);
        for (slope, &x) in slopes.iter().zip(xs) {
            let flat = slope.abs() < FLAT;
            low += u32::from(flat & (x <= 0.0));
            high += u32::from(flat & (x > 0.0));
        }
        [low, high].map(u64::from)
    }
}

fn evaluate(f: Activation, xs: &[f32], slopes: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || derivatives(f, xs, slopes),
    );
}

/// The smallest and the largest input. NaN is ignored, or both are NaN, which depends on the CPU.
#[inline(always)]
fn range_of<S: Simd>(simd: S, xs: &[f32]) -> [f32; 2] {
    let (mut low, mut high) = (simd.splat_f32s(f32::INFINITY), simd.splat_f32s(f32::NEG_INFINITY));
    let (vectors, rest) = S::as_simd_f32s(xs);
    for &xs in vectors {
        (low, high) = (simd.min_f32s(xs, low), simd.max_f32s(xs, high));
    }
    let [low, high] = [simd.reduce_min_f32s(low), simd.reduce_max_f32s(high)];
    rest.iter().fold([low, high], |[low, high], x| [low.min(*x), high.max(*x)])
}

/// Whether an interval and a range of inputs overlap. True for a range of NaN.
#[inline(always)]
fn overlap(interval: [f32; 2], range: [f32; 2]) -> bool {
    !(range[1] < interval[0] || range[0] > interval[1])
}

/// The number of inputs within an interval.
#[inline(always)]
fn inside<S: Simd>(simd: S, xs: &[f32], [low, high]: [f32; 2]) -> u64 {
    let (lows, highs, mut counts) = (simd.splat_f32s(low), simd.splat_f32s(high), simd.splat_u32s(0));
    let (vectors, rest) = S::as_simd_f32s(xs);
    for &xs in vectors {
        let mask =
            simd.and_m32s(simd.less_than_or_equal_f32s(lows, xs), simd.less_than_or_equal_f32s(xs, highs));
        counts = count(simd, counts, mask);
    }
    total(simd, counts) + rest.iter().filter(|x| (low..=high).contains(*x)).count() as u64
}

impl Intervals {
    fn of(activation: Activation) -> Self {
        let mut intervals = Self::default();
        for side in [Side { activation, sign: 1 << 31, first: 0 }, Side { activation, sign: 0, first: 1 }] {
            let runs = side.runs();
            let ends = runs[1..].iter().map(|(start, _)| start - 1).chain([INFINITY]);
            for ((start, class), end) in runs.iter().zip(ends) {
                let mut interval = [side.value(*start), side.value(end)];
                interval.sort_by(f32::total_cmp);
                match class {
                    Class::Steep => {}
                    Class::Flat => intervals.flat.push(interval),
                    Class::Undecided => intervals.undecided.push(interval),
                }
            }
        }
        intervals
    }
}

/// Bits of infinity.
const INFINITY: u32 = 0x7f80_0000;
/// Bits from one grid point to the next: 64 steps an octave.
const STEP: usize = 1 << 17;
/// The least number of floats on each side of a change that are searched for other changes.
const REACH: u32 = 4096;

/// Inputs of one sign, by the bits of their magnitudes from `first` to [`INFINITY`].
#[derive(Clone, Copy)]
struct Side {
    activation: Activation,
    sign: u32,
    first: u32,
}

impl Side {
    fn value(&self, bits: u32) -> f32 {
        f32::from_bits(self.sign | bits)
    }

    /// The class of f' and its sign: between two signs it may be 0.
    fn classes(&self, bits: impl Iterator<Item = u32>) -> Vec<(Class, bool)> {
        let xs: Vec<f32> = bits.map(|bits| self.value(bits)).collect();
        let mut slopes = vec![0.0; xs.len()];
        evaluate(self.activation, &xs, &mut slopes);
        let class = |slope: &f32| match slope.abs() {
            s if s < f32::MIN_POSITIVE => (Class::Undecided, false),
            s if s < FLAT => (Class::Flat, *slope < 0.0),
            _ => (Class::Steep, *slope < 0.0),
        };
        slopes.iter().map(class).collect()
    }

    fn class(&self, bits: u32) -> (Class, bool) {
        self.classes(std::iter::once(bits))[0]
    }

    /// Runs of inputs of one class: the first bits of each.
    fn runs(&self) -> Vec<(u32, Class)> {
        let grid = || (self.first..INFINITY).step_by(STEP).chain([INFINITY]);
        let (mut at, mut current) = (self.first, self.class(self.first));
        let mut runs = vec![(at, current.0)];
        let mut push = |start, class| {
            if runs.last().is_none_or(|(_, last)| *last != class) {
                runs.push((start, class));
            }
        };
        for (point, class) in grid().zip(self.classes(grid())) {
            while at < point && current != class {
                let changes = self.changes_near(self.first_change(at, point, current), at);
                if changes.start() < changes.end() {
                    push(*changes.start(), Class::Undecided);
                }
                at = *changes.end();
                current = self.class(at);
                push(at, current.0);
            }
            at = at.max(point);
        }
        runs
    }

    /// The first input with another class than `low`, found by bisection up to `high`.
    fn first_change(&self, mut low: u32, mut high: u32, current: (Class, bool)) -> u32 {
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.class(middle) == current { low = middle } else { high = middle }
        }
        high
    }

    /// The first and the last change within some ulps of one, not before `from`. The reach doubles until its outer half
    /// has no change.
    fn changes_near(&self, change: u32, from: u32) -> RangeInclusive<u32> {
        let mut reach = REACH;
        loop {
            let (low, high) =
                (from.max(change.saturating_sub(reach)), INFINITY.min(change.saturating_add(reach)));
            let classes = self.classes(low..=high);
            let mut changes =
                (low + 1..).zip(classes.windows(2)).filter(|(_, pair)| pair[0] != pair[1]).map(|(at, _)| at);
            let first = changes.next().unwrap_or(change);
            let last = changes.last().unwrap_or(first);
            if change - first <= reach / 2 && last - change <= reach / 2 {
                return first..=last;
            }
            reach *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALPHAS: [f64; 7] = [0.005, 0.3, 2.5, 30.0, 0.01, 1e-6, 1e-40];

    fn functions() -> impl Iterator<Item = Activation> {
        let alphas = ALPHAS.into_iter();
        let elus = alphas.flat_map(|alpha| [Activation::Elu { alpha }, Activation::Celu { alpha }]);
        Activation::ALL.into_iter().chain(elus)
    }

    /// Values of every exponent and both signs, and all values within 3,000 ulps of the ends of intervals.
    fn inputs(intervals: &Intervals) -> Vec<f32> {
        let mantissas = [0, 1, 0x2a_aaaa, 0x40_0000, 0x51_2345, 0x7f_ffff];
        let everywhere =
            (0..255_u32).flat_map(|exponent| mantissas.map(|mantissa| exponent << 23 | mantissa));
        let ends = intervals.flat.iter().chain(&intervals.undecided).flatten();
        let near = ends.flat_map(|end| {
            let bits = end.to_bits() & !(1 << 31);
            bits.saturating_sub(3000)..=INFINITY.min(bits + 3000)
        });
        let bits = everywhere.chain([INFINITY]).chain(near);
        bits.flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)]).collect()
    }

    fn contains(intervals: &[[f32; 2]], x: f32) -> bool {
        intervals.iter().any(|[low, high]| (*low..=*high).contains(&x))
    }

    #[test]
    fn where_intervals_decide_they_tell_what_the_derivative_tells() {
        for f in functions() {
            let Some(intervals) = Slopes::of(f).intervals else { continue };
            let ends = intervals.flat.iter().chain(&intervals.undecided);
            assert!(ends.clone().all(|[low, high]| low <= high && (*high <= 0.0 || *low > 0.0)), "{f}");
            for x in inputs(&intervals).into_iter().filter(|x| !contains(&intervals.undecided, *x)) {
                let slope = f.derivative(x);
                assert_eq!(contains(&intervals.flat, x), slope.abs() < FLAT, "{f} at {x:e}");
                assert!(slope != 0.0, "{f} at {x:e}");
            }
        }
    }

    #[test]
    fn little_is_undecided_among_values_of_common_magnitudes() {
        for f in Activation::ALL {
            let undecided = Slopes::of(f).intervals.unwrap_or_default().undecided;
            let length = |[low, high]: &[f32; 2]| (high.min(8.0) - low.max(-8.0)).max(0.0);
            assert!(undecided.iter().map(length).sum::<f32>() < 1e-3, "{f}: {undecided:?}");
        }
    }

    #[test]
    fn a_block_counts_flat_and_passing_inputs_as_the_derivative_does() {
        use crate::stats::{Block, UnitSums, measure};
        for f in functions() {
            let slopes = Slopes::of(f);
            let mut xs = inputs(slopes.intervals.as_ref().unwrap_or(&Intervals::default()));
            xs.extend([f32::NAN; 5]);
            xs.resize(xs.len().next_multiple_of(30), 0.5);
            let ys = vec![0.25; xs.len()];
            // Rows, planes, and rows that are wider than a span.
            for (units, positions, units_last) in [(30, 1, true), (6, 5, false), (xs.len(), 1, true)] {
                let block = Block { slopes: Some(&slopes), units, positions, units_last, xs: &xs, ys: &ys };
                let (mut fired, mut passed) = (vec![0; units], vec![7; units]);
                let (mut sum, mut below) = (vec![0.0; units], vec![0.0; units]);
                let sums = UnitSums {
                    fired: &mut fired,
                    passed: &mut passed,
                    sum: &mut sum,
                    below: &mut below,
                    sum_squares: None,
                };
                let totals = measure(block, sums, None, false).expect("all values are finite");
                let (mut low, mut high, mut expected) = (0, 0, vec![7; units]);
                for (i, x) in xs.iter().enumerate() {
                    // ReLU reads the values, which are all positive here.
                    let slope = if f == Activation::Relu { 1.0 } else { f.derivative(*x) };
                    low += u64::from(slope.abs() < FLAT && *x <= 0.0);
                    high += u64::from(slope.abs() < FLAT && *x > 0.0);
                    expected[if units_last { i % units } else { i / positions % units }] +=
                        u64::from(slope != 0.0);
                }
                assert_eq!((totals.flat_low, totals.flat_high), (low, high), "{f}");
                assert_eq!(passed, expected, "{f}");
            }
        }
    }
}
