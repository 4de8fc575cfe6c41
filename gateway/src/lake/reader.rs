//! Reads a version of a table: only the row groups that can match, only the columns that are needed, only the rows that
//! the condition selects, rebuilt so that nothing else is in them.
//!
//! Every range is checked against the manifest's digest before it is decoded, so that what reaches the decoder is what
//! [`super::parts`] wrote, page sizes and all.

use super::error::LakeError;
use super::filter::evaluate;
use super::manifest::{Part, RowGroup, Slice, TableManifest};
use super::scrub::scrub_batch;
use super::store::Lake;
use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use bytes::Bytes;
use lingqu_protocol::ipc::{BATCH_BYTES_AIM, BATCH_ROWS_MAX};
use lingqu_protocol::predicate::TypedPredicate;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use std::io::{Cursor, Read};
use std::sync::Arc;

/// Rows below which a batch is not worth being cut for its bytes: very wide rows still make progress.
const BATCH_ROWS_MIN: usize = 64;

/// One read of a version.
pub struct TableReader {
    lake: Lake,
    manifest: Arc<TableManifest>,
    query: Arc<Query>,
    /// Row groups still to be read, as (part, row group), the next one last.
    left: Vec<(usize, usize)>,
    /// Metadata of the part that was read last.
    metadata: Option<(usize, ArrowReaderMetadata)>,
    open: Option<ParquetRecordBatchReader>,
    /// A step is under way, or was cut short: its rows were not given to anyone.
    in_step: bool,
}

/// What is read, in places of the entry's items.
struct Query {
    predicate: Option<TypedPredicate>,
    /// Columns to decode, in order.
    decoded: Vec<usize>,
    /// Columns to give, as places among the decoded.
    given: Vec<usize>,
}

impl TableReader {
    /// Opens a version for the columns with these names, which are given in this order, and the rows for which the
    /// condition is true. The condition is typed against the entry of the version.
    ///
    /// # Errors
    /// [`LakeError::BadData`] names a column that the version does not have, or that is asked for twice.
    pub fn open(
        lake: Lake,
        manifest: Arc<TableManifest>,
        projection: &[&str],
        predicate: Option<TypedPredicate>,
    ) -> Result<Self, LakeError> {
        let mut wanted = Vec::with_capacity(projection.len());
        for name in projection {
            let place = manifest.columns.iter().position(|column| column.name == *name);
            match place.filter(|place| !wanted.contains(place)) {
                Some(place) => wanted.push(place),
                None => return Err(bad(format!("column {name:?} is not in the version, or asked for twice"))),
            }
        }
        let mut decoded = predicate.as_ref().map(TypedPredicate::columns).unwrap_or_default();
        decoded.extend(&wanted);
        decoded.sort_unstable();
        decoded.dedup();
        if decoded.last().is_some_and(|last| *last >= manifest.columns.len()) {
            return Err(bad("the condition was typed against another entry".to_owned()));
        }
        let given = wanted.iter().filter_map(|place| decoded.binary_search(place).ok()).collect();
        let mut left: Vec<_> = manifest.parts.iter().enumerate().flat_map(|(p, part)| groups(p, part)).collect();
        if let Some(predicate) = &predicate {
            left.retain(|(p, g)| {
                group_of(&manifest, *p, *g).is_some_and(|group| predicate.may_match(&|c| group.stats(c)))
            });
        }
        left.reverse();
        let query = Arc::new(Query { predicate, decoded, given });
        Ok(Self { lake, manifest, query, left, metadata: None, open: None, in_step: false })
    }

    /// Row groups that are still to be read.
    pub fn row_groups_left(&self) -> usize {
        self.left.len()
    }

