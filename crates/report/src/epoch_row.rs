use crate::{
    EpochReport, LayerStats, Metric, Score, Split, number,
    table::{Cell, Paint},
};

/// An epoch in one line: loss and metrics of every split, zeros and dead units of every layer.
///
/// ```text
///        train            test             fc1         fc2
/// epoch    loss accuracy    loss accuracy  zeros dead  zeros dead
///   1/5  0.2416   92.64%  0.1169   96.38%  63.7%    1  53.0%    2
/// ```
///
/// Widths depend on names and kinds only, so the rows of a run are aligned.
#[derive(Debug, PartialEq)]
pub(crate) struct EpochRow {
    groups: Vec<Group>,
}

/// Columns that share a title.
#[derive(Debug, PartialEq)]
struct Group {
    title: String,
    columns: Vec<Column>,
}

#[derive(Debug, PartialEq)]
struct Column {
    title: String,
    width: usize,
    cell: Cell,
}

/// Space between two groups, in characters; columns of a group are one apart.
const GAP: usize = 2;

impl EpochRow {
    /// The row of an epoch out of `epochs`; 0 if their number is unknown. Layers that do not fit into `width`
    /// characters share the last group.
    pub fn new(report: &EpochReport, epochs: u32, width: usize) -> Self {
        let planned = if epochs > 0 { format!("/{epochs}") } else { String::new() };
        let epoch = format!("{}{planned}", report.epoch);
        let mut groups =
            vec![Group::new("", vec![column("epoch", (2 * planned.len()).saturating_sub(1), epoch)])];
        // Columns of the training, which follows.
        if let (0, None, Some(of)) = (report.epoch, report.split(Split::Train), report.headline()) {
            groups.push(scores(Split::Train, &of.score, false));
        }
        groups.extend(report.splits.iter().map(|of| scores(of.split, &of.score, true)));
        let layers = report.observed().map_or(&[][..], |of| &of.layers);
        let mut shown = layers.len();
        loop {
            let mut row: Vec<Group> =
                layers[..shown].iter().map(|of| layer_group(of.title(), &[of])).collect();
            let rest: Vec<&LayerStats> = layers[shown..].iter().collect();
            if !rest.is_empty() {
                let more = if shown == 0 { "layers" } else { "more" };
                row.push(layer_group(format!("{} {more}", rest.len()), &rest));
            }
            let taken: usize = groups.iter().chain(&row).map(|group| group.width() + GAP).sum();
            if taken <= width + GAP || shown == 0 {
                groups.extend(row);
                return Self { groups };
            }
            shown -= 1;
        }
    }

    /// The two lines of titles.
    pub fn titles(&self, color: bool) -> String {
        let above = self.line(|group| format!("{:<1$}", group.title, group.width()));
        let below = self.line(|group| group.text(|column| format!("{:>1$}", column.title, column.width)));
        let dim = |line: String| format!("{}\n", Paint::Dim.apply(line.trim_end(), color));
        dim(above) + &dim(below)
    }

    /// The line of numbers.
    pub fn text(&self, color: bool) -> String {
        self.line(|group| group.text(|column| column.cell.right(column.width, color))) + "\n"
    }

    fn line(&self, text: impl Fn(&Group) -> String) -> String {
        self.groups.iter().map(text).collect::<Vec<_>>().join(&" ".repeat(GAP))
    }
}

impl Group {
    /// The first column is wide enough for the title.
    fn new(title: impl Into<String>, columns: Vec<Column>) -> Self {
        let mut group = Self { title: title.into(), columns };
        let missing = group.title.chars().count().saturating_sub(group.width());
        group.columns[0].width += missing;
        group
    }

    fn width(&self) -> usize {
        self.columns.iter().map(|column| column.width + 1).sum::<usize>() - 1
    }

    fn text(&self, column: impl Fn(&Column) -> String) -> String {
        self.columns.iter().map(column).collect::<Vec<_>>().join(" ")
    }
}

fn column(title: &str, width: usize, cell: impl Into<Cell>) -> Column {
    Column { title: title.into(), width: width.max(title.chars().count()), cell: cell.into() }
}

/// Loss and metrics; dashes without a measurement.
fn scores(split: Split, score: &Score, measured: bool) -> Group {
    let cell = |text: String| if measured { text } else { number::NONE.into() };
    // 6 characters for every size.
    let decimals = match score.loss.abs() {
        x if x < 10.0 => 4,
        x if x < 100.0 => 3,
        x if x < 1000.0 => 2,
        _ => 1,
    };
    let mut columns = vec![column("loss", 6, cell(number::fixed(score.loss, decimals)))];
    let metric = |of: &Metric| column(&of.name, 7, cell(of.kind.text(of.value)));
    columns.extend(score.metrics.iter().map(metric));
    Group::new(split.name(), columns)
}

/// The share of zeros among all values of these layers, and the number of their dead units.
fn layer_group(title: String, layers: &[&LayerStats]) -> Group {
    let (zeros, values) = layers.iter().fold((0, 0), |sum, of| (sum.0 + of.zeros, sum.1 + of.values));
    let zeros = if values == 0 { number::NONE.into() } else { number::share(zeros as f64 / values as f64) };
    let dead = layers.iter().filter_map(|of| of.dead).reduce(|a, b| a + b);
    let paint = if dead > Some(0) { Paint::Yellow } else { Paint::Plain };
    let dead = Cell::new(dead.map_or(number::NONE.into(), |dead| dead.to_string()), paint);
    Group::new(title, vec![column("zeros", 5, zeros), column("dead", 4, dead)])
}
