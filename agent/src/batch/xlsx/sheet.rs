//! The rows of a sheet.

use super::book::{Book, unescaped};
use super::xml::{Token, Xml, attribute};
use super::{Broken, broken};
use std::io::Read;

/// Rows of a sheet, as Excel has them.
const ROWS_MAX: u64 = 1_048_576;

/// Columns of a sheet, as Excel has them.
const COLUMNS_MAX: usize = 16_384;

/// Characters of a cell, as Excel has them; each has up to four bytes.
const CELL_BYTES_MAX: usize = 32_767 * 4;

/// What a cell holds.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::batch) enum Cell {
    /// Nothing.
    Empty,
    /// The shared text with this number.
    Shared(usize),
    /// Text of its own.
    Text(String),
    /// A number as it is written, and its style.
    Number(String, Option<usize>),
    /// `true` or `false`.
    Bool(bool),
    /// What a formula failed with.
    Error(String),
}

impl Cell {
    /// Its text; none where it is no text.
    pub(in crate::batch) fn text<'a>(&'a self, book: &'a Book) -> Option<&'a str> {
        match self {
            Self::Shared(index) => book.text(*index),
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Open {
    column: usize,
    style: Option<usize>,
    kind: Kind,
    value: String,
    has_value: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Number,
    Shared,
    Inline,
    Text,
    Bool,
    Error,
    Date,
}

/// Gives each row that has a cell, with its number from 1.
pub(super) fn rows(xml: Xml<impl Read>, each: &mut dyn FnMut(u64, &[Cell]) -> bool) -> Result<(), Broken> {
    let mut row: Vec<Cell> = Vec::new();
    let (mut number, mut next) = (0u64, 0usize);
    let mut open: Option<Open> = None;
    let (mut in_value, mut in_phonetic) = (false, false);
    xml.each(&mut |token| {
        match token {
            Token::Open(tag, empty) => match tag.local_name().into_inner() {
                "row" => {
                    let said = attribute(&tag, "r")?.and_then(|r| r.parse::<u64>().ok());
                    let at = said.unwrap_or(number + 1);
                    if at <= number || at > ROWS_MAX {
                        return Err(broken(
                            format!("row {at} comes after row {number}"),
                            format!("第 {at} 行出现在第 {number} 行之后"),
                        ));
                    }
                    number = at;
                    next = 0;
                    row.clear();
                }
                "c" => {
                    let said = attribute(&tag, "r")?.as_deref().map(column_of);
                    let column = match said {
                        Some(column) => column.ok_or_else(|| no_place(number))?,
                        None => next,
                    };
                    if column < next || column >= COLUMNS_MAX {
                        return Err(no_place(number));
                    }
                    next = column + 1;
                    let kind = match attribute(&tag, "t")?.as_deref() {
                        None | Some("n") => Kind::Number,
                        Some("s") => Kind::Shared,
                        Some("inlineStr") => Kind::Inline,
                        Some("str") => Kind::Text,
                        Some("b") => Kind::Bool,
                        Some("e") => Kind::Error,
                        Some("d") => Kind::Date,
                        Some(_) => return Err(no_place(number)),
                    };
                    let style = attribute(&tag, "s")?.and_then(|s| s.parse().ok());
                    if !empty {
                        open = Some(Open { column, style, kind, ..Open::default() });
                    }
                }
                "v" => in_value = !empty && open.is_some(),
                "t" => in_value = !empty && open.as_ref().is_some_and(|o| o.kind == Kind::Inline),
                "rPh" => in_phonetic = !empty,
                _ => {}
            },
            Token::Close("v" | "t") => in_value = false,
            Token::Close("rPh") => in_phonetic = false,
            Token::Close("c") => {
                if let Some(open) = open.take() {
                    if row.len() <= open.column {
                        row.resize(open.column + 1, Cell::Empty);
                    }
                    let column = open.column;
                    let cell = close(open, number)?;
                    if let Some(slot) = row.get_mut(column) {
                        *slot = cell;
                    }
                }
            }
            Token::Close("row") if !row.is_empty() => return Ok(each(number, &row)),
            Token::Close("sheetData") => return Ok(false),
            Token::Text(text) if in_value && !in_phonetic => push(&mut open, text, number)?,
            Token::Char(c) if in_value && !in_phonetic => push(&mut open, c.encode_utf8(&mut [0; 4]), number)?,
            _ => {}
        }
        Ok(true)
    })
}

fn push(open: &mut Option<Open>, text: &str, row: u64) -> Result<(), Broken> {
    let Some(open) = open else { return Ok(()) };
    open.value.push_str(text);
    open.has_value = true;
    if open.value.len() > CELL_BYTES_MAX * 2 {
        return Err(broken(
            format!("row {row}: a cell has more than 32,767 characters"),
            format!("第 {row} 行：单元格超过 32,767 个字符"),
        ));
    }
    Ok(())
}

fn close(open: Open, row: u64) -> Result<Cell, Broken> {
    let value = open.value;
    Ok(match open.kind {
        Kind::Inline | Kind::Text => Cell::Text(unescaped(&value).into_owned()),
        Kind::Date => Cell::Text(value),
        _ if !open.has_value => Cell::Empty,
        Kind::Shared => Cell::Shared(value.trim().parse().map_err(|_| no_place(row))?),
        Kind::Bool => Cell::Bool(value.trim() == "1"),
        Kind::Error => Cell::Error(value),
        Kind::Number => Cell::Number(value.trim().to_owned(), open.style),
    })
}

fn no_place(row: u64) -> Broken {
    broken(format!("row {row} has a cell that cannot be"), format!("第 {row} 行有无效单元格"))
}

/// The column of a cell's name: `C5` is in column 2.
fn column_of(name: &str) -> Option<usize> {
    let letters = name.bytes().take_while(u8::is_ascii_uppercase);
    let mut column = 0usize;
    for letter in letters {
        column = column.checked_mul(26)?.checked_add(usize::from(letter - b'A') + 1)?;
        if column > COLUMNS_MAX {
            return None;
        }
    }
    column.checked_sub(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn all(xml: &str) -> Result<Vec<(u64, Vec<Cell>)>, String> {
        let mut out = Vec::new();
        rows(Xml::new(xml.as_bytes(), 1, u64::MAX), &mut |number, cells| {
            out.push((number, cells.to_vec()));
            true
        })
        .map_err(|Broken(text)| text.en)?;
        Ok(out)
    }

    #[test]
    fn cells_stand_where_their_names_say() {
        let xml = r#"<worksheet><dimension ref="A1:XFD1048576"/><sheetData><row r="2"><c r="A2" t="s"><v>3</v></c>
            <c r="C2"><v>1.5</v></c><c t="inlineStr"><is><t>a&amp;b</t><rPh><t>x</t></rPh></is></c><c t="b"><v>1</v></c>
            <c t="e"><v>#N/A</v></c><c r="H2" s="1"/></row><row r="9"/></sheetData></worksheet>"#;
        let row = vec![
            Cell::Shared(3),
            Cell::Empty,
            Cell::Number("1.5".into(), None),
            Cell::Text("a&b".into()),
            Cell::Bool(true),
            Cell::Error("#N/A".into()),
        ];
        assert_eq!(all(xml).unwrap(), [(2, row)]);
        assert_eq!(column_of("XFD1"), Some(16_383));
        assert_eq!(column_of("XFE1"), None);
    }

    #[test]
    fn what_excel_never_writes_is_refused() {
        for (xml, said) in [
            ("<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>", "document type"),
            ("<a>&lol;</a>", "entity"),
            ("<sheetData><row r=\"3\"/><row r=\"2\"/></sheetData>", "after"),
            ("<sheetData><row r=\"1\"><c r=\"B1\"/><c r=\"A1\"/></row></sheetData>", "cannot be"),
            (&"<a>".repeat(70), "deep"),
        ] {
            let error = all(xml).unwrap_err();
            assert!(error.contains(said), "{xml}: {error}");
        }
    }
}
