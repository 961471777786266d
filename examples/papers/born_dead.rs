use anyhow::Result;
use candle_core::{Device, Tensor};
use taper::hooks::Activation;
use taper::kernels::{activate, grouped_linear, no_grad, with_values};
use taper::nn::{Init, Params};
use taper_examples::pictures::{Chart, charts_svg};

use crate::paper::{Outcome, Paper, Row, Seen, Setting};

pub const PAPER: Paper = Paper {
    name: "born-dead",
    claim: "A deep and narrow ReLU network is likely to be constant before any training: it is born dead.",
    source: "Lu, Shin, Su, Karniadakis 2019, arXiv 1903.06733; formulas, and a simulation in NumPy",
    minutes: 0.2,
    asserted: "measured fractions within 5 standard deviations of the law for one input, at 7 widths and 19 depths; \
               of the simulation, and between the paper's bounds, for all inputs",
    run,
};

/// Hidden layers of the deepest network. The paper counts the output too.
const DEEPEST: usize = 19;
/// Networks that are made at once.
const CHUNK: usize = 5_000;
const SDS: f64 = 5.0;

/// For each width that is measured, the fraction that is born dead for all inputs with 9 hidden layers, and its standard
/// deviation: 400,000 networks of a NumPy program, 100,000 from width 8.
const SIMULATED: [(usize, f64, f64); 7] = [
    (1, 0.99604, 0.00010),
    (2, 0.88074, 0.00051),
    (3, 0.57927, 0.00078),
    (4, 0.29454, 0.00072),
    (5, 0.12802, 0.00053),
    (8, 0.00802, 0.00028),
    (10, 0.00123, 0.00011),
];
const SIMULATED_DEPTH: usize = 9;

/// P(a hidden layer is all zero) = 1 − (1 − 2^−N)^H, for one input other than 0, width N, H hidden layers, symmetric
/// weights and no biases: each unit is active with probability ½, given a layer before it that is not all zero.
fn law(width: usize, depth: usize) -> f64 {
    1.0 - (1.0 - 0.5_f64.powi(width as i32)).powi(depth as i32)
}

/// The paper's lower and upper bound on P(the network is constant), for one-dimensional inputs.
fn bounds(width: usize, depth: usize) -> (f64, f64) {
    let (n, p) = (width as f64, 0.5_f64.powi(width as i32));
    let (a, b) = (1.0 - p, 1.0 - 2.0 * p - (n - 1.0) * p * p);
    let power = |x: f64| x.powi(depth as i32 - 1);
    let share = (1.0 - 2.0 * p) * (1.0 - p) / (1.0 + (n - 1.0) * p);
    (1.0 - power(a) + share * (power(b) - power(a)), law(width, depth))
}

/// For every depth from 1, how many of some networks are dead at the input 1, and at all inputs.
type Dead = [[u64; 2]; DEEPEST];

/// Networks of one width with seeds of their own. Without biases and with one input, a network computes `|x|` times its
/// output for 1 or −1, so these two inputs tell whether it is constant.
fn count(width: usize, networks: usize, seed: u64) -> Result<Dead> {
    let params = Params::new(seed, &Device::Cpu);
    let ones = Tensor::ones((1, networks, 1), candle_core::DType::F32, &Device::Cpu)?;
    let mut ys = Tensor::cat(&[&ones, &ones.neg()?], 0)?;
    let mut dead: Dead = [[0; 2]; DEEPEST];
    for (depth, dead) in dead.iter_mut().enumerate() {
        let inputs = ys.dim(2)?;
        let hints = Init::He.weight(inputs, width);
        let vb = params.builder().pp(format!("fc{}", depth + 1));
        let weight = vb.get_with_hints((networks, width, inputs), "weight", hints)?;
        ys = no_grad(|| activate(&grouped_linear(&ys, &weight, None)?, Activation::Relu))?.detach();
        let silent = |ys: &[f32]| -> Vec<bool> {
            ys.chunks_exact(width).map(|units| units.iter().all(|y| *y == 0.0)).collect()
        };
        let silent = with_values(&ys, silent)?;
        let (plus, minus) = silent.split_at(networks);
        let both = plus.iter().zip(minus).filter(|(plus, minus)| **plus && **minus);
        *dead = [plus.iter().filter(|silent| **silent).count() as u64, both.count() as u64];
    }
    Ok(dead)
}

