use anyhow::Result;
use taper::nn::Activation;
use taper::report::{LayerStats, Split};
use taper_examples::pictures::{Chart, charts_svg};
use taper_examples::{Point, Scatter, scatter_svg, stack_svg};
use taper_experiment::print;

use crate::correlation::Correlation;
use crate::mlp::{mean_over_layers, train_mlps};
use crate::paper::{Outcome, Paper, Row, Seen, Setting};
use crate::runs::{Ran, mean_and_sd, minus};

pub const PAPER: Paper = Paper {
    name: "symmetry",
    claim: "ReLU discards the negative half of its input, so activations are not symmetric about zero. Does a network \
            with symmetric activations classify better?",
    source: "a question, not a paper; statistics as in docs/statistics.md",
    minutes: 10.3,
    asserted: "the premise: the hidden layers of ReLU are more asymmetric and more skewed than those of tanh, by more \
               than 2 standard deviations; those of sigmoid have asymmetry 1. The correlations are reported",
    run,
};

/// Learning rates of Adam, of which each function gets the one with the best accuracy on the validation split.
const RATES: [&str; 3] = ["0.0003", "0.001", "0.003"];

/// All functions of Taper but the identity. CELU has α = ½, because at its default it is ELU.
fn functions() -> Vec<Activation> {
    let all = Activation::ALL.into_iter().filter(|f| *f != Activation::Identity);
    all.map(|f| if matches!(f, Activation::Celu { .. }) { Activation::Celu { alpha: 0.5 } } else { f })
        .collect()
}

/// Means over the runs of a function, with their standard deviations.
struct Measured {
    function: Activation,
    rate: String,
    accuracy: (f64, f64),
    /// Means over the hidden layers.
    asymmetry: (f64, f64),
    skewness: (f64, f64),
    /// Asymmetry and |skewness| in every epoch, from the untrained network.
    over_time: [Vec<f64>; 2],
}

fn asymmetry(layer: &LayerStats) -> Option<f64> {
    layer.asymmetry
}

fn skewness(layer: &LayerStats) -> Option<f64> {
    layer.skewness.map(f64::abs)
}

impl Measured {
    fn new(function: Activation, rate: String, runs: &[&Ran]) -> Self {
        let mean =
            |value: &dyn Fn(&Ran) -> f64| mean_and_sd(&runs.iter().map(|run| value(run)).collect::<Vec<_>>());
        let layers = |epoch: usize, of: fn(&LayerStats) -> Option<f64>| {
            let test =
                |run: &Ran| run.epochs.get(epoch)?.split(Split::Test).map(|test| mean_over_layers(test, of));
            mean(&|run| test(run).unwrap_or(f64::NAN))
        };
        let epochs = runs.first().map_or(0, |run| run.epochs.len());
        let last = epochs.saturating_sub(1);
        Self {
            function,
            rate,
            accuracy: mean(&|run| run.accuracy(Split::Test)),
            asymmetry: layers(last, asymmetry),
            skewness: layers(last, skewness),
            over_time: [asymmetry, skewness].map(|of| (0..epochs).map(|epoch| layers(epoch, of).0).collect()),
        }
    }
}

/// The learning rate with the best validation accuracy for each function.
fn choose(setting: &Setting, functions: &[Activation], options: &[&str]) -> Result<Vec<String>> {
    let nets = |f: &Activation| RATES.map(|rate| format!("{f}@{rate}"));
    let all = functions.iter().flat_map(nets).collect::<Vec<_>>().join(",");
    let runs = train_mlps(
        setting,
        "choice",
        &[&["--net", &all, "--validation", "10000", "--track", "off", "--seed", "0"], options].concat(),
    )?;
    let accuracy = |net: &str| {
        runs.iter()
            .find(|run| run.label("net") == net)
            .map_or(f64::NAN, |run| run.accuracy(Split::Validation))
    };
    let best = |f: &Activation| {
        let [slow, middle, fast] = nets(f).map(|net| accuracy(&net));
        // NaN is never better.
        let best = if slow > middle { (0, slow) } else { (1, middle) };
        if fast > best.1 { 2 } else { best.0 }
    };
    Ok(functions.iter().map(|f| RATES[best(f)].to_string()).collect())
}