    /// The next rows, never an empty batch; `None` at the end. At most [`BATCH_ROWS_MAX`] rows and about
    /// [`BATCH_BYTES_AIM`].
    ///
    /// # Errors
    /// Damaged, and in quarantine; not found; the store failed. The read cannot go on then, nor where the future was
    /// dropped before its end: rows would be missing, and every later call says so.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, LakeError> {
        if self.in_step {
            return Err(LakeError::columns("reading a table", "an earlier step failed or was cut short"));
        }
        self.in_step = true;
        let batch = self.step().await?;
        self.in_step = false;
        Ok(batch)
    }

    async fn step(&mut self) -> Result<Option<RecordBatch>, LakeError> {
        loop {
            let Some(mut reader) = self.open.take() else {
                let Some((part, group)) = self.left.pop() else { return Ok(None) };
                self.open = Some(self.open_group(part, group).await?);
                continue;
            };
            let query = self.query.clone();
            let step = tokio::task::spawn_blocking(move || {
                let batch = reader.next().transpose().map_err(|e| LakeError::columns("reading Parquet", e))?;
                Ok::<_, LakeError>((batch.map(|batch| query.select(&batch)).transpose()?, reader))
            });
            let (batch, reader) = step.await??;
            let Some(batch) = batch else { continue };
            self.open = Some(reader);
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
    }

    async fn open_group(&mut self, part: usize, group: usize) -> Result<ParquetRecordBatchReader, LakeError> {
        let manifest = self.manifest.clone();
        let (Some(of), Some(row_group)) = (manifest.parts.get(part), group_of(&manifest, part, group)) else {
            return Err(LakeError::columns("opening a row group", "the manifest has none such"));
        };
        let metadata = match &self.metadata {
            Some((index, metadata)) if *index == part => metadata.clone(),
            _ => {
                let metadata = self.read_metadata(of).await?;
                self.metadata = Some((part, metadata.clone()));
                metadata
            }
        };
        check_layout(metadata.metadata(), group, row_group)?;
        let slices: Vec<Slice> = self.query.decoded.iter().filter_map(|c| row_group.chunks.get(*c).copied()).collect();
        let pieces = self.read_slices(of, slices).await?;
        let rows = usize::try_from(row_group.rows).unwrap_or(usize::MAX).max(1);
        let row_bytes = decoded_bytes(metadata.metadata(), group, &self.query.decoded).div_ceil(rows).max(1);
        let batch_rows = (BATCH_BYTES_AIM / row_bytes).clamp(BATCH_ROWS_MIN, BATCH_ROWS_MAX);
        let mask = ProjectionMask::leaves(metadata.parquet_schema(), self.query.decoded.iter().copied());
        let input = Pieces { object_bytes: of.bytes, pieces };
        ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata)
            .with_projection(mask)
            .with_row_groups(vec![group])
            .with_batch_size(batch_rows)
            .build()
            .map_err(|e| LakeError::columns("opening a row group", e))
    }

    async fn read_metadata(&mut self, part: &Part) -> Result<ArrowReaderMetadata, LakeError> {
        let pieces = self.read_slices(part, vec![part.footer]).await?;
        let footer = pieces.into_iter().map(|(_, bytes)| bytes).next().unwrap_or_default();
        let metadata = ParquetMetaDataReader::decode_metadata(&footer).map(Arc::new);
        metadata
            .and_then(|metadata| ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()))
            .map_err(|e| LakeError::columns("reading a part's metadata", e))
    }

    /// Reads ranges of a part, each checked.
    async fn read_slices(&mut self, part: &Part, slices: Vec<Slice>) -> Result<Vec<(u64, Bytes)>, LakeError> {
        let object = Path::from(part.object.as_str());
        let ranges: Vec<_> = slices.iter().map(|s| s.offset..s.offset.saturating_add(s.bytes)).collect();
        let read = match self.lake.ranges(&object, &ranges).await {
            Ok(read) => read,
            Err(LakeError::Store { object: name, source }) => {
                // An object that ends early says so by an error of the store.
                return Err(match self.lake.len(&object).await? {
                    Some(len) if len != part.bytes => {
                        self.lake.quarantine(&object, None, format!("{len} bytes long")).await
                    }
                    _ => LakeError::Store { object: name, source },
                });
            }
            Err(error) => return Err(error),
        };
        let checked = tokio::task::spawn_blocking(move || {
            let pieces: Vec<_> = slices.iter().map(|s| s.offset).zip(read).collect();
            let whole = slices.iter().zip(&pieces).all(|(s, (_, bytes))| blake3::hash(bytes).as_bytes() == &s.digest);
            whole.then_some(pieces)
        });
        match checked.await? {
            Some(pieces) => Ok(pieces),
            None => Err(self.lake.quarantine(&object, None, "a column or its metadata").await),
        }
    }
}

