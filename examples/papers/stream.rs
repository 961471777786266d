use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use candle_core::{Device, Tensor};
use rand::{Rng as _, RngExt};
use taper::hooks::{Rng, rng};

/// The slowly changing regression problem of Dohare et al. 2024, once for each run: of 20 input bits the first 15 stay for
/// 10,000 steps and the last 5 are random in every step; the target is a fixed network of 100 linear threshold units.
pub struct Problem {
    variant: Variant,
    seed: u64,
    targets: Vec<Target>,
}

/// What changes after every 10,000 steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Variant {
    /// All 15 bits are drawn again: the authors' `prob.json`, which their commands use.
    Prob,
    /// One of the 15 bits is flipped: the authors' `flip_one_prob.json`.
    FlipOne,
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "prob" => Ok(Self::Prob),
            "flip_one" => Ok(Self::FlipOne),
            _ => Err(format!("expected prob or flip_one, found '{text}'")),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prob => "prob",
            Self::FlipOne => "flip_one",
        })
    }
}

/// Input bits.
pub const INPUTS: usize = 20;
/// Bits that are random in every step.
const RANDOM: u32 = 5;
/// Steps between two changes.
const HELD: u64 = 10_000;
/// Units of the target network.
const UNITS: usize = 100;
/// Where a unit's threshold is between the smallest and the largest value of its sum.
const BETA: f32 = 0.7;

/// A target network; all weights and biases are 1 or −1.
struct Target {
    units: Vec<Unit>,
    bias: f32,
}

struct Unit {
    /// The inputs with weight 1, one bit each.
    plus: u32,
    bias: f32,
    threshold: f32,
    /// Its weight in the output.
    out: f32,
}

impl Target {
    fn new(rng: &mut Rng) -> Self {
        let sign = |rng: &mut Rng| if rng.random::<bool>() { 1.0 } else { -1.0 };
        let unit = |rng: &mut Rng| {
            let plus = rng.random::<u32>() >> (32 - INPUTS);
            let (bias, out) = (sign(rng), sign(rng));
            let sum = 2.0 * plus.count_ones() as f32 - INPUTS as f32;
            // About the number of weights of −1; the bias is in it as in the authors' program.
            let s = (INPUTS as f32 - sum + bias) / 2.0;
            Unit { plus, bias, threshold: BETA * (INPUTS + 1) as f32 - s, out }
        };
        Self { units: (0..UNITS).map(|_| unit(rng)).collect(), bias: sign(rng) }
    }

    /// The target for input bits.
    fn value(&self, bits: u32) -> f32 {
        let on = |unit: &&Unit| {
            let sum = 2.0 * (bits & unit.plus).count_ones() as f32 - bits.count_ones() as f32 + unit.bias;
            sum > unit.threshold
        };
        self.bias + self.units.iter().filter(on).map(|unit| unit.out).sum::<f32>()
    }
}

impl Problem {
    /// As many problems as `runs`, each with a target network of its own.
    pub fn new(variant: Variant, runs: usize, seed: u64) -> Self {
        let mut rng = rng(seed);
        Self { variant, seed, targets: (0..runs).map(|_| Target::new(&mut rng)).collect() }
    }

    /// The steps of a range. They do not depend on where the range begins.
    ///
    /// # Shapes
    /// Inputs `(1, R, 20)` of 0 and 1, and targets `(1, R, 1)`, for R runs.
    pub fn steps(&self, range: Range<u64>) -> Steps<'_> {
        Steps { problem: self, range, held: None }
    }

    /// The bits that are held in a block of 10,000 steps, for each run.
    fn held(&self, block: u64) -> Vec<u32> {
        let bits = INPUTS as u32 - RANDOM;
        let draw = |block: u64| {
            let mut rng = rng(!self.seed.rotate_left(32).wrapping_add(block));
            self.targets.iter().map(|_| rng.random::<u32>() >> (32 - bits)).collect::<Vec<_>>()
        };
        match self.variant {
            Variant::Prob => draw(block),
            Variant::FlipOne => (1..=block).fold(draw(0), |held, block| {
                held.iter().zip(draw(block)).map(|(held, drawn)| held ^ (1_u32 << (drawn % bits))).collect()
            }),
        }
    }
}

