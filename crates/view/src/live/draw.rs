use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Borders, Chart, Dataset, GraphType, Widget};
use taper_report::{Metric, MetricKind, Score, Split};

use super::state::State;
use crate::text;

mod cells;
mod sites;

use cells::{fit, put, put_right, width_of};

/// Below this width words are left out.
const NARROW: u16 = 60;
/// Rows of a chart: its title, three of the picture, the axis and its labels.
const CHART: u16 = 6;

/// Colours with a contrast of about 4 to black and to white, in the hues of `palette`. A word or a position repeats the
/// meaning of each.
#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn indexed(self, index: u8) -> Style {
        if self.color { Style::new().fg(Color::Indexed(index)) } else { Style::new() }
    }

    fn split(self, split: Split) -> Style {
        match split {
            Split::Train => self.indexed(166),     // vermilion
            Split::Validation => self.indexed(30), // teal
            Split::Test => self.indexed(32),       // blue
        }
    }

    /// Exact zeros: their bar and their share over the epochs.
    fn zeros(self) -> Style {
        self.indexed(133) // purple
    }

    /// Dead units, and errors.
    fn fault(self) -> Style {
        self.indexed(160) // red
    }

    fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

/// Draws as much as fits: first the name and the progress, then the sites, then the curves.
pub(super) fn draw(state: &State, held: Option<&str>, now: Instant, area: Rect, buf: &mut Buffer) {
    let paint = Paint { color: state.color };
    let progress = if state.planned > 0 && area.height > 6 { 2 } else { 1 };
    let footer = u16::from(area.height > 11 || held.is_some() && area.height > 4);
    let earlier = match state.earlier.len().min(usize::from(area.height / 8)) {
        n if n > 0 && area.height >= 20 => 1 + n as u16,
        _ => 0,
    };
    let rows = [
        Constraint::Length(1),
        Constraint::Length(progress),
        Constraint::Fill(1),
        Constraint::Length(earlier),
        Constraint::Length(footer),
    ];
    let [top, bars, middle, runs, bottom] = Layout::vertical(rows).areas(area);
    header(state, paint, top, buf);
    let both = progress == 1;
    draw_progress(state, both, paint, now, bars, buf);
    draw_earlier(state, paint, runs, buf);
    draw_footer(state, held, paint, bottom, buf);

    let n = if state.scores.is_empty() && state.windows.is_empty() { 2 } else { state.sites.len() };
    let sites = sites::rows(n, area.width < NARROW, middle.height);
    // Lines of scores replace the curves.
    let lines = state.scores.last().map_or(1, |(_, splits)| splits.len().max(1)) as u16;
    let above = match (middle.height - sites).max(1) {
        room if room < CHART => room.min(lines),
        room => room,
    };
    let [above, below] = Layout::vertical([Constraint::Length(above), Constraint::Fill(1)]).areas(middle);
    if above.height < CHART {
        draw_scores(state, paint, above, buf);
    } else {
        draw_charts(state, paint, above, buf);
    }
    sites::draw(state, paint, below, buf);
}

/// The name, the model, and the position among all runs.
fn header(state: &State, paint: Paint, area: Rect, buf: &mut Buffer) {
    let (place, of) = state.place;
    let place = match area.width >= NARROW {
        _ if of < 2 => String::new(),
        true => format!("run {place} of {of}"),
        false => format!("{place}/{of}"),
    };
    let used = put_right(buf, area, &place, Style::new());
    let Some(run) = &state.run else {
        put(buf, area, "no run has begun", paint.dim());
        return;
    };
    let left = Rect { width: area.width.saturating_sub(used + u16::from(used > 0)), ..area };
    let name = fit(&run.name, left.width);
    let used = put(buf, left, &name, paint.bold());
    let rest = Rect { x: left.x + used, width: left.width - used, ..left };
    let about = format!(" · {} on {}, {} parameters", run.model, run.dataset, text::count(run.parameters));
    if rest.width >= 16 {
        put(buf, rest, &fit(&about, rest.width), paint.dim());
    }
}

