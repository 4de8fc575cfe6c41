//! One run of rows as one object: Parquet, sorted by region, with our own account of what is in it.
//!
//! Behind the Parquet bytes stands the run's record: what the manifest will say of the part, its rows by region, and count
//! and sum of the rows that came in it. So a run that is durable can be gone on after, and no manifest is needed for it.
//!
//! | bytes | what |
//! |---|---|
//! | the part's | Parquet |
//! | see `keys` | the keys of its rows, where its entry has a key |
//! | n | the record, a protobuf message (`manifest_rows::RunRow`) |
//! | 4 | n, little-endian |
//! | 32 | BLAKE3 of the record |
//! | 8 | `LINGQURN` |

use super::deleted::Deleted;
use super::error::LakeError;
use super::keys::{self, KeySection};
use super::manifest::{ColumnSummary, Part, Regions, RowGroup, Slice};
use super::manifest_rows::{PartRow, RegionsRow, RunRow, rows_sum};
use super::regions::Placed;
use super::shape::Shape;
use super::values::Column;
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use bytes::{BufMut, Bytes, BytesMut};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::rows::RowsSum;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use prost::Message;

/// Rows in a row group: what is decoded at once when one region is read.
pub const ROW_GROUP_ROWS_MAX: usize = 64 * 1024;

/// Columns with a summary in each row group: keeps the manifests of wide tables small.
pub(crate) const SUMMARIES_MAX: usize = 64;

/// Values of a page that are encoded at a time: the writer's own default looks up its state several times as often.
const WRITE_ROWS: usize = 8 * 1024;

/// Bytes after the metadata of a Parquet file: its length and the magic.
pub(crate) const TRAILER_BYTES: u64 = 8;

const RUN_MAGIC: &[u8; 8] = b"LINGQURN";

/// Bytes after a run's record.
pub(crate) const RUN_TAIL_BYTES: u64 = 4 + 32 + 8;

/// A run that is encoded.
pub(crate) struct EncodedRun {
    /// The object's bytes.
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) run: Run,
}

/// A run that is durable, or about to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) part: Part,
    pub(crate) regions: Regions,
    /// The rows that came in it: all rows of the part, unless it holds changes.
    pub(crate) arrived: RowsSum,
}

/// Encodes a run, whose first row is row `first_row` of the version. All batches have the shape's schema.
///
/// # Errors
/// [`LakeError::BadData`] names row and column of a region that is none; or Arrow or Parquet failed: ours.
pub(crate) fn encode(
    object: String,
    shape: &Shape,
    run: Vec<RecordBatch>,
    first_row: u64,
) -> Result<EncodedRun, LakeError> {
    let schema = &shape.arriving;
    let rows = concat_batches(schema, &run).map_err(|e| LakeError::columns("joining a run", e))?;
    // The run's batches are held no longer than this.
    drop(run);
    let placed = Placed::of(&rows, shape.region, first_row)?;
    let summed = shape.sum_up(&rows, &placed)?;
    // Changes stay in their order, which decides among several of one key.
    let order = if shape.op.is_none() { placed.order() } else { None };
    let mut encoded = Vec::new();
    let properties = properties(&rows);
    let mut writer = ArrowWriter::try_new(&mut encoded, schema.clone(), Some(properties)).map_err(parquet)?;
    let summarised = summarised(shape.columns.len(), shape.region, &shape.keys);
    let mut summaries = Vec::new();
    for start in (0..rows.num_rows()).step_by(ROW_GROUP_ROWS_MAX) {
        let count = ROW_GROUP_ROWS_MAX.min(rows.num_rows() - start);
        // Gathered one row group at a time, so that a run is not held twice.
        let sorted = match &order {
            None => rows.slice(start, count),
            Some(order) => gather(&rows, &order.slice(start, count))?,
        };
        summaries.push(summarised.iter().map(|c| summary(&sorted, *c)).collect::<Result<Vec<_>, _>>()?);
        writer.write(&sorted).map_err(parquet)?;
        writer.flush().map_err(parquet)?;
    }
    let metadata = writer.close().map_err(parquet)?;
    let leaves = (0..shape.columns.len()).map(Some).collect();
    let listed = list_keys(&object, shape, &rows, order.as_ref(), encoded.len() as u64)?;
    drop(rows);
    let mut part = describe(object, &encoded, &metadata, summaries, leaves, summed.stays)?;
    let mut pieces: Vec<Bytes> = vec![encoded.into()];
    if let Some((bytes, section)) = listed {
        part.keys = vec![section];
        pieces.push(bytes);
    }
    let run = Run { part, regions: summed.regions, arrived: summed.arrived };
    pieces.push(run.tail());
    Ok(EncodedRun { pieces, run })
}