/// An iterator over steps.
pub struct Steps<'a> {
    problem: &'a Problem,
    range: Range<u64>,
    held: Option<Held>,
}

/// A block of steps with the same held bits.
struct Held {
    block: u64,
    /// For each run, the held bits above the random ones.
    bits: Vec<u32>,
    /// For each run, the target for every value of the random bits.
    targets: Vec<[f32; 1 << RANDOM]>,
}

impl Held {
    fn new(problem: &Problem, block: u64) -> Self {
        let bits: Vec<u32> = problem.held(block).into_iter().map(|bits| bits << RANDOM).collect();
        let table =
            |(target, bits): (&Target, &u32)| std::array::from_fn(|low| target.value(bits | low as u32));
        let targets = problem.targets.iter().zip(&bits).map(table).collect();
        Self { block, bits, targets }
    }
}

impl Iterator for Steps<'_> {
    type Item = candle_core::Result<(Tensor, Tensor)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (step, problem) = (self.range.next()?, self.problem);
        if self.held.as_ref().is_none_or(|held| held.block != step / HELD) {
            self.held = Some(Held::new(problem, step / HELD));
        }
        let held = self.held.as_ref()?;
        let mut rng = rng(problem.seed.rotate_left(32).wrapping_add(step));
        let runs = held.bits.len();
        let (mut xs, mut ys) = (Vec::with_capacity(runs * INPUTS), Vec::with_capacity(runs));
        let (mut random, mut left) = (0, 0);
        for (bits, targets) in held.bits.iter().zip(&held.targets) {
            if left < RANDOM {
                (random, left) = (rng.next_u64(), u64::BITS);
            }
            let low = random as u32 & ((1 << RANDOM) - 1);
            (random, left) = (random >> RANDOM, left - RANDOM);
            let bits = bits | low;
            xs.extend((0..INPUTS).rev().map(|i| ((bits >> i) & 1) as f32));
            ys.push(targets[low as usize]);
        }
        let batch = || {
            let xs = Tensor::from_vec(xs, (1, runs, INPUTS), &Device::Cpu)?;
            Ok((xs, Tensor::from_vec(ys, (1, runs, 1), &Device::Cpu)?))
        };
        Some(batch())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bits(problem: &Problem, range: Range<u64>) -> Vec<Vec<f32>> {
        let xs = problem.steps(range).map(|batch| batch.unwrap().0);
        xs.map(|xs| xs.flatten_all().unwrap().to_vec1().unwrap()).collect()
    }

    #[test]
    fn a_step_is_the_same_wherever_the_range_begins() {
        let problem = Problem::new(Variant::FlipOne, 30, 1);
        assert_eq!(bits(&problem, 9_990..20_010)[5_000..], bits(&problem, 14_990..20_010));
    }

    #[test]
    fn the_held_bits_change_after_ten_thousand_steps_and_the_others_in_every_step() {
        for (variant, most) in [(Variant::Prob, 15), (Variant::FlipOne, 1)] {
            let problem = Problem::new(variant, 1, 3);
            let all = bits(&problem, 9_000..11_000);
            let held: Vec<&[f32]> = all.iter().map(|bits| &bits[..15]).collect();
            assert!(held[..1000].iter().all(|bits| *bits == held[0]));
            assert!(held[1000..].iter().all(|bits| *bits == held[1000]));
            let changed = held[0].iter().zip(held[1000]).filter(|(a, b)| a != b).count();
            assert!((1..=most).contains(&changed), "{variant:?}: {changed}");
            let on = all.iter().filter(|bits| bits[19] == 1.0).count();
            assert!((900..1100).contains(&on), "{on} of 2000");
        }
    }

    #[test]
    fn a_target_is_that_of_a_network_with_weights_of_one_and_minus_one() {
        let target = Target::new(&mut rng(5));
        let bits = 0b1010_0110_0011_1000_1101_u32;
        let mut want = target.bias;
        for unit in &target.units {
            let weights = (0..INPUTS).map(|i| if (unit.plus >> i) & 1 == 1 { 1.0 } else { -1.0 });
            let sum: f32 = weights.enumerate().map(|(i, w)| w * ((bits >> i) & 1) as f32).sum();
            if sum + unit.bias > unit.threshold {
                want += unit.out;
            }
        }
        assert_eq!(target.value(bits), want);
    }
}
