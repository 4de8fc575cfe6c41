//! CSV files: UTF-8 or GB18030, a header line, quotes as RFC 4180 has them. An empty field is no value; an empty field in
//! quotes is the empty string, and so is an empty one of a string that must have a value.

pub(super) mod records;

use super::cells::{Why, why};
use super::encoding::Decoded;
use super::rows::Rows;
use super::{FileRead, ReadOptions, Take, bad, check_columns, text_unreadable};
use crate::error::AgentError;
use arrow::datatypes::{DataType, Field, Schema};
use lingqu_protocol::columns::arrow_type;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::DiskFile;
use records::{Problem, Records};
use std::path::Path;

/// What separates fields, where nothing was said: what stands most often in the header line outside of quotes; the first of
/// these in a tie, and a comma where there is none of them.
const DELIMITERS: [u8; 4] = [b',', b'\t', b';', b'|'];

pub(super) fn read(
    file: Box<dyn DiskFile>,
    path: &Path,
    spec: &EntrySpec,
    options: &ReadOptions,
    take: Take<'_>,
) -> Result<bool, AgentError> {
    let mut records = open(file, path, options)?;
    let names = header(&mut records, path)?;
    check_header(path, spec, &names)?;
    let places: Vec<usize> =
        spec.items.iter().filter_map(|item| names.iter().position(|name| *name == item.name)).collect();
    let mut rows = Rows::new(spec, options.zone);
    while records.next().map_err(|e| problem(path, &e))? {
        let line = records.line();
        if records.fields() != names.len() {
            let (found, expected) = (records.fields(), names.len());
            rows.whole_row(line, "", ragged(found, expected));
        } else if records.after_quote() {
            rows.whole_row(line, "", why("text follows a closing quote", "右引号之后还有内容"));
        } else {
            for (column, place) in places.iter().enumerate() {
                cell(&mut rows, &mut records, column, *place);
            }
            rows.end_row(line);
        }
        if rows.is_full() && !take(rows.take(path)?)? {
            return Ok(false);
        }
    }
    if rows.is_empty() { Ok(true) } else { take(rows.take(path)?) }
}

fn cell(rows: &mut Rows<'_>, records: &mut Records<Decoded<FileRead>>, column: usize, place: usize) {
    let (quoted, broken) = (records.is_quoted(place), records.is_broken(place));
    let text = records.field(place);
    if broken {
        rows.fault(column, text, why("bytes of it are not in the file's encoding", "含有不属于该文件编码的字节"));
    } else if text.is_empty() {
        rows.empty(column, quoted);
    } else {
        rows.text(column, text);
    }
}

fn ragged(found: usize, expected: usize) -> Why {
    why(
        format!("the row has {found} fields where the header has {expected}"),
        format!("该行有 {found} 个字段，而表头有 {expected} 个"),
    )
}

/// The names of the columns.
pub(super) fn header(records: &mut Records<Decoded<FileRead>>, path: &Path) -> Result<Vec<String>, AgentError> {
    if !records.next().map_err(|e| problem(path, &e))? {
        return Err(bad(path, "csv", "it is empty: not even a header line", "文件为空，缺少表头"));
    }
    let mut names = Vec::with_capacity(records.fields());
    for place in 0..records.fields() {
        if records.is_broken(place) || std::str::from_utf8(records.field(place)).is_err() {
            let at = place + 1;
            return Err(bad(
                path,
                "encoding",
                &format!("line 1, column {at}: the name has bytes that are not in the file's encoding: say --encoding"),
                &format!("第 1 行第 {at} 列：列名含有不属于该文件编码的字节：请用 --encoding 指定编码"),
            ));
        }
        let name = String::from_utf8_lossy(records.field(place)).into_owned();
        names.push(name.trim_start_matches('\u{feff}').to_owned());
    }
    records.blank_is_a_row(names.len() == 1);
    Ok(names)
}

/// The records of a file, from its header on.
pub(super) fn open(
    file: Box<dyn DiskFile>,
    path: &Path,
    options: &ReadOptions,
) -> Result<Records<Decoded<FileRead>>, AgentError> {
    let file = FileRead::new(file).map_err(|e| AgentError::io("reading", path, &e))?;
    let source = Decoded::new(file, options.encoding);
    let said = options.delimiter.and_then(|d| u8::try_from(d).ok());
    Records::new(source, said).map_err(|e| problem(path, &e))
}

fn check_header(path: &Path, spec: &EntrySpec, names: &[String]) -> Result<(), AgentError> {
    // Text has no types: a column of the right name gets the right one.
    let field = |name: &String| {
        let item = spec.items.iter().find(|i| i.name == *name);
        Field::new(name, item.map_or(DataType::Utf8, |i| arrow_type(i.item_type)), true)
    };
    check_columns(path, spec, &Schema::new(names.iter().map(field).collect::<Vec<_>>()))
}

pub(super) fn problem(path: &Path, problem: &Problem) -> AgentError {
    match problem {
        Problem::Io(e) => text_unreadable(path, e),
        Problem::OpenQuote(line) => bad(
            path,
            "csv",
            &format!("the quote that opens in the row of line {line} never closes"),
            &format!("第 {line} 行开始的引号未闭合"),
        ),
        Problem::TooLong(line) => bad(
            path,
            "csv",
            &format!(
                "the row that begins at line {line} has more than 16 MiB: no line break, or a quote that never closes"
            ),
            &format!("从第 {line} 行开始的一行超过 16 MiB：可能缺少换行或引号未闭合"),
        ),
        Problem::TooManyFields(line) => bad(
            path,
            "csv",
            &format!("line {line} has more fields than any entry has items"),
            &format!("第 {line} 行的字段数超过目录条目允许的数据项数"),
        ),
    }
}
