//! Rows of one step between versions, read once and put in order by region, so that any number of subscribers get their
//! own without anything being read or decoded again. They are kept as they will be sent: one Arrow message for each run of a
//! region, rebuilt from visible values, with its digest and the sum of its rows; of a small step in memory, of a large one
//! beside the lake, where a slice is exactly the bytes of its own rows. A message that goes as it lies is kept as the
//! compressed frame that it travels in where that is smaller: once, and not for each receiver. As many rows as memory allows
//! are gathered before they are put in order: of thousands of regions each has few rows in what is read at a time, and a
//! message of few rows is mostly its head. What lies in memory can be moved beside the lake at any time
//! ([`Held::move_out`]): who reads a slice of it does not notice.

mod gathered;
mod held;
mod slice;
mod tap;

pub use held::Held;
pub use slice::{Body, Cursor, Frame, Piece, Slice, Takes};
pub use tap::{Tap, Tapped, tap};

use super::error::LakeError;
use super::regions::Placed;
use super::scrub::scrub_batch;
use super::store::Lake;
use arrow::array::{Array as _, RecordBatch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use gathered::{Gathered, Merged};
use held::Block;
use lingqu_protocol::backflow::RegionSlice;
use lingqu_protocol::frame::lz4;
use lingqu_protocol::ipc::{Encoder, IpcError};
use lingqu_protocol::region::RegionCode;
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use object_store::path::Path;
use std::sync::Arc;
use tokio::task::JoinHandle;
use twox_hash::XxHash3_64;

/// Prefix of what is kept beside the lake. It can be made again from the lake, so a start removes all of it.
pub const SPLITS: &str = "splits";

/// Bytes of a step that stay in memory, and that are gathered before they are put in order; what is more goes beside the
/// lake, so much to an object: one sync for each.
pub const MEMORY_BYTES: usize = 12 << 20;

/// Bytes of a run, about, and of unequal rows at most twice as many, a single row apart: large enough that a frame costs
/// little beside its bytes. Where so many stand that less may wait for each, it is sent in parts.
const RUN_BYTES_MAX: usize = 128 << 10;

/// Rows of a run: what a frame on the wire holds.
const RUN_ROWS_MAX: usize = 1 << 16;

/// Bytes of a message from which on it goes as it is beside others, and is kept compressed: of a smaller one a good part is its
/// head, and several together are one message of its size.
const AS_IT_IS_BYTES_MIN: usize = 8 << 10;

/// Rows that lie one after the other and have one region: one message.
#[derive(Clone, Copy, Debug)]
struct Run {
    code: RegionCode,
    /// The last batch of those that were read of which it has rows.
    batch: u32,
    block: u32,
    /// Where it lies in its block: its message, or the compressed frame that holds it.
    at: u32,
    kept_bytes: u32,
    /// XXH3 of what lies there: it finds damage.
    kept_hash: u64,
    /// Of its message.
    bytes: u32,
    /// BLAKE3 of its message.
    digest: [u8; 32],
    /// Count and sum of its rows, over all columns.
    sum: [u8; RowsSum::BYTES],
}

impl Run {
    fn sum(&self) -> RowsSum {
        RowsSum::from_bytes(&self.sum)
    }

    /// Whether a compressed frame is kept of it: it is shorter than the message.
    const fn is_lz4(&self) -> bool {
        self.kept_bytes < self.bytes
    }

    fn is_kept_as(&self, kept: &[u8]) -> bool {
        XxHash3_64::oneshot(kept) == self.kept_hash
    }
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
    held: Arc<Held>,
    schema: SchemaRef,
    region: usize,
    runs: Vec<Run>,
    blocks: Vec<Block>,
    rows: u64,
    batches: u32,
    gathered: Gathered,
    memory_bytes: usize,
    memory_bytes_max: usize,
    disk_bytes: u64,
    /// The block that is written beside the lake while the next rows are gathered.
    writing: Option<JoinHandle<Result<Path, LakeError>>>,
    tap: Option<Tap>,
}

impl Splitter {
    /// For rows of this schema, whose column `region` holds their regions. What does not stay in memory goes below `folder`.
    ///
    /// # Errors
    /// A column of no item's type.
    pub fn new(lake: Lake, folder: Path, schema: SchemaRef, region: usize) -> Result<Self, LakeError> {
        let head = Encoder::new(schema.clone()).and_then(|mut encoder| encoder.schema()).map_err(failed)?;
        Ok(Self {
            held: Arc::new(Held::new(lake, folder, head)),
            schema,
            region,
            runs: Vec::new(),
            blocks: Vec::new(),
            rows: 0,
            batches: 0,
            gathered: Gathered::default(),
            memory_bytes: 0,
            memory_bytes_max: MEMORY_BYTES,
            disk_bytes: 0,
            writing: None,
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
        if let Some(tap) = &self.tap {
            if !tap.offer(self.batches, batch, &placed)? {
                // What was handed on is whole runs.
                self.tap = None;
                self.close().await?;
            }
            // Whoever takes it may be in the same task.
            tokio::task::yield_now().await;
        }
        self.rows += self.gathered.add(batch.clone(), &placed);
        self.batches += 1;
        if self.gathered.bytes() > self.memory_bytes_max {
            self.close().await?;
        }
        Ok(())
    }

    /// Puts in order what was gathered, makes its messages, and keeps them: in memory where all that there is fits there, else
    /// beside the lake.
    async fn close(&mut self) -> Result<(), LakeError> {
        // One block is made while nothing is written, and one written while the next is gathered: memory holds no more.
        self.written().await?;
        let gathered = std::mem::take(&mut self.gathered);
        let (schema, block) = (self.schema.clone(), self.blocks.len() as u32);
        let batch = self.batches.saturating_sub(1);
        let making = tokio::task::spawn_blocking(move || messages(gathered, schema, batch, block));
        let (messages, runs) = making.await.map_err(failed)??;
        if runs.is_empty() {
            return Ok(());
        }
        self.runs.extend(runs);
        let bytes = messages.len();
        if self.disk_bytes == 0 && self.memory_bytes + bytes <= self.memory_bytes_max {
            self.memory_bytes += bytes;
            self.blocks.push(Block::Memory(messages));
            return Ok(());
        }
        self.disk_bytes += bytes as u64;
        let held = Arc::clone(&self.held);
        self.writing = Some(tokio::spawn(async move { held.put(block as usize, messages).await }));
        // It is there once it is written, which is waited for before another is made.
        self.blocks.push(Block::Gone);
        Ok(())
    }

    /// Waits for the block that is being written.
    async fn written(&mut self) -> Result<(), LakeError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let object = writing.await.map_err(failed)??;
        if let Some(last) = self.blocks.last_mut() {
            *last = Block::Disk(object);
        }
        Ok(())
    }

    /// What came of it.
    ///
    /// # Errors
    /// No room beside the lake.
    pub async fn finish(mut self) -> Result<Split, LakeError> {
        self.close().await?;
        self.written().await?;
        // Stable: those of one region stay in the order in which they were read.
        self.runs.sort_by_key(|run| run.code);
        self.runs.shrink_to_fit();
        self.held.fill(self.blocks, self.memory_bytes, self.disk_bytes);
        Ok(Split { held: self.held, runs: self.runs, rows: self.rows })
    }
}

/// What is kept of what was gathered, message after message, and the runs that they are.
fn messages(gathered: Gathered, schema: SchemaRef, batch: u32, block: u32) -> Result<(Bytes, Vec<Run>), LakeError> {
    let mut digest = RowsDigest::of_schema(&schema).ok_or_else(|| failed("columns of no item"))?;
    let mut encoder = Encoder::new(schema).map_err(failed)?;
    encoder.schema().map_err(failed)?;
    let bytes = gathered.bytes();
    let Some(Merged { rows, regions }) = gathered.merged()? else { return Ok((Bytes::new(), Vec::new())) };
    let cut = cut(&rows, regions.into_iter());
    let (mut kept, mut runs) = (Vec::with_capacity(bytes), Vec::with_capacity(cut.len()));
    let mut message = Vec::new();
    let mut left: Vec<(RegionCode, u32, u32)> = cut.into_iter().rev().collect();
    while let Some((code, start, count)) = left.pop() {
        let rows = scrub_batch(&rows.slice(start as usize, count as usize))?;
        let encoded = match encoder.batch(&rows) {
            Ok((pieces, bytes)) if bytes <= 2 * RUN_BYTES_MAX || count == 1 => Some((pieces, bytes)),
            Ok(_) => None,
            Err(IpcError::TooLarge { .. }) if count > 1 => None,
            Err(error) => return Err(failed(error)),
        };
        let Some((pieces, bytes)) = encoded else {
            // Its rows are larger than most of their region.
            let half = count / 2;
            left.extend([(code, start + half, count - half), (code, start, half)]);
            continue;
        };
        digest.update(&rows).map_err(failed)?;
        message.clear();
        pieces.iter().for_each(|piece| message.extend_from_slice(piece));
        let at = kept.len();
        if bytes < AS_IT_IS_BYTES_MIN || !lz4::append(&message, &mut kept) {
            kept.extend_from_slice(&message);
        }
        let lies = kept.get(at..).unwrap_or_default();
        runs.push(Run {
            code,
            batch,
            block,
            at: at as u32,
            kept_bytes: lies.len() as u32,
            kept_hash: XxHash3_64::oneshot(lies),
            bytes: bytes as u32,
            digest: *blake3::hash(&message).as_bytes(),
            sum: digest.take_sum().to_bytes(),
        });
    }
    kept.shrink_to_fit();
    Ok((kept.into(), runs))
}

fn failed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LakeError {
    LakeError::columns("splitting rows", why)
}

/// The runs of rows that lie by these regions, of which each has so many: region, first row, rows.
fn cut(rows: &RecordBatch, regions: impl Iterator<Item = (RegionCode, u32)>) -> Vec<(RegionCode, u32, u32)> {
    let (mut runs, mut start) = (Vec::new(), 0u32);
    for (code, count) in regions {
        let end = start + count;
        let each = row_bytes(&rows.slice(start as usize, count as usize));
        let most = (RUN_BYTES_MAX / each.max(1)).clamp(1, RUN_ROWS_MAX) as u32;
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
