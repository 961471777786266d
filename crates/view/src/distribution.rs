use serde_json::{Map, Value, json};
use taper_report::Histogram;

use crate::{
    bins::Bins,
    group::Groups,
    palette,
    text::{brief, count, share},
};

/// The bins and axes that all pictures of a site share, so that groups can be compared.
pub(crate) struct Common {
    bins: Bins,
    /// Whether any value of any group is exactly zero.
    zeros: bool,
}

impl Common {
    pub fn of(groups: &Groups<'_>, site: &str) -> Self {
        let mut this = Self { bins: Bins::default(), zeros: false };
        let all = groups.runs().flat_map(|run| &run.layers).filter(|line| line.of.site == site);
        for histogram in all.filter_map(|line| line.of.histogram.as_ref()) {
            this.bins.include(histogram);
            this.zeros |= histogram.zeros > 0;
        }
        this
    }

    pub fn is_empty(&self) -> bool {
        self.bins == Bins::default() && !self.zeros
    }

    /// The bins and axes of the site: extents in octaves, names and ticks.
    pub fn to_json(&self) -> Value {
        let extents = self.bins.extents();
        let mut edges: Vec<Value> = extents.iter().map(|(low, _)| brief(*low)).collect();
        edges.extend(extents.last().map(|(_, high)| brief(*high)));
        let ticks: Vec<Value> =
            self.bins.ticks().into_iter().map(|(at, name)| json!([brief(at), name])).collect();
        json!({ "edges": edges, "names": self.bins.labels(), "ticks": ticks, "zeros": self.zeros })
    }
}

/// Densities are written in units of 1e-5 of the values per octave.
pub(crate) const UNIT: f64 = 1e5;
/// The largest number of epochs in a heat map: more would be narrower than a pixel or two.
const EPOCHS: usize = 120;

/// The distribution of one site in one group over the epochs, with its seeds' histograms added up.
///
/// `{"test": {"epochs": [0, 1], "density": [[…], […]], "zeros": [0.5, 0.6], "names": ["50%", "60%"]}}`, a list of
/// densities for each epoch.
pub(crate) fn over_epochs(groups: &Groups<'_>, group: usize, site: &str, common: &Common) -> Value {
    let mut windows = Map::new();
    for split in &groups.windows {
        let mut sums: Vec<(u32, Histogram)> = Vec::new();
        for (epoch, stats) in groups.groups[group].runs.iter().flat_map(|run| run.site(site, *split)) {
            if let Some(histogram) = &stats.histogram {
                match sums.iter_mut().find(|(known, _)| *known == epoch) {
                    Some((_, sum)) => sum.merge(histogram),
                    None => sums.push((epoch, histogram.clone())),
                }
            }
        }
        sums.sort_by_key(|(epoch, _)| *epoch);
        let kept = spread(sums.len(), EPOCHS);
        let sums: Vec<&(u32, Histogram)> = kept.into_iter().map(|i| &sums[i]).collect();
        let density = |of: &Histogram| -> Vec<u64> {
            common.bins.density(of).into_iter().map(|d| (d * UNIT).round() as u64).collect()
        };
        let zeros = |of: &Histogram| of.zeros as f64 / of.total().max(1) as f64;
        windows.insert(
            split.name().into(),
            json!({
                "epochs": sums.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(),
                "density": sums.iter().map(|(_, of)| density(of)).collect::<Vec<_>>(),
                "zeros": sums.iter().map(|(_, of)| brief(zeros(of))).collect::<Vec<_>>(),
                "names": sums
                    .iter()
                    .map(|(_, of)| format!("{} of {} values are 0 ({})", count(of.zeros), count(of.total()), share(zeros(of))))
                    .collect::<Vec<_>>(),
            }),
        );
    }
    windows.into()
}

/// At most `most` of `n` indices, evenly spaced, with the first and the last.
pub(crate) fn spread(n: usize, most: usize) -> Vec<usize> {
    if n <= most { (0..n).collect() } else { (0..most).map(|i| i * (n - 1) / (most - 1)).collect() }
}

/// The epochs of the density chart and their colours: the first, the last and two between.
pub(crate) fn chosen_epochs(groups: &Groups<'_>) -> Vec<(u32, String)> {
    let epochs = groups.epochs();
    let chosen = spread(epochs.len(), 4);
    let n = chosen.len().max(2) - 1;
    chosen.iter().enumerate().map(|(k, i)| (epochs[*i], palette::over_time(k as f64 / n as f64))).collect()
}