fn run(setting: &Setting) -> Result<Outcome> {
    let networks = setting.seeds.unwrap_or(if setting.quick { 20_000 } else { 200_000 });
    let n = networks as f64;
    // One network in n may differ where a probability is nearly 0 or 1.
    let sd = |p: f64| (p * (1.0 - p) / n).sqrt().max(1.0 / n);
    let (mut rows, mut charts) = (Vec::new(), Vec::new());
    let mut furthest = (0.0_f64, String::new());
    for (width, simulated, simulated_sd) in SIMULATED {
        let mut sums: Dead = [[0; 2]; DEEPEST];
        for first in (0..networks).step_by(CHUNK) {
            let dead = count(width, CHUNK.min(networks - first), first as u64)?;
            sums.iter_mut().flatten().zip(dead.iter().flatten()).for_each(|(sum, dead)| *sum += dead);
        }
        let [one, all] = [0, 1].map(|i| sums.map(|dead| dead[i] as f64 / n));
        for (depth, measured) in (1..).zip(one) {
            let apart = (measured - law(width, depth)).abs() / sd(law(width, depth));
            if apart > furthest.0 {
                furthest = (apart, format!("width {width}, {depth} hidden layers"));
            }
        }
        let depth = SIMULATED_DEPTH;
        let exact = law(width, depth);
        let (of_one, of_all) = (one[depth - 1], all[depth - 1]);
        let of = format!("width {width}, {depth} hidden layers: dead");
        let spread = sd(exact);
        let row = |what: &str, measured| Row::new(format!("{of} {what}"), measured);
        let at_one = row("at x = 1", (of_one, spread)).published(exact, Seen::Computed);
        rows.push(at_one.near(SDS * spread));
        let tolerance = SDS * sd(simulated).hypot(simulated_sd);
        let at_all = row("at all x", (of_all, sd(simulated))).published(simulated, Seen::Computed);
        rows.push(at_all.near(tolerance));
        let (low, high) = bounds(width, depth);
        let bounded = row("at all x, bounds", (of_all, sd(of_all)));
        rows.push(bounded.within(low - SDS * sd(low), high + SDS * sd(high)));
        let law = (1..=DEEPEST).map(|depth| law(width, depth)).collect();
        charts.push(Chart {
            title: TITLES[charts.len()],
            axis: "hidden layers",
            meaning: "",
            log: false,
            lines: vec![
                ("dead at x = 1: the law".into(), law),
                ("dead at x = 1".into(), one.to_vec()),
                ("dead at all x".into(), all.to_vec()),
            ],
        });
    }
    let what = format!(
        "law at x = 1: largest distance of {} cells, in sd ({})",
        SIMULATED.len() * DEEPEST,
        furthest.1
    );
    rows.push(Row::new(what, (furthest.0, 1.0)).published(0.0, Seen::Computed).within(0.0, SDS));
    let picture = charts_svg(&format!("Fraction of {networks} ReLU networks that are born dead"), &charts)?;
    Ok(Outcome { rows, picture })
}

const TITLES: [&str; SIMULATED.len()] =
    ["width 1", "width 2", "width 3", "width 4", "width 5", "width 8", "width 10"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_those_of_the_formula_at_the_depths_where_it_is_exact() {
        assert_eq!(bounds(2, 1).0, 0.0);
        assert!((bounds(2, 2).0 - 0.15625).abs() < 1e-12);
        assert!((bounds(1, 9).0 - (1.0 - 0.5_f64.powi(8))).abs() < 1e-12);
    }
}
