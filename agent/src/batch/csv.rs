//! CSV files as batches: UTF-8 with or without a byte order mark, a header line, commas, quotes as RFC 4180 has them.
//! An empty field is no value; in a string that must have one it is the empty string. Bytes are hexadecimal digits,
//! timestamps say their zone.

use super::{FileRead, Take, bad, check_columns};
use crate::error::AgentError;
use ::csv::{ByteRecord, ReaderBuilder};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray, StringBuilder};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, TimestampMicrosecondType};
use arrow::error::ArrowError;
use lingqu_protocol::columns::{arrow_schema, arrow_type};
use lingqu_protocol::digest::from_hex;
use lingqu_protocol::entry::{DataItem, EntrySpec, ItemType};
use lingqu_protocol::host::DiskFile;
use lingqu_protocol::ipc::BATCH_BYTES_AIM;
use lingqu_protocol::name::escape_for_log;
use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of one record: a frame on the wire holds no larger row, and a quote that never closes ends here.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// Bytes read from the disk at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Rows of one batch: text takes several times the room of its values.
const ROWS_MAX: usize = 16_384;

/// UTC as the entry's columns name it, and as an offset.
const UTC: &str = "UTC";
const OFFSET_UTC: &str = "+00:00";

/// Characters of a value that an error shows.
const SHOWN_CHARS: usize = 60;

pub(super) fn read(file: Box<dyn DiskFile>, path: &Path, spec: &EntrySpec, take: Take<'_>) -> Result<bool, AgentError> {
    let watch = Rc::new(Watch::default());
    let file = FileRead::new(file).map_err(|e| AgentError::io("reading", path, &e))?;
    let source = Watched { inner: file, watch: watch.clone() };
    let mut reader = ReaderBuilder::new().has_headers(false).buffer_capacity(BUFFER_BYTES).from_reader(source);
    let mut record = ByteRecord::new();
    let mut next = |record: &mut ByteRecord| -> Result<bool, AgentError> {
        watch.since_record.set(0);
        reader.read_byte_record(record).map_err(|e| unreadable(path, &e))
    };
    if !next(&mut record)? {
        return Err(bad(path, "csv", "it is empty: not even a header line", "文件为空，缺少表头"));
    }
    let places = header(path, spec, &record)?;
    let mut rows = Rows::new(spec, places);
    loop {
        let more = next(&mut record)?;
        if more {
            rows.add(path, &record)?;
        }
        if !more && watch.quotes.get() % 2 == 1 {
            return Err(bad(
                path,
                "csv",
                &format!("a quote never closes; the last row begins at line {}", rows.last_line),
                &format!("引号未闭合；最后一行从第 {} 行开始", rows.last_line),
            ));
        }
        let full = rows.lines.len() >= ROWS_MAX || rows.bytes >= BATCH_BYTES_AIM;
        if (full || !more) && !rows.lines.is_empty() && !take(rows.batch(path)?)? {
            return Ok(false);
        }
        if !more {
            return Ok(true);
        }
    }
}

/// For each item of the entry, its place in the file.
fn header(path: &Path, spec: &EntrySpec, record: &ByteRecord) -> Result<Vec<usize>, AgentError> {
    let mut names = Vec::new();
    for (at, field) in record.iter().enumerate() {
        let name = std::str::from_utf8(field).map_err(|_| not_utf8(path, 1, &format!("{}", at + 1)))?;
        names.push(if at == 0 { name.trim_start_matches('\u{feff}') } else { name });
    }
    // Text has no types: a column of the right name gets the right one.
    let field = |name: &&str| {
        let item = spec.items.iter().find(|i| i.name == *name);
        Field::new(*name, item.map_or(DataType::Utf8, |i| arrow_type(i.item_type)), true)
    };
    check_columns(path, spec, &Schema::new(names.iter().map(field).collect::<Vec<_>>()))?;
    Ok(spec.items.iter().filter_map(|item| names.iter().position(|n| *n == item.name)).collect())
}

struct Rows<'a> {
    spec: &'a EntrySpec,
    places: Vec<usize>,
    columns: Vec<StringBuilder>,
    lines: Vec<u64>,
    bytes: usize,
    last_line: u64,
}

impl<'a> Rows<'a> {
    fn new(spec: &'a EntrySpec, places: Vec<usize>) -> Self {
        let columns = spec.items.iter().map(|_| StringBuilder::new()).collect();
        Self { spec, places, columns, lines: Vec::new(), bytes: 0, last_line: 1 }
    }

    fn add(&mut self, path: &Path, record: &ByteRecord) -> Result<(), AgentError> {
        let line = record.position().map_or(0, ::csv::Position::line);
        self.last_line = line;
        for ((item, place), column) in self.spec.items.iter().zip(&self.places).zip(&mut self.columns) {
            let field = record.get(*place).unwrap_or_default();
            if field.is_empty() && (item.nullable || item.item_type != ItemType::String) {
                column.append_null();
                continue;
            }
            column.append_value(std::str::from_utf8(field).map_err(|_| not_utf8(path, line, &item.name))?);
        }
        self.bytes += record.as_slice().len();
        self.lines.push(line);
        Ok(())
    }

    fn batch(&mut self, path: &Path) -> Result<RecordBatch, AgentError> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for (item, builder) in self.spec.items.iter().zip(&mut self.columns) {
            let text = builder.finish();
            let column = convert(item, &text).map_err(|(row, why)| {
                let line = self.lines.get(row).copied().unwrap_or(0);
                let value = if text.is_valid(row) { text.value(row) } else { "" };
                bad_value(path, line, item, value, &why)
            })?;
            columns.push(column);
        }
        self.lines.clear();
        self.bytes = 0;
        RecordBatch::try_new(arrow_schema(self.spec), columns)
            .map_err(|e| bad(path, "csv", &e.to_string(), &e.to_string()))
    }
}

