use std::borrow::Cow;

use crate::number;

/// How a piece of text stands out when colours are on.
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

/// A piece of text in a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub fn new(text: impl Into<String>, paint: Paint) -> Self {
        Self { text: text.into(), paint }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Paint::Plain)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Columns of text under a line of titles; every line of it is equally wide.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
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

/// Between two columns, in characters.
const GAP: usize = 2;

impl Table {
    /// Adds a column; one with fewer cells than its neighbours is filled up with "no number".
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
}
