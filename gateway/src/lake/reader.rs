//! Reads a version of a table: only the row groups that can match, only the columns that are needed, only the rows that
//! the condition selects and no later change took away, rebuilt so that nothing else is in them.
//!
//! Every range is checked against the manifest's digest before it is decoded, and every mebibyte of a provider's own file
//! against its value, so that what reaches the decoder is what was checked when it came, page sizes and all.

mod query;

use super::error::LakeError;
use super::manifest::{Part, RowGroup, Slice, TableManifest};
use super::page_maps::{FilePages, PageMaps};
use super::segment::SegmentStore;
use super::source::{ChunkCache, FileChunks, Pieces, Source};
use super::store::Lake;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema, SchemaRef};
use lingqu_protocol::columns::arrow_type;
use lingqu_protocol::ipc::{BATCH_BYTES_AIM, BATCH_ROWS_MAX};
use lingqu_protocol::predicate::TypedPredicate;
use lingqu_protocol::views::{self, cut_to_bytes, decoding_rows};
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use query::{Layout, Query};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Bytes below which the few rows that several row groups give are joined: frames of a handful of rows cost more than their
/// content.
const JOINED_BYTES: usize = 1 << 20;

/// Rows that are decoded at a time where single rows are chosen: they lie far apart, and as long as they are held so are the
/// whole pages that their text stands in.
const CHOSEN_ROWS: usize = 1024;

/// Where a read stands, in coordinates of the version: the next row to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Which part.
    pub part: u32,
    /// Which row group of it.
    pub row_group: u32,
    /// Which row of that.
    pub row: u64,
}

/// One read of a version.
pub struct TableReader {
    lake: Lake,
    cache: ChunkCache,
    maps: PageMaps,
    manifest: Arc<TableManifest>,
    query: Arc<Query>,
    /// Row groups still to be read, as (part, row group), the next one last.
    left: Vec<(usize, usize)>,
    /// The row of the next row group to begin at; 0 but after a seek.
    skip: u64,
    /// Source and metadata of the part that was read last.
    part: Option<(usize, Option<Source>, ArrowReaderMetadata)>,
    open: Option<Open>,
    position: Position,
    /// A step is under way, or was cut short: its rows were not given to anyone.
    in_step: bool,
    /// The rows to read of each row group, in order, where not all are wanted.
    chosen: Option<Chosen>,
}

/// Rows by (part, row group), in ascending order.
pub type Chosen = BTreeMap<(usize, usize), Vec<usize>>;

