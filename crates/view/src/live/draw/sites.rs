//! The sites, in one block or one line each.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Widget};
use taper_report::{Histogram, Split};

use super::super::state::{Site, State};
use super::cells::{bars, fit, put, put_right, width_of};
use super::{CHART, NARROW, Paint};
use crate::text;

/// The largest number of rows of a block.
const TALLEST: u16 = 9;

/// The smallest width of a line's numbers and sparklines next to a picture.
const LINE: u16 = 30;

/// Octaves on each side of zero with their own columns: from ⅛ to 8.
const OCTAVES: usize = 6;

/// The layout that all sites share.
#[derive(Clone, Copy)]
struct Look {
    paint: Paint,
    /// The value of the window's split.
    style: Style,
    /// Columns for names.
    names: u16,
    /// The end of the sparklines in epochs, and the position of the run.
    end: f64,
    at: f64,
}

/// The rows of `rows` for the sites; the rest may be too small for curves.
pub(super) fn rows(n: usize, narrow: bool, rows: u16) -> u16 {
    let n = n.clamp(1, 1000) as u16;
    let lines = 1 + n;
    if rows < lines + CHART {
        // At least one row remains for the scores.
        let each = (rows.saturating_sub(2) / n).min(TALLEST);
        return if narrow || each < 3 { lines.min(rows) } else { 1 + n * each };
    }
    let curves = (rows * 2 / 5).max(CHART);
    // Three rows are better than one, and better than taller curves; two would show no more than one.
    let room = |curves: u16| (rows.saturating_sub(curves + 1) / n).min(TALLEST);
    let each = if room(curves) < 3 { room(CHART).min(3) } else { room(curves) };
    if narrow || each < 3 { lines } else { 1 + n * each }
}

pub(super) fn draw(state: &State, paint: Paint, area: Rect, buf: &mut Buffer) {
    let window = state.window.map_or("", |split| split.name());
    let mut title = vec![Span::styled("sites ", paint.bold())];
    if let Some(split) = state.window {
        match state.step {
            Some(step) => {
                let text = format!(" train, step {} ", text::count(step));
                title.push(Span::styled(text, paint.split(Split::Train)));
                title.push(Span::styled(format!(" distribution: {} ", split.name()), paint.split(split)));
            }
            None => title.push(Span::styled(format!(" {} ", split.name()), paint.split(split))),
        }
    }
    if area.height == 0 {
        return;
    }
    let block = Block::new().borders(Borders::TOP).border_style(paint.dim()).title(Line::from(title));
    let n = state.sites.len() as u16;
    let rows = area.height.saturating_sub(1);
    let each = if area.width >= NARROW { rows / n.max(1) } else { 1 };
    // All sites without a title are better than one site less.
    let inside = if rows < n { area } else { block.inner(area) };
    if inside != area || n == 0 {
        block.render(area, buf);
    }
    if n == 0 {
        let why = match &state.run {
            None => "",
            _ if state.scores.is_empty() && state.windows.is_empty() => "after the first steps",
            _ => "nobody watches activations",
        };
        put(buf, inside, why, paint.dim());
        return;
    }
    let names = state.sites.iter().map(|site| width_of(&site.now.title()).max(width_of(activation(site))));
    let names = names.max().unwrap_or(0).clamp(4, (area.width / 6).max(4));
    let look = Look {
        paint,
        style: state.window.map_or(Style::new(), |split| paint.split(split)),
        names,
        end: state.end(),
        at: state.at(),
    };
    if each >= 3 {
        let each = each.min(TALLEST);
        for (i, site) in state.sites.iter().enumerate() {
            let area = Rect { y: inside.y + i as u16 * each, height: each, ..inside };
            draw_block(site, look, area, buf);
        }
        return;
    }
    if inside != area && area.width >= names + 1 + LINE + picture_width(1) {
        draw_axis(1, paint, shrink(Rect { height: 1, ..area }, area.width - picture_width(1)), buf);
    }
    let fitting = inside.height.min(n);
    for (i, site) in state.sites.iter().take(usize::from(fitting)).enumerate() {
        let row = Rect { y: inside.y + i as u16, height: 1, ..inside };
        if i as u16 + 1 == fitting && fitting < n {
            put(buf, row, &format!("… and {} more {window} sites", n - i as u16), paint.dim());
        } else {
            draw_line(site, look, row, buf);
        }
    }
}

