use crate::{
    LayerStats, NonFinite, Shown, SplitReport, Statistic, number,
    picture::{PICTURE_TITLE, picture},
    table::{Align, Cell, Paint, Table, wrap},
};

/// What the columns of a [`layer_table`] mean, a line for each that is not obvious, in lines of at most `width` characters.
pub(crate) fn legend(table: &Table, width: usize) -> impl Iterator<Item = String> {
    let train = if table.has("train") { "; train: in training" } else { "" };
    let lines = [
        ("zeros", format!("share of values that are exactly 0{train}")),
        ("dead", "units that no gradient reached; +n -n: died, revived since the last epoch".into()),
        ("dormant", "units with a mean |y| of at most 2.5% of their layer's".into()),
        ("asym", "0 for a symmetric distribution, 1 for a one-sided one".into()),
        (PICTURE, "histogram by octave, =0: the zeros; definitions: docs/statistics.md".into()),
    ];
    let shown = lines.into_iter().filter(|(title, _)| *title == PICTURE || table.has(title));
    shown.map(move |(title, what)| wrap(&format!("{title:<7}  {what}"), " ", width, 9))
}

/// The first and the last column of the picture.
const PICTURE: &str = "-8 .. 8";

/// One row per layer of a split, of at most `width` characters for usual names; of the training window `train` the zeros stand
/// beside.
pub(crate) fn layer_table(of: &SplitReport, train: Option<&SplitReport>, width: usize) -> Table {
    let layers = &of.layers;
    let mut table = Table::default();
    table.column(Align::Left, of.split.name(), layers.iter().map(LayerStats::title));
    let activation = |l: &LayerStats| l.activation.clone().unwrap_or(number::NONE.into());
    table.column(Align::Left, "act", layers.iter().map(activation));
    for statistic in Statistic::shown_in(Shown::Console) {
        let cell = |l: &LayerStats| (statistic.value)(l).map_or(number::NONE.into(), |x| statistic.text(x));
        match statistic.id {
            "dead" => table.column(Align::Left, statistic.column, dead(layers)),
            _ => table.column(Align::Right, statistic.column, layers.iter().map(cell)),
        }
        if let Some(train) = train.filter(|_| statistic.id == "zero_fraction") {
            let in_train = |l: &LayerStats| train.layers.iter().find(|t| t.site == l.site);
            let cells = layers.iter().map(|l| in_train(l).map_or(number::NONE.into(), cell));
            table.column(Align::Right, train.split.name(), cells);
        }
    }
    let pictures = layers.iter().map(|l| l.histogram.as_ref().map_or(number::NONE.into(), picture));
    table.column(Align::Left, PICTURE_TITLE, pictures);
    // The picture shows these too, if less exactly.
    table.fit(width, &["mean", "std", "asym", "skew", "dormant"]);
    table
}

/// `3/256 +1 -0`, the slashes below each other; the changes only where there are any.
fn dead(layers: &[LayerStats]) -> Vec<Cell> {
    let count = |l: &LayerStats| l.dead.map_or(number::NONE.into(), |dead| format!("{dead}/{}", l.units));
    let counts: Vec<String> = layers.iter().map(count).collect();
    let width = counts.iter().map(|count| count.chars().count()).max().unwrap_or(0);
    let cell = |(l, count): (&LayerStats, &String)| {
        let changes = match (l.died.unwrap_or(0), l.revived.unwrap_or(0)) {
            (0, 0) => String::new(),
            (died, revived) => format!(" +{died} -{revived}"),
        };
        let paint = if l.dead > Some(0) { Paint::Yellow } else { Paint::Plain };
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

/// A line about the batches of a split that were not finite, one for every layer that produced something that is not a
/// finite number, and one for every layer that could not be recorded.
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
    let troubles = of.layers.iter().filter_map(|l| {
        let trouble = l.trouble.as_ref()?;
        Some(format!("{}: not all recorded ({}): {trouble}", l.site, of.split.name()))
    });
    batches.into_iter().chain(layers).chain(troubles)
}