impl Query {
    /// The rows and columns that are asked for, rebuilt.
    fn select(&self, batch: &RecordBatch) -> Result<RecordBatch, LakeError> {
        let selected = match &self.predicate {
            None => batch.project(&self.given),
            Some(predicate) => {
                let mask = evaluate(predicate, batch, &|column| self.decoded.binary_search(&column).ok())?;
                batch.project(&self.given).and_then(|given| filter_record_batch(&given, &mask))
            }
        };
        scrub_batch(&selected.map_err(|e| LakeError::columns("selecting rows", e))?)
    }
}

/// A part of which only some ranges were read.
struct Pieces {
    object_bytes: u64,
    pieces: Vec<(u64, Bytes)>,
}

impl Pieces {
    fn at(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let within = self.pieces.iter().find_map(|(offset, bytes)| {
            let skip = usize::try_from(start.checked_sub(*offset)?).ok()?;
            (skip < bytes.len()).then(|| bytes.slice(skip..))
        });
        within.ok_or_else(|| parquet::errors::ParquetError::General("a range that was not read".to_owned()))
    }
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.object_bytes
    }
}

impl ChunkReader for Pieces {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(Box::new(Cursor::new(self.at(start)?)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.at(start)?;
        if bytes.len() < length {
            return Err(parquet::errors::ParquetError::EOF("a range ends early".to_owned()));
        }
        Ok(bytes.slice(..length))
    }
}

fn groups(part: usize, of: &Part) -> impl Iterator<Item = (usize, usize)> + use<> {
    (0..of.row_groups.len()).map(move |group| (part, group))
}

fn group_of(manifest: &TableManifest, part: usize, group: usize) -> Option<&RowGroup> {
    manifest.parts.get(part)?.row_groups.get(group)
}

/// Whether Parquet's metadata and the manifest tell the same of a row group.
fn check_layout(metadata: &ParquetMetaData, group: usize, row_group: &RowGroup) -> Result<(), LakeError> {
    let same = metadata.row_groups().get(group).is_some_and(|found| {
        u64::try_from(found.num_rows()).ok() == Some(row_group.rows)
            && found.num_columns() == row_group.chunks.len()
            && found.columns().iter().zip(&row_group.chunks).all(|(c, s)| c.byte_range() == (s.offset, s.bytes))
    });
    if same { Ok(()) } else { Err(LakeError::columns("opening a row group", "metadata and manifest differ")) }
}

fn decoded_bytes(metadata: &ParquetMetaData, group: usize, columns: &[usize]) -> usize {
    let Some(group) = metadata.row_groups().get(group) else { return 0 };
    let bytes = columns.iter().filter_map(|c| group.columns().get(*c)).map(|c| {
        // Dictionaries shrink text by much: what it takes when decoded is in the statistics, where there are any.
        let encoded = usize::try_from(c.uncompressed_size()).unwrap_or(usize::MAX);
        let decoded = c.unencoded_byte_array_data_bytes().and_then(|b| usize::try_from(b).ok()).unwrap_or(0);
        let fixed = usize::try_from(c.num_values()).unwrap_or(0).saturating_mul(8);
        encoded.max(decoded.saturating_add(fixed))
    });
    bytes.fold(0, usize::saturating_add)
}

fn bad(what: String) -> LakeError {
    LakeError::BadData { what }
}