/// The keys of a run's rows, each with the place where its row lies; `None` where the entry has no key.
fn list_keys(
    object: &str,
    shape: &Shape,
    rows: &RecordBatch,
    order: Option<&UInt32Array>,
    pages_at: u64,
) -> Result<Option<(Bytes, KeySection)>, LakeError> {
    if shape.keys.is_empty() {
        return Ok(None);
    }
    let of_keys = rows.project(&shape.keys).map_err(|e| LakeError::columns("listing keys", e))?;
    let hashes = keys::key_hashes(&of_keys)?;
    let entries = match order {
        None => hashes.into_iter().zip(0..).collect(),
        Some(order) => {
            let hash = |row: &u32| hashes.get(*row as usize).copied().unwrap_or(0);
            order.values().iter().map(hash).zip(0..).collect()
        }
    };
    keys::encode(entries, object.to_owned(), pages_at, shape.keys.clone()).map(Some)
}

impl Run {
    /// What stands behind the Parquet bytes.
    fn tail(&self) -> Bytes {
        let row = RunRow {
            part: Some(PartRow::from(&self.part)),
            regions: Some(RegionsRow::from(&self.regions)),
            arrived: self.arrived.to_bytes().to_vec(),
        };
        let record = row.encode_to_vec();
        let mut tail = BytesMut::with_capacity(record.len() + RUN_TAIL_BYTES as usize);
        tail.put_slice(&record);
        tail.put_u32_le(record.len() as u32);
        tail.put_slice(blake3::hash(&record).as_bytes());
        tail.put_slice(RUN_MAGIC);
        tail.freeze()
    }

    /// Bytes of the record that stands before these, the last [`RUN_TAIL_BYTES`] of an object.
    pub(crate) fn record_bytes(tail: &[u8]) -> Option<u64> {
        let (length, rest) = tail.split_first_chunk::<4>()?;
        rest.ends_with(RUN_MAGIC).then(|| u64::from(u32::from_le_bytes(*length)))
    }

    /// The run whose object of `object_bytes` ends with these bytes, the record and its tail; `None` where they are not
    /// whole.
    pub(crate) fn from_tail(record_and_tail: &[u8], object_bytes: u64, columns: usize) -> Option<Self> {
        let (record, tail) = record_and_tail.split_at_checked(record_and_tail.len().checked_sub(44)?)?;
        let digest = tail.get(4..36)?;
        if blake3::hash(record).as_bytes() != digest || tail.get(36..)? != RUN_MAGIC {
            return None;
        }
        let row = RunRow::decode(record).ok()?;
        let part = row.part?.into_part(columns, &[])?;
        let listed: u64 = part.keys.iter().map(KeySection::bytes).fold(0, u64::saturating_add);
        let whole = part.bytes.saturating_add(listed).saturating_add(record_and_tail.len() as u64) == object_bytes;
        let (regions, arrived) = (row.regions?.into_regions()?, rows_sum(&row.arrived)?);
        whole.then_some(Self { part, regions, arrived })
    }
}

/// No statistics, which the lake keeps itself and a reader of it would not believe; dictionaries where values come again.
fn properties(rows: &RecordBatch) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::LZ4_RAW)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_write_batch_size(WRITE_ROWS)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX));
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if Column::of(column.as_ref()).is_ok_and(|column| column.repeats()) {
            let path = ColumnPath::new(vec![field.name().clone()]);
            properties = properties.set_column_dictionary_enabled(path, true);
        }
    }
    properties.build()
}

fn gather(rows: &RecordBatch, order: &UInt32Array) -> Result<RecordBatch, LakeError> {
    take_record_batch(rows, order).map_err(|e| LakeError::columns("sorting a run", e))
}

/// Columns that get a summary: region and keys, then the others in order.
pub(crate) fn summarised(columns: usize, region: Option<usize>, keys: &[usize]) -> Vec<usize> {
    let mut chosen: Vec<usize> = region.into_iter().collect();
    for column in keys.iter().copied().chain(0..columns) {
        if !chosen.contains(&column) && chosen.len() < SUMMARIES_MAX {
            chosen.push(column);
        }
    }
    chosen
}

pub(crate) fn summary(rows: &RecordBatch, column: usize) -> Result<ColumnSummary, LakeError> {
    let (stats, nulls) = Column::of(rows.column(column).as_ref())?.stats();
    Ok(ColumnSummary { column, stats, nulls })
}

fn describe(
    object: String,
    encoded: &[u8],
    metadata: &ParquetMetaData,
    summaries: Vec<Vec<ColumnSummary>>,
    leaves: Vec<Option<usize>>,
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
            deleted: Deleted::default(),
        })
    });
    let described = groups.collect::<Option<Vec<_>>>().zip(footer);
    let (row_groups, footer) =
        described.ok_or_else(|| LakeError::columns("describing a part", "ranges outside the file"))?;
    let digest = Digest::blake3(encoded);
    let encryption = "none".to_owned();
    let (file, key_id, keys) = (None, None, Vec::new());
    Ok(Part { object, file, bytes, digest, encryption, key_id, footer, leaves, rows_sum, row_groups, keys })
}

fn slice(encoded: &[u8], offset: u64, bytes: u64) -> Option<Slice> {
    let start = usize::try_from(offset).ok()?;
    let content = encoded.get(start..start.checked_add(usize::try_from(bytes).ok()?)?)?;
    Some(Slice { offset, bytes, digest: *blake3::hash(content).as_bytes() })
}

fn parquet(error: parquet::errors::ParquetError) -> LakeError {
    LakeError::columns("writing Parquet", error)
}
