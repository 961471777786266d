use std::io::{IsTerminal, Stdout, Write};

use crate::{
    EpochReport, Error, Result, Run, Sink, Split, SplitReport, Warning,
    layer_table::{dead_units, faults, layer_table, legend},
    number, one_line,
    table::Paint,
    tracing_sink::labels,
};

/// What a [`ConsoleSink`] prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// Highlight with ANSI colours: titles dim, dead units yellow, NaN and infinities red.
    pub color: bool,
    /// A table of the layers below the line of each epoch.
    pub layers: bool,
    /// A table for every split that observed layers, not only for the headline one.
    pub all_splits: bool,
    /// Explain the table's columns, once, above the first one.
    pub legend: bool,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self { color: false, layers: true, all_splits: false, legend: true }
    }
}

/// Prints a line for every epoch, and a table of what the layers do.
///
/// The table is that of the headline split (test, else validation, else train), with the zeros of the
/// training window beside; layers that produced NaN or infinities in any split, or that could not be recorded, get a
/// line of their own.
/// A [`Warning`] is one line, behind the epoch that shows it, or as soon as a step does.
/// A sink can see several runs, one after the other.
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
}

/// How many dead units of a layer are named.
const NAMED_DEAD_UNITS: usize = 8;

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
        Self { out, config, epochs: 0, begun: false, legend_is_due: config.legend }
    }

    /// The writer, with everything that was printed.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn print(&mut self, text: &str) -> Result<()> {
        let done = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        done.map_err(Error::io("console"))
    }

    /// `epoch  3/10  train loss 0.0812 accuracy 97.53%  test loss 0.0743 accuracy 97.71%  25,310 samples/s  tracking 3.1%`
    fn epoch_line(&self, report: &EpochReport) -> String {
        let width = self.epochs.to_string().len();
        let planned = if self.epochs > 0 { format!("/{}", self.epochs) } else { String::new() };
        let mut parts = vec![format!("epoch {:>width$}{planned}", report.epoch)];
        for SplitReport { split, score, .. } in &report.splits {
            let metrics: String = score.metrics.iter().map(|metric| format!(" {metric}")).collect();
            parts.push(format!("{} loss {}{metrics}", split.name(), number::fixed(score.loss, 4)));
        }
        // The speed and the cost of tracking are those of training, where there was any.
        if let Some(of) = report.split(Split::Train).or(report.headline()).filter(|of| of.seconds > 0.0) {
            parts.push(format!("{} samples/s", number::count(of.samples_per_second().round() as u64)));
            if !of.layers.is_empty() {
                parts.push(format!("tracking {}", number::share(of.tracking_fraction())));
            }
        }
        parts.join("  ")
    }

    fn tables(&mut self, report: &EpochReport) -> String {
        let color = self.config.color;
        let mut text = String::new();
        let Some(headline) = report.observed() else { return text };
        if std::mem::take(&mut self.legend_is_due) {
            for line in legend() {
                text += &format!("  {}\n", Paint::Dim.apply(&line, color));
            }
        }
        let shown = |of: &&SplitReport| {
            !of.layers.is_empty() && (self.config.all_splits || of.split == headline.split)
        };
        for of in report.splits.iter().filter(shown) {
            let beside = |train: &&SplitReport| {
                !self.config.all_splits && of.split != Split::Train && !train.layers.is_empty()
            };
            text += &layer_table(of, report.split(Split::Train).filter(beside)).render(2, color);
            for line in dead_units(&of.layers, NAMED_DEAD_UNITS, 98) {
                text += &format!("  {}\n", Paint::Yellow.apply(&line, color));
            }
        }
        text
    }
}

impl<W: Write> Sink for ConsoleSink<W> {
    fn begin(&mut self, run: &Run) -> Result<()> {
        self.epochs = run.epochs;
        let blank = if std::mem::replace(&mut self.begun, true) { "\n" } else { "" };
        let labels = if run.labels.is_empty() { String::new() } else { format!(", {}", labels(run)) };
        let text = format!(
            "{blank}{}: {} on {}, {} parameters{labels}, seed {}\n",
            Paint::Bold.apply(&run.name, self.config.color),
            run.model,
            run.dataset,
            number::count(run.parameters),
            run.seed,
        );
        self.print(&text)
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        let color = self.config.color;
        let mut text = format!("{}\n", Paint::Bold.apply(&self.epoch_line(report), color));
        for line in report.splits.iter().flat_map(faults) {
            text += &format!("  {}\n", Paint::Red.apply(&line, color));
        }
        if self.config.layers {
            text += &self.tables(report);
        }
        self.print(&text)
    }

    fn warning(&mut self, warning: &Warning) -> Result<()> {
        let line = format!("warning: {}", one_line(&warning.to_string(), 400));
        self.print(&format!("{}\n", Paint::Yellow.apply(&line, self.config.color)))
    }
}