/// A row group that is being read.
struct Open {
    part: usize,
    group: usize,
    row: u64,
    /// Decoded and not looked at yet.
    pieces: VecDeque<RecordBatch>,
    reader: ParquetRecordBatchReader,
    /// The file that is read as it is needed, where it is one.
    file: Option<Arc<FileChunks>>,
    layout: Arc<Layout>,
    /// Only rows that were chosen come.
    is_chosen: bool,
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
        let fields = wanted.iter().filter_map(|place| manifest.columns.get(*place));
        let fields = fields.map(|column| Field::new(&column.name, arrow_type(column.item_type), column.nullable));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut left: Vec<_> = manifest.parts.iter().enumerate().flat_map(|(p, part)| groups(p, part)).collect();
        left.retain(|(p, g)| {
            group_of(&manifest, *p, *g).is_some_and(|group| {
                group.deleted.count() < group.rows
                    && predicate.as_ref().is_none_or(|predicate| predicate.may_match(&|c| group.stats(c)))
            })
        });
        left.reverse();
        let query = Arc::new(Query { predicate, decoded, given, schema });
        Ok(Self {
            lake,
            cache: ChunkCache::default(),
            maps: PageMaps::default(),
            manifest,
            query,
            left,
            skip: 0,
            part: None,
            open: None,
            position: Position::default(),
            in_step: false,
            chosen: None,
        })
    }

    /// Reads only these rows, none of which a later change took away: whoever chose them looked.
    #[must_use]
    pub fn choosing(mut self, chosen: Chosen) -> Self {
        self.left.retain(|place| chosen.contains_key(place));
        self.chosen = Some(chosen);
        self
    }

    /// Keeps what is read of files where others find it too.
    #[must_use]
    pub fn with_cache(self, cache: ChunkCache) -> Self {
        Self { cache, ..self }
    }

    /// Keeps the places of pages where others find them too.
    #[must_use]
    pub(crate) fn with_maps(self, maps: PageMaps) -> Self {
        Self { maps, ..self }
    }

    /// Begins at a position that an earlier read of the same version under the same condition had.
    pub fn seek(&mut self, position: Position) {
        let (part, group) = (position.part as usize, position.row_group as usize);
        self.left.retain(|place| *place >= (part, group));
        self.skip = if self.left.last() == Some(&(part, group)) { position.row } else { 0 };
        self.position = position;
    }

    /// Reads no more than this row group.
    pub(crate) fn only(&mut self, part: usize, group: usize) {
        self.left.retain(|place| *place == (part, group));
    }

    /// Where the rows that were given end; `None` in the middle of what was decoded at once, from where another read would
    /// cut its batches otherwise.
    pub fn position(&self) -> Option<Position> {
        let is_between = self.open.as_ref().is_none_or(|open| open.pieces.is_empty());
        is_between.then_some(self.position)
    }

    /// The columns that it gives.
    pub fn schema(&self) -> &SchemaRef {
        &self.query.schema
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
        let mut some: Vec<RecordBatch> = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        while rows < BATCH_ROWS_MAX / 2 && bytes < JOINED_BYTES {
            let Some(batch) = self.step().await? else { break };
            rows += batch.num_rows();
            bytes += batch.get_array_memory_size();
            some.push(batch);
        }
        self.in_step = false;
        if some.len() <= 1 {
            return Ok(some.pop());
        }
        let joined = concat_batches(&self.query.schema, &some);
        joined.map(Some).map_err(|e| LakeError::columns("joining rows", e))
    }

    async fn step(&mut self) -> Result<Option<RecordBatch>, LakeError> {
        loop {
            let Some(mut open) = self.open.take() else {
                let Some((part, group)) = self.left.pop() else { return Ok(None) };
                self.open = Some(self.open_group(part, group).await?);
                continue;
            };
            let (query, manifest) = (self.query.clone(), self.manifest.clone());
            let step = tokio::task::spawn_blocking(move || {
                if open.pieces.is_empty() {
                    let batch = open.reader.next().transpose().map_err(|e| {
                        let own = open.file.as_ref().and_then(|file| file.take_fault());
                        own.unwrap_or_else(|| LakeError::columns("reading Parquet", e))
                    })?;
                    let Some(batch) = batch else { return Ok::<_, LakeError>((None, open)) };
                    // Text that a dictionary names for many rows is written out piece by piece.
                    open.pieces = cut_to_bytes(&batch, BATCH_BYTES_AIM).into();
                }
                let Some(piece) = open.pieces.pop_front() else { return Ok((None, open)) };
                let selected = query.select(&manifest, &open, &piece)?;
                open.row += piece.num_rows() as u64;
                Ok((Some(selected), open))
            });
            let (batch, open) = step.await??;
            let Some(batch) = batch else { continue };
            self.position = Position { part: open.part as u32, row_group: open.group as u32, row: open.row };
            self.open = Some(open);
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
    }

    async fn open_group(&mut self, part: usize, group: usize) -> Result<Open, LakeError> {
        let manifest = self.manifest.clone();
        let (Some(of), Some(row_group)) = (manifest.parts.get(part), group_of(&manifest, part, group)) else {
            return Err(LakeError::columns("opening a row group", "the manifest has none such"));
        };
        let known = self.part.take().filter(|(index, ..)| *index == part);
        let (source, metadata) = match known {
            Some((_, source, metadata)) => (source, metadata),
            None => self.open_part(of).await?,
        };
        self.part = Some((part, source.clone(), metadata.clone()));
        let layout = Arc::new(self.query.layout(of));
        let source = match source {
            Some(source) => source,
            None => {
                check_layout(metadata.metadata(), group, row_group)?;
                let slices = layout.leaves.iter().filter_map(|leaf| row_group.chunks.get(*leaf).copied()).collect();
                Source::Pieces(Pieces { object_bytes: of.bytes, pieces: self.read_slices(of, slices).await? })
            }
        };
        let file = match &source {
            Source::File(file) => Some(file.clone()),
            Source::Pieces(_) => None,
        };
        let row = std::mem::take(&mut self.skip);
        let chosen = self.chosen.as_mut().and_then(|chosen| chosen.remove(&(part, group)));
        let is_chosen = chosen.is_some();
        let all_rows = usize::try_from(row_group.rows).unwrap_or(usize::MAX);
        let rows = decoding_rows(metadata.schema(), &layout.leaves);
        let rows = if is_chosen { rows.min(CHOSEN_ROWS) } else { rows };
        let mask = ProjectionMask::leaves(metadata.parquet_schema(), layout.leaves.iter().copied());
        let reading = file.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(source, metadata)
                .with_projection(mask)
                .with_row_groups(vec![group])
                .with_batch_size(rows);
            let builder = match chosen {
                Some(rows) => builder.with_row_selection(selection(&rows, all_rows)),
                None => builder.with_offset(usize::try_from(row).unwrap_or(usize::MAX)),
            };
            builder.build().map_err(|e| {
                let own = reading.and_then(|file| file.take_fault());
                own.unwrap_or_else(|| LakeError::columns("opening a row group", e))
            })
        });
        Ok(Open { part, group, row, pieces: VecDeque::new(), reader: opening.await??, file, layout, is_chosen })
    }

    /// Metadata of a part, and its bytes where they are read as they are needed.
    async fn open_part(&mut self, part: &Part) -> Result<(Option<Source>, ArrowReaderMetadata), LakeError> {
        let Some(place) = &part.file else {
            let pieces = self.read_slices(part, vec![part.footer]).await?;
            let footer = pieces.into_iter().map(|(_, bytes)| bytes).next().unwrap_or_default();
            let metadata = ParquetMetaDataReader::decode_metadata(&footer).and_then(views::metadata);
            return Ok((None, metadata.map_err(|e| LakeError::columns("reading a part's metadata", e))?));
        };
        let file = Arc::new(FileChunks::open(SegmentStore::new(self.lake.clone()), self.cache.clone(), place)?);
        let (input, footer) = (file.clone(), part.footer);
        // Who reads all rows meets the head of every page anyway.
        let wanted = self.chosen.is_some().then(|| (self.maps.clone(), self.query.layout(part).leaves));
        let read = tokio::task::spawn_blocking(move || {
            let bytes = input.range(footer.offset, usize::try_from(footer.bytes).unwrap_or(usize::MAX));
            let metadata = bytes.and_then(|bytes| ParquetMetaDataReader::decode_metadata(&bytes));
            let metadata = metadata.map(|metadata| match wanted {
                Some((maps, leaves)) => {
                    let pages = FilePages::new(&input, maps, &metadata, &leaves);
                    metadata.into_builder().set_page_index(Some(Arc::new(pages))).build()
                }
                None => metadata,
            });
            let metadata = metadata.and_then(views::metadata);
            metadata
                .map_err(|e| input.take_fault().unwrap_or_else(|| LakeError::columns("reading a part's metadata", e)))
        });
        Ok((Some(Source::File(file)), read.await??))
    }

    /// Reads ranges of a part, each checked.
    async fn read_slices(&mut self, part: &Part, slices: Vec<Slice>) -> Result<Vec<(u64, bytes::Bytes)>, LakeError> {
        let object = Path::from(part.object.as_str());
        let ranges: Vec<_> = slices.iter().map(|s| s.offset..s.offset.saturating_add(s.bytes)).collect();
        let read = match self.lake.ranges(&object, &ranges).await {
            Ok(read) => read,
            Err(LakeError::Store { object: name, source }) => {
                // An object that ends early says so by an error of the store.
                return Err(match self.lake.len(&object).await? {
                    Some(len) if len < part.bytes => {
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

/// Rows in ascending order, each there once, of a row group of so many.
fn selection(rows: &[usize], all: usize) -> RowSelection {
    RowSelection::from_consecutive_ranges(rows.iter().filter(|row| **row < all).map(|row| *row..row + 1), all)
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

fn bad(what: String) -> LakeError {
    LakeError::BadData { what }
}
