//! A provider's own Parquet file as a part of a version: looked through, every value decoded once and judged, and left as
//! it is.
//!
//! It is not sorted, so its map from region to row groups is what its rows give: the summaries come from decoded values.
//! The file's own statistics and page index are never read, here or later.

use super::deleted::Deleted;
use super::error::LakeError;
use super::keys::{self, KeySection};
use super::manifest::{ColumnSummary, FilePlace, Part, Regions, RowGroup, Slice};
use super::parts::{summarised, summary};
use super::regions::Placed;
use super::segment::{SegmentStore, directory};
use super::shape::Shape;
use super::source::{ChunkCache, FileChunks, Source};
use super::store::Lake;
use super::values::widened;
use super::writer;
use arrow::array::RecordBatch;
use lingqu_protocol::columns::canonical_batch;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::pages::{Fit, HELD_BYTES_MAX, inspect};
use lingqu_protocol::rows::RowsSum;
use lingqu_protocol::views::{cut_to_bytes, decoding_rows};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Row groups that are decoded at a time, where they are small enough: one for each processor of a small machine.
const LANES: usize = 2;

/// Bytes of rows that are judged at a time: they fit the cache of a processor, and the few copies of them are little memory.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes that a file may decode to for each of its own, and those that it may in any case: dictionaries and runs make much
/// of little, and a file that is nothing else would keep a processor busy for days.
const DECODED_RATIO_MAX: u64 = 256;
const DECODED_FREE_BYTES: u64 = 1 << 30;

/// A file that was judged.
pub(crate) struct Described {
    pub(crate) part: Part,
    pub(crate) regions: Regions,
}

/// Where a file lies and what it is.
pub(crate) struct ProviderFile {
    /// Its place in its set, whose segments are all durable.
    pub place: FilePlace,
    /// Its hash.
    pub root: Digest,
    /// Rows of the version before it, for what is said of a bad one.
    pub first_row: u64,
}

/// Judges a file against its shape, row by row. Counts rows in `progress` as they are seen.
///
/// # Errors
/// [`LakeError::BadData`] says what of it does not fit, with the row where it is one; damaged at rest; the store failed.
pub(crate) async fn describe(
    lake: &Lake,
    cache: &ChunkCache,
    shape: &Arc<Shape>,
    file: ProviderFile,
    progress: &Arc<AtomicU64>,
) -> Result<Described, LakeError> {
    let chunks = Arc::new(FileChunks::open(SegmentStore::new(lake.clone()), cache.clone(), &file.place)?);
    let (input, entry) = (chunks.clone(), shape.entry().clone());
    let looked = tokio::task::spawn_blocking(move || {
        let fit = inspect(&Source::File(input.clone()), &entry);
        fit.map_err(|unfit| input.take_fault().unwrap_or_else(|| bad(unfit.to_string())))
    });
    let fit = Arc::new(looked.await??);
    let bytes = chunks_bytes(&file.place);
    let job = Arc::new(Job {
        chunks: chunks.clone(),
        shape: shape.clone(),
        fit: fit.clone(),
        listing: Listing::new(lake, &file.place, shape),
        decoded: AtomicU64::new(0),
        decoded_max: bytes.saturating_mul(DECODED_RATIO_MAX).saturating_add(DECODED_FREE_BYTES),
        progress: progress.clone(),
    });
    let groups = fit.metadata.metadata().num_row_groups();
    let lanes = if fit.held_bytes * LANES as u64 <= HELD_BYTES_MAX { LANES } else { 1 };
    let mut first_row = file.first_row;
    let mut place = 0;
    let mut running = JoinSet::new();
    let mut row_groups: Vec<Option<RowGroup>> = vec![None; groups];
    let mut sum = RowsSum::default();
    let mut regions = Regions::new();
    for (index, rows) in (0..groups).zip(group_rows(&fit)) {
        if running.len() >= lanes {
            take(running.join_next().await, &mut row_groups, &mut sum, &mut regions)?;
        }
        let job = job.clone();
        running.spawn_blocking(move || job.group(index, rows, first_row, place));
        first_row += rows;
        place += rows;
    }
    while let Some(done) = running.join_next().await {
        take(Some(done), &mut row_groups, &mut sum, &mut regions)?;
    }
    let row_groups: Option<Vec<RowGroup>> = row_groups.into_iter().collect();
    let row_groups = row_groups.ok_or_else(|| LakeError::columns("judging a file", "a row group was left out"))?;
    let keys = job.listing.finish().await?;
    let (offset, footer_bytes) = fit.footer;
    let part = Part {
        object: directory(file.place.transfer).to_string(),
        file: Some(file.place),
        bytes,
        digest: file.root,
        encryption: "none".to_owned(),
        key_id: None,
        // The mebibytes that it lies in are checked by their values, so it needs no digest of its own.
        footer: Slice { offset, bytes: footer_bytes, digest: [0; 32] },
        leaves: fit.leaves.iter().map(|leaf| Some(*leaf)).collect(),
        rows_sum: sum,
        row_groups,
        keys,
    };
    Ok(Described { part, regions })
}

