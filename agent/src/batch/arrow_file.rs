//! Arrow IPC files and streams as batches. A file is read as the stream that it holds, from front to back: what its footer
//! says is not believed. Batches of any size are read in slices of rows, each range checked against the file before a byte
//! is kept for it, and every array is validated in full: lengths, offsets, UTF-8, dictionary keys.

mod columns;

use super::{Piece, Take, bad, check_columns, opened, piece_of};
use crate::error::AgentError;
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow::compute::concat;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::{Endianness, MessageHeader, root_as_message};
use columns::{Broken, Column, Dictionaries, Placed, Span};
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::DiskFile;
use lingqu_protocol::ipc::{BATCH_BYTES_AIM, BATCH_ROWS_MAX};
use std::path::Path;
use std::sync::Arc;

/// What a file begins and ends with; a stream does neither.
const MAGIC: &[u8; 6] = b"ARROW1";

/// A file's first message stands here, or after more zeros.
const FILE_START: u64 = 8;

/// Zeros before the first message end here: writers align it to 64 bytes at most.
const FILE_START_MAX: u64 = 128;

/// Bytes of one message's head: thousands of columns take less.
const HEAD_BYTES_MAX: u32 = 16 << 20;

/// Bytes of the values of one dictionary: they are held as long as the file is read.
const DICTIONARY_BYTES_MAX: u64 = 32 << 20;

/// Dictionaries of one file.
const DICTIONARIES_MAX: usize = 256;

/// Bytes of text in one slice; wide rows come in fewer.
const SLICE_BYTES_MAX: u64 = 16 << 20;

/// Bytes of the fewest rows that can be read at a time.
const LEAST_BYTES_MAX: u64 = 160 << 20;

/// The fewest rows that are read at a time: bits of nulls come eight to a byte.
const ROWS_LEAST: usize = 8;

pub(super) fn read(file: Box<dyn DiskFile>, path: &Path, spec: &EntrySpec, take: Take<'_>) -> Result<bool, AgentError> {
    let mut reader = Reader::open(file, path)?;
    check_columns(path, spec, &reader.schema)?;
    let open = opened(spec);
    let mut first = 1;
    while let Some(batch) = reader.next_batch()? {
        let mut from = 0;
        while from < batch.rows {
            let rows = reader.slice_rows(&batch, from)?;
            let slice = reader.slice(&batch, from, rows)?;
            let piece: Piece = piece_of(path, &open, &slice, first)?;
            if !take(piece)? {
                return Ok(false);
            }
            from += rows;
            first += rows as u64;
        }
    }
    Ok(true)
}

/// The schema of a file.
pub(super) fn schema(file: Box<dyn DiskFile>, path: &Path) -> Result<SchemaRef, AgentError> {
    Ok(Reader::open(file, path)?.schema)
}

struct Reader<'a> {
    file: Box<dyn DiskFile>,
    path: &'a Path,
    /// Where messages end: before a file's footer.
    end: u64,
    is_file: bool,
    at: u64,
    schema: SchemaRef,
    columns: Vec<Column>,
    dictionaries: Dictionaries,
}

/// A batch that lies in the file.
struct Batch {
    rows: usize,
    bytes: u64,
    columns: Vec<Placed>,
}

struct Message {
    head: Vec<u8>,
    body: Span,
}

impl<'a> Reader<'a> {
    fn open(file: Box<dyn DiskFile>, path: &'a Path) -> Result<Self, AgentError> {
        let len = file.len().map_err(|e| AgentError::io("reading", path, &e))?;
        let schema = Arc::new(Schema::empty());
        let mut reader = Self {
            file,
            path,
            end: len,
            is_file: false,
            at: 0,
            schema,
            columns: Vec::new(),
            dictionaries: Dictionaries::default(),
        };
        if len >= FILE_START && reader.bytes(Span { at: 0, len: 6 })? == MAGIC {
            // Footer, its length, the magic again: 10 bytes and more.
            let tail = len.checked_sub(10).filter(|tail| *tail >= FILE_START).ok_or_else(|| reader.cut())?;
            let tail = reader.bytes(Span { at: tail, len: 10 })?;
            if tail.get(4..) != Some(MAGIC) {
                return Err(reader.cut());
            }
            let (footer, _) = tail.split_first_chunk::<4>().ok_or_else(|| reader.cut())?;
            let footer = u64::from(u32::from_le_bytes(*footer));
            reader.end = len.checked_sub(10 + footer).filter(|end| *end >= FILE_START).ok_or_else(|| reader.cut())?;
            reader.is_file = true;
            reader.at = FILE_START;
            while reader.at < FILE_START_MAX && reader.bytes(Span { at: reader.at, len: 4 })? == [0; 4] {
                reader.at += 4;
            }
        }
        let Some(message) = reader.message()? else {
            return Err(reader.broken("it holds no schema", "缺少结构定义"));
        };
        reader.take_schema(&message)?;
        Ok(reader)
    }

