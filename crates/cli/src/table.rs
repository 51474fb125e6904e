//! Aligned columns without lines: text to the left, figures to the right.
//!
//! Widths are counted in characters, which is exact for what we print (names, addresses, figures).

use std::fmt;

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// For text.
    Left,
    /// For figures.
    Right,
}

/// Rows under a header, rendered by `Display`; each line ends with a newline.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

/// Spaces between two columns.
const GAP: &str = "  ";

impl Table {
    /// A table with these columns; a header that starts with `>` is aligned to the right.
    pub fn new(headers: &[&str]) -> Table {
        let columns = headers
            .iter()
            .map(|header| match header.strip_prefix('>') {
                Some(figures) => (figures.to_owned(), Align::Right),
                None => ((*header).to_owned(), Align::Left),
            })
            .collect();
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row; missing cells stay empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        debug_assert!(cells.len() <= self.columns.len(), "more cells than columns");
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    fn widths(&self) -> Vec<usize> {
        let headers = self.columns.iter().map(|(header, _)| header.chars().count());
        headers
            .enumerate()
            .map(|(at, header)| {
                let cells = self.rows.iter().map(|row| row[at].chars().count());
                cells.fold(header, usize::max)
            })
            .collect()
    }

    fn line(&self, cells: &[&str], widths: &[usize]) -> String {
        let mut line = String::new();
        for (at, cell) in cells.iter().enumerate() {
            if at > 0 {
                line.push_str(GAP);
            }
            let width = widths[at];
            match self.columns[at].1 {
                Align::Left => line.push_str(&format!("{cell:<width$}")),
                Align::Right => line.push_str(&format!("{cell:>width$}")),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let headers: Vec<&str> = self.columns.iter().map(|(header, _)| header.as_str()).collect();
        writeln!(f, "{}", self.line(&headers, &widths))?;
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            writeln!(f, "{}", self.line(&cells, &widths))?;
        }
        Ok(())
    }
}

/// Facts about one thing: names to the left, values in a column behind them.
#[derive(Debug, Default)]
pub struct Facts {
    facts: Vec<(String, String)>,
}

impl Facts {
    /// Adds a line.
    pub fn fact(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Facts {
        self.facts.push((name.into(), value.into()));
        self
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in &self.facts {
            writeln!(f, "{}", format!("{name:<width$}{GAP}{value}").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_left_and_figures_go_right() {
        let mut table = Table::new(&["queue", ">ready", "leader"]);
        table.row(["orders", "12", "node 1"]);
        table.row(["a-longer-name", "1,234,567", ""]);
        assert_eq!(
            table.to_string(),
            "queue              ready  leader\n\
             orders                12  node 1\n\
             a-longer-name  1,234,567\n"
        );
    }

    #[test]
    fn columns_line_up_behind_letters_of_several_bytes() {
        let mut table = Table::new(&["name", ">n"]);
        table.row(["größe", "1"]);
        table.row(["plain", "2"]);
        let rendered = table.to_string();
        let ends: Vec<usize> = rendered.lines().map(|line| line.chars().count()).collect();
        assert_eq!(ends, [8, 8, 8]);
    }

    #[test]
    fn facts_share_one_value_column() {
        let mut facts = Facts::default();
        facts.fact("lost", "0").fact("confirmed", "100,000").fact("empty", "");
        assert_eq!(facts.to_string(), "lost       0\nconfirmed  100,000\nempty\n");
    }
}
