use std::borrow::Cow;

use crate::number;

/// The style of a piece of text when colours are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Paint {
    #[default]
    Plain,
    Bold,
    Dim,
    Red,
    Yellow,
}

impl Paint {
    /// The text between its escape codes; as it is without colour.
    pub fn apply(self, text: &str, color: bool) -> Cow<'_, str> {
        let code = match self {
            Self::Bold => 1,
            Self::Dim => 2,
            Self::Red => 31,
            Self::Yellow => 33,
            Self::Plain => return text.into(),
        };
        if color { format!("\x1b[{code}m{text}\x1b[0m").into() } else { text.into() }
    }
}

/// A piece of text in a [`Table`], made from any text.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, paint: Paint) -> Self {
        Self { text: text.into(), paint }
    }

    /// The text, right-aligned in this many characters.
    pub(crate) fn right(&self, width: usize, color: bool) -> String {
        let pad = " ".repeat(width.saturating_sub(self.text.chars().count()));
        pad + &self.paint.apply(&self.text, color)
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Paint::Plain)
    }
}

/// The side of a column at which its cells line up.
#[derive(Clone, Copy, Debug)]
pub enum Align {
    /// For names.
    Left,
    /// For numbers.
    Right,
}

/// Columns of text under a line of titles; all lines have the same width.
///
/// ```
/// use taper_report::{Align, Table};
///
/// let mut table = Table::default();
/// table.column(Align::Left, "site", ["fc1", "fc2"]);
/// table.column(Align::Right, "zeros", ["63.2%", "9.0%"]);
/// assert_eq!(table.render(0, false), "site  zeros\nfc1   63.2%\nfc2    9.0%\n");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Table {
    columns: Vec<Column>,
}

#[derive(Clone, Debug)]
struct Column {
    title: String,
    align: Align,
    cells: Vec<Cell>,
    /// In characters.
    width: usize,
}

/// Space between two columns, in characters.
const GAP: usize = 2;

impl Table {
    /// Adds a column; missing cells at its end become "no number".
    pub fn column<C: Into<Cell>>(&mut self, align: Align, title: &str, cells: impl IntoIterator<Item = C>) {
        let cells: Vec<Cell> = cells.into_iter().map(Into::into).collect();
        let widths = cells.iter().map(|cell| cell.text.chars().count());
        let width = widths.chain([title.chars().count()]).max().unwrap_or(0);
        self.columns.push(Column { title: title.into(), align, cells, width });
    }

    /// Characters in each line.
    pub fn width(&self) -> usize {
        let gaps = GAP * self.columns.len().saturating_sub(1);
        self.columns.iter().map(|column| column.width).sum::<usize>() + gaps
    }

    /// Removes columns with these titles, in this order, until a line has at most `width` characters.
    pub fn fit(&mut self, width: usize, expendable: &[&str]) {
        for title in expendable {
            if self.width() <= width {
                break;
            }
            self.columns.retain(|column| column.title != *title);
        }
    }

    /// Whether it has a column with this title.
    pub fn has(&self, title: &str) -> bool {
        self.columns.iter().any(|column| column.title == title)
    }

    /// The lines, titles first, each after `indent` spaces.
    pub fn render(&self, indent: usize, color: bool) -> String {
        let rows = self.columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
        let mut text = String::new();
        for row in 0..=rows {
            text.push_str(&" ".repeat(indent));
            for (i, column) in self.columns.iter().enumerate() {
                let (cell, paint) = match row.checked_sub(1).map(|row| column.cells.get(row)) {
                    None => (column.title.as_str(), Paint::Dim),
                    Some(None) => (number::NONE, Paint::Plain),
                    Some(Some(cell)) => (cell.text.as_str(), cell.paint),
                };
                let pad = " ".repeat(column.width - cell.chars().count());
                let cell = paint.apply(cell, color);
                let gap = if i == 0 { 0 } else { GAP };
                text.push_str(&" ".repeat(gap));
                match column.align {
                    Align::Left => text.extend([cell.as_ref(), &pad]),
                    Align::Right => text.extend([pad.as_str(), &cell]),
                }
            }
            text.push('\n');
        }
        text
    }
}

/// A text in lines of at most `width` characters, all but the first after `indent` spaces, broken at `gaps` only.
pub(crate) fn wrap(text: &str, gaps: &str, width: usize, indent: usize) -> String {
    let mut wrapped = String::new();
    let mut taken = 0;
    for word in text.split_inclusive(gaps) {
        let n = word.trim_end().chars().count();
        if taken > indent && taken + n > width {
            wrapped.truncate(wrapped.trim_end().len());
            wrapped += &format!("\n{}", " ".repeat(indent));
            taken = indent;
        }
        wrapped += word;
        taken += word.chars().count();
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_characters_and_the_colours() {
        let mut table = Table::default();
        table.column(Align::Left, "site", ["fc1", "blöcke"]);
        table.column(Align::Right, "▁▂▃", [Cell::new("1", Paint::Red), "–".into()]);
        let plain = table.render(2, false);
        assert_eq!(plain, "  site    ▁▂▃\n  fc1       1\n  blöcke    –\n");
        assert!(plain.lines().all(|line| line.chars().count() == 2 + table.width()));
        let colored = table.render(2, true);
        assert!(colored.contains("\x1b[31m1\x1b[0m"));
        let without_codes = [1, 2, 31]
            .iter()
            .fold(colored.replace("\x1b[0m", ""), |text, code| text.replace(&format!("\x1b[{code}m"), ""));
        assert_eq!(without_codes, plain);
    }

    #[test]
    fn columns_are_left_out_until_a_line_fits_and_no_longer() {
        let mut table = Table::default();
        for title in ["one", "two", "three"] {
            table.column(Align::Left, title, ["1"]);
        }
        table.fit(10, &["two", "one"]); // one  three
        assert_eq!((table.width(), table.has("one"), table.has("two")), (10, true, false));
    }

    #[test]
    fn text_is_wrapped_at_its_gaps_and_no_word_is_lost() {
        assert_eq!(
            wrap("zeros   the share of zeros", " ", 14, 8),
            "zeros   the\n        share\n        of\n        zeros"
        );
        assert_eq!(wrap("a verylongword b", " ", 6, 1), "a\n verylongword\n b");
        assert_eq!(wrap("a b, c d", ", ", 6, 1), "a b,\n c d");
    }
}
