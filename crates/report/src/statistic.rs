use crate::LayerStats;

/// One number of [`LayerStats`], by name.
#[derive(Debug)]
pub(crate) struct Statistic {
    /// As in `layers.jsonl`.
    pub name: &'static str,
    pub value: fn(&LayerStats) -> Option<f64>,
    /// Whether it is among what a recorder counts in any case.
    pub counted: bool,
}

const fn count(name: &'static str, value: fn(&LayerStats) -> Option<f64>) -> Statistic {
    Statistic { name, value, counted: true }
}

const fn more(name: &'static str, value: fn(&LayerStats) -> Option<f64>) -> Statistic {
    Statistic { name, value, counted: false }
}

/// Every number of a layer, in the order of the struct; then those that follow from them, and the quantiles.
pub(crate) const STATISTICS: &[Statistic] = &[
    count("units", |l| Some(l.units as f64)),
    count("samples", |l| Some(l.samples as f64)),
    count("values", |l| Some(l.values as f64)),
    count("zeros", |l| Some(l.zeros as f64)),
    count("negatives", |l| Some(l.negatives as f64)),
    count("positives", |l| Some(l.positives as f64)),
    count("near_zeros", |l| Some(l.near_zeros as f64)),
    count("near_zero_bound", |l| Some(l.near_zero_bound)),
    count("nan", |l| Some(l.nan as f64)),
    count("infinite", |l| Some(l.infinite as f64)),
    count("zero_fraction", |l| Some(l.zero_fraction)),
    more("mean", |l| l.mean),
    more("variance", |l| l.variance),
    more("skewness", |l| l.skewness),
    more("excess_kurtosis", |l| l.excess_kurtosis),
    more("min", |l| l.min),
    more("max", |l| l.max),
    more("asymmetry", |l| l.asymmetry),
    count("flat_low", |l| l.flat_low),
    count("flat_high", |l| l.flat_high),
    count("dead", |l| Some(l.dead as f64)),
    count("rare", |l| l.rare.map(|n| n as f64)),
    count("always_on", |l| Some(l.always_on as f64)),
    count("dormant_0", |l| Some(l.dormant_0 as f64)),
    count("dormant_0_025", |l| Some(l.dormant_0_025 as f64)),
    count("dormant_0_1", |l| Some(l.dormant_0_1 as f64)),
    count("died", |l| l.died.map(|n| n as f64)),
    count("revived", |l| l.revived.map(|n| n as f64)),
    count("still_dead", |l| l.still_dead.map(|n| n as f64)),
    more("population_sparseness", |l| l.population_sparseness),
    more("hoyer", |l| l.hoyer),
    more("samples_all_zero", |l| l.samples_all_zero.map(|n| n as f64)),
    more("lifetime_sparseness", |l| l.lifetime_sparseness),
    count("dead_fraction", |l| (l.units > 0).then(|| l.dead_fraction())),
    count("dormant_fraction", |l| (l.units > 0).then(|| l.dormant_fraction())),
    more("std", |l| l.std()),
    more("q01", |l| l.quantiles.map(|of| of.q01)),
    more("q05", |l| l.quantiles.map(|of| of.q05)),
    more("q25", |l| l.quantiles.map(|of| of.q25)),
    more("q50", |l| l.quantiles.map(|of| of.q50)),
    more("q75", |l| l.quantiles.map(|of| of.q75)),
    more("q95", |l| l.quantiles.map(|of| of.q95)),
    more("q99", |l| l.quantiles.map(|of| of.q99)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Quantiles;

    #[test]
    fn every_number_of_a_layers_json_has_its_name_and_value_here() {
        let x = Some(0.25);
        let layer = LayerStats {
            units: 8,
            dead: 2,
            dormant_0_025: 4,
            mean: x,
            variance: x,
            skewness: x,
            excess_kurtosis: x,
            min: x,
            max: x,
            asymmetry: x,
            flat_low: x,
            flat_high: x,
            rare: Some(3),
            died: Some(3),
            revived: Some(3),
            still_dead: Some(3),
            population_sparseness: x,
            hoyer: x,
            samples_all_zero: Some(3),
            lifetime_sparseness: x,
            quantiles: Some(Quantiles { q99: 7.0, ..Quantiles::default() }),
            ..LayerStats::default()
        };
        let json = serde_json::to_value(&layer).expect("plain numbers");
        let numbers: Vec<(&String, f64)> = json
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, x)| Some((name, x.as_f64()?)))
            .collect();
        assert_eq!(numbers.len() + 3 + 7, STATISTICS.len());
        let value =
            |name: &str| STATISTICS.iter().find(|of| of.name == name).and_then(|of| (of.value)(&layer));
        for (name, x) in numbers {
            assert_eq!(value(name), Some(x), "{name}");
        }
        assert_eq!([value("dead_fraction"), value("dormant_fraction")], [Some(0.25), Some(0.5)]);
        assert_eq!([value("std"), value("q99")], [Some(0.5), Some(7.0)]);
    }
}
