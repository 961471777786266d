use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use taper::data::ImageSet;
use taper::nn::{Mlp, MlpConfig};
use taper::report::{LayerStats, Split};
use taper::train::{CROSS_ENTROPY, classify, parse_rule};
use taper_examples::pictures::{Chart, charts_svg};
use taper_experiment::{Error, Sweep, Trial};

use crate::paper::{Outcome, Paper, Row, Setting};
use crate::runs::{OnMnist, Ran, minus, over_seeds, train_on_mnist};

pub const PAPER: Paper = Paper {
    name: "adam-l2",
    claim: "Adam with an L2 penalty in the loss switches off whole ReLU units; decoupled weight decay and SGD do not.",
    source: "Yaguchi, Suzuki, Asano, Nitta, Sakata & Tanizawa 2018, arXiv 1812.08119; the abstract only: no number of \
             its figures could be read",
    minutes: 2.8,
    asserted: "SGD has at most 2 % dead units at every coefficient; at the largest one Adam with L2 has more dead and \
               more dormant units than the others, by 2 standard deviations",
    run,
};

/// A name, the update rule, and a factor on the coefficient. Per step AdamW and SGD shrink a weight by the learning rate times
/// the coefficient. The learning rate of SGD is 100 times that of AdamW, so the third rule shrinks as much as SGD.
const RULES: [(&str, &str, f64); 4] =
    [("adam", "adam", 1.0), ("adamw", "adamw", 1.0), ("adamw-100", "adamw", 100.0), ("sgd", "sgd", 1.0)];
/// The coefficients λ of the penalty λ/2 · |w|².
const DECAYS: [&str; 5] = ["0", "0.0001", "0.001", "0.003", "0.01"];
/// Largest percentage of dead units with SGD.
const MOST_WITH_SGD: f64 = 2.0;

/// 784-100-100-100-10 with ReLU.
#[derive(Args, Serialize, Deserialize)]
struct Protocol {
    /// The update rule: adam has the penalty in the gradient
    #[arg(long)]
    rule: Sweep<String>,
    /// Coefficient of the penalty
    #[arg(long)]
    decay: Sweep<f64>,
}

fn learn(args: &OnMnist<Protocol>, trial: &mut Trial<'_, ImageSet>) -> taper_experiment::Result<()> {
    let config = MlpConfig { widths: vec![100; 3], ..MlpConfig::default() };
    let net = Mlp::new(&config, trial.params.builder())?;
    let found = RULES.iter().find(|(name, ..)| *name == *args.own.rule);
    let (_, rule, factor) = found.ok_or_else(|| Error::Usage(format!("unknown rule {}", *args.own.rule)))?;
    let parsed = parse_rule(rule, Some(factor * *args.own.decay)).map_err(Error::option("--rule"))?;
    (trial.optimizer.rule, trial.optimizer.learning_rate) = parsed;
    trial.start(config.to_string(), CROSS_ENTROPY)?;
    trial.fit(&classify(&net))
}

/// A number of a run.
type Number<'a> = &'a dyn Fn(&Ran) -> Option<f64>;

/// The percentage of all hidden units that `count` counts on the test set after the last epoch.
fn share(ran: &Ran, count: impl Fn(&LayerStats) -> Option<u64>) -> Option<f64> {
    let layers = &ran.last(Split::Test)?.layers;
    let counted = layers.iter().map(count).sum::<Option<u64>>()?;
    Some(100.0 * counted as f64 / layers.iter().map(|layer| layer.units).sum::<u64>() as f64)
}

fn run(setting: &Setting) -> Result<Outcome> {
    let decays = if setting.quick { &DECAYS[4..] } else { &DECAYS };
    let seeds = setting.seeds.unwrap_or(if setting.quick { 2 } else { 3 }).to_string();
    let (rules, listed) = (RULES.map(|(name, ..)| name).join(","), decays.join(","));
    let epochs = if setting.quick { "3" } else { "10" };
    let options =
        ["--rule", &rules, "--decay", &listed, "--epochs", epochs, "--seed", "11", "--seeds", &seeds];
    let fixed = ["--schedule", "constant", "--track", "counts", "--jobs", "2"];
    let trained = train_on_mnist(setting, &[&options[..], &fixed].concat(), learn)?;

    let of = |rule: &str, decay: &str, number: Number<'_>| {
        over_seeds(&trained, &[("rule", rule), ("decay", decay)], number)
    };
    let dead = |ran: &Ran| share(ran, |layer| layer.dead);
    let dormant = |ran: &Ran| share(ran, |layer| layer.dormant_0_025);
    let accuracy = |ran: &Ran| Some(ran.accuracy(Split::Test));
    let largest = decays[decays.len() - 1];
    let mut rows = Vec::new();
    for (rule, ..) in RULES {
        for decay in decays {
            let row = Row::new(format!("{rule}, λ = {decay}: dead units, %"), of(rule, decay, &dead));
            rows.push(if rule == "sgd" { row.within(0.0, MOST_WITH_SGD) } else { row });
        }
        rows.push(Row::new(format!("{rule}, λ = {largest}: dormant units, %"), of(rule, largest, &dormant)));
        rows.push(Row::new(format!("{rule}, λ = {largest}: test accuracy, %"), of(rule, largest, &accuracy)));
    }
    for (what, count) in [("dead", &dead as Number<'_>), ("dormant", &dormant)] {
        for (other, ..) in &RULES[1..] {
            let what = format!("adam minus {other}, λ = {largest}: {what} units, points");
            let row = Row::new(what, minus(of("adam", largest, count), of(other, largest, count)));
            // After three epochs few units are dead.
            let asserted = !setting.quick || row.what.contains("dormant");
            rows.push(if asserted { row.above_zero() } else { row });
        }
    }
    let chart = |title, number: Number<'_>| {
        let line = |(rule, ..): (&str, &str, f64)| {
            (rule.to_string(), decays.iter().map(|decay| of(rule, decay, number).0).collect())
        };
        let lines = RULES.map(line).into();
        Chart { title, axis: "λ: 0, 0.0001, 0.001, 0.003, 0.01", meaning: "", log: false, lines }
    };
    let charts = [
        chart("dead units on the test set, %", &dead),
        chart("dormant units (score at most 0.025), %", &dormant),
        chart("test accuracy, %", &accuracy),
    ];
    let picture = charts_svg("ReLU units that weight decay switches off on MNIST", &charts)?;
    Ok(Outcome { rows, picture })
}
