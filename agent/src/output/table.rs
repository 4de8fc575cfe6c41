//! Tables for a terminal, aligned where Chinese characters take two columns.

/// Columns that `text` takes on a terminal: two for a wide (CJK) character, none for a combining mark.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// East Asian Wide and Fullwidth (Unicode's UAX 11) by block: the blocks that names and texts in Chinese come from.
const fn char_width(c: char) -> usize {
    match c as u32 {
        0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0x33ff
        | 0x3400..=0x4dbf
        | 0x4e00..=0x9fff
        | 0xa000..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Rows under headings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![headings.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row. Control characters, which come from other people's texts, are made visible.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(|cell| clean(&cell.into())).collect());
    }

    /// The text: one line a row, columns two spaces apart, no spaces at the ends of lines.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|i| self.rows.iter().filter_map(|row| row.get(i)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, column) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(column - width(cell) + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `text` on one line, with control characters and the marks that turn text around replaced.
pub fn clean(text: &str) -> String {
    let hidden = |c: char| c.is_control() || matches!(c as u32, 0x202a..=0x202e | 0x2066..=0x2069 | 0x200e | 0x200f);
    text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(width("abc"), 3);
        assert_eq!(width("灵渠"), 4);
        assert_eq!(width("（回流）"), 8);
        assert_eq!(width("e\u{301}"), 1);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["id", "名称", "state"]);
        table.row(["1", "个体工商户", "published"]);
        table.row(["22", "x", ""]);
        assert_eq!(table.render(), "id  名称        state\n1   个体工商户  published\n22  x\n");
    }

    #[test]
    fn a_short_or_long_row_does_no_harm() {
        let mut table = Table::new(["a"]);
        table.row(["1", "2", "3"]);
        table.row(Vec::<String>::new());
        assert_eq!(table.render(), "a\n1  2  3\n\n");
    }

    #[test]
    fn others_texts_cannot_move_the_cursor_or_turn_the_line() {
        let mut table = Table::new(["name"]);
        table.row(["a\u{1b}[2J\u{202e}b\nc"]);
        assert_eq!(table.render(), "name\na\u{fffd}[2J\u{fffd}b\u{fffd}c\n");
    }
}
