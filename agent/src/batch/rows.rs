//! Rows under construction, from files whose cells are text: CSV, JSON Lines, Excel.

use super::cells::{Column, Why, Zone, why};
use super::{Fault, Lines, Piece, SHOWN_CHARS, bad};
use crate::error::AgentError;
use arrow::array::{RecordBatch, RecordBatchOptions};
use lingqu_protocol::columns::arrow_schema;
use lingqu_protocol::entry::{EntrySpec, ItemType};
use lingqu_protocol::ipc::BATCH_BYTES_AIM;
use std::path::Path;

/// Rows of one batch.
const ROWS_MAX: usize = 16_384;

/// Faults that are told of one row: more help nobody.
const FAULTS_PER_ROW_MAX: usize = 8;

/// Faults that wait to be told.
const FAULTS_MAX: usize = 4_096;

/// Bytes that a cell takes beside its text.
const CELL_BYTES: usize = 8;

/// The rows of a file, in batches.
pub(super) struct Rows<'a> {
    spec: &'a EntrySpec,
    columns: Vec<Column>,
    lines: Vec<u64>,
    faults: Vec<Fault>,
    row_faults: usize,
    bytes: usize,
}

impl<'a> Rows<'a> {
    /// Of an entry's items; `zone` is that of timestamps that say none.
    pub(super) fn new(spec: &'a EntrySpec, zone: Option<Zone>) -> Self {
        let columns = spec.items.iter().map(|item| Column::new(item.item_type, zone)).collect();
        Self { spec, columns, lines: Vec::new(), faults: Vec::new(), row_faults: 0, bytes: 0 }
    }

    /// The next cell of the row, in column `column`, spells `text`.
    pub(super) fn text(&mut self, column: usize, text: &[u8]) {
        let Some(builder) = self.columns.get_mut(column) else { return };
        self.bytes += text.len() + CELL_BYTES;
        if let Err(why) = builder.text(text) {
            self.note(Some(column), text, why);
        }
    }

    /// The next cell is empty: no value, or the empty string where it is `quoted` or there must be one.
    pub(super) fn empty(&mut self, column: usize, quoted: bool) {
        self.bytes += CELL_BYTES;
        let (Some(builder), Some(item)) = (self.columns.get_mut(column), self.spec.items.get(column)) else { return };
        if item.item_type == ItemType::String && (quoted || !item.nullable) {
            // Text takes every text.
            let _ = builder.text(b"");
        } else {
            builder.null();
        }
    }

    /// The next cell has no value.
    pub(super) fn null(&mut self, column: usize) {
        self.bytes += CELL_BYTES;
        if let Some(builder) = self.columns.get_mut(column) {
            builder.null();
        }
    }

    /// The next cell cannot be read.
    pub(super) fn fault(&mut self, column: usize, text: &[u8], why: Why) {
        self.null(column);
        self.note(Some(column), text, why);
    }

    /// The row is at its end; every column got its cell.
    pub(super) fn end_row(&mut self, line: u64) {
        self.lines.push(line);
        self.row_faults = 0;
    }

    /// A row that cannot be read at all.
    pub(super) fn whole_row(&mut self, line: u64, shown: &str, why: Why) {
        self.columns.iter_mut().for_each(Column::null);
        self.bytes += CELL_BYTES * self.columns.len();
        self.note(None, shown.as_bytes(), why);
        self.end_row(line);
    }

    fn note(&mut self, column: Option<usize>, text: &[u8], why: Why) {
        self.row_faults += 1;
        if self.row_faults <= FAULTS_PER_ROW_MAX {
            self.faults.push(Fault { row: self.lines.len(), column, value: shown(text), why });
        }
    }

    /// Whether it is time to hand rows on.
    pub(super) fn is_full(&self) -> bool {
        self.lines.len() >= ROWS_MAX || self.bytes >= BATCH_BYTES_AIM || self.faults.len() >= FAULTS_MAX
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The rows so far.
    pub(super) fn take(&mut self, path: &Path) -> Result<Piece, AgentError> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for (place, builder) in self.columns.iter_mut().enumerate() {
            let built = builder.finish();
            columns.push(built.column);
            for (row, value) in built.not_utf8 {
                let why = why(
                    "it is not UTF-8: is it another encoding? (--encoding)",
                    "不是 UTF-8 编码（可用 --encoding 指定）",
                );
                self.faults.push(Fault { row, column: Some(place), value, why });
            }
        }
        self.bytes = 0;
        let lines = std::mem::take(&mut self.lines);
        let schema = super::open_schema(&arrow_schema(self.spec));
        let options = RecordBatchOptions::new().with_row_count(Some(lines.len()));
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)
            .map_err(|e| bad(path, "rows", &e.to_string(), &e.to_string()))?;
        Ok(Piece { batch, lines: Lines::Each(lines), faults: std::mem::take(&mut self.faults) })
    }
}

/// What is told of a value: its beginning.
pub(super) fn shown(text: &[u8]) -> String {
    let head = text.get(..text.len().min(SHOWN_CHARS * 4)).unwrap_or_default();
    String::from_utf8_lossy(head).chars().take(SHOWN_CHARS).collect()
}
