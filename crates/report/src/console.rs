use std::io::{IsTerminal, Stdout, Write};

use crate::{
    EpochReport, Error, Result, Run, Sink, Split, SplitReport, Warning,
    epoch_row::EpochRow,
    layer_table::{dead_units, faults, layer_table, legend},
    number, one_line,
    table::{Paint, wrap},
    tracing_sink::labels,
};

/// What a [`ConsoleSink`] prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// Highlight with ANSI colours: titles dim, dead units yellow, NaN and infinities red.
    pub color: bool,
    /// Characters in a line: tables leave columns out where they would be wider.
    pub width: usize,
    /// The table of all layers after every epoch, not only at the end of the run.
    pub verbose: bool,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self { color: false, width: 80, verbose: false }
    }
}

/// Prints a line for every epoch, and at the end of the run a table of what the layers do.
///
/// The line has loss and metrics of every split, and zeros and dead units of every layer; layers that have no room share the
/// last columns. The table is that of the headline split (test, else validation, else train), with the zeros of the
/// training window beside. Layers that produced NaN or infinities in any split, or that could not be recorded, get a
/// line of their own as soon as that is known.
/// A [`Warning`] is one line, after the epoch that shows it, or as soon as a step does.
/// A sink can see several runs, one after the other. Without [`Sink::finish`] there is no table.
///
/// Each call is one `write_all` and one `flush`, of whole lines without carriage returns, so that a
/// writer can step aside for progress bars.
#[derive(Debug)]
pub struct ConsoleSink<W> {
    out: W,
    config: ConsoleConfig,
    /// How many epochs are planned; 0 where no run has begun.
    epochs: u32,
    /// Whether a run has begun: the next one is set off by a blank line.
    begun: bool,
    legend_is_due: bool,
    /// The titles above the rows, and how many rows are below them.
    titles: (String, usize),
    /// The last epoch, if its table was not printed yet.
    last: Option<EpochReport>,
}

/// How many dead units of a layer are named.
const NAMED_DEAD_UNITS: usize = 8;

/// How many rows are below titles before the titles are repeated.
const ROWS: usize = 30;

impl ConsoleSink<Stdout> {
    /// Prints to standard output; in colour where `config.color` asks for it and it is a terminal.
    ///
    /// `NO_COLOR` and the like are the program's to read: libraries read no environment variables.
    pub fn stdout(config: ConsoleConfig) -> Self {
        let out = std::io::stdout();
        let color = config.color && out.is_terminal();
        Self::new(out, ConsoleConfig { color, ..config })
    }
}

impl<W: Write> ConsoleSink<W> {
    /// Prints to any writer, with colours as `config` says.
    pub fn new(out: W, config: ConsoleConfig) -> Self {
        let titles = (String::new(), 0);
        Self { out, config, epochs: 0, begun: false, legend_is_due: true, titles, last: None }
    }

    /// The writer, with everything that was printed.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn print(&mut self, text: &str) -> Result<()> {
        let done = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        done.map_err(Error::io("console"))
    }

    /// The row of an epoch, below titles where there are none for it in sight.
    fn row(&mut self, report: &EpochReport) -> String {
        let ConsoleConfig { color, width, .. } = self.config;
        let row = EpochRow::new(report, self.epochs, width);
        let titles = row.titles(color);
        let (shown, rows) = &mut self.titles;
        *rows += 1;
        if *shown == titles && *rows <= ROWS {
            return row.text(color);
        }
        (*shown, *rows) = (titles, 1);
        format!("{shown}{}", row.text(color))
    }

    /// The table of an epoch, the first one below its legend. The next row has titles again.
    fn table(&mut self, report: &EpochReport) -> String {
        self.titles.0.clear();
        layers(report, self.config, std::mem::take(&mut self.legend_is_due))
    }
}

/// The table of all layers of an epoch, below what was not finite and what its columns mean; empty where no layer was recorded.
pub fn layers_text(report: &EpochReport, config: ConsoleConfig) -> String {
    layers(report, config, true)
}

fn layers(
    report: &EpochReport,
    ConsoleConfig { color, width, .. }: ConsoleConfig,
    explained: bool,
) -> String {
    let mut text = fault_lines(report, color);
    let Some(of) = report.observed() else { return text };
    let beside = |train: &&SplitReport| of.split != Split::Train && !train.layers.is_empty();
    let width = width.saturating_sub(INDENT);
    let table = layer_table(of, report.split(Split::Train).filter(beside), width);
    if explained {
        text.extend(legend(&table, width).map(|of| indented(&of, Paint::Dim, color)));
    }
    text += &table.render(INDENT, color);
    text.extend(
        dead_units(&of.layers, NAMED_DEAD_UNITS, width).iter().map(|of| indented(of, Paint::Yellow, color)),
    );
    text
}

fn fault_lines(report: &EpochReport, color: bool) -> String {
    report.splits.iter().flat_map(faults).map(|line| indented(&line, Paint::Red, color)).collect()
}

fn indented(text: &str, paint: Paint, color: bool) -> String {
    text.lines().map(|line| format!("{:INDENT$}{}\n", "", paint.apply(line, color))).collect()
}

/// Before what is said about the layers of an epoch, in characters.
const INDENT: usize = 2;

impl<W: Write> Sink for ConsoleSink<W> {
    fn begin(&mut self, run: &Run) -> Result<()> {
        self.epochs = run.epochs;
        let blank = if std::mem::replace(&mut self.begun, true) { "\n" } else { "" };
        let labels = if run.labels.is_empty() { String::new() } else { format!(", {}", labels(run)) };
        let Run { name, model, dataset, parameters, seed, .. } = run;
        let parameters = number::count(*parameters);
        let text = format!("{name}: {model} on {dataset}, {parameters} parameters{labels}, seed {seed}");
        let text = wrap(&text, ", ", self.config.width, INDENT);
        let text = text.replacen(name, &Paint::Bold.apply(name, self.config.color), 1);
        (self.titles, self.last) = (Default::default(), None);
        self.print(&format!("{blank}{text}\n"))
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        let mut text = self.row(report);
        if self.config.verbose {
            text += &self.table(report);
        } else {
            text += &fault_lines(report, self.config.color);
            self.last = Some(report.clone());
        }
        self.print(&text)
    }

    fn finish(&mut self) -> Result<()> {
        match self.last.take().map(|last| self.table(&last)) {
            Some(table) if !table.is_empty() => self.print(&format!("\n{table}")),
            _ => Ok(()),
        }
    }

    fn warning(&mut self, warning: &Warning) -> Result<()> {
        let line = format!("warning: {}", one_line(&warning.to_string(), 400));
        self.print(&format!("{}\n", Paint::Yellow.apply(&line, self.config.color)))
    }
}
