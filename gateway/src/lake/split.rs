//! Rows of one step between versions, read once and put in order by region, so that any number of subscribers get their
//! own without anything being read or decoded again. A small step lies in memory, a large one beside the lake as Arrow
//! messages, one for each run of a region; from there a slice is exactly the bytes of its own rows. As many rows as memory
//! allows are gathered before they are put in order: of thousands of regions each has few rows in what is read at a time,
//! and a message of few rows is mostly its head. What lies in memory can be moved beside the lake at any time
//! ([`Held::move_out`]): who reads a slice of it does not notice.

mod gathered;
mod held;
mod slice;
mod tap;

pub use held::Held;
pub use slice::{Cursor, Slice};
pub use tap::{Tap, Tapped, tap};

use super::error::LakeError;
use super::regions::Placed;
use super::scrub::scrub_batch;
use super::store::Lake;
use arrow::array::{Array as _, RecordBatch};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use gathered::{Gathered, Merged};
use held::Block;
use lingqu_protocol::backflow::RegionSlice;
use lingqu_protocol::ipc::Encoder;
use lingqu_protocol::region::RegionCode;
use object_store::path::Path;
use std::sync::Arc;

/// Prefix of what is kept beside the lake. It can be made again from the lake, so a start removes all of it.
pub const SPLITS: &str = "splits";

/// Bytes of a step that stay in memory, and that are gathered before they are put in order; what is more goes beside the
/// lake.
pub const MEMORY_BYTES: usize = 12 << 20;

/// Bytes of one object beside the lake: one sync for so much.
const OBJECT_BYTES: usize = 8 << 20;

/// Bytes of a run, about: it is read and decoded at once, by each of many receivers, and kept by none of them.
const RUN_BYTES_MAX: usize = 64 << 10;

/// Rows of a run: what a frame on the wire holds.
const RUN_ROWS_MAX: usize = 1 << 16;

/// Rows that lie one after the other and have one region.
#[derive(Clone, Copy, Debug)]
struct Run {
    code: RegionCode,
    /// The last batch of those that were read of which it has rows.
    batch: u32,
    block: u32,
    /// The first row in its block.
    start: u32,
    rows: u32,
    /// Where its message lies, and what it is; none for rows that are in memory when they are split.
    message: Option<Message>,
}

/// Where a run's message lies in its block's object.
#[derive(Clone, Copy, Debug)]
struct Message {
    at: u32,
    bytes: u32,
    digest: [u8; 32],
}

/// Rows by region.
pub struct Split {
    held: Arc<Held>,
    /// In the order of their regions.
    runs: Vec<Run>,
    rows: u64,
}

/// Puts rows in order as they are read.
pub struct Splitter {
    held: Held,
    region: usize,
    encoder: Encoder,
    runs: Vec<Run>,
    blocks: Vec<Block>,
    rows: u64,
    batches: u32,
    gathered: Gathered,
    memory_bytes: usize,
    memory_bytes_max: usize,
    disk_bytes: u64,
    /// Messages that wait for an object.
    pending: Vec<Bytes>,
    pending_bytes: usize,
    tap: Option<Tap>,
}

impl Splitter {
    /// For rows of this schema, whose column `region` holds their regions. What does not stay in memory goes below `folder`.
    ///
    /// # Errors
    /// A column of no item's type.
    pub fn new(lake: Lake, folder: Path, schema: SchemaRef, region: usize) -> Result<Self, LakeError> {
        let mut encoder = Encoder::new(schema.clone()).map_err(|e| LakeError::columns("splitting rows", e))?;
        let head = encoder.schema().map_err(|e| LakeError::columns("splitting rows", e))?;
        Ok(Self {
            held: Held::new(lake, folder, schema, head, region),
            region,
            encoder,
            runs: Vec::new(),
            blocks: Vec::new(),
            rows: 0,
            batches: 0,
            gathered: Gathered::default(),
            memory_bytes: 0,
            memory_bytes_max: MEMORY_BYTES,
            disk_bytes: 0,
            pending: Vec::new(),
            pending_bytes: 0,
            tap: None,
        })
    }

    /// The same, which hands one subscriber its own rows as they are read.
    #[must_use]
    pub fn tapped(self, tap: Option<Tap>) -> Self {
        Self { tap, ..self }
    }

    /// Takes up rows. Those without a region are nobody's.
    ///
    /// # Errors
    /// A region that is none, which the lake does not hold; no room beside it.
    pub async fn add(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        let placed = Placed::of(batch, Some(self.region), 0)?;
        let sorted = match placed.order() {
            Some(order) => take_record_batch(batch, &order).map_err(|e| LakeError::columns("splitting rows", e))?,
            None => batch.clone(),
        };
        if let Some(tap) = &self.tap
            && !tap.offer(self.batches, &sorted, &placed)?
        {
            // What was handed on is whole runs.
            self.tap = None;
            self.close().await?;
        }
        self.rows += self.gathered.add(sorted, &placed);
        self.batches += 1;
        if self.gathered.bytes() > self.memory_bytes_max {
            self.close().await?;
        }
        Ok(())
    }