/// A row for the pass and one for all passes; with `both` one row for both.
fn draw_progress(state: &State, both: bool, paint: Paint, now: Instant, area: Rect, buf: &mut Buffer) {
    let narrow = area.width < NARROW;
    let (mut label, mut share, mut said) = (String::new(), 0.0, String::new());
    if let Some(pass) = &state.pass {
        let epochs = state.run.as_ref().map_or(0, |run| run.epochs);
        let planned = if epochs > 0 { format!("/{epochs}") } else { String::new() };
        let word = if narrow { "" } else { "epoch " };
        label = format!("{word}{}{planned} {}", pass.epoch, pass.split.name());
        share = pass.done as f64 / pass.samples as f64;
        let rate = pass.rate(now).map_or(text::NONE.into(), |rate| text::count(rate.round() as u64));
        said = match narrow {
            true => format!("{rate}/s"),
            false => format!("{}/{}  {rate} samples/s", text::count(pass.done), text::count(pass.samples)),
        };
    }
    let left = state.left(now).map_or("?".into(), duration);
    let (mut all, mut all_said) = ("all runs", String::new());
    if state.place.1 < 2 {
        all = "all epochs";
    }
    if state.planned > 0 {
        let percent = 100.0 * state.done as f64 / state.planned as f64;
        let gone = duration(state.elapsed(now));
        all_said = match narrow {
            true => format!("{percent:.0}% {left} left"),
            false => format!("{percent:.0}%  {gone} gone, {left} left"),
        };
    }
    if both {
        said = format!("{said} {}", if state.planned > 0 { format!("{left} left") } else { String::new() });
    }
    let labels = width_of(&label).max(width_of(all)).min(area.width / 2);
    let saids = width_of(&said).max(if both { 0 } else { width_of(&all_said) });
    let mut row = |y: u16, label: &str, share: f64, said: &str, style: Style| {
        if y >= area.height {
            return;
        }
        let line = Rect { y: area.y + y, height: 1, ..area };
        put(buf, Rect { width: labels, ..line }, label, Style::new());
        put_right(buf, line, said, Style::new());
        let taken = labels + saids + 3;
        if area.width > taken + 2 {
            cells::progress(
                buf,
                Rect { x: line.x + labels + 1, width: area.width - taken, ..line },
                share,
                style,
                paint.dim(),
            );
        }
    };
    let style = state.pass.as_ref().map_or(Style::new(), |pass| paint.split(pass.split));
    row(0, &label, share, said.trim_end(), style);
    if !both {
        row(1, all, state.done as f64 / state.planned as f64, &all_said, Style::new());
    }
}

/// The runs that have ended, the best first, as many as fit.
fn draw_earlier(state: &State, paint: Paint, area: Rect, buf: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    let title = format!("earlier runs ({}), best first ", state.earlier.len());
    let block = Block::new().borders(Borders::TOP).border_style(paint.dim());
    let inside = block.inner(area);
    block.title(Line::from(Span::styled(title, paint.bold()))).render(area, buf);
    let shown = || state.earlier.iter().take(usize::from(inside.height));
    let names = shown().map(|run| width_of(&run.name)).max().unwrap_or(0).min(area.width / 3);
    for (run, row) in shown().zip(inside.rows()) {
        let used = put(buf, Rect { width: names, ..row }, &fit(&run.name, names), Style::new());
        let mut text = run.best.to_string();
        for layer in &run.sites {
            let dead = layer.dead.map_or(String::new(), |dead| format!(" dead {dead}/{}", layer.units));
            text += &format!("  {} {}{dead}", layer.title(), text::share(layer.zero_fraction));
        }
        let by = used.max(names) + 2;
        let rest = Rect { x: row.x + by.min(row.width), width: row.width.saturating_sub(by), ..row };
        put(buf, rest, &fit(&text, rest.width), Style::new());
    }
}