fn run(setting: &Setting) -> Result<Outcome> {
    let functions = functions();
    let options: &[&str] = match setting.quick {
        true => &["--epochs", "1", "--widths", "32,16", "--limit", "12000"],
        false => &["--epochs", "4"],
    };
    let rates = choose(setting, &functions, options)?;
    let nets: Vec<String> = functions.iter().zip(&rates).map(|(f, rate)| format!("{f}@{rate}")).collect();
    let seeds = setting.seeds.unwrap_or(if setting.quick { 2 } else { 5 }).to_string();
    let all = nets.join(",");
    let runs = train_mlps(setting, "runs", &[&["--net", &all, "--seeds", &seeds], options].concat())?;
    let of = |net: &String| runs.iter().filter(|run| run.label("net") == *net).collect::<Vec<_>>();
    let measured: Vec<Measured> = (functions.into_iter().zip(rates).zip(&nets))
        .map(|((function, rate), net)| Measured::new(function, rate, &of(net)))
        .collect();

    let mut rows: Vec<Row> = measured
        .iter()
        .map(|of| {
            let what = format!(
                "{} at {}: accuracy, %; asymmetry {:.2}, |skewness| {:.2}",
                of.function, of.rate, of.asymmetry.0, of.skewness.0
            );
            Row::new(what, of.accuracy)
        })
        .collect();
    rows.extend(premise(&measured));
    let correlation = |of: &dyn Fn(&Measured) -> f64, keep: &dyn Fn(&&Measured) -> bool| {
        let kept: Vec<&Measured> = measured.iter().filter(keep).collect();
        let xs: Vec<f64> = kept.iter().map(|net| of(net)).collect();
        Correlation::new(&xs, &kept.iter().map(|net| net.accuracy.0).collect::<Vec<_>>())
    };
    let with_asymmetry = correlation(&|of| of.asymmetry.0, &|_| true);
    let with_skewness = correlation(&|of| of.skewness.0, &|_| true);
    // The others add a constant to their outputs.
    let through_zero = correlation(&|of| of.asymmetry.0, &|of| of.function.value(0.0) == 0.0);
    rows.push(with_asymmetry.row("accuracy and asymmetry"));
    rows.push(with_skewness.row("accuracy and |skewness|"));
    rows.push(through_zero.row("accuracy and asymmetry, functions with f(0) = 0"));
    print(&format!(
        "\nOver {} activation functions, the rank correlation of test accuracy with asymmetry is {}, with |skewness| {}.\n",
        measured.len(),
        with_asymmetry.text(),
        with_skewness.text()
    ))?;
    Ok(Outcome { rows, picture: picture(&measured, with_asymmetry, with_skewness)? })
}

/// What the question takes for granted.
fn premise(measured: &[Measured]) -> Vec<Row> {
    let of = |f: Activation| measured.iter().find(|of| of.function == f);
    let (Some(relu), Some(tanh), Some(sigmoid)) =
        (of(Activation::Relu), of(Activation::Tanh), of(Activation::Sigmoid))
    else {
        return Vec::new();
    };
    let above = |what: &str, a, b| Row::new(what, minus(a, b)).above_zero();
    let of_sigmoid = Row::new("sigmoid: asymmetry", sigmoid.asymmetry).published(1.0, Seen::Computed);
    vec![
        above("ReLU minus tanh: asymmetry", relu.asymmetry, tanh.asymmetry),
        above("ReLU minus tanh: |skewness|", relu.skewness, tanh.skewness),
        of_sigmoid.near(1e-9),
    ]
}

fn picture(measured: &[Measured], asymmetry: Correlation, skewness: Correlation) -> Result<String> {
    let panel = |axis: &'static str, of: &dyn Fn(&Measured) -> f64, correlation: Correlation| Scatter {
        title: format!("rank correlation {}", correlation.text()),
        axis,
        points: measured
            .iter()
            .map(|net| Point {
                name: net.function.to_string(),
                x: of(net),
                y: net.accuracy.0,
                sd: net.accuracy.1,
            })
            .collect(),
    };
    let panels = [
        panel("asymmetry of the hidden layers", &|net| net.asymmetry.0, asymmetry),
        panel("log10 of |skewness| of the hidden layers", &|net| net.skewness.0.log10(), skewness),
    ];
    let scatter = scatter_svg("Does symmetry matter?", "test accuracy, %", &panels)?;
    const SHOWN: [&str; 6] = ["relu", "leaky_relu", "selu", "gelu", "tanh", "sigmoid"];
    let chart = |(i, title): (usize, &'static str)| {
        let shown = measured.iter().filter(|net| SHOWN.contains(&net.function.name()));
        let line = |net: &Measured| (net.function.name().to_string(), net.over_time[i].clone());
        Chart {
            title,
            axis: "1: untrained, 2: epoch 1, …",
            meaning: "",
            log: false,
            lines: shown.map(line).collect(),
        }
    };
    let charts = [(0, "asymmetry"), (1, "|skewness|")].map(chart);
    Ok(stack_svg(&[scatter, charts_svg("Hidden layers over time, test split", &charts)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_nineteen_different_functions() {
        let functions = functions();
        assert_eq!(functions.len(), 19);
        let at = |f: &Activation| [-1.5, -0.5, 0.7, 7.0].map(|x| f.value(x));
        let same = |i: usize| functions[..i].iter().any(|f| at(f) == at(&functions[i]));
        assert!((0..19).all(|i| !same(i)));
    }
}