type Judged = Result<(usize, RowGroup, RowsSum, Regions), LakeError>;

fn take(
    done: Option<Result<Judged, tokio::task::JoinError>>,
    row_groups: &mut [Option<RowGroup>],
    sum: &mut RowsSum,
    regions: &mut Regions,
) -> Result<(), LakeError> {
    let Some(done) = done else { return Ok(()) };
    let (index, group, rows, found) = match done {
        Ok(judged) => judged?,
        // A decoder that gives up over bytes that lie: theirs, not ours.
        Err(error) if error.is_panic() => return Err(bad("it cannot be decoded".to_owned())),
        Err(error) => return Err(error.into()),
    };
    if let Some(slot) = row_groups.get_mut(index) {
        *slot = Some(group);
    }
    sum.merge(&rows);
    for (code, rows) in found {
        regions.entry(code).or_default().merge(&rows);
    }
    Ok(())
}

/// What all row groups of a file are judged with.
struct Job {
    chunks: Arc<FileChunks>,
    shape: Arc<Shape>,
    fit: Arc<Fit>,
    listing: Listing,
    decoded: AtomicU64,
    decoded_max: u64,
    progress: Arc<AtomicU64>,
}

impl Job {
    /// Decodes a row group piece by piece, and sums up what is in it; its first row is row `place` of the file. Blocks.
    fn group(&self, index: usize, rows: u64, first_row: u64, place: u64) -> Judged {
        let cannot = |e: &dyn std::fmt::Display| {
            self.chunks.take_fault().unwrap_or_else(|| bad(format!("row group {index} cannot be decoded: {e}")))
        };
        let batch_rows = decoding_rows(self.fit.metadata.schema(), &self.fit.leaves);
        let source = Source::File(self.chunks.clone());
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(source, self.fit.metadata.clone())
            .with_row_groups(vec![index])
            .with_batch_size(batch_rows)
            .build()
            .map_err(|e| cannot(&e))?;
        let chosen = summarised(self.shape.columns.len(), self.shape.region, &self.shape.keys);
        let mut summaries: Option<Vec<ColumnSummary>> = None;
        let (mut sum, mut regions, mut seen) = (RowsSum::default(), Regions::new(), 0);
        for batch in reader {
            for piece in cut_to_bytes(&batch.map_err(|e| cannot(&e))?, PIECE_BYTES) {
                let first = first_row + seen;
                seen += piece.num_rows() as u64;
                let piece = canonical_batch(self.shape.entry(), &piece)
                    .map_err(|e| bad(format!("rows {} to {}: {e}", first + 1, first_row + seen)))?;
                let piece = self.shape.check(piece, first)?;
                let bytes = piece.get_array_memory_size() as u64;
                if self.decoded.fetch_add(bytes, Ordering::Relaxed) + bytes > self.decoded_max {
                    return Err(bad(format!("it decodes to more than {} bytes: send it as rows", self.decoded_max)));
                }
                self.listing.add(&piece, place + first - first_row)?;
                let placed = Placed::of(&piece, self.shape.region, first)?;
                let summed = self.shape.sum_up(&piece, &placed)?;
                sum.merge(&summed.stays);
                for (code, rows) in summed.regions {
                    regions.entry(code).or_default().merge(&rows);
                }
                let found = chosen.iter().map(|column| summary(&piece, *column)).collect::<Result<Vec<_>, _>>()?;
                summaries = Some(match summaries {
                    None => found,
                    Some(known) => known.into_iter().zip(found).map(|(a, b)| widened(a, b)).collect(),
                });
                self.progress.fetch_add(piece.num_rows() as u64, Ordering::Relaxed);
            }
        }
        if seen != rows {
            return Err(bad(format!("row group {index} has {seen} rows where its footer says {rows}")));
        }
        let summaries = summaries.unwrap_or_default();
        Ok((index, RowGroup { rows, chunks: Vec::new(), summaries, deleted: Deleted::default() }, sum, regions))
    }
}