/// The last line of standard error, the last warning, or the keys.
fn draw_footer(state: &State, held: Option<&str>, paint: Paint, area: Rect, buf: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    if let Some(line) = held.or(state.warnings.last().map(String::as_str)) {
        put(buf, area, &fit(line, area.width), paint.fault());
        return;
    }
    let best = state.earlier.first();
    let best = best.map_or(String::new(), |run| format!("best before: {} {}", run.best, run.name));
    let keys = match () {
        () if state.stopping => "ending after this batch; Ctrl-C again ends at once",
        () if state.keys && area.width >= NARROW => "Ctrl-C ends the training, q leaves this view",
        () if state.keys => "Ctrl-C: end   q: leave",
        () => "",
    };
    let used = put(buf, area, keys, paint.dim());
    let rest = area.width.saturating_sub(used + 2);
    if rest >= 24 {
        let style = Style::new();
        put_right(buf, Rect { x: area.x + used + 2, width: rest, ..area }, &fit(&best, rest), style);
    }
}

/// `test  loss 0.0743  accuracy 97.71%`, a row for each split, if there is no room for curves.
fn draw_scores(state: &State, paint: Paint, area: Rect, buf: &mut Buffer) {
    let mut splits: Vec<_> = state.scores.last().into_iter().flat_map(|(_, splits)| splits.clone()).collect();
    if splits.iter().all(|(split, _)| *split != Split::Train) {
        splits.extend(state.windows.last().map(|(_, score)| (Split::Train, score.clone())));
    }
    if splits.is_empty() {
        put(buf, area, "after the first steps", paint.dim());
        return;
    }
    splits.sort_by_key(|(split, _)| std::cmp::Reverse(*split));
    let longest = splits.iter().map(|(split, _)| split.name().len()).max().unwrap_or(0);
    for ((split, score), row) in splits.into_iter().zip(area.rows()) {
        let (name, loss) = (split.name(), text::fixed(score.loss, 4));
        let primary = score.primary();
        let more = if primary.name == "loss" { String::new() } else { format!("  {primary}") };
        let text = format!("{name:longest$}  loss {loss}{more}");
        put(buf, row, &text, paint.split(split));
    }
}

/// The primary metric and the loss over the run, side by side, or only the first.
fn draw_charts(state: &State, paint: Paint, area: Rect, buf: &mut Buffer) {
    let of_epochs = state.scores.iter().flat_map(|(_, splits)| splits.iter().map(|(_, score)| score));
    let scores = state.windows.iter().map(|(_, score)| score).chain(of_epochs);
    let loss = Score::default().primary();
    let primary = scores.last().map_or(loss.clone(), Score::primary);
    if area.width < NARROW || primary.name == loss.name {
        chart(state, &primary, paint, area, buf);
        return;
    }
    let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).spacing(2).areas(area);
    chart(state, &primary, paint, left, buf);
    chart(state, &loss, paint, right, buf);
}

