//! Parquet files as batches.

use super::{Take, bad, check_columns, opened, piece_of};
use crate::error::AgentError;
use arrow::datatypes::Schema;
use bytes::Bytes;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::DiskFile;
use lingqu_protocol::ipc::{BATCH_BYTES_AIM, BATCH_ROWS_MAX};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

/// Bytes of one column of one row group, as they are stored: one column's pages are held while its rows are read.
const COLUMN_BYTES_MAX: i64 = 1 << 30;

pub(super) fn read(file: Box<dyn DiskFile>, path: &Path, spec: &EntrySpec, take: Take<'_>) -> Result<bool, AgentError> {
    let broken = |e: &dyn std::fmt::Display| {
        bad(path, "parquet", &format!("it cannot be read as Parquet: {e}"), &format!("无法按 Parquet 读取：{e}"))
    };
    let len = file.len().map_err(|e| AgentError::io("reading", path, &e))?;
    let chunks = Chunks { file: Arc::from(file), len };
    let file = Arc::clone(&chunks.file);
    let builder = ParquetRecordBatchReaderBuilder::try_new(chunks).map_err(|e| broken(&e))?;
    check_columns(path, spec, builder.schema())?;
    super::pages::check(&*file, builder.metadata()).map_err(|why| broken(&why))?;
    let rows = batch_rows(builder.metadata()).ok_or_else(|| broken(&"a column chunk is over 1 GiB"))?;
    let said = said_rows(builder.metadata()).map_err(|why| broken(&why))?;
    let reader = builder.with_batch_size(rows).build().map_err(|e| broken(&e))?;
    let (open, mut first) = (opened(spec), 1);
    for batch in reader {
        let batch = batch.map_err(|e| broken(&e))?;
        let rows = batch.num_rows() as u64;
        if rows > 0 && !take(piece_of(path, &open, &batch, first)?)? {
            return Ok(false);
        }
        first += rows;
    }
    match first - 1 {
        found if found == said => Ok(true),
        found => Err(broken(&format!("it holds {found} rows where it says {said}"))),
    }
}

/// Rows that a file says it holds, as a whole and in its row groups alike.
fn said_rows(metadata: &ParquetMetaData) -> Result<u64, String> {
    let of = |rows: i64| u64::try_from(rows).map_err(|_| "it says that it holds less than no rows".to_owned());
    let whole = of(metadata.file_metadata().num_rows())?;
    let mut parts = 0u64;
    for group in metadata.row_groups() {
        parts = parts.saturating_add(of(group.num_rows())?);
    }
    if parts == whole {
        Ok(whole)
    } else {
        Err(format!("it says that it holds {whole} rows, and its row groups {parts}"))
    }
}

/// The schema of a file.
pub(super) fn schema(file: Box<dyn DiskFile>, path: &Path) -> Result<Schema, AgentError> {
    let len = file.len().map_err(|e| AgentError::io("reading", path, &e))?;
    let chunks = Chunks { file: Arc::from(file), len };
    let builder = ParquetRecordBatchReaderBuilder::try_new(chunks).map_err(|e| {
        bad(path, "parquet", &format!("it cannot be read as Parquet: {e}"), &format!("无法按 Parquet 读取：{e}"))
    })?;
    Ok(builder.schema().as_ref().clone())
}

/// Rows to decode at a time, from what the file says of its widest rows; `None` where a column is too large to read.
fn batch_rows(metadata: &ParquetMetaData) -> Option<usize> {
    let mut rows = BATCH_ROWS_MAX;
    for group in metadata.row_groups() {
        if group.columns().iter().any(|c| c.compressed_size() > COLUMN_BYTES_MAX) {
            return None;
        }
        let bytes = usize::try_from(group.total_byte_size()).unwrap_or(usize::MAX).max(1);
        let count = usize::try_from(group.num_rows()).unwrap_or(0).max(1);
        rows = rows.min(BATCH_BYTES_AIM / (bytes / count).max(1));
    }
    Some(rows.max(1))
}

/// A file of the disk as Parquet reads it.
pub(crate) struct Chunks {
    file: Arc<dyn DiskFile>,
    len: u64,
}

impl Chunks {
    pub(super) fn new(file: Box<dyn DiskFile>) -> std::io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file: Arc::from(file), len })
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(From { file: self.file.clone(), at: start, len: self.len }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        // Checked before memory is taken for it: lengths come from the file.
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} lie outside the file")));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

pub(crate) struct From {
    file: Arc<dyn DiskFile>,
    at: u64,
    len: u64,
}

impl Read for From {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.len.saturating_sub(self.at).min(buf.len() as u64) as usize;
        let Some(part) = buf.get_mut(..bytes) else { return Ok(0) };
        self.file.read_exact_at(part, self.at)?;
        self.at += bytes as u64;
        Ok(bytes)
    }
}
