//! Rows as text: CSV and JSON Lines.

use super::{FileWrite, SinkError, WriteOptions, no_item};
use crate::batch::TextEncoding;
use crate::batch::spell::Spelled;
use crate::error::Told;
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use encoding_rs::{Encoder, EncoderResult};
use std::io::{BufWriter, Write};

/// Bytes of text that are encoded at a time.
const TEXT_BYTES: usize = 256 << 10;

/// CSV: an empty field is no value, `""` the empty string.
pub(super) struct CsvSink {
    out: BufWriter<FileWrite>,
    encoding: TextEncoding,
    encoder: Option<Encoder>,
    guard: bool,
    names: Vec<String>,
    text: String,
    encoded: Vec<u8>,
    /// Rows written, for errors.
    rows: u64,
}

impl CsvSink {
    /// Writes the header, which stands there even where no row follows.
    pub(super) fn new(out: BufWriter<FileWrite>, options: WriteOptions, schema: &Schema) -> Result<Self, SinkError> {
        let encoding = options.encoding.unwrap_or(TextEncoding::Utf8);
        let encoder = encoding.legacy().map(|e| e.new_encoder());
        let names = schema.fields().iter().map(|f| f.name().clone()).collect();
        let mut sink = Self {
            out,
            encoding,
            encoder,
            guard: options.guard_formulas,
            names,
            text: String::new(),
            encoded: Vec::new(),
            rows: 0,
        };
        if encoding == TextEncoding::Utf8Bom {
            sink.text.push('\u{feff}');
        }
        for (place, name) in sink.names.clone().iter().enumerate() {
            if place > 0 {
                sink.text.push(',');
            }
            quoted(name, &mut sink.text);
        }
        sink.text.push('\n');
        sink.hand(None)?;
        Ok(sink)
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        let columns = Spelled::all(batch).ok_or_else(no_item)?;
        let mut first = 0;
        for row in 0..batch.num_rows() {
            for (place, column) in columns.iter().enumerate() {
                if place > 0 {
                    self.text.push(',');
                }
                if column.is_null(row) {
                    continue;
                }
                match column {
                    Spelled::String(values) => {
                        let value = values.value(row);
                        if self.guard && value.starts_with(['=', '+', '-', '@', '\t', '\r']) {
                            quoted(&format!("'{value}"), &mut self.text);
                        } else {
                            quoted(value, &mut self.text);
                        }
                    }
                    other => other.write(row, &mut self.text),
                }
            }
            self.text.push('\n');
            if self.text.len() >= TEXT_BYTES {
                self.hand(Some((batch, first)))?;
                first = row + 1;
            }
        }
        self.hand(Some((batch, first)))?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), SinkError> {
        Ok(self.out.flush()?)
    }

    /// Hands the text on in the encoding that was asked for; it holds rows of the batch from that one on.
    fn hand(&mut self, rows: Option<(&RecordBatch, usize)>) -> Result<(), SinkError> {
        let Some(encoder) = &mut self.encoder else {
            self.out.write_all(self.text.as_bytes())?;
            self.text.clear();
            return Ok(());
        };
        let mut rest = self.text.as_str();
        loop {
            let room =
                encoder.max_buffer_length_from_utf8_without_replacement(rest.len()).unwrap_or(rest.len() * 4 + 16);
            self.encoded.clear();
            self.encoded.resize(room, 0);
            let (result, read, written) = encoder.encode_from_utf8_without_replacement(rest, &mut self.encoded, false);
            self.out.write_all(self.encoded.get(..written).unwrap_or_default())?;
            rest = rest.get(read..).unwrap_or_default();
            match result {
                EncoderResult::InputEmpty => break,
                EncoderResult::OutputFull => {}
                EncoderResult::Unmappable(c) => return Err(self.cannot(c, rows)),
            }
        }
        self.text.clear();
        Ok(())
    }

    fn cannot(&self, c: char, rows: Option<(&RecordBatch, usize)>) -> SinkError {
        let place = rows.and_then(|(batch, from)| {
            let columns = Spelled::all(batch)?;
            (from..batch.num_rows()).find_map(|row| {
                let holds = |column: &Spelled<'_>| {
                    matches!(column, Spelled::String(v) if !column.is_null(row) && v.value(row).contains(c))
                };
                columns.iter().position(holds).map(|column| (row, column))
            })
        });
        let (name, code) = (self.encoding.name(), u32::from(c));
        let (en, zh) = match place {
            Some((row, column)) => {
                let (row, column) = (self.rows + row as u64 + 1, self.names.get(column).map_or("", String::as_str));
                (
                    format!("{name} has no U+{code:04X} ({c}): row {row}, column {column:?}"),
                    format!("{name} 无法表示 U+{code:04X}（{c}）：第 {row} 行，列 {column:?}"),
                )
            }
            None => (
                format!("{name} has no U+{code:04X} ({c}), which stands in the header"),
                format!("{name} 无法表示表头中的 U+{code:04X}（{c}）"),
            ),
        };
        SinkError::Cannot(Told::new("encoding", en, zh).next(
            "use --encoding utf-8 or gb18030, or another format",
            "请使用 --encoding utf-8 或 gb18030，或改用其他格式",
        ))
    }
}

/// A string as a field: in quotes where it must be, and where it is empty, for an empty field is no value.
fn quoted(value: &str, out: &mut String) {
    let plain = !value.is_empty()
        && !value.bytes().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r'))
        && !value.starts_with([' ', '\t', '\u{feff}'])
        && !value.ends_with([' ', '\t']);
    if plain {
        out.push_str(value);
        return;
    }
    out.push('"');
    for (place, piece) in value.split('"').enumerate() {
        if place > 0 {
            out.push_str("\"\"");
        }
        out.push_str(piece);
    }
    out.push('"');
}

/// JSON Lines: no value is `null`; what JSON's numbers cannot hold in every program is a string (decimals, NaN).
pub(super) struct JsonSink {
    out: BufWriter<FileWrite>,
    /// `"name":` of each column.
    names: Vec<String>,
    text: String,
    cell: String,
}

impl JsonSink {
    pub(super) fn new(out: BufWriter<FileWrite>, schema: &Schema) -> Self {
        let name = |name: &str| {
            let mut text = String::new();
            json_string(name, &mut text);
            text + ":"
        };
        let names = schema.fields().iter().map(|f| name(f.name())).collect();
        Self { out, names, text: String::new(), cell: String::new() }
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        let columns = Spelled::all(batch).ok_or_else(no_item)?;
        for row in 0..batch.num_rows() {
            let mut open = '{';
            for (name, column) in self.names.iter().zip(&columns) {
                self.text.push(std::mem::replace(&mut open, ','));
                self.text.push_str(name);
                match column {
                    _ if column.is_null(row) => self.text.push_str("null"),
                    Spelled::Int32(_) | Spelled::Int64(_) | Spelled::Bool(_) => column.write(row, &mut self.text),
                    Spelled::Float64(values) if values.value(row).is_finite() => column.write(row, &mut self.text),
                    other => {
                        self.cell.clear();
                        other.write(row, &mut self.cell);
                        json_string(&self.cell, &mut self.text);
                    }
                }
            }
            if open == '{' {
                self.text.push('{');
            }
            self.text.push_str("}\n");
            if self.text.len() >= TEXT_BYTES {
                self.out.write_all(self.text.as_bytes())?;
                self.text.clear();
            }
        }
        self.out.write_all(self.text.as_bytes())?;
        self.text.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), SinkError> {
        Ok(self.out.flush()?)
    }
}

fn json_string(text: &str, out: &mut String) {
    // A string always has a JSON form.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}
