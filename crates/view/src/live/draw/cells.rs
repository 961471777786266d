//! Text and blocks, cell by cell, clipped to their area.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Span;

/// The width of a text in columns.
pub(super) fn width_of(text: &str) -> u16 {
    Span::raw(text).width().min(usize::from(u16::MAX)) as u16
}

/// Writes into the first row of an area; returns the number of columns.
pub(super) fn put(buf: &mut Buffer, area: Rect, text: &str, style: Style) -> u16 {
    let area = area.intersection(buf.area);
    if area.is_empty() {
        return 0;
    }
    let (end, _) = buf.set_stringn(area.x, area.y, text, usize::from(area.width), style);
    end - area.x
}

/// The same at the right end of the row, if all of it fits.
pub(super) fn put_right(buf: &mut Buffer, area: Rect, text: &str, style: Style) -> u16 {
    let width = width_of(text);
    if width > area.width {
        return 0;
    }
    put(buf, Rect { x: area.right() - width, width, ..area }, text, style)
}

/// At most this many columns, with an ellipsis for the rest, and blanks for control characters.
pub(super) fn fit(text: &str, width: u16) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if width_of(&clean) <= width {
        return clean;
    }
    let mut short = String::new();
    for c in clean.chars() {
        short.push(c);
        if width_of(&short) >= width {
            short.pop();
            break;
        }
    }
    if width > 0 {
        short.push('…');
    }
    short
}

/// Bars one column wide and up to the area's height, for fractions of it; a non-zero fraction has at least an eighth of
/// a row.
pub(super) fn bars(buf: &mut Buffer, area: Rect, heights: impl Iterator<Item = f64>, style: Style) {
    const BLOCKS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
    let area = area.intersection(buf.area);
    for (x, height) in (area.left()..area.right()).zip(heights) {
        // Casts saturate, and NaN is 0.
        let eighths = (height * f64::from(8 * area.height)).ceil() as u64;
        for (row, y) in (area.top()..area.bottom()).rev().enumerate() {
            let symbol = BLOCKS[eighths.saturating_sub(8 * row as u64).min(8) as usize];
            if symbol != " " {
                buf[(x, y)].set_symbol(symbol).set_style(style);
            }
        }
    }
}

/// A bar of progress, in half columns.
pub(super) fn progress(buf: &mut Buffer, area: Rect, share: f64, done: Style, rest: Style) {
    let halves = (share.clamp(0.0, 1.0) * 2.0 * f64::from(area.width)) as u16;
    let full = "━".repeat(usize::from(halves / 2)) + if halves % 2 == 1 { "╸" } else { "" };
    put(buf, area, &"─".repeat(usize::from(area.width)), rest);
    put(buf, area, &full, done.remove_modifier(ratatui::style::Modifier::DIM));
}
