//! One run of rows as one Parquet object, sorted by region, with our own account of what is in it.

use super::error::LakeError;
use super::manifest::{ColumnSummary, Part, RowGroup, Slice};
use super::values::Column;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

/// Rows in a row group: what is decoded at once when one region is read.
pub const ROW_GROUP_ROWS_MAX: usize = 64 * 1024;

/// Columns with a summary in each row group: keeps the manifests of wide tables small.
const SUMMARIES_MAX: usize = 64;

/// Bytes after the metadata of a Parquet file: its length and the magic.
const TRAILER_BYTES: u64 = 8;

/// Encodes a run. All batches have this schema; `region` is the place of the region column, by which rows are sorted
/// (rows of one region stay in their order), `keys` come first where not all columns get a summary, and `digest` has seen
/// no rows yet.
///
/// # Errors
/// Arrow or Parquet failed: ours.
pub(crate) fn encode(
    object: String,
    schema: &SchemaRef,
    run: &[RecordBatch],
    region: Option<usize>,
    keys: &[usize],
    mut digest: RowsDigest,
) -> Result<(Bytes, Part), LakeError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(true)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .build();
    let mut encoded = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut encoded, schema.clone(), Some(properties)).map_err(parquet)?;
    let summarised = summarised(schema.fields().len(), region, keys);
    let mut summaries = Vec::new();
    let batches: Vec<&RecordBatch> = run.iter().collect();
    for rows in order(run, region).chunks(ROW_GROUP_ROWS_MAX) {
        // Gathered one row group at a time, so that a run is not held twice.
        let sorted = interleave_record_batch(&batches, rows).map_err(|e| LakeError::columns("sorting a run", e))?;
        summaries.push(summarised.iter().map(|c| summary(&sorted, *c)).collect::<Result<Vec<_>, _>>()?);
        digest.update(&sorted).map_err(|e| LakeError::columns("summing up rows", e))?;
        writer.write(&sorted).map_err(parquet)?;
        writer.flush().map_err(parquet)?;
    }
    let metadata = writer.close().map_err(parquet)?;
    let part = describe(object, &encoded, &metadata, summaries, digest.sum())?;
    Ok((encoded.into(), part))
}

/// Places of all rows, as (batch, row), sorted by region; missing ones first.
fn order(run: &[RecordBatch], region: Option<usize>) -> Vec<(usize, usize)> {
    let mut rows: Vec<(usize, usize)> =
        run.iter().enumerate().flat_map(|(b, batch)| (0..batch.num_rows()).map(move |row| (b, row))).collect();
    let columns: Option<Vec<_>> =
        region.and_then(|region| run.iter().map(|batch| batch.column(region).as_string_opt::<i32>()).collect());
    if let Some(columns) = columns {
        let code = |(b, row): &(usize, usize)| {
            let column = columns.get(*b)?;
            column.is_valid(*row).then(|| column.value(*row).as_bytes())
        };
        rows.sort_by(|a, b| code(a).cmp(&code(b)));
    }
    rows
}

/// Columns that get a summary: region and keys, then the others in order.
fn summarised(columns: usize, region: Option<usize>, keys: &[usize]) -> Vec<usize> {
    let mut chosen: Vec<usize> = region.into_iter().collect();
    for column in keys.iter().copied().chain(0..columns) {
        if !chosen.contains(&column) && chosen.len() < SUMMARIES_MAX {
            chosen.push(column);
        }
    }
    chosen
}

fn summary(rows: &RecordBatch, column: usize) -> Result<ColumnSummary, LakeError> {
    let (stats, nulls) = Column::of(rows.column(column).as_ref())?.stats();
    Ok(ColumnSummary { column, stats, nulls })
}

fn describe(
    object: String,
    encoded: &[u8],
    metadata: &ParquetMetaData,
    summaries: Vec<Vec<ColumnSummary>>,
    rows_sum: RowsSum,
) -> Result<Part, LakeError> {
    let bytes = encoded.len() as u64;
    let metadata_bytes = encoded
        .get(encoded.len().saturating_sub(TRAILER_BYTES as usize)..)
        .and_then(|trailer| trailer.first_chunk::<4>())
        .map(|length| u64::from(u32::from_le_bytes(*length)));
    let footer = metadata_bytes.and_then(|len| slice(encoded, bytes.checked_sub(TRAILER_BYTES + len)?, len));
    let groups = metadata.row_groups().iter().zip(summaries).map(|(group, summaries)| {
        let chunks = group.columns().iter().map(|column| {
            let (offset, bytes) = column.byte_range();
            slice(encoded, offset, bytes)
        });
        Some(RowGroup {
            rows: u64::try_from(group.num_rows()).ok()?,
            chunks: chunks.collect::<Option<_>>()?,
            summaries,
        })
    });
    let described = groups.collect::<Option<Vec<_>>>().zip(footer);
    let (row_groups, footer) =
        described.ok_or_else(|| LakeError::columns("describing a part", "ranges outside the file"))?;
    let digest = Digest::blake3(encoded);
    Ok(Part { object, bytes, digest, encryption: "none".to_owned(), key_id: None, footer, rows_sum, row_groups })
}

fn slice(encoded: &[u8], offset: u64, bytes: u64) -> Option<Slice> {
    let start = usize::try_from(offset).ok()?;
    let content = encoded.get(start..start.checked_add(usize::try_from(bytes).ok()?)?)?;
    Some(Slice { offset, bytes, digest: *blake3::hash(content).as_bytes() })
}

fn parquet(error: parquet::errors::ParquetError) -> LakeError {
    LakeError::columns("writing Parquet", error)
}