/// The values of a column, or the first row that is none and why.
fn convert(item: &DataItem, text: &StringArray) -> Result<ArrayRef, (usize, String)> {
    if !item.nullable
        && let Some(row) = (0..text.len()).find(|row| text.is_null(*row))
    {
        return Err((row, "a value must be there".into()));
    }
    let rows = || (0..text.len()).filter(|row| text.is_valid(*row)).map(|row| (row, text.value(row)));
    match item.item_type {
        ItemType::String => return Ok(Arc::new(text.clone())),
        ItemType::Binary => {
            if let Some((row, _)) = rows().find(|(_, value)| from_hex(value).is_none()) {
                return Err((row, "bytes are written as pairs of hexadecimal digits".into()));
            }
            return Ok(Arc::new(BinaryArray::from_iter(text.iter().map(|value| value.and_then(from_hex)))));
        }
        ItemType::Decimal(_, scale) => {
            // The cast would round.
            let decimals = |value: &str| value.split_once('.').map_or(0, |(_, d)| d.trim_end_matches('0').len());
            if let Some((row, _)) = rows().find(|(_, value)| decimals(value) > usize::from(scale)) {
                return Err((row, format!("it has more than {scale} decimals")));
            }
        }
        ItemType::Timestamp => {
            // The cast would take a time without a zone for UTC.
            let says = |value: &str| value.get(10..).is_some_and(|time| time.contains(['Z', 'z', '+', '-']));
            if let Some((row, _)) = rows().find(|(_, value)| !says(value)) {
                return Err((row, "a timestamp says its zone: 2026-01-31T08:00:00+08:00".into()));
            }
        }
        ItemType::Int32 | ItemType::Int64 | ItemType::Float64 | ItemType::Date | ItemType::Bool => {}
    }
    let options = CastOptions { safe: true, ..CastOptions::default() };
    // Arrow parses times by offset; zones by name would need a table of them.
    let target = match arrow_type(item.item_type) {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(unit, Some(OFFSET_UTC.into())),
        other => other,
    };
    let values = cast_with_options(text, &target, &options).map_err(|e| (0, e.to_string()))?;
    let values = zoned(&values, UTC);
    match (0..text.len()).find(|row| text.is_valid(*row) && values.is_null(*row)) {
        Some(row) => Err((row, "it cannot be read, or is out of range".into())),
        None => Ok(values),
    }
}

fn bad_value(path: &Path, line: u64, item: &DataItem, value: &str, why: &str) -> AgentError {
    let shown = escape_for_log(&value.chars().take(SHOWN_CHARS).collect::<String>());
    let (name, kind) = (&item.name, &item.item_type);
    bad(
        path,
        "csv_value",
        &format!("line {line}, column {name:?}: {shown:?} is no {kind}: {why}"),
        &format!("第 {line} 行，列 {name:?}：{shown:?} 不是有效的 {kind}：{why}"),
    )
}

fn not_utf8(path: &Path, line: u64, column: &str) -> AgentError {
    bad(
        path,
        "not_utf8",
        &format!(
            "line {line}, column {column}: not UTF-8 (GB18030 is common, and not read yet): convert the file, for \
             example with `iconv -f GB18030 -t UTF-8`"
        ),
        &format!(
            "第 {line} 行，列 {column}：不是 UTF-8 编码（常见为 GB18030，目前不支持）：请先转换，例如 `iconv -f GB18030 -t UTF-8`"
        ),
    )
}

fn unreadable(path: &Path, error: &::csv::Error) -> AgentError {
    match error.kind() {
        ::csv::ErrorKind::Io(e) if e.kind() != io::ErrorKind::InvalidData => AgentError::io("reading", path, e),
        ::csv::ErrorKind::Io(e) => bad(path, "csv", &e.to_string(), "一行超过 16 MiB：可能缺少换行或引号未闭合"),
        ::csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, ::csv::Position::line);
            bad(
                path,
                "csv",
                &format!("line {line} has {len} fields where the header has {expected_len}"),
                &format!("第 {line} 行有 {len} 个字段，而表头有 {expected_len} 个"),
            )
        }
        _ => bad(path, "csv", &error.to_string(), &error.to_string()),
    }
}

/// The same instants under another name of their zone; other columns as they are.
fn zoned(column: &ArrayRef, zone: &str) -> ArrayRef {
    match column.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(instants) => Arc::new(instants.clone().with_timezone(zone)),
        None => column.clone(),
    }
}

/// A batch as Arrow's CSV writer takes it: zones by offset.
pub(super) fn writable(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<ArrayRef> = batch.columns().iter().map(|c| zoned(c, OFFSET_UTC)).collect();
    let field = |(field, column): (&Arc<Field>, &ArrayRef)| {
        Field::new(field.name(), column.data_type().clone(), field.is_nullable())
    };
    let fields: Vec<Field> = batch.schema_ref().fields().iter().zip(&columns).map(field).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// What is watched of the bytes that go to the parser.
#[derive(Default)]
struct Watch {
    since_record: Cell<u64>,
    quotes: Cell<u64>,
}

/// Ends a file whose record has no end.
struct Watched<R> {
    inner: R,
    watch: Rc<Watch>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.watch.since_record.get() > RECORD_BYTES_MAX {
            let text = "a row has more than 16 MiB: no line break, or a quote that never closes";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let bytes = self.inner.read(buf)?;
        let quotes = buf.iter().take(bytes).filter(|b| **b == b'"').count() as u64;
        self.watch.quotes.set(self.watch.quotes.get() + quotes);
        self.watch.since_record.set(self.watch.since_record.get() + bytes as u64);
        Ok(bytes)
    }
}
