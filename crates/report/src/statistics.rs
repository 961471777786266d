use crate::{
    LayerStats,
    Shown::{Comparison, Console, Curve, Table},
    Statistic,
    StatisticKind::{Count, Number, Share, Units},
};

/// Something to count, which every recorder does; shown nowhere but in records and alerts.
const COUNTED: Statistic = Statistic {
    id: "",
    title: "",
    column: "",
    what: "",
    kind: Count,
    unit: "values",
    counted: true,
    shown: &[],
    value: |_| None,
};
/// A number of the units.
const OF_UNITS: Statistic = Statistic { kind: Units, unit: "units", ..COUNTED };
/// A number that a recorder can be told to leave out.
const MEASURED: Statistic = Statistic { kind: Number, unit: "", counted: false, ..COUNTED };

fn count(n: u64) -> Option<f64> {
    Some(n as f64)
}

fn maybe(n: Option<u64>) -> Option<f64> {
    n.map(|n| n as f64)
}

/// Every number of a layer, in the order in which tables and pages have them.
pub static STATISTICS: &[Statistic] = &[
    Statistic {
        id: "zero_fraction",
        title: "Zeros",
        column: "zeros",
        what: "Share of the values that are exactly 0, before any dropout; units need not be dead.",
        kind: Share,
        shown: &[Console, Comparison, Curve, Table],
        value: |l| (l.values > 0).then_some(l.zero_fraction),
        ..COUNTED
    },
    Statistic {
        id: "dead",
        title: "Dead units",
        column: "dead",
        what: "Units that no gradient reached: f′(x) was 0 at every observation of the window.",
        shown: &[Console, Comparison, Table],
        value: |l| maybe(l.dead),
        ..OF_UNITS
    },
    Statistic {
        id: "dead_fraction",
        title: "Dead units",
        column: "dead share",
        what: "Share of the units that no gradient reached; for ReLU those that never fired.",
        kind: Share,
        shown: &[Curve],
        value: LayerStats::dead_fraction,
        ..OF_UNITS
    },
    Statistic {
        id: "units",
        title: "Units",
        column: "units",
        what: "Units of the layer: neurons, or feature maps of a convolution.",
        shown: &[Table],
        value: |l| count(l.units),
        ..OF_UNITS
    },
    Statistic {
        id: "died",
        title: "Died",
        column: "died",
        what: "Units that are dead and were not in the window before.",
        shown: &[Table],
        value: |l| maybe(l.died),
        ..OF_UNITS
    },
    Statistic {
        id: "revived",
        title: "Revived",
        column: "revived",
        what: "Units that were dead in the window before and are not now.",
        shown: &[Table],
        value: |l| maybe(l.revived),
        ..OF_UNITS
    },
    Statistic {
        id: "still_dead",
        title: "Still dead",
        column: "still dead",
        what: "Units that are dead in this window and in the one before.",
        value: |l| maybe(l.still_dead),
        ..OF_UNITS
    },
    Statistic {
        id: "dormant_0",
        title: "Silent units",
        column: "silent",
        what: "Units of dormancy score 0: their mean |y| is 0.",
        value: |l| maybe(l.dormant_0),
        ..OF_UNITS
    },
    Statistic {
        id: "dormant_0_025",
        title: "Dormant units",
        column: "dormant",
        what: "Units whose mean |y| is at most 2.5% of their layer's mean, dead ones included.",
        shown: &[Console, Table],
        value: |l| maybe(l.dormant_0_025),
        ..OF_UNITS
    },
    Statistic {
        id: "dormant_0_1",
        title: "Dormant units, at 0.1",
        column: "dormant 0.1",
        what: "Units whose mean |y| is at most 10% of their layer's mean.",
        value: |l| maybe(l.dormant_0_1),
        ..OF_UNITS
    },
    Statistic {
        id: "dormant_fraction",
        title: "Dormant units",
        column: "dormant share",
        what: "Share of the units whose mean |y| is at most 2.5% of their layer's mean (Sokar et al. 2023).",
        kind: Share,
        shown: &[Curve],
        value: LayerStats::dormant_fraction,
        ..OF_UNITS
    },
    Statistic {
        id: "rare",
        title: "Rare units",
        column: "rare",
        what: "Units that are not dead and fire at fewer than 1% of observations; ReLU and its kin only.",
        shown: &[Table],
        value: |l| maybe(l.rare),
        ..OF_UNITS
    },
    Statistic {
        id: "always_on",
        title: "Units that always fire",
        column: "always on",
        what: "Units with y > 0 at every observation: a ReLU that is merely linear on these data.",
        shown: &[Table],
        value: |l| count(l.always_on),
        ..OF_UNITS
    },
    Statistic {
        id: "mean",
        title: "Mean",
        column: "mean",
        what: "Mean of all finite values of the layer.",
        unit: "y",
        shown: &[Console, Curve, Table],
        value: |l| l.mean,
        ..MEASURED
    },
    Statistic {
        id: "std",
        title: "Standard deviation",
        column: "std",
        what: "Standard deviation of all finite values of the layer.",
        unit: "y",
        shown: &[Console, Curve, Table],
        value: LayerStats::std,
        ..MEASURED
    },
    Statistic {
        id: "variance",
        title: "Variance",
        column: "variance",
        what: "Population variance of all finite values of the layer.",
        unit: "y²",
        value: |l| l.variance,
        ..MEASURED
    },
    Statistic {
        id: "skewness",
        title: "Skewness",
        column: "skew",
        what: "m₃ / m₂^1.5: 0 for a symmetric distribution, positive with a long tail to the right.",
        shown: &[Console, Comparison, Curve, Table],
        value: |l| l.skewness,
        ..MEASURED
    },
    Statistic {
        id: "excess_kurtosis",
        title: "Excess kurtosis",
        column: "kurtosis",
        what: "m₄ / m₂² − 3: 0 for a normal distribution, positive with heavier tails.",
        shown: &[Table],
        value: |l| l.excess_kurtosis,
        ..MEASURED
    },
    Statistic {
        id: "asymmetry",
        title: "Asymmetry",
        column: "asym",
        what: "Distance from the mirror image at 0: 0 symmetric, 0.5 ReLU of that, 1 one-sided.",
        shown: &[Console, Curve, Table],
        value: |l| l.asymmetry,
        ..MEASURED
    },
    Statistic {
        id: "flat",
        title: "Flat",
        column: "flat",
        what: "Share of the values at which the slope |f′(x)| is below 0.01: saturation; for ReLU the zeros.",
        kind: Share,
        shown: &[Curve],
        value: |l| Some(l.flat_low? + l.flat_high?),
        ..COUNTED
    },
    Statistic {
        id: "flat_low",
        title: "Flat at the lower end",
        column: "flat low",
        what: "Share of the values with slope |f′(x)| < 0.01 at x ≤ 0.",
        kind: Share,
        shown: &[Table],
        value: |l| l.flat_low,
        ..COUNTED
    },
    Statistic {
        id: "flat_high",
        title: "Flat at the upper end",
        column: "flat high",
        what: "Share of the values with slope |f′(x)| < 0.01 at x > 0.",
        kind: Share,
        shown: &[Table],
        value: |l| l.flat_high,
        ..COUNTED
    },
    Statistic {
        id: "active_per_sample",
        title: "Active per sample",
        column: "active/sample",
        what: "Values of a sample that are not 0: the mean over samples; its size depends on the layer's.",
        kind: Count,
        unit: "values",
        shown: &[Curve, Table],
        value: |l| l.active_per_sample.map(|of| of.mean),
        ..MEASURED
    },
    Statistic {
        id: "population_sparseness",
        title: "Population sparseness",
        column: "sparseness",
        what: "Treves–Rolls sparseness, mean over samples: 0 where all units answer alike, 1 where one does.",
        shown: &[Curve, Table],
        value: |l| l.population_sparseness,
        ..MEASURED
    },
    Statistic {
        id: "hoyer",
        title: "Hoyer sparseness",
        column: "hoyer",
        what: "(√n − l1/l2) / (√n − 1), mean over samples.",
        value: |l| l.hoyer,
        ..MEASURED
    },
    Statistic {
        id: "lifetime_sparseness",
        title: "Lifetime sparseness",
        column: "lifetime",
        what: "Treves–Rolls sparseness of a unit over its observations, mean over units.",
        value: |l| l.lifetime_sparseness,
        ..MEASURED
    },
    Statistic {
        id: "samples_all_zero",
        title: "Samples of zeros",
        column: "silent samples",
        what: "Samples whose values are all 0: they have no sparseness.",
        kind: Count,
        unit: "samples",
        value: |l| maybe(l.samples_all_zero),
        ..MEASURED
    },
    Statistic {
        id: "uses",
        title: "Uses",
        column: "uses",
        what: "How often one pass comes by the site.",
        unit: "",
        value: |l| count(l.uses.into()),
        ..COUNTED
    },
    Statistic {
        id: "samples",
        title: "Samples",
        column: "samples",
        what: "Samples that were seen, once for each use.",
        unit: "samples",
        value: |l| count(l.samples),
        ..COUNTED
    },
    Statistic {
        id: "values",
        title: "Values",
        column: "values",
        what: "Values that were seen: samples × units × positions.",
        value: |l| count(l.values),
        ..COUNTED
    },
    Statistic {
        id: "zeros",
        title: "Zeros",
        column: "zeros",
        what: "Values equal to 0, of both signs.",
        value: |l| count(l.zeros),
        ..COUNTED
    },
    Statistic {
        id: "negatives",
        title: "Negative values",
        column: "negatives",
        what: "Finite values below 0.",
        value: |l| count(l.negatives),
        ..COUNTED
    },
    Statistic {
        id: "positives",
        title: "Positive values",
        column: "positives",
        what: "Finite values above 0.",
        value: |l| count(l.positives),
        ..COUNTED
    },
    Statistic {
        id: "near_zeros",
        title: "Near zeros",
        column: "near zeros",
        what: "Finite values with |y| at most near_zero_bound, exact zeros included.",
        value: |l| count(l.near_zeros),
        ..COUNTED
    },
    Statistic {
        id: "near_zero_bound",
        title: "Bound of near zeros",
        column: "bound",
        what: "What near_zeros counts up to: 0.01.",
        kind: Number,
        unit: "y",
        value: |l| Some(l.near_zero_bound),
        ..COUNTED
    },
    Statistic {
        id: "nan",
        title: "NaN",
        column: "NaN",
        what: "Values that are not a number: a fault.",
        value: |l| count(l.nan),
        ..COUNTED
    },
    Statistic {
        id: "infinite",
        title: "Infinite values",
        column: "infinite",
        what: "Infinite values: a fault.",
        value: |l| count(l.infinite),
        ..COUNTED
    },
    Statistic {
        id: "min",
        title: "Minimum",
        column: "min",
        what: "Smallest finite value.",
        unit: "y",
        value: |l| l.min,
        ..MEASURED
    },
    Statistic {
        id: "max",
        title: "Maximum",
        column: "max",
        what: "Largest finite value.",
        unit: "y",
        value: |l| l.max,
        ..MEASURED
    },
    Statistic {
        value: |l| Some(l.quantiles?.q01),
        ..quantile("q01", "1% of the values lie at or below this.")
    },
    Statistic {
        value: |l| Some(l.quantiles?.q05),
        ..quantile("q05", "5% of the values lie at or below this.")
    },
    Statistic {
        value: |l| Some(l.quantiles?.q25),
        ..quantile("q25", "25% of the values lie at or below this.")
    },
    Statistic { value: |l| Some(l.quantiles?.q50), ..quantile("q50", "The median.") },
    Statistic {
        value: |l| Some(l.quantiles?.q75),
        ..quantile("q75", "75% of the values lie at or below this.")
    },
    Statistic {
        value: |l| Some(l.quantiles?.q95),
        ..quantile("q95", "95% of the values lie at or below this.")
    },
    Statistic {
        value: |l| Some(l.quantiles?.q99),
        ..quantile("q99", "99% of the values lie at or below this.")
    },
];