/// At least three rows: zeros and dead units as numbers and sparklines, and the distribution at the right.
fn draw_block(site: &Site, look: Look, area: Rect, buf: &mut Buffer) {
    let Look { paint, names, .. } = look;
    let parts =
        [4, 2, 1].into_iter().find(|parts| area.width >= names + 34 + picture_width(*parts)).unwrap_or(1);
    let columns = [
        Constraint::Length(names),
        Constraint::Length(18),
        Constraint::Fill(1),
        Constraint::Length(picture_width(parts)),
    ];
    let [name, numbers, lines, picture] = Layout::horizontal(columns).spacing(1).areas(area);
    let rows = (area.height - 1) / 2;
    let layer = &site.now;
    let below = |area: Rect, y: u16, height: u16| Rect { y: area.y + y, height, ..area };
    put(buf, below(name, 0, 1), &fit(&layer.title(), name.width), paint.bold());
    put(buf, below(name, rows, 1), &fit(activation(site), name.width), paint.dim());

    let zeros = format!("zeros {}", text::share(layer.zero_fraction));
    put(buf, below(numbers, 0, 1), &zeros, paint.zeros());
    let changes = match (layer.died.unwrap_or(0), layer.revived.unwrap_or(0)) {
        (0, 0) => String::new(),
        (died, revived) => format!(" +{died} -{revived}"),
    };
    let dead = layer.dead.map_or(String::new(), |dead| format!("dead  {dead}/{}{changes}", layer.units));
    let alarm = if layer.dead > Some(0) { paint.fault() } else { Style::new() };
    put(buf, below(numbers, rows, 1), &fit(&dead, numbers.width), alarm);
    sparklines(site, look, below(lines, 0, rows), below(lines, rows, rows), buf);

    let bottom = area.height - 1;
    let rest = Rect { x: area.x, width: picture.x.saturating_sub(area.x + 1), ..below(area, bottom, 1) };
    match fault(site) {
        Some(fault) => put(buf, rest, &fit(&fault, rest.width), paint.fault()),
        None => {
            let number = |x: Option<f64>| x.map_or(text::NONE.into(), |x| text::fixed(x, 2));
            let (mean, std) = (number(layer.mean), number(layer.std()));
            let (skew, asym) = (number(layer.skewness), number(layer.asymmetry));
            let long = format!("mean {mean}  std {std}  skew {skew}  asym {asym}");
            let short = format!("mean {mean}  std {std}");
            let full = layer.skewness.is_some() && width_of(&long) <= rest.width;
            let text = if full { long } else { short };
            put(buf, rest, &fit(&text, rest.width), paint.dim())
        }
    };
    draw_picture(site, parts, look, below(picture, 0, bottom), buf);
    draw_axis(parts, paint, below(picture, bottom, 1), buf);
}

/// One row, as much of it as fits.
fn draw_line(site: &Site, look: Look, area: Rect, buf: &mut Buffer) {
    let Look { paint, names, .. } = look;
    let layer = &site.now;
    let used = put(buf, Rect { width: names, ..area }, &fit(&layer.title(), names), paint.bold());
    let mut rest = shrink(area, used.max(names) + 1);
    if let Some(fault) = fault(site) {
        put(buf, rest, &fit(&fault, rest.width), paint.fault());
        return;
    }
    if rest.width >= LINE + picture_width(1) {
        let picture = Rect { x: rest.right() - picture_width(1), width: picture_width(1), ..rest };
        draw_picture(site, 1, look, picture, buf);
        rest.width -= picture.width + 1;
    }
    let dead = layer.dead.map_or(text::NONE.into(), |dead| format!("{dead}/{}", layer.units));
    let zeros = text::share(layer.zero_fraction);
    let words = if rest.width >= 44 { ["zeros ", "dead "] } else { ["", ""] };
    let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).spacing(1).areas(rest);
    let zeros_width = 6 + width_of(words[0]);
    put_right(
        buf,
        Rect { width: zeros_width.min(left.width), ..left },
        &format!("{}{zeros:>6}", words[0]),
        paint.zeros(),
    );
    let alarm = if layer.dead > Some(0) { paint.fault() } else { Style::new() };
    let dead = format!("{}{dead:>8}", words[1]);
    put(buf, right, &dead, alarm);
    sparklines(site, look, shrink(left, zeros_width + 1), shrink(right, width_of(&dead) + 1), buf);
}

fn shrink(area: Rect, by: u16) -> Rect {
    let by = by.min(area.width);
    Rect { x: area.x + by, width: area.width - by, ..area }
}