    /// Puts in order what was gathered, in memory where it is little and all that there is.
    async fn close(&mut self) -> Result<(), LakeError> {
        let bytes = self.gathered.bytes();
        let Some(Merged { rows, regions }) = std::mem::take(&mut self.gathered).merged()? else { return Ok(()) };
        let in_memory = self.disk_bytes == 0 && self.memory_bytes + bytes <= self.memory_bytes_max;
        let (batch, block) = (self.batches.saturating_sub(1), self.blocks.len() as u32);
        let cut = cut(&rows, regions.into_iter());
        if in_memory {
            self.memory_bytes += rows.get_array_memory_size() + cut.len() * size_of::<Run>();
            self.runs.extend(cut.into_iter().map(|(code, start, rows)| Run {
                code,
                batch,
                block,
                start,
                rows,
                message: None,
            }));
            self.blocks.push(Block::Memory(rows));
            return Ok(());
        }
        for (code, start, count) in cut {
            let run = Run { code, batch, block, start, rows: count, message: None };
            self.spill(&rows.slice(start as usize, count as usize), run).await?;
        }
        Ok(())
    }

    async fn spill(&mut self, rows: &RecordBatch, run: Run) -> Result<(), LakeError> {
        let (pieces, bytes, digest) = message(&mut self.encoder, rows)?;
        if self.pending_bytes > 0 && self.pending_bytes + bytes > OBJECT_BYTES {
            self.flush().await?;
        }
        let message = Message { at: self.pending_bytes as u32, bytes: bytes as u32, digest };
        self.runs.push(Run { block: self.blocks.len() as u32, message: Some(message), ..run });
        self.pending.extend(pieces);
        self.pending_bytes += bytes;
        self.disk_bytes += bytes as u64;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), LakeError> {
        let object = self.held.object(self.blocks.len());
        self.held.is_beside();
        self.held.lake().put_new(&object, std::mem::take(&mut self.pending)).await?;
        self.blocks.push(Block::Disk(object));
        self.pending_bytes = 0;
        Ok(())
    }

    /// What came of it.
    ///
    /// # Errors
    /// No room beside the lake.
    pub async fn finish(mut self) -> Result<Split, LakeError> {
        self.close().await?;
        if self.pending_bytes > 0 {
            self.flush().await?;
        }
        // Stable: those of one region stay in the order in which they were read.
        self.runs.sort_by_key(|run| run.code);
        self.held.fill(self.blocks, self.memory_bytes, self.disk_bytes);
        Ok(Split { held: Arc::new(self.held), runs: self.runs, rows: self.rows })
    }
}

/// The runs of rows that lie by these regions, of which each has so many: region, first row, rows.
fn cut(rows: &RecordBatch, regions: impl Iterator<Item = (RegionCode, u32)>) -> Vec<(RegionCode, u32, u32)> {
    let most = (RUN_BYTES_MAX / row_bytes(rows).max(1)).clamp(1, RUN_ROWS_MAX) as u32;
    let (mut runs, mut start) = (Vec::new(), 0u32);
    for (code, count) in regions {
        let end = start + count;
        while start < end {
            let rows = most.min(end - start);
            runs.push((code, start, rows));
            start += rows;
        }
    }
    runs
}

/// Bytes of one row of these, as they will lie on the wire, about.
fn row_bytes(batch: &RecordBatch) -> usize {
    let rows = batch.num_rows().max(1);
    let sizes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0));
    sizes.sum::<usize>() / rows
}

/// A run's message, its length and its digest.
fn message(encoder: &mut Encoder, rows: &RecordBatch) -> Result<(Vec<Bytes>, usize, [u8; 32]), LakeError> {
    let rows = scrub_batch(rows)?;
    let (pieces, bytes) = encoder.batch(&rows).map_err(|e| LakeError::columns("splitting rows", e))?;
    let mut hasher = blake3::Hasher::new();
    for piece in &pieces {
        hasher.update(piece);
    }
    Ok((pieces, bytes, *hasher.finalize().as_bytes()))
}

impl Split {
    /// What holds its rows.
    pub const fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Rows that have a region.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of memory that it holds.
    pub fn memory_bytes(&self) -> usize {
        self.held.memory_bytes() + self.runs.len() * size_of::<Run>()
    }

    /// Bytes beside the lake.
    pub fn disk_bytes(&self) -> u64 {
        self.held.disk_bytes()
    }

    /// One subscriber's slice. It holds the rows, and of what tells them apart no more than its own part.
    pub fn slice(&self, of: &RegionSlice) -> Slice {
        let mut picked = Vec::new();
        for prefix in of.prefixes() {
            // A region stands right before what is inside it.
            let first = self.runs.partition_point(|run| run.code < prefix);
            let inside = self.runs.iter().enumerate().skip(first);
            for (at, run) in inside.take_while(|(_, run)| run.code.as_str().starts_with(prefix.as_str())) {
                if of.is_plain() || of.contains(run.code) {
                    picked.push(at);
                }
            }
        }
        // Prefixes may lie within each other.
        picked.sort_unstable();
        picked.dedup();
        Slice::new(Arc::clone(&self.held), picked.iter().filter_map(|at| self.runs.get(*at)).copied().collect())
    }
}

/// Removes what an earlier process left beside the lake.
///
/// # Errors
/// The store failed.
pub async fn clear(lake: &Lake) -> Result<(), LakeError> {
    lake.remove_all(&Path::from(SPLITS)).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
