//! Rows of one step between versions, read once and put in order by region, so that any number of subscribers get their
//! own without anything being read or decoded again. A small step lies in memory, a large one beside the lake as Arrow
//! messages, one for each run of a region; from there a slice is exactly the bytes of its own rows.

use super::error::LakeError;
use super::regions::Placed;
use super::scrub::scrub_batch;
use super::store::Lake;
use arrow::array::RecordBatch;
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use lingqu_protocol::backflow::RegionSlice;
use lingqu_protocol::ipc::{Decoder, Encoder};
use lingqu_protocol::region::RegionCode;
use object_store::path::Path;
use std::ops::Range;

/// Prefix of what is kept beside the lake. It can be made again from the lake, so a start removes all of it.
pub const SPLITS: &str = "splits";

/// Bytes of a step that stay in memory; what is more goes beside the lake.
pub const MEMORY_BYTES: usize = 12 << 20;

/// Bytes of one object beside the lake: one sync for so much.
const OBJECT_BYTES: usize = 8 << 20;

/// Rows that lie one after the other and have one region.
#[derive(Clone, Copy, Debug)]
struct Run {
    code: RegionCode,
    block: u32,
    /// The first row in its block.
    start: u32,
    rows: u32,
    /// Where its message lies in the block's object; nothing for a block in memory.
    at: (u32, u32),
}

/// Rows of some regions, in their order.
enum Block {
    Memory(RecordBatch),
    /// An object of messages; the digest of each run's message is beside the run.
    Disk(Path),
}

/// Rows by region.
pub struct Split {
    lake: Lake,
    folder: Path,
    schema: SchemaRef,
    /// The message of the schema, which whoever decodes needs first.
    head: Bytes,
    blocks: Vec<Block>,
    /// In the order of their regions.
    runs: Vec<Run>,
    digests: Vec<[u8; 32]>,
    rows: u64,
    memory_bytes: usize,
    disk_bytes: u64,
}

/// What one subscriber's slice is made of: runs by their places.
#[derive(Clone, Debug, Default)]
pub struct Picked {
    runs: Vec<usize>,
    /// Rows in all.
    pub rows: u64,
}

/// Puts rows in order as they are read.
pub struct Splitter {
    split: Split,
    region: usize,
    encoder: Encoder,
    /// Messages that wait for an object, and the runs that they are of.
    pending: Vec<Bytes>,
    pending_bytes: usize,
}

impl Splitter {
    /// For rows of this schema, whose column `region` holds their regions. What does not stay in memory goes below `folder`.
    ///
    /// # Errors
    /// A column of no item's type.
    pub fn new(lake: Lake, folder: Path, schema: SchemaRef, region: usize) -> Result<Self, LakeError> {
        let mut encoder = Encoder::new(schema.clone()).map_err(|e| LakeError::columns("splitting rows", e))?;
        let head = encoder.schema().map_err(|e| LakeError::columns("splitting rows", e))?;
        let split = Split {
            lake,
            folder,
            schema,
            head,
            blocks: Vec::new(),
            runs: Vec::new(),
            digests: Vec::new(),
            rows: 0,
            memory_bytes: 0,
            disk_bytes: 0,
        };
        Ok(Self { split, region, encoder, pending: Vec::new(), pending_bytes: 0 })
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
        let bytes = sorted.get_array_memory_size();
        let in_memory = self.split.memory_bytes + bytes <= MEMORY_BYTES && self.split.disk_bytes == 0;
        let block = self.split.blocks.len() as u32;
        let mut start = 0u32;
        for (code, rows) in placed.runs() {
            let (from, length) = (start as usize, rows as usize);
            start += rows;
            let Ok(code) = code.parse::<RegionCode>() else { continue };
            self.split.rows += u64::from(rows);
            if in_memory {
                self.split.runs.push(Run { code, block, start: from as u32, rows, at: (0, 0) });
                self.split.digests.push([0; 32]);
                continue;
            }
            self.spill(&sorted.slice(from, length), code).await?;
        }
        if in_memory {
            self.split.memory_bytes += bytes;
            self.split.blocks.push(Block::Memory(sorted));
        }
        Ok(())
    }

    async fn spill(&mut self, rows: &RecordBatch, code: RegionCode) -> Result<(), LakeError> {
        let rows = scrub_batch(rows)?;
        let (pieces, bytes) = self.encoder.batch(&rows).map_err(|e| LakeError::columns("splitting rows", e))?;
        if self.pending_bytes > 0 && self.pending_bytes + bytes > OBJECT_BYTES {
            self.flush().await?;
        }
        let mut hasher = blake3::Hasher::new();
        for piece in &pieces {
            hasher.update(piece);
        }
        let block = self.split.blocks.len() as u32;
        let at = (self.pending_bytes as u32, bytes as u32);
        self.split.runs.push(Run { code, block, start: 0, rows: rows.num_rows() as u32, at });
        self.split.digests.push(*hasher.finalize().as_bytes());
        self.pending.extend(pieces);
        self.pending_bytes += bytes;
        self.split.disk_bytes += bytes as u64;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), LakeError> {
        let object = self.split.folder.clone().join(self.split.blocks.len().to_string());
        self.split.lake.put_new(&object, std::mem::take(&mut self.pending)).await?;
        self.split.blocks.push(Block::Disk(object));
        self.pending_bytes = 0;
        Ok(())
    }

    /// What came of it.
    ///
    /// # Errors
    /// No room beside the lake.
    pub async fn finish(mut self) -> Result<Split, LakeError> {
        if self.pending_bytes > 0 {
            self.flush().await?;
        }
        let mut order: Vec<usize> = (0..self.split.runs.len()).collect();
        // Stable: those of one region stay in the order in which they were read.
        order.sort_by_key(|at| self.split.runs.get(*at).map(|run| run.code));
        self.split.runs = order.iter().filter_map(|at| self.split.runs.get(*at).copied()).collect();
        self.split.digests = order.iter().filter_map(|at| self.split.digests.get(*at).copied()).collect();
        Ok(self.split)
    }
}