/// The keys of a file's rows, listed as they come, in sections of bounded size: objects of the transfer's own.
struct Listing {
    lake: Lake,
    /// Their names but for a number.
    named: String,
    transfer: TransferId,
    columns: Vec<usize>,
    runtime: Handle,
    entries: Mutex<Vec<(u64, u64)>>,
    sections: Mutex<Vec<KeySection>>,
}

impl Listing {
    fn new(lake: &Lake, place: &FilePlace, shape: &Shape) -> Self {
        Self {
            lake: lake.clone(),
            named: format!("keys-{:05}", place.file),
            transfer: place.transfer,
            columns: shape.keys.clone(),
            runtime: Handle::current(),
            entries: Mutex::default(),
            sections: Mutex::default(),
        }
    }

    /// Adds rows of the file from row `place` on. Blocks.
    fn add(&self, rows: &RecordBatch, place: u64) -> Result<(), LakeError> {
        if self.columns.is_empty() {
            return Ok(());
        }
        let of_keys = rows.project(&self.columns).map_err(|e| LakeError::columns("listing keys", e))?;
        let hashes = keys::key_hashes(&of_keys)?;
        let full = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.extend(hashes.into_iter().zip(place..));
            (entries.len() >= keys::SECTION_ROWS_MAX).then(|| std::mem::take(&mut *entries))
        };
        full.map_or(Ok(()), |full| self.runtime.block_on(self.put(full)))
    }

    async fn put(&self, entries: Vec<(u64, u64)>) -> Result<(), LakeError> {
        let (object, bytes) = {
            // Its place is taken before it is put, so that no two have one name.
            let mut sections = self.sections.lock().unwrap_or_else(PoisonError::into_inner);
            let name = format!("{}-{:06}", self.named, sections.len());
            let object = writer::directory(self.transfer).join(name);
            let (bytes, section) = keys::encode(entries, object.to_string(), 0, self.columns.clone())?;
            sections.push(section);
            (object, bytes)
        };
        // What an attempt left that was cut lists other rows under this name.
        self.lake.remove(&object).await?;
        self.lake.put_new(&object, vec![bytes]).await.map(drop)
    }

    /// The sections, all of them durable.
    async fn finish(&self) -> Result<Vec<KeySection>, LakeError> {
        let rest = std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner));
        if !rest.is_empty() {
            self.put(rest).await?;
        }
        Ok(std::mem::take(&mut *self.sections.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn group_rows(fit: &Fit) -> Vec<u64> {
    fit.metadata.metadata().row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).collect()
}

fn chunks_bytes(place: &FilePlace) -> u64 {
    place.sizes.get(place.file as usize).copied().unwrap_or(0)
}

fn bad(what: String) -> LakeError {
    LakeError::BadData { what }
}