    fn take_schema(&mut self, message: &Message) -> Result<(), AgentError> {
        let invalid =
            |e: &dyn std::fmt::Display| self.broken(&format!("its schema: {e}"), &format!("结构定义无效：{e}"));
        let parsed = root_as_message(&message.head).map_err(|e| invalid(&e))?;
        let fb = parsed.header_as_schema().ok_or_else(|| invalid(&"a schema must come first"))?;
        if fb.endianness() != Endianness::Little {
            return Err(invalid(&"big-endian data is not read"));
        }
        let schema = try_fb_to_schema(fb).map_err(|e| invalid(&e))?;
        let fields = fb.fields().map(|fields| fields.iter().collect::<Vec<_>>()).unwrap_or_default();
        let mut columns = Vec::with_capacity(fields.len());
        for (field, fb) in schema.fields().iter().zip(&fields) {
            let column = Column::of(field, *fb, 0).map_err(|Broken(what)| {
                self.broken(
                    &format!("column {:?}: {what}", super::rows::shown(field.name().as_bytes())),
                    &format!("列 {:?}：{what}", super::rows::shown(field.name().as_bytes())),
                )
            })?;
            columns.push(column);
        }
        if columns.len() != schema.fields().len() {
            return Err(invalid(&"columns without a type"));
        }
        self.columns = columns;
        self.schema = Arc::new(schema);
        Ok(())
    }

    /// The next batch; dictionaries on the way are kept.
    fn next_batch(&mut self) -> Result<Option<Batch>, AgentError> {
        while let Some(message) = self.message()? {
            let parsed = root_as_message(&message.head)
                .map_err(|e| self.broken(&format!("a message's head: {e}"), &format!("消息头无效：{e}")))?;
            match parsed.header_type() {
                MessageHeader::RecordBatch => {
                    let of = parsed.header_as_record_batch().ok_or_else(|| self.cut())?;
                    let columns = Placed::all(&self.columns, of, message.body).map_err(|e| self.lies(e))?;
                    let rows = usize::try_from(of.length()).map_err(|_| self.lies(Broken("a length below zero")))?;
                    return Ok(Some(Batch { rows, bytes: message.body.len, columns }));
                }
                MessageHeader::DictionaryBatch => {
                    let of = parsed.header_as_dictionary_batch().ok_or_else(|| self.cut())?;
                    self.dictionary(of.id(), of.isDelta(), of.data(), message.body)?;
                }
                _ => return Err(self.broken("a message that is no batch", "含有非数据批消息")),
            }
        }
        Ok(None)
    }

    fn dictionary(
        &mut self,
        id: i64,
        is_delta: bool,
        data: Option<arrow::ipc::RecordBatch<'_>>,
        body: Span,
    ) -> Result<(), AgentError> {
        let values = self.columns.iter().find_map(|column| column.dictionary(id));
        let (Some(values), Some(data)) = (values, data) else {
            return Err(self.lies(Broken("a dictionary of no column")));
        };
        if body.len > DICTIONARY_BYTES_MAX || self.dictionaries.len() >= DICTIONARIES_MAX {
            return Err(self.broken("a dictionary has more than 32 MiB", "字典超过 32 MiB"));
        }
        let placed = Placed::all(std::slice::from_ref(values), data, body).map_err(|e| self.lies(e))?;
        let rows = usize::try_from(data.length()).map_err(|_| self.lies(Broken("a length below zero")))?;
        let placed = placed.first().ok_or_else(|| self.cut())?;
        let new = placed.slice(&*self.file, &self.dictionaries, 0, rows).map_err(|e| self.lies_or_io(e))?;
        let new: ArrayRef = make_array(new);
        let whole = match self.dictionaries.get(&id) {
            Some(old) if is_delta => {
                if old.len() + new.len() > 1 << 24 {
                    return Err(self.broken("a dictionary grows without end", "字典过大"));
                }
                concat(&[old, &new]).map_err(|e| self.broken(&e.to_string(), &e.to_string()))?
            }
            _ => new,
        };
        self.dictionaries.insert(id, whole);
        Ok(())
    }