impl Split {
    /// Columns of its rows.
    pub const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows that have a region.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of memory that it holds.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes + self.runs.len() * (size_of::<Run>() + 32)
    }

    /// Bytes beside the lake.
    pub const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// The runs of a slice.
    pub fn pick(&self, slice: &RegionSlice) -> Picked {
        let mut picked = Picked::default();
        for prefix in slice.prefixes() {
            // A region stands right before what is inside it.
            let first = self.runs.partition_point(|run| run.code < prefix);
            let inside = self.runs.iter().enumerate().skip(first);
            for (at, run) in inside.take_while(|(_, run)| run.code.as_str().starts_with(prefix.as_str())) {
                if slice.is_plain() || slice.contains(run.code) {
                    picked.runs.push(at);
                    picked.rows += u64::from(run.rows);
                }
            }
        }
        // Prefixes may lie within each other.
        picked.runs.sort_unstable();
        let before = picked.runs.len();
        picked.runs.dedup();
        if picked.runs.len() < before {
            picked.rows = picked.runs.iter().filter_map(|at| self.runs.get(*at)).map(|run| u64::from(run.rows)).sum();
        }
        picked
    }

    /// Next rows of a slice, of about `bytes_aim` at most, with these columns; `next` is where it is. `None` at the end.
    /// Nothing else is in them.
    ///
    /// # Errors
    /// Damaged or gone beside the lake: it is made again by whoever asks next.
    pub async fn next(
        &self,
        picked: &Picked,
        next: &mut Cursor,
        columns: &[usize],
        bytes_aim: usize,
    ) -> Result<Option<RecordBatch>, LakeError> {
        let mut pieces: Vec<RecordBatch> = Vec::new();
        let (mut bytes, mut rows) = (0usize, 0usize);
        while let Some(run) = picked.runs.get(next.run).and_then(|at| Some((*at, self.runs.get(*at)?))) {
            let (at, run) = run;
            let left = (run.rows - next.row) as usize;
            let batch = match self.blocks.get(run.block as usize) {
                Some(Block::Memory(batch)) => batch.slice((run.start + next.row) as usize, left),
                Some(Block::Disk(object)) => self.load(object, at, run, next).await?.slice(next.row as usize, left),
                None => return Err(LakeError::columns("reading a split", "a block that is none")),
            };
            let batch = batch.project(columns).map_err(|e| LakeError::columns("reading a split", e))?;
            let each = row_bytes(&batch);
            let room = bytes_aim.saturating_sub(bytes) / each.max(1);
            let most = lingqu_protocol::ipc::BATCH_ROWS_MAX - rows;
            let taken = left.min(room.max(usize::from(rows == 0))).min(most);
            if taken == 0 {
                break;
            }
            bytes += taken * each;
            rows += taken;
            pieces.push(batch.slice(0, taken));
            next.row += taken as u32;
            if next.row == run.rows {
                (next.run, next.row) = (next.run + 1, 0);
            } else {
                break;
            }
        }
        let Some(first) = pieces.first() else { return Ok(None) };
        let joined = match pieces.len() {
            1 => first.clone(),
            _ => arrow::compute::concat_batches(&first.schema(), &pieces)
                .map_err(|e| LakeError::columns("reading a split", e))?,
        };
        scrub_batch(&joined).map(Some)
    }

    async fn load(&self, object: &Path, at: usize, run: &Run, next: &mut Cursor) -> Result<RecordBatch, LakeError> {
        if let Some((of, batch)) = &next.open
            && *of == at
        {
            return Ok(batch.clone());
        }
        let range: Range<u64> = u64::from(run.at.0)..u64::from(run.at.0) + u64::from(run.at.1);
        let body = self.lake.range(object, range).await?;
        if self.digests.get(at).is_none_or(|digest| blake3::hash(&body).as_bytes() != digest) {
            return Err(LakeError::columns("reading a split", "its bytes are not those that were written"));
        }
        let mut decoder = Decoder::default();
        let decoded = decoder.decode(self.head.clone()).and_then(|_| decoder.decode(body));
        let batch = decoded.map_err(|e| LakeError::columns("reading a split", e))?;
        let batch = batch.ok_or_else(|| LakeError::columns("reading a split", "no rows in a run"))?;
        next.open = Some((at, batch.clone()));
        Ok(batch)
    }
}

/// Where a read of a slice is.
#[derive(Default)]
pub struct Cursor {
    run: usize,
    row: u32,
    /// The run that was read last from beside the lake.
    open: Option<(usize, RecordBatch)>,
}

impl Drop for Split {
    fn drop(&mut self) {
        if self.disk_bytes == 0 {
            return;
        }
        let (lake, folder) = (self.lake.clone(), self.folder.clone());
        // Without a runtime the process ends, and the next start removes it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = lake.remove_all(&folder).await {
                    tracing::warn!(%error, "a split could not be removed; the next start does");
                }
            });
        }
    }
}

/// Removes what an earlier process left beside the lake.
///
/// # Errors
/// The store failed.
pub async fn clear(lake: &Lake) -> Result<(), LakeError> {
    lake.remove_all(&Path::from(SPLITS)).await
}

/// Bytes of one row of these, as they will lie on the wire, about.
fn row_bytes(batch: &RecordBatch) -> usize {
    let rows = batch.num_rows().max(1);
    let sizes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0));
    sizes.sum::<usize>() / rows
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
