use crate::{
    LayerStats, NonFinite, SplitReport, number,
    picture::{PICTURE_TITLE, picture},
    table::{Align, Cell, Paint, Table},
};

/// What the columns of [`layer_table`] mean; printed once.
pub(crate) const LEGEND: [&str; 6] = [
    "zeros, train  share of exact zeros, in the window that the first column names and in training",
    "dead          units that no gradient reached in the window; since the one before: +died -revived",
    "dormant       units whose mean |y| is at most 2.5% of their layer's mean, the dead ones included",
    "skew, asym    skewness; distance from the mirror image: 0 symmetric, 0.5 ReLU of that, 1 one-sided",
    "-8 .. 8       the distribution: columns are octaves, below 1/8 in the middle; the tallest is full",
    "=0            the exact zeros among all values: empty is none, full is all",
];

/// One row per layer of a split; `other` is the training window, whose zeros stand beside.
pub(crate) fn layer_table(of: &SplitReport, train: Option<&SplitReport>) -> Table {
    let layers = &of.layers;
    let mut table = Table::default();
    table.column(Align::Left, of.split.name(), layers.iter().map(|l| l.site.as_str()));
    table.column(Align::Left, "act", layers.iter().map(|l| l.activation.as_str()));
    table.column(Align::Right, "zeros", layers.iter().map(|l| number::share(l.zero_fraction)));
    if let Some(train) = train {
        let in_train = |l: &LayerStats| train.layers.iter().find(|t| t.site == l.site);
        let zeros = |t: &LayerStats| number::share(t.zero_fraction);
        let cells = layers.iter().map(|l| in_train(l).map_or(number::NONE.into(), zeros));
        table.column(Align::Right, train.split.name(), cells);
    }
    table.column(Align::Left, "dead", dead(layers));
    table.column(Align::Right, "dormant", layers.iter().map(|l| l.dormant_0_025.to_string()));
    table.column(Align::Right, "mean", layers.iter().map(|l| number::maybe(l.mean, 3)));
    table.column(Align::Right, "std", layers.iter().map(|l| number::maybe(l.std(), 3)));
    table.column(Align::Right, "skew", layers.iter().map(|l| number::rounded(l.skewness)));
    table.column(Align::Right, "asym", layers.iter().map(|l| number::rounded(l.asymmetry)));
    let pictures = layers.iter().map(|l| l.histogram.as_ref().map_or(number::NONE.into(), picture));
    table.column(Align::Left, PICTURE_TITLE, pictures);
    table
}

/// `3/256 +1 -0`, the slashes below each other; the changes only where there are any.
fn dead(layers: &[LayerStats]) -> Vec<Cell> {
    let counts: Vec<String> = layers.iter().map(|l| format!("{}/{}", l.dead, l.units)).collect();
    let width = counts.iter().map(String::len).max().unwrap_or(0);
    let cell = |(l, count): (&LayerStats, &String)| {
        let changes = match (l.died.unwrap_or(0), l.revived.unwrap_or(0)) {
            (0, 0) => String::new(),
            (died, revived) => format!(" +{died} -{revived}"),
        };
        let paint = if l.dead > 0 { Paint::Yellow } else { Paint::Plain };
        Cell::new(format!("{count:>width$}{changes}"), paint)
    };
    layers.iter().zip(&counts).map(cell).collect()
}

/// `dead units: fc1 17, 32 and 3 more; fc2 4`: which they are, at most `at_most` of each layer.
///
/// Over as many lines as it takes to stay within `width` characters; none where no unit is dead.
pub(crate) fn dead_units(layers: &[LayerStats], at_most: usize, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for layer in layers.iter().filter(|l| !l.dead_units.is_empty()) {
        let shown: Vec<String> = layer.dead_units.iter().take(at_most).map(u32::to_string).collect();
        let more = match layer.dead_units.len() - shown.len() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let named = format!("{} {}{more}", layer.site, shown.join(", "));
        match lines.last_mut() {
            Some(line) if line.chars().count() + 2 + named.chars().count() <= width => {
                line.extend(["; ", &named]);
            }
            _ => lines.push(format!("dead units: {named}")),
        }
    }
    lines
}

/// A line about the batches of a split that were not finite, and one for every layer that produced something that is
/// not a finite number.
pub(crate) fn faults(of: &SplitReport) -> impl Iterator<Item = String> {
    let batches = of.nonfinite.as_ref().map(|NonFinite { batches, skipped, first }| {
        let skipped = match skipped {
            0 => String::new(),
            n => format!(", {} steps left out", number::count(*n)),
        };
        let (n, split) = (number::count(*batches), of.split.name());
        format!("{split}: batches not finite: {n}{skipped}; {first}")
    });
    let layers = of.layers.iter().filter(|l| l.nan > 0 || l.infinite > 0).map(|l| {
        let kinds = [(l.nan, "NaN"), (l.infinite, "infinite")];
        let kinds =
            kinds.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{} {kind}", number::count(*n)));
        let kinds = kinds.collect::<Vec<_>>().join(" and ");
        format!("{}: {kinds} of {} values ({})", l.site, number::count(l.values), of.split.name())
    });
    batches.into_iter().chain(layers)
}
