//! Excel files (.xlsx) as batches: one sheet, its first row the header. Read from front to back with its texts in one
//! block of memory; what a sheet says of its own size is not believed, and no entity but XML's own five is expanded.
//!
//! A cell is text or a number. A number in a text item becomes text only where it is a whole number of at most 15 digits:
//! Excel keeps no more, so a longer code that was typed as a number has lost digits already, and is refused by that name.

mod book;
mod sheet;
mod values;
mod xml;

use super::cells::why;
use super::rows::Rows;
use super::{FileRead, ReadOptions, Take, bad, check_columns};
use crate::error::{AgentError, Text};
use arrow::datatypes::{DataType, Field, Schema};
use book::{Book, Style};
use lingqu_protocol::columns::arrow_type;
use lingqu_protocol::entry::{EntrySpec, ITEMS_MAX};
use lingqu_protocol::host::DiskFile;
use sheet::Cell;
use std::path::Path;
use values::spelled;

/// Why a file cannot be read as Excel.
#[derive(Debug)]
pub(super) struct Broken(Box<Text>);

fn broken(en: impl Into<String>, zh: impl Into<String>) -> Broken {
    Broken(Box::new(Text::new(en, zh)))
}

pub(super) fn read(
    file: Box<dyn DiskFile>,
    path: &Path,
    spec: &EntrySpec,
    options: &ReadOptions,
    take: Take<'_>,
) -> Result<bool, AgentError> {
    let mut rows = Rows::new(spec, options.zone);
    let mut places: Option<Vec<Option<usize>>> = None;
    let mut item_cells: Vec<Option<Cell>> = Vec::new();
    let mut more = true;
    each_row(file, path, options, &mut |book, number, cells| {
        let Some(places) = &places else {
            let names = header(path, book, cells)?;
            check_header(path, spec, &names)?;
            let place = |name: &String| spec.items.iter().position(|item| item.name == *name);
            places = Some(names.iter().map(place).collect());
            return Ok(true);
        };
        if cells.iter().all(|cell| matches!(cell, Cell::Empty)) {
            return Ok(true);
        }
        item_cells.clear();
        item_cells.resize(spec.items.len(), None);
        let mut outside = false;
        for (column, cell) in cells.iter().enumerate().filter(|(_, cell)| !matches!(cell, Cell::Empty)) {
            match places.get(column).copied().flatten().and_then(|place| item_cells.get_mut(place)) {
                Some(slot) => *slot = Some(cell.clone()),
                None => outside = true,
            }
        }
        if outside {
            rows.whole_row(number, "", why("a cell stands outside of the header's columns", "有单元格超出表头的列"));
        } else {
            for (column, (item, cell)) in spec.items.iter().zip(&item_cells).enumerate() {
                match cell.as_ref().map(|cell| spelled(book, item.item_type, cell, options.zone.is_some())) {
                    None => rows.empty(column, false),
                    Some(Ok(text)) => rows.text(column, text.as_bytes()),
                    Some(Err((text, reason))) => rows.fault(column, text.as_bytes(), reason),
                }
            }
            rows.end_row(number);
        }
        if rows.is_full() {
            more = take(rows.take(path)?)?;
        }
        Ok(more)
    })?;
    if places.is_none() {
        return Err(bad(path, "xlsx", "its sheet is empty: not even a header row", "工作表为空，缺少表头"));
    }
    if !more || rows.is_empty() { Ok(more) } else { take(rows.take(path)?) }
}

/// Takes a row with its number; `false` says that no more are wanted.
pub(super) type EachRow<'a> = &'a mut dyn FnMut(&Book, u64, &[Cell]) -> Result<bool, AgentError>;

/// Gives each row of the sheet that has a cell, with its number from 1; stops where `each` says so.
pub(super) fn each_row(
    file: Box<dyn DiskFile>,
    path: &Path,
    options: &ReadOptions,
    each: EachRow<'_>,
) -> Result<(), AgentError> {
    let unreadable = |Broken(text): Broken| {
        bad(
            path,
            "xlsx",
            &format!("it cannot be read as Excel: {}", text.en),
            &format!("无法按 Excel 读取：{}", text.zh),
        )
    };
    let file = FileRead::new(file).map_err(|e| AgentError::io("reading", path, &e))?;
    let (mut archive, book, sheet) = book::open(file, options.sheet.as_deref()).map_err(unreadable)?;
    let mut failed = None;
    let part = book::part(&mut archive, &sheet).map_err(unreadable)?;
    sheet::rows(part, &mut |number, cells| match each(&book, number, cells) {
        Ok(more) => more,
        Err(error) => {
            failed = Some(error);
            false
        }
    })
    .map_err(unreadable)?;
    failed.map_or(Ok(()), Err)
}

/// What stands in a cell, and whether it is text.
pub(super) fn seen(book: &Book, cell: Option<&Cell>) -> (String, bool) {
    match cell {
        None | Some(Cell::Empty | Cell::Error(_)) => (String::new(), false),
        Some(Cell::Bool(value)) => (value.to_string(), false),
        Some(Cell::Number(text, style)) if book.style(*style) == Style::Date => {
            let day = text.parse().ok().and_then(|number| values::date(book, number).ok());
            (day.unwrap_or_else(|| text.clone()), false)
        }
        Some(Cell::Number(text, _)) => (text.clone(), false),
        Some(cell) => (cell.text(book).unwrap_or_default().to_owned(), true),
    }
}

/// The names in the first row.
pub(super) fn header(path: &Path, book: &Book, cells: &[Cell]) -> Result<Vec<String>, AgentError> {
    let filled = cells.iter().rposition(|cell| !matches!(cell, Cell::Empty)).map_or(0, |last| last + 1);
    if filled > ITEMS_MAX * 2 {
        return Err(bad(
            path,
            "xlsx",
            "it has more columns than any entry has items",
            "列数超过目录条目允许的数据项数",
        ));
    }
    let name = |(column, cell): (usize, &Cell)| match cell.text(book) {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(bad(
            path,
            "xlsx",
            &format!("the header's column {} is not text", column + 1),
            &format!("表头第 {} 列不是文本", column + 1),
        )),
    };
    cells.iter().take(filled).enumerate().map(name).collect()
}

fn check_header(path: &Path, spec: &EntrySpec, names: &[String]) -> Result<(), AgentError> {
    let field = |name: &String| {
        let item = spec.items.iter().find(|i| i.name == *name);
        Field::new(name, item.map_or(DataType::Utf8, |i| arrow_type(i.item_type)), true)
    };
    check_columns(path, spec, &Schema::new(names.iter().map(field).collect::<Vec<_>>()))
}