const fn quantile(id: &'static str, what: &'static str) -> Statistic {
    Statistic { id, title: id, column: id, what, unit: "y", ..MEASURED }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ActivePerSample, Quantiles};

    fn layer() -> LayerStats {
        let (x, n) = (Some(0.25), Some(3));
        LayerStats {
            uses: 2,
            units: 8,
            values: 40,
            zero_fraction: 0.125,
            dead: Some(2),
            dormant_0: n,
            dormant_0_025: Some(4),
            dormant_0_1: n,
            mean: x,
            variance: x,
            skewness: x,
            excess_kurtosis: x,
            min: x,
            max: x,
            asymmetry: x,
            flat_low: x,
            flat_high: x,
            rare: n,
            died: n,
            revived: n,
            still_dead: n,
            population_sparseness: x,
            hoyer: x,
            samples_all_zero: n,
            lifetime_sparseness: x,
            active_per_sample: Some(ActivePerSample { mean: 2.5, min: 1, max: 3 }),
            quantiles: Some(Quantiles { q99: 7.0, ..Quantiles::default() }),
            ..LayerStats::default()
        }
    }

    #[test]
    fn every_number_of_a_layers_json_has_its_name_and_value_here() {
        let layer = layer();
        let json = serde_json::to_value(&layer).expect("plain numbers");
        let value = |id: &str| Statistic::named(id).and_then(|of| (of.value)(&layer));
        let mut numbers = 0;
        for (name, x) in json.as_object().into_iter().flatten().filter_map(|(k, x)| Some((k, x.as_f64()?))) {
            assert_eq!(value(name), Some(x), "{name}");
            numbers += 1;
        }
        let derived = ["dead_fraction", "dormant_fraction", "std", "flat", "active_per_sample", "q99"];
        assert_eq!(derived.map(value), [0.25, 0.5, 0.5, 0.5, 2.5, 7.0].map(Some));
        assert_eq!(STATISTICS.len(), numbers + 5 + 7);
    }

    #[test]
    fn every_statistic_has_a_sentence_and_is_in_the_manual() {
        let manual = include_str!("../../../docs/statistics.md");
        for of in STATISTICS {
            assert!(manual.contains(&format!("`{}`", of.id)), "docs/statistics.md lacks `{}`", of.id);
            assert!(of.what.ends_with('.') && !of.title.is_empty() && !of.column.is_empty(), "{}", of.id);
        }
    }
}