/// Zeros and dead units over the run so far: each column shows the last window that ends in it or before it.
fn sparklines(site: &Site, Look { paint, end, at, .. }: Look, zeros: Rect, dead: Rect, buf: &mut Buffer) {
    let columns = |area: Rect| {
        let width = f64::from(area.width);
        (0..area.width).map(move |column| {
            let (from, to) = (f64::from(column) / width * end, f64::from(column + 1) / width * end);
            let known = site.past.partition_point(|(x, ..)| *x <= to);
            site.past[..known].last().filter(|_| from < at).copied().unwrap_or_default()
        })
    };
    bars(buf, zeros, columns(zeros).map(|(_, zeros, _)| zeros), paint.zeros());
    bars(buf, dead, columns(dead).map(|(_, _, dead)| dead.unwrap_or(0.0)), paint.fault());
}

/// The site's function; empty if there is none.
fn activation(site: &Site) -> &str {
    site.now.activation.as_deref().unwrap_or_default()
}

/// NaN and infinities come first, then a trouble.
fn fault(site: &Site) -> Option<String> {
    let kinds = [(site.now.nan, "NaN"), (site.now.infinite, "infinite")];
    let kinds: Vec<String> =
        kinds.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{} {kind}", text::count(*n))).collect();
    let values = || format!("{} of {} values", kinds.join(" and "), text::count(site.now.values));
    (!kinds.is_empty()).then(values).or_else(|| site.now.trouble.as_ref().map(ToString::to_string))
}

/// Columns on each side of zero: below ⅛, the octaves in `parts` each, 8 and more.
fn side(parts: usize) -> usize {
    OCTAVES * parts + 2
}

/// Both sides, the bar of the zeros, two columns wide, and a rule on either side of it.
fn picture_width(parts: usize) -> u16 {
    (2 * side(parts) + 4) as u16
}

/// Counts per octave of magnitude, in the columns of one side, from zero outwards: parts of an octave have different
/// widths. The first and the last column count as one octave each.
fn columns(counts: &[u64], parts: usize) -> Vec<f64> {
    let mut columns = vec![0.0; side(parts)];
    for (bin, n) in counts.iter().enumerate() {
        let low = Histogram::edges(bin).0;
        let octave = low.log2().floor();
        // An octave has eight bins of equal width.
        let part = ((low / octave.exp2() - 1.0) * parts as f64) as usize;
        let edge = |part: usize| (1.0 + part as f64 / parts as f64).log2();
        let (column, width) = match octave + 3.0 {
            k if k >= 0.0 && k < OCTAVES as f64 => {
                (1 + k as usize * parts + part, edge(part + 1) - edge(part))
            }
            k if k > 0.0 => (side(parts) - 1, 1.0),
            _ => (0, 1.0),
        };
        columns[column] += *n as f64 / width;
    }
    columns
}

/// Negative values, the exact zeros on their own scale, positive values.
fn draw_picture(site: &Site, parts: usize, Look { paint, style, .. }: Look, area: Rect, buf: &mut Buffer) {
    let Some(histogram) = &site.now.histogram else {
        put(buf, area, text::NONE, paint.dim());
        return;
    };
    let (negative, positive) = (columns(&histogram.negative, parts), columns(&histogram.positive, parts));
    let tallest = negative.iter().chain(&positive).copied().fold(f64::MIN_POSITIVE, f64::max);
    let n = side(parts) as u16;
    let part = |x: u16, width: u16| Rect { x: area.x + x, width, ..area }.intersection(area);
    bars(buf, part(0, n), negative.iter().rev().map(|n| n / tallest), style);
    let spike = histogram.zeros as f64 / histogram.total().max(1) as f64;
    bars(buf, part(n + 1, 2), [spike; 2].into_iter(), paint.zeros());
    bars(buf, part(n + 4, n), positive.iter().map(|n| n / tallest), style);
    for y in 0..area.height {
        for x in [n, n + 3] {
            put(buf, Rect { y: area.y + y, ..part(x, 1) }, "│", paint.dim());
        }
    }
}

/// Each label begins at the column of its magnitude.
fn draw_axis(parts: usize, paint: Paint, area: Rect, buf: &mut Buffer) {
    let n = side(parts) as u16;
    put(buf, area, &" ".repeat(usize::from(area.width)), Style::reset());
    let mut label = |x: u16, text: &str, style: Style| {
        put(buf, shrink(area, x), text, style);
    };
    label(n + 1, "=0", paint.zeros());
    // Octaves from ⅛ upwards: 1 is the fourth, 8 is after all.
    for (octave, name) in [(0, "⅛"), (3, "1"), (6, "8")].into_iter().filter(|(k, _)| *k > 0 || parts > 1) {
        let column = 1 + octave * parts as u16;
        label(n + 4 + column, name, paint.dim());
        label(n - 1 - column, &format!("-{name}"), paint.dim());
    }
}
