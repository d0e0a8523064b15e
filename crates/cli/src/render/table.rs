//! Aligned columns in docker's manner: upper-case heads, three spaces between, nothing after the last.

use std::io::{self, Write};

use super::plain::plain;
use super::style::Style;

/// Rows under heads.
pub(crate) struct Table {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table of these columns.
    pub(crate) fn new(heads: &[&str]) -> Table {
        Table {
            heads: heads.iter().map(|head| (*head).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of as many cells as there are heads, each on one line and without what would command a terminal.
    pub(crate) fn row(&mut self, cells: impl Into<Vec<String>>) {
        let cells: Vec<String> = cells.into();
        self.row_as_it_is(cells.iter().map(|cell| plain(cell).into_owned()).collect());
    }

    /// Adds a row whose cells are fit to be shown already.
    pub(crate) fn row_as_it_is(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.heads.len());
        self.rows.push(cells);
    }

    /// Writes heads and rows.
    pub(crate) fn write(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|r| r[column].chars().count());
            cells
                .chain([self.heads[column].chars().count()])
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.heads.len()).map(width).collect();
        let mut line = String::new();
        for (column, head) in self.heads.iter().enumerate() {
            push(&mut line, head, widths[column], column + 1 == widths.len());
        }
        writeln!(out, "{}", style.bold(&line))?;
        for row in &self.rows {
            line.clear();
            for (column, cell) in row.iter().enumerate() {
                push(&mut line, cell, widths[column], column + 1 == widths.len());
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn push(line: &mut String, cell: &str, width: usize, last: bool) {
    line.push_str(cell);
    if !last {
        let gap = width - cell.chars().count() + 3;
        line.extend(std::iter::repeat_n(' ', gap));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_do_not_trail() {
        let mut table = Table::new(&["NAME", "SIZE", "X"]);
        table.row(["a".into(), "10MB".into(), "1".into()]);
        table.row(["längeres".into(), "2B".into(), String::new()]);
        table.row(["\x1b\n".into(), String::new(), "\x07".into()]);
        let mut out = Vec::new();
        table.write(&mut out, Style::PLAIN).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "NAME       SIZE   X\na          10MB   1\nlängeres   2B\n\\u{1b}\\n          \\u{7}\n"
        );
    }
}