    /// Rows to read from `from` on.
    fn slice_rows(&self, batch: &Batch, from: usize) -> Result<usize, AgentError> {
        let left = batch.rows - from;
        let per_row = (batch.bytes / batch.rows.max(1) as u64).max(1);
        let mut rows = usize::try_from(BATCH_BYTES_AIM as u64 / per_row).unwrap_or(BATCH_ROWS_MAX);
        // A multiple of eight, so that each slice's bits begin with a byte.
        rows = (rows.clamp(ROWS_LEAST, BATCH_ROWS_MAX) / ROWS_LEAST) * ROWS_LEAST;
        loop {
            let count = rows.min(left);
            let mut bytes = 0u64;
            for column in &batch.columns {
                let text = column.text_bytes(&*self.file, from, count).map_err(|e| self.lies_or_io(e))?;
                bytes = bytes.saturating_add(text);
            }
            if bytes <= SLICE_BYTES_MAX || (rows == ROWS_LEAST && bytes <= LEAST_BYTES_MAX) {
                return Ok(count);
            }
            if rows == ROWS_LEAST {
                return Err(self.broken("eight rows have more than 160 MiB", "八行数据超过 160 MiB"));
            }
            rows = (rows / 2).next_multiple_of(ROWS_LEAST);
        }
    }

    fn slice(&self, batch: &Batch, from: usize, rows: usize) -> Result<RecordBatch, AgentError> {
        let mut columns = Vec::with_capacity(batch.columns.len());
        for column in &batch.columns {
            let data = column.slice(&*self.file, &self.dictionaries, from, rows).map_err(|e| self.lies_or_io(e))?;
            columns.push(make_array(data));
        }
        let schema = super::open_schema(&self.schema);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema, columns, &options)
            .map_err(|e| self.broken(&e.to_string(), &e.to_string()))
    }

    /// The next message's head, and where its body lies; none at the end.
    fn message(&mut self) -> Result<Option<Message>, AgentError> {
        if self.at == self.end && !self.is_file {
            // A stream may end without its end marker.
            return Ok(None);
        }
        let mut size = self.number()?;
        if size == u32::MAX {
            size = self.number()?;
        }
        if size == 0 {
            return Ok(None);
        }
        if size > HEAD_BYTES_MAX {
            return Err(self.broken(
                "a message's head claims more than 16 MiB: is it Arrow IPC?",
                "消息头超过 16 MiB：是否为 Arrow IPC 文件？",
            ));
        }
        let head = self.bytes(Span { at: self.at, len: u64::from(size) })?;
        self.at += u64::from(size);
        let invalid =
            |e: &dyn std::fmt::Display| self.broken(&format!("a message's head: {e}"), &format!("消息头无效：{e}"));
        let parsed = root_as_message(&head).map_err(|e| invalid(&e))?;
        let len = u64::try_from(parsed.bodyLength()).map_err(|_| invalid(&"a body of less than no bytes"))?;
        let body = Span { at: self.at, len };
        let after = self.at.checked_add(len).filter(|after| *after <= self.end).ok_or_else(|| self.cut())?;
        self.at = after;
        Ok(Some(Message { head, body }))
    }

    fn number(&mut self) -> Result<u32, AgentError> {
        let bytes = self.bytes(Span { at: self.at, len: 4 })?;
        self.at += 4;
        bytes.first_chunk::<4>().map(|b| u32::from_le_bytes(*b)).ok_or_else(|| self.cut())
    }

    fn bytes(&self, span: Span) -> Result<Vec<u8>, AgentError> {
        if span.at.checked_add(span.len).is_none_or(|end| end > self.end) {
            return Err(self.cut());
        }
        let mut bytes = vec![0; usize::try_from(span.len).map_err(|_| self.cut())?];
        self.file.read_exact_at(&mut bytes, span.at).map_err(|e| AgentError::io("reading", self.path, &e))?;
        Ok(bytes)
    }

    fn broken(&self, en: &str, zh: &str) -> AgentError {
        bad(
            self.path,
            "arrow",
            &format!("it cannot be read as Arrow IPC: {en}"),
            &format!("无法按 Arrow IPC 读取：{zh}"),
        )
    }

    fn cut(&self) -> AgentError {
        self.broken("it ends too early, or claims more than it has", "文件不完整，或声明的长度超出文件")
    }

    fn lies(&self, Broken(what): Broken) -> AgentError {
        self.broken(what, what)
    }

    fn lies_or_io(&self, error: columns::SliceError) -> AgentError {
        match error {
            columns::SliceError::Broken(broken) => self.lies(broken),
            columns::SliceError::Arrow(e) => self.broken(&e.to_string(), &e.to_string()),
            columns::SliceError::Io(e) => AgentError::io("reading", self.path, &e),
        }
    }
}