/// One curve for each split; the title has its last number and is the legend.
fn chart(state: &State, metric: &Metric, paint: Paint, area: Rect, buf: &mut Buffer) {
    let factor = if metric.kind == MetricKind::Share { 100.0 } else { 1.0 };
    let mut title = vec![Span::styled(format!("{} ", fit(&metric.name, area.width / 3)), paint.bold())];
    let mut curves = Vec::new();
    for split in [Split::Test, Split::Validation, Split::Train] {
        let of_epoch = |(epoch, splits): &(u32, Vec<(Split, Score)>)| {
            let (_, score) = splits.iter().find(|(of, _)| *of == split)?;
            Some((f64::from(*epoch), score.metric(&metric.name)?))
        };
        let of_window = |(x, score): &(f64, Score)| Some((*x, score.metric(&metric.name)?));
        let all: Vec<(f64, f64)> = match split == Split::Train && !state.windows.is_empty() {
            true => state.windows.iter().filter_map(of_window).collect(),
            false => state.scores.iter().filter_map(of_epoch).collect(),
        };
        let Some((_, last)) = all.last() else { continue };
        let (marker, sign) =
            if split == Split::Test { (Marker::Braille, "⣀") } else { (Marker::Dot, "•") };
        let style = paint.split(split);
        title.push(Span::styled(format!(" {sign} {} {}", split.name(), metric.kind.text(*last)), style));
        let scaled = all.into_iter().map(|(x, y)| (x, factor * y));
        let finite: Vec<_> = scaled.filter(|(_, y)| y.is_finite()).collect();
        curves.push((finite, marker, style));
    }
    title.push(Span::raw(" "));
    let block = Block::new().borders(Borders::TOP).border_style(paint.dim()).title(Line::from(title));
    // The range may leave out the beginning, which can be so much worse that the others could not be distinguished.
    let points = || curves.iter().flat_map(|(points, ..)| points);
    let early = |x: f64| x <= state.at() / 20.0;
    let trained = points().any(|(x, _)| !early(*x));
    let ys = points().filter(|(x, _)| !early(*x) || !trained).map(|(_, y)| *y);
    let range = ys.fold(None, |range: Option<(f64, f64)>, y| {
        range.map_or(Some((y, y)), |(low, high)| Some((low.min(y), high.max(y))))
    });
    let Some((low, high)) = range else {
        let inside = block.inner(area);
        block.render(area, buf);
        let row = Rect { y: inside.y + inside.height / 2, height: inside.height.min(1), ..inside };
        let nothing = state.scores.is_empty() && state.windows.is_empty();
        let why = if nothing { "after the first steps" } else { "no finite number" };
        put(buf, row, why, paint.dim());
        return;
    };
    let (bounds, labels) = scale(low, high, area.height >= CHART + 3);
    let first =
        if state.windows.is_empty() { state.scores.first().map_or(1, |(epoch, _)| *epoch) } else { 0 };
    // A single epoch is in the middle.
    let (xs, ends) = match state.end() {
        end if first == 1 && end <= 1.0 => ([0.0, 2.0], vec![String::new(), "1".into(), String::new()]),
        end => (
            [f64::from(first), end],
            vec![first.to_string(), format!("epoch {}", (100.0 * end).round() / 100.0)],
        ),
    };
    // A single Braille dot is too small.
    let few = curves.iter().all(|(points, ..)| points.len() < 2);
    let datasets = curves.iter().rev().map(|(points, marker, style)| {
        let marker = if few { Marker::Dot } else { *marker };
        Dataset::default().data(points).marker(marker).graph_type(GraphType::Line).style(*style)
    });
    Chart::new(datasets.collect())
        .block(block)
        .legend_position(None)
        .x_axis(Axis::default().bounds(xs).labels(ends).style(paint.dim()))
        .y_axis(Axis::default().bounds(bounds).labels(labels).style(paint.dim()))
        .render(area, buf);
}

/// Round limits around a range, and labels for the axis.
fn scale(low: f64, high: f64, middle: bool) -> ([f64; 2], Vec<String>) {
    // An empty range is widened in proportion to its value.
    let span = (high - low).max(high.abs() * 1e-3).max(1e-9);
    let power = 10_f64.powf(span.log10().floor());
    let step =
        power * [0.1, 0.2, 0.5, 1.0, 2.0, 5.0].into_iter().find(|s| span / (s * power) <= 5.0).unwrap_or(5.0);
    let (mut bottom, mut top) = ((low / step).floor() * step, (high / step).ceil() * step);
    if top <= bottom {
        (bottom, top) = (bottom - step, top + step);
    }
    let decimals = (-(step / 2.0).log10().floor()).clamp(0.0, 6.0) as usize;
    let label = |y: f64| match y.abs() {
        size if size >= 1e5 => format!("{y:.1e}"),
        _ => format!("{y:.decimals$}"),
    };
    let labels = match middle {
        true => vec![label(bottom), label((bottom + top) / 2.0), label(top)],
        false => vec![label(bottom), label(top)],
    };
    ([bottom, top], labels)
}

/// `12s`, `4m 12s`, `3h 07m`
fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, _) => format!("{h}h {m:02}m"),
    }
}
